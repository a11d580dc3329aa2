//! Container networks over netlink alone: bridges, veth pairs, NAT, published ports.

mod bridge;
mod dns;
mod error;
mod firewall;
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

pub use error::{Error, ErrorKind, Result};
pub use firewall::{Firewall, ForeignDrop, Forward, Nft, Rules, Segment};
pub use ipnetwork;
pub use mac::MacAddress;
pub use network::{
    AttachOptions, Attached, Attachment, BridgeConfig, Driver, Network, NetworkConfig,
};
pub use networks::{NetworkOptions, Networks, NetworksOptions, Recovered};
pub use port::{PortMapping, Protocol, PublishedPort};
