//! Walks over directory trees by descriptor: nothing follows a link, leaves the tree or crosses a
//! mount, and neither depth nor path length is limited.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::driver::Usage;
use crate::store::DIRECTORY;
use crate::{Error, ErrorKind, Result};

/// One entry of a directory, as the walk found it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The path relative to the root of the walk.
    pub(crate) path: PathBuf,
    pub(crate) stat: Stat,
}

impl Entry {
    pub(crate) fn name(&self) -> &OsStr {
        self.path
            .file_name()
            .expect("an entry's path ends in its name")
    }

    pub(crate) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

/// Calls `visit` with every entry below `root` and the open directory that holds it; a directory
/// comes before its entries. What vanishes meanwhile is passed over.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(BorrowedFd<'_>, &Entry) -> Result<()>,
) -> Result<()> {
    let mut cursor = Cursor::new(root, PathBuf::new());
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let directory = match cursor.go(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other?,
        };
        for name in names(directory)? {
            let entry = match rustix::fs::statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => {
                    let path = path.join(&name);
                    let stat = other.map_err(|e| Error::os(format!("stat {path:?}"), e))?;
                    Entry { path, stat }
                }
            };
            visit(directory, &entry)?;
            if entry.is_directory() {
                pending.push(entry.path);
            }
        }
    }
    Ok(())
}

/// A place in a tree that goes from directory to directory: cheaply to one below, else from the root.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    base: BorrowedFd<'a>,
    root: PathBuf,
    /// The path of the directory that was opened last, and that directory.
    at: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Cursor<'a> {
    /// A cursor in the tree whose root is at the path `root` below `base`.
    pub(crate) fn new(base: BorrowedFd<'a>, root: PathBuf) -> Self {
        Self {
            base,
            root,
            at: None,
        }
    }

    /// Opens the directory `path`; no part of it may be a link or a mount.
    pub(crate) fn go(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        let path = path.as_os_str().as_bytes();
        if path.len() > MAX_DEPTH {
            let doing = "go down a path of more than 1 MiB in a snapshot";
            return Err(Error::new(ErrorKind::Unsupported, "TooDeep", doing));
        }
        let step = self.at.as_ref().and_then(|(at, directory)| {
            let rest = path.strip_prefix(&**at)?;
            let below = if at.is_empty() {
                rest
            } else {
                rest.strip_prefix(b"/")?
            };
            Some((directory, below))
        });
        let opened = match step {
            Some((directory, below)) => {
                open_beneath(directory, Path::new(OsStr::from_bytes(below)))
            }
            None => open_beneath(self.base, &self.root.join(OsStr::from_bytes(path))),
        };
        Ok(self.at.insert((path.to_vec(), opened?)).1.as_fd())
    }
}

/// Opens the directory `path` below `root`; no part of it may be a link or a mount.
pub(crate) fn open_beneath(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    open_pieces(root.as_fd(), path.as_os_str().as_bytes())
        .map_err(|e| Error::os(format!("open directory {path:?} of a snapshot"), e))
}

/// The names in a directory, without `.` and `..`, in the order of the file system.
pub(crate) fn names(directory: impl AsFd) -> Result<Vec<OsString>> {
    // A descriptor has one reading position, so each reading gets its own.
    let own = rustix::fs::openat(&directory, ".", DIRECTORY, Mode::empty());
    let read = own.and_then(|own| {
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(own, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.extend(real_name(entry?.file_name().to_bytes()).map(OsStr::to_os_string));
        }
        Ok(names)
    });
    read.map_err(|e| Error::os("read a directory of the store", e))
}

/// Deletes `name` in `directory` with all that is in it; succeeds if it is not there.
///
/// # Errors
/// `Busy` if something is mounted in it.
pub(crate) fn remove(directory: impl AsFd, name: &OsStr) -> Result<()> {
    for _ in 0..MAX_RESTARTS {
        match remove_once(directory.as_fd(), name) {
            Ok(true) => return Ok(()),
            // Somebody moved or deleted directories while we were in them: begin again at the top.
            Ok(false) | Err(Errno::NOENT) => {}
            Err(Errno::XDEV | Errno::BUSY) => {
                let doing = format!("delete {name:?}, in which something is mounted");
                return Err(Error::new(ErrorKind::Busy, "Mounted", doing));
            }
            Err(errno) => return Err(Error::os(format!("delete {name:?}"), errno)),
        }
    }
    let doing = format!("delete {name:?}, which changes all the time");
    Err(Error::new(ErrorKind::Busy, "Changed", doing).with_retry())
}

/// Counts what a tree takes on the disk, its root included.
pub(crate) fn usage(root: BorrowedFd<'_>) -> Result<Usage> {
    let top = rustix::fs::fstat(root).map_err(|e| Error::os("stat the root of a snapshot", e))?;
    let mut usage = Usage {
        size_bytes: allocated(&top),
        inodes: 1,
    };
    let mut seen = HashSet::new();
    walk(root, &mut |_, entry| {
        let several = entry.stat.st_nlink > 1 && !entry.is_directory();
        if !several || seen.insert((entry.stat.st_dev, entry.stat.st_ino)) {
            usage.size_bytes += allocated(&entry.stat);
            usage.inodes += 1;
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Reads the regular file `name`, which may have `limit` bytes.
pub(crate) fn read_file(directory: impl AsFd, name: &str, limit: usize) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut bytes = Vec::with_capacity(4096);
    while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? > 0 {
        if bytes.len() > limit {
            return Err(Errno::FBIG);
        }
        bytes.reserve(4096);
    }
    Ok(bytes)
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The extended attributes of `name` in `directory`, of the link itself if it is one.
pub(crate) fn xattrs(directory: impl AsFd, file: &OsStr) -> Result<Vec<(CString, Vec<u8>)>, Errno> {
    let path = magic_path(&directory, file);
    let mut names = Vec::with_capacity(XATTR_LIST_MAX);
    match rustix::fs::llistxattr(&path, rustix::buffer::spare_capacity(&mut names)) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let name = CString::from_vec_with_nul(name.to_vec()).map_err(|_| Errno::INVAL)?;
        if let Some(value) = xattr(&directory, file, &name)? {
            found.push((name, value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One extended attribute of `name` in `directory`, of the link itself if it is one.
pub(crate) fn xattr(
    directory: impl AsFd,
    name: &OsStr,
    key: &CStr,
) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = Vec::with_capacity(XATTR_SIZE_MAX);
    let path = magic_path(&directory, name);
    match rustix::fs::lgetxattr(path, key, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sets one extended attribute of `name` in `directory`, of the link itself if it is one.
pub(crate) fn set_xattr(
    directory: impl AsFd,
    name: &OsStr,
    key: &CStr,
    value: &[u8],
) -> Result<(), Errno> {
    let path = magic_path(&directory, name);
    rustix::fs::lsetxattr(path, key, value, rustix::fs::XattrFlags::empty())
}

/// A path to `name` whose only link is the one of `/proc` to the open directory.
fn magic_path(directory: &impl AsFd, name: &OsStr) -> OsString {
    use std::os::fd::AsRawFd;
    let mut path = OsString::from(format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()));
    path.push(name);
    path
}

/// One attempt; false if the tree changed under it.
fn remove_once(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno),
    }
    // Where we are: the way down as (name, device and inode of the directory above). Going up by
    // `..` costs no descriptor per level; comparing the inode proves that we arrive where we were.
    let mut above: Vec<(OsString, (u64, u64))> = Vec::new();
    let Some(mut current) = enter(directory, name)? else {
        return Ok(true);
    };
    loop {
        if let Some(child) = empty(&current)? {
            let here = identity(&current)?;
            if let Some(below) = enter(current.as_fd(), &child)? {
                above.push((child, here));
                current = below;
            }
            continue;
        }
        let Some((child, expected)) = above.pop() else {
            break;
        };
        let parent = rustix::fs::openat(&current, "..", DIRECTORY, Mode::empty())?;
        if identity(&parent)? != expected {
            return Ok(false);
        }
        current = parent;
        if !remove_directory(current.as_fd(), &child)? {
            return Ok(false);
        }
    }
    remove_directory(directory, name)
}

/// Opens a directory that is to be emptied; none if it is gone.
fn enter(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    match open_pieces(directory, name.as_bytes()) {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Deletes files and empty directories; the first directory that is not empty is returned.
fn empty(directory: &OwnedFd) -> Result<Option<OsString>, Errno> {
    loop {
        let own = rustix::fs::openat(directory, ".", DIRECTORY, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(own, &mut buffer);
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let Some(name) = real_name(entry.file_name().to_bytes()) else {
                continue;
            };
            any = true;
            if entry.file_type() != FileType::Directory {
                match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY) => return Ok(Some(name.to_os_string())),
                Err(errno) => return Err(errno),
            }
        }
        if !any {
            return Ok(None);
        }
        // Deleting while reading may make a file system skip entries: read once more.
    }
}

/// Removes an emptied directory; false if it was filled again behind our back.
fn remove_directory(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn identity(directory: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a directory by as many steps as the length of the path needs.
fn open_pieces(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let open = |directory: BorrowedFd<'_>, piece: &[u8]| {
        let piece = if piece.is_empty() { b"." } else { piece };
        for _ in 0..MAX_RESTARTS {
            match rustix::fs::openat2(directory, piece, DIRECTORY, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    };
    let mut rest = path;
    let mut reached: Option<OwnedFd> = None;
    while rest.len() > MAX_PATH {
        let cut = rest[..MAX_PATH]
            .iter()
            .rposition(|&b| b == b'/')
            .ok_or(Errno::NAMETOOLONG)?;
        let next = open(reached.as_ref().map_or(root, AsFd::as_fd), &rest[..cut])?;
        reached = Some(next);
        rest = &rest[cut + 1..];
    }
    open(reached.as_ref().map_or(root, AsFd::as_fd), rest)
}

fn real_name(name: &[u8]) -> Option<&OsStr> {
    (name != b"." && name != b"..").then(|| OsStr::from_bytes(name))
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Bytes of directory entries read at once.
const BATCH: usize = 32 * 1024;

/// Below `PATH_MAX`, which counts the final NUL.
const MAX_PATH: usize = 4000;

/// 4096 directories with names of 255 bytes. No archive holds a tree as deep as that, and going on
/// would cost the square of the depth.
const MAX_DEPTH: usize = 1 << 20;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of `linux/limits.h`.
const XATTR_LIST_MAX: usize = 64 * 1024;
const XATTR_SIZE_MAX: usize = 64 * 1024;

/// How often a call is repeated that a change elsewhere made fail.
const MAX_RESTARTS: usize = 64;
