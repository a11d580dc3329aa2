//! The part of a plan that makes up the root file system.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount};
use rustix::mount::MountAttrFlags;

use super::{Compiler, c_string, has_any, is_mapped, required, unsupported};
use crate::plan::Hierarchy;
use crate::plan::mounts::{Options, bind_source, inside, new_source, overlay_source};
use crate::plan::step::{Attributes, Device, Keep, MountSource, Place, Step};
use crate::{Error, Result};

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

/// Links that programs expect in `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

/// Devices that every container has, beside those of the spec (runtime-spec `config-linux.md`,
/// "Default Devices"): name and minor number, all of major 1 but the last.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

impl Compiler<'_> {
    pub(super) fn mount_all(&mut self, linux: &Linux) -> Result<()> {
        let slave = match linux.rootfs_propagation().as_deref() {
            None | Some("" | "private" | "rprivate") => false,
            Some("slave" | "rslave") => true,
            Some(other) => return Err(unsupported(&format!("linux.rootfsPropagation {other}"))),
        };
        self.steps.push(Step::Detach { slave });
        self.mount_root()?;
        for mount in self.spec.mounts().iter().flatten() {
            self.mount(mount)?;
        }
        self.make_devices(linux.devices().as_deref().unwrap_or_default())?;
        for (target, path) in DEVICE_LINKS {
            self.steps.push(Step::MakeSymlink {
                target: c_string("link", target)?,
                path: c_string("link", path)?,
            });
        }
        self.set_sysctls(linux)?;
        for path in linux.readonly_paths().iter().flatten() {
            let place = self.place(Path::new(path))?;
            self.steps.push(Step::MakeReadOnly(place));
        }
        for path in linux.masked_paths().iter().flatten() {
            let place = self.place(Path::new(path))?;
            self.steps.push(Step::Mask(place));
        }
        Ok(())
    }

    fn mount_root(&mut self) -> Result<()> {
        let root = required("root", self.spec.root().as_ref())?;
        let over = self.bundle.join(root.path());
        let source = match self.options.root_mounts.as_slice() {
            [] => MountSource::Bind {
                path: c_string("root.path", over.clone().into_os_string())?,
                recursive: true,
            },
            [mount] => self.root_source(mount)?,
            _ => return Err(unsupported("a root file system of several mounts")),
        };
        let over = c_string("root.path", over.into_os_string())?;
        self.steps.push(Step::MountRoot { source, over });
        Ok(())
    }

    fn root_source(&mut self, mount: &Mount) -> Result<MountSource> {
        let mut options = Options::parse(mount)?;
        match mount.typ().as_deref() {
            Some("overlay") => {
                let (change, source) = overlay_source(&mut options, self.options.features)?;
                self.steps.extend(change.map(Step::ChangeHostDirectory));
                Ok(source)
            }
            _ if options.bind => bind_source(mount, self.bundle, options.recursive),
            Some(kind) => new_source(kind, &mut options),
            None => Err(invalid_mount(mount, "has no type")),
        }
    }

    fn mount(&mut self, mount: &Mount) -> Result<()> {
        let target = inside(mount.destination())?;
        let path = target.to_string_lossy().into_owned();
        if !mount.destination().is_absolute() || path.is_empty() {
            return Err(invalid_mount(
                mount,
                "is not an absolute path below the root",
            ));
        }
        if has_any(mount.uid_mappings()) || has_any(mount.gid_mappings()) {
            return Err(unsupported(&format!("id-mapped mount at /{path}")));
        }
        let mut options = Options::parse(mount)?;
        let kind = mount.typ().as_deref().unwrap_or_default();
        if kind == "cgroup" || kind == "cgroup2" {
            return self.mount_cgroup(&path, &options);
        }
        let bind = options.bind || kind == "bind" || kind == "none";
        self.check_target(mount, &path, if bind { "bind" } else { kind })?;
        let source = if bind {
            if let Some((key, _)) = options.parameters.first() {
                return Err(invalid_mount(
                    mount,
                    &format!("is a bind mount with the option {key}"),
                ));
            }
            bind_source(mount, self.bundle, options.recursive)?
        } else if kind.is_empty() {
            return Err(invalid_mount(mount, "has no type"));
        } else {
            self.drop_unmapped(kind, &mut options);
            new_source(kind, &mut options)?
        };
        let keep = match (path.as_str(), kind, bind) {
            ("proc", "proc", false) => Some(Keep::Proc),
            ("sys", "sysfs", false) => Some(Keep::Sys),
            ("dev", "tmpfs", false) => Some(Keep::Dev),
            _ => None,
        };
        self.kept.extend(keep);
        self.steps.push(Step::Mount {
            source,
            target,
            attributes: options.attributes,
            keep,
            optional: false,
        });
        Ok(())
    }

    /// Keeps user mounts away from what masks, labels and kernel parameters rely on.
    fn check_target(&self, mount: &Mount, path: &str, kind: &str) -> Result<()> {
        let below = |parent: &str| {
            path == parent
                || path
                    .strip_prefix(parent)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let allowed = if below("proc") {
            (path == "proc" && kind == "proc") || PROC_OVERRIDES.contains(&path)
        } else if below("sys") {
            (path == "sys" && kind == "sysfs") || below("sys/fs/cgroup")
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

    /// The cgroup tree, as the container's cgroup namespace sees it.
    fn mount_cgroup(&mut self, path: &str, options: &Options) -> Result<()> {
        let hierarchies = self.options.cgroups.hierarchies.clone();
        // Without a namespace of its own a container would see (and, as root, use) the host's tree.
        let own = self.steps.contains(&Step::NewCgroupNamespace);
        if hierarchies.is_empty() || !own {
            return Ok(());
        }
        // Not in a user namespace: version 1 is the host's alone, version 2 where it is delegated.
        let optional = self.has_user_namespace();
        let attributes = u32::try_from(options.attributes.set).unwrap_or(u32::MAX);
        let mut mount =
            |target: &str, kind: &str, parameters: Vec<(CString, Option<CString>)>, attributes| {
                self.steps.push(Step::Mount {
                    source: MountSource::New {
                        kind: c_string("mount type", kind)?,
                        parameters,
                        attributes,
                    },
                    target: inside(Path::new(target))?,
                    attributes: Attributes::default(),
                    keep: None,
                    optional,
                });
                Ok::<(), Error>(())
            };
        if hierarchies.as_slice() == [Hierarchy::V2] {
            return mount(path, "cgroup2", Vec::new(), attributes);
        }
        // The directory of hierarchies must be writable until all of them are in place; it is made
        // read-only with the other such paths.
        let mode = (
            c_string("option", "mode")?,
            Some(c_string("option", "755")?),
        );
        let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
        mount(path, "tmpfs", vec![mode], attributes & !read_only)?;
        for hierarchy in &hierarchies {
            let Hierarchy::V1 { directory, options } = hierarchy else {
                mount(
                    &format!("{path}/unified"),
                    "cgroup2",
                    Vec::new(),
                    attributes,
                )?;
                continue;
            };
            let mut parameters = Vec::new();
            for option in options {
                parameters.push(match option.split_once('=') {
                    Some((key, value)) => {
                        (c_string("option", key)?, Some(c_string("option", value)?))
                    }
                    None => (c_string("option", option.as_str())?, None),
                });
            }
            mount(
                &format!("{path}/{directory}"),
                "cgroup",
                parameters,
                attributes,
            )?;
        }
        if attributes & read_only != 0 {
            let place = Place {
                below: None,
                path: inside(Path::new(path))?,
            };
            self.steps.push(Step::MakeReadOnly(place));
        }
        Ok(())
    }

    fn make_devices(&mut self, devices: &[LinuxDevice]) -> Result<()> {
        if self.kept.contains(&Keep::Dev) {
            for (name, major, minor) in DEFAULT_DEVICES {
                let path = PathBuf::from(format!("/dev/{name}"));
                if devices.iter().any(|device| device.path() == &path) {
                    continue;
                }
                self.make_device(&path, libc::S_IFCHR, (major, minor), 0o666, (0, 0))?;
            }
        }
        for device in devices {
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => {
                    let what = format!("device {:?} is of type a", device.path());
                    return Err(Error::invalid("InvalidDevice", what));
                }
            };
            let number = |number: i64| {
                u32::try_from(number).map_err(|_| {
                    let what = format!("device {:?} has the number {number}", device.path());
                    Error::invalid("InvalidDevice", what)
                })
            };
            let (major, minor) = (number(device.major())?, number(device.minor())?);
            let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
            let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
            self.make_device(device.path(), kind, (major, minor), mode, owner)?;
        }
        Ok(())
    }

    fn make_device(
        &mut self,
        path: &Path,
        kind: u32,
        (major, minor): (u32, u32),
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        let bind = match self.has_user_namespace() {
            true => Some(c_string("device", path.as_os_str().to_owned())?),
            false => None,
        };
        let place = self.place(path)?;
        self.steps.push(Step::MakeDevice(Device {
            place,
            kind,
            major,
            minor,
            mode,
            uid,
            gid,
            bind,
        }));
        Ok(())
    }

    /// `path` below the mount of ours that it belongs to.
    pub(super) fn place(&self, path: &Path) -> Result<Place> {
        let path = inside(path)?;
        for (keep, prefix) in [
            (Keep::Proc, "proc/"),
            (Keep::Sys, "sys/"),
            (Keep::Dev, "dev/"),
        ] {
            let rest = path.to_bytes().strip_prefix(prefix.as_bytes());
            if let Some(rest) = rest.filter(|_| self.kept.contains(&keep)) {
                let path = c_string("path", rest)?;
                return Ok(Place {
                    below: Some(keep),
                    path,
                });
            }
        }
        Ok(Place { below: None, path })
    }

    pub(super) fn set_sysctls(&mut self, linux: &Linux) -> Result<()> {
        let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
        sysctls.sort();
        for (name, value) in sysctls {
            // Dots separate, except that a slash form keeps dots inside of interface names.
            let path = match name.contains('/') {
                true => name.clone(),
                false => name.replace('.', "/"),
            };
            let parts: Vec<_> = path.split('/').collect();
            let plain = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
            let needed = match parts.as_slice() {
                ["net", _, ..] if plain => libc::CLONE_NEWNET,
                ["fs", "mqueue", _] if plain => libc::CLONE_NEWIPC,
                ["kernel", name] if is_ipc_sysctl(name) => libc::CLONE_NEWIPC,
                _ => {
                    let what = format!("sysctl {name:?} belongs to no namespace");
                    return Err(Error::invalid("InvalidSysctl", what));
                }
            };
            if self.flags & u64::from(needed.unsigned_abs()) == 0 {
                let what = format!("sysctl {name} would change the host: its namespace is not new");
                return Err(Error::invalid("InvalidSysctl", what));
            }
            self.steps.push(Step::WriteSysctl {
                name: inside(&Path::new("sys").join(path))?,
                value: c_string("sysctl", value.as_str())?,
            });
        }
        Ok(())
    }
}

/// Parameters below `kernel` that belong to an IPC namespace (`ipc_namespaces(7)`).
fn is_ipc_sysctl(name: &str) -> bool {
    matches!(
        name,
        "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced"
    )
}

fn invalid_mount(mount: &Mount, why: &str) -> Error {
    Error::invalid(
        "InvalidMount",
        format!("mount at {:?} {why}", mount.destination()),
    )
}
