//! Files below a directory descriptor. Nothing here follows a symbolic link.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, json};

/// Opens the directory `name` in `parent`, making it if it is missing.
pub(super) fn make_dir(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::os(format!("make directory {name:?}"), error)),
    }
    open_dir(parent, name)
}

/// Opens the directory `name` in `parent`.
pub(crate) fn open_dir(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => unsafe_layout(name, "no real directory"),
        error => Error::os(format!("open directory {name:?}"), error),
    })
}

/// Opens the regular file `name` for reading, or gives `None` if it is missing.
pub(crate) fn open(dir: &OwnedFd, name: &str) -> Result<Option<(File, u64)>> {
    // Without NONBLOCK a FIFO in its place would block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(unsafe_layout(name, "a symbolic link")),
        Err(error) => return Err(Error::os(format!("open {name:?}"), error)),
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| Error::os(format!("stat {name:?}"), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(unsafe_layout(name, "no regular file"));
    }
    Ok(Some((File::from(file), stat.st_size.unsigned_abs())))
}

/// The content of the small file `name`, or `None` if it is missing.
pub(crate) fn read(dir: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>> {
    let Some((file, _)) = open(dir, name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let count = file
        .take(json::MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes);
    count.map_err(|error| Error::os(format!("read {name:?}"), error))?;
    json::check_size(bytes.len() as u64, name)?;
    Ok(Some(bytes))
}

/// Gives the file `name` the content `bytes` at once, or leaves it as it was.
pub(super) fn replace(dir: &OwnedFd, name: &str, bytes: &[u8], sync: bool) -> Result<()> {
    let (mut file, temporary) = create_unique(dir)?;
    let write = |file: &mut File| {
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    let result = write(&mut file)
        .and_then(|()| Ok(rustix::fs::renameat(dir, &temporary, dir, name)?))
        .map_err(|error| Error::os(format!("write {name:?}"), error));
    if let Err(error) = result {
        return Err(error.with_cleanup(remove(dir, &temporary).err()));
    }
    sync_dir(dir, sync)
}

/// Creates a file of a name that nobody else has.
pub(super) fn create_unique(dir: &OwnedFd) -> Result<(File, String)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    loop {
        let name = format!(
            ".tmp-{:016x}",
            RandomState::new().hash_one(std::process::id())
        );
        match rustix::fs::openat(dir, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((File::from(file), name)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::os(format!("create {name:?}"), error)),
        }
    }
}

/// Removes the file `name`; succeeds if it is gone.
pub(super) fn remove(dir: impl AsFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::os(format!("remove {name:?}"), error)),
    }
}

/// Makes the names in `dir` survive a loss of power.
pub(super) fn sync_dir(dir: &OwnedFd, sync: bool) -> Result<()> {
    if sync {
        rustix::fs::fsync(dir)
            .map_err(|error| Error::os("sync a directory of the store", error))?;
    }
    Ok(())
}

/// The names in `dir`, without those that are not UTF-8, which are none of ours.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<String>> {
    let failed = |error| Error::os("list a directory of the store", error);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens the lock file `name` and waits until it is locked as `operation` says. Closing it frees the
/// lock.
pub(super) fn lock(dir: &OwnedFd, name: &str, operation: FlockOperation) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| Error::os(format!("open {name:?}"), error))?;
    take_lock(&file, name, operation)?;
    Ok(file)
}

/// Waits until `file` is locked.
pub(super) fn take_lock(file: &File, name: &str, operation: FlockOperation) -> Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
        .map_err(|error| Error::os(format!("lock {name:?}"), error))
}

/// Whether somebody has locked `file` exclusively; if not, the caller has it now.
pub(super) fn is_locked(file: &File, name: &str) -> Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Error::os(format!("lock {name:?}"), error)),
    }
}

fn unsafe_layout(name: &str, what: &str) -> Error {
    Error::invalid(
        "UnsafeLayout",
        format!("open {name:?} of an image layout: it is {what}"),
    )
}
