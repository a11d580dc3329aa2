//! One network, and the containers in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::firewall::Forward;
use crate::netlink::{self, Peer, Socket};
use crate::networks::Networks;
use crate::port::{Protocol, reserve};
use crate::store::Lock;
use crate::veth::{self, Inside};
use crate::{Error, ErrorKind, MacAddress, PortMapping, PublishedPort, Result, holder, ipam};

/// How the containers of a network are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Driver {
    /// Not at all: a container has `lo` only.
    Null,
    /// They use the host's network.
    Host,
    /// By a bridge on this host.
    Bridge,
}

/// What a network is; this is also the document that keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NetworkConfig {
    /// The format of the document.
    pub version: u32,
    /// 64 hexadecimal digits, different for each network that ever was.
    pub id: String,
    /// The name.
    pub name: String,
    /// The driver.
    pub driver: Driver,
    /// The part of a bridge network that is the host's link and addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeConfig>,
    /// The caller's own notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a bridge network has beyond its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BridgeConfig {
    /// The name of the bridge's link on the host.
    pub interface: String,
    /// The addresses of the containers and of the gateway.
    pub subnet: Ipv4Network,
    /// The host's address on the bridge.
    pub gateway: Ipv4Addr,
    /// Whether the caller chose the subnet, so that it will stay the same for static addresses.
    pub subnet_chosen: bool,
}

/// One network; a cheap handle.
#[derive(Clone, Debug)]
pub struct Network {
    networks: Networks,
    config: NetworkConfig,
}

/// How a container joins a network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AttachOptions {
    /// The container's id: letters, digits, `_`, `.` and `-`.
    pub container: String,
    /// The name of the link inside.
    pub interface: String,
    /// This address and no other; only in a network whose subnet the caller chose.
    pub address: Option<Ipv4Addr>,
    /// The link's hardware address; made from the IPv4 address where it is `None`.
    pub mac: Option<MacAddress>,
    /// Whether what has no other route leaves by this network.
    pub default_route: bool,
    /// The ports to publish.
    pub ports: Vec<PortMapping>,
}

impl AttachOptions {
    /// A container that joins with `eth0`, any address, the default route and no published port.
    #[must_use]
    pub fn new(container: impl Into<String>) -> Self {
        Self {
            container: container.into(),
            interface: "eth0".to_owned(),
            address: None,
            mac: None,
            default_route: true,
            ports: Vec::new(),
        }
    }
}

/// One container in one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// The format of the record.
    pub version: u32,
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// The container's id.
    pub container: String,
    /// The name of the link inside.
    pub interface: String,
    /// The name of its other end, on the host.
    pub host_interface: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The bits that are the same in all addresses of the subnet.
    pub prefix_len: u8,
    /// The host's address in the subnet.
    pub gateway: Ipv4Addr,
    /// The hardware address of the link inside.
    pub mac: MacAddress,
    /// The published ports.
    pub ports: Vec<PublishedPort>,
}

impl Attachment {
    /// The name of the attachment in its network.
    pub(crate) fn owner(&self) -> String {
        owner(&self.container, &self.interface)
    }

    pub(crate) fn forwards(&self) -> impl Iterator<Item = Forward> {
        self.ports.iter().map(|&port| Forward {
            port,
            address: self.address,
        })
    }
}

/// A new attachment, with what keeps its ports.
#[derive(Debug)]
#[must_use = "closing the reservations lets other programs take the ports"]
pub struct Attached {
    /// The attachment.
    pub attachment: Attachment,
    /// A bound socket for each published port, in their order. While it is open, no other program
    /// can bind the port; nothing ever arrives at it. Whoever lives as long as the container, such
    /// as its monitor, should hold them.
    pub reservations: Vec<OwnedFd>,
}

/// What happens to the link of an attachment that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkEnd {
    /// The kernel removes it with the container's namespace, in the background.
    WithNamespace,
    /// It is deleted before the call returns.
    Now,
}

impl Network {
    pub(crate) fn new(networks: Networks, config: NetworkConfig) -> Self {
        Self { networks, config }
    }

    /// What the network is.
    #[must_use]
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The containers in the network, in the order of their ids. Records that cannot be read are
    /// left out.
    ///
    /// # Errors
    ///
    /// The kind of the failure to read the run directory.
    pub fn attachments(&self) -> Result<Vec<Attachment>> {
        self.networks.attachments_of(self.name())
    }

    /// Connects the namespace `netns` to the network. On return its link is up with address and
    /// route, `lo` is up, and the ports are published.
    ///
    /// The bridge, the firewall's rules and forwarding of packets are set up with the first
    /// attachment. Nothing stays behind after an error.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: `InvalidContainer`, `InvalidInterface`, `NotABridge`, `StaticAddressRefused`,
    /// `AddressOutside`, `NoSuchHostAddress`, `Ipv6Publish`. `NotFound` if the network was removed.
    /// `AlreadyExists`: `AttachmentExists`, or the interface exists inside. `Busy`: `PortTaken`
    /// naming the holder, `AddressTaken`, `NoFreeAddress`, or `InterfaceTaken` and `TableTaken`
    /// where the bridge or the firewall's table is somebody else's. `InvalidState`
    /// (`OtherNamespace`) on a thread in another namespace than the one that opened the networks.
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`; `CAP_NET_BIND_SERVICE` for host ports below 1024.
    pub fn attach(&self, netns: BorrowedFd<'_>, options: &AttachOptions) -> Result<Attached> {
        self.attach_inner(netns, options).map_err(|error| {
            let (container, name) = (&options.container, self.name());
            error.context(format!(
                "attach container {container:?} to network {name:?}"
            ))
        })
    }

    fn attach_inner(&self, netns: BorrowedFd<'_>, options: &AttachOptions) -> Result<Attached> {
        self.networks.check_namespace()?;
        let bridge = self.bridge()?;
        check_owner(options)?;
        if let Some(address) = options.address {
            if !bridge.subnet_chosen {
                let doing = format!("use address {address} in a network made without a subnet");
                return Err(Error::invalid("StaticAddressRefused", doing));
            }
            ipam::checked_host(bridge.subnet, address)?;
        }

        let mut socket = Socket::route()?;
        let lock = self.networks.records().lock()?;
        let (bridge_index, bridge) = self
            .networks
            .make_bridge(&lock, &mut socket, &self.config)?;
        let (attachment, reservations, making) = self.record(&lock, &bridge, options)?;
        drop(lock);

        let made = self.make(&mut socket, bridge_index, netns, options, &attachment);
        drop(making);
        match made {
            Ok(()) => Ok(Attached {
                attachment,
                reservations,
            }),
            Err(error) => {
                let undone = self.end(&attachment.owner(), LinkEnd::Now);
                Err(error.with_cleanup(undone.err()))
            }
        }
    }

    /// Leases address and ports and writes the intent; what fails takes back what it took.
    fn record(
        &self,
        lock: &Lock,
        bridge: &BridgeConfig,
        options: &AttachOptions,
    ) -> Result<(Attachment, Vec<OwnedFd>, Lock)> {
        let records = self.networks.records();
        let owner = owner(&options.container, &options.interface);
        if records.attachment(self.name(), &owner)?.is_some() {
            let doing = format!("use interface {:?} a second time", options.interface);
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "AttachmentExists",
                doing,
            ));
        }
        let BridgeConfig {
            subnet, gateway, ..
        } = *bridge;
        let address =
            records.lease_address(lock, self.name(), subnet, gateway, options.address, &owner)?;
        let mut attachment = Attachment {
            version: VERSION,
            network: self.config.name.clone(),
            network_id: self.config.id.clone(),
            container: options.container.clone(),
            interface: options.interface.clone(),
            host_interface: self.networks.host_interface(self.name(), &owner),
            address,
            prefix_len: subnet.prefix(),
            gateway,
            mac: options
                .mac
                .unwrap_or_else(|| MacAddress::from_ipv4(address)),
            ports: Vec::new(),
        };
        let mut reservations = Vec::new();
        let mut recorded = || -> Result<Lock> {
            for mapping in &options.ports {
                let (port, socket) = self.publish(lock, mapping, &owner)?;
                attachment.ports.push(port);
                reservations.push(socket);
            }
            records.insert(lock, &attachment)
        };
        match recorded() {
            Ok(making) => Ok((attachment, reservations, making)),
            Err(error) => {
                let undone = records.remove(lock, &attachment);
                Err(error.with_cleanup(undone.err()))
            }
        }
    }

    /// Takes a port of the host that neither an attachment nor any program has.
    fn publish(
        &self,
        lock: &Lock,
        mapping: &PortMapping,
        owner: &str,
    ) -> Result<(PublishedPort, OwnedFd)> {
        /// How often the kernel may name a free port that an attachment has whose reservation is
        /// not held any more.
        const RANDOM_ATTEMPTS: usize = 64;
        let records = self.networks.records();
        let protocol = mapping.protocol;
        let address = match mapping.host_address {
            None => Ipv4Addr::UNSPECIFIED,
            Some(IpAddr::V4(address)) => address,
            Some(IpAddr::V6(_)) => {
                let doing = format!("publish {mapping} in a network without IPv6");
                return Err(Error::invalid("Ipv6Publish", doing));
            }
        };
        let only = mapping
            .host_ports
            .as_ref()
            .is_some_and(|ports| ports.len() == 1);
        let mut taken_by = None;
        let wishes: Box<dyn Iterator<Item = u16>> = match &mapping.host_ports {
            Some(ports) => Box::new(ports.clone()),
            None => Box::new(std::iter::repeat_n(0, RANDOM_ATTEMPTS)),
        };
        for wish in wishes {
            if wish != 0 {
                let other = records.port_holder(protocol, address, wish)?;
                if other.is_some() {
                    taken_by = other;
                    continue;
                }
            }
            let Some((host_port, socket)) = reserve_patiently(protocol, address, wish, only)?
            else {
                continue;
            };
            if wish == 0 && records.port_holder(protocol, address, host_port)?.is_some() {
                continue;
            }
            records.claim_port(lock, protocol, address, host_port, owner)?;
            let container_port = mapping.container_port;
            let port = PublishedPort {
                protocol,
                host_address: address,
                host_port,
                container_port,
            };
            return Ok((port, socket));
        }
        let holder = match taken_by {
            Some(owner) => format!("container {}", owner.split('@').next().unwrap_or(&owner)),
            None => mapping
                .host_ports
                .as_ref()
                .and_then(|ports| holder::process(protocol, *ports.start()))
                .unwrap_or_else(|| "another program".to_owned()),
        };
        let doing = format!("publish {mapping}: {holder} has the port");
        Err(Error::new(ErrorKind::Busy, "PortTaken", doing))
    }

    /// Makes the things in the kernel that the record speaks of.
    fn make(
        &self,
        socket: &mut Socket,
        bridge_index: u32,
        netns: BorrowedFd<'_>,
        options: &AttachOptions,
        attachment: &Attachment,
    ) -> Result<()> {
        let inside = Inside {
            peer: Peer {
                name: &attachment.interface,
                mac: attachment.mac,
                netns,
            },
            address: attachment.address,
            prefix_len: attachment.prefix_len,
            gateway: options.default_route.then_some(attachment.gateway),
        };
        veth::connect(socket, &attachment.host_interface, bridge_index, &inside)?;
        self.networks.publish(attachment)
    }

    /// Ends the attachment of a container whose namespace ends too: withdraws its ports and frees
    /// its address. The link is left to the end of the namespace, which is much faster. Ok if there
    /// is none.
    ///
    /// # Errors
    ///
    /// The kind of the first failure; what could not be removed is removed by a repetition or by
    /// [`Networks::recover`].
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN`.
    pub fn detach(&self, container: &str, interface: &str) -> Result<()> {
        self.detach_inner(container, interface, LinkEnd::WithNamespace)
    }

    /// As [`detach`](Self::detach), and removes the link at once, for a container that goes on.
    ///
    /// # Errors
    ///
    /// As [`detach`](Self::detach).
    ///
    /// # Privileges
    ///
    /// `CAP_NET_ADMIN`.
    pub fn disconnect(&self, container: &str, interface: &str) -> Result<()> {
        self.detach_inner(container, interface, LinkEnd::Now)
    }

    fn detach_inner(&self, container: &str, interface: &str, link: LinkEnd) -> Result<()> {
        self.networks
            .check_namespace()
            .and_then(|()| self.end(&owner(container, interface), link))
            .map_err(|error| {
                let name = self.name();
                error.context(format!(
                    "detach container {container:?} from network {name:?}"
                ))
            })
    }

    fn end(&self, owner: &str, link: LinkEnd) -> Result<()> {
        let records = self.networks.records();
        let lock = records.lock()?;
        let attachment = match records.attachment(self.name(), owner) {
            Ok(Some(attachment)) => attachment,
            Ok(None) => return Ok(()),
            Err(error) if error.code() == "BrokenRecord" => {
                records.set_aside(&lock, self.name(), owner)?;
                return self.networks.sweep(&lock);
            }
            Err(error) => return Err(error),
        };
        self.networks.end(&lock, &attachment, link == LinkEnd::Now)
    }

    fn bridge(&self) -> Result<&BridgeConfig> {
        self.config.bridge.as_ref().ok_or_else(|| {
            let doing = format!("attach a container to a {:?} network", self.config.driver);
            Error::invalid("NotABridge", doing)
        })
    }
}

/// The format of the documents and records.
pub(crate) const VERSION: u32 = 1;

fn owner(container: &str, interface: &str) -> String {
    format!("{container}@{interface}")
}

/// Reserves a port; where it is the `only` one that will do, with a little patience: while another
/// thread of this process starts a program, the program holds a copy of every descriptor, also of
/// a reservation that was just closed.
fn reserve_patiently(
    protocol: Protocol,
    address: Ipv4Addr,
    port: u16,
    only: bool,
) -> Result<Option<(u16, OwnedFd)>> {
    const ATTEMPTS: usize = 5;
    const PAUSE: Duration = Duration::from_millis(4);
    for _ in 1..if only { ATTEMPTS } else { 1 } {
        let reserved = reserve(protocol, address, port)?;
        if reserved.is_some() {
            return Ok(reserved);
        }
        thread::sleep(PAUSE);
    }
    reserve(protocol, address, port)
}

/// Checks what becomes part of a file's and of a link's name.
fn check_owner(options: &AttachOptions) -> Result<()> {
    /// What a link's name may have (`IFNAMSIZ`, without the NUL).
    const MAX_INTERFACE_BYTES: usize = 15;
    let AttachOptions {
        container,
        interface,
        ..
    } = options;
    if !is_name(container) {
        let doing = format!("use container id {container:?}");
        return Err(Error::invalid("InvalidContainer", doing));
    }
    if !is_name(interface) || interface.len() > MAX_INTERFACE_BYTES || interface == "lo" {
        return Err(Error::invalid(
            "InvalidInterface",
            format!("use interface {interface:?}"),
        ));
    }
    Ok(())
}

/// A letter or digit, then also `_`, `.` and `-`, 128 at most: Docker's rule for names.
pub(crate) fn is_name(name: &str) -> bool {
    const MAX_BYTES: usize = 128;
    name.len() <= MAX_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Deletes the host's end of an attachment, and the container's with it.
pub(crate) fn delete_link(attachment: &Attachment) -> Result<()> {
    netlink::delete_link(&mut Socket::route()?, &attachment.host_interface)
}
