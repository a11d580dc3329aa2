//! The set of networks of one host.
//!
//! ```text
//! <state>/<name>.json     one network (a NetworkConfig); survives a boot
//! <run>/                  what is in the kernel because of them; does not
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnetwork::Ipv4Network;

use crate::firewall::{Firewall, ForeignDrop, Nft};
use crate::netlink::{self, Socket};
use crate::netns::{self, Identity};
use crate::network::{self, Attachment, BridgeConfig, Driver, Network, NetworkConfig, is_name};
use crate::records::Records;
use crate::store::{self, Durability, Lock};
use crate::{Error, ErrorKind, Result, ipam};

mod upkeep;

/// The network without anything but `lo`.
const NONE: &str = "none";
/// The host's own network.
const HOST: &str = "host";

/// Where the networks are kept and what their things are called.
///
/// Two sets of networks on one host need different directories, prefixes, bridges and tables.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NetworksOptions {
    /// A directory for the networks, which survives a boot.
    pub state: PathBuf,
    /// A directory for what is in the kernel, on a tmpfs.
    pub run: PathBuf,
    /// The name of the network that is there from the start and that containers join by default.
    pub default_network: String,
    /// The name of its bridge.
    pub default_interface: String,
    /// Its subnet; `None` takes 172.17.0.0/16, or the next one that the host has no route to.
    pub default_subnet: Option<Ipv4Network>,
    /// One or two letters that the names of all other links begin with.
    pub prefix: String,
    /// The packet filter.
    pub firewall: Arc<dyn Firewall>,
}

impl NetworksOptions {
    /// Docker's names for the networks, ours for everything in the kernel: the bridge
    /// `container0`, links that begin with `ce` and the nftables table `container_engine`.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>, run: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            run: run.into(),
            default_network: "bridge".to_owned(),
            default_interface: "container0".to_owned(),
            default_subnet: None,
            prefix: "ce".to_owned(),
            firewall: Arc::new(Nft::new("container_engine")),
        }
    }
}

/// A network to be created.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NetworkOptions {
    /// The name: letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// The subnet; `None` takes the next one that overlaps neither a network nor a route.
    pub subnet: Option<Ipv4Network>,
    /// The host's address in the subnet; its first one where it is `None`.
    pub gateway: Option<Ipv4Addr>,
    /// The caller's own notes.
    pub labels: BTreeMap<String, String>,
}

impl NetworkOptions {
    /// A bridge network with a subnet that happens to be free.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            subnet: None,
            gateway: None,
            labels: BTreeMap::new(),
        }
    }
}

/// What [`Networks::recover`] found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// The attachments of containers that are not alive, now ended.
    pub ended: Vec<Attachment>,
    /// Records that could not be read, where they lie now.
    pub broken: Vec<PathBuf>,
}

/// The networks of a host; a cheap handle.
///
/// The host is the network namespace of the thread that opens the set, and all other calls must
/// come from threads in the same one. Any number of processes may use the same directories.
#[derive(Clone, Debug)]
pub struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: NetworksOptions,
    records: Records,
    host: Identity,
    /// Keeps the identity from being given to another namespace.
    _host_open: OwnedFd,
}

impl Networks {
    /// Opens the set, and on first use makes it: `none`, `host` and the default bridge network.
    /// Nothing in the kernel changes before the first attachment.
    ///
    /// # Errors
    ///
    /// `InvalidInput` (`InvalidPrefix`, `InvalidName`, `InvalidSubnet`); `Busy` (`NoFreeSubnet`);
    /// else the kind of the failed system call.
    pub fn open(options: NetworksOptions) -> Result<Self> {
        let letters = options.prefix.bytes().all(|byte| byte.is_ascii_lowercase());
        if !matches!(options.prefix.len(), 1..=2) || !letters {
            let doing = format!("use prefix {:?} for links", options.prefix);
            return Err(Error::invalid("InvalidPrefix", doing));
        }
        for name in [&options.default_network, &options.default_interface] {
            if !is_name(name) {
                return Err(Error::invalid("InvalidName", format!("use name {name:?}")));
            }
        }
        store::make_directory(&options.state)?;
        let (records, lock) = Records::open(&options.run)?;
        let networks = Self(Arc::new(Inner {
            options,
            records,
            host: Identity::current()?,
            _host_open: netns::current()?,
        }));
        networks.make_predefined(&lock)?;
        Ok(networks)
    }

    fn make_predefined(&self, lock: &Lock) -> Result<()> {
        let options = &self.0.options;
        for (name, driver) in [(NONE, Driver::Null), (HOST, Driver::Host)] {
            if !self.document(name).exists() {
                self.write(&NetworkConfig {
                    version: network::VERSION,
                    id: new_id()?,
                    name: name.to_owned(),
                    driver,
                    bridge: None,
                    labels: BTreeMap::new(),
                })?;
            }
        }
        if self.document(&options.default_network).exists() {
            return Ok(());
        }
        let (ip, prefix) = ipam::DEFAULT_SUBNET;
        let preferred = Ipv4Network::new(ip, prefix).ok();
        let subnet = match options.default_subnet {
            Some(subnet) => ipam::checked_subnet(subnet)?,
            None => {
                let used = self.used_subnets(lock)?;
                preferred
                    .filter(|&subnet| ipam::overlap(subnet, &used).is_none())
                    .or_else(|| ipam::next_subnet(&used))
                    .ok_or_else(no_free_subnet)?
            }
        };
        self.write(&NetworkConfig {
            version: network::VERSION,
            id: new_id()?,
            name: options.default_network.clone(),
            driver: Driver::Bridge,
            bridge: Some(BridgeConfig {
                interface: options.default_interface.clone(),
                subnet,
                gateway: ipam::first_host(subnet),
                subnet_chosen: false,
            }),
            labels: BTreeMap::new(),
        })
    }

    /// Creates a bridge network.
    ///
    /// # Errors
    ///
    /// `InvalidInput` (`InvalidName`, `InvalidSubnet`, `AddressOutside` for the gateway,
    /// `SubnetOverlap` naming what has the addresses already); `AlreadyExists` (`NetworkExists`);
    /// `Busy` (`NoFreeSubnet`).
    pub fn create(&self, options: &NetworkOptions) -> Result<Network> {
        self.create_inner(options)
            .map_err(|error| error.context(format!("create network {:?}", options.name)))
    }

    fn create_inner(&self, options: &NetworkOptions) -> Result<Network> {
        let name = &options.name;
        if !is_name(name) {
            return Err(Error::invalid("InvalidName", format!("use name {name:?}")));
        }
        let subnet = options.subnet.map(ipam::checked_subnet).transpose()?;
        self.check_namespace()?;
        let lock = self.0.records.lock()?;
        if self.document(name).exists() {
            let doing = format!("use name {name:?} a second time");
            return Err(Error::new(ErrorKind::AlreadyExists, "NetworkExists", doing));
        }
        let used = self.used_subnets(&lock)?;
        let subnet = match subnet {
            None => ipam::next_subnet(&used).ok_or_else(no_free_subnet)?,
            Some(subnet) => match ipam::overlap(subnet, &used) {
                None => subnet,
                Some(other) => {
                    let doing = format!("use subnet {subnet}, which overlaps {other}");
                    return Err(Error::invalid("SubnetOverlap", doing));
                }
            },
        };
        let gateway = options.gateway.unwrap_or_else(|| ipam::first_host(subnet));
        ipam::checked_host(subnet, gateway)?;
        let id = new_id()?;
        let config = NetworkConfig {
            version: network::VERSION,
            name: name.clone(),
            driver: Driver::Bridge,
            bridge: Some(BridgeConfig {
                interface: format!("{}-{}", self.0.options.prefix, &id[..SHORT_ID]),
                subnet,
                gateway,
                subnet_chosen: options.subnet.is_some(),
            }),
            labels: options.labels.clone(),
            id,
        };
        self.write(&config)?;
        Ok(Network::new(self.clone(), config))
    }

    /// The network with this name, id, or beginning of an id that no other network shares.
    ///
    /// # Errors
    ///
    /// `NotFound` (`NoSuchNetwork`); `InvalidInput` (`AmbiguousId`); `InvalidState`
    /// (`BrokenDocument`).
    pub fn get(&self, name_or_id: &str) -> Result<Network> {
        if is_name(name_or_id)
            && let Some(config) = self.read(name_or_id)?
        {
            return Ok(Network::new(self.clone(), config));
        }
        let doing = || format!("look up network {name_or_id:?}");
        let mut found = self.list()?;
        found.retain(|network| {
            !name_or_id.is_empty() && network.config().id.starts_with(name_or_id)
        });
        match (found.pop(), found.is_empty()) {
            (Some(network), true) => Ok(network),
            (Some(_), false) => Err(Error::invalid("AmbiguousId", doing())),
            (None, _) => Err(Error::new(ErrorKind::NotFound, "NoSuchNetwork", doing())),
        }
    }

    /// All networks in the order of their names. Documents that cannot be read are left out;
    /// [`get`](Self::get) reports why.
    ///
    /// # Errors
    ///
    /// The kind of the failure to list the state directory.
    pub fn list(&self) -> Result<Vec<Network>> {
        let configs = self.configs()?;
        Ok(configs
            .into_iter()
            .map(|config| Network::new(self.clone(), config))
            .collect())
    }

    /// Removes a network with its bridge; Ok if there is none.
    ///
    /// # Errors
    ///
    /// `Busy` (`NetworkInUse`) while it has attachments; `InvalidInput` (`PredefinedNetwork`).
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN`, if it was ever used.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.remove_inner(name)
            .map_err(|error| error.context(format!("remove network {name:?}")))
    }

    fn remove_inner(&self, name: &str) -> Result<()> {
        if [NONE, HOST, &self.0.options.default_network].contains(&name) {
            let doing = format!("remove {name:?}, which is always there");
            return Err(Error::invalid("PredefinedNetwork", doing));
        }
        if !is_name(name) {
            return Ok(());
        }
        self.check_namespace()?;
        let lock = self.0.records.lock()?;
        let config = match self.read(name) {
            Ok(Some(config)) => Some(config),
            Ok(None) => return Ok(()),
            // What cannot be read can still be removed.
            Err(error) if error.code() == BROKEN_DOCUMENT => None,
            Err(error) => return Err(error),
        };
        let owners = self.0.records.owners(name)?;
        if let Some(owner) = owners.first() {
            let container = owner.split('@').next().unwrap_or(owner);
            let doing = format!("remove a network that container {container} is in");
            return Err(Error::new(ErrorKind::Busy, "NetworkInUse", doing));
        }
        if let Some(config) = &config {
            self.release(&lock, config)?;
        }
        self.0.records.remove_network(&lock, name)?;
        store::remove(&self.document(name))?;
        self.release_orphans(&lock)?;
        self.release_firewall(&lock)
    }

    /// The attachments of all networks.
    ///
    /// # Errors
    ///
    /// The kind of the failure to read the run directory.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        let mut attachments = Vec::new();
        for network in self.0.records.networks()? {
            attachments.extend(self.attachments_of(&network)?);
        }
        Ok(attachments)
    }

    pub(crate) fn attachments_of(&self, network: &str) -> Result<Vec<Attachment>> {
        let mut attachments = Vec::new();
        for owner in self.0.records.owners(network)? {
            match self.0.records.attachment(network, &owner) {
                Ok(attachment) => attachments.extend(attachment),
                Err(error) if error.code() == "BrokenRecord" => {}
                Err(error) => return Err(error),
            }
        }
        Ok(attachments)
    }

    /// Removes the bridges that no container uses, and with the last one the firewall's rules.
    /// Forwarding of packets stays on.
    ///
    /// # Errors
    ///
    /// The kind of the first failure; the others go on.
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN`, where there is something to remove.
    pub fn release_idle(&self) -> Result<()> {
        self.check_namespace()?;
        let lock = self.0.records.lock()?;
        self.release_idle_locked(&lock)
    }

    fn release_idle_locked(&self, lock: &Lock) -> Result<()> {
        let mut errors = Vec::new();
        for config in self.configs()? {
            if self.0.records.owners(&config.name)?.is_empty() {
                errors.extend(self.release(lock, &config).err());
            }
        }
        errors.extend(self.release_orphans(lock).err());
        errors.extend(self.release_firewall(lock).err());
        first_of(errors)
    }

    /// Ends what dead processes left: the attachments of containers that are not `alive`, half-made
    /// ones, and leases, ports, links and rules that belong to none. Rules that somebody else has
    /// flushed are made anew. Attachments in the making are left alone.
    ///
    /// `alive` is asked about container ids, with no lock held; a container that is being created
    /// counts as alive from before its attachment until after its end.
    ///
    /// # Errors
    ///
    /// `Cleanup` with everything that could not be removed.
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN`.
    pub fn recover(&self, alive: &dyn Fn(&str) -> bool) -> Result<Recovered> {
        self.check_namespace()?;
        let records = &self.0.records;
        let mut dead = Vec::new();
        for network in records.networks()? {
            for owner in records.owners(&network)? {
                let container = owner.split('@').next().unwrap_or(&owner);
                if !records.is_in_the_making(&network, &owner) && !alive(container) {
                    dead.push((network.clone(), owner));
                }
            }
        }

        let lock = records.lock()?;
        let mut recovered = Recovered::default();
        let mut errors = Vec::new();
        for (network, owner) in dead {
            match records.attachment(&network, &owner) {
                Ok(Some(attachment)) => match self.end(&lock, &attachment, true) {
                    Ok(()) => recovered.ended.push(attachment),
                    Err(error) => errors.push(error),
                },
                Ok(None) => {}
                Err(_) => match records.set_aside(&lock, &network, &owner) {
                    Ok(path) => recovered.broken.push(path),
                    Err(error) => errors.push(error),
                },
            }
        }
        errors.extend(self.sweep(&lock).err());
        errors.extend(self.release_idle_locked(&lock).err());
        if errors.is_empty() {
            return Ok(recovered);
        }
        let error = Error::new(ErrorKind::Cleanup, "Cleanup", "recover the networks");
        Err(error.with_cleanup(errors))
    }

    /// Finds rules of others on this host that keep packets from being forwarded, whatever ours
    /// say.
    ///
    /// # Errors
    ///
    /// As [`Firewall::foreign_drops`].
    pub fn foreign_drops(&self) -> Result<Vec<ForeignDrop>> {
        self.check_namespace()?;
        self.firewall().foreign_drops()
    }

    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }

    pub(crate) fn firewall(&self) -> &dyn Firewall {
        self.0.options.firewall.as_ref()
    }

    /// A thread that is somewhere else would change the wrong host.
    pub(crate) fn check_namespace(&self) -> Result<()> {
        if Identity::current()? == self.0.host {
            return Ok(());
        }
        let doing = "use networks that were opened in another network namespace";
        Err(Error::new(ErrorKind::InvalidState, "OtherNamespace", doing))
    }

    /// The name of an attachment's link on the host, always the same one.
    pub(crate) fn host_interface(&self, network: &str, owner: &str) -> String {
        let hash = fnv(format!("{network}/{owner}").as_bytes());
        format!("{}v{:012x}", self.0.options.prefix, hash >> 16)
    }

    /// What a new network must not overlap.
    fn used_subnets(&self, _lock: &Lock) -> Result<Vec<Ipv4Network>> {
        let mut used = netlink::used_subnets(&mut Socket::route()?)?;
        used.extend(self.subnets()?);
        Ok(used)
    }

    /// The subnets of all networks of this set.
    fn subnets(&self) -> Result<Vec<Ipv4Network>> {
        let configs = self.configs()?;
        Ok(configs
            .iter()
            .filter_map(|config| Some(config.bridge.as_ref()?.subnet))
            .collect())
    }

    fn configs(&self) -> Result<Vec<NetworkConfig>> {
        let mut configs = Vec::new();
        for file in store::names(&self.0.options.state)? {
            let Some(name) = file.strip_suffix(".json") else {
                continue;
            };
            match self.read(name) {
                Ok(config) => configs.extend(config),
                Err(error) if error.code() == BROKEN_DOCUMENT => {}
                Err(error) => return Err(error),
            }
        }
        Ok(configs)
    }

    fn read(&self, name: &str) -> Result<Option<NetworkConfig>> {
        let path = self.document(name);
        let Some(text) = store::read(&path)? else {
            return Ok(None);
        };
        let broken = || {
            Error::new(
                ErrorKind::InvalidState,
                BROKEN_DOCUMENT,
                format!("read {path:?}"),
            )
        };
        let config: NetworkConfig =
            serde_json::from_str(&text).map_err(|source| broken().with_source(source))?;
        if config.name != name || config.version != network::VERSION {
            return Err(broken());
        }
        Ok(Some(config))
    }

    fn write(&self, config: &NetworkConfig) -> Result<()> {
        let text = serde_json::to_vec_pretty(config).map_err(|source| {
            Error::invalid("InvalidDocument", "write a network").with_source(source)
        })?;
        store::write(&self.document(&config.name), &text, Durability::Disk).map(drop)
    }

    fn document(&self, name: &str) -> PathBuf {
        self.0.options.state.join(format!("{name}.json"))
    }
}

const BROKEN_DOCUMENT: &str = "BrokenDocument";
/// The digits of a short id.
const SHORT_ID: usize = 12;

fn no_free_subnet() -> Error {
    Error::new(
        ErrorKind::Busy,
        "NoFreeSubnet",
        "choose a subnet that nobody uses",
    )
}

/// The first error, with the others attached.
fn first_of(mut errors: Vec<Error>) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let first = errors.remove(0);
    Err(first.with_cleanup(errors))
}

/// 64 random hexadecimal digits.
fn new_id() -> Result<String> {
    const PATH: &str = "/dev/urandom";
    let mut bytes = [0; 32];
    File::open(Path::new(PATH))
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| Error::os(format!("read {PATH:?}"), source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The 64-bit FNV-1a hash: short names need to differ, not to withstand an attacker.
fn fnv(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}
