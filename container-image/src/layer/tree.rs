//! The directory that is unpacked into: resolving, making and removing inside it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::entry::{MAX_PATH_BYTES, clean, show, too_long};
use super::whiteout::lookup;
use crate::{Error, ErrorKind, Result};

/// An open directory in which entries are made.
#[derive(Debug)]
pub(super) struct Parent {
    /// Opened as a path only.
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

/// A directory from which no path leads out.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The parents used last, most recent last. Emptied when anything that may be part of a path
    /// is removed.
    recent: Vec<(Vec<u8>, Rc<Parent>)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            recent: Vec::with_capacity(RECENT),
        }
    }

    /// A parent that was opened lately.
    pub(super) fn recent(&self, path: &[u8]) -> Option<Rc<Parent>> {
        let found = self.recent.iter().rev().find(|(known, _)| known == path);
        found.map(|(_, parent)| Rc::clone(parent))
    }

    /// Opens the directory `path`; symbolic links lead to where they do inside the root.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<Rc<Parent>, Errno> {
        let fd = self.resolve(path, OFlags::PATH, ResolveFlags::IN_ROOT)?;
        let stat = rustix::fs::fstat(&fd)?;
        let parent = Rc::new(Parent { fd, stat });
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push((path.to_vec(), Rc::clone(&parent)));
        Ok(parent)
    }

    /// Opens the directory `path` if no symbolic link leads there.
    pub(super) fn open_plain(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.resolve(
            path,
            OFlags::PATH,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    /// Opens the directory `path`, itself no symbolic link, for reading.
    pub(super) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.resolve(
            path,
            OFlags::RDONLY | OFlags::NOFOLLOW,
            ResolveFlags::IN_ROOT,
        )
    }

    /// Finds the longest part of `path` that leads to a directory.
    ///
    /// Gives a path that means the same (dangling links on the way are replaced by what they point
    /// to) and the length of that part.
    pub(super) fn existing_part(&self, path: &[u8]) -> Result<(Vec<u8>, usize)> {
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let length = self.longest_directory(&path)?;
            let rest = path[length..].strip_prefix(b"/").unwrap_or(&path[length..]);
            if rest.is_empty() {
                return Ok((path, length));
            }
            let name = rest.split(|byte| *byte == b'/').next().unwrap_or(rest);
            let doing = |error| Error::os(format!("resolve {}", show(&path)), error);
            let parent = self
                .resolve(&path[..length], OFlags::PATH, ResolveFlags::IN_ROOT)
                .map_err(doing)?;
            let target = match rustix::fs::readlinkat(&parent, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok((path, length)),
                Err(error) => return Err(doing(error)),
            };
            path = self.follow(&path, length, name.len(), &target)?;
        }
        let doing = format!("resolve {}: too many symbolic links", show(&path));
        Err(Error::os(doing, Errno::LOOP))
    }

    /// Forgets the parents used last; to be called when a directory or link went.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }

    /// Removes `name` with all that is in it, but what `keep` wants, which is asked with the inode
    /// of a directory and a name in it. Succeeds if there is nothing.
    pub(super) fn remove(
        &mut self,
        parent: &Parent,
        name: &[u8],
        keep: &dyn Fn(u64, &[u8]) -> bool,
    ) -> Result<()> {
        let doing = |error| Error::os(format!("remove {}", show(name)), error);
        let Some(stat) = lookup(parent.fd.as_fd(), name).map_err(doing)? else {
            return Ok(());
        };
        self.forget();
        let own = keep(parent.stat.st_ino, name);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let directory = open_child(parent.fd.as_fd(), name).map_err(doing)?;
            let rest = empty(directory, keep).map_err(|error| error.context(show(name)))?;
            if rest || own {
                return Ok(());
            }
            return rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR).map_err(doing);
        }
        if own {
            return Ok(());
        }
        rustix::fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(doing)
    }

    /// Removes the directory `name` if nothing is in it.
    pub(super) fn remove_empty(&mut self, parent: &Parent, name: &[u8]) -> Result<()> {
        self.forget();
        match rustix::fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
            Err(error) => Err(Error::os(format!("remove {}", show(name)), error)),
        }
    }

    /// Removes all that is in a directory, but what `keep` wants.
    pub(super) fn empty(
        &mut self,
        parent: &Parent,
        keep: &dyn Fn(u64, &[u8]) -> bool,
    ) -> Result<()> {
        self.forget();
        let directory = open_child(parent.fd.as_fd(), b".")
            .map_err(|error| Error::os("open an opaque directory", error))?;
        empty(directory, keep).map(|_| ())
    }

    /// The longest prefix of `path`, in whole components, that leads to a directory.
    fn longest_directory(&self, path: &[u8]) -> Result<usize> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut ends: Vec<_> = slashes.map(|(index, _)| index).collect();
        ends.push(path.len());
        let (mut length, mut low, mut high) = (0, 0, ends.len());
        while low < high {
            let middle = low.midpoint(high);
            let prefix = &path[..ends[middle]];
            match self.resolve(prefix, OFlags::PATH, ResolveFlags::IN_ROOT) {
                Ok(_) => (length, low) = (ends[middle], middle + 1),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => high = middle,
                Err(error) => return Err(Error::os(format!("resolve {}", show(prefix)), error)),
            }
        }
        Ok(length)
    }

    /// Puts `target` in the place of the link that is the component of `size` behind `length`.
    fn follow(&self, path: &[u8], length: usize, size: usize, target: &[u8]) -> Result<Vec<u8>> {
        let start = if length == 0 { 0 } else { length + 1 };
        let base: &[u8] = if target.starts_with(b"/") {
            b""
        } else {
            &path[..length]
        };
        let whole = [base, b"/", target, b"/", &path[start + size..]].concat();
        if whole.len() > 2 * MAX_PATH_BYTES {
            return Err(too_long(&whole));
        }
        // As in the kernel, nothing is above the root.
        let mut depth = 0_usize;
        let inside = whole
            .split(|byte| *byte == b'/')
            .filter(|component| match *component {
                b".." if depth == 0 => false,
                b".." => {
                    depth -= 1;
                    true
                }
                b"" | b"." => false,
                _ => {
                    depth += 1;
                    true
                }
            });
        clean(&inside.collect::<Vec<_>>().join(&b'/'))
    }

    fn resolve(&self, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                // Something was renamed meanwhile, anywhere.
                Err(Errno::AGAIN) if tries < MAX_TRIES => tries += 1,
                result => return result,
            }
        }
    }
}

/// Makes the directory `name`, or opens the one that is there, for reading; the flag tells which.
/// Anything else with that name stays and is an error, `NOTDIR` or `LOOP`.
pub(super) fn make_directory(
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(OwnedFd, bool), Errno> {
    let made = match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error),
    };
    Ok((open_child(parent, name)?, made))
}

/// Changes the mode of `name`, which must not be a symbolic link.
pub(super) fn change_mode(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
    let (mode, flag) = (
        Mode::from_bits_truncate(mode),
        FchmodatFlags::NoFollowSymlink,
    );
    fchmodat(parent, name, mode, flag).map_err(|error| Errno::from_raw_os_error(error as i32))
}

/// Opens a directory for reading, for which its owner need not have the permission.
fn open_child(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {
            change_mode(parent, name, 0o700)?;
            rustix::fs::openat(parent, name, flags, Mode::empty())
        }
        result => result,
    }
}

/// One directory on the way down in [`empty`].
struct Level {
    inode: u64,
    name: CString,
    directories: Vec<CString>,
    kept: bool,
    /// The mode that it had, if that kept its owner from changing it.
    closed: Option<u32>,
}

/// Removes all that is in `directory`, but what `keep` wants; tells whether anything is left.
///
/// Holds two descriptors whatever the depth, follows no link and leaves other file systems alone.
fn empty(directory: OwnedFd, keep: &dyn Fn(u64, &[u8]) -> bool) -> Result<bool> {
    let doing = |error| Error::os("empty a directory", error);
    let top = rustix::fs::fstat(&directory).map_err(doing)?;
    let mut current = directory;
    let mut levels = vec![level(&current, &top, c".".into(), keep).map_err(doing)?];
    loop {
        let Some(last) = levels.last_mut() else {
            return Ok(false);
        };
        if let Some(name) = last.directories.pop() {
            let child = open_child(current.as_fd(), name.to_bytes()).map_err(doing)?;
            let stat = rustix::fs::fstat(&child).map_err(doing)?;
            if stat.st_dev != top.st_dev {
                let doing = format!("remove {name:?}: another file system is mounted there");
                return Err(Error::new(ErrorKind::Busy, "CrossesDevice", doing));
            }
            levels.push(level(&child, &stat, name, keep).map_err(doing)?);
            current = child;
            continue;
        }
        let Some(done) = levels.pop() else {
            return Ok(false);
        };
        if let Some(mode) = done.closed.filter(|_| done.kept) {
            change_mode(current.as_fd(), b".", mode).map_err(doing)?;
        }
        let Some(above) = levels.last_mut() else {
            return Ok(done.kept);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let up = rustix::fs::openat(&current, "..", flags, Mode::empty()).map_err(doing)?;
        if rustix::fs::fstat(&up).map_err(doing)?.st_ino != above.inode {
            let doing = format!("empty {:?}: it was moved meanwhile", done.name);
            return Err(Error::new(ErrorKind::InvalidState, "TreeChanged", doing));
        }
        current = up;
        if done.kept || keep(above.inode, done.name.to_bytes()) {
            above.kept = true;
        } else {
            let flags = AtFlags::REMOVEDIR;
            rustix::fs::unlinkat(&current, &done.name, flags).map_err(doing)?;
        }
    }
}

/// Removes the files of one directory and lists the directories in it.
fn level(
    directory: &OwnedFd,
    stat: &Stat,
    name: CString,
    keep: &dyn Fn(u64, &[u8]) -> bool,
) -> Result<Level, Errno> {
    let (inode, mode) = (stat.st_ino, stat.st_mode & 0o7777);
    let closed = (mode & 0o700 != 0o700).then_some(mode);
    if closed.is_some() {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode | 0o700))?;
    }
    let directories = Vec::new();
    let mut level = Level {
        inode,
        name,
        directories,
        kept: false,
        closed,
    };
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = lookup(directory.as_fd(), name.to_bytes())?;
                stat.map_or(FileType::Unknown, |stat| {
                    FileType::from_raw_mode(stat.st_mode)
                })
            }
            kind => kind,
        };
        if kind == FileType::Directory {
            level.directories.push(name.to_owned());
        } else if keep(inode, name.to_bytes()) {
            level.kept = true;
        } else {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(level)
}

/// How many parents are kept open.
const RECENT: usize = 4;

/// How many symbolic links one path may lead through, as in the kernel.
const MAX_LINKS: usize = 40;

/// How often a resolution that met a rename is repeated.
const MAX_TRIES: usize = 128;
