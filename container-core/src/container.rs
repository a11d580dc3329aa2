//! A container: one process tree, from its creation to its exit status.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use oci_spec::runtime::{Mount, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, CgroupPath};
use crate::launcher::protocol::{self, Event, Job};
use crate::plan::step::SlotKind;
use crate::plan::{CgroupEntry, Plan, PlanOptions};
use crate::state::{self, ExitRecord, InitRecord, ProcessId};
use crate::{Error, ErrorKind, Launcher, Result, Signal, sys};

/// Where a standard stream of the container comes from or goes to.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe, whose other end the [`Container`] gives out.
    Piped,
    /// The same stream of this program.
    Inherit,
    /// An open file.
    Fd(OwnedFd),
}

/// How a container is created.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The directory that relative paths of the spec are below.
    pub bundle: PathBuf,
    /// The mounts that make up the root file system, as [`PlanOptions::root_mounts`].
    pub root_mounts: Vec<Mount>,
    /// The user by name or number, as [`PlanOptions::user`].
    pub user: Option<String>,
    /// Standard input, output and error.
    pub stdio: [Stdio; 3],
    /// Whether the container dies with this program, or when its [`Container`] is dropped.
    pub attached: bool,
    /// Whether the program runs as soon as everything is set up, without [`Container::start`].
    pub start_at_once: bool,
    /// A directory, preferably on a tmpfs, in which the container is recorded while it lives, so that
    /// other processes can [open](Container::open) it. It must exist.
    pub state: Option<PathBuf>,
    /// The file that tells how the container ended; durable.
    pub exit_record: Option<PathBuf>,
}

impl Default for CreateOptions {
    /// No streams, attached, waiting for the start, recorded nowhere.
    fn default() -> Self {
        Self {
            bundle: PathBuf::from("/"),
            root_mounts: Vec::new(),
            user: None,
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            attached: true,
            start_at_once: false,
            state: None,
            exit_record: None,
        }
    }
}

/// How the first process of a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    pub(crate) finished_at: SystemTime,
}

impl ExitStatus {
    /// Reads the record that [`CreateOptions::exit_record`] names; `None` if there is none yet.
    ///
    /// # Errors
    /// `Os` if the file cannot be read or is no such record.
    pub fn read(exit_record: &Path) -> Result<Option<Self>> {
        let record: Option<ExitRecord> = state::read(exit_record)
            .map_err(|error| Error::os(format!("read {exit_record:?}"), error))?;
        Ok(record.map(|record| record.status()))
    }

    /// Whether the process ended by itself with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The exit code as shells and Docker count: 128 and the number for a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    }

    /// The number of the signal that ended the process, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Whether the kernel killed a process of the container because its memory limit was reached.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.oom_killed
    }

    /// When the process was found to have ended.
    #[must_use]
    pub fn finished_at(&self) -> SystemTime {
        self.finished_at
    }
}

/// `exit code 3`, `signal SIGKILL` …
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self
            .signal
            .and_then(|number| Signal::from_number(number).ok())
        {
            Some(signal) => write!(f, "{signal}")?,
            None => write!(f, "exit code {}", self.code())?,
        }
        if self.oom_killed {
            f.write_str(" (out of memory)")?;
        }
        Ok(())
    }
}

/// A container that was created by this program, or [opened](Container::open).
///
/// Every method may be called from any thread. As a file descriptor ([`AsFd`]) a container becomes
/// readable when its state changes, and stays so once it has ended: the handle for a reactor, to be
/// followed by [`Container::try_wait`].
///
/// Dropping the handle of an attached container kills it; a detached one lives on.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    /// The first process; `None` if it had ended when the container was opened.
    pidfd: Option<OwnedFd>,
    network: Option<OwnedFd>,
    streams: [Option<OwnedFd>; 3],
    link: Link,
}

/// How a handle hears of its container.
#[derive(Debug)]
enum Link {
    /// From the monitor, as its creator.
    Control {
        control: OwnedFd,
        start: Option<StartGate>,
        plan: Box<Plan>,
        progress: Mutex<Progress>,
    },
    /// From the records, as anybody else.
    Records {
        monitor: OwnedFd,
        state: PathBuf,
        exit_record: Option<PathBuf>,
    },
}

/// A pipe at which a created container waits for a byte.
#[derive(Debug)]
struct StartGate {
    writer: OwnedFd,
    /// As long as it is open here, writing raises no SIGPIPE.
    reader: OwnedFd,
}

#[derive(Debug, Default)]
struct Progress {
    created: bool,
    /// The word to start was given through this handle.
    started: bool,
    running: bool,
    /// How it ended, or why it could not be started.
    end: Option<std::result::Result<ExitStatus, Problem>>,
}

/// Why there is no exit status; errors cannot be cloned, so what they are made of is kept.
#[derive(Clone, Debug)]
enum Problem {
    Step { step: u16, call: u8, errno: i32 },
    Monitor { doing: String, errno: i32 },
    MonitorLost,
}

impl Launcher {
    /// Creates a container: its process exists when this returns, and its set-up goes on beside the
    /// caller, who can meanwhile [equip its network](Container::network_namespace).
    ///
    /// The cgroup that `linux.cgroupsPath` of the spec names is made here and removed by the monitor
    /// when the container has ended.
    ///
    /// # Errors
    /// `InvalidInput` and `Unsupported` for what the spec asks for, `Os` for what fails before the
    /// process exists. What fails in it comes from [`Container::wait_created`] or
    /// [`Container::start`]. After an error nothing is left behind.
    ///
    /// # Privileges
    /// Those of the namespaces and limits that the spec asks for: root, or a user namespace.
    pub fn create(&self, spec: &Spec, options: CreateOptions) -> Result<Container> {
        let cgroup = create_cgroup(spec)?;
        self.create_in(spec, options, cgroup.as_ref())
            .map_err(|error| match cgroup.as_ref().map(Cgroup::remove) {
                Some(Err(cleanup)) => error.with_cleanup([cleanup]),
                _ => error,
            })
    }

    fn create_in(
        &self,
        spec: &Spec,
        options: CreateOptions,
        cgroup: Option<&Cgroup>,
    ) -> Result<Container> {
        let join = cgroup.map(Cgroup::join).transpose()?.unwrap_or_default();
        let plan_options = PlanOptions {
            root_mounts: options.root_mounts,
            user: options.user,
            wait_for_start: !options.start_at_once,
            cgroups: CgroupEntry {
                joins: join.procs.len(),
                into: join.into.is_some(),
                hierarchies: crate::cgroup::hierarchies()?,
            },
            ..PlanOptions::default()
        };
        let plan = Plan::compile(spec, &options.bundle, &plan_options)?;
        let (streams, ours) = open_streams(options.stdio)?;
        let start = match options.start_at_once {
            true => None,
            false => Some(StartGate::new(options.state.as_deref())?),
        };
        let job = Job {
            plan,
            attached: options.attached,
            state: options.state,
            exit_record: options.exit_record,
            cgroup: cgroup.cloned(),
        };
        let waits = start.is_some();
        self.hand_over(&job, streams, start, join)
            .map(|made| Container {
                streams: ours,
                ..made
            })
            .inspect_err(|_| match &job.state {
                Some(state) if waits => drop(std::fs::remove_file(state.join(state::START))),
                _ => {}
            })
    }

    fn hand_over(
        &self,
        job: &Job,
        streams: [OwnedFd; 3],
        start: Option<StartGate>,
        join: crate::cgroup::Join,
    ) -> Result<Container> {
        let start_end = start.as_ref().map(StartGate::end).transpose()?;
        let slots = fill_slots(&job.plan, streams, start_end, join)?;
        let memory = memory_file(job)?;
        let mut answer = self.ask(memory.as_fd(), &slots)?;
        if answer.1.is_none() {
            // A launcher that is killed takes along what it was sent, but not yet working on.
            answer = self.ask(memory.as_fd(), &slots)?;
        }
        let (control, message) = answer;
        Container::announced(control, message, start, job.plan.clone())
    }

    /// Sends a job; gives the handle's end of the control socket, and the first that the monitor
    /// says there, if it does.
    fn ask(
        &self,
        job: BorrowedFd<'_>,
        slots: &[OwnedFd],
    ) -> Result<(OwnedFd, Option<protocol::Message>)> {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| Error::os("make the control socket of a container", errno))?;
        self.send(theirs.as_fd(), job, slots)?;
        drop(theirs);
        let message = protocol::receive(control.as_fd(), RecvFlags::empty())
            .map_err(|errno| Error::os("hear from the monitor", errno))?;
        Ok((control, message))
    }
}

impl StartGate {
    /// Makes a FIFO in the state directory, or a pipe where there is none.
    fn new(state: Option<&Path>) -> Result<Self> {
        let Some(state) = state else {
            let (reader, writer) = pipe()?;
            return Ok(Self { writer, reader });
        };
        let writer = make_start_fifo(state)?;
        let reader = duplicate(&writer)?;
        Ok(Self { writer, reader })
    }

    /// What the container waits at.
    fn end(&self) -> Result<OwnedFd> {
        duplicate(&self.reader)
    }
}

impl Container {
    /// The container whose process exists, if that is what the monitor says.
    fn announced(
        control: OwnedFd,
        message: Option<protocol::Message>,
        start: Option<StartGate>,
        plan: Plan,
    ) -> Result<Self> {
        let Some(message) = message else {
            return Err(Problem::MonitorLost.into_error(&plan));
        };
        let mut descriptors = message.descriptors.into_iter();
        match (decode(&message.bytes)?, descriptors.next()) {
            (Event::Cloned { pid }, Some(pidfd)) => Ok(Self {
                pid,
                pidfd: Some(pidfd),
                network: descriptors.next(),
                streams: [None, None, None],
                link: Link::Control {
                    control,
                    start,
                    plan: Box::new(plan),
                    progress: Mutex::default(),
                },
            }),
            (Event::Broken { doing, errno }, _) => {
                Err(Problem::Monitor { doing, errno }.into_error(&plan))
            }
            _ => Err(Problem::MonitorLost.into_error(&plan)),
        }
    }

    /// Opens the container that is recorded in the directory `state`, created by any process.
    ///
    /// `exit_record` is where its creator had the exit status recorded.
    ///
    /// # Errors
    /// `NotFound` if no live container is recorded there: it was never created, or has ended.
    pub fn open(state: &Path, exit_record: Option<&Path>) -> Result<Self> {
        let path = state.join(state::INIT);
        let record: InitRecord = state::read(&path)
            .map_err(|error| Error::os(format!("read {path:?}"), error))?
            .ok_or_else(|| not_running(state))?;
        let monitor = open_process(record.monitor)?.ok_or_else(|| not_running(state))?;
        // While the monitor lives, the end of the first process is still to be recorded.
        let pidfd = open_process(record.init)?;
        Ok(Self {
            pid: record.init.pid,
            pidfd,
            network: None,
            streams: [None, None, None],
            link: Link::Records {
                monitor,
                state: state.to_owned(),
                exit_record: exit_record.map(Path::to_owned),
            },
        })
    }

    /// The process id of the container's first process, as this program's PID namespace has it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The network namespace that was made for the container; `None` if it was not made for it, the
    /// container was [opened](Self::open), or its process had ended before anybody could look.
    #[must_use]
    pub fn network_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.network.as_ref().map(AsFd::as_fd)
    }

    /// The writing end of standard input, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.streams[0].take().map(File::from)
    }

    /// The reading end of standard output, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.streams[1].take().map(File::from)
    }

    /// The reading end of standard error, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.streams[2].take().map(File::from)
    }

    /// Blocks until everything but the program itself is set up.
    ///
    /// # Errors
    /// The step that failed, in words, with the kind of its system call's error; `InvalidState` if
    /// the process was killed meanwhile.
    pub fn wait_created(&self) -> Result<()> {
        self.wait_to_reach(|progress| progress.created || progress.running)
    }

    /// Lets the program run; blocks until it does.
    ///
    /// # Errors
    /// As [`Self::wait_created`], and for the program: `NotFound` (`CommandNotFound`),
    /// `PermissionDenied` (`CommandNotExecutable`). `InvalidState` if it has been started before.
    pub fn start(&self) -> Result<()> {
        match &self.link {
            Link::Control {
                start, progress, ..
            } => {
                self.wait_created()?;
                if let Some(start) = start {
                    let mut progress = lock(progress);
                    if progress.started || progress.running {
                        return Err(already_started());
                    }
                    rustix::io::write(&start.writer, b"0")
                        .map_err(|errno| Error::os("start the container", errno))?;
                    progress.started = true;
                }
                self.wait_running()
            }
            Link::Records { state, .. } => start_by_fifo(state),
        }
    }

    /// Blocks until the program is being executed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn wait_running(&self) -> Result<()> {
        self.wait_to_reach(|progress| progress.running)
    }

    /// Blocks until the container has ended and its cgroup is gone.
    ///
    /// # Errors
    /// What kept the container from running; `InvalidState` (`MonitorLost`) if the monitor was
    /// killed, so that nobody knows the status.
    pub fn wait(&self) -> Result<ExitStatus> {
        match self.wait_until(None)? {
            Some(status) => Ok(status),
            None => Err(Error::new(
                ErrorKind::Internal,
                "NoStatus",
                "wait for the container",
            )),
        }
    }

    /// As [`Self::wait`], for at most `limit`; `None` if the container runs longer.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(Some(Instant::now() + limit))
    }

    /// The exit status if the container has ended; never blocks.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Sends `signal` to the container's first process; done if that has ended.
    ///
    /// # Errors
    /// `PermissionDenied` if the process belongs to somebody else.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(());
        };
        match sys::pidfd_send_signal(pidfd.as_fd(), signal.number()) {
            Err(Errno::SRCH) => Ok(()),
            result => result,
        }
        .map_err(|errno| Error::os(format!("send {signal} to process {}", self.pid), errno))
    }

    fn wait_to_reach(&self, reached: fn(&Progress) -> bool) -> Result<()> {
        match (self.wait_for(None, reached)?, &self.link) {
            (Some(status), Link::Control { progress, .. }) if !reached(&lock(progress)) => {
                let what = format!("wait for the container, which ended before ({status})");
                Err(Error::new(ErrorKind::InvalidState, "NotRunning", what))
            }
            _ => Ok(()),
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        match &self.link {
            Link::Control { .. } => self.wait_for(deadline, |_| false),
            Link::Records {
                monitor,
                exit_record,
                ..
            } => {
                // A pidfd becomes readable when its process ends; the status is recorded by then.
                if !readable(monitor.as_fd(), deadline)? {
                    return Ok(None);
                }
                let lost = || Error::new(ErrorKind::InvalidState, "MonitorLost", LOST);
                let path = exit_record.as_ref().ok_or_else(lost)?;
                ExitStatus::read(path)?.map(Some).ok_or_else(lost)
            }
        }
    }

    /// Follows the monitor until `reached`, the end, or `deadline`; gives the status at the end.
    fn wait_for(
        &self,
        deadline: Option<Instant>,
        reached: impl Fn(&Progress) -> bool,
    ) -> Result<Option<ExitStatus>> {
        let Link::Control {
            control,
            plan,
            progress,
            ..
        } = &self.link
        else {
            return Ok(None);
        };
        loop {
            {
                let mut progress = lock(progress);
                progress.drain(control)?;
                match &progress.end {
                    Some(Ok(status)) => return Ok(Some(*status)),
                    Some(Err(problem)) => return Err(problem.clone().into_error(plan)),
                    None if reached(&progress) => return Ok(None),
                    None => {}
                }
            }
            // Without the lock, so that other threads can look meanwhile.
            if !readable(control.as_fd(), deadline)? {
                return Ok(None);
            }
        }
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Control { control, .. } => control.as_fd(),
            Link::Records { monitor, .. } => monitor.as_fd(),
        }
    }
}

const LOST: &str = "the monitor of the container was killed, so that its exit status is not known";

impl Progress {
    /// Takes in all that the monitor has said so far.
    fn drain(&mut self, control: &OwnedFd) -> Result<()> {
        while self.end.is_none() {
            let message = match protocol::receive(control.as_fd(), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Ok(()),
                result => result.map_err(|errno| Error::os("hear from the monitor", errno))?,
            };
            let Some(message) = message else {
                self.end = Some(Err(Problem::MonitorLost));
                break;
            };
            match decode(&message.bytes)? {
                Event::Cloned { .. } => {}
                Event::Created => self.created = true,
                Event::Running => self.running = true,
                Event::Exited(status) => self.end = Some(Ok(status)),
                Event::Failed { step, call, errno } => {
                    self.end = Some(Err(Problem::Step { step, call, errno }));
                }
                Event::Broken { doing, errno } => {
                    self.end = Some(Err(Problem::Monitor { doing, errno }));
                }
            }
        }
        Ok(())
    }
}

impl Problem {
    fn into_error(self, plan: &Plan) -> Error {
        match self {
            Self::Step { step, call, errno } => plan.failure(step, call, errno),
            Self::Monitor { doing, errno } => {
                Error::os(doing, std::io::Error::from_raw_os_error(errno))
            }
            Self::MonitorLost => Error::new(ErrorKind::InvalidState, "MonitorLost", LOST),
        }
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode(bytes: &[u8]) -> Result<Event> {
    postcard::from_bytes(bytes).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            "MonitorProtocol",
            "read what the monitor says",
        )
        .with_source(error)
    })
}

/// Waits until `file` is readable; `false` if that takes longer than `deadline`.
fn readable(file: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
    loop {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut wait = [PollFd::from_borrowed_fd(file, PollFlags::IN)];
        match poll(&mut wait, timeout.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("wait for the container", errno)),
        }
    }
}

/// Makes the group that the spec asks for.
///
/// Without a limit to enforce, a host that gives no group is no reason to fail: a plain user has none.
fn create_cgroup(spec: &Spec) -> Result<Option<Cgroup>> {
    let Some(linux) = spec.linux() else {
        return Ok(None);
    };
    let Some(path) = linux.cgroups_path() else {
        return Ok(None);
    };
    let resources = linux.resources().clone().unwrap_or_default();
    let path = CgroupPath::new(&path.to_string_lossy())?;
    match Cgroup::create(&path, &resources) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(error)
            if error.code() == "CgroupUnavailable" && !crate::cgroup::has_limits(&resources) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The descriptors that go with `plan`, in the order of its slots.
fn fill_slots(
    plan: &Plan,
    streams: [OwnedFd; 3],
    start: Option<OwnedFd>,
    join: crate::cgroup::Join,
) -> Result<Vec<OwnedFd>> {
    let mut streams = streams.map(Some);
    let mut start = start;
    let mut procs = join.procs.into_iter();
    let mut into = join.into;
    let mut slots = Vec::with_capacity(plan.slots.len());
    for kind in &plan.slots {
        let descriptor = match kind {
            SlotKind::Stdio(number) => streams.get_mut(usize::from(*number)).and_then(Option::take),
            SlotKind::Start => start.take(),
            SlotKind::CgroupJoin => procs.next(),
            SlotKind::CgroupInto => into.take(),
            SlotKind::Namespace(path) => Some(open_namespace(path)?),
        };
        let missing = || {
            let what = format!("find the descriptor for {kind:?} of the plan");
            Error::new(ErrorKind::Internal, "NoDescriptor", what)
        };
        slots.push(descriptor.ok_or_else(missing)?);
    }
    Ok(slots)
}

fn open_namespace(path: &str) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os(format!("open namespace {path:?}"), errno))
}

/// Opens both sides of the standard streams: the container's, and ours where there is a pipe.
fn open_streams(stdio: [Stdio; 3]) -> Result<([OwnedFd; 3], [Option<OwnedFd>; 3])> {
    let [input, output, error] = stdio;
    let (input, our_input) = open_stream(input, 0)?;
    let (output, our_output) = open_stream(output, 1)?;
    let (error, our_error) = open_stream(error, 2)?;
    Ok(([input, output, error], [our_input, our_output, our_error]))
}

fn open_stream(stdio: Stdio, number: u8) -> Result<(OwnedFd, Option<OwnedFd>)> {
    match (stdio, number) {
        (Stdio::Null, _) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())
                .map_err(|errno| Error::os("open \"/dev/null\"", errno))?;
            Ok((null, None))
        }
        (Stdio::Piped, 0) => pipe().map(|(reader, writer)| (reader, Some(writer))),
        (Stdio::Piped, _) => pipe().map(|(reader, writer)| (writer, Some(reader))),
        (Stdio::Inherit, 0) => Ok((duplicate(rustix::stdio::stdin())?, None)),
        (Stdio::Inherit, 1) => Ok((duplicate(rustix::stdio::stdout())?, None)),
        (Stdio::Inherit, _) => Ok((duplicate(rustix::stdio::stderr())?, None)),
        (Stdio::Fd(file), _) => Ok((file, None)),
    }
}

fn duplicate(file: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(file, 3)
        .map_err(|errno| Error::os("duplicate a descriptor", errno))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("make a pipe", errno))
}

/// Makes the FIFO at which the container waits, held open for both sides so that it never ends.
fn make_start_fifo(state: &Path) -> Result<OwnedFd> {
    let path = state.join(state::START);
    let failed = |errno| Error::os(format!("make the FIFO {path:?}"), errno);
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).map_err(failed)?;
    rustix::fs::openat(CWD, &path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
}

/// Gives the word to start to a container that another process created.
fn start_by_fifo(state: &Path) -> Result<()> {
    let path = state.join(state::START);
    // Nobody has it open for reading once the program runs.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
        Ok(fifo) => {
            let mut fifo = File::from(fifo);
            fifo.write_all(b"0")
                .map_err(|error| Error::os(format!("write to {path:?}"), error))
        }
        Err(Errno::NXIO | Errno::NOENT) => Err(already_started()),
        Err(errno) => Err(Error::os(format!("open {path:?}"), errno)),
    }
}

fn memory_file(job: &Job) -> Result<OwnedFd> {
    let bytes = postcard::to_stdvec(job).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            "JobEncoding",
            "encode the job of a monitor",
        )
        .with_source(error)
    })?;
    let failed = |error| Error::os("write the job of a monitor to memory", error);
    let memory = rustix::fs::memfd_create(c"container-job", MemfdFlags::CLOEXEC)
        .map_err(|errno| failed(std::io::Error::from(errno)))?;
    let mut file = File::from(memory);
    file.write_all(&bytes).map_err(failed)?;
    Ok(file.into())
}

/// A descriptor of the process, unless it has ended or its number belongs to another one by now.
fn open_process(id: ProcessId) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(id.pid) else {
        return Ok(None);
    };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(Error::os(format!("open process {}", id.pid), errno)),
    };
    // The descriptor holds on to whatever has the number now; that it is the one meant shows here.
    // One that has ended keeps its number until it is reaped, but not its work.
    let is_meant = ProcessId::of(id.pid).ok() == Some(id);
    let has_ended = readable(pidfd.as_fd(), Some(Instant::now()))?;
    Ok((is_meant && !has_ended).then_some(pidfd))
}

fn already_started() -> Error {
    let what = "start a container that has been started before";
    Error::new(ErrorKind::InvalidState, "AlreadyStarted", what)
}

fn not_running(state: &Path) -> Error {
    let what = format!("find a live container in {state:?}");
    Error::new(ErrorKind::NotFound, "NotRunning", what)
}
