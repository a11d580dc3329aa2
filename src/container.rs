//! One container: its verbs, and its way from a record to a process and back.

use std::fmt;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use container_core::{CreateOptions, ExitStatus, Signal, Stdio, Supervision};
use container_net::{AttachOptions, Attached, PortMapping, PublishedPort, ResolvConfOptions};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use crate::config::{NamespaceMode, RunConfig};
use crate::devices::host_devices;
use crate::lower::Doing;
use crate::spec::{self, Surroundings};
use crate::state::{self, DOCUMENT, Directory, EXIT, ParentLock, Record, STARTED};
use crate::{Engine, Error, ErrorKind, Image, Result};

/// The link of a container in its network.
const INTERFACE: &str = "eth0";

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
    process: Mutex<Option<Arc<Process>>>,
    /// The directory of a container that goes with this handle.
    owned: Mutex<Option<Directory>>,
}

/// A container's process, with what keeps its ports.
struct Process {
    core: container_core::Container,
    address: Option<IpAddr>,
    ports: Vec<PublishedPort>,
    _reservations: Vec<OwnedFd>,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It has never been started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended; `None` if its monitor was killed, so that nobody knows how.
    Exited(Option<ExitStatus>),
}

/// The network that a container is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Network {
    None,
    Host,
    Named(String),
}

impl Network {
    fn of(config: &RunConfig, engine: &Engine) -> Self {
        match config.network.as_deref() {
            Some("none") => Self::None,
            Some("host") => Self::Host,
            Some(name) => Self::Named(name.to_owned()),
            // Whoever publishes ports where there are no networks is to hear of it.
            None if engine.inner().networks.is_some() || !config.publish.is_empty() => {
                Self::Named("bridge".into())
            }
            None => Self::None,
        }
    }
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
    let (process, streams) = undo(launched, || discard(engine, &record, &directory))?;
    Ok(Container(Arc::new(Inner {
        engine: engine.clone(),
        record,
        streams: Mutex::new(streams),
        process: Mutex::new(Some(Arc::new(process))),
        owned: Mutex::new(Some(directory)),
    })))
}

/// Creates a container that stays.
pub(crate) fn create(engine: &Engine, record: Record, image: &Image) -> Result<Container> {
    let _lease = engine.lease()?;
    image.ensure_unpacked(engine)?;
    // So that no other program takes the same name meanwhile.
    let parent = ParentLock::exclusive(&engine.kept_directory(""))?;
    if let Some(name) = &record.name {
        check_name(engine, name)?;
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

/// The wishes of a container that concern ports, which only a network of ours can grant.
///
/// # Errors
/// `InvalidInput` for text that is no port.
pub(crate) fn check_ports(config: &RunConfig) -> Result<Vec<PortMapping>> {
    let mut ports = Vec::new();
    for text in &config.publish {
        ports.extend(PortMapping::parse(text).doing(|| format!("publish {text:?}"))?);
    }
    let alone = matches!(config.network.as_deref(), Some("none" | "host"));
    if alone && !ports.is_empty() {
        let what = "publish ports of a container without a network of its own";
        return Err(Error::invalid("PublishWithoutNetwork", what));
    }
    Ok(ports)
}

/// Writes the intent, then makes the writable layer; gives the mounts of the root file system.
fn prepare(engine: &Engine, record: &Record, directory: &Directory) -> Result<Vec<Mount>> {
    state::write(&directory.path().join(DOCUMENT), record, !record.ephemeral)?;
    driver(engine, record)
        .prepare(&record.id, record.layer.as_deref())
        .doing(|| format!("make the writable layer of container {}", record.id))
}

fn driver<'e>(engine: &'e Engine, record: &Record) -> &'e dyn container_storage::Driver {
    if record.ephemeral {
        &*engine.inner().fast_driver
    } else {
        &*engine.inner().driver
    }
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

/// Takes a container out of its network, whether it got there or not.
fn detach(engine: &Engine, record: &Record) -> Result<()> {
    let Network::Named(name) = Network::of(&record.config, engine) else {
        return Ok(());
    };
    let Ok(networks) = engine.networks() else {
        return Ok(());
    };
    match networks.get(&name) {
        Ok(network) => network
            .detach(&record.id, INTERFACE)
            .doing(|| format!("take container {} out of network {name}", record.id)),
        Err(error) if error.kind() == container_net::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing(|| format!("find network {name}")),
    }
}

/// Passes on `result`; after an error undoes what was done, keeping what fails of that.
fn undo<T>(result: Result<T>, undo: impl FnOnce() -> Result<()>) -> Result<T> {
    result.map_err(|error| error.with_cleanup(undo().err()))
}

/// From a prepared container to a running program.
fn launch(
    engine: &Engine,
    record: &Record,
    files: &Path,
    mounts: Vec<Mount>,
    stdio: [Stdio; 3],
) -> Result<(Process, [Option<File>; 3])> {
    let id = &record.id;
    let network = Network::of(&record.config, engine);
    let hostname = write_files(record, &network, files)?;
    let ids = (rustix::process::geteuid(), rustix::process::getegid());
    let joined = open_joined(engine, &record.config)?;
    let path = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    let surroundings = Surroundings {
        hostname: &hostname,
        root: engine.mount_point(),
        files,
        cgroup: engine.cgroup_path(id),
        host_network: network == Network::Host,
        capabilities: own_capabilities()?,
        devices: match record.config.privileged && ids.0.is_root() {
            true => host_devices()?,
            false => Vec::new(),
        },
        joined: joined
            .iter()
            .map(|(kind, file)| (*kind, path(file)))
            .collect(),
        map_root_to: (!ids.0.is_root()).then(|| (ids.0.as_raw(), ids.1.as_raw())),
    };
    let spec = spec::spec(&record.image_defaults, &record.config, &surroundings)?;
    let mut options = CreateOptions::default();
    options.root_mounts = mounts;
    let user = record
        .config
        .user
        .clone()
        .unwrap_or_else(|| record.image_defaults.user.clone());
    options.user = Some(user)
        .filter(|user| !user.is_empty())
        .or_else(|| Some("0".into()));
    options.stdio = stdio;
    options.supervision = match record.ephemeral {
        true => Supervision::Attached,
        false => Supervision::Detached,
    };
    options.start_at_once = !matches!(network, Network::Named(_));
    if !record.ephemeral {
        options.state = Some(engine.run_directory(id));
        options.exit_record = Some(engine.kept_directory(id).join(EXIT));
    }
    let mut core = engine
        .inner()
        .launcher
        .create(&spec, options)
        .doing(|| format!("create container {id}"))?;
    let streams = [core.take_stdin(), core.take_stdout(), core.take_stderr()];
    let started = join_and_start(engine, record, &core, &network, files, &hostname);
    match started {
        Ok(attached) => {
            let (address, ports, reservations) = match attached {
                Some(Attached {
                    attachment,
                    reservations,
                    ..
                }) => (
                    Some(IpAddr::V4(attachment.address)),
                    attachment.ports,
                    reservations,
                ),
                None => (None, Vec::new(), Vec::new()),
            };
            let process = Process {
                core,
                address,
                ports,
                _reservations: reservations,
            };
            Ok((process, streams))
        }
        Err(error) => {
            // It may be waiting for its start, or have failed by itself.
            let killed = core.kill(Signal::KILL).and_then(|()| match core.wait() {
                Err(error) if error.code() == "MonitorLost" => Err(error),
                _ => Ok(()),
            });
            Err(error.with_cleanup(killed.doing(|| format!("end container {id}")).err()))
        }
    }
}

/// The namespaces of other containers that one is to join.
///
/// # Errors
/// `NotFound` (`ContainerUnknown`), `InvalidState` (`NotRunning`).
fn open_joined(engine: &Engine, config: &RunConfig) -> Result<Vec<(LinuxNamespaceType, File)>> {
    let mut joined = Vec::new();
    for (kind, name, mode) in [
        (LinuxNamespaceType::Ipc, "ipc", &config.ipc),
        (LinuxNamespaceType::Pid, "pid", &config.pid),
    ] {
        let NamespaceMode::Container(other) = mode else {
            continue;
        };
        let other = engine.containers().get(other)?;
        let doing = || format!("join the {name} namespace of container {}", other.id());
        let pid = other.0.process()?.core.pid();
        let file = File::open(format!("/proc/{pid}/ns/{name}")).doing(doing)?;
        // Once it has ended, the number may be that of another process.
        if other.state()? != State::Running {
            return Err(Error::new(ErrorKind::InvalidState, "NotRunning", doing()));
        }
        joined.push((kind, file));
    }
    Ok(joined)
}

/// The mask of the capabilities that this program has.
fn own_capabilities() -> Result<u64> {
    rustix::thread::capabilities(None)
        .map(|sets| sets.permitted.bits())
        .map_err(|errno| Error::os("read the capabilities of this program", errno))
}

/// Equips the network while the process sets itself up, then starts the program.
fn join_and_start(
    engine: &Engine,
    record: &Record,
    core: &container_core::Container,
    network: &Network,
    files: &Path,
    hostname: &str,
) -> Result<Option<Attached>> {
    let doing = || format!("start container {}", record.id);
    let (Network::Named(name), Some(namespace)) = (network, core.network_namespace()) else {
        core.wait_running().doing(doing)?;
        return Ok(None);
    };
    let network = engine
        .networks()?
        .get(name)
        .doing(|| format!("find network {name}"))?;
    let mut options = AttachOptions::new(&record.id);
    options.interface = INTERFACE.into();
    options.ports = check_ports(&record.config)?;
    let attached = network.attach(namespace, &options).doing(doing);
    // What failed inside explains more than what failed around it.
    let attached = match attached {
        Err(error) => return Err(core.wait_created().doing(doing).err().unwrap_or(error)),
        Ok(attached) => attached,
    };
    let address = IpAddr::V4(attached.attachment.address);
    let started = write_hosts(record, files, Some((address, hostname)))
        .and_then(|()| core.start().doing(doing));
    undo(started, || detach(engine, record))?;
    Ok(Some(attached))
}

/// Writes `hostname`, `hosts` and `resolv.conf`, and gives the host name.
fn write_files(record: &Record, network: &Network, files: &Path) -> Result<String> {
    let config = &record.config;
    let short_id = record.id.get(..12).unwrap_or(&record.id);
    let hostname = match (&config.hostname, &config.uts) {
        (Some(name), _) => name.clone(),
        (None, NamespaceMode::Host) => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        (None, _) => short_id.to_owned(),
    };
    let content = container_net::hostname(&hostname).doing(|| "write the host name".into())?;
    write_file(files, "hostname", &content)?;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let content = if *network == Network::Host && config.dns.is_empty() {
        host
    } else {
        let mut options = ResolvConfOptions::default();
        options.nameservers = Some(config.dns.clone()).filter(|dns| !dns.is_empty());
        options.search = Some(config.dns_search.clone()).filter(|search| !search.is_empty());
        container_net::resolv_conf(&host, &options).doing(|| "write resolv.conf".into())?
    };
    write_file(files, "resolv.conf", &content)?;
    write_hosts(record, files, None)?;
    Ok(hostname)
}

/// Writes `hosts`, with the container's own address once that is known.
fn write_hosts(record: &Record, files: &Path, own: Option<(IpAddr, &str)>) -> Result<()> {
    let extra = record
        .config
        .extra_hosts
        .iter()
        .map(|(name, address)| (*address, name.as_str()));
    let entries = extra.chain(own).map(|(address, name)| (address, [name]));
    let content = container_net::hosts(entries).doing(|| "write hosts".into())?;
    write_file(files, "hosts", &content)
}

/// Writes a file in place: the container has the file itself mounted, not its name.
fn write_file(files: &Path, name: &str, content: &str) -> Result<()> {
    let path = files.join(name);
    fs::write(&path, content).doing(|| format!("write {path:?}"))
}

impl Container {
    /// A container that stays, by its record.
    pub(crate) fn found(engine: &Engine, record: Record) -> Self {
        Self(Arc::new(Inner {
            engine: engine.clone(),
            record,
            streams: Mutex::default(),
            process: Mutex::default(),
            owned: Mutex::default(),
        }))
    }

    /// The ID: 64 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.record.id
    }

    /// The name, if it has one.
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

    /// What the container is doing, whoever started it.
    ///
    /// # Errors
    /// `NotFound` (`ContainerUnknown`) if it was removed; `Os` if its records cannot be read.
    pub fn state(&self) -> Result<State> {
        let inner = &self.0;
        match inner.process() {
            Ok(process) => match process.core.try_wait() {
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
        let (process, _) = undo(launched, || {
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

    /// Sends `signal` to the container's first process.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`); `PermissionDenied`.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        let process = self.0.process()?;
        process
            .core
            .kill(signal)
            .doing(|| format!("kill container {}", self.id()))
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
        let asked = self.kill(signal).and_then(|()| self.wait_timeout(grace));
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
        if self.state()? == State::Running {
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
