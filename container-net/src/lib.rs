//! Container networks over netlink alone: bridges, veth pairs, NAT, published ports.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//!
//! use container_net::{AttachOptions, Networks, NetworksOptions, PortMapping, netns};
//!
//! let networks = Networks::open(NetworksOptions::new("/var/lib/example/networks", "/run/example/net"))?;
//! let bridge = networks.get("bridge")?;
//!
//! let container = netns::create()?; // or the namespace of a process that was made with one
//! let mut options = AttachOptions::new("web");
//! options.ports = PortMapping::parse("8080:80")?;
//! let attached = bridge.attach(container.as_fd(), &options)?;
//! println!("{} {}", attached.attachment.address, attached.attachment.ports[0]);
//!
//! drop((container, attached));
//! bridge.detach("web", "eth0")?;
//! networks.release_idle()?;
//! # Ok::<(), container_net::Error>(())
//! ```
//!
//! # What happens on the host
//!
//! A bridge network is a bridge with the gateway's address. An attachment is a veth pair from it
//! into the container's namespace, an address leased from the network's subnet, and an element in a
//! map for each published port. The packet filter is one nftables table; what it guarantees is
//! written at [`Firewall`]. No program is run: everything is netlink and `/proc/sys`.
//!
//! The calls block, for about a millisecond, and may be made from any thread. Several processes may
//! use the same directories. The record of each thing exists before the thing does, so
//! [`Networks::recover`] can remove what a process left that was killed at any point.
//!
//! # Trust
//!
//! What runs inside a container, even as its root, and what sends packets from outside are hostile;
//! names and addresses are checked before they become part of a path or a message. The caller, the
//! two directories and the host's own routes are trusted.
//!
//! # Kernel
//!
//! Linux 5.2 with `veth`, `bridge`, `nf_tables` with its `inet` family, NAT and `fib` expressions,
//! and connection tracking. What is missing is an error of the kind `Unsupported`.
//!
//! # Terms
//!
//! - **attachment**: one container in one network.
//! - **host**: the network namespace of the thread that opened the [`Networks`].
//! - **reservation**: a bound socket that keeps a published port from other programs.

mod bridge;
mod dns;
mod error;
mod firewall;
mod holder;
mod ipam;
mod mac;
mod netlink;
pub mod netns;
mod network;
mod networks;
mod port;
mod records;
mod store;
mod veth;

pub use dns::{ResolvConfOptions, hostname, hosts, parse_extra_host, resolv_conf};
pub use error::{Error, ErrorKind, Result};
pub use firewall::{Firewall, ForeignDrop, Forward, Nft, Rules, Segment};
pub use ipnetwork;
pub use mac::MacAddress;
pub use network::{
    AttachOptions, Attached, Attachment, BridgeConfig, Driver, Network, NetworkConfig,
};
pub use networks::{NetworkOptions, Networks, NetworksOptions, Recovered};
pub use port::{PortMapping, Protocol, PublishedPort};
