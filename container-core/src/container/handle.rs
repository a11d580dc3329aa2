//! What a handle of a process is made of, whether it is the first of a container or another one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::status::ExitStatus;
use crate::launcher::protocol::{self, Event};
use crate::plan::Plan;
use crate::plan::hook::HookFailure;
use crate::terminal::Terminal;
use crate::{Error, ErrorKind, Result, Signal, Supervision, state, sys};

/// A process with its parent, the monitor.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: i32,
    /// `None` if it had ended when it was opened.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) streams: [Option<OwnedFd>; 3],
    /// Where its terminal comes from.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) link: Link,
}

/// How a handle hears of its process.
#[derive(Debug)]
pub(super) enum Link {
    /// From the monitor, as its creator.
    Control {
        control: OwnedFd,
        supervision: Supervision,
        plan: Box<Plan>,
        progress: Mutex<Progress>,
    },
    /// From the records, as anybody else.
    Records {
        /// The process whose end is waited for: the monitor, or the disowned process itself.
        last: OwnedFd,
        /// It is the monitor.
        is_monitored: bool,
        state: PathBuf,
        exit_record: Option<PathBuf>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    created: bool,
    /// The word to start was given through this handle.
    pub(super) started: bool,
    pub(super) running: bool,
    /// Hooks that failed without consequences.
    warnings: Vec<HookFailure>,
    /// How it ended, or why it could not be started.
    end: Option<std::result::Result<ExitStatus, Problem>>,
}

/// Why there is no exit status; errors cannot be cloned, so what they are made of is kept.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    Step { step: u16, call: u8, errno: i32 },
    Monitor { doing: String, errno: i32 },
    Hook(HookFailure),
    MonitorLost,
    Disowned,
}

impl Handle {
    /// The process that exists, if that is what the monitor says; with the other descriptors that came
    /// along.
    pub(super) fn announced(
        control: OwnedFd,
        message: Option<protocol::Message>,
        supervision: Supervision,
        plan: Plan,
    ) -> Result<(Self, impl Iterator<Item = OwnedFd>)> {
        let Some(message) = message else {
            return Err(Problem::MonitorLost.into_error(&plan));
        };
        let mut descriptors = message.descriptors.into_iter();
        match (decode(&message.bytes)?, descriptors.next()) {
            (Event::Cloned { pid }, Some(pidfd)) => {
                let handle = Self {
                    pid,
                    pidfd: Some(pidfd),
                    streams: [None, None, None],
                    terminal: None,
                    link: Link::Control {
                        control,
                        supervision,
                        plan: Box::new(plan),
                        progress: Mutex::default(),
                    },
                };
                Ok((handle, descriptors))
            }
            (Event::Broken { doing, errno }, _) => {
                Err(Problem::Monitor { doing, errno }.into_error(&plan))
            }
            _ => Err(Problem::MonitorLost.into_error(&plan)),
        }
    }

    pub(super) fn take_stream(&mut self, number: usize) -> Option<std::fs::File> {
        let stream = self.streams.get_mut(number)?;
        stream.take().map(std::fs::File::from)
    }

    /// Receives the terminal that the process sends when it is set up.
    pub(super) fn take_terminal(&mut self) -> Result<Option<Terminal>> {
        match self.terminal.take() {
            Some(socket) => Terminal::receive(socket.as_fd()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn wait_created(&self) -> Result<()> {
        self.wait_to_reach(|progress| progress.created || progress.running)
    }

    pub(super) fn wait_running(&self) -> Result<()> {
        self.wait_to_reach(|progress| progress.running)
    }

    pub(super) fn wait(&self) -> Result<ExitStatus> {
        match self.wait_until(None)? {
            Some(status) => Ok(status),
            None => Err(Error::new(
                ErrorKind::Internal,
                "NoStatus",
                "wait for a process",
            )),
        }
    }

    pub(super) fn kill(&self, signal: Signal) -> Result<()> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(());
        };
        match sys::pidfd_send_signal(pidfd.as_fd(), signal.number()) {
            Err(Errno::SRCH) => Ok(()),
            result => result,
        }
        .map_err(|errno| Error::os(format!("send {signal} to process {}", self.pid), errno))
    }

    /// Whether the process has ended, reaped or not.
    pub(super) fn has_ended(&self) -> Result<bool> {
        match &self.pidfd {
            Some(pidfd) => readable(pidfd.as_fd(), Some(Instant::now())),
            None => Ok(true),
        }
    }

    /// What has gone wrong so far without keeping the process from anything.
    pub(super) fn warnings(&self) -> Vec<Error> {
        match &self.link {
            Link::Control { plan, progress, .. } => {
                let warnings = &lock(progress).warnings;
                let errors = warnings.iter().map(|failure| plan.hook_failure(failure));
                errors.collect()
            }
            Link::Records { .. } => Vec::new(),
        }
    }

    fn wait_to_reach(&self, reached: fn(&Progress) -> bool) -> Result<()> {
        match self.wait_for(None, reached)? {
            Some(status) => {
                let what = format!("wait for a process, which ended before ({status})");
                Err(Error::new(ErrorKind::InvalidState, "NotRunning", what))
            }
            None => Ok(()),
        }
    }

    pub(super) fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        match &self.link {
            Link::Control { .. } => self.wait_for(deadline, |_| false),
            Link::Records {
                last,
                is_monitored,
                state,
                exit_record,
            } => {
                // A pidfd becomes readable when its process ends; the status is recorded by then.
                if !readable(last.as_fd(), deadline)? {
                    return Ok(None);
                }
                if let Some(failure) = state::read_failure(state)? {
                    return Err(failure);
                }
                let lost = || match is_monitored {
                    false => disowned_error(),
                    true => Error::new(ErrorKind::InvalidState, "MonitorLost", LOST),
                };
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
            supervision,
            plan,
            progress,
        } = &self.link
        else {
            return Ok(None);
        };
        loop {
            {
                let mut progress = lock(progress);
                progress.drain(control, *supervision)?;
                if let (Some(Err(Problem::MonitorLost)), Some(pidfd)) = (&progress.end, &self.pidfd)
                {
                    // Whoever changes its user does not die with its monitor by itself.
                    let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                }
                if reached(&progress) {
                    return Ok(None);
                }
                match &progress.end {
                    Some(Ok(status)) => return Ok(Some(*status)),
                    Some(Err(problem)) => return Err(problem.clone().into_error(plan)),
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

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Control { control, .. } => control.as_fd(),
            Link::Records { last, .. } => last.as_fd(),
        }
    }
}

const LOST: &str = "the monitor of the process was killed, so that its exit status is not known";

impl Progress {
    /// Takes in all that the monitor has said so far.
    fn drain(&mut self, control: &OwnedFd, supervision: Supervision) -> Result<()> {
        while self.end.is_none() {
            let message = match protocol::receive(control.as_fd(), RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => return Ok(()),
                result => result.map_err(|errno| Error::os("hear from the monitor", errno))?,
            };
            let Some(message) = message else {
                let released = self.created || self.running;
                self.end = Some(Err(match supervision {
                    Supervision::Disowned if released => Problem::Disowned,
                    _ => Problem::MonitorLost,
                }));
                break;
            };
            match decode(&message.bytes)? {
                Event::Cloned { .. } => {}
                Event::Created => self.created = true,
                Event::Running => self.running = true,
                Event::Exited(status) => self.end = Some(Ok(status)),
                Event::HooksDone => {}
                Event::HookWarning(failure) => self.warnings.push(failure),
                Event::HookFailed(failure) => self.end = Some(Err(Problem::Hook(failure))),
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
            Self::Hook(failure) => plan.hook_failure(&failure),
            Self::MonitorLost => Error::new(ErrorKind::InvalidState, "MonitorLost", LOST),
            Self::Disowned => disowned_error(),
        }
    }
}

fn disowned_error() -> Error {
    let what = "wait for a disowned process, whose end its subreaper learns";
    Error::new(ErrorKind::InvalidState, "Disowned", what)
}

pub(super) fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn decode(bytes: &[u8]) -> Result<Event> {
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
pub(crate) fn readable(file: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool> {
    poll_for(file, PollFlags::IN, deadline)
}

/// Waits for one of `flags`, or for an error condition of `file`.
pub(super) fn poll_for(
    file: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> Result<bool> {
    loop {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut wait = [PollFd::from_borrowed_fd(file, flags)];
        match poll(&mut wait, timeout.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("wait for a process", errno)),
        }
    }
}
