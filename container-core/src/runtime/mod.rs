//! The OCI runtime: containers by id, over their whole life, across processes.
//!
//! A [`Runtime`] is a directory in which each container has one of its own. Whoever opens it sees all
//! containers, whichever process created them: the verbs of the runtime specification are its methods.
//!
//! ```no_run
//! use container_core::runtime::{self, Runtime};
//! use container_core::{CreateOptions, Signal};
//!
//! let runtime = Runtime::open("/run/my-runtime")?;
//! let mut options = CreateOptions::default();
//! options.bundle = "/bundles/web".into();
//! let config = runtime::load_spec(&options.bundle.join("config.json"))?;
//! runtime.create("web", &config.spec, options)?;
//! runtime.start("web")?;
//! runtime.kill("web", Signal::TERM)?;
//! runtime.delete("web", true)?;
//! # Ok::<(), container_core::Error>(())
//! ```
//!
//! # On disk
//!
//! ```text
//! <root>/                 0711; best on a tmpfs
//! ├── <id>/               0700; under `flock` by whoever changes the container
//! │   ├── state.json      what the container is: id, bundle, process, cgroup; version 1
//! │   ├── config.json     the spec that it was created with
//! │   ├── init.json       its process, as the monitor recorded it
//! │   └── start           the FIFO that it waits at until it is started
//! └── ~<pid>-<number>/    one that is about to get its name, or has lost it
//! ```
//!
//! Every document is replaced as a whole, so that reading needs no lock. A directory gets its name
//! when it has its document, and loses it before anything in it is removed. What a container *is doing*
//! is written nowhere: [`Status`] is told from its process, the freezer and the FIFO.

mod features;
mod id;
mod record;
mod spec;
mod state;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{self, LinuxNamespaceType, LinuxResources, Spec};
use rustix::io::Errno;

pub use self::features::features;
use self::id::check_id;
use self::record::{Entry, Init, Record};
pub use self::spec::{Loaded, OCI_VERSION, default_spec, load_spec, parse_process, rootless_spec};
pub use self::state::{State, Status};
use crate::cgroup::{Cgroup, CgroupPath};
use crate::container::{open_process, readable};
use crate::defaults;
use crate::state::{ProcessId, START};
use crate::{
    Container, CreateOptions, Error, ErrorKind, ExecOptions, Launcher, Process, Result, Signal, sys,
};

/// The containers below one directory.
///
/// Cheap to clone; every method may be called from any thread and blocks. Processes are started by one
/// [`Launcher`], which starts itself at the first [`create`](Self::create).
///
/// # Privileges
/// Those that the specs of the containers need.
#[derive(Clone, Debug)]
pub struct Runtime {
    root: PathBuf,
    launcher: Launcher,
}

impl Runtime {
    /// Opens the containers below `root`, which is made when there is something to put there.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidPath`) if `root` is not absolute.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        if !root.is_absolute() {
            let what = format!("open {root:?}, which is not an absolute path");
            return Err(Error::invalid("InvalidPath", what));
        }
        Ok(Self {
            root,
            launcher: Launcher::new(),
        })
    }

    /// Creates the container `id` of `spec`; blocks until everything but the program itself is set up.
    ///
    /// `options.bundle` is where relative paths of the spec lead from; `options.state` and `id` are
    /// ignored, as the runtime knows them, and as with other runtimes `HOME` is set where it is missing. Without a `linux.cgroupsPath` the container's group has its id
    /// for a name.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidName`) for an id that is not one plain name; `AlreadyExists`
    /// (`ContainerExists`); `Unsupported` (`UnknownVersion`) for a spec of another version than 1.x.y; and as [`Launcher::create`]. After an error nothing is left behind.
    pub fn create(&self, id: &str, spec: &Spec, mut options: CreateOptions) -> Result<Container> {
        check_id(id)?;
        check_version(spec)?;
        record::sweep(&self.root);
        let mut spec = spec.clone();
        allow_default_devices(&mut spec);
        let cgroup = plan_cgroup(id, &mut spec)?;
        let mut record = Record::new(id, &options, cgroup);
        let entry = Entry::create(&self.root, &record, &spec)?;
        options.state = Some(entry.directory.clone());
        options.id = Some(id.to_owned());
        options.find_home = true;
        let created = self.launcher.create(&spec, options).and_then(|container| {
            let noted = container.wait_created().and_then(|()| {
                record.init = Some(Init::of(container.pid())?);
                entry.write(&record)
            });
            match noted {
                Ok(()) => Ok(container),
                Err(error) => {
                    let _ = container.kill(Signal::KILL);
                    Err(error.with_cleanup(end(&record, &spec).err()))
                }
            }
        });
        created.map_err(|error| error.with_cleanup(entry.remove().err()))
    }

    /// Lets the program of a created container run; blocks until it does.
    ///
    /// # Errors
    /// `NotFound` (`ContainerUnknown`), also of every other method; `InvalidState` if it has been started
    /// before (`AlreadyStarted`) or has ended (`NotRunning`); and as [`Container::start`].
    pub fn start(&self, id: &str) -> Result<()> {
        let (entry, record) = self.lock(id)?;
        match status(&entry.directory, &record)?.0 {
            Status::Created => {}
            Status::Creating | Status::Stopped => return Err(not_running(id, "start")),
            Status::Running | Status::Paused => {
                let what = format!("start container {id}, which has been started before");
                return Err(Error::new(ErrorKind::InvalidState, "AlreadyStarted", what));
            }
        }
        let container = Container::open(&entry.directory, None)?;
        container.start()?;
        if !record.disowned {
            return Ok(());
        }
        let spec = record::read_spec(&entry.directory)?;
        let launcher = &self.launcher;
        launcher
            .run_poststart_hooks(&spec, &record.bundle, id, container.pid())
            .inspect_err(|_| drop(container.kill(Signal::KILL)))
    }

    /// What a container is and does.
    ///
    /// # Errors
    /// `NotFound`; `Os` if its documents cannot be read.
    pub fn state(&self, id: &str) -> Result<State> {
        let (directory, record) = self.look_up(id)?;
        self.state_of(id, &directory, record)
    }

    /// All containers, by id; one whose documents cannot be understood is listed as stopped, and can be
    /// deleted.
    ///
    /// # Errors
    /// `Os` if the directory cannot be read; there are none if it does not exist.
    pub fn list(&self) -> Result<Vec<State>> {
        let failed = |error| Error::os(format!("list {:?}", self.root), error);
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(failed)?,
        };
        let mut states = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().filter(|id| check_id(id).is_ok()) else {
                continue;
            };
            match self.state(id) {
                // It was deleted meanwhile, or is no directory.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => states.push(result?),
            }
        }
        states.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(states)
    }

    /// The group of a container, to look at what it uses and what happens in it; `None` if it has none.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn cgroup(&self, id: &str) -> Result<Option<Cgroup>> {
        Ok(self.look_up(id)?.1.and_then(|record| record.cgroup))
    }

    /// The spec that a container was created with.
    ///
    /// # Errors
    /// `NotFound`; `Os` if it cannot be read.
    pub fn spec(&self, id: &str) -> Result<Spec> {
        record::read_spec(&self.look_up(id)?.0)
    }

    /// The processes of a container, as this PID namespace numbers them; none of one that has ended,
    /// unless some outlived its first.
    ///
    /// # Errors
    /// `NotFound`; `Os` if they cannot be read.
    pub fn processes(&self, id: &str) -> Result<Vec<i32>> {
        let (directory, record) = self.known(id)?;
        let lives = status(&directory, &record)?.1.is_some();
        match &record.cgroup {
            Some(cgroup) => match cgroup.pids() {
                // The monitor, or whoever deletes it, has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                pids => Ok(pids?.into_iter().collect()),
            },
            None if lives => Container::open(&directory, None)?.processes(),
            None => Ok(Vec::new()),
        }
    }

    /// Sends `signal` to the first process of a container.
    ///
    /// SIGKILL ends a paused container, too. Where the first process is not that of a PID namespace of
    /// its own, it goes to all processes of the container: they would live on otherwise.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` (`NotRunning`).
    pub fn kill(&self, id: &str, signal: Signal) -> Result<()> {
        let (directory, record) = self.known(id)?;
        let (status, init) = status(&directory, &record)?;
        let Some(init) = init else {
            return Err(not_running(id, "kill"));
        };
        if signal == Signal::KILL {
            if let Some(cgroup) = record.cgroup.as_ref().filter(|_| status == Status::Paused) {
                send(&init, signal)?;
                return cgroup.thaw();
            }
            let own = record::read_spec(&directory).is_ok_and(|spec| has_own_pids(&spec));
            if let Some(cgroup) = record.cgroup.as_ref().filter(|_| !own) {
                return cgroup.kill_all();
            }
        }
        send(&init, signal)
    }

    /// Sends `signal` to every process of a container; done if there is none.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn kill_all(&self, id: &str, signal: Signal) -> Result<()> {
        let (directory, record) = self.known(id)?;
        match (&record.cgroup, status(&directory, &record)?.1) {
            (Some(cgroup), _) if signal == Signal::KILL => cgroup.kill_all(),
            (Some(cgroup), _) => {
                cgroup
                    .pids()?
                    .into_iter()
                    .try_for_each(|pid| match Running::open(pid)? {
                        Some(process) => send(&process, signal),
                        None => Ok(()),
                    })
            }
            (None, Some(init)) => send(&init, signal),
            (None, None) => Ok(()),
        }
    }

    /// Removes what is left of a container that has ended or was not started; with `force` also ends one
    /// that runs, and is done if there is none. Gives what went wrong without keeping the container from
    /// going: its `poststop` hooks that failed.
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` (`NotStopped`) without `force`; `Cleanup` and `TimedOut` if something
    /// does not go: the container stays then, and can be deleted again.
    pub fn delete(&self, id: &str, force: bool) -> Result<Vec<Error>> {
        check_id(id)?;
        let entry = match Entry::lock(&self.root, id) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        let mut hooks = None;
        if let Some(record) = Record::read(&entry.directory)? {
            let (status, _) = status(&entry.directory, &record)?;
            if matches!(status, Status::Running | Status::Paused) && !force {
                let what = format!("delete container {id}, which is not stopped: {status}");
                return Err(Error::new(ErrorKind::InvalidState, "NotStopped", what));
            }
            // A spec that cannot be read keeps no container from going.
            let spec = record::read_spec(&entry.directory).unwrap_or_default();
            end(&record, &spec)?;
            // Of one that was never completed none has run before.
            hooks = (record.disowned && record.init.is_some()).then_some((record.bundle, spec));
        }
        entry.remove()?;
        let warnings =
            hooks.map(|(bundle, spec)| self.launcher.run_poststop_hooks(&spec, &bundle, id));
        Ok(warnings.and_then(Result::err).into_iter().collect())
    }

    /// Stops all processes of a running container until [`resume`](Self::resume).
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` (`NotRunning`, `AlreadyPaused`); as [`Cgroup::freeze`].
    pub fn pause(&self, id: &str) -> Result<()> {
        let (entry, record) = self.lock(id)?;
        match status(&entry.directory, &record)?.0 {
            Status::Created | Status::Running => group_of(&record)?.freeze(),
            Status::Paused => {
                let what = format!("pause container {id}, which is paused");
                Err(Error::new(ErrorKind::InvalidState, "AlreadyPaused", what))
            }
            Status::Creating | Status::Stopped => Err(not_running(id, "pause")),
        }
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` (`NotPaused`); as [`Cgroup::thaw`].
    pub fn resume(&self, id: &str) -> Result<()> {
        let (entry, record) = self.lock(id)?;
        if status(&entry.directory, &record)?.0 != Status::Paused {
            let what = format!("resume container {id}, which is not paused");
            return Err(Error::new(ErrorKind::InvalidState, "NotPaused", what));
        }
        group_of(&record)?.thaw()
    }

    /// Changes the limits of a container that are set in `resources`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` (`NotRunning`); as [`Cgroup::update`].
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let (entry, record) = self.lock(id)?;
        match status(&entry.directory, &record)?.1 {
            Some(_) => group_of(&record)?.update(resources),
            None => Err(not_running(id, "update")),
        }
    }

    /// Executes a process in a container; blocks until its program runs.
    ///
    /// # Errors
    /// `NotFound`; as [`Launcher::exec`].
    pub fn exec(
        &self,
        id: &str,
        process: &runtime::Process,
        mut options: ExecOptions,
    ) -> Result<Process> {
        options.find_home = true;
        let (directory, record) = self.known(id)?;
        if status(&directory, &record)?.1.is_none() {
            return Err(not_running(id, "execute a process in"));
        }
        let container = Container::open(&directory, None)?;
        self.launcher.exec(&container, process, options)
    }

    /// Where a container is, and what is recorded of it, if that can be understood.
    fn look_up(&self, id: &str) -> Result<(PathBuf, Option<Record>)> {
        check_id(id)?;
        let directory = self.root.join(id);
        let record = Record::read(&directory)?;
        if record.is_none() && !directory.is_dir() {
            return Err(record::unknown(id));
        }
        Ok((directory, record))
    }

    fn known(&self, id: &str) -> Result<(PathBuf, Record)> {
        let (directory, record) = self.look_up(id)?;
        Ok((directory, record.ok_or_else(|| broken(id))?))
    }

    fn lock(&self, id: &str) -> Result<(Entry, Record)> {
        check_id(id)?;
        let entry = Entry::lock(&self.root, id)?;
        let record = Record::read(&entry.directory)?.ok_or_else(|| broken(id))?;
        Ok((entry, record))
    }

    fn state_of(&self, id: &str, directory: &Path, record: Option<Record>) -> Result<State> {
        let failed = |error| Error::os(format!("read {directory:?}"), error);
        let metadata = fs::metadata(directory).map_err(failed)?;
        let spec = record::read_spec(directory).unwrap_or_default();
        let (status, init) = match &record {
            Some(record) => status(directory, record)?,
            None => (Status::Stopped, None),
        };
        let bundle = record
            .as_ref()
            .map(|it| it.bundle.clone())
            .unwrap_or_default();
        let root = spec.root().as_ref();
        Ok(State {
            oci_version: spec.version().clone(),
            id: id.to_owned(),
            status,
            pid: init.as_ref().map(|init| init.pid),
            start_time: init.as_ref().map(|init| init.start_time),
            rootfs: root
                .map(|root| bundle.join(root.path()))
                .unwrap_or_default(),
            bundle,
            created: match &record {
                Some(record) => record.created(),
                None => metadata.modified().map_err(failed)?,
            },
            owner: metadata.uid(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        })
    }
}

/// A process that lives.
struct Running {
    pid: i32,
    start_time: u64,
    pidfd: OwnedFd,
}

impl Running {
    fn open(pid: i32) -> Result<Option<Self>> {
        Ok(match ProcessId::of(pid) {
            Ok(id) => Self::open_exactly(id)?,
            Err(_) => None,
        })
    }

    fn open_exactly(id: ProcessId) -> Result<Option<Self>> {
        Ok(open_process(id)?.map(|pidfd| Self {
            pid: id.pid,
            start_time: id.start_time,
            pidfd,
        }))
    }
}

/// Where the container in `directory` is in its life, with its first process if that lives.
fn status(directory: &Path, record: &Record) -> Result<(Status, Option<Running>)> {
    let Some(init) = &record.init else {
        let status = match record::is_locked(directory) {
            true => Status::Creating,
            false => Status::Stopped,
        };
        return Ok((status, None));
    };
    let running = match init.is_of_this_boot() {
        true => Running::open_exactly(init.process)?,
        false => None,
    };
    let is_paused = |cgroup: &Cgroup| cgroup.is_frozen().unwrap_or(false);
    let status = if running.is_none() {
        Status::Stopped
    } else if record.cgroup.as_ref().is_some_and(is_paused) {
        Status::Paused
    } else if directory.join(START).exists() {
        Status::Created
    } else {
        Status::Running
    };
    Ok((status, running))
}

/// Whether the spec is of a version that this crate follows, as far as it says so: any 1.x.y.
fn check_version(spec: &Spec) -> Result<()> {
    let version = spec.version().as_str();
    let numbers = version
        .split_once(['-', '+'])
        .map_or(version, |(numbers, _)| numbers);
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        _ => {
            let what = format!("follow version {version:?} of the runtime specification");
            Err(Error::new(ErrorKind::Unsupported, "UnknownVersion", what))
        }
    }
}

/// Whatever the rules of a spec forbid: every container has the devices that the specification
/// promises it (runtime-spec `config-linux.md`, "Default Devices").
fn allow_default_devices(spec: &mut Spec) {
    let Some(mut linux) = spec.linux().clone() else {
        return;
    };
    let mut resources = linux.resources().clone().unwrap_or_default();
    let Some(mut rules) = resources.devices().clone().filter(|it| !it.is_empty()) else {
        return;
    };
    rules.extend(defaults::allowed_devices());
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
}

/// Names the group of the container in its spec, and plans it, so that it is on record before it is made.
fn plan_cgroup(id: &str, spec: &mut Spec) -> Result<Option<Cgroup>> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(None);
    };
    let path = match linux.cgroups_path() {
        Some(path) if !path.as_os_str().is_empty() => path.clone(),
        _ => PathBuf::from(format!("/{id}")),
    };
    let planned = match Cgroup::plan(&CgroupPath::new(&path.to_string_lossy())?) {
        // A plain user: whether that is an error depends on the limits, and shows at creation.
        Err(error) if error.code() == "CgroupUnavailable" => None,
        result => Some(result?),
    };
    linux.set_cgroups_path(Some(path));
    spec.set_linux(Some(linux));
    Ok(planned)
}

/// Ends all processes of a container and removes its group.
fn end(record: &Record, spec: &Spec) -> Result<()> {
    let init = match &record.init {
        Some(init) if init.is_of_this_boot() => Running::open_exactly(init.process)?,
        _ => None,
    };
    if let Some(init) = &init {
        send(init, Signal::KILL)?;
    }
    let Some(cgroup) = &record.cgroup else {
        return init.as_ref().map_or(Ok(()), await_end);
    };
    // Nothing but an empty group can be left of one that was never completed; if there is more in it,
    // it was there before.
    if record.init.is_none() {
        return cgroup.remove_if_empty();
    }
    if init.is_some() && cgroup.is_frozen().unwrap_or(false) {
        cgroup.thaw()?;
    }
    if !has_own_pids(spec) {
        cgroup.kill_all()?;
    }
    init.as_ref().map_or(Ok(()), await_end)?;
    cgroup.remove()
}

fn await_end(process: &Running) -> Result<()> {
    if readable(process.pidfd.as_fd(), Some(Instant::now() + PATIENCE))? {
        return Ok(());
    }
    let what = format!("wait for the end of process {}", process.pid);
    Err(Error::new(ErrorKind::TimedOut, "ProcessAlive", what).with_retry())
}

fn send(process: &Running, signal: Signal) -> Result<()> {
    match sys::pidfd_send_signal(process.pidfd.as_fd(), signal.number()) {
        Err(Errno::SRCH) => Ok(()),
        result => result,
    }
    .map_err(|errno| Error::os(format!("send {signal} to process {}", process.pid), errno))
}

/// Whether everything in the container ends with its first process.
fn has_own_pids(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut namespaces = linux
        .and_then(|it| it.namespaces().as_ref())
        .into_iter()
        .flatten();
    namespaces.any(|it| it.typ() == LinuxNamespaceType::Pid && it.path().is_none())
}

fn group_of(record: &Record) -> Result<&Cgroup> {
    record.cgroup.as_ref().ok_or_else(|| {
        let what = format!("find the cgroup of container {}, which has none", record.id);
        Error::new(ErrorKind::Unsupported, "CgroupUnavailable", what)
    })
}

fn not_running(id: &str, doing: &str) -> Error {
    let what = format!("{doing} container {id}: container not running");
    Error::new(ErrorKind::InvalidState, "NotRunning", what)
}

fn broken(id: &str) -> Error {
    let what = format!("read the record of container {id}, which can only be deleted");
    Error::new(ErrorKind::InvalidState, "RecordBroken", what)
}

/// How long a process may take to die.
const PATIENCE: Duration = Duration::from_secs(10);
