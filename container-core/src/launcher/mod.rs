//! The launcher: the one process that clones, so that the embedder never does.
//!
//! A launcher is the embedder's own program, executed once more from a sealed descriptor and caught
//! before `main`. It has one thread and none of the embedder's descriptors, memory or environment.

mod entry;
pub(crate) mod protocol;
mod seal;
mod serve;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use self::protocol::{HELLO, MARKER, START, START_IN};
use crate::{Error, Result};

/// Starts containers on behalf of this program.
///
/// The process behind it starts at the first use and ends with the last clone of the handle;
/// containers outlive it. Handles are cheap to clone and may be used from any thread.
///
/// # Privileges
/// None; without CAP_SYS_ADMIN the program is copied to memory, once for each launcher.
#[derive(Clone, Debug)]
pub struct Launcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A program other than this one that links this crate.
    program: Option<PathBuf>,
    connection: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    socket: Option<OwnedFd>,
    process: Child,
}

impl Launcher {
    /// A launcher that runs this program once more.
    ///
    /// It starts at the first container, in the namespaces of the thread that asks for that.
    #[must_use]
    pub fn new() -> Self {
        Self::with_program(None)
    }

    /// A launcher that runs `program`, for an embedder that is not a Rust executable (a Python
    /// module, a plug-in): any program that links this crate.
    ///
    /// The program is executed as it is; to keep containers away from it is up to the caller.
    #[must_use]
    pub fn of(program: impl Into<PathBuf>) -> Self {
        Self::with_program(Some(program.into()))
    }

    fn with_program(program: Option<PathBuf>) -> Self {
        // Keeps the entry in programs that link only what they use.
        std::hint::black_box(&entry::ENTRY);
        Self(Arc::new(Inner {
            program,
            connection: Mutex::new(None),
        }))
    }

    /// Starts the launcher's process if it is not running.
    ///
    /// # Errors
    /// `Os` if the process cannot be started.
    pub fn start(&self) -> Result<()> {
        self.connect(&mut self.lock()).map(drop)
    }

    /// The number of the launcher's process, started if it is not running.
    pub(crate) fn pid(&self) -> Result<i32> {
        let mut connection = self.lock();
        self.connect(&mut connection)?;
        let pid = connection.as_ref().map(|running| running.process.id());
        Ok(pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0))
    }

    /// Asks for a monitor, born into the version 2 group `group` if given; the answer comes over the
    /// other end of `control`.
    pub(crate) fn send(
        &self,
        control: BorrowedFd<'_>,
        job: BorrowedFd<'_>,
        group: Option<BorrowedFd<'_>>,
        slots: &[OwnedFd],
    ) -> Result<()> {
        let message = if group.is_some() { START_IN } else { START };
        let mut descriptors = vec![control, job];
        descriptors.extend(group);
        descriptors.extend(slots.iter().map(AsFd::as_fd));
        let mut connection = self.lock();
        let mut result = Ok(());
        // Once more if the launcher was killed since the last time.
        for _ in 0..2 {
            let socket = self.connect(&mut connection)?;
            result = protocol::send(socket.as_fd(), message, &descriptors);
            if !matches!(result, Err(Errno::PIPE | Errno::CONNRESET)) {
                break;
            }
            *connection = None;
        }
        result.map_err(|errno| Error::os("send a job to the launcher", errno))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        // A panic while it was held left it as it was.
        self.0
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn connect<'c>(&self, connection: &'c mut Option<Connection>) -> Result<&'c OwnedFd> {
        if connection.is_none() {
            *connection = Some(self.0.launch()?);
        }
        connection
            .as_ref()
            .and_then(|connection| connection.socket.as_ref())
            .ok_or_else(|| {
                Error::new(
                    crate::ErrorKind::Internal,
                    "NoLauncher",
                    "reach the launcher",
                )
            })
    }
}

impl Default for Launcher {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    fn launch(&self) -> Result<Connection> {
        let failed = |errno| Error::os("make the socket of a launcher", errno);
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        protocol::send(ours.as_fd(), HELLO, &[]).map_err(failed)?;
        // What is sealed is held until the process runs from it.
        let (path, _sealed) = match &self.program {
            Some(program) => (program.clone(), None),
            None => {
                let sealed = seal::seal()?;
                (seal::path(&sealed), Some(sealed))
            }
        };
        let mut command = Command::new(&path);
        command
            .arg0(marker())
            .env_clear()
            .stdin(Stdio::from(theirs));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // Libraries that were found relative to the program are not found from its clone.
        if let Some(directories) = library_path() {
            command.env("LD_LIBRARY_PATH", directories);
        }
        let process = command.spawn().map_err(|error: io::Error| {
            Error::os(format!("start a launcher from {path:?}"), error)
        })?;
        Ok(Connection {
            socket: Some(ours),
            process,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The launcher ends when its socket does; until it is waited for it stays a zombie.
        self.socket = None;
        let _ = self.process.wait();
    }
}

fn marker() -> &'static std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(MARKER)
}

/// The directories of the shared libraries that are not where the loader looks by itself.
fn library_path() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut directories: Vec<&str> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]))
        .filter(|path| path.ends_with(".so") || path.contains(".so."))
        .filter_map(|path| path.rsplit_once('/').map(|(directory, _)| directory))
        .filter(|path| {
            !["/lib", "/usr/lib"]
                .iter()
                .any(|system| path.starts_with(system))
        })
        .collect();
    directories.sort_unstable();
    directories.dedup();
    (!directories.is_empty()).then(|| directories.join(":"))
}
