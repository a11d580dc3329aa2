//! A process that is executed in a container, beside its first one.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use oci_spec::runtime;

use super::create::{Descriptors, entry, numbers, open_console, open_streams};
use super::handle::{Handle, readable};
use super::options::ExecOptions;
use super::{Container, ExitStatus, duplicate};
use crate::cgroup::{Cgroup, CgroupPath, Join, join_of};
use crate::launcher::protocol::Job;
use crate::plan::{Plan, PlanOptions};
use crate::{Error, ErrorKind, Launcher, Result, Signal, Supervision, Terminal};

/// A process that was executed in a running container.
///
/// As a file descriptor ([`AsFd`]) it becomes readable when its state changes, and stays so once it
/// has ended. Dropping the handle of an attached process kills it.
#[derive(Debug)]
pub struct Process(pub(super) Handle);

impl Launcher {
    /// Executes a process in a running container; blocks until its program runs.
    ///
    /// The process is in all namespaces and in the cgroup of the container, and behind its seccomp
    /// filter. Everything else (account, capabilities, limits, `no_new_privs`, environment, working
    /// directory) is as `process` says, and nothing as the container's own process: who wants what
    /// that has takes its `process` and changes the arguments.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`) if the container has ended or is about to, (`Paused`) if it is
    /// paused; `InvalidInput` and `Unsupported` for what `process` asks for; the step that failed, in
    /// words, and for the program `NotFound` (`CommandNotFound`) and `PermissionDenied`
    /// (`CommandNotExecutable`). After an error nothing is left behind.
    ///
    /// # Privileges
    /// Those of the container's creator.
    pub fn exec(
        &self,
        container: &Container,
        process: &runtime::Process,
        options: ExecOptions,
    ) -> Result<Process> {
        let explained = |error| container.handle.explain(error);
        let made = self.exec_in(container, process, options);
        let made = made.map_err(explained)?;
        made.0.wait_running().map_err(explained)?;
        Ok(made)
    }

    fn exec_in(
        &self,
        container: &Container,
        process: &runtime::Process,
        options: ExecOptions,
    ) -> Result<Process> {
        let Some(target) = &container.handle.pidfd else {
            return Err(Error::new(ErrorKind::InvalidState, "NotRunning", ENDED));
        };
        let mut confinement = container.confinement()?;
        if let Some(agent) = confinement.agent() {
            agent.init = Some(container.handle.pid);
        }
        let cgroup = confinement.cgroup.as_ref();
        if !options.ignore_paused && cgroup.map(Cgroup::is_frozen).transpose()? == Some(true) {
            let what = "execute a process in a paused container";
            return Err(Error::new(ErrorKind::InvalidState, "Paused", what));
        }
        let join = match (cgroup, &options.cgroup) {
            (Some(cgroup), Some(path)) => cgroup.join_below(&CgroupPath::new(path)?)?,
            // Its own processes made groups below it, and one for the first process.
            (Some(cgroup), None) if cgroup.hands_down()? => join_of(container.handle.pid)?,
            (Some(cgroup), None) => cgroup.join()?,
            (None, None) => Join::default(),
            (None, Some(path)) => {
                let what = format!("enter cgroup {path:?} below that of a container without one");
                return Err(Error::invalid("NoCgroup", what));
            }
        };
        let plan_options = PlanOptions {
            user: options.user,
            find_home: options.find_home,
            disowned: options.supervision == Supervision::Disowned,
            descriptors: numbers(&options.descriptors),
            cgroups: entry(&join)?,
            ..PlanOptions::default()
        };
        let namespaces = foreign_namespaces(container.handle.pid, self.pid()?)?;
        let plan = Plan::compile_exec(process, &confinement, namespaces, &plan_options)?;
        let streams = open_streams(&plan, options.stdio)?;
        let (console, terminal) = open_console(&plan, options.console_socket)?;
        let job = Job {
            plan,
            supervision: options.supervision,
            state: None,
            exit_record: options.exit_record,
            cgroup: None,
            own_cgroup: match (options.supervision, cgroup) {
                (Supervision::Detached, Some(cgroup)) => Some(cgroup.beside()?),
                _ => None,
            },
        };
        let descriptors = Descriptors {
            streams: streams.theirs.map(Some),
            start: None,
            join,
            console,
            extra: options.descriptors,
            target: Some(duplicate(target)?),
        };
        let (handle, _) = self.hand_over(job, descriptors)?;
        Ok(Process(Handle {
            streams: streams.ours,
            terminal,
            ..handle
        }))
    }
}

impl Handle {
    /// What went wrong in a container that has ended, or is about to, went wrong because of that.
    fn explain(&self, error: Error) -> Error {
        // What the kernel says of namespaces whose first process is on its way out.
        let dying = matches!(error.kind(), ErrorKind::Os(libc::ESRCH | libc::ENOMEM));
        let patience = if dying { DYING } else { Duration::ZERO };
        let Some(pidfd) = &self.pidfd else {
            return error;
        };
        match readable(pidfd.as_fd(), Some(Instant::now() + patience)) {
            Ok(true) => Error::new(ErrorKind::InvalidState, "NotRunning", ENDED).with_source(error),
            _ => error,
        }
    }
}

/// How long a process takes to end that has begun to.
const DYING: Duration = Duration::from_secs(2);

const ENDED: &str = "execute a process in a container that has ended";

impl Process {
    /// The process id, as this program's PID namespace has it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.pid
    }

    /// As [`Container::take_stdin`].
    pub fn take_stdin(&mut self) -> Option<File> {
        self.0.take_stream(0)
    }

    /// As [`Container::take_stdout`].
    pub fn take_stdout(&mut self) -> Option<File> {
        self.0.take_stream(1)
    }

    /// As [`Container::take_stderr`].
    pub fn take_stderr(&mut self) -> Option<File> {
        self.0.take_stream(2)
    }

    /// As [`Container::take_terminal`].
    ///
    /// # Errors
    /// As there.
    pub fn take_terminal(&mut self) -> Result<Option<Terminal>> {
        self.0.take_terminal()
    }

    /// Blocks until the process has ended.
    ///
    /// # Errors
    /// `InvalidState`: (`MonitorLost`) if the monitor was killed, so that nobody knows the status;
    /// (`Disowned`) if the process is not ours to wait for.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.0.wait()
    }

    /// As [`Self::wait`], for at most `limit`; `None` if the process runs longer.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.0.wait_until(Some(Instant::now() + limit))
    }

    /// The exit status if the process has ended; never blocks.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Sends `signal` to the process; done if that has ended.
    ///
    /// # Errors
    /// `PermissionDenied` if the process belongs to somebody else.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        self.0.kill(signal)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The `CLONE_NEW*` flags of the namespaces in which `pid` and `launcher` differ.
///
/// Whoever is in a namespace already need not (and a plain user may not) enter it.
pub(super) fn foreign_namespaces(pid: i32, launcher: i32) -> Result<u32> {
    let identity = |pid: i32, name: &str| {
        let path = format!("/proc/{pid}/ns/{name}");
        match fs::metadata(&path) {
            Ok(namespace) => Ok(Some((namespace.dev(), namespace.ino()))),
            // A kind that this kernel does not have.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::os(format!("look at {path:?}"), error)),
        }
    };
    let mut flags = 0;
    for (name, flag) in NAMESPACES {
        if identity(pid, name)? != identity(launcher, name)? {
            flags |= flag.unsigned_abs();
        }
    }
    Ok(flags)
}

pub(super) const NAMESPACES: [(&str, libc::c_int); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", libc::CLONE_NEWTIME),
    ("mnt", libc::CLONE_NEWNS),
];
