//! Compiles an OCI spec to a plan.

use std::ffi::CString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, Mount, Process, Spec,
};
use rustix::mount::MountAttrFlags;

use super::mounts::{Options, bind_source, inside, new_source, overlay_source};
use super::step::{
    Account, Attributes, Capabilities, Device, Keep, MountSource, Place, Program, Slot, SlotKind,
    Step,
};
use super::{Hierarchy, IdMaps, Plan, PlanOptions};
use crate::{Error, ErrorKind, Result, capability, rlimit, seccomp, sys};

/// The search path of a process that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

pub(super) struct Compiler<'a> {
    pub(super) spec: &'a Spec,
    bundle: &'a Path,
    pub(super) options: &'a PlanOptions,
    pub(super) steps: Vec<Step>,
    slots: Vec<SlotKind>,
    pub(super) flags: u64,
    pub(super) pid_namespace: Option<Slot>,
    pub(super) user_namespace: Option<Slot>,
    kept: Vec<Keep>,
    pub(super) id_maps: Option<IdMaps>,
}

pub(super) fn c_string(what: &str, text: impl Into<CStringSource>) -> Result<CString> {
    CString::new(text.into().0)
        .map_err(|_| Error::invalid("NulByte", format!("{what} contains a NUL byte")))
}

/// Bytes of a string, path or slice.
pub(super) struct CStringSource(Vec<u8>);

impl From<&str> for CStringSource {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for CStringSource {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&[u8]> for CStringSource {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<std::ffi::OsString> for CStringSource {
    fn from(text: std::ffi::OsString) -> Self {
        Self(std::os::unix::ffi::OsStringExt::into_vec(text))
    }
}

/// A field of the spec that is set and cannot be honoured.
pub(super) fn unsupported(field: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "Unsupported",
        format!("{field} is not supported"),
    )
}

impl<'a> Compiler<'a> {
    pub(super) fn new(spec: &'a Spec, bundle: &'a Path, options: &'a PlanOptions) -> Self {
        Self {
            spec,
            bundle,
            options,
            steps: Vec::with_capacity(96),
            slots: Vec::new(),
            flags: sys::CLONE_CLEAR_SIGHAND,
            pid_namespace: None,
            user_namespace: None,
            kept: Vec::new(),
            id_maps: None,
        }
    }

    pub(super) fn compile(mut self) -> Result<Plan> {
        self.refuse_unsupported()?;
        let process = required("process", self.spec.process().as_ref())?;
        let linux = required("linux", self.spec.linux().as_ref())?;
        let stdio = [0, 1, 2].map(|stream| self.slot(SlotKind::Stdio(stream)));
        let cgroup = self.enter(linux)?;
        self.name_host()?;
        if self.flags & libc::CLONE_NEWNS as u64 != 0 {
            self.mount_all(linux)?;
            self.steps.push(Step::PivotRoot);
        } else {
            self.refuse_mounts(linux)?;
            self.set_sysctls(linux)?;
        }
        self.confine(process, stdio)?;
        Ok(Plan {
            flags: self.flags,
            pid_namespace: self.pid_namespace,
            user_namespace: self.user_namespace,
            cgroup,
            id_maps: self.id_maps,
            oom_score_adj: process.oom_score_adj(),
            slots: self.slots,
            steps: self.steps,
        })
    }

    pub(super) fn slot(&mut self, kind: SlotKind) -> Slot {
        self.slots.push(kind);
        Slot(u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX))
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let hooks = self
            .spec
            .hooks()
            .as_ref()
            .is_some_and(|hooks| hooks != &Default::default());
        let process = self.spec.process().as_ref();
        let linux = self.spec.linux().as_ref();
        let fields = [
            ("hooks", hooks),
            ("vm", self.spec.vm().is_some()),
            (
                "process.terminal",
                process.is_some_and(|p| p.terminal() == Some(true)),
            ),
            (
                "process.apparmorProfile",
                process.is_some_and(|p| is_set(p.apparmor_profile())),
            ),
            (
                "process.selinuxLabel",
                process.is_some_and(|p| is_set(p.selinux_label())),
            ),
            (
                "process.scheduler",
                process.is_some_and(|p| p.scheduler().is_some()),
            ),
            (
                "process.ioPriority",
                process.is_some_and(|p| p.io_priority().is_some()),
            ),
            (
                "process.execCPUAffinity",
                process.is_some_and(|p| p.exec_cpu_affinity().is_some()),
            ),
            (
                "linux.mountLabel",
                linux.is_some_and(|l| is_set(l.mount_label())),
            ),
            (
                "linux.intelRdt",
                linux.is_some_and(|l| l.intel_rdt().is_some()),
            ),
            (
                "linux.memoryPolicy",
                linux.is_some_and(|l| l.memory_policy().is_some()),
            ),
            (
                "linux.personality",
                linux.is_some_and(|l| l.personality().is_some()),
            ),
            (
                "linux.netDevices",
                linux.is_some_and(|l| has_any(l.net_devices())),
            ),
        ];
        match fields.into_iter().find(|(_, set)| *set) {
            Some((field, _)) => Err(unsupported(field)),
            None => Ok(()),
        }
    }

    fn mount_all(&mut self, linux: &Linux) -> Result<()> {
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
    fn place(&self, path: &Path) -> Result<Place> {
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

    fn set_sysctls(&mut self, linux: &Linux) -> Result<()> {
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

    /// What the process is, may do and starts: everything after the root file system is in place.
    fn confine(&mut self, process: &Process, stdio: [Slot; 3]) -> Result<()> {
        if let Some(user) = &self.options.user {
            let user = c_string("user", user.as_str())?;
            let with_groups = self.may_set_groups();
            self.steps.push(Step::LookUpUser { user, with_groups });
        }
        if !process.cwd().is_absolute() {
            let what = format!("process.cwd {:?} is not absolute", process.cwd());
            return Err(Error::invalid("InvalidSpec", what));
        }
        // Without `..`, as the walk makes what is missing of it.
        let cwd = [b"/", inside(process.cwd())?.as_bytes()].concat();
        let cwd = c_string("process.cwd", cwd.as_slice())?;
        self.steps.push(Step::ChangeDirectory(cwd));
        if self
            .spec
            .root()
            .as_ref()
            .is_some_and(|root| root.readonly() == Some(true))
        {
            self.steps.push(Step::MakeRootReadOnly);
        }
        for limit in process.rlimits().iter().flatten() {
            let (resource, soft, hard) = rlimit::checked(limit)?;
            self.steps.push(Step::SetLimit {
                resource,
                soft,
                hard,
            });
        }
        let filter = self.filter()?;
        let restricted = process.no_new_privileges() == Some(true);
        let (early, late) = if restricted {
            (None, filter)
        } else {
            (filter, None)
        };
        if restricted {
            self.steps.push(Step::NoNewPrivileges);
        }
        self.steps.extend(early);
        self.drop_privileges(process, stdio)?;
        // A change of user clears it, so not earlier; whoever is orphaned before this finds the
        // pipe to the monitor broken at the next word.
        self.steps.push(Step::ParentDeathSignal);
        self.steps.push(Step::SetUmask(
            process.user().umask().unwrap_or(0o022) & 0o777,
        ));
        if self.options.wait_for_start {
            let start = self.slot(SlotKind::Start);
            self.steps.push(Step::AwaitStart { start });
        }
        self.steps.push(Step::SetStdio(stdio));
        self.steps.extend(late);
        self.steps.push(Step::Execute(self.program(process)?));
        Ok(())
    }

    fn drop_privileges(&mut self, process: &Process, stdio: [Slot; 3]) -> Result<()> {
        let user = process.user();
        let fixed = self.options.user.is_none().then(|| Account {
            uid: user.uid(),
            gid: user.gid(),
            groups: self
                .may_set_groups()
                .then(|| user.additional_gids().clone().unwrap_or_default()),
        });
        let sets = match process.capabilities() {
            Some(sets) => {
                let mask = |set: &Option<_>| set.as_ref().map_or(0, capability::mask);
                self.steps.push(Step::LimitCapabilities {
                    keep: mask(sets.bounding()),
                });
                Capabilities {
                    effective: mask(sets.effective()),
                    permitted: mask(sets.permitted()),
                    inheritable: mask(sets.inheritable()),
                    ambient: mask(sets.ambient()),
                }
            }
            None => {
                self.steps.push(Step::LimitCapabilities { keep: 0 });
                Capabilities::default()
            }
        };
        self.steps.push(Step::SetAccount { fixed, stdio });
        self.steps.push(Step::SetCapabilities(sets));
        Ok(())
    }

    fn may_set_groups(&self) -> bool {
        self.id_maps
            .as_ref()
            .is_none_or(|maps| !maps.deny_setgroups)
    }

    fn filter(&self) -> Result<Option<Step>> {
        let linux = self.spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(None);
        };
        let filter = seccomp::compile(profile)?;
        Ok(Some(Step::LoadFilter {
            instructions: filter.instructions.to_vec(),
            flags: filter.flags,
        }))
    }

    fn program(&self, process: &Process) -> Result<Program> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            let what = "process.args names no command";
            return Err(Error::invalid("NoCommand", what));
        };
        let environment = process.env().as_deref().unwrap_or_default();
        let path = environment
            .iter()
            .rev()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = if name.contains('/') {
            vec![c_string("process.args", name.as_str())?]
        } else {
            path.unwrap_or(DEFAULT_PATH)
                .split(':')
                .map(|directory| {
                    let directory = if directory.is_empty() { "." } else { directory };
                    c_string("process.args", format!("{directory}/{name}"))
                })
                .collect::<Result<_>>()?
        };
        let strings = |what: &str, texts: &[String]| {
            texts
                .iter()
                .map(|text| c_string(what, text.as_str()))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Program {
            candidates,
            arguments: strings("process.args", arguments)?,
            environment: strings("process.env", environment)?,
            add_home: self.options.user.is_some()
                && !environment.iter().any(|entry| entry.starts_with("HOME=")),
        })
    }
}

pub(super) fn is_mapped(maps: &[LinuxIdMapping], id: u32) -> bool {
    maps.iter()
        .any(|map| id >= map.container_id() && id - map.container_id() < map.size())
}

/// Parameters below `kernel` that belong to an IPC namespace (`ipc_namespaces(7)`).
fn is_ipc_sysctl(name: &str) -> bool {
    matches!(
        name,
        "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced"
    )
}

fn required<'s, T>(field: &str, value: Option<&'s T>) -> Result<&'s T> {
    value.ok_or_else(|| Error::invalid("InvalidSpec", format!("the spec has no {field}")))
}

fn invalid_mount(mount: &Mount, why: &str) -> Error {
    Error::invalid(
        "InvalidMount",
        format!("mount at {:?} {why}", mount.destination()),
    )
}

pub(super) fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("InvalidSpec", format!("path {path:?} is not valid UTF-8")))
}

pub(super) fn is_set(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

pub(super) fn has_any<T: Debug>(collection: &Option<T>) -> bool
where
    for<'c> &'c T: IntoIterator,
{
    collection
        .as_ref()
        .is_some_and(|items| items.into_iter().next().is_some())
}
