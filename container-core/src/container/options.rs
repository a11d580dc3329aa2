//! What steers the creation of a container and the execution of a process in one.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags};

use crate::landlock::Ruleset;
use crate::{Error, Result};

/// Where a standard stream of a process comes from or goes to.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// `/dev/null`.
    #[default]
    Null,
    /// A pipe, whose other end the handle of the process gives out.
    Piped,
    /// The same stream of this program.
    Inherit,
    /// An open file.
    Fd(OwnedFd),
}

/// Who looks after a process once it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Supervision {
    /// It dies with this program, or when its handle is dropped.
    #[default]
    Attached,
    /// It lives on, and its monitor records how it ends.
    Detached,
    /// Nobody of ours: as soon as a container is created, or an executed program runs, the monitor
    /// ends. The process belongs to the nearest subreaper above this program (containerd's shim,
    /// conmon), which learns how it ends. The cgroup and the records are left for whoever deletes
    /// the container.
    ///
    /// A program that is missing or not executable fails the creation already.
    Disowned,
}

/// How a container is created.
#[derive(Debug)]
#[non_exhaustive]
pub struct CreateOptions {
    /// The directory that relative paths of the spec are below.
    pub bundle: PathBuf,
    /// The mounts that make up the root file system, as [`PlanOptions::root_mounts`](crate::PlanOptions).
    pub root_mounts: Vec<Mount>,
    /// The user by name or number, as [`PlanOptions::user`](crate::PlanOptions).
    pub user: Option<String>,
    /// The name of the container, as [`PlanOptions::id`](crate::PlanOptions).
    pub id: Option<String>,
    /// Whether the container gets a session keyring of its own, as
    /// [`PlanOptions::new_keyring`](crate::PlanOptions).
    pub new_keyring: bool,
    /// As [`PlanOptions::find_home`](crate::PlanOptions).
    pub find_home: bool,
    /// The files that the container may do something with, as
    /// [`PlanOptions::landlock`](crate::PlanOptions). What is executed in it is restricted as well.
    pub landlock: Option<Ruleset>,
    /// Standard input, output and error; all `Null` where `process.terminal` is set.
    pub stdio: [Stdio; 3],
    /// Descriptors that the program gets beside its standard streams, and the numbers (from 3 on) that
    /// they have there. For socket activation name them in `LISTEN_FDS` of the environment.
    pub descriptors: Vec<(OwnedFd, u32)>,
    /// A connected Unix socket to which the other side of the terminal is sent, where
    /// `process.terminal` is set; without one the handle gives it out.
    pub console_socket: Option<OwnedFd>,
    /// Who looks after the container.
    pub supervision: Supervision,
    /// Whether the program runs as soon as everything is set up, without
    /// [`Container::start`](crate::Container::start).
    pub start_at_once: bool,
    /// Whether the first process is an init of our own, below which the program runs.
    ///
    /// It hands every signal on to the program, reaps whatever loses its parent, and ends when the
    /// program does: with its exit code, or with 128 and the number of the signal that ended it.
    /// It has no descriptor, and processes of the container may not look into it.
    pub init: bool,
    /// Whether the first process, instead of executing a program, does nothing but reap.
    pub(crate) lingers: bool,
    /// A directory, preferably on a tmpfs, in which the container is recorded while it lives, so that
    /// other processes can [open](crate::Container::open) it. It must exist.
    pub state: Option<PathBuf>,
    /// The file that tells how the container ended; durable.
    pub exit_record: Option<PathBuf>,
}

impl Default for CreateOptions {
    /// No streams, attached, waiting for the start, recorded nowhere.
    fn default() -> Self {
        Self {
            bundle: PathBuf::from("/"),
            root_mounts: Vec::new(),
            user: None,
            id: None,
            new_keyring: true,
            find_home: false,
            landlock: None,
            stdio: Default::default(),
            descriptors: Vec::new(),
            console_socket: None,
            supervision: Supervision::Attached,
            start_at_once: false,
            init: false,
            lingers: false,
            state: None,
            exit_record: None,
        }
    }
}

/// How a process is executed in a container.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    /// The user by name or number, looked up in the container's `/etc/passwd` and `/etc/group`; wins
    /// over the one of the process.
    pub user: Option<String>,
    /// Standard input, output and error; all `Null` where the process has a terminal.
    pub stdio: [Stdio; 3],
    /// As [`CreateOptions::descriptors`].
    pub descriptors: Vec<(OwnedFd, u32)>,
    /// As [`CreateOptions::console_socket`].
    pub console_socket: Option<OwnedFd>,
    /// Who looks after the process.
    pub supervision: Supervision,
    /// The file that tells how the process ended; durable.
    pub exit_record: Option<PathBuf>,
    /// A group below the container's own, which must exist, instead of that one.
    pub cgroup: Option<String>,
    /// As [`PlanOptions::find_home`](crate::PlanOptions).
    pub find_home: bool,
    /// Executes in a paused container, too: the process stops with the others once it is in their
    /// group.
    pub ignore_paused: bool,
}

/// Both sides of the standard streams: the process's, and ours where there is a pipe.
pub(super) struct Streams {
    pub(super) theirs: [OwnedFd; 3],
    pub(super) ours: [Option<OwnedFd>; 3],
}

impl Streams {
    pub(super) fn open(stdio: [Stdio; 3]) -> Result<Self> {
        let [input, output, error] = stdio;
        let (input, our_input) = open_stream(input, 0)?;
        let (output, our_output) = open_stream(output, 1)?;
        let (error, our_error) = open_stream(error, 2)?;
        Ok(Self {
            theirs: [input, output, error],
            ours: [our_input, our_output, our_error],
        })
    }
}

fn open_stream(stdio: Stdio, number: u8) -> Result<(OwnedFd, Option<OwnedFd>)> {
    match (stdio, number) {
        (Stdio::Null, _) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())
                .map_err(|errno| Error::os("open \"/dev/null\"", errno))?;
            Ok((null, None))
        }
        (Stdio::Piped, 0) => pipe().map(|(reader, writer)| (reader, Some(writer))),
        (Stdio::Piped, _) => pipe().map(|(reader, writer)| (writer, Some(reader))),
        (Stdio::Inherit, 0) => Ok((duplicate(rustix::stdio::stdin())?, None)),
        (Stdio::Inherit, 1) => Ok((duplicate(rustix::stdio::stdout())?, None)),
        (Stdio::Inherit, _) => Ok((duplicate(rustix::stdio::stderr())?, None)),
        (Stdio::Fd(file), _) => Ok((file, None)),
    }
}

pub(super) fn duplicate(file: impl AsFd) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(file, 3)
        .map_err(|errno| Error::os("duplicate a descriptor", errno))
}

pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("make a pipe", errno))
}
