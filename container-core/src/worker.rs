//! Workers: processes in a user namespace, in which parts of this program run.
//!
//! A plain user has privileges only in his own user namespaces, and a program of several threads cannot
//! enter one. What needs them (files of several owners, mounts, netlink) is done by a worker: a process
//! of the launcher, which runs functions of this program by name.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use rustix::fs::MemfdFlags;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use crate::container::start_worker;
use crate::launcher::protocol;
use crate::sys::role::{Role, find};
use crate::userns::IdMap;
use crate::{Error, ErrorKind, Launcher, Process, Result, sys};

/// What a role works on, and what it gives back.
#[derive(Debug, Default)]
pub struct Job {
    /// Whatever caller and role agree on.
    pub bytes: Vec<u8>,
    /// Open files: at most 250.
    pub descriptors: Vec<OwnedFd>,
}

impl From<Vec<u8>> for Job {
    fn from(bytes: Vec<u8>) -> Self {
        let descriptors = Vec::new();
        Self { bytes, descriptors }
    }
}

/// In which namespaces of its own a worker is.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// The ids of its user namespace, in which it is root.
    pub users: IdMap,
    /// Whether it has a network namespace.
    pub network: bool,
}

impl WorkerOptions {
    /// A user namespace with this map, and a mount namespace.
    #[must_use]
    pub fn new(users: IdMap) -> Self {
        let network = false;
        Self { users, network }
    }
}

/// A process in a user and a mount namespace of its own, as root there.
///
/// It runs one [`Role`] after the other, and ends when this is dropped. Nothing that it mounts is seen
/// outside.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    /// Held from a question to its answer.
    socket: Mutex<OwnedFd>,
}

impl Launcher {
    /// Starts a worker.
    ///
    /// # Errors
    /// As [`Self::create`] for the user namespace.
    ///
    /// # Privileges
    /// None for a plain user's own ids.
    pub fn worker(&self, options: &WorkerOptions) -> Result<Worker> {
        let (process, socket) = start_worker(self, options)?;
        let socket = Mutex::new(socket);
        Ok(Worker { process, socket })
    }
}

impl Worker {
    /// Has the worker run `role`; blocks until it has. Others wait for their turn.
    ///
    /// # Errors
    /// That of the role, with its kind and its words, and the code `WorkerFailed`; `InvalidState`
    /// (`WorkerLost`) if the worker ended meanwhile: it was killed, or the role panicked; `NotFound`
    /// (`UnknownRole`) if the launcher runs a program that does not have the role.
    pub fn run(&self, role: &Role, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<Job> {
        let failed = |errno| Error::os(format!("have a worker run {:?}", role.name()), errno);
        let question = memory(bytes)?;
        let mut passed = vec![question.as_fd()];
        passed.extend(descriptors);
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = protocol::send(socket.as_fd(), role.name().as_bytes(), &passed)
            .and_then(|()| protocol::receive(socket.as_fd(), RecvFlags::empty()));
        drop(socket);
        let answer = match answer {
            Err(rustix::io::Errno::PIPE) => None,
            answer => answer.map_err(failed)?,
        };
        let Some(answer) = answer else {
            let what = format!("have a worker run {:?}, which ended", role.name());
            return Err(Error::new(ErrorKind::InvalidState, "WorkerLost", what));
        };
        let job = Job::read(answer.descriptors)?;
        match answer.bytes.as_slice() {
            DONE => Ok(job),
            _ => Err(Failure::read(&job.bytes).into_error(role)),
        }
    }

    /// The process, as this program's PID namespace has it, whose namespaces in `/proc` can be joined
    /// while the worker lives.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }
}

/// Answers until nobody asks any more; gives the exit status of the process.
pub(crate) fn serve(socket: &OwnedFd) -> i32 {
    while let Ok(Some(message)) = protocol::receive(socket.as_fd(), RecvFlags::empty()) {
        let outcome = Job::read(message.descriptors).and_then(|job| {
            let name = String::from_utf8_lossy(&message.bytes);
            let role = find(&name).ok_or_else(|| {
                let what = format!("find the role {name:?} in this program");
                Error::new(ErrorKind::NotFound, "UnknownRole", what)
            })?;
            // What unwinds must not get past this process's part of the program.
            match catch_unwind(AssertUnwindSafe(|| role.run(job))) {
                Ok(outcome) => outcome,
                Err(_) => sys::exit_now(1),
            }
        });
        let (word, job) = match outcome {
            Ok(job) => (DONE, job),
            Err(error) => (FAILED, Failure::of(&error).write().into()),
        };
        let Ok(answer) = memory(&job.bytes) else {
            return 1;
        };
        let mut passed = vec![answer.as_fd()];
        passed.extend(job.descriptors.iter().map(AsFd::as_fd));
        if protocol::send(socket.as_fd(), word, &passed).is_err() {
            return 1;
        }
    }
    0
}

const DONE: &[u8] = b"done";
const FAILED: &[u8] = b"failed";

/// An error on its way between processes.
#[derive(Serialize, Deserialize)]
struct Failure {
    kind: Kind,
    errno: i32,
    report: String,
}

/// The kinds of errors that callers tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    NotFound,
    AlreadyExists,
    InvalidInput,
    InvalidState,
    Unsupported,
    PermissionDenied,
    Integrity,
    Busy,
    Os,
    Other,
}

const KINDS: [(Kind, ErrorKind); 8] = [
    (Kind::NotFound, ErrorKind::NotFound),
    (Kind::AlreadyExists, ErrorKind::AlreadyExists),
    (Kind::InvalidInput, ErrorKind::InvalidInput),
    (Kind::InvalidState, ErrorKind::InvalidState),
    (Kind::Unsupported, ErrorKind::Unsupported),
    (Kind::PermissionDenied, ErrorKind::PermissionDenied),
    (Kind::Integrity, ErrorKind::Integrity),
    (Kind::Busy, ErrorKind::Busy),
];

impl Failure {
    fn of(error: &Error) -> Self {
        let (kind, errno) = match error.kind() {
            ErrorKind::Os(errno) => (Kind::Os, errno),
            kind => {
                let known = KINDS.iter().find(|(_, known)| *known == kind);
                (known.map_or(Kind::Other, |(kind, _)| *kind), 0)
            }
        };
        let report = error.report();
        Self {
            kind,
            errno,
            report,
        }
    }

    fn write(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Self {
        postcard::from_bytes(bytes).unwrap_or_else(|error| Self {
            kind: Kind::Other,
            errno: 0,
            report: format!("the answer of a worker: {error}"),
        })
    }

    fn into_error(self, role: &Role) -> Error {
        let kind = match self.kind {
            Kind::Os => ErrorKind::Os(self.errno),
            Kind::Other => ErrorKind::Internal,
            kind => {
                let known = KINDS.iter().find(|(known, _)| *known == kind);
                known.map_or(ErrorKind::Internal, |(_, kind)| *kind)
            }
        };
        let what = format!("run {:?} in a worker", role.name());
        Error::new(kind, "WorkerFailed", what).with_source(self.report)
    }
}

impl Job {
    /// The first descriptor holds the bytes.
    fn read(descriptors: Vec<OwnedFd>) -> Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut bytes = Vec::new();
        if let Some(memory) = descriptors.next() {
            File::from(memory)
                .read_to_end(&mut bytes)
                .map_err(|error| Error::os("read a memory file", error))?;
        }
        let descriptors = descriptors.collect();
        Ok(Self { bytes, descriptors })
    }
}

/// A message has a limit of size; a file in memory has none.
fn memory(bytes: &[u8]) -> Result<File> {
    let failed = |error| Error::os("write to a memory file", error);
    let memory = rustix::fs::memfd_create(c"container-worker", MemfdFlags::CLOEXEC)
        .map_err(|errno| failed(errno.into()))?;
    let mut file = File::from(memory);
    file.write_all(bytes)
        .and_then(|()| file.rewind())
        .map_err(failed)?;
    Ok(file)
}
