//! Groups below a group: who is in them, and their removal.
//!
//! What runs in a group may have made groups of its own, however many and deep. They are walked by
//! descriptor, one name at a time, so that neither depth nor names matter.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::file;
use crate::{Error, Result};

/// Removes `group` with all below it; waits until `deadline` for processes that are about to end.
pub(super) fn remove(group: &Path, deadline: Instant) -> Result<()> {
    let failed = |errno| Error::os(format!("remove cgroup {group:?}"), errno);
    match unlinkat(CWD, group, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let mut below = Vec::new();
    let walked = walk(group, &mut |parent, name| {
        let removed = retry(deadline, || unlinkat(parent, name, AtFlags::REMOVEDIR));
        if let Err(errno) = removed {
            below.push(Error::os(
                format!("remove cgroup {name:?} below {group:?}"),
                errno,
            ));
        }
        Ok(())
    });
    match walked.and_then(|()| retry(deadline, || unlinkat(CWD, group, AtFlags::REMOVEDIR))) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno).with_retry().with_cleanup(below)),
    }
}

/// Gives the processes in `group` and all below it, as this PID namespace numbers them.
pub(super) fn pids(group: &Path) -> Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    let outcome = open(CWD, group).and_then(|directory| {
        read_pids(&directory, &mut pids)?;
        walk(group, &mut |parent, name| {
            read_pids(&open(parent, name)?, &mut pids)
        })
    });
    tolerate(outcome, "list the processes of", group).map(|()| pids)
}

/// Gives the processes in `group` itself.
pub(super) fn own_pids(group: &Path) -> Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    let outcome = open(CWD, group).and_then(|directory| read_pids(&directory, &mut pids));
    tolerate(outcome, "list the processes of", group).map(|()| pids)
}

/// Gives the names of the groups directly below `group` that are UTF-8.
pub(super) fn children(group: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let outcome = open(CWD, group).and_then(|directory| {
        let all = names_below(&directory)?;
        names.extend(all.into_iter().filter_map(|name| name.into_string().ok()));
        Ok(())
    });
    tolerate(outcome, "list the groups below", group).map(|()| names)
}

/// Gives the names of all files of `group`.
pub(super) fn files(group: &Path) -> Result<Vec<String>> {
    let entries = |errno| Error::os(format!("list the files of cgroup {group:?}"), errno);
    match std::fs::read_dir(group) {
        Ok(list) => {
            let names = list.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<std::io::Result<_>>().map_err(entries)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(entries(error)),
    }
}

/// Reads the file `name` of every group below `group`.
pub(super) fn read_below(group: &Path, name: &OsStr, visit: &mut dyn FnMut(&str)) -> Result<()> {
    let outcome = walk(group, &mut |parent, child| {
        visit(&String::from_utf8_lossy(&read_all(
            &open(parent, child)?,
            name,
        )?));
        Ok(())
    });
    tolerate(outcome, "read what is below", group)
}

/// Writes `value` to the file `name` of every group below `group`.
pub(super) fn write_below(group: &Path, name: &CStr, value: &str) -> Result<()> {
    let outcome = walk(group, &mut |parent, child| {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(open(parent, child)?, name, flags, Mode::empty())?;
        rustix::io::write(file, value.as_bytes()).map(drop)
    });
    tolerate(outcome, "write to what is below", group)
}

/// That a group is gone is no failure.
fn tolerate(outcome: Result<(), Errno>, doing: &str, group: &Path) -> Result<()> {
    match outcome {
        Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
        Err(errno) => Err(Error::os(format!("{doing} cgroup {group:?}"), errno)),
    }
}

/// Visits every group below `top` after those below it. A group that vanishes is passed over.
fn walk(
    top: &Path,
    visit: &mut dyn FnMut(&OwnedFd, &CString) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut current = open(CWD, top)?;
    // The way from `top` to `current`, each with the names beside it that are still to come.
    let mut way: Vec<(CString, Vec<CString>)> = Vec::new();
    let mut pending = names_below(&current)?;
    loop {
        if let Some(name) = pending.pop() {
            match open(&current, &name) {
                Ok(child) => {
                    let below = names_below(&child)?;
                    way.push((name, std::mem::replace(&mut pending, below)));
                    current = child;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        let Some((name, beside)) = way.pop() else {
            return Ok(());
        };
        current = open(&current, c"..")?;
        match visit(&current, &name) {
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => return Err(errno),
        }
        pending = beside;
    }
}

fn open(parent: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn names_below(group: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(group)? {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn read_pids(group: &OwnedFd, pids: &mut BTreeSet<i32>) -> Result<(), Errno> {
    let bytes = match read_all(group, c"cgroup.procs") {
        // A threaded group: the group above lists its processes.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        bytes => bytes?,
    };
    // 0 stands for a process outside of this PID namespace.
    let numbers = String::from_utf8_lossy(&bytes);
    pids.extend(
        numbers
            .lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    Ok(())
}

fn read_all(group: &OwnedFd, name: impl rustix::path::Arg) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    file::read_all(&openat(group, name, flags, Mode::empty())?)
}

/// Tries again while the group is busy, with pauses that double.
fn retry(deadline: Instant, attempt: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Err(Errno::BUSY) if Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(Errno::NOENT) => return Ok(()),
            outcome => return outcome,
        }
    }
}

/// A process that was killed is gone after some tenths of a millisecond.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
