//! Compiles which namespaces a process is in, and what follows from that.

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespace, LinuxNamespaceType};

use super::compile::{Compiler, c_string, has_any, is_mapped, is_set, text, unsupported};
use super::step::{Slot, SlotKind, Step};
use super::{Birthplace, IdMaps};
use crate::{Error, Result};

const NEW_USER: u32 = libc::CLONE_NEWUSER.unsigned_abs();

impl Compiler<'_> {
    /// Namespaces, session and cgroup: everything before the first mount. Gives the slot of the
    /// cgroup v2 group.
    pub(super) fn enter(&mut self, linux: &Linux) -> Result<Option<Slot>> {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let mut joins = Vec::new();
        for namespace in namespaces {
            self.enter_namespace(namespace, &mut joins)?;
        }
        self.make_time_namespace(linux)?;
        // The user namespace last: it may have no right to the PID namespace.
        self.born_in
            .sort_by_key(|place| place.namespaces & NEW_USER != 0);
        if self.has_user_namespace() {
            self.steps.push(Step::BecomeRoot);
        }
        if self.flags & libc::CLONE_NEWUSER as u64 != 0 {
            let maps = id_maps(linux)?;
            self.deny_setgroups = maps.deny_setgroups;
            self.id_maps = Some(maps);
            self.steps.push(Step::AwaitIdMaps);
        }
        let cgroup = self.enter_session();
        // A mount namespace last: its owner may not be that of the others.
        joins.sort_by_key(|(flag, _)| *flag == libc::CLONE_NEWNS);
        for (flag, namespace) in joins {
            let flag = flag.unsigned_abs();
            self.steps.push(Step::JoinNamespace { namespace, flag });
        }
        // Only now: a cgroup namespace is rooted at the groups that its maker is in.
        if find(namespaces, LinuxNamespaceType::Cgroup).is_some_and(|n| n.path().is_none()) {
            self.steps.push(Step::NewCgroupNamespace);
        }
        if self.flags & libc::CLONE_NEWNET as u64 != 0 {
            self.steps.push(Step::RaiseLoopback);
        }
        self.take_keyring()?;
        Ok(cgroup)
    }

    /// Session and cgroup. Gives the slot of the cgroup v2 group.
    pub(super) fn enter_session(&mut self) -> Option<Slot> {
        self.steps.push(Step::NewSession);
        for _ in 0..self.options.cgroups.joins {
            let group = self.slot(SlotKind::CgroupJoin);
            self.steps.push(Step::JoinCgroup { group });
        }
        let into = self.options.cgroups.into;
        into.then(|| self.slot(SlotKind::CgroupInto))
    }

    /// A session keyring of its own, named as runc names it where the container has an id.
    fn take_keyring(&mut self) -> Result<()> {
        /// What possessor and user may do with a new session keyring (`include/linux/key.h`).
        const PERMISSIONS: u32 = 0x3f13_0000;
        /// A later process joins it by searching: as the same user, or in a user namespace as anybody.
        const USER_SEARCHES: u32 = 0x0008_0000;
        const OTHER_SEARCHES: u32 = 0x0000_0008;
        if !self.options.new_keyring {
            return Ok(());
        }
        let name = self.options.id.as_ref().map(|id| format!("_ses.{id}"));
        let permissions = PERMISSIONS
            | if self.has_user_namespace() {
                OTHER_SEARCHES
            } else {
                USER_SEARCHES
            };
        self.steps.push(Step::NewKeyring {
            name: name.map(|name| c_string("id", name)).transpose()?,
            permissions,
        });
        Ok(())
    }

    pub(super) fn name_host(&mut self) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
        // One that is joined is named, too: that is what a hostname beside a path asks for.
        let own = find(namespaces.unwrap_or_default(), LinuxNamespaceType::Uts).is_some();
        for (field, name) in [
            ("hostname", self.spec.hostname()),
            ("domainname", self.spec.domainname()),
        ] {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            if !own {
                let what = format!("{field} is set without a uts namespace of its own");
                return Err(Error::invalid("InvalidSpec", what));
            }
            let name = c_string(field, name)?;
            self.steps.push(match field {
                "hostname" => Step::SetHostname(name),
                _ => Step::SetDomainname(name),
            });
        }
        Ok(())
    }

    /// Another one's mount namespace is used as it is: what would change it is refused, and so is,
    /// in the host's, a root that would not be one.
    pub(super) fn refuse_mounts(&self, linux: &Linux) -> Result<()> {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let joined = find(namespaces, LinuxNamespaceType::Mount).is_some();
        let root = self.spec.root().as_ref();
        let fields = [
            (
                "root",
                root.is_some_and(|root| !joined || root.readonly() == Some(true)),
            ),
            ("mounts", has_any(self.spec.mounts())),
            ("root_mounts", !self.options.root_mounts.is_empty()),
            ("linux.devices", has_any(linux.devices())),
            ("linux.readonlyPaths", has_any(linux.readonly_paths())),
            ("linux.maskedPaths", has_any(linux.masked_paths())),
            (
                "linux.rootfsPropagation",
                is_set(linux.rootfs_propagation()),
            ),
        ];
        match fields.into_iter().find(|(_, set)| *set) {
            Some((field, _)) => {
                let what = format!("{field} without a mount namespace of its own");
                Err(unsupported(&what))
            }
            None => Ok(()),
        }
    }

    /// Whether the process is in a user namespace that is not ours.
    pub(super) fn has_user_namespace(&self) -> bool {
        let joins = |place: &Birthplace| place.namespaces & NEW_USER != 0;
        self.id_maps.is_some() || self.born_in.iter().any(joins)
    }

    fn enter_namespace(
        &mut self,
        namespace: &LinuxNamespace,
        joins: &mut Vec<(libc::c_int, Slot)>,
    ) -> Result<()> {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
        };
        let Some(path) = namespace.path() else {
            // These two are made by steps of their own.
            if flag != libc::CLONE_NEWCGROUP && flag != libc::CLONE_NEWTIME {
                self.flags |= u64::from(flag.unsigned_abs());
            }
            return Ok(());
        };
        let slot = self.slot(SlotKind::Namespace(text(path)?));
        match flag {
            // Only children can be in another PID namespace; and a user namespace has to own all new
            // ones, so that it is entered before these are made.
            libc::CLONE_NEWPID | libc::CLONE_NEWUSER => self.born_in.push(Birthplace {
                of: slot,
                namespaces: flag.unsigned_abs(),
            }),
            _ => joins.push((flag, slot)),
        }
        Ok(())
    }

    fn make_time_namespace(&mut self, linux: &Linux) -> Result<()> {
        let namespaces = linux.namespaces().as_deref().unwrap_or_default();
        let own = find(namespaces, LinuxNamespaceType::Time).is_some_and(|n| n.path().is_none());
        let mut clocks: Vec<_> = linux.time_offsets().iter().flatten().collect();
        clocks.sort_by_key(|(clock, _)| *clock);
        if !own {
            if clocks.is_empty() {
                return Ok(());
            }
            let what = "linux.timeOffsets is set without a time namespace of its own";
            return Err(Error::invalid("InvalidSpec", what));
        }
        let mut offsets = String::new();
        for (clock, offset) in clocks {
            let (seconds, nanoseconds) =
                (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            if !matches!(clock.as_str(), "monotonic" | "boottime") || nanoseconds >= 1_000_000_000 {
                let what = format!(
                    "linux.timeOffsets moves {clock:?} by {seconds} s and {nanoseconds} ns"
                );
                return Err(Error::invalid("InvalidSpec", what));
            }
            offsets.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
        }
        let offsets = c_string("linux.timeOffsets", offsets)?;
        self.steps.push(Step::NewTimeNamespace { offsets });
        Ok(())
    }
}

/// The maps of a new user namespace, in the format of `/proc/PID/uid_map`.
fn id_maps(linux: &Linux) -> Result<IdMaps> {
    let lines = |field: &str, maps: &Option<Vec<LinuxIdMapping>>| {
        let maps = maps.as_deref().unwrap_or_default();
        if maps.is_empty() || !is_mapped(maps, 0) {
            let what = format!("linux.{field} does not map id 0 of the user namespace");
            return Err(Error::invalid("InvalidIdMap", what));
        }
        Ok(map_lines(maps))
    };
    let uid = lines("uidMappings", linux.uid_mappings())?;
    let gid = lines("gidMappings", linux.gid_mappings())?;
    Ok(IdMaps::new(uid, gid))
}

/// Maps as lines of `/proc/PID/uid_map`.
pub(super) fn map_lines(maps: &[LinuxIdMapping]) -> String {
    let line =
        |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
    maps.iter().map(line).collect()
}

fn find(namespaces: &[LinuxNamespace], kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    namespaces.iter().find(|namespace| namespace.typ() == kind)
}
