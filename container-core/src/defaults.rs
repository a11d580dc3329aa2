//! The spec of a container that nobody said anything about: at least as strict as Docker's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{
    LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, Spec,
};

use crate::capability;
use crate::seccomp::{self, Host};

/// How many processes and threads a container may have, so that none starves the host.
pub const PIDS_LIMIT: i64 = 4096;

/// Capabilities that [`hardened`] takes away: to write the audit log, to make devices, and to send
/// raw packets.
const NOT_HARDENED: [&str; 3] = ["AUDIT_WRITE", "MKNOD", "NET_RAW"];

/// Files of the kernel that a container must not read.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/proc/pressure",
];

/// Files of the kernel that a container must not write.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Devices that a container may use: kind, major and minor number (`None`: any), access.
const DEVICES: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 11] = [
    // Nodes may be made, but not opened.
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"), // console
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pts/*
];

/// Mounts: where, which file system, options.
const MOUNTS: [(&str, &str, &[&str]); 7] = [
    ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    (
        "/dev",
        "tmpfs",
        &["nosuid", "strictatime", "mode=755", "size=65536k"],
    ),
    (
        "/dev/pts",
        "devpts",
        &[
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ],
    ),
    (
        "/dev/shm",
        "tmpfs",
        &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    ),
    ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    (
        "/sys/fs/cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "ro"],
    ),
];

/// A spec with everything but a command: namespaces of its own, Docker's capabilities, the default
/// filter, mounts, devices and masks, and a limit of processes.
///
/// It is put together once: a program that starts many containers would otherwise spend more time on
/// that than on some of the system calls of a start.
#[must_use]
pub fn default_spec() -> Spec {
    static SPEC: OnceLock<Spec> = OnceLock::new();
    SPEC.get_or_init(make_default_spec).clone()
}

fn make_default_spec() -> Spec {
    let mut spec = Spec::default();
    spec.set_hostname(None);
    spec.set_mounts(Some(
        MOUNTS
            .map(|(target, kind, options)| mount(target, kind, options))
            .into(),
    ));
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(None);
    process.set_env(None);
    process.set_rlimits(None);
    process.set_no_new_privileges(Some(false));
    process.set_capabilities(Some(capabilities(capability::DEFAULT)));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_namespaces(Some(
        [
            LinuxNamespaceType::Pid,
            LinuxNamespaceType::Network,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Uts,
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Cgroup,
        ]
        .map(namespace)
        .into(),
    ));
    linux.set_masked_paths(Some(masked_paths()));
    linux.set_readonly_paths(Some(READ_ONLY.map(str::to_owned).into()));
    // Ping without a capability, and low ports without root: harmless in a network of one's own.
    linux.set_sysctl(Some(HashMap::from([
        (
            "net.ipv4.ping_group_range".to_owned(),
            "0 2147483647".to_owned(),
        ),
        (
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "0".to_owned(),
        ),
    ])));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules()));
    let mut pids = LinuxPids::default();
    pids.set_limit(PIDS_LIMIT);
    resources.set_pids(Some(pids));
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    set_capabilities(&mut spec, capability::DEFAULT);
    spec
}

/// Gives the process the capabilities of `mask`, and the default filter that fits them: what a
/// capability is needed for is allowed to those who have it.
pub fn set_capabilities(spec: &mut Spec, mask: u64) {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_capabilities(Some(capabilities(mask)));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let filter = seccomp::default_profile().expand(&Host::current(mask));
    linux.set_seccomp(Some(
        filter.expect("the default profile is well-formed, as a test shows"),
    ));
    spec.set_linux(Some(linux));
}

/// Makes a spec stricter: no new privileges, and without AUDIT_WRITE, MKNOD and NET_RAW.
///
/// This breaks programs that gain privileges when they are executed, such as sudo, su, and ping where
/// it has file capabilities; sshd, which writes the audit log; and debootstrap, which makes devices.
pub fn hardened(spec: &mut Spec) {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_no_new_privileges(Some(true));
    let sets = process.capabilities().clone();
    spec.set_process(Some(process));
    let bounding = sets.as_ref().and_then(|sets| sets.bounding().as_ref());
    let mask = bounding.map_or(0, capability::mask);
    let nothing: [&str; 0] = [];
    let less = capability::adjust(mask, &nothing, &NOT_HARDENED);
    set_capabilities(spec, less.unwrap_or(0));
}

fn capabilities(mask: u64) -> LinuxCapabilities {
    let set = capability::from_mask(mask);
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(
            Vec::new()
                .into_iter()
                .collect::<oci_spec::runtime::Capabilities>(),
        )
        .ambient(
            Vec::new()
                .into_iter()
                .collect::<oci_spec::runtime::Capabilities>(),
        )
        .build()
        .expect("no field of capabilities is required")
}

/// The masked paths, with the thermal counters of every processor.
fn masked_paths() -> Vec<String> {
    let mut paths: Vec<_> = MASKED.map(str::to_owned).into();
    let processors = std::fs::read_dir("/sys/devices/system/cpu")
        .into_iter()
        .flatten()
        .flatten();
    let mut counters: Vec<_> = processors
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    counters.sort();
    paths.extend(counters);
    paths
}

fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace.set_path(None);
    namespace
}

fn mount(target: &str, kind: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(Path::new(target).to_owned());
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(PathBuf::from(kind)));
    mount.set_options(Some(
        options.iter().map(|option| (*option).to_owned()).collect(),
    ));
    mount
}

/// Everything is denied but what is listed.
fn device_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![device_rule(false, LinuxDeviceType::A, None, None, "rwm")];
    rules.extend(allowed_devices());
    rules
}

/// The devices that every container may use.
pub(crate) fn allowed_devices() -> impl Iterator<Item = LinuxDeviceCgroup> {
    DEVICES
        .into_iter()
        .map(|(kind, major, minor, access)| device_rule(true, kind, major, minor, access))
}

fn device_rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build().expect("what is required is given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_dockers_capabilities_and_no_others() {
        let spec = default_spec();
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        let mask = |set: &Option<_>| set.as_ref().map_or(0, capability::mask);
        assert_eq!(mask(sets.bounding()), 0xa804_25fb);
        assert_eq!(mask(sets.effective()), 0xa804_25fb);
        assert_eq!((mask(sets.inheritable()), mask(sets.ambient())), (0, 0));
        assert_eq!(process.no_new_privileges(), Some(false));
    }

    #[test]
    fn hardened_is_stricter() {
        let mut spec = default_spec();
        hardened(&mut spec);
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(
            capability::mask(sets.bounding().as_ref().unwrap()),
            0x8004_05fb
        );
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    #[test]
    fn namespaces_masks_and_filter_are_there() {
        let spec = default_spec();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 6);
        assert!(
            linux
                .masked_paths()
                .as_ref()
                .unwrap()
                .iter()
                .any(|path| path == "/proc/kcore")
        );
        assert!(linux.seccomp().is_some());
    }
}
