//! The other side of `SCMP_ACT_NOTIFY`: who answers for the system calls of others.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use oci_spec::runtime::{ContainerProcessState, SECCOMP_FD_NAME};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::sys::notify::{self, AddFd, Notification, Response};
use crate::{Error, ErrorKind, Result};

/// Gets the calls that a filter leaves to somebody outside, and answers them.
///
/// A runtime sends it over the socket that `linux.seccomp.listenerPath` names; [`accept`](Self::accept)
/// takes it there. A call blocks until it is answered, and fails with `ENOSYS` once nobody listens
/// any more. As a file descriptor ([`AsFd`]) it is readable when there is a call to answer.
///
/// What the arguments point at is memory of the other process, which can change it after it was
/// looked at: a call must not be [let through](Self::let_through) because of what was read there.
///
/// # References
/// `seccomp_unotify(2)`.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// Tells this call from all others of the same filter.
    pub id: u64,
    /// The process, as this program's PID namespace has it; 0 if it is not in there.
    pub pid: u32,
    /// The number of the call, as that architecture counts.
    pub number: i32,
    /// The architecture, as `AUDIT_ARCH_*` of `linux/audit.h`.
    pub architecture: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Listener {
    /// Receives a listener from the runtime at the other end of `connection`, and what that says of
    /// the process; blocks until both are there.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidProcessState`) for what is no such message; `Os`.
    pub fn accept(connection: &UnixStream) -> Result<(ContainerProcessState, Self)> {
        let invalid = |why: &str| {
            let what = format!("receive a seccomp listener: {why}");
            Error::invalid("InvalidProcessState", what)
        };
        let mut bytes = Vec::new();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        loop {
            let mut part = [0; 4096];
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                connection,
                &mut [IoSliceMut::new(&mut part)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Err(Errno::INTR) => continue,
                result => result.map_err(|errno| Error::os("receive a seccomp listener", errno))?,
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            bytes.extend(part.iter().take(received.bytes));
            if received.bytes == 0 {
                break;
            }
            if bytes.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
                return Err(invalid("the message is too long"));
            }
        }
        let state: ContainerProcessState = serde_json::from_slice(&bytes)
            .map_err(|error| invalid("it comes with no state").with_source(error))?;
        let at = state.fds().iter().position(|name| name == SECCOMP_FD_NAME);
        match at {
            Some(at) if at < descriptors.len() => {
                let listener = Self(descriptors.swap_remove(at));
                Ok((state, listener))
            }
            _ => Err(invalid("there is none among the descriptors")),
        }
    }

    /// Waits for the next call; `None` when no process is left that the filter is for.
    ///
    /// # Errors
    /// `Os`.
    pub fn receive(&self) -> Result<Option<Request>> {
        loop {
            let mut wait = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut wait, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::os("wait for a system call", errno)),
            }
            let [wait] = wait;
            if !wait.revents().contains(PollFlags::IN) {
                return Ok(None);
            }
            match notify::receive(self.0.as_fd()) {
                Ok(Notification { id, pid, data, .. }) => {
                    return Ok(Some(Request {
                        id,
                        pid,
                        number: data.number,
                        architecture: data.architecture,
                        arguments: data.arguments,
                    }));
                }
                // Its process ended meanwhile.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(errno) => return Err(Error::os("receive a system call", errno)),
            }
        }
    }

    /// Whether the process still waits: what was read of it by its process id is of that process.
    ///
    /// # Errors
    /// `Os`.
    pub fn is_waiting(&self, request: &Request) -> Result<bool> {
        match notify::is_valid(self.0.as_fd(), request.id) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::os("look after a system call", errno)),
        }
    }

    /// Lets the kernel do what was asked for.
    ///
    /// # Errors
    /// `NotFound` if the process waits no more; `Os`.
    pub fn let_through(&self, request: &Request) -> Result<()> {
        self.answer(Response::goes_on(request.id))
    }

    /// Has the call return `value`.
    ///
    /// # Errors
    /// As [`Self::let_through`].
    pub fn give(&self, request: &Request, value: i64) -> Result<()> {
        self.answer(Response::gives(request.id, value))
    }

    /// Has the call fail with the error number `errno`, such as 1 for `EPERM`.
    ///
    /// # Errors
    /// As [`Self::let_through`]; `InvalidInput` for what is no error number.
    pub fn fail(&self, request: &Request, errno: i32) -> Result<()> {
        // `MAX_ERRNO` of the kernel.
        if !(1..=4095).contains(&errno) {
            let what = format!("answer a system call with error number {errno}");
            return Err(Error::new(ErrorKind::InvalidInput, "InvalidErrno", what));
        }
        self.answer(Response::fails(request.id, errno))
    }

    /// Puts a copy of `file` among the descriptors of the process, close-on-exec, and has the call
    /// return its number, which is given back.
    ///
    /// # Errors
    /// As [`Self::let_through`].
    pub fn give_file(&self, request: &Request, file: impl AsFd) -> Result<i32> {
        notify::add_fd(self.0.as_fd(), &AddFd::answer(request.id, file.as_fd()))
            .map_err(|errno| Error::os("answer a system call with a descriptor", errno))
    }

    fn answer(&self, response: Response) -> Result<()> {
        notify::send(self.0.as_fd(), &response)
            .map_err(|errno| Error::os("answer a system call", errno))
    }
}

impl From<OwnedFd> for Listener {
    /// Takes the descriptor of a listener that came another way.
    fn from(listener: OwnedFd) -> Self {
        Self(listener)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The longest message of a runtime: a state has annotations of any length.
const MAX_MESSAGE: usize = 1 << 20;

/// The most descriptors that come with it; one is meant to.
const MAX_DESCRIPTORS: usize = 8;
