//! From a record to a running program: namespaces to join, files to write, the network.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use container_core::{CreateOptions, Signal, Stdio, Supervision, Terminal};
use container_net::{AttachOptions, Attached, PortMapping, PublishedPort, ResolvConfOptions};
use oci_spec::runtime::{LinuxNamespaceType, Mount};

use crate::config::{NamespaceMode, RunConfig};
use crate::container::State;
use crate::devices::host_devices;
use crate::lower::Doing;
use crate::spec::{self, Surroundings};
use crate::state::{EXIT, Record};
use crate::{Engine, Error, ErrorKind, Result};

/// The link of a container in its network.
const INTERFACE: &str = "eth0";

/// A container's process, with what keeps its ports.
pub(crate) struct Process {
    pub(crate) core: container_core::Container,
    pub(crate) address: Option<IpAddr>,
    pub(crate) ports: Vec<PublishedPort>,
    pub(crate) _reservations: Vec<OwnedFd>,
}

/// The network that a container is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
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

/// A process, with this program's side of its streams or of its terminal.
pub(crate) type Launched = (Process, [Option<File>; 3], Option<Terminal>);

/// From a prepared container to a running program.
pub(crate) fn launch(
    engine: &Engine,
    record: &Record,
    files: &Path,
    mounts: Vec<Mount>,
    stdio: [Stdio; 3],
) -> Result<Launched> {
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
    options.user = Some(user(record, &record.config));
    options.init = record.config.init;
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
    let started = started.and_then(|attached| {
        let doing = || format!("take the terminal of container {id}");
        Ok((attached, core.take_terminal().doing(doing)?))
    });
    match started {
        Ok((attached, terminal)) => {
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
            Ok((process, streams, terminal))
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

/// The user that the caller wants, or that of the image.
pub(crate) fn user(record: &Record, config: &RunConfig) -> String {
    let user = config.user.as_ref().unwrap_or(&record.image_defaults.user);
    match user.as_str() {
        "" => "0".to_owned(),
        user => user.to_owned(),
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
        let pid = other.pid()?;
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
pub(crate) fn own_capabilities() -> Result<u64> {
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

/// The host name that a container has.
pub(crate) fn hostname(record: &Record) -> String {
    match (&record.config.hostname, &record.config.uts) {
        (Some(name), _) => name.clone(),
        (None, NamespaceMode::Host) => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        (None, _) => record.id.get(..12).unwrap_or(&record.id).to_owned(),
    }
}

/// Writes `hostname`, `hosts` and `resolv.conf`, and gives the host name.
fn write_files(record: &Record, network: &Network, files: &Path) -> Result<String> {
    let config = &record.config;
    let hostname = hostname(record);
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

/// Takes a container out of its network, whether it got there or not.
pub(crate) fn detach(engine: &Engine, record: &Record) -> Result<()> {
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

pub(crate) fn driver<'e>(engine: &'e Engine, record: &Record) -> &'e dyn container_storage::Driver {
    if record.ephemeral {
        &*engine.inner().fast_driver
    } else {
        &*engine.inner().driver
    }
}

/// Passes on `result`; after an error undoes what was done, keeping what fails of that.
pub(crate) fn undo<T>(result: Result<T>, undo: impl FnOnce() -> Result<()>) -> Result<T> {
    result.map_err(|error| error.with_cleanup(undo().err()))
}
