//! What the networks have in the kernel: made with the first attachment, mended, and removed.

use super::{Networks, no_free_subnet};
use crate::firewall::{Rules, Segment};
use crate::netlink::{self, Socket};
use crate::network::{self, Attachment, BridgeConfig, NetworkConfig};
use crate::records::BridgeState;
use crate::store::{self, Lock};
use crate::{Error, ErrorKind, Result, bridge, ipam};

impl Networks {
    /// Makes the bridge of a network with its rules, unless they are there; returns its index, and
    /// what the network's addresses are by then.
    pub(crate) fn make_bridge(
        &self,
        lock: &Lock,
        socket: &mut Socket,
        config: &NetworkConfig,
    ) -> Result<(u32, BridgeConfig)> {
        let records = &self.0.records;
        let now = self.read(&config.name)?.filter(|now| now.id == config.id);
        let Some((mut now, bridge)) = now.and_then(|now| Some((now.clone(), now.bridge?))) else {
            let doing = format!("use network {:?}, which was removed", config.name);
            return Err(Error::new(ErrorKind::NotFound, "NoSuchNetwork", doing));
        };
        let interface = &bridge.interface;
        match (
            records.bridge(interface)?,
            netlink::find_link(socket, interface)?,
        ) {
            (BridgeState::Ready, Some(link)) if link.is_bridge => return Ok((link.index, bridge)),
            (BridgeState::Unknown, Some(_)) => {
                let doing = format!("make bridge {interface:?}: a link of this name is not ours");
                return Err(Error::new(ErrorKind::Busy, "InterfaceTaken", doing));
            }
            (_, None) if records.owners(&config.name)?.is_empty() => {
                let settled = self.settle_subnet(socket, &mut now, bridge.clone())?;
                return self.make_new_bridge(lock, socket, config, settled);
            }
            _ => {}
        }
        self.make_new_bridge(lock, socket, config, bridge)
    }

    /// Takes another subnet for a network that nobody chose one for, if the host has a route to it by
    /// now.
    fn settle_subnet(
        &self,
        socket: &mut Socket,
        config: &mut NetworkConfig,
        bridge: BridgeConfig,
    ) -> Result<BridgeConfig> {
        let options = &self.0.options;
        let fixed = config.name == options.default_network && options.default_subnet.is_some();
        let mut used = netlink::used_subnets(socket)?;
        if fixed || bridge.subnet_chosen || ipam::overlap(bridge.subnet, &used).is_none() {
            return Ok(bridge);
        }
        used.extend(self.subnets()?);
        let subnet = ipam::next_subnet(&used).ok_or_else(no_free_subnet)?;
        let bridge = BridgeConfig {
            subnet,
            gateway: ipam::first_host(subnet),
            ..bridge
        };
        config.bridge = Some(bridge.clone());
        self.write(config)?;
        Ok(bridge)
    }

    fn make_new_bridge(
        &self,
        lock: &Lock,
        socket: &mut Socket,
        config: &NetworkConfig,
        bridge: BridgeConfig,
    ) -> Result<(u32, BridgeConfig)> {
        let records = &self.0.records;
        let interface = &bridge.interface;
        if !records.has_firewall() && self.firewall().exists()? {
            let doing = "make the firewall's rules: there are some that are not ours";
            return Err(Error::new(ErrorKind::Busy, "TableTaken", doing));
        }
        records.set_bridge(lock, interface, BridgeState::Making)?;
        let made = self
            .complete_bridge(lock, socket, &bridge)
            .map_err(|error| {
                // Unless others use the bridge, and it only had to be mended.
                let unused = records
                    .owners(&config.name)
                    .is_ok_and(|owners| owners.is_empty());
                let undone = || {
                    self.release(lock, config)
                        .and_then(|()| self.release_firewall(lock))
                };
                error.with_cleanup(unused.then(undone).and_then(Result::err))
            });
        Ok((made?, bridge))
    }

    fn complete_bridge(
        &self,
        lock: &Lock,
        socket: &mut Socket,
        bridge: &BridgeConfig,
    ) -> Result<u32> {
        let records = &self.0.records;
        let BridgeConfig {
            gateway,
            subnet,
            interface,
            ..
        } = bridge;
        let index = bridge::make(socket, interface, *gateway, subnet.prefix())?;
        if records.has_firewall() {
            let rules = Rules {
                segments: vec![segment(bridge)],
                ..Rules::default()
            };
            match self.firewall().add(&rules) {
                Err(error) if contradicts(&error) => self.rebuild_firewall(lock)?,
                done => done?,
            }
        } else {
            records.set_firewall(lock, true)?;
            self.rebuild_firewall(lock)?;
        }
        records.set_bridge(lock, interface, BridgeState::Ready)?;
        Ok(index)
    }

    /// Publishes the ports of an attachment. Where somebody has flushed the rules, or a dead process
    /// has left what contradicts, they are made anew.
    pub(crate) fn publish(&self, attachment: &Attachment) -> Result<()> {
        let rules = Rules {
            forwards: attachment.forwards().collect(),
            ..Rules::default()
        };
        match self.firewall().add(&rules) {
            Err(error) if contradicts(&error) => {
                let lock = self.0.records.lock()?;
                self.rebuild_firewall(&lock)
            }
            done => done,
        }
    }

    /// Makes the firewall's rules anew, for all that is recorded.
    pub(crate) fn rebuild_firewall(&self, _lock: &Lock) -> Result<()> {
        let mut rules = Rules::default();
        for config in self.configs()? {
            let Some(bridge) = &config.bridge else {
                continue;
            };
            if self.0.records.bridge(&bridge.interface)? != BridgeState::Unknown {
                rules.segments.push(segment(bridge));
            }
        }
        for attachment in self.attachments()? {
            rules.forwards.extend(attachment.forwards());
        }
        self.firewall().replace(&rules)
    }

    /// Ends an attachment: its ports, its link where that is asked for, its leases, its record.
    pub(crate) fn end(&self, lock: &Lock, attachment: &Attachment, link: bool) -> Result<()> {
        let rules = Rules {
            forwards: attachment.forwards().collect(),
            ..Rules::default()
        };
        self.firewall().remove(&rules)?;
        if link {
            network::delete_link(attachment)?;
        }
        self.0.records.remove(lock, attachment)
    }

    /// Removes everything that no record speaks of, and makes the firewall's rules anew.
    pub(crate) fn sweep(&self, lock: &Lock) -> Result<()> {
        let attachments = self.attachments()?;
        let unreadable = self.unreadable_owners()?;
        self.0.records.sweep(lock, &attachments, &unreadable)?;
        store::remove_temporaries(&self.0.options.state)?;
        let mut socket = Socket::route()?;
        let links = netlink::links(&mut socket)?;
        let mut bridges = Vec::new();
        for config in self.configs()? {
            let Some(bridge) = config.bridge else {
                continue;
            };
            let link = links.iter().find(|link| link.name == bridge.interface);
            if self.0.records.bridge(&bridge.interface)? != BridgeState::Unknown {
                bridges.extend(link.map(|link| link.index));
            }
        }
        let prefix = format!("{}v", self.0.options.prefix);
        for link in &links {
            let ours = link
                .controller
                .is_some_and(|index| bridges.contains(&index));
            let known = attachments
                .iter()
                .any(|known| known.host_interface == link.name)
                || unreadable
                    .iter()
                    .any(|(network, owner)| self.host_interface(network, owner) == link.name);
            if ours && !known && link.name.starts_with(&prefix) {
                netlink::delete_link(&mut socket, &link.name)?;
            }
        }
        if self.0.records.has_firewall() {
            self.rebuild_firewall(lock)?;
        }
        Ok(())
    }

    /// The attachments, by network and owner, whose records cannot be read but are not set aside, as
    /// their containers are alive.
    fn unreadable_owners(&self) -> Result<Vec<(String, String)>> {
        let mut unreadable = Vec::new();
        for network in self.0.records.networks()? {
            for owner in self.0.records.owners(&network)? {
                if self.0.records.attachment(&network, &owner).is_err() {
                    unreadable.push((network.clone(), owner));
                }
            }
        }
        Ok(unreadable)
    }

    /// Removes the bridge of a network that nobody uses.
    pub(super) fn release(&self, lock: &Lock, config: &NetworkConfig) -> Result<()> {
        let records = &self.0.records;
        let Some(bridge) = &config.bridge else {
            return Ok(());
        };
        if records.bridge(&bridge.interface)? == BridgeState::Unknown {
            return Ok(());
        }
        if records.has_firewall() {
            let rules = Rules {
                segments: vec![segment(bridge)],
                ..Rules::default()
            };
            self.firewall().remove(&rules)?;
        }
        netlink::delete_link(&mut Socket::route()?, &bridge.interface)?;
        records.set_bridge(lock, &bridge.interface, BridgeState::Unknown)
    }

    /// Removes the bridges whose network is gone, as its document could not be read. While there is
    /// such a document still, nobody knows which bridge is whose.
    pub(super) fn release_orphans(&self, lock: &Lock) -> Result<()> {
        let records = &self.0.records;
        let configs = self.configs()?;
        let documents = store::names(&self.0.options.state)?;
        if documents
            .iter()
            .filter(|name| name.ends_with(".json"))
            .count()
            != configs.len()
        {
            return Ok(());
        }
        let known = |interface: &str| {
            let bridges = configs.iter().filter_map(|config| config.bridge.as_ref());
            bridges
                .into_iter()
                .any(|bridge| bridge.interface == interface)
        };
        for interface in records.bridges()? {
            if !known(&interface) {
                netlink::delete_link(&mut Socket::route()?, &interface)?;
                records.set_bridge(lock, &interface, BridgeState::Unknown)?;
                if records.has_firewall() {
                    self.rebuild_firewall(lock)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the firewall's rules, if they are ours and there is no bridge any more.
    pub(super) fn release_firewall(&self, lock: &Lock) -> Result<()> {
        let records = &self.0.records;
        if !records.has_firewall() || !records.bridges()?.is_empty() {
            return Ok(());
        }
        self.firewall().clear()?;
        records.set_firewall(lock, false)
    }
}

fn segment(bridge: &BridgeConfig) -> Segment {
    Segment {
        interface: bridge.interface.clone(),
        subnet: bridge.subnet,
    }
}

/// The rules are not there, or say something else.
fn contradicts(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
}
