//! The gate at which a created container waits for the word to start.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::handle::poll_for;
use super::options::pipe;
use crate::state;
use crate::{Error, ErrorKind, Result};

/// How long the way from the word to the program may take.
const START: Duration = Duration::from_secs(60);

/// Where the word to start is given.
#[derive(Debug)]
pub(super) enum StartGate {
    /// By whoever holds this.
    Pipe {
        writer: OwnedFd,
        /// As long as it is open here, writing raises no SIGPIPE.
        _reader: OwnedFd,
    },
    /// By whoever finds the FIFO in this directory.
    Fifo(PathBuf),
}

impl StartGate {
    /// Makes a FIFO in the state directory, or a pipe where there is none; gives also what the
    /// container waits at.
    pub(super) fn new(state: Option<&Path>) -> Result<(Self, OwnedFd)> {
        let Some(state) = state else {
            let (reader, writer) = pipe()?;
            let end = super::options::duplicate(&reader)?;
            let gate = Self::Pipe {
                writer,
                _reader: reader,
            };
            return Ok((gate, end));
        };
        let path = state.join(state::START);
        let failed = |errno| Error::os(format!("make the FIFO {path:?}"), errno);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).map_err(failed)?;
        // For writing, too, so that it does not end while no writer has come yet.
        let end = open(&path, OFlags::RDWR).map_err(failed)?;
        Ok((Self::Fifo(state.to_owned()), end))
    }

    /// Whether somebody else gave the word.
    pub(super) fn is_given(&self) -> Result<bool> {
        match self {
            Self::Pipe { .. } => Ok(false),
            Self::Fifo(state) => is_given_at(state),
        }
    }

    /// Gives the word. Of a container in a FIFO this returns when the program runs, or is not going to.
    pub(super) fn give(&self) -> Result<()> {
        match self {
            Self::Pipe { writer, .. } => rustix::io::write(writer, b"0")
                .map(drop)
                .map_err(|errno| Error::os("start the container", errno)),
            Self::Fifo(state) => give_by_fifo(state),
        }
    }
}

/// Whether the container in `state` has let go of the FIFO there.
pub(super) fn is_given_at(state: &Path) -> Result<bool> {
    open_writer(state).map(|writer| writer.is_none())
}

/// Gives the word at the FIFO in `state`, and waits until the container has let go of it: it does
/// when it executes the program, or ends.
pub(super) fn give_by_fifo(state: &Path) -> Result<()> {
    let path = state.join(state::START);
    let failed = |errno| Error::os(format!("open {path:?}"), errno);
    let watch = open_writer(state)?.ok_or_else(already_started)?;
    // Of two who start it at once, one does.
    rustix::fs::flock(&watch, FlockOperation::LockExclusive).map_err(failed)?;
    let gone = |deadline| poll_for(watch.as_fd(), PollFlags::empty(), Some(deadline));
    if gone(Instant::now())? {
        return Err(already_started());
    }
    {
        // A reader, so that writing raises no SIGPIPE if the container ends just now.
        let both = open(&path, OFlags::RDWR | OFlags::NONBLOCK).map_err(failed)?;
        rustix::io::write(&both, b"0")
            .map_err(|errno| Error::os(format!("write to {path:?}"), errno))?;
    }
    if gone(Instant::now() + START)? {
        return Ok(());
    }
    let what = "start the container";
    Err(Error::new(ErrorKind::TimedOut, "NotStarted", what))
}

/// Waits until the monitor has taken note of the start; an error if it failed.
pub(super) fn confirm(state: &Path, monitor: impl AsFd) -> Result<()> {
    let path = state.join(state::START);
    let deadline = Instant::now() + START;
    // The FIFO goes last.
    while path.exists() && Instant::now() < deadline {
        if poll_for(monitor.as_fd(), PollFlags::IN, Some(Instant::now()))? {
            break;
        }
        thread::sleep(Duration::from_micros(200));
    }
    match state::read_failure(state)? {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

pub(super) fn already_started() -> Error {
    let what = "start a container that has been started before";
    Error::new(ErrorKind::InvalidState, "AlreadyStarted", what)
}

/// The writing end of the FIFO in `state`; `None` if nobody has it open for reading, or it is gone.
fn open_writer(state: &Path) -> Result<Option<OwnedFd>> {
    let path = state.join(state::START);
    match open(&path, OFlags::WRONLY | OFlags::NONBLOCK) {
        Ok(writer) => Ok(Some(writer)),
        Err(Errno::NXIO | Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::os(format!("open {path:?}"), errno)),
    }
}

fn open(path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}
