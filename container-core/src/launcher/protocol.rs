//! What embedder, launcher and monitor say to each other, over `SOCK_SEQPACKET` pairs.
//!
//! ```text
//! embedder --HELLO--> launcher                      once, before the launcher is executed
//! embedder --b"start" + [control, job, slots…]--> launcher     for each process
//! monitor  --Event-->  embedder                     over `control`
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::container::{ExitStatus, Supervision};
use crate::plan::Plan;
use crate::plan::hook::HookFailure;

/// `argv[0]` of a launcher.
pub(crate) const MARKER: &[u8] = b"container-core-launcher";

/// The first message on the socket of a launcher: embedder and launcher are one program, so that
/// they differ only if somebody else is talking.
pub(crate) const HELLO: &[u8] =
    concat!("container-core ", env!("CARGO_PKG_VERSION"), " protocol 1").as_bytes();

/// The message that asks for a container.
pub(crate) const START: &[u8] = b"start";

/// The same, with one more descriptor after the first two: the version 2 group that the monitor is
/// born into.
pub(crate) const START_IN: &[u8] = b"start in";

/// How many descriptors one message carries at most (`SCM_MAX_FD` of the kernel).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// The longest event.
const MAX_EVENT: usize = 4096;

/// What a monitor is to do; travels in a memory file, because a message has a limit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) plan: Plan,
    pub(crate) supervision: Supervision,
    /// Where to record the process while it runs.
    pub(crate) state: Option<PathBuf>,
    /// Where to record how the process ended.
    pub(crate) exit_record: Option<PathBuf>,
    /// The group to count kills in and to remove in the end.
    pub(crate) cgroup: Option<Cgroup>,
    /// The group that the monitor itself is in, other than the embedder's.
    pub(crate) own_cgroup: Option<Cgroup>,
}

/// What a monitor tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The process exists; comes with its pidfd and, where that is new, its network namespace.
    Cloned { pid: i32 },
    /// Everything is set up; the process waits for the start.
    Created,
    /// The program is being executed.
    Running,
    /// A step of the plan failed; nothing is left.
    Failed { step: u16, call: u8, errno: i32 },
    /// A hook failed, and so did what it was for; nothing is left.
    HookFailed(HookFailure),
    /// A hook failed, which changes nothing.
    HookWarning(HookFailure),
    /// The hooks that were asked for have run.
    HooksDone,
    /// The monitor itself failed; nothing is left.
    Broken { doing: String, errno: i32 },
    /// The process has ended, and its cgroup is gone.
    Exited(ExitStatus),
}

/// A message with its descriptors.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Sends one message; never raises SIGPIPE.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let rights = SendAncillaryMessage::ScmRights(descriptors);
    let mut space = vec![MaybeUninit::uninit(); rights.size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(rights) {
        return Err(Errno::TOOBIG);
    }
    loop {
        match sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

/// Receives one message; `None` if the other side has gone.
pub(crate) fn receive(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<Message>, Errno> {
    let mut bytes = vec![0; MAX_EVENT];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        ) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            result => break result?,
        }
    };
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // An empty message is never sent.
    Ok((!bytes.is_empty()).then_some(Message { bytes, descriptors }))
}

/// Sends an event to the embedder, which may be gone.
pub(crate) fn tell(control: BorrowedFd<'_>, event: &Event, descriptors: &[&OwnedFd]) {
    let descriptors: Vec<_> = descriptors
        .iter()
        .map(|descriptor| descriptor.as_fd())
        .collect();
    if let Ok(bytes) = postcard::to_stdvec(event) {
        // Nobody is left to hear of a failure here; the exit record tells the rest.
        let _ = send(control, &bytes, &descriptors);
    }
}
