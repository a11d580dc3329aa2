//! Copies what a new tmpfs covers into it (`tmpcopyup`), without allocating.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::{At, Walk};
use crate::plan::place::PATH_MAX;
use crate::plan::step::Call;

/// How deep directories may lie in each other: each takes its part of the stack.
const MAX_DEPTH: usize = 128;

/// Room for entries of a directory, some dozens at a time.
const ENTRIES: usize = 4096;

/// How much of a file is sent at once; less than a call may send.
const CHUNK: usize = 1 << 30;

/// The longest name of an attribute, and what is copied of its value (`xattr(7)`: 255 bytes, 64 KiB).
const ATTRIBUTE_NAMES: usize = 4096;
const ATTRIBUTE_VALUE: usize = 4096;

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Copies all that is in the directory `from` into the directory `to`, with what it is itself.
pub(super) fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Walk {
    let from = fs::openat(from, c".", DIRECTORY, Mode::empty()).at(Call::Open)?;
    let to = fs::openat(to, c".", DIRECTORY, Mode::empty()).at(Call::Open)?;
    copy_directory(&from, &to, MAX_DEPTH)
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Walk {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Errno::LOOP).at(Call::Open);
    };
    let mut buffer = [MaybeUninit::uninit(); ENTRIES];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.at(Call::Getdents)?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    let status = fs::fstat(from).at(Call::Stat)?;
    copy_metadata(from, to, &status)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Walk {
    let status = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).at(Call::Stat)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
    match kind {
        FileType::Directory => {
            fs::mkdirat(to, name, mode).at(Call::Mkdir)?;
            let from = fs::openat(from, name, DIRECTORY, Mode::empty()).at(Call::Open)?;
            let to = fs::openat(to, name, DIRECTORY, Mode::empty()).at(Call::Open)?;
            copy_directory(&from, &to, depth)
        }
        FileType::RegularFile => {
            // It may have become a FIFO, which would block.
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = fs::openat(from, name, flags, Mode::empty()).at(Call::Open)?;
            let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let to = fs::openat(to, name, flags, mode).at(Call::Open)?;
            while fs::sendfile(&to, &from, None, CHUNK).at(Call::Sendfile)? > 0 {}
            copy_metadata(&from, &to, &status)
        }
        FileType::Symlink => {
            let mut target = [MaybeUninit::uninit(); PATH_MAX];
            let (target, _) = fs::readlinkat_raw(from, name, &mut target).at(Call::Open)?;
            let mut text = [0; PATH_MAX];
            let length = target.len();
            let Some(copy) = text.get_mut(..length).filter(|_| length < PATH_MAX) else {
                return Err(Errno::NAMETOOLONG).at(Call::Symlink);
            };
            copy.copy_from_slice(target);
            let target = CStr::from_bytes_until_nul(&text).unwrap_or_default();
            fs::symlinkat(target, to, name).at(Call::Symlink)?;
            copy_owner_and_times(to, name, &status)
        }
        _ => {
            fs::mknodat(to, name, kind, mode, status.st_rdev).at(Call::Mknod)?;
            copy_owner_and_times(to, name, &status)
        }
    }
}

/// Owner first: a change of it clears the bits that run a program as another user.
fn copy_metadata(from: &OwnedFd, to: &OwnedFd, status: &Stat) -> Walk {
    let (owner, group) = owner(status);
    fs::fchown(to, owner, group).at(Call::Chown)?;
    fs::fchmod(to, Mode::from_raw_mode(status.st_mode & 0o7777)).at(Call::Chown)?;
    copy_attributes(from, to)?;
    fs::futimens(to, &times(status)).at(Call::Stat)
}

fn copy_owner_and_times(directory: &OwnedFd, name: &CStr, status: &Stat) -> Walk {
    let (owner, group) = owner(status);
    let link = AtFlags::SYMLINK_NOFOLLOW;
    fs::chownat(directory, name, owner, group, link).at(Call::Chown)?;
    fs::utimensat(directory, name, &times(status), link).at(Call::Stat)
}

/// Copies extended attributes; those that a tmpfs does not have, or this process may not set, stay
/// behind, as with `cp -a`.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Walk {
    let mut names = [0_u8; ATTRIBUTE_NAMES];
    let length = match fs::flistxattr(from, &mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result.at(Call::Setxattr)?,
    };
    let mut value = [0_u8; ATTRIBUTE_VALUE];
    let names = names.get(..length).unwrap_or_default();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let length = fs::fgetxattr(from, name, &mut value).at(Call::Setxattr)?;
        let value = value.get(..length).unwrap_or_default();
        match fs::fsetxattr(to, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno).at(Call::Setxattr),
        }
    }
    Ok(())
}

fn owner(status: &Stat) -> (Option<Uid>, Option<Gid>) {
    let (user, group) = (status.st_uid, status.st_gid);
    (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
}

fn times(status: &Stat) -> Timestamps {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "the kernel gives seconds and less than 10^9"
    )]
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}
