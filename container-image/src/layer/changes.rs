//! Changes: the layer that makes one tree of another.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::entry::show;
use super::pack::{PackOptions, Packed, Walk, names_in, open_directory, portable};
use super::whiteout::{self, lookup};
use super::{Whiteouts, xattr};
use crate::{Error, Result};

/// Writes what makes the tree `new` out of the tree `old` to `output` as a layer.
///
/// As with [`pack`](super::pack()), the same trees give the same archive. A file is taken for unchanged
/// if type, owner, mode, size, time to the nanosecond and extended attributes are the same: contents
/// are not compared. All names of a file that has several are in the layer if one of them is new or
/// changed. Both trees are complete by themselves: `options.whiteouts` has to be [`Whiteouts::Apply`].
///
/// # Errors
/// As [`pack`](super::pack()); `Unsupported` for another form of whiteouts.
pub fn pack_changes(
    old: BorrowedFd<'_>,
    new: BorrowedFd<'_>,
    output: impl Write,
    options: &PackOptions,
) -> Result<Packed> {
    if options.whiteouts != Whiteouts::Apply {
        let doing = "pack changes between trees with marks of deletions";
        return Err(Error::new(
            crate::ErrorKind::Unsupported,
            "Unsupported",
            doing,
        ));
    }
    let mut changes = Changes {
        old,
        new,
        walk: Walk::new(new, output, options)?,
        linked: HashSet::new(),
        looking: true,
    };
    // Files of several names are found first, as the name that changes may come last.
    changes.run()?;
    changes.looking = false;
    changes.run()?;
    Ok(changes.walk.packer.finish()?.0)
}

struct Changes<'a, W: Write> {
    old: BorrowedFd<'a>,
    new: BorrowedFd<'a>,
    walk: Walk<'a, W>,
    /// Files of several names that are in the layer, by device and inode.
    linked: HashSet<(u64, u64)>,
    /// Whether nothing is packed yet.
    looking: bool,
}

/// A directory on the way down.
struct Level {
    path: Vec<u8>,
    /// What is still to come, in the new tree or gone from the old one; last first.
    names: Vec<Vec<u8>>,
    /// Whether the old tree has the directory, too.
    in_old: bool,
}

impl<W: Write> Changes<'_, W> {
    fn run(&mut self) -> Result<()> {
        let mut new = open_directory(self.new, b"")?;
        let mut old = Some(open_directory(self.old, b"")?);
        let mut levels = vec![self.enter(Vec::new(), &new, old.as_ref())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                if let Some(above) = levels.last() {
                    (new, old) = self.open(above)?;
                }
                continue;
            };
            let path = match level.path.is_empty() {
                true => name.clone(),
                false => [&level.path, &b"/"[..], &name].concat(),
            };
            let doing = |error| Error::os(format!("look at {}", show(&path)), error);
            let now = lookup(new.as_fd(), &name).map_err(doing)?;
            let before = match &old {
                Some(old) => lookup(old.as_fd(), &name).map_err(doing)?,
                None => None,
            };
            match (before, now) {
                (_, Some(now)) if is_directory(&now) => {
                    self.walk.check_name(&path, &name)?;
                    let in_old = before.as_ref().is_some_and(is_directory);
                    let next = Level {
                        path,
                        names: Vec::new(),
                        in_old,
                    };
                    (new, old) = self.open(&next)?;
                    levels.push(self.enter(next.path, &new, old.as_ref())?);
                }
                (before, Some(now)) => {
                    self.file(path, &name, (old.as_ref(), before), (&new, now))?;
                }
                (Some(before), None) if !self.looking => {
                    let parent = &path[..path.len() - name.len()];
                    let path = [parent, whiteout::PREFIX, &name].concat();
                    self.walk.whiteout(&path, &before)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn open(&self, level: &Level) -> Result<(OwnedFd, Option<OwnedFd>)> {
        let new = open_directory(self.new, &level.path)?;
        let old = match level.in_old {
            true => Some(open_directory(self.old, &level.path)?),
            false => None,
        };
        Ok((new, old))
    }

    /// Packs the entry of a directory if it changed, and lists what there is to compare.
    fn enter(&mut self, path: Vec<u8>, new: &OwnedFd, old: Option<&OwnedFd>) -> Result<Level> {
        let doing = |error| Error::os(format!("read directory {}", show(&path)), error);
        let mut names: BTreeSet<_> = names_in(new).map_err(doing)?.into_iter().collect();
        let mut changed = true;
        if let Some(old) = old {
            names.extend(names_in(old).map_err(doing)?);
            changed = !same(old, new).map_err(doing)?;
        }
        if changed && !self.looking {
            self.walk.directory(new, &path)?;
        }
        Ok(Level {
            path,
            names: names.into_iter().rev().collect(),
            in_old: old.is_some(),
        })
    }

    /// Packs a file if it changed.
    fn file(
        &mut self,
        path: Vec<u8>,
        name: &[u8],
        (old, before): (Option<&OwnedFd>, Option<Stat>),
        (new, now): (&OwnedFd, Stat),
    ) -> Result<()> {
        let linked = now.st_nlink > 1;
        let inode = (now.st_dev, now.st_ino);
        let doing = |error| Error::os(format!("compare {}", show(&path)), error);
        let changed = match (old, before) {
            _ if linked && self.linked.contains(&inode) => true,
            (Some(old), Some(before)) => {
                !same_file((old, &before), (new, &now), name).map_err(doing)?
            }
            _ => true,
        };
        if changed && linked {
            self.linked.insert(inode);
        }
        match changed && !self.looking {
            true => self.walk.file(new, path, name, &now),
            false => Ok(()),
        }
    }
}

/// Whether two open directories look the same from outside.
fn same(old: &OwnedFd, new: &OwnedFd) -> Result<bool, Errno> {
    let (before, now) = (rustix::fs::fstat(old)?, rustix::fs::fstat(new)?);
    Ok(same_stat(&before, &now) && attributes(old)? == attributes(new)?)
}

/// Whether `name` is the same in both directories, as far as it can be told without its contents.
fn same_file(
    (old, before): (&OwnedFd, &Stat),
    (new, now): (&OwnedFd, &Stat),
    name: &[u8],
) -> Result<bool, Errno> {
    let special = |stat: &Stat| (stat.st_rdev, stat.st_size);
    if !same_stat(before, now) || special(before) != special(now) {
        return Ok(false);
    }
    match FileType::from_raw_mode(now.st_mode) {
        FileType::Symlink => {
            let target = |directory: &OwnedFd| rustix::fs::readlinkat(directory, name, Vec::new());
            Ok(target(old)? == target(new)?)
        }
        FileType::RegularFile => {
            let open = |directory: &OwnedFd| {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::openat(directory, name, flags, Mode::empty())
            };
            Ok(attributes(&open(old)?)? == attributes(&open(new)?)?)
        }
        _ => Ok(true),
    }
}

fn same_stat(before: &Stat, now: &Stat) -> bool {
    let seen = |stat: &Stat| {
        let time = (stat.st_mtime, stat.st_mtime_nsec);
        (stat.st_mode, stat.st_uid, stat.st_gid, time)
    };
    seen(before) == seen(now)
}

/// The extended attributes that belong to the image.
fn attributes(file: &OwnedFd) -> Result<Vec<(std::ffi::OsString, Vec<u8>)>, Errno> {
    portable(file.as_fd(), &xattr::list(file.as_fd())?)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}
