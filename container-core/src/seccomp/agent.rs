//! What a runtime tells the agent that answers for the calls of a container.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxSeccomp, SECCOMP_FD_NAME, Spec};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

use crate::plan::hook::{self, Stage};
use crate::{Error, Result};

/// How long the agent may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who gets the listener of a filter, and what he is told with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agent {
    path: String,
    version: String,
    metadata: Option<String>,
    /// The state of the container around the process id of its first process, while that is being
    /// created and afterwards.
    creating: [Vec<u8>; 2],
    running: [Vec<u8>; 2],
    /// The first process, if the one that is filtered is another one.
    pub(crate) init: Option<i32>,
}

impl Agent {
    pub(crate) fn of(
        spec: &Spec,
        seccomp: &LinuxSeccomp,
        bundle: &Path,
        id: Option<&str>,
    ) -> Result<Self> {
        let invalid = |code, why: &str| {
            let what = format!("use SCMP_ACT_NOTIFY: {why}");
            Err(Error::invalid(code, what))
        };
        let path = seccomp.listener_path().as_deref();
        let Some(path) = path
            .filter(|path| path.is_absolute())
            .and_then(Path::to_str)
        else {
            return invalid(
                "NoListener",
                "linux.seccomp.listenerPath is no absolute path",
            );
        };
        let Some(id) = id else {
            return invalid("NoId", "the agent is told the id of the container");
        };
        if SocketAddrUnix::new(path).is_err() {
            return invalid(
                "NoListener",
                "linux.seccomp.listenerPath is too long for a socket",
            );
        }
        Ok(Self {
            path: path.to_owned(),
            version: spec.version().clone(),
            metadata: seccomp.listener_metadata().clone(),
            creating: hook::state(spec, Stage::CreateRuntime, bundle, id),
            running: hook::state(spec, Stage::Poststart, bundle, id),
            init: None,
        })
    }

    /// Sends the listener of the process `pid`.
    ///
    /// # References
    /// runtime-spec `config-linux.md#containerprocessstate`.
    pub(crate) fn send(&self, pid: i32, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        let (around, init) = match self.init {
            None => (&self.creating, pid),
            Some(init) => (&self.running, init),
        };
        let [head, tail] = around;
        let state = [head.as_slice(), init.to_string().as_bytes(), tail].concat();
        let state: serde_json::Value = serde_json::from_slice(&state).map_err(|_| Errno::INVAL)?;
        let mut message = serde_json::json!({
            "ociVersion": self.version,
            "fds": [SECCOMP_FD_NAME],
            "pid": pid,
            "state": state,
        });
        if let Some(metadata) = &self.metadata {
            message["metadata"] = metadata.as_str().into();
        }
        let message = message.to_string();
        let kind = SocketType::STREAM;
        let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        connect(&socket, &SocketAddrUnix::new(self.path.as_str())?)?;
        let descriptors = [listener];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let mut rest = message.as_bytes();
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let sent = sendmsg(&socket, &part, &mut control, SendFlags::NOSIGNAL)?;
            rest = rest.get(sent..).unwrap_or_default();
            // It goes with the first bytes.
            control.clear();
        }
        Ok(())
    }
}
