//! One container: its verbs, and its way from a record to a process and back.

use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use container_core::cgroup::{Cgroup, CgroupPath};
use container_core::{ExecOptions, ExitStatus, Signal, Stdio, Terminal};
use container_net::PublishedPort;
use oci_spec::runtime::Mount;

use crate::config::RunConfig;
use crate::launch::{Process, detach, driver, hostname, launch, undo, user};
use crate::lower::Doing;
use crate::output::Writer;
use crate::state::{self, DOCUMENT, Directory, EXIT, ParentLock, Record, STARTED};
use crate::{Engine, Error, ErrorKind, Image, Result, names};

/// A container of an [`Engine`].
///
/// Handles are cheap to clone and may be used from any thread. A container that was
/// [spawned](crate::RunBuilder::spawn) dies with the last clone of its handle, and nothing of it
/// stays; one that was [created](crate::RunBuilder::create) stays until it is [removed](Self::remove).
#[derive(Clone)]
pub struct Container(Arc<Inner>);

struct Inner {
    engine: Engine,
    record: Record,
    streams: Mutex<[Option<File>; 3]>,
    terminal: Mutex<Option<Terminal>>,
    process: Mutex<Option<Arc<Process>>>,
    /// The directory of a container that goes with this handle.
    owned: Mutex<Option<Directory>>,
}

/// A container with the process that it has now.
pub(crate) struct Running<'c> {
    container: &'c Container,
    process: Arc<Process>,
}

impl Writer for Running<'_> {
    fn status_fd(&self) -> BorrowedFd<'_> {
        self.process.core.as_fd()
    }

    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let doing = || format!("wait for container {}", self.container.id());
        self.process.core.try_wait().doing(doing)
    }

    fn wait(&self) -> Result<ExitStatus> {
        self.container.wait()
    }

    fn kill(&self) -> Result<()> {
        self.container.kill(Signal::KILL)
    }
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has never been started.
    Created,
    /// Its program runs.
    Running,
    /// It is [paused](Container::pause).
    Paused,
    /// Its program has ended; `None` if its monitor was killed, so that nobody knows how.
    Exited(Option<ExitStatus>),
}

/// Starts a container that goes with its handle.
pub(crate) fn spawn(
    engine: &Engine,
    record: Record,
    image: &Image,
    stdio: [Stdio; 3],
) -> Result<Container> {
    let (directory, mounts) = {
        // Until the container's own snapshot holds on to the image's.
        let _lease = engine.lease()?;
        image.ensure_unpacked(engine)?;
        let parent = ParentLock::shared(&engine.run_directory(""))?;
        let directory = Directory::create(engine.run_directory(&record.id), &parent)?;
        drop(parent);
        let prepared = prepare(engine, &record, &directory);
        let mounts = undo(prepared, || discard(engine, &record, &directory))?;
        (directory, mounts)
    };
    let launched = launch(engine, &record, directory.path(), mounts, stdio);
    let (process, streams, terminal) = undo(launched, || discard(engine, &record, &directory))?;
    Ok(Container(Arc::new(Inner {
        engine: engine.clone(),
        record,
        streams: Mutex::new(streams),
        terminal: Mutex::new(terminal),
        process: Mutex::new(Some(Arc::new(process))),
        owned: Mutex::new(Some(directory)),
    })))
}

/// Creates a container that stays.
pub(crate) fn create(engine: &Engine, mut record: Record, image: &Image) -> Result<Container> {
    let _lease = engine.lease()?;
    image.ensure_unpacked(engine)?;
    // So that no other program takes the same name meanwhile.
    let parent = ParentLock::exclusive(&engine.kept_directory(""))?;
    match &record.name {
        Some(name) => check_name(engine, name)?,
        None => {
            let others = engine.containers().list()?;
            let taken = |name: &str| others.iter().any(|other| other.name() == Some(name));
            record.name = Some(names::random(taken)?);
        }
    }
    let directory = Directory::create(engine.kept_directory(&record.id), &parent)?;
    let prepared = prepare(engine, &record, &directory);
    undo(prepared, || discard(engine, &record, &directory))?;
    Ok(Container::found(engine, record))
}

/// Whether a container may take `name`; asked while nobody else can.
///
/// # Errors
/// `InvalidInput` (`InvalidName`) for what is no name, `AlreadyExists` (`NameTaken`).
fn check_name(engine: &Engine, name: &str) -> Result<()> {
    if !is_name(name) {
        let what = format!("name a container {name:?}: want letters, digits, _, . and -");
        return Err(Error::invalid("InvalidName", what));
    }
    let others = engine.containers().list()?;
    match others.iter().find(|other| other.name() == Some(name)) {
        Some(other) => {
            let what = format!(
                "name a container {name:?}, as {} is named already",
                other.id()
            );
            Err(Error::new(ErrorKind::AlreadyExists, "NameTaken", what))
        }
        None => Ok(()),
    }
}

/// Docker's rule: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (2..=255).contains(&name.len())
        && name.bytes().all(allowed)
        && name
            .as_bytes()
            .first()
            .is_some_and(u8::is_ascii_alphanumeric)
}

/// Writes the intent, then makes the writable layer; gives the mounts of the root file system.
fn prepare(engine: &Engine, record: &Record, directory: &Directory) -> Result<Vec<Mount>> {
    state::write(&directory.path().join(DOCUMENT), record, !record.ephemeral)?;
    driver(engine, record)
        .prepare(&record.id, record.layer.as_deref())
        .doing(|| format!("make the writable layer of container {}", record.id))
}

/// Removes all of a container that has no process; the record goes last.
pub(crate) fn discard(engine: &Engine, record: &Record, directory: &Directory) -> Result<()> {
    detach(engine, record)?;
    driver(engine, record)
        .remove(&record.id)
        .doing(|| format!("remove the writable layer of container {}", record.id))?;
    if !record.ephemeral {
        state::remove_tree(&engine.run_directory(&record.id))?;
    }
    directory.remove()
}

impl Container {
    /// A container that stays, by its record.
    pub(crate) fn found(engine: &Engine, record: Record) -> Self {
        Self(Arc::new(Inner {
            engine: engine.clone(),
            record,
            streams: Mutex::default(),
            terminal: Mutex::default(),
            process: Mutex::default(),
            owned: Mutex::default(),
        }))
    }

    /// The ID: 64 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// The name; one that goes with its handle has none unless it was given one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.record.name.as_deref()
    }

    /// What the image was called when the container was made; its digest if it had no name.
    #[must_use]
    pub fn image(&self) -> &str {
        self.0
            .record
            .image_name
            .as_deref()
            .unwrap_or(&self.0.record.image)
    }

    /// When it was made, as RFC 3339 text.
    #[must_use]
    pub fn created(&self) -> &str {
        &self.0.record.created
    }

    /// The process id of its first process on this host.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`).
    pub fn pid(&self) -> Result<i32> {
        Ok(self.0.process()?.core.pid())
    }

    /// Its address in its network, where this program started it.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.0
            .lock_process()
            .as_ref()
            .and_then(|process| process.address)
    }

    /// Its published ports, where this program started it.
    #[must_use]
    pub fn ports(&self) -> Vec<PublishedPort> {
        self.0
            .lock_process()
            .as_ref()
            .map(|process| process.ports.clone())
            .unwrap_or_default()
    }

    /// The writing end of standard input, where it is [`Stdio::Piped`]; once.
    #[must_use]
    pub fn take_stdin(&self) -> Option<File> {
        self.0.take_stream(0)
    }

    /// The reading end of standard output, where it is [`Stdio::Piped`]; once.
    #[must_use]
    pub fn take_stdout(&self) -> Option<File> {
        self.0.take_stream(1)
    }

    /// The reading end of standard error, where it is [`Stdio::Piped`]; once.
    #[must_use]
    pub fn take_stderr(&self) -> Option<File> {
        self.0.take_stream(2)
    }

    /// The outer side of its terminal, where it was made with [one](crate::RunBuilder::tty); once.
    #[must_use]
    pub fn take_terminal(&self) -> Option<Terminal> {
        let mut terminal = self
            .0
            .terminal
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        terminal.take()
    }

    /// Its group, while it has one.
    pub(crate) fn cgroup(&self) -> Result<Cgroup> {
        let doing = || format!("find the cgroup of container {}", self.id());
        let path = CgroupPath::new(&self.0.engine.cgroup_path(self.id())).doing(doing)?;
        Cgroup::open(&path).doing(doing)
    }

    fn is_paused(&self) -> bool {
        self.cgroup()
            .is_ok_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    /// What the caller wanted when it was made.
    pub(crate) fn wishes(&self) -> &RunConfig {
        &self.0.record.config
    }

    pub(crate) fn image_defaults(&self) -> &container_image::RunConfig {
        &self.0.record.image_defaults
    }

    pub(crate) fn hostname(&self) -> String {
        hostname(&self.0.record)
    }

    /// The user that a program with these wishes runs as.
    pub(crate) fn user_of(&self, config: &RunConfig) -> String {
        user(&self.0.record, config)
    }

    /// The process, to follow it.
    pub(crate) fn running(&self) -> Result<Running<'_>> {
        Ok(Running {
            container: self,
            process: self.0.process()?,
        })
    }

    pub(crate) fn exec_in_core(
        &self,
        process: &oci_spec::runtime::Process,
        options: ExecOptions,
    ) -> Result<container_core::Process> {
        let target = self.0.process()?;
        let launcher = &self.0.engine.inner().launcher;
        launcher
            .exec(&target.core, process, options)
            .doing(|| format!("execute a program in container {}", self.id()))
    }

    /// What the container is doing, whoever started it.
    ///
    /// # Errors
    /// `NotFound` (`ContainerUnknown`) if it was removed; `Os` if its records cannot be read.
    pub fn state(&self) -> Result<State> {
        let inner = &self.0;
        match inner.process() {
            Ok(process) => match process.core.try_wait() {
                Ok(None) if self.is_paused() => Ok(State::Paused),
                Ok(None) => Ok(State::Running),
                Ok(Some(status)) => Ok(State::Exited(Some(status))),
                Err(_) => Ok(State::Exited(inner.recorded_exit()?)),
            },
            Err(error) if error.code() == "NotRunning" => inner.resting_state(),
            Err(error) => Err(error),
        }
    }

    /// Starts a created or ended container; it runs on when this program ends.
    ///
    /// # Errors
    /// `InvalidState` (`AlreadyRunning`), `Busy` if another program is changing it, and as
    /// [`crate::RunBuilder::output`].
    pub fn start(&self) -> Result<()> {
        let inner = &self.0;
        let directory = inner.lock_kept()?;
        if inner
            .process()
            .is_ok_and(|process| matches!(process.core.try_wait(), Ok(None)))
        {
            let what = format!("start container {}, which runs already", inner.record.id);
            return Err(Error::new(ErrorKind::InvalidState, "AlreadyRunning", what));
        }
        let run = inner.engine.run_directory(&inner.record.id);
        detach(&inner.engine, &inner.record)?;
        state::remove_tree(&run)?;
        state::make_directory(&run)?;
        let marker = directory.path().join(STARTED);
        File::create(&marker).doing(|| format!("make {marker:?}"))?;
        // How it ended the last time is not how it will end now.
        state::remove_file(&directory.path().join(EXIT))?;
        let stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
        let mounts = driver(&inner.engine, &inner.record)
            .mounts(&inner.record.id)
            .doing(|| format!("find the root file system of container {}", self.id()))?;
        let launched = launch(
            &inner.engine,
            &inner.record,
            directory.path(),
            mounts,
            stdio,
        );
        let (process, ..) = undo(launched, || {
            detach(&inner.engine, &inner.record)?;
            state::remove_tree(&run)
        })?;
        *inner.lock_process() = Some(Arc::new(process));
        Ok(())
    }

    /// Blocks until the program has ended, whoever started it.
    ///
    /// # Errors
    /// `InvalidState` (`NotStarted`, `MonitorLost`), `NotFound` if it was removed.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.wait_until(None)?.ok_or_else(|| {
            let what = format!("wait for container {}", self.id());
            Error::new(ErrorKind::Internal, "NoStatus", what)
        })
    }

    /// As [`Self::wait`], for at most `limit`; `None` if the program runs longer.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        self.wait_until(Some(Instant::now() + limit))
    }

    /// Sends `signal` to the container's first process. A paused container gets it when it goes on;
    /// SIGKILL makes it go on.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`); `PermissionDenied`.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let process = self.0.process()?;
        let doing = || format!("kill container {}", self.id());
        process.core.kill(signal).doing(doing)?;
        // Version 1 lets nothing die that is stopped.
        if signal == Signal::KILL && self.is_paused() {
            let thawed = self.cgroup().and_then(|cgroup| cgroup.thaw().doing(doing));
            // With version 2 it has ended meanwhile, and its group may be gone.
            return thawed.or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
        }
        Ok(())
    }

    /// Asks the program to end, by the image's stop signal or SIGTERM, and kills it if it still runs
    /// after `grace`; done if it does not run. Blocks until it has ended.
    ///
    /// # Errors
    /// As [`Self::kill`] and [`Self::wait`].
    pub fn stop(&self, grace: Duration) -> Result<()> {
        let wanted = self.0.record.image_defaults.stop_signal.as_deref();
        let signal = wanted.map_or(Ok(Signal::TERM), str::parse);
        let signal = signal.doing(|| format!("stop container {}", self.id()))?;
        let asked = self.kill(signal).and_then(|()| match self.is_paused() {
            // It could not end otherwise.
            true => self.resume(),
            false => Ok(()),
        });
        let asked = asked.and_then(|()| self.wait_timeout(grace));
        let ended = match asked {
            Ok(None) => self.kill(Signal::KILL).and_then(|()| self.wait().map(drop)),
            asked => asked.map(drop),
        };
        match ended {
            Err(error) if error.code() == "NotRunning" => Ok(()),
            ended => ended,
        }
    }

    /// [Stops](Self::stop) the container and starts it again.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub fn restart(&self, grace: Duration) -> Result<()> {
        self.stop(grace)?;
        self.start()
    }

    /// Gives the container another name, and a handle that knows it; others keep the name that they
    /// found.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidName`), `AlreadyExists` (`NameTaken`), `NotFound` if it was removed;
    /// `InvalidState` (`Ephemeral`) for one that goes with its handle.
    pub fn rename(&self, name: &str) -> Result<Self> {
        let inner = &self.0;
        let engine = &inner.engine;
        let _parent = ParentLock::exclusive(&engine.kept_directory(""))?;
        check_name(engine, name)?;
        let directory = inner.lock_kept()?;
        let mut record = inner.record.clone();
        record.name = Some(name.to_owned());
        state::write(&directory.path().join(DOCUMENT), &record, true)?;
        Ok(Self::found(engine, record))
    }

    /// Removes the container with all that is in it; done if it is gone already.
    ///
    /// # Errors
    /// `InvalidState` (`ContainerRunning`) while it runs; `Busy` if another program is changing it.
    pub fn remove(&self) -> Result<()> {
        let inner = &self.0;
        if inner.record.ephemeral {
            return inner.release();
        }
        let path = inner.engine.kept_directory(&inner.record.id);
        if !path.exists() {
            return Ok(());
        }
        let directory = inner.lock_kept()?;
        if matches!(self.state()?, State::Running | State::Paused) {
            let what = format!("remove container {}, which runs", self.id());
            return Err(Error::new(
                ErrorKind::InvalidState,
                "ContainerRunning",
                what,
            ));
        }
        discard(&inner.engine, &inner.record, &directory)
    }

    /// As [`Self::remove`], but ends the container first if it runs.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_force(&self) -> Result<()> {
        match self.kill(Signal::KILL).and_then(|()| self.wait().map(drop)) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) =>
            {
                Err(error)
            }
            _ => self.remove(),
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        let inner = &self.0;
        let process = match inner.process() {
            Ok(process) => process,
            Err(error) if error.code() == "NotRunning" => {
                return match inner.resting_state()? {
                    State::Exited(status) => {
                        status.map(Some).ok_or_else(|| monitor_lost(self.id()))
                    }
                    _ => Err(Error::new(
                        ErrorKind::InvalidState,
                        "NotStarted",
                        format!("wait for container {}, which was never started", self.id()),
                    )),
                };
            }
            Err(error) => return Err(error),
        };
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let status = match deadline {
            None => process.core.wait().map(Some),
            Some(deadline) => process.core.wait_timeout(left(deadline)),
        };
        let status = status.doing(|| format!("wait for container {}", self.id()))?;
        if status.is_some() {
            inner.settle()?;
        }
        Ok(status)
    }
}

/// Readable when the state of a running container changes, and once it has ended: for a reactor.
impl Container {
    /// A descriptor to poll, while this handle knows of a process.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`).
    pub fn status_fd(&self) -> Result<OwnedFd> {
        let process = self.0.process()?;
        let status: BorrowedFd<'_> = process.core.as_fd();
        rustix::io::fcntl_dupfd_cloexec(status, 3)
            .map_err(|errno| Error::os("duplicate the status descriptor", errno))
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Container({})", self.id())
    }
}

impl Inner {
    fn lock_process(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_stream(&self, number: usize) -> Option<File> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.get_mut(number).and_then(Option::take)
    }

    /// The process that this handle started, or that another program did.
    fn process(&self) -> Result<Arc<Process>> {
        if let Some(process) = &*self.lock_process() {
            return Ok(Arc::clone(process));
        }
        let run = self.engine.run_directory(&self.record.id);
        let exit = self.engine.kept_directory(&self.record.id).join(EXIT);
        match container_core::Container::open(&run, Some(&exit)) {
            Ok(core) => Ok(Arc::new(Process {
                core,
                address: None,
                ports: Vec::new(),
                _reservations: Vec::new(),
            })),
            Err(error) if error.kind() == container_core::ErrorKind::NotFound => {
                let what = format!("find the process of container {}", self.record.id);
                Err(Error::new(ErrorKind::InvalidState, "NotRunning", what).with_source(error))
            }
            Err(error) => Err(error).doing(|| format!("open container {}", self.record.id)),
        }
    }

    fn recorded_exit(&self) -> Result<Option<ExitStatus>> {
        let path = self.engine.kept_directory(&self.record.id).join(EXIT);
        ExitStatus::read(&path).doing(|| format!("read how container {} ended", self.record.id))
    }

    /// The state of a container without a process.
    fn resting_state(&self) -> Result<State> {
        if let Some(status) = self.recorded_exit()? {
            return Ok(State::Exited(Some(status)));
        }
        let directory = self.engine.kept_directory(&self.record.id);
        if self.record.ephemeral || !directory.exists() {
            let what = format!("find container {}", self.record.id);
            return Err(Error::new(ErrorKind::NotFound, "ContainerUnknown", what));
        }
        Ok(if directory.join(STARTED).exists() {
            State::Exited(None)
        } else {
            State::Created
        })
    }

    fn lock_kept(&self) -> Result<Directory> {
        if self.record.ephemeral {
            let what = format!(
                "change container {}, which goes with its handle",
                self.record.id
            );
            return Err(Error::new(ErrorKind::InvalidState, "Ephemeral", what));
        }
        Directory::lock(&self.engine.kept_directory(&self.record.id))
    }

    /// Gives back what only a running container needs.
    fn settle(&self) -> Result<()> {
        if self.record.ephemeral {
            return self.release();
        }
        self.lock_process().take();
        // Whoever changes the container meanwhile, or has started it again, does that as well.
        match Directory::try_lock(&self.engine.kept_directory(&self.record.id)) {
            Ok(Some(_lock)) if self.process().is_err() => detach(&self.engine, &self.record),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends a container that goes with its handle, and removes all of it.
    fn release(&self) -> Result<()> {
        let owned = self
            .owned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(directory) = owned else {
            return Ok(());
        };
        let process = self.lock_process().clone();
        if let Some(process) = process {
            let doing = || format!("end container {}", self.record.id);
            process.core.kill(Signal::KILL).doing(doing)?;
            // How it ended is for those who wait; that it has ended is what matters here.
            let _ = process.core.wait();
        }
        discard(&self.engine, &self.record, &directory)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What stays is removed when an engine is opened next.
        let _ = self.release();
    }
}

fn monitor_lost(id: &str) -> Error {
    let what = format!("find how container {id} ended: its monitor was killed");
    Error::new(ErrorKind::InvalidState, "MonitorLost", what)
}
