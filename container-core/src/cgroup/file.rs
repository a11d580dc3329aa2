//! The files of groups: small, read and written whole.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os(format!("open {path:?}"), errno))
}

pub(super) fn read(path: &Path) -> Result<String> {
    let failed = |errno| Error::os(format!("read {path:?}"), errno);
    let file =
        openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let bytes = read_all(&file).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads to the end. What has no size that could be asked for beforehand is read as it comes.
pub(super) fn read_all(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(file, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Reads a file that some kernels or groups do not have, or that is switched off.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::Unsupported => Ok(None),
            _ => Err(error),
        },
    }
}

pub(super) fn write(path: &Path, value: &str) -> Result<()> {
    write_to(&open(path, OFlags::WRONLY)?, path, value)
}

/// Writes `value` as a whole to the file at `path`, which is open.
pub(super) fn write_to(file: &OwnedFd, path: &Path, value: &str) -> Result<()> {
    // The kernel takes a value in one call, or not at all.
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes()))
        .map(drop)
        .map_err(|errno| Error::os(format!("write {value:?} to {path:?}"), errno))
}

/// Lines of a name and a number.
pub(super) fn numbers(text: &str) -> BTreeMap<&str, u64> {
    let pair = |line| {
        let (name, number) = str::split_once(line, ' ')?;
        Some((name, number.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// A single number; `None` for `max`, for version 1's "no limit", and for -1.
pub(super) fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
}

/// Whether the kernel found the value, or its relation to others, wrong.
pub(super) fn is_invalid(error: &Error) -> bool {
    error.kind() == ErrorKind::Os(Errno::INVAL.raw_os_error())
}

/// Version 1 says "no limit" by the largest number of pages, in bytes: just below this.
const UNLIMITED: u64 = 1 << 62;
