//! Compiles an OCI spec to a plan.

use std::ffi::CString;
use std::fmt::Debug;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Process, Spec};

use self::attributes::affinity;
use super::hook::{HookSet, Stage};
use super::step::{Keep, Slot, SlotKind, Step};
use super::{Birthplace, IdMaps, MappedTree, Plan, PlanOptions};
use crate::state::Confinement;
use crate::{Error, ErrorKind, Result, sys};

mod attributes;
mod device;
pub(super) mod mount;
pub(super) mod process;
mod rootfs;

pub(super) struct Compiler<'a> {
    pub(super) spec: &'a Spec,
    bundle: &'a Path,
    pub(super) options: &'a PlanOptions,
    pub(super) steps: Vec<Step>,
    slots: Vec<SlotKind>,
    pub(super) flags: u64,
    pub(super) born_in: Vec<Birthplace>,
    /// Which of the mounts that have a name are made.
    kept: Vec<Keep>,
    keeps: u16,
    /// What becomes read-only when everything is mounted.
    unfinished: Vec<Keep>,
    mapped: Vec<MappedTree>,
    pub(super) id_maps: Option<IdMaps>,
    affinity: Option<Vec<u64>>,
    /// The kernel does not let the user namespace set groups.
    pub(super) deny_setgroups: bool,
    /// The root is that of a running container, whose own it is.
    joins_container: bool,
    hooks: Vec<HookSet>,
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
            born_in: Vec::new(),
            kept: Vec::new(),
            keeps: Keep::FIRST_FREE.0,
            unfinished: Vec::new(),
            mapped: Vec::new(),
            id_maps: None,
            affinity: None,
            deny_setgroups: false,
            joins_container: false,
            hooks: Vec::new(),
        }
    }

    pub(super) fn compile(mut self) -> Result<Plan> {
        self.refuse_unsupported()?;
        self.hooks = HookSet::all(self.spec, self.bundle, self.options.id.as_deref())?;
        let process = required("process", self.spec.process().as_ref())?;
        let linux = required("linux", self.spec.linux().as_ref())?;
        let stdio = [0, 1, 2].map(|stream| self.slot(SlotKind::Stdio(stream)));
        let cgroup = self.enter(linux)?;
        self.name_host()?;
        let console = if self.flags & libc::CLONE_NEWNS as u64 != 0 {
            self.mount_all(linux)?;
            Some(self.place(Path::new("/dev/console"))?)
        } else {
            self.refuse_mounts(linux)?;
            self.set_sysctls(linux)?;
            self.run_creation_hooks();
            None
        };
        self.set_execution_domain(linux)?;
        self.open_terminal(process, console)?;
        for mount in std::mem::take(&mut self.unfinished) {
            self.steps.push(Step::Finish { mount });
        }
        let filter = self.filter()?;
        let restriction = self.restriction()?;
        self.confine(process, stdio, filter, restriction)?;
        Ok(self.finish(process, cgroup))
    }

    /// A process that joins a container: no namespace, root or mount of its own.
    pub(super) fn compile_exec(
        mut self,
        confinement: &Confinement,
        namespaces: u32,
    ) -> Result<Plan> {
        self.refuse_unsupported()?;
        let process = required("process", self.spec.process().as_ref())?;
        self.deny_setgroups = confinement.deny_setgroups;
        self.joins_container = true;
        let stdio = [0, 1, 2].map(|stream| self.slot(SlotKind::Stdio(stream)));
        let of = self.slot(SlotKind::Target);
        let mut enter = |namespaces| self.born_in.push(Birthplace { of, namespaces });
        if namespaces & libc::CLONE_NEWUSER.unsigned_abs() != 0 {
            // All at once: whoever enters the user namespace first may have no right to the others.
            enter(namespaces);
            self.steps.push(Step::BecomeRoot);
        } else {
            let of_children = libc::CLONE_NEWPID.unsigned_abs();
            if namespaces & of_children != 0 {
                enter(of_children);
            }
            let flag = namespaces & !of_children;
            if flag != 0 {
                let namespace = of;
                self.steps.push(Step::JoinNamespace { namespace, flag });
            }
        }
        let cgroup = self.enter_session();
        self.steps.extend(confinement.keyring.clone());
        self.steps.extend(confinement.personality.clone());
        let [before, after] = affinity(process)?;
        self.affinity = before;
        self.steps.extend(after.map(Step::SetAffinity));
        self.open_terminal(process, None)?;
        let confinement = confinement.clone();
        self.confine(process, stdio, confinement.filter, confinement.restriction)?;
        Ok(self.finish(process, cgroup))
    }

    fn finish(self, process: &Process, cgroup: Option<Slot>) -> Plan {
        Plan {
            flags: self.flags,
            born_in: self.born_in,
            cgroup,
            id_maps: self.id_maps,
            affinity: self.affinity,
            oom_score_adj: process.oom_score_adj(),
            slots: self.slots,
            mapped: self.mapped,
            kept: self.keeps,
            steps: self.steps,
            hooks: self.hooks,
        }
    }

    fn next_keep(&mut self) -> Keep {
        let keep = Keep(self.keeps);
        self.keeps = self.keeps.saturating_add(1);
        keep
    }

    pub(super) fn slot(&mut self, kind: SlotKind) -> Slot {
        self.slots.push(kind);
        Slot(u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX))
    }

    /// The hooks of a container that is being created, once there is a root to see and before it is
    /// the only one.
    pub(super) fn run_creation_hooks(&mut self) {
        if self.has_hooks(Stage::Prestart) || self.has_hooks(Stage::CreateRuntime) {
            self.steps.push(Step::AwaitHooks);
        }
        self.run_hooks(Stage::CreateContainer);
    }

    pub(super) fn run_hooks(&mut self, stage: Stage) {
        if self.has_hooks(stage) {
            self.steps.push(Step::RunHooks(stage));
        }
    }

    fn has_hooks(&self, stage: Stage) -> bool {
        self.hooks.iter().any(|set| set.stage == stage)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let fields = [
            ("vm", self.spec.vm().is_some()),
            (
                "linux.intelRdt",
                linux.is_some_and(|l| l.intel_rdt().is_some()),
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
}

pub(super) fn is_mapped(maps: &[LinuxIdMapping], id: u32) -> bool {
    maps.iter()
        .any(|map| id >= map.container_id() && id - map.container_id() < map.size())
}

fn required<'s, T>(field: &str, value: Option<&'s T>) -> Result<&'s T> {
    value.ok_or_else(|| Error::invalid("InvalidSpec", format!("the spec has no {field}")))
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
