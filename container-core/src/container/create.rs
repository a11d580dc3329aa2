//! The creation of a container, and what it shares with the execution of a process in one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use super::Container;
use super::handle::Handle;
use super::options::{CreateOptions, Stdio, Streams};
use super::start::StartGate;
use crate::cgroup::{Cgroup, CgroupPath, Join};
use crate::launcher::protocol::{self, Job};
use crate::plan::step::SlotKind;
use crate::plan::{CgroupEntry, Plan, PlanOptions};
use crate::state::{self, Confinement};
use crate::{Error, ErrorKind, Launcher, Result, Supervision};

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
        let disowned = options.supervision == Supervision::Disowned;
        if disowned && options.state.is_none() && !options.start_at_once {
            let what =
                "create a disowned container that waits for its start, without a state directory";
            return Err(Error::invalid("NoState", what));
        }
        let join = cgroup.map(Cgroup::join).transpose()?.unwrap_or_default();
        let plan_options = PlanOptions {
            root_mounts: options.root_mounts,
            user: options.user,
            id: options.id,
            new_keyring: options.new_keyring,
            find_home: options.find_home,
            landlock: options.landlock,
            wait_for_start: !options.start_at_once,
            init: options.init,
            lingers: options.lingers,
            disowned,
            descriptors: numbers(&options.descriptors),
            cgroups: CgroupEntry {
                own: cgroup.map(own_groups).unwrap_or_default(),
                ..entry(&join)?
            },
            ..PlanOptions::default()
        };
        let plan = Plan::compile(spec, &options.bundle, &plan_options)?;
        if let Some(maps) = &plan.id_maps {
            maps.check()?;
        }
        let confinement = Confinement::of(&plan, cgroup.cloned());
        let streams = open_streams(&plan, options.stdio)?;
        let (console, terminal) = open_console(&plan, options.console_socket)?;
        let (start, start_end) = match options.start_at_once {
            true => (None, None),
            false => {
                let (start, end) = StartGate::new(options.state.as_deref())?;
                (Some(start), Some(end))
            }
        };
        let own_cgroup = match (options.supervision, cgroup) {
            (Supervision::Detached, Some(cgroup)) => Some(cgroup.beside()?),
            _ => None,
        };
        let state = options.state.clone();
        let job = Job {
            plan,
            supervision: options.supervision,
            state: options.state,
            exit_record: options.exit_record,
            cgroup: cgroup.cloned(),
            own_cgroup,
        };
        let descriptors = Descriptors {
            streams: streams.theirs.map(Some),
            start: start_end,
            join,
            console,
            extra: options.descriptors,
            target: None,
        };
        let recorded = state.as_deref().map_or(Ok(()), |it| confinement.write(it));
        let made = recorded.and_then(|()| self.hand_over(job, descriptors));
        let (handle, mut others) = made.inspect_err(|_| {
            state.as_deref().map(state::forget);
        })?;
        Ok(Container {
            network: others.next(),
            start,
            confinement: Some(confinement),
            handle: Handle {
                streams: streams.ours,
                terminal,
                ..handle
            },
        })
    }

    /// Has a monitor forked for `job`; gives the handle of the process, and the descriptors that came
    /// with it.
    pub(super) fn hand_over(
        &self,
        job: Job,
        descriptors: Descriptors,
    ) -> Result<(Handle, impl Iterator<Item = OwnedFd>)> {
        let slots = descriptors.fill(&job.plan)?;
        let memory = memory_file(&job)?;
        let group = match &job.own_cgroup {
            Some(own) => own.make_unified()?,
            None => None,
        };
        let group = group.as_ref().map(AsFd::as_fd);
        let mut answer = self.ask(memory.as_fd(), group, &slots)?;
        if answer.1.is_none() {
            // A launcher that is killed takes along what it was sent, but not yet working on.
            answer = self.ask(memory.as_fd(), group, &slots)?;
        }
        let (control, message) = answer;
        Handle::announced(control, message, job.supervision, job.plan)
    }

    /// Sends a job; gives the handle's end of the control socket, and the first that the monitor
    /// says there, if it does.
    pub(super) fn ask(
        &self,
        job: BorrowedFd<'_>,
        group: Option<BorrowedFd<'_>>,
        slots: &[OwnedFd],
    ) -> Result<(OwnedFd, Option<protocol::Message>)> {
        let (control, theirs) = socket_pair(SocketType::SEQPACKET)?;
        self.send(theirs.as_fd(), job, group, slots)?;
        drop(theirs);
        let message = protocol::receive(control.as_fd(), RecvFlags::empty())
            .map_err(|errno| Error::os("hear from the monitor", errno))?;
        Ok((control, message))
    }
}

/// What the slots of a plan are filled with.
pub(super) struct Descriptors {
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) start: Option<OwnedFd>,
    pub(super) join: Join,
    pub(super) console: Option<OwnedFd>,
    /// With the numbers that the program gets them as.
    pub(super) extra: Vec<(OwnedFd, u32)>,
    /// The process whose namespaces are entered.
    pub(super) target: Option<OwnedFd>,
}

impl Descriptors {
    /// All of them, in the order of the plan's slots.
    fn fill(mut self, plan: &Plan) -> Result<Vec<OwnedFd>> {
        let mut procs = self.join.procs.into_iter();
        let mut extra = self.extra.into_iter();
        let mut slots = Vec::with_capacity(plan.slots.len());
        for kind in &plan.slots {
            let descriptor = match kind {
                SlotKind::Stdio(number) => self
                    .streams
                    .get_mut(usize::from(*number))
                    .and_then(Option::take),
                SlotKind::Start => self.start.take(),
                SlotKind::CgroupJoin => procs.next(),
                SlotKind::CgroupInto => self.join.into.take(),
                SlotKind::Console => self.console.take(),
                SlotKind::Extra(_) => extra.next().map(|(descriptor, _)| descriptor),
                SlotKind::Target => self.target.take(),
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
}

/// How a process enters the group of `join`.
pub(super) fn entry(join: &Join) -> Result<CgroupEntry> {
    Ok(CgroupEntry {
        joins: join.procs.len(),
        into: join.into.is_some(),
        hierarchies: crate::cgroup::hierarchies()?,
        own: BTreeMap::new(),
    })
}

/// The directories of a group, by controller.
fn own_groups(cgroup: &Cgroup) -> BTreeMap<String, PathBuf> {
    let directories = cgroup.directories().into_iter();
    directories
        .map(|(controller, path)| (controller.to_owned(), path.to_owned()))
        .collect()
}

pub(super) fn numbers(descriptors: &[(OwnedFd, u32)]) -> Vec<u32> {
    descriptors.iter().map(|(_, number)| *number).collect()
}

/// Opens the standard streams; a terminal takes the place of all three.
pub(super) fn open_streams(plan: &Plan, stdio: [Stdio; 3]) -> Result<Streams> {
    if plan.has_terminal() && stdio.iter().any(|stream| !matches!(stream, Stdio::Null)) {
        let what = "give standard streams to a process that has a terminal";
        return Err(Error::invalid("StreamsAndTerminal", what));
    }
    Streams::open(stdio)
}

/// The socket that the terminal is sent over, and where this program receives it unless somebody else
/// does.
pub(super) fn open_console(
    plan: &Plan,
    socket: Option<OwnedFd>,
) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    match (plan.has_terminal(), socket) {
        (true, None) => {
            let (ours, theirs) = socket_pair(SocketType::STREAM)?;
            Ok((Some(theirs), Some(ours)))
        }
        (false, Some(_)) => {
            let what = "send a terminal over a console socket: the process has none";
            Err(Error::invalid("NoTerminal", what))
        }
        (_, socket) => Ok((socket, None)),
    }
}

pub(super) fn socket_pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("make a pair of sockets", errno))
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

fn open_namespace(path: &str) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os(format!("open namespace {path:?}"), errno))
}

pub(super) fn memory_file(job: &Job) -> Result<OwnedFd> {
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
