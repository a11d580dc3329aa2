//! The embedder's program, in a form that nobody can write to.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use crate::sys::{self, MountAttr};
use crate::{Error, Result};

const EXECUTABLE: &str = "/proc/self/exe";

/// A descriptor through which this program can be executed, but not changed: not by path, not
/// through `/proc/PID/exe`, and not after everything that runs it has ended.
///
/// With CAP_SYS_ADMIN it is a read-only clone of the mount that the program lies on, which costs
/// nothing; otherwise a sealed copy in memory.
pub(super) fn seal() -> Result<OwnedFd> {
    if let Some(clone) = clone_mount() {
        return Ok(clone);
    }
    copy().map_err(|error| Error::os("copy this program to a sealed memory file", error))
}

/// The path at which a process that inherits `sealed` executes it.
pub(super) fn path(sealed: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", sealed.as_raw_fd()).into()
}

fn clone_mount() -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = match open_tree(CWD, EXECUTABLE, flags) {
        Ok(clone) => clone,
        // A thread in a mount namespace of its own: the link leads to the mount of another one.
        Err(_) => {
            let path = std::fs::read_link(EXECUTABLE).ok()?;
            open_tree(CWD, path, flags).ok()?
        }
    };
    let running = std::fs::metadata(EXECUTABLE).ok()?;
    let cloned = rustix::fs::fstat(&clone).ok()?;
    if (cloned.st_dev, cloned.st_ino) != (running.dev(), running.ino()) {
        return None;
    }
    let read_only = MountAttr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttr::default()
    };
    sys::mount_setattr(clone.as_fd(), false, &read_only).ok()?;
    Some(clone)
}

fn copy() -> std::io::Result<OwnedFd> {
    let sealable = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know that flag, and need none.
    let memory = rustix::fs::memfd_create(c"container-core", sealable | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(c"container-core", sealable))?;
    let mut memory = File::from(memory);
    std::io::copy(&mut File::open(EXECUTABLE)?, &mut memory)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, all)?;
    // A descriptor open for writing, even a sealed one, would make the execution fail.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
