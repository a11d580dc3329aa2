//! Work in the network namespace of a container, without being in the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;

use rustix::fs::{CWD, Mode, OFlags};

use crate::{Container, Error, ErrorKind, Result, sys};

/// Runs `work` in the network namespace `namespace`, and gives what it gives.
///
/// It runs on a thread of its own, which enters the namespace and ends with the call: no other
/// thread is ever in it. Sockets that are opened there stay there, and so do programs that are
/// started there. Everything else is as in the rest of this program: files, user, processes. `/sys`
/// shows the interfaces of the namespace that it was mounted in.
///
/// # Panics
/// If `work` does, with the same.
///
/// # Errors
/// `PermissionDenied` if this program may not enter; `InvalidInput` (`NotANamespace`) if the
/// descriptor is of something else.
///
/// # Privileges
/// CAP_SYS_ADMIN here and in the user namespace that owns the network namespace. A plain user has it
/// only in his user namespaces, which a program of several threads cannot enter: such a one executes
/// a program there instead.
///
/// # References
/// `setns(2)`, `network_namespaces(7)`.
pub fn in_netns<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T> {
    let namespace = namespace.as_fd();
    let entered = thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || enter(namespace).map(|()| work()))
            .map_err(|error| Error::os("start a thread for a network namespace", error))?;
        Ok(worker.join())
    })?;
    entered.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Container {
    /// Runs `work` in the network namespace of the container, and gives what it gives; see
    /// [`in_netns`].
    ///
    /// So the tools of the host can be used on the network of a container that has none.
    ///
    /// ```no_run
    /// # fn example(container: &container_core::Container) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::process::Command;
    /// let sockets = container.in_netns(|| Command::new("ss").arg("-tn").output())??;
    /// # Ok(()) }
    /// ```
    ///
    /// # Panics
    /// If `work` does, with the same.
    ///
    /// # Errors
    /// As [`in_netns`]; `InvalidState` (`NotRunning`) if the container has ended.
    pub fn in_netns<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        match self.network_namespace() {
            Some(namespace) => in_netns(namespace, work),
            None => in_netns(self.open_network_namespace()?, work),
        }
    }

    /// The network namespace of the first process, which may be shared with others.
    fn open_network_namespace(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/net", self.pid());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty());
        // Until it has ended the number is its own; after that it may be anybody's.
        if self.has_ended()? {
            let what = "enter the network namespace of a container that has ended";
            return Err(Error::new(ErrorKind::InvalidState, "NotRunning", what));
        }
        opened.map_err(|errno| Error::os(format!("open {path:?}"), errno))
    }
}

fn enter(namespace: BorrowedFd<'_>) -> Result<()> {
    sys::setns(namespace, libc::CLONE_NEWNET.unsigned_abs()).map_err(|errno| {
        let error = Error::os("enter a network namespace", errno);
        match errno {
            rustix::io::Errno::INVAL => error
                .with_kind(ErrorKind::InvalidInput)
                .with_code("NotANamespace"),
            _ => error,
        }
    })
}
