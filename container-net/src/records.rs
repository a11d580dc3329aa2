//! What is known of the objects in the kernel: the record of each exists before the thing does.
//!
//! ```text
//! <run>/                                      a tmpfs; nothing here is worth a sync
//!   lock                                      held for every change below
//!   boot                                      the boot that this is about
//!   firewall                                  the rules are ours
//!   bridges/<interface>                       "making", then "ready"
//!   attachments/<network>/<owner>.json        one container in one network (an Attachment)
//!   leases/<network>/<address>                the owner of an address
//!   leases/<network>/last                     the address that was given out last
//!   ports/<protocol>-<port>                   "<host address> <owner>" for each holder
//!   broken/                                   what could not be read
//! ```
//!
//! An owner is `<container>@<interface>`. The attachment is the record; a lease or a port without
//! one is what a process left that died in between. Whoever makes an attachment holds a lock on its
//! file meanwhile, so that nobody takes it for a dead process's.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnetwork::Ipv4Network;

use crate::network::Attachment;
use crate::port::Protocol;
use crate::store::{self, Durability, Lock};
use crate::{Error, ErrorKind, Result, ipam};

/// The run directory. Its methods that change something take the lock as proof.
#[derive(Debug)]
pub(crate) struct Records {
    run: PathBuf,
}

/// What is known of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeState {
    /// Nothing: if there is a link of that name, it is somebody else's.
    Unknown,
    /// It is ours, but may be incomplete.
    Making,
    /// It was completed.
    Ready,
}

impl Records {
    /// Opens the directory, and empties it if it is about an earlier boot.
    pub(crate) fn open(run: &Path) -> Result<(Self, Lock)> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        store::make_directory(run)?;
        let records = Self {
            run: run.to_owned(),
        };
        let lock = records.lock()?;
        let boot = store::read(Path::new(BOOT_ID))?.unwrap_or_default();
        let path = run.join("boot");
        if store::read(&path)?.as_deref() != Some(&boot) {
            for name in ["bridges", "attachments", "leases", "ports"] {
                store::remove_tree(&run.join(name))?;
            }
            store::remove(&records.firewall_path())?;
            store::write(&path, boot.as_bytes(), Durability::Boot)?;
        }
        for name in ["bridges", "attachments", "leases", "ports"] {
            store::make_directory(&run.join(name))?;
        }
        Ok((records, lock))
    }

    pub(crate) fn lock(&self) -> Result<Lock> {
        store::lock(&self.run.join("lock"))
    }

    /// Whether the firewall's rules are ours.
    pub(crate) fn has_firewall(&self) -> bool {
        self.firewall_path().exists()
    }

    pub(crate) fn set_firewall(&self, _lock: &Lock, ours: bool) -> Result<()> {
        if ours {
            store::write(&self.firewall_path(), b"", Durability::Boot).map(drop)
        } else {
            store::remove(&self.firewall_path())
        }
    }

    fn firewall_path(&self) -> PathBuf {
        self.run.join("firewall")
    }

    pub(crate) fn bridge(&self, interface: &str) -> Result<BridgeState> {
        Ok(
            match store::read(&self.run.join("bridges").join(interface))?.as_deref() {
                None => BridgeState::Unknown,
                Some("ready") => BridgeState::Ready,
                Some(_) => BridgeState::Making,
            },
        )
    }

    /// The interfaces of all bridges that are known.
    pub(crate) fn bridges(&self) -> Result<Vec<String>> {
        store::names(&self.run.join("bridges"))
    }

    pub(crate) fn set_bridge(
        &self,
        _lock: &Lock,
        interface: &str,
        state: BridgeState,
    ) -> Result<()> {
        let path = self.run.join("bridges").join(interface);
        match state {
            BridgeState::Unknown => store::remove(&path),
            BridgeState::Making => store::write(&path, b"making", Durability::Boot).map(drop),
            BridgeState::Ready => store::write(&path, b"ready", Durability::Boot).map(drop),
        }
    }

    /// The networks that have, or had, attachments.
    pub(crate) fn networks(&self) -> Result<Vec<String>> {
        store::names(&self.run.join("attachments"))
    }

    /// The owners that have an attachment in `network`.
    pub(crate) fn owners(&self, network: &str) -> Result<Vec<String>> {
        let names = store::names(&self.run.join("attachments").join(network))?;
        Ok(names
            .iter()
            .filter_map(|name| name.strip_suffix(".json"))
            .map(str::to_owned)
            .collect())
    }

    /// Reads an attachment; `InvalidState` (`BrokenRecord`) where it does not make sense.
    pub(crate) fn attachment(&self, network: &str, owner: &str) -> Result<Option<Attachment>> {
        let path = self.attachment_path(network, owner);
        let Some(text) = store::read(&path)? else {
            return Ok(None);
        };
        let broken = || {
            Error::new(
                ErrorKind::InvalidState,
                "BrokenRecord",
                format!("read {path:?}"),
            )
        };
        let attachment: Attachment =
            serde_json::from_str(&text).map_err(|source| broken().with_source(source))?;
        if attachment.network != network || attachment.owner() != owner {
            return Err(broken());
        }
        Ok(Some(attachment))
    }

    /// Writes the record of an attachment that is about to be made. It counts as in the making
    /// until the lock is dropped.
    pub(crate) fn insert(&self, _lock: &Lock, attachment: &Attachment) -> Result<Lock> {
        let path = self.attachment_path(&attachment.network, &attachment.owner());
        store::make_directory(&self.run.join("attachments").join(&attachment.network))?;
        let text = serde_json::to_vec(attachment).map_err(|source| {
            Error::invalid("InvalidRecord", "write an attachment").with_source(source)
        })?;
        store::write(&path, &text, Durability::Boot)
    }

    /// Whether somebody is making this attachment at the moment.
    pub(crate) fn is_in_the_making(&self, network: &str, owner: &str) -> bool {
        store::is_locked(&self.attachment_path(network, owner))
    }

    /// Forgets an attachment, its ports and its address. The record goes last.
    pub(crate) fn remove(&self, lock: &Lock, attachment: &Attachment) -> Result<()> {
        let owner = attachment.owner();
        for port in &attachment.ports {
            self.release_port(lock, port.protocol, port.host_port, &owner)?;
        }
        self.release_address(lock, &attachment.network, attachment.address)?;
        store::remove(&self.attachment_path(&attachment.network, &owner))
    }

    /// Moves a record away that cannot be read, and tells where it is.
    pub(crate) fn set_aside(&self, _lock: &Lock, network: &str, owner: &str) -> Result<PathBuf> {
        let directory = self.run.join("broken");
        store::make_directory(&directory)?;
        let aside = directory.join(format!("{network}.{owner}.json"));
        let path = self.attachment_path(network, owner);
        fs::rename(&path, &aside)
            .map_err(|source| Error::os(format!("rename {path:?} to {aside:?}"), source))?;
        Ok(aside)
    }

    /// Forgets all that is left of a network.
    pub(crate) fn remove_network(&self, _lock: &Lock, network: &str) -> Result<()> {
        store::remove_tree(&self.run.join("leases").join(network))?;
        store::remove_tree(&self.run.join("attachments").join(network))
    }

    fn attachment_path(&self, network: &str, owner: &str) -> PathBuf {
        self.run
            .join("attachments")
            .join(network)
            .join(format!("{owner}.json"))
    }

    /// Leases `wanted`, or an address that nobody has.
    pub(crate) fn lease_address(
        &self,
        _lock: &Lock,
        network: &str,
        subnet: Ipv4Network,
        gateway: Ipv4Addr,
        wanted: Option<Ipv4Addr>,
        owner: &str,
    ) -> Result<Ipv4Addr> {
        let directory = self.run.join("leases").join(network);
        store::make_directory(&directory)?;
        let lease = |address: Ipv4Addr| {
            store::create_new(&directory.join(address.to_string()), owner.as_bytes())
        };
        if let Some(address) = wanted {
            if address != gateway && lease(address)? {
                return Ok(address);
            }
            let holder = store::read(&directory.join(address.to_string()))?;
            let holder = holder.unwrap_or_else(|| "the gateway".to_owned());
            let doing =
                format!("lease address {address} of network {network:?}, which {holder} has");
            return Err(Error::new(ErrorKind::Busy, "AddressTaken", doing));
        }
        let last_path = directory.join("last");
        let last = store::read(&last_path)?.and_then(|last| last.parse().ok());
        for address in ipam::hosts_after(subnet, gateway, last) {
            if lease(address)? {
                store::write(&last_path, address.to_string().as_bytes(), Durability::Boot)?;
                return Ok(address);
            }
        }
        let doing = format!("lease an address of {subnet} in network {network:?}");
        Err(Error::new(ErrorKind::Busy, "NoFreeAddress", doing))
    }

    pub(crate) fn release_address(
        &self,
        _lock: &Lock,
        network: &str,
        address: Ipv4Addr,
    ) -> Result<()> {
        store::remove(
            &self
                .run
                .join("leases")
                .join(network)
                .join(address.to_string()),
        )
    }

    /// Who has published the port on an address that overlaps `address`.
    pub(crate) fn port_holder(
        &self,
        protocol: Protocol,
        address: Ipv4Addr,
        port: u16,
    ) -> Result<Option<String>> {
        let overlaps = |other: Ipv4Addr| {
            other == address || other.is_unspecified() || address.is_unspecified()
        };
        let holders = self.port_holders(protocol, port)?;
        Ok(holders
            .into_iter()
            .find(|(other, _)| overlaps(*other))
            .map(|(_, owner)| owner))
    }

    pub(crate) fn claim_port(
        &self,
        _lock: &Lock,
        protocol: Protocol,
        address: Ipv4Addr,
        port: u16,
        owner: &str,
    ) -> Result<()> {
        let mut holders = self.port_holders(protocol, port)?;
        holders.push((address, owner.to_owned()));
        self.write_port_holders(protocol, port, &holders)
    }

    pub(crate) fn release_port(
        &self,
        _lock: &Lock,
        protocol: Protocol,
        port: u16,
        owner: &str,
    ) -> Result<()> {
        let mut holders = self.port_holders(protocol, port)?;
        holders.retain(|(_, holder)| holder != owner);
        self.write_port_holders(protocol, port, &holders)
    }

    fn port_holders(&self, protocol: Protocol, port: u16) -> Result<Vec<(Ipv4Addr, String)>> {
        let text = store::read(&self.port_path(protocol, port))?.unwrap_or_default();
        let holder = |line: &str| {
            let (address, owner) = line.split_once(' ')?;
            Some((address.parse().ok()?, owner.to_owned()))
        };
        Ok(text.lines().filter_map(holder).collect())
    }

    fn write_port_holders(
        &self,
        protocol: Protocol,
        port: u16,
        holders: &[(Ipv4Addr, String)],
    ) -> Result<()> {
        let path = self.port_path(protocol, port);
        if holders.is_empty() {
            return store::remove(&path);
        }
        let text: String = holders
            .iter()
            .map(|(address, owner)| format!("{address} {owner}\n"))
            .collect();
        store::write(&path, text.as_bytes(), Durability::Boot).map(drop)
    }

    fn port_path(&self, protocol: Protocol, port: u16) -> PathBuf {
        self.run.join("ports").join(format!("{protocol}-{port}"))
    }

    /// Removes half-written files and every lease and port that belongs neither to one of
    /// `attachments` nor to one of the owners (network and name) whose record is `unreadable`.
    pub(crate) fn sweep(
        &self,
        _lock: &Lock,
        attachments: &[Attachment],
        unreadable: &[(String, String)],
    ) -> Result<()> {
        for name in ["", "bridges", "ports"] {
            store::remove_temporaries(&self.run.join(name))?;
        }
        for parent in ["attachments", "leases"] {
            for network in store::names(&self.run.join(parent))? {
                store::remove_temporaries(&self.run.join(parent).join(network))?;
            }
        }
        for network in store::names(&self.run.join("leases"))? {
            let directory = self.run.join("leases").join(&network);
            for name in store::names(&directory)? {
                let Ok(address) = name.parse::<Ipv4Addr>() else {
                    continue;
                };
                let lease = directory.join(&name);
                let holder = (network.clone(), store::read(&lease)?.unwrap_or_default());
                let leased = attachments
                    .iter()
                    .any(|known| known.network == network && known.address == address);
                if !leased && !unreadable.contains(&holder) {
                    store::remove(&lease)?;
                }
            }
        }
        for name in store::names(&self.run.join("ports"))? {
            let Some((protocol, port)) = name.split_once('-') else {
                continue;
            };
            let (Ok(protocol), Ok(port)) = (protocol.parse::<Protocol>(), port.parse()) else {
                continue;
            };
            let mut holders = self.port_holders(protocol, port)?;
            let before = holders.len();
            holders.retain(|(address, owner)| {
                let is_unreadable = unreadable.iter().any(|(_, other)| other == owner);
                is_unreadable
                    || attachments.iter().any(|known| {
                        known.owner() == *owner
                            && known.ports.iter().any(|published| {
                                (
                                    published.protocol,
                                    published.host_address,
                                    published.host_port,
                                ) == (protocol, *address, port)
                            })
                    })
            });
            if holders.len() != before || holders.is_empty() {
                self.write_port_holders(protocol, port, &holders)?;
            }
        }
        Ok(())
    }
}
