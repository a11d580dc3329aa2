//! What programs write, kept until they have ended.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use container_core::ExitStatus;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

/// What is kept of one stream at most, in bytes.
const MAX_OUTPUT: usize = 256 << 20;

/// What a program that ran to its end gave.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// A program whose output is collected.
pub(crate) trait Writer {
    /// Becomes readable when the state of the program changes.
    fn status_fd(&self) -> BorrowedFd<'_>;
    /// How the program ended, if it has.
    fn try_wait(&self) -> Result<Option<ExitStatus>>;
    fn wait(&self) -> Result<ExitStatus>;
    fn kill(&self) -> Result<()>;
}

/// Reads standard output and error to their end, or, where something else keeps them open, until the
/// program has ended.
///
/// # Errors
/// `InvalidState` (`OutputTooLarge`); the program is killed then.
pub(crate) fn collect(program: &impl Writer, streams: [Option<File>; 2]) -> Result<Output> {
    let mut kept = [Vec::new(), Vec::new()];
    let mut open = streams;
    for stream in open.iter().flatten() {
        // The end is ours alone.
        let flags =
            fcntl_getfl(stream).and_then(|flags| fcntl_setfl(stream, flags | OFlags::NONBLOCK));
        flags.map_err(|errno| Error::os("make a pipe non-blocking", errno))?;
    }
    let mut ended = false;
    while !ended && open.iter().any(Option::is_some) {
        let mut waits = vec![PollFd::from_borrowed_fd(program.status_fd(), PollFlags::IN)];
        waits.extend(
            open.iter()
                .flatten()
                .map(|stream| PollFd::new(stream, PollFlags::IN)),
        );
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("wait for output", errno)),
        }
        // Asked before reading: what was written before the end is there then.
        ended = !waits[0].revents().is_empty() && !matches!(program.try_wait(), Ok(None));
        for (stream, bytes) in open.iter_mut().zip(&mut kept) {
            if let Some(file) = stream
                && drain(file, bytes)?
            {
                *stream = None;
            }
        }
        if kept.iter().any(|bytes| bytes.len() > MAX_OUTPUT) {
            program.kill()?;
            let what = format!("keep the output of a program: more than {MAX_OUTPUT} bytes");
            return Err(Error::new(ErrorKind::InvalidState, "OutputTooLarge", what));
        }
    }
    let [stdout, stderr] = kept;
    Ok(Output {
        status: program.wait()?,
        stdout,
        stderr,
    })
}

/// Reads what is there, and a little more than is kept at most; tells whether that is all there will be.
fn drain(file: &mut File, bytes: &mut Vec<u8>) -> Result<bool> {
    let room = (MAX_OUTPUT + 1).saturating_sub(bytes.len());
    match file.take(room as u64).read_to_end(bytes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(Error::os("read the output of a program", error)),
    }
}
