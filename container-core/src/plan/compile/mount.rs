//! The part of a plan that mounts what the spec lists.

use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags;

use super::rootfs::{PRIVATE, SLAVE, invalid_mount};
use super::{Compiler, c_string, has_any, is_mapped, is_set, unsupported};
use crate::plan::mounts::{Options, bind_source, inside, new_source};
use crate::plan::namespaces::map_lines;
use crate::plan::step::{
    CgroupSource, CgroupView, Keep, MountSource, Parameter, Refused, Step, Tree,
};
use crate::plan::{Birthplace, Hierarchy, IdMaps, MappedTree};
use crate::{Error, ErrorKind, Result};

/// What a user may mount below `/proc`: files that lie about resources, as lxcfs serves them.
const PROC_OVERRIDES: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

/// File systems whose files have labels of their own, whatever `linux.mountLabel` says.
const LABELLED_BY_KERNEL: [&str; 5] = ["proc", "sysfs", "cgroup", "cgroup2", "mqueue"];

/// A bind mount that stays connected with the host's mounts.
#[derive(Clone, Copy)]
pub(super) struct Connected {
    /// Where its tree is kept; the monitor opens those whose ids are mapped.
    pub(super) tree: Option<Keep>,
    /// The host gets what the container mounts there, if the options ask for that.
    pub(super) to_host: bool,
}

/// Whether a mount shows a tree of the host, whatever its type says.
pub(in crate::plan) fn is_bind(mount: &Mount, options: &Options) -> bool {
    options.bind || matches!(mount.typ().as_deref(), Some("bind" | "none"))
}

impl Compiler<'_> {
    pub(super) fn mount(&mut self, mount: &Mount, connected: Option<Connected>) -> Result<()> {
        let target = inside(mount.destination())?;
        let path = target.to_string_lossy().into_owned();
        let mut options = Options::parse(mount);
        if options.remount {
            return self.remount(mount, options);
        }
        if path.is_empty() {
            return Err(invalid_mount(mount, "is not below the root"));
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        let bind = is_bind(mount, &options);
        self.check_target(mount, &path, if bind { "bind" } else { kind })?;
        if kind.is_empty() && !bind {
            return Err(invalid_mount(mount, "has no type"));
        }
        if options.copy_up && (bind || kind != "tmpfs") {
            return Err(invalid_mount(mount, "has tmpcopyup and is no tmpfs"));
        }
        if !bind && matches!(kind, "cgroup" | "cgroup2") {
            return self.mount_cgroups(mount, &path, options);
        }
        let maps = self.mount_maps(mount, &options)?;
        let mut refused = Refused::Fail;
        let mut keep = match (path.as_str(), kind) {
            ("proc", _) => Some(Keep::PROC),
            ("sys", _) => Some(Keep::SYS),
            ("dev", "tmpfs") if !bind => Some(Keep::DEV),
            _ => None,
        };
        self.kept.extend(keep);
        let source = if bind {
            self.bind(mount, &mut options, maps, connected)?
        } else {
            if maps.is_some() {
                let what = format!("mapping ids of the new {kind} at /{path}");
                return Err(unsupported(&what));
            }
            self.drop_unmapped(kind, &mut options);
            self.add_label(kind, &mut options)?;
            if kind == "tmpfs" && take_read_only(&mut options) {
                let mount = keep.unwrap_or_else(|| self.next_keep());
                keep = Some(mount);
                self.unfinished.push(mount);
            }
            refused = self.when_refused(kind);
            let source = mount.source().as_deref();
            new_source(kind, source, &mut options, self.options.features)?
        };
        self.steps.push(Step::Mount {
            source,
            target,
            attributes: options.attributes,
            keep,
            refused,
        });
        Ok(())
    }

    fn bind(
        &mut self,
        mount: &Mount,
        options: &mut Options,
        maps: Option<IdMaps>,
        connected: Option<Connected>,
    ) -> Result<MountSource> {
        if let Some(key) = options.file_systems_own() {
            let what = format!("is a bind mount with the option {key}");
            return Err(invalid_mount(mount, &what));
        }
        if options.copy_link && (maps.is_some() || connected.is_some()) {
            let what = "copies a link, and maps ids or propagates, which a link does not";
            return Err(invalid_mount(mount, what));
        }
        let tree = bind_source(mount, self.bundle, options)?;
        let propagation = &mut options.attributes.propagation;
        let to_host = connected.is_some_and(|it| it.to_host)
            && propagation.iter().any(|it| it.kind == libc::MS_SHARED);
        match connected {
            // Also what is below it: it only gets what the host mounts.
            Some(_) if !to_host => propagation.insert(0, SLAVE),
            None if maps.is_some() => propagation.insert(0, PRIVATE),
            _ => {}
        }
        if let Some(maps) = maps {
            let number = u16::try_from(self.mapped.len()).unwrap_or(u16::MAX);
            self.mapped.push(MappedTree {
                tree,
                maps,
                recursive: options.map_ids == Some(true),
            });
            return Ok(MountSource::Mapped(number));
        }
        Ok(match connected.and_then(|it| it.tree) {
            Some(tree) => MountSource::Kept(tree),
            None => MountSource::Bind(tree),
        })
    }

    fn remount(&mut self, mount: &Mount, mut options: Options) -> Result<()> {
        let path = inside(mount.destination())?;
        let target = if path.is_empty() { c".".into() } else { path };
        let own = options.file_systems_own();
        let parameters = if is_bind(mount, &options) {
            if let Some(key) = own {
                let what = format!("remounts a bind mount with the option {key}");
                return Err(invalid_mount(mount, &what));
            }
            None
        } else {
            let read_only = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
            let attributes = &options.attributes;
            for (bits, name) in [(attributes.set, "ro"), (attributes.clear, "rw")] {
                if bits & read_only != 0 {
                    options.parameters.push((name.into(), None));
                }
            }
            Some(options.take_parameters()?)
        };
        self.steps.push(Step::Remount {
            target,
            parameters,
            attributes: options.attributes,
        });
        Ok(())
    }

    /// The maps of a mount whose ids are mapped; without its own it takes the container's.
    fn mount_maps(&self, mount: &Mount, options: &Options) -> Result<Option<IdMaps>> {
        let (uid, gid) = (mount.uid_mappings(), mount.gid_mappings());
        match (has_any(uid), has_any(gid)) {
            (true, true) => Ok(Some(IdMaps {
                uid: map_lines(uid.as_deref().unwrap_or_default()),
                gid: map_lines(gid.as_deref().unwrap_or_default()),
                deny_setgroups: false,
                by_programs: false,
            })),
            (false, false) if options.map_ids.is_none() => Ok(None),
            (false, false) => match &self.id_maps {
                Some(maps) => Ok(Some(maps.clone())),
                None => Err(invalid_mount(
                    mount,
                    "maps ids, but neither it nor the container has a map",
                )),
            },
            _ => Err(invalid_mount(mount, "maps only users or only groups")),
        }
    }

    /// Keeps user mounts away from what masks, labels and kernel parameters rely on.
    fn check_target(&self, mount: &Mount, path: &str, kind: &str) -> Result<()> {
        let below = |parent: &str| {
            path == parent
                || path
                    .strip_prefix(parent)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        // The host's own, for those who may not make another; what it really is, the walk verifies.
        let source = mount.source().as_deref();
        let same = kind == "bind" && source == Some(&Path::new("/").join(path));
        let allowed = if below("proc") {
            (path == "proc" && (kind == "proc" || same)) || PROC_OVERRIDES.contains(&path)
        } else if below("sys") {
            (path == "sys" && kind == "sysfs") || below("sys/fs/cgroup") || same
        } else {
            true
        };
        if allowed {
            return Ok(());
        }
        Err(invalid_mount(mount, "would cover a part of /proc or /sys"))
    }

    /// A single-id map has no `tty` group for the devpts default `gid=5`.
    fn drop_unmapped(&self, kind: &str, options: &mut Options) {
        if kind != "devpts" || !self.has_user_namespace() {
            return;
        }
        let linux = self.spec.linux().as_ref();
        let maps = linux
            .and_then(|linux| linux.gid_mappings().as_deref())
            .unwrap_or_default();
        options.parameters.retain(|(key, value)| {
            let gid = value.as_deref().and_then(|value| value.parse().ok());
            key != "gid" || gid.is_some_and(|gid| is_mapped(maps, gid))
        });
    }

    /// Labels a new file system for SELinux, as `linux.mountLabel` says.
    fn add_label(&self, kind: &str, options: &mut Options) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let label = linux.and_then(|linux| linux.mount_label().clone());
        if !is_set(&label) {
            return Ok(());
        }
        if !self.options.features.selinux {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "SelinuxUnavailable",
                "linux.mountLabel needs SELinux, which this kernel does not run",
            ));
        }
        if !LABELLED_BY_KERNEL.contains(&kind) && !options.has("context") {
            options.parameters.push(("context".into(), label));
        }
        Ok(())
    }

    /// In a user namespace new instances are refused of what shows a namespace that is not its own.
    fn when_refused(&self, kind: &str) -> Refused {
        let (flag, host) = match kind {
            "proc" => (libc::CLONE_NEWPID, c"/proc"),
            "sysfs" => (libc::CLONE_NEWNET, c"/sys"),
            "mqueue" => (libc::CLONE_NEWIPC, c"/dev/mqueue"),
            _ => return Refused::Fail,
        };
        let own = self.flags & u64::from(flag.unsigned_abs()) != 0;
        let joins = |place: &Birthplace| place.namespaces & flag.unsigned_abs() != 0;
        let joined = kind == "proc" && self.born_in.iter().any(joins);
        if own || joined || !self.has_user_namespace() {
            return Refused::Fail;
        }
        Refused::Bind(Tree {
            path: host.into(),
            recursive: true,
            copy_link: false,
        })
    }

    /// The cgroup tree, as the container's cgroup namespace sees it; without such a namespace no more
    /// than the process's own groups.
    fn mount_cgroups(&mut self, mount: &Mount, path: &str, mut options: Options) -> Result<()> {
        if options.propagates() || has_any(mount.uid_mappings()) || options.map_ids.is_some() {
            let what = format!("mapping ids of, or sharing, the control groups at /{path}");
            return Err(unsupported(&what));
        }
        self.add_label("tmpfs", &mut options)?;
        // Not in a user namespace: version 1 is the host's alone, version 2 where it is delegated.
        let refused = match self.has_user_namespace() {
            true => Refused::Skip,
            false => Refused::Fail,
        };
        let attributes = u32::try_from(options.attributes.set).unwrap_or(u32::MAX);
        let unified = mount.typ().as_deref() == Some("cgroup2");
        let mut views = Vec::new();
        for hierarchy in &self.options.cgroups.hierarchies {
            if !unified || *hierarchy == Hierarchy::V2 {
                views.extend(self.cgroup_view(hierarchy)?);
            }
        }
        let alone = unified || self.options.cgroups.hierarchies == [Hierarchy::V2];
        let target = inside(Path::new(path))?;
        let Some(view) = views.first().filter(|_| alone) else {
            let mut parameters: Vec<Parameter> = vec![(c"source".into(), Some(c"tmpfs".into()))];
            if !options.has("mode") {
                parameters.push((c"mode".into(), Some(c"755".into())));
            }
            parameters.extend(options.take_parameters()?);
            self.steps.push(Step::MountCgroups {
                target,
                parameters,
                attributes,
                views,
                refused,
            });
            return Ok(());
        };
        let source = match &view.source {
            CgroupSource::Mount { kind, .. } => {
                let kind = kind.to_string_lossy();
                options.parameters.retain(|(key, _)| key != "context");
                let source = mount.source().as_deref();
                new_source(&kind, source, &mut options, self.options.features)?
            }
            CgroupSource::Own(path) => MountSource::Bind(Tree {
                path: path.clone(),
                recursive: false,
                copy_link: false,
            }),
        };
        self.steps.push(Step::Mount {
            source,
            target,
            attributes: options.attributes,
            keep: None,
            refused,
        });
        Ok(())
    }

    /// What the process sees of a hierarchy; nothing if that would be the host's tree.
    fn cgroup_view(&self, hierarchy: &Hierarchy) -> Result<Option<CgroupView>> {
        let (name, kind, options) = match hierarchy {
            Hierarchy::V2 => ("unified", "cgroup2", &[][..]),
            Hierarchy::V1 { directory, options } => (directory.as_str(), "cgroup", &options[..]),
        };
        let source = if self.steps.contains(&Step::NewCgroupNamespace) {
            CgroupSource::Mount {
                kind: c_string("cgroup", kind)?,
                options: c_string("cgroup", options.join(","))?,
            }
        } else {
            let own = &self.options.cgroups.own;
            let keys = options.iter().map(String::as_str).chain([""]);
            let of_hierarchy = |key: &&str| key.is_empty() == options.is_empty();
            let Some(path) = keys.filter(of_hierarchy).find_map(|key| own.get(key)) else {
                return Ok(None);
            };
            CgroupSource::Own(c_string("cgroup", path.clone().into_os_string())?)
        };
        // Controllers that share a hierarchy are looked for by their own names, too.
        let names = name.split(',').filter(|_| name.contains(','));
        let links = names.map(|name| c_string("cgroup", name));
        Ok(Some(CgroupView {
            name: c_string("cgroup", name)?,
            source,
            links: links.collect::<Result<_>>()?,
        }))
    }
}

/// Takes the wish for a read-only mount out of the options: mounts below it have to be made first.
fn take_read_only(options: &mut Options) -> bool {
    let read_only = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let attributes = &mut options.attributes;
    let asked = (attributes.set | attributes.set_recursively) & read_only != 0;
    attributes.set &= !read_only;
    attributes.set_recursively &= !read_only;
    asked
}
