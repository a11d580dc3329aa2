//! What the packet filter has to do for the networks, apart from how it is told.

use std::fmt;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::{PublishedPort, Result};

mod expression;
mod nft;

pub use nft::Nft;

/// The rules of the host for a set of bridges and published ports.
///
/// The rules as a whole are there or not ([`exists`](Self::exists)); what they say is data that is
/// added and removed without touching them. A set of rules does the following, for every bridge:
///
/// - What leaves the bridge's subnet by another interface gets the host's address.
/// - What is sent to a published port of the host, from anywhere, goes to the container.
/// - Nothing else reaches a container from outside its bridge, not even from another bridge, with
///   the exception of answers and of the host itself.
/// - Nothing from a bridge reaches the host's loopback addresses, and nothing that arrives over a
///   wire for a loopback address reaches a port that is published there.
///
/// `replace` → `add` / `remove` … → `clear`. Each call is one transaction: all of it or nothing.
pub trait Firewall: Send + Sync + fmt::Debug {
    /// Whether the rules are there, whoever made them.
    ///
    /// # Errors
    ///
    /// `Unsupported` where the host has no such packet filter.
    fn exists(&self) -> Result<bool>;

    /// Makes the rules from nothing, with `rules` as their data; older ones are gone after.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without the privilege; `Unsupported` naming what the kernel lacks.
    fn replace(&self, rules: &Rules) -> Result<()>;

    /// Adds `rules` to the data.
    ///
    /// # Errors
    ///
    /// `NotFound` where the rules are not there; `AlreadyExists` where a port leads elsewhere.
    fn add(&self, rules: &Rules) -> Result<()>;

    /// Takes `rules` out of the data; what is gone already is no error.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    fn remove(&self, rules: &Rules) -> Result<()>;

    /// Removes the rules with all data; Ok if they are gone.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    fn clear(&self) -> Result<()>;

    /// Finds rules of others that drop what is forwarded unless they say otherwise. Such a drop
    /// wins over these rules: containers have no way out and published ports are dead.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    fn foreign_drops(&self) -> Result<Vec<ForeignDrop>>;
}

/// What the rules are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// The bridges.
    pub segments: Vec<Segment>,
    /// The published ports.
    pub forwards: Vec<Forward>,
}

impl Rules {
    /// Whether there is nothing in them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.forwards.is_empty()
    }
}

/// A bridge and the subnet behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// The name of the bridge's link.
    pub interface: String,
    /// The addresses of its containers.
    pub subnet: Ipv4Network,
}

/// A published port and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forward {
    /// The port.
    pub port: PublishedPort,
    /// The container's address.
    pub address: Ipv4Addr,
}

/// A chain of somebody else's with the policy to drop what is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForeignDrop {
    /// The table.
    pub table: String,
    /// The chain in it.
    pub chain: String,
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "chain {:?} of table {:?} drops what is forwarded",
            self.chain, self.table
        )
    }
}
