//! Stopping a group, and killing what is in it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::file::{read, write};
use super::layout::Version;
use super::{Cgroup, PATIENCE, tree};
use crate::{Error, ErrorKind, Result};

impl Cgroup {
    /// Stops all processes in the group and below it, until [`Self::thaw`].
    ///
    /// # Errors
    /// `Unsupported` (`ControllerUnavailable`) where the host has no freezer; `TimedOut` if something
    /// still runs after two seconds, and then everything does.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer()?;
        let stopped = freezer
            .set(true)
            .and_then(|()| freezer.wait(Instant::now() + PATIENCE));
        stopped.map_err(|error| match freezer.set(false) {
            Err(cleanup) => error.with_cleanup([cleanup]),
            Ok(()) => error,
        })
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// `Unsupported` as [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.set(false)?;
        // Where there are both versions, somebody else may have stopped it by the other one.
        self.freezers()
            .skip(1)
            .try_for_each(|other| other.set(false))
    }

    /// Whether its processes are stopped, or about to be; by whomever and by whichever version.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn is_frozen(&self) -> Result<bool> {
        for freezer in self.freezers() {
            // Version 1 tells by the same file, and has a word more for what is about to stop.
            if read(&freezer.file)?.trim() != freezer.words.1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Kills everything in the group and below it; frozen processes die, too.
    ///
    /// # Errors
    /// `Busy` (`ProcessesAlive`) if something is still alive after two seconds.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(group) = self.unified() {
            // Linux 5.14. What is left, or came in by version 1 alone, is killed one by one.
            let _ = write(&group.directory.join("cgroup.kill"), "1");
        }
        let mut pause = Duration::from_micros(100);
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!(
                    "kill the processes of cgroup {}: {pids:?} live on",
                    self.path
                );
                return Err(Error::new(ErrorKind::Busy, "ProcessesAlive", what).with_retry());
            }
            self.kill_each(deadline)?;
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Kills what is in the group now. It is stopped meanwhile where that can be, so that nothing
    /// forks away, and goes on again whatever fails.
    fn kill_each(&self, deadline: Instant) -> Result<()> {
        let freezer = self.freezer().ok();
        if let Some(freezer) = &freezer {
            // A group that does not stop in time is killed as it runs.
            let soon = deadline.min(Instant::now() + Duration::from_millis(100));
            let _ = freezer.set(true).and_then(|()| freezer.wait(soon));
        }
        let killed = self.pids().and_then(|pids| {
            let held: Vec<_> = pids.into_iter().filter_map(hold).collect();
            // A number that is still listed was not given to another process before it was held.
            let still = self.pids()?;
            for (pid, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                match pidfd_send_signal(process, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(Error::os(format!("kill process {pid}"), errno)),
                }
            }
            Ok(())
        });
        let thawed = freezer.map_or(Ok(()), |freezer| freezer.thaw_all());
        killed.and(thawed)
    }

    /// The unified one if there is one: what it stops can still be killed.
    fn freezer(&self) -> Result<Freezer> {
        self.freezers().next().ok_or_else(|| {
            let what = format!("freeze cgroup {}: this host has no freezer", self.path);
            Error::new(ErrorKind::Unsupported, "ControllerUnavailable", what)
        })
    }

    fn freezers(&self) -> impl Iterator<Item = Freezer> {
        let unified = self.unified().map(|group| Freezer {
            version: Version::V2,
            file: group.directory.join("cgroup.freeze"),
            words: ("1", "0"),
            report: group.directory.join("cgroup.events"),
            stopped: "frozen 1",
        });
        let unified = unified.filter(|freezer| freezer.file.exists());
        let of_version_1 = self.group_with("freezer").and_then(|(version, group)| {
            let file = group.join("freezer.state");
            (version == Version::V1).then(|| Freezer {
                version,
                report: file.clone(),
                file,
                words: ("FROZEN", "THAWED"),
                stopped: "FROZEN",
            })
        });
        unified.into_iter().chain(of_version_1)
    }
}

/// The files that stop a group and tell that it has stopped.
struct Freezer {
    version: Version,
    file: PathBuf,
    words: (&'static str, &'static str),
    report: PathBuf,
    stopped: &'static str,
}

impl Freezer {
    fn set(&self, frozen: bool) -> Result<()> {
        write(&self.file, if frozen { self.words.0 } else { self.words.1 })
    }

    /// Lets groups below go on, too, that stopped themselves: version 1 kills nothing there.
    fn thaw_all(&self) -> Result<()> {
        self.set(false)?;
        match (self.version, self.file.parent()) {
            (Version::V1, Some(group)) => tree::write_below(group, c"freezer.state", self.words.1),
            _ => Ok(()),
        }
    }

    fn wait(&self, deadline: Instant) -> Result<()> {
        let mut pause = Duration::from_micros(50);
        while !read(&self.report)?.lines().any(|line| line == self.stopped) {
            if Instant::now() > deadline {
                let what = format!("wait for {:?} in {:?}", self.stopped, self.report);
                return Err(Error::new(ErrorKind::TimedOut, "NotFrozen", what).with_retry());
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Opens a process by its number; `None` if it is gone.
fn hold(pid: i32) -> Option<(i32, OwnedFd)> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    Some((pid, process))
}
