//! Finds and makes places below a directory descriptor, without allocating.
//!
//! The kernel resolves every path inside the directory ([`IN_ROOT`]): whatever links an image holds,
//! nothing outside is ever touched.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::child::{At, Walk};
use super::step::Call;

/// How paths of an image are resolved: links are followed, but never out of the root.
pub(super) const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// How paths below a mount of our own are resolved: no link, no other mount on the way.
pub(super) const UNMIXED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The longest path that is resolved.
pub(super) const PATH_MAX: usize = 4096;

/// How many links that lead to nothing are followed; the kernel's own limit for others.
const MAX_LINKS: usize = 40;

/// How often a resolution is repeated that raced with a rename.
const RESOLVE_ATTEMPTS: usize = 16;

pub(super) const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What is made where a path ends in nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Directory,
    File,
}

/// Opens `path` below `base`.
pub(super) fn resolve(
    base: BorrowedFd<'_>,
    path: &CStr,
    flags: OFlags,
    how: ResolveFlags,
) -> Walk<OwnedFd> {
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RESOLVE_ATTEMPTS {
        result = fs::openat2(base, path, flags, Mode::empty(), how);
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result.at(Call::Open)
}

/// Opens `path` below `root`, making what is missing of it.
///
/// Where that is a link which leads to nothing, what it leads to is made: images have such a link at
/// `/etc/resolv.conf`.
pub(super) fn open_or_make(root: BorrowedFd<'_>, path: &CStr, make: Make) -> Walk<OwnedFd> {
    let mut followed = [0; PATH_MAX];
    let mut length = path.to_bytes().len();
    let Some(copy) = followed.get_mut(..=length) else {
        return Err(Errno::NAMETOOLONG).at(Call::Open);
    };
    copy.copy_from_slice(path.to_bytes_with_nul());
    for _ in 0..MAX_LINKS {
        let path = c_string(&followed[..=length])?;
        match resolve(root, path, OFlags::PATH | OFlags::CLOEXEC, IN_ROOT) {
            Err(fault) if fault.errno == Errno::NOENT => {}
            result => return result,
        }
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(root, path, &mut buffer)?;
        if make_at(parent.as_fd(), name, make)? {
            return resolve(root, path, OFlags::PATH | OFlags::CLOEXEC, IN_ROOT);
        }
        let mut target = [MaybeUninit::uninit(); PATH_MAX];
        let directory = length - name.to_bytes().len();
        match fs::readlinkat_raw(parent.as_fd(), name, &mut target) {
            Ok((target, _)) => length = follow(&mut followed, directory, target)?,
            // No link any more: somebody else is at work there.
            Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => return Err(errno).at(Call::Open),
        }
    }
    Err(Errno::LOOP).at(Call::Open)
}

/// Makes `name` in `parent`; `false` if there is something of that name.
fn make_at(parent: BorrowedFd<'_>, name: &CStr, make: Make) -> Walk<bool> {
    let (result, call) = match make {
        Make::Directory => {
            let mode = Mode::from_raw_mode(0o755);
            (fs::mkdirat(parent, name, mode), Call::Mkdir)
        }
        Make::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::openat(parent, name, flags, Mode::from_raw_mode(0o644));
            (file.map(drop), Call::Open)
        }
    };
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno).at(call),
    }
}

/// Replaces the last name in `path`, after the first `directory` bytes, by the link `target` that it
/// is; gives the new length. The kernel resolves the result from the root again.
fn follow(path: &mut [u8; PATH_MAX], directory: usize, target: &[u8]) -> Walk<usize> {
    let (start, target) = match target.iter().position(|byte| *byte != b'/') {
        Some(0) => (directory, target),
        Some(slashes) => (0, &target[slashes..]),
        None => (0, &target[..0]),
    };
    let length = start + target.len();
    match path.get_mut(start..=length) {
        Some([place @ .., end]) => {
            place.copy_from_slice(target);
            *end = 0;
            Ok(length)
        }
        _ => Err(Errno::NAMETOOLONG).at(Call::Open),
    }
}

/// Opens the directory at `path` below `root`, made if missing; a link anywhere in it is refused.
pub(super) fn open_or_make_plain(root: BorrowedFd<'_>, path: &CStr) -> Walk<OwnedFd> {
    let plain = IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match resolve(root, path, DIRECTORY, plain) {
        Err(fault) if fault.errno == Errno::NOENT => {
            open_or_make(root, path, Make::Directory)?;
            resolve(root, path, DIRECTORY, plain)
        }
        result => result,
    }
}

/// The directory that a path lies in.
pub(super) enum Parent<'r> {
    Root(BorrowedFd<'r>),
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Below(directory) => directory.as_fd(),
        }
    }
}

/// Opens the directory that `path` lies in, making what is missing, and gives the last name.
///
/// `path` is relative and ends in a name; what else may be in it is up to the kernel.
pub(super) fn open_parent<'r, 'b>(
    root: BorrowedFd<'r>,
    path: &CStr,
    buffer: &'b mut [u8; PATH_MAX],
) -> Walk<(Parent<'r>, &'b CStr)> {
    let bytes = path.to_bytes_with_nul();
    let Some(copy) = buffer.get_mut(..bytes.len()) else {
        return Err(Errno::NAMETOOLONG).at(Call::Open);
    };
    copy.copy_from_slice(bytes);
    let mut parent = Parent::Root(root);
    let mut start = 0;
    for end in 0..bytes.len() {
        if copy[end] != b'/' {
            continue;
        }
        // The path up to here, for the kernel to resolve from the root: a link in it may lead
        // elsewhere in the root, so that descending name by name would end in another place.
        copy[end] = 0;
        let so_far = c_string(&copy[..=end])?;
        parent = Parent::Below(match resolve(root, so_far, DIRECTORY, IN_ROOT) {
            Err(fault) if fault.errno == Errno::NOENT => {
                let name = c_string(&copy[start..=end])?;
                match fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno).at(Call::Mkdir),
                }
                resolve(root, so_far, DIRECTORY, IN_ROOT)?
            }
            result => result?,
        });
        copy[end] = b'/';
        start = end + 1;
    }
    let name = c_string(&buffer[start..bytes.len()])?;
    Ok((parent, name))
}

/// Whether `file` is a directory.
pub(super) fn is_directory(file: BorrowedFd<'_>) -> Walk<bool> {
    let status = fs::fstat(file).at(Call::Stat)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn c_string(bytes: &[u8]) -> Walk<&CStr> {
    match CStr::from_bytes_with_nul(bytes) {
        Ok(text) => Ok(text),
        Err(_) => Err(Errno::INVAL).at(Call::Verify),
    }
}
