//! Compiles an OCI spec to a plan.

use std::ffi::CString;
use std::fmt::Debug;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Spec};

use super::step::{Keep, Slot, SlotKind, Step};
use super::{IdMaps, Plan, PlanOptions};
use crate::{Error, ErrorKind, Result, sys};

mod process;
mod rootfs;

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
