//! Copies of directory trees with all that belongs to them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::tree::{Cursor, Entry};
use crate::{Error, Result, metadata, tree};

/// Copies what is in `from`, and the metadata of `from` itself, into the empty directory `to`.
///
/// Owners, modes, times, xattrs, hard links, holes, devices, FIFOs and sockets come along; blocks
/// are shared where the file system can (`FICLONE`).
pub(crate) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut copy = Copy {
        to,
        cursor: Cursor::new(to, PathBuf::new()),
        links: HashMap::new(),
        clones: true,
    };
    tree::walk(from, &mut |directory, entry| copy.entry(directory, entry))?;
    // Times of directories come last, when nothing is put into them any more.
    tree::walk(from, &mut |_, entry| {
        if !entry.is_directory() {
            return Ok(());
        }
        metadata::copy_times(&entry.stat, copy.directory_of(&entry.path)?, entry.name())
            .map_err(|e| Error::os(format!("set the times of {:?}", entry.path), e))
    })?;
    let here = OsStr::new(".");
    rustix::fs::fstat(from)
        .and_then(|stat| metadata::copy(from, here, &stat, to, here, metadata::every))
        .map_err(|e| Error::os("copy the metadata of a snapshot's root", e))
}

struct Copy<'a> {
    to: BorrowedFd<'a>,
    /// Where the copy goes on: entries come one directory after the other.
    cursor: Cursor<'a>,
    /// The first copy of each file that has several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    /// Whether the file system may share blocks; asked until it says no.
    clones: bool,
}

impl Copy<'_> {
    fn entry(&mut self, from: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
        let name = entry.name();
        let os = |e: Errno| Error::os(format!("copy {:?} of a snapshot", entry.path), e);
        if !entry.is_directory() && entry.stat.st_nlink > 1 {
            let inode = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                let (above, old) = split(&first);
                let above = tree::open_beneath(self.to, above)?;
                let new = self.directory_of(&entry.path)?;
                return rustix::fs::linkat(above, old, new, name, AtFlags::empty()).map_err(os);
            }
            self.links.insert(inode, entry.path.clone());
        }
        let clones = self.clones;
        let to = self.directory_of(&entry.path)?;
        self.clones = make(from, entry, to, clones).map_err(os)?;
        Ok(())
    }

    /// The directory of the copy that takes `path`.
    fn directory_of(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        self.cursor.go(split(path).0)
    }
}

/// Makes one file or directory; tells whether it is worth trying to clone the next one.
fn make(
    from: BorrowedFd<'_>,
    entry: &Entry,
    to: BorrowedFd<'_>,
    mut clones: bool,
) -> Result<bool, Errno> {
    let name = entry.name();
    let private = Mode::RUSR | Mode::WUSR;
    match FileType::from_raw_mode(entry.stat.st_mode) {
        FileType::Directory => rustix::fs::mkdirat(to, name, Mode::RWXU)?,
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags;
            let target = rustix::fs::openat(to, name, flags, private)?;
            clones = content(&source, &target, &entry.stat, clones)?;
        }
        FileType::Symlink => {
            let text = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(text, to, name)?;
        }
        kind => rustix::fs::mknodat(to, name, kind, private, entry.stat.st_rdev)?,
    }
    metadata::copy(from, name, &entry.stat, to, name, metadata::every)?;
    Ok(clones)
}

/// The directory of a path and the name in it.
fn split(path: &Path) -> (&Path, &OsStr) {
    (
        path.parent().unwrap_or(Path::new("")),
        path.file_name().unwrap_or_default(),
    )
}

/// Copies the bytes of a file, sharing blocks if `clone` says that it is worth trying; tells
/// whether it was.
fn content(from: &OwnedFd, to: &OwnedFd, stat: &Stat, clone: bool) -> Result<bool, Errno> {
    if clone {
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => return Ok(true),
            Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    let size = u64::try_from(stat.st_size).map_err(|_| Errno::INVAL)?;
    rustix::fs::ftruncate(to, size)?;
    let mut end = 0;
    while end < size {
        // Only what is data is copied; the rest stays a hole.
        let start = match rustix::fs::seek(from, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => break,
            other => other?,
        };
        end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        extent(from, to, start, end)?;
    }
    Ok(false)
}

/// Copies the bytes from `start` to `end`.
fn extent(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        let length = usize::try_from(end - read_at)
            .unwrap_or(usize::MAX)
            .min(PIECE);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)
        {
            Ok(0) => return Ok(()), // The file became shorter.
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return by_hand(from, to, read_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies through a buffer, where the kernel does not copy between the two.
fn by_hand(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> Result<(), Errno> {
    let mut buffer = vec![0; 256 * 1024];
    while at < end {
        let length = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = rustix::io::pread(from, &mut buffer[..length], at)?;
        if read == 0 {
            break;
        }
        rustix::fs::seek(to, SeekFrom::Start(at))?;
        tree::write_all(to, &buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}

/// What one call copies at most, so that a call ends soon.
const PIECE: usize = 64 << 20;
