//! Owner, mode, extended attributes and times: copied and compared.

use std::ffi::{CStr, OsStr};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::tree;

/// Gives `name` in `to` the metadata `stat` and the xattrs of `from_name` in `from` for which
/// `wanted` is true.
///
/// The owner comes first, as changing it clears setuid bits and file capabilities; times last.
pub(crate) fn copy(
    from: impl AsFd,
    from_name: &OsStr,
    stat: &Stat,
    to: impl AsFd,
    name: &OsStr,
    wanted: fn(&CStr) -> bool,
) -> Result<(), Errno> {
    let (to, from) = (to.as_fd(), from.as_fd());
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(
        to,
        name,
        Some(owner),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(
            to,
            name,
            Mode::from_raw_mode(stat.st_mode),
            AtFlags::empty(),
        )?;
    }
    for (key, value) in tree::xattrs(from, from_name)? {
        if wanted(&key) {
            tree::set_xattr(to, name, &key, &value)?;
        }
    }
    copy_times(stat, to, name)
}

/// Gives `name` in `to` the access and modification time of `stat`.
pub(crate) fn copy_times(stat: &Stat, to: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let time = |seconds: i64, nanoseconds: u64| -> Result<Timespec, Errno> {
        let tv_nsec = nanoseconds.try_into().map_err(|_| Errno::OVERFLOW)?;
        Ok(Timespec {
            tv_sec: seconds,
            tv_nsec,
        })
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec)?,
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec)?,
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Whether two files have the same type, mode, owner, device number, size and modification time.
pub(crate) fn same_stat(one: &Stat, other: &Stat) -> bool {
    let directory = FileType::from_raw_mode(one.st_mode) == FileType::Directory;
    one.st_mode == other.st_mode
        && one.st_uid == other.st_uid
        && one.st_gid == other.st_gid
        && one.st_rdev == other.st_rdev
        && (directory || one.st_size == other.st_size)
        && one.st_mtime == other.st_mtime
        && one.st_mtime_nsec == other.st_mtime_nsec
}

/// Whether two files have the same of the xattrs for which `wanted` is true.
pub(crate) fn same_xattrs(
    one: impl AsFd,
    other: impl AsFd,
    name: &OsStr,
    wanted: fn(&CStr) -> bool,
) -> Result<bool, Errno> {
    let read = |directory: rustix::fd::BorrowedFd<'_>| {
        let mut xattrs = tree::xattrs(directory, name)?;
        xattrs.retain(|(key, _)| wanted(key));
        Ok::<_, Errno>(xattrs)
    };
    Ok(read(one.as_fd())? == read(other.as_fd())?)
}

/// Wants every xattr.
pub(crate) fn every(_: &CStr) -> bool {
    true
}

/// Wants all xattrs but those that overlay keeps for itself.
pub(crate) fn not_overlay(key: &CStr) -> bool {
    let key = key.to_bytes();
    !key.starts_with(b"trusted.overlay.") && !key.starts_with(b"user.overlay.")
}
