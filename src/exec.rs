//! Programs executed in a running container, beside the one that it was made for.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use container_core::{ExecOptions, ExitStatus, Signal, Stdio, Supervision, Terminal};

use crate::config::RunConfig;
use crate::container::Container;
use crate::containers::{report, variable};
use crate::launch;
use crate::lower::Doing;
use crate::output::{self, Output, Writer};
use crate::{Error, ErrorKind, Result, spec};

/// A program to be executed in a container.
///
/// It has the environment, the user, the working directory and the limits of the container, unless
/// told otherwise, and is behind the same filter. Setters never fail; the verb that ends the builder
/// reports everything that is wrong.
#[must_use = "nothing happens before a verb such as `output`"]
pub struct ExecBuilder {
    container: Container,
    config: RunConfig,
    stdio: [Stdio; 3],
    problems: Vec<Error>,
}

/// A program that was executed in a container.
///
/// As a file descriptor it becomes readable when its state changes, and stays so once it has ended.
/// Dropping the handle kills the program, unless it was [detached](ExecBuilder::detach).
#[derive(Debug)]
pub struct Process {
    core: container_core::Process,
    container: String,
}

impl Container {
    /// Executes `command` in the container, which must run.
    ///
    /// ```no_run
    /// # fn f(web: &container_engine::Container) -> container_engine::Result<()> {
    /// let output = web.exec(["cat", "/etc/hostname"]).user("nobody").output()?;
    /// assert!(output.status.success());
    /// # Ok(())
    /// # }
    /// ```
    pub fn exec<S: Into<String>>(&self, command: impl IntoIterator<Item = S>) -> ExecBuilder {
        let mut config = self.wishes().clone();
        config.entrypoint = Some(Vec::new());
        config.command = Some(command.into_iter().map(Into::into).collect());
        config.tty = false;
        ExecBuilder {
            container: self.clone(),
            config,
            stdio: Default::default(),
            problems: Vec::new(),
        }
    }
}

impl ExecBuilder {
    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        match variable(name, value) {
            Ok(variable) => self.config.environment.push(variable),
            Err(error) => self.problems.push(error),
        }
        self
    }

    /// The working directory; made if missing.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.working_directory = Some(path.into());
        self
    }

    /// `USER[:GROUP]`, by name or number, as the container's own files know them.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// Gives all capabilities that this program has, whatever the container has. Devices, filter and
    /// masks stay those of the container.
    pub fn privileged(mut self) -> Self {
        self.config.privileged = true;
        self
    }

    /// Gives the program a terminal, for [`Process::take_terminal`].
    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    /// Standard input; nothing unless set.
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Standard output; nothing unless set.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Standard error; nothing unless set.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// Runs the program to its end and gives its output. Blocks.
    ///
    /// What it leaves running in the background may keep its output open; that is not waited for.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`, `Paused`); `NotFound` (`CommandNotFound`), `PermissionDenied`
    /// (`CommandNotExecutable`); everything wrong with the wishes (`InvalidInput`). `InvalidState`
    /// (`OutputTooLarge`) beyond 256 MiB of one stream.
    pub fn output(mut self) -> Result<Output> {
        self.stdio[1] = Stdio::Piped;
        self.stdio[2] = Stdio::Piped;
        let mut process = self.spawn()?;
        let streams = [process.take_stdout(), process.take_stderr()];
        output::collect(&process, streams)
    }

    /// Runs the program to its end. Blocks.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub fn status(self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts the program; it dies with the handle. Blocks until it runs.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub fn spawn(self) -> Result<Process> {
        self.start(Supervision::Attached)
    }

    /// Starts the program; it runs on when this program ends. Blocks until it runs.
    ///
    /// # Errors
    /// As [`Self::output`]; `Unsupported` (`DetachedTerminal`) with a terminal, which nobody would hold.
    pub fn detach(self) -> Result<Process> {
        self.start(Supervision::Detached)
    }

    fn start(mut self, supervision: Supervision) -> Result<Process> {
        let id = self.container.id().to_owned();
        if self.config.tty && supervision == Supervision::Detached {
            let what = format!("give a detached program in container {id} a terminal");
            self.problems
                .push(Error::new(ErrorKind::Unsupported, "DetachedTerminal", what));
        }
        report(&self.problems, || {
            format!("execute a program in container {id}")
        })?;
        let process = spec::exec_process(
            self.container.image_defaults(),
            &self.config,
            &self.container.hostname(),
            launch::own_capabilities()?,
        )?;
        let mut options = ExecOptions::default();
        options.user = Some(self.container.user_of(&self.config));
        options.stdio = self.stdio;
        options.supervision = supervision;
        let core = self.container.exec_in_core(&process, options)?;
        Ok(Process {
            core,
            container: id,
        })
    }
}

impl fmt::Debug for ExecBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecBuilder")
            .field("container", &self.container)
            .field("command", &self.config.command)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Its process id on this host.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.core.pid()
    }

    /// The writing end of standard input, where it is [`Stdio::Piped`]; once.
    pub fn take_stdin(&mut self) -> Option<File> {
        self.core.take_stdin()
    }

    /// The reading end of standard output, where it is [`Stdio::Piped`]; once.
    pub fn take_stdout(&mut self) -> Option<File> {
        self.core.take_stdout()
    }

    /// The reading end of standard error, where it is [`Stdio::Piped`]; once.
    pub fn take_stderr(&mut self) -> Option<File> {
        self.core.take_stderr()
    }

    /// The outer side of its terminal, if it has one; once.
    ///
    /// # Errors
    /// `InvalidState` (`NoTerminal`) if it ended before it had one.
    pub fn take_terminal(&mut self) -> Result<Option<Terminal>> {
        let doing = || {
            format!(
                "take the terminal of a program in container {}",
                self.container
            )
        };
        self.core.take_terminal().doing(doing)
    }

    /// Blocks until it has ended.
    ///
    /// # Errors
    /// `InvalidState` (`MonitorLost`).
    pub fn wait(&self) -> Result<ExitStatus> {
        self.core.wait().doing(|| self.waiting())
    }

    /// As [`Self::wait`], for at most `limit`; `None` if it runs longer.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.core.wait_timeout(limit).doing(|| self.waiting())
    }

    /// Sends it `signal`; done if it has ended.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let doing = || format!("kill a program in container {}", self.container);
        self.core.kill(signal).doing(doing)
    }

    fn waiting(&self) -> String {
        format!("wait for a program in container {}", self.container)
    }
}

impl Writer for Process {
    fn status_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        self.wait_timeout(Duration::ZERO)
    }

    fn wait(&self) -> Result<ExitStatus> {
        Process::wait(self)
    }

    fn kill(&self) -> Result<()> {
        Process::kill(self, Signal::KILL)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.as_fd()
    }
}
