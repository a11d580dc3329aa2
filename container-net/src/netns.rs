//! Network namespaces: making, pinning and entering them.
//!
//! A namespace is a property of a thread, and no thread of the caller's is ever moved: what has to
//! happen inside another namespace happens on a thread that is made for it and ends with it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::{panic, thread};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::netlink::{self, LOOPBACK_INDEX, Socket};
use crate::{Error, Result};

/// Opens the network namespace of the calling thread.
///
/// # Errors
///
/// The kind of the system call's failure, such as `NotFound` where `/proc` is not mounted.
pub fn current() -> Result<OwnedFd> {
    let file =
        File::open(CURRENT).map_err(|source| Error::os(format!("open {CURRENT:?}"), source))?;
    Ok(file.into())
}

/// Makes a new network namespace, which lives as long as the descriptor (or a process, a mount or
/// a socket in it) does. Its `lo` is down.
///
/// # Errors
///
/// `PermissionDenied` without the privilege.
///
/// # Privileges
///
/// `CAP_SYS_ADMIN`.
pub fn create() -> Result<OwnedFd> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::os("unshare(CLONE_NEWNET)", errno))?;
        current()
    })
}

/// Keeps the namespace alive by a mount at `path`, an empty file that this makes.
///
/// # Errors
///
/// `AlreadyExists` if `path` exists; nothing stays behind after an error.
///
/// # Privileges
///
/// `CAP_SYS_ADMIN`.
pub fn pin(netns: BorrowedFd<'_>, path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::os(format!("create {path:?}"), source))?;
    let source = format!("/proc/thread-self/fd/{}", netns.as_raw_fd());
    mount_bind(&source, path).map_err(|errno| {
        // Removing what was just made is best effort: the mount's failure is what matters.
        let _ = fs::remove_file(path);
        Error::os(format!("bind mount {source:?} on {path:?}"), errno)
    })
}

/// Undoes [`pin`]; Ok if nothing is pinned there.
///
/// # Errors
///
/// The kind of the system call's failure.
///
/// # Privileges
///
/// `CAP_SYS_ADMIN`.
pub fn unpin(path: &Path) -> Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(Error::os(format!("unmount {path:?}"), errno)),
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::os(format!("remove {path:?}"), source))
        }
        _ => Ok(()),
    }
}

/// Runs `work` inside the namespace `netns` on a thread of its own and returns what it returns.
/// Sockets that `work` opens stay in that namespace.
///
/// # Errors
///
/// `PermissionDenied` without the privilege, `InvalidInput` if `netns` is no network namespace, and
/// whatever `work` fails with.
///
/// # Privileges
///
/// `CAP_SYS_ADMIN` in the user namespaces of both sides.
///
/// # Panics
///
/// Where `work` does.
pub fn run_in<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_own_thread(|| {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(|errno| {
            let error = Error::os("setns(CLONE_NEWNET)", errno);
            match errno {
                rustix::io::Errno::INVAL => error
                    .with_kind(crate::ErrorKind::InvalidInput)
                    .with_code("NotANetworkNamespace"),
                _ => error,
            }
        })?;
        work()
    })
}

/// Sets `lo` inside the namespace up, all that a container without a network has.
///
/// # Errors
///
/// As [`run_in`].
///
/// # Privileges
///
/// As [`run_in`], and `CAP_NET_ADMIN` inside.
pub fn set_loopback_up(netns: BorrowedFd<'_>) -> Result<()> {
    let mut socket = run_in(netns, Socket::route)?;
    socket.send(vec![netlink::set_up(LOOPBACK_INDEX)]).map(drop)
}

/// What tells the calling thread's namespace from all others for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// The identity of the calling thread's namespace.
    pub(crate) fn current() -> Result<Self> {
        let stat = rustix::fs::stat(CURRENT)
            .map_err(|errno| Error::os(format!("stat {CURRENT:?}"), errno))?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

const CURRENT: &str = "/proc/thread-self/ns/net";

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| Error::os("start a thread for a network namespace", source))?;
        thread
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}
