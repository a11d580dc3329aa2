//! Notice of processes that the kernel kills for want of memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use super::layout::Version;
use super::{Cgroup, file, tree};
use crate::{Error, ErrorKind, Result};

/// Tells when the kernel runs out of memory for a group. Made by [`Cgroup::oom_events`].
///
/// Nothing is lost: what happened before it was made, and between two reads, is told by the next
/// read. Its descriptor ([`AsFd`]) becomes readable when there may be something to read.
#[derive(Debug)]
pub struct OomEvents {
    version: Version,
    /// An event counter in version 1, a watch in version 2.
    source: OwnedFd,
    /// Holds the kills.
    file: PathBuf,
    /// What has been told so far, of the kills.
    told: u64,
}

impl Cgroup {
    /// Watches for processes that the kernel kills for want of memory.
    ///
    /// # Errors
    /// `Unsupported` (`ControllerUnavailable`) without a memory controller; `Os` if the group is gone.
    pub fn oom_events(&self) -> Result<OomEvents> {
        let Some((version, group)) = self.group_with("memory") else {
            let what = format!(
                "watch the memory of cgroup {}: it has no controller",
                self.path()
            );
            return Err(Error::new(
                ErrorKind::Unsupported,
                "ControllerUnavailable",
                what,
            ));
        };
        let path = group.join(file(version));
        let failed = |errno| Error::os(format!("watch {path:?}"), errno);
        let source = match version {
            Version::V1 => {
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                let source = eventfd(0, flags).map_err(failed)?;
                let control = file::open(&path, OFlags::RDONLY)?;
                let request = format!("{} {}", raw(&source), raw(&control));
                file::write(&group.join("cgroup.event_control"), &request)?;
                source
            }
            Version::V2 => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let source = inotify::init(flags).map_err(failed)?;
                inotify::add_watch(&source, &path, inotify::WatchFlags::MODIFY).map_err(failed)?;
                source
            }
        };
        Ok(OomEvents {
            version,
            source,
            file: path,
            told: 0,
        })
    }
}

impl OomEvents {
    /// How often it happened since the last call, or since the group was made; `None` when the group is
    /// gone. Does not block.
    ///
    /// # Errors
    /// `Os` if the kernel does not say.
    pub fn read(&mut self) -> Result<Option<u64>> {
        let mut bytes = [0_u8; 512];
        let mut signals = 0;
        loop {
            match rustix::io::read(&self.source, &mut bytes) {
                Ok(8) if self.version == Version::V1 => {
                    let number = bytes.first_chunk().copied().unwrap_or_default();
                    signals = u64::from_ne_bytes(number);
                }
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    return Err(Error::os(
                        format!("read the watch of {:?}", self.file),
                        errno,
                    ));
                }
            }
            if self.version == Version::V1 {
                break;
            }
        }
        let kills = match kills(self.version, &self.file) {
            Ok(kills) => kills,
            Err(error) if is_gone(&error) => {
                // The removal is a signal, too.
                return Ok(Some(signals.saturating_sub(1)).filter(|events| *events > 0));
            }
            Err(error) => return Err(error),
        };
        // Version 1 signals just before it kills, and also where it may not kill.
        let new = kills.saturating_sub(self.told).max(signals);
        self.told = self.told.saturating_add(new).max(kills);
        Ok(Some(new))
    }

    /// Waits until it happens, for `limit` at most; gives what [`read`](Self::read) gives: 0 when the time
    /// is over, `None` when the group is gone.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Option<u64>> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            match self.read()? {
                Some(0) => {}
                told => return Ok(told),
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Some(0));
            }
            // Version 2 does not tell of the removal of a group.
            let slice = left.unwrap_or(SLICE).min(SLICE);
            let slice = Timespec::try_from(slice).ok();
            let mut ready = [PollFd::new(&self.source, PollFlags::IN)];
            match poll(&mut ready, slice.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os(format!("wait for {:?}", self.file), errno)),
            }
        }
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// The file that holds the number of kills.
pub(super) fn file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.oom_control",
        Version::V2 => "memory.events",
    }
}

/// The kills in the group whose file is `file`, and below it; kernels before 4.13 do not count them.
pub(super) fn kills(version: Version, file: &Path) -> Result<u64> {
    let count = |text: &str| file::numbers(text).get("oom_kill").copied().unwrap_or(0);
    let own = count(&file::read(file)?);
    let (Version::V1, Some(group), Some(name)) = (version, file.parent(), file.file_name()) else {
        return Ok(own);
    };
    // Version 1 counts a kill only where the process was.
    let mut all = own;
    tree::read_below(group, name, &mut |text| all += count(text))?;
    Ok(all)
}

fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.kind() == ErrorKind::Os(Errno::NODEV.raw_os_error())
}

fn raw(descriptor: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(descriptor)
}

const SLICE: Duration = Duration::from_millis(250);
