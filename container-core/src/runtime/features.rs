//! What this runtime can do, in the document that engines ask for.

use oci_spec::runtime::{Cgroup, Features, LinuxFeature, LinuxNamespaceType, Seccomp};

use super::OCI_VERSION;
use crate::capability;

/// What this crate can do, wherever the kernel does: the document of `features.md` of the runtime
/// specification.
#[must_use]
pub fn features() -> Features {
    let mut linux = LinuxFeature::default();
    linux.set_namespaces(Some(NAMESPACES.into()));
    let mut capabilities: Vec<_> = capability::from_mask(u64::MAX)
        .into_iter()
        .map(|capability| format!("CAP_{capability}"))
        .collect();
    capabilities.sort_unstable();
    linux.set_capabilities(Some(capabilities));
    linux.set_cgroup(Some(cgroup()));
    linux.set_seccomp(Some(seccomp()));
    let mut features = Features::default();
    features.set_oci_version_min("1.0.0".to_owned());
    features.set_oci_version_max(OCI_VERSION.to_owned());
    features.set_linux(Some(linux));
    features
}

fn cgroup() -> Cgroup {
    let mut cgroup = Cgroup::default();
    cgroup.set_v1(Some(true));
    cgroup.set_v2(Some(true));
    cgroup.set_systemd(Some(false));
    cgroup.set_systemd_user(Some(false));
    cgroup
}

fn seccomp() -> Seccomp {
    let mut seccomp = Seccomp::default();
    seccomp.set_enabled(Some(true));
    seccomp
}

const NAMESPACES: [LinuxNamespaceType; 8] = [
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Network,
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Time,
    LinuxNamespaceType::User,
    LinuxNamespaceType::Uts,
];
