//! A container: one process tree, from its creation to its exit status.

mod create;
mod exec;
mod handle;
mod hooks;
mod nsenter;
mod options;
mod pod;
mod start;
mod status;
mod worker;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_send_signal};

pub use self::exec::Process;
pub(crate) use self::handle::readable;
use self::handle::{Handle, Link, lock};
pub use self::nsenter::Nsenter;
use self::options::duplicate;
pub use self::options::{CreateOptions, ExecOptions, Stdio, Supervision};
pub use self::pod::{Pod, PodOptions};
use self::start::{StartGate, already_started, confirm, give_by_fifo, is_given_at};
pub use self::status::ExitStatus;
pub(crate) use self::worker::start as start_worker;
use crate::state::{self, Confinement, InitRecord, ProcessId};
use crate::terminal::Terminal;
use crate::{Error, ErrorKind, Result, Signal};

/// A container that was created by this program, or [opened](Container::open).
///
/// Every method may be called from any thread. As a file descriptor ([`AsFd`]) a container becomes
/// readable when its state changes, and stays so once it has ended: the handle for a reactor, to be
/// followed by [`Container::try_wait`].
///
/// Dropping the handle of an attached container kills it; a detached one lives on.
#[derive(Debug)]
pub struct Container {
    handle: Handle,
    network: Option<OwnedFd>,
    /// Where it waits for the word to start, as far as its creator knows.
    start: Option<StartGate>,
    /// What binds whatever is executed in it; `None`: it stands in the records.
    confinement: Option<Confinement>,
}

impl Container {
    /// Opens the container that is recorded in the directory `state`, created by any process.
    ///
    /// `exit_record` is where its creator had the exit status recorded.
    ///
    /// A container whose monitor was killed is ended here, where it has not been.
    ///
    /// # Errors
    /// `NotFound` if no live container is recorded there: it was never created, or has ended.
    pub fn open(state: &Path, exit_record: Option<&Path>) -> Result<Self> {
        let path = state.join(state::INIT);
        let record: InitRecord = state::read(&path)
            .map_err(|error| Error::os(format!("read {path:?}"), error))?
            .ok_or_else(|| not_running(state))?;
        // While the monitor lives, the end of the first process is still to be recorded.
        let pidfd = open_process(record.init)?;
        let last = match (record.monitor, &pidfd) {
            (Some(monitor), _) => match (open_process(monitor)?, &pidfd) {
                (None, Some(orphan)) => {
                    // Whoever changes its user does not die with its monitor by itself.
                    let _ = pidfd_send_signal(orphan, rustix::process::Signal::KILL);
                    None
                }
                (monitor, _) => monitor,
            },
            (None, Some(pidfd)) => Some(duplicate(pidfd)?),
            (None, None) => None,
        };
        Ok(Self {
            handle: Handle {
                pid: record.init.pid,
                pidfd,
                streams: [None, None, None],
                terminal: None,
                link: Link::Records {
                    last: last.ok_or_else(|| not_running(state))?,
                    is_monitored: record.monitor.is_some(),
                    state: state.to_owned(),
                    exit_record: exit_record.map(Path::to_owned),
                },
            },
            network: None,
            start: None,
            confinement: None,
        })
    }

    /// The process id of the container's first process, as this program's PID namespace has it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.handle.pid
    }

    /// The network namespace that was made for the container; `None` if it was not made for it, the
    /// container was [opened](Self::open), or its process had ended before anybody could look.
    #[must_use]
    pub fn network_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.network.as_ref().map(AsFd::as_fd)
    }

    /// The writing end of standard input, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.handle.take_stream(0)
    }

    /// The reading end of standard output, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.handle.take_stream(1)
    }

    /// The reading end of standard error, where that is [`Stdio::Piped`] and was not taken yet.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.handle.take_stream(2)
    }

    /// The terminal, where `process.terminal` is set, no console socket was given, and it was not taken
    /// yet; blocks until the process has sent it.
    ///
    /// # Errors
    /// `InvalidState` (`NoTerminal`) if the process ended before it had one.
    pub fn take_terminal(&mut self) -> Result<Option<Terminal>> {
        self.handle.take_terminal()
    }

    /// Blocks until everything but the program itself is set up.
    ///
    /// # Errors
    /// The step that failed, in words, with the kind of its system call's error; `InvalidState` if
    /// the container ended before.
    pub fn wait_created(&self) -> Result<()> {
        self.handle.wait_created()
    }

    /// Lets the program run; blocks until it does.
    ///
    /// # Errors
    /// As [`Self::wait_created`], and for the program: `NotFound` (`CommandNotFound`),
    /// `PermissionDenied` (`CommandNotExecutable`). `InvalidState` if it has been started before.
    /// A disowned container has no monitor that could tell what is wrong with its program; it was
    /// looked up when the container was created.
    pub fn start(&self) -> Result<()> {
        match &self.handle.link {
            Link::Control {
                supervision,
                progress,
                ..
            } => {
                self.wait_created()?;
                if let Some(start) = &self.start {
                    {
                        let mut progress = lock(progress);
                        if progress.started || progress.running {
                            return Err(already_started());
                        }
                        progress.started = true;
                    }
                    start.give()?;
                    if *supervision == Supervision::Disowned {
                        return Ok(());
                    }
                }
                self.wait_running()
            }
            Link::Records {
                state,
                last,
                is_monitored,
                ..
            } => {
                give_by_fifo(state)?;
                match is_monitored {
                    true => confirm(state, last),
                    // Nobody else is there to take note of it.
                    false => state::forget_start(state),
                }
            }
        }
    }

    /// Whether the word to start was given, by whoever; that the program runs already it does not say.
    ///
    /// # Errors
    /// `Os` if the records cannot be read.
    pub fn is_started(&self) -> Result<bool> {
        match &self.handle.link {
            Link::Records { state, .. } => is_given_at(state),
            Link::Control { progress, .. } => {
                let progress = lock(progress);
                if progress.started || progress.running {
                    return Ok(true);
                }
                self.start.as_ref().map_or(Ok(true), StartGate::is_given)
            }
        }
    }

    /// Blocks until the program is being executed.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn wait_running(&self) -> Result<()> {
        self.handle.wait_running()
    }

    /// Blocks until the container has ended and its cgroup is gone.
    ///
    /// # Errors
    /// What kept the container from running; `InvalidState`: (`MonitorLost`) if the monitor was
    /// killed, so that nobody knows the status; (`Disowned`) if it is not ours to wait for.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.handle.wait()
    }

    /// As [`Self::wait`], for at most `limit`; `None` if the container runs longer.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.handle.wait_until(Some(Instant::now() + limit))
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
        self.handle.kill(signal)
    }

    /// Whether the first process has ended.
    pub(crate) fn has_ended(&self) -> Result<bool> {
        self.handle.has_ended()
    }

    /// What has gone wrong without keeping the container from anything: the `poststop` hooks that failed,
    /// once it has ended. Only its creator knows.
    #[must_use]
    pub fn warnings(&self) -> Vec<Error> {
        self.handle.warnings()
    }

    /// What binds a process that is executed in the container.
    fn confinement(&self) -> Result<Confinement> {
        match (&self.confinement, &self.handle.link) {
            (Some(confinement), _) => Ok(confinement.clone()),
            (None, Link::Records { state, .. }) => Confinement::read(state),
            (None, Link::Control { .. }) => Err(Error::new(
                ErrorKind::Internal,
                "NoConfinement",
                "find what binds the container",
            )),
        }
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// A descriptor of the process, unless it has ended or its number belongs to another one by now.
pub(crate) fn open_process(id: ProcessId) -> Result<Option<OwnedFd>> {
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

fn not_running(state: &Path) -> Error {
    let what = format!("find a live container in {state:?}");
    Error::new(ErrorKind::NotFound, "NotRunning", what)
}
