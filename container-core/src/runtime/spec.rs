//! Specs from files, and one to begin with.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capability, LinuxDeviceCgroupBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxResources, Mount, Process, Spec,
};
use serde_json::Value;

use crate::cgroup::{self, Versions};
use crate::defaults;
use crate::plan::mounts::drop_foreign_options;
use crate::{Error, Result, capability};

/// The version of the runtime specification that this crate follows.
pub const OCI_VERSION: &str = "1.2.1";

/// A spec from a file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The spec.
    pub spec: Spec,
    /// What the file asks for and the spec does not have, in words.
    pub warnings: Vec<String>,
}

/// Reads a spec, usually the `config.json` of a bundle.
///
/// Of several values of a variable the last counts, as other runtimes have it, and an empty `HOME` is
/// none. Two things that files have and that mean nothing are left out, with a warning: capabilities that
/// nobody knows (runtime-spec `config.md#linux-process`), and options of file systems on bind mounts.
///
/// # Errors
/// `Os` if the file cannot be read; `InvalidInput` (`InvalidSpec`) if it is no spec, or longer than
/// 16 MiB.
pub fn load_spec(path: &Path) -> Result<Loaded> {
    let failed = |error| Error::os(format!("read {path:?}"), error);
    let invalid = |what: String| Error::invalid("InvalidSpec", what);
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SPEC + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_SPEC {
        return Err(invalid(format!("{path:?} is longer than {MAX_SPEC} bytes")));
    }
    let unreadable =
        |error: serde_json::Error| invalid(format!("parse {path:?}")).with_source(error);
    let mut document: Value = serde_json::from_slice(&text).map_err(unreadable)?;
    let mut warnings = drop_unknown_capabilities(&mut document["process"]);
    let mut spec: Spec = serde_json::from_value(document).map_err(unreadable)?;
    spec.process_mut().iter_mut().for_each(settle_environment);
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let place = mount.destination().clone();
        warnings.extend(
            drop_foreign_options(mount).into_iter().map(|option| {
                format!("option {option} of the bind mount at {place:?} means nothing")
            }),
        );
    }
    Ok(Loaded { spec, warnings })
}

/// Reads a process from JSON, as [`load_spec`] does.
///
/// # Errors
/// `InvalidInput` (`InvalidSpec`) if it is none.
pub fn parse_process(text: &[u8]) -> Result<(Process, Vec<String>)> {
    let unreadable = |error: serde_json::Error| {
        Error::invalid("InvalidSpec", "parse a process").with_source(error)
    };
    let mut document = serde_json::from_slice(text).map_err(unreadable)?;
    let warnings = drop_unknown_capabilities(&mut document);
    let mut process = serde_json::from_value(document).map_err(unreadable)?;
    settle_environment(&mut process);
    Ok((process, warnings))
}

/// Keeps the last value of each variable, where the first was.
fn settle_environment(process: &mut Process) {
    fn name(entry: &str) -> &str {
        entry.split_once('=').map_or(entry, |(name, _)| name)
    }
    let mut settled: Vec<String> = Vec::new();
    for entry in process.env().iter().flatten() {
        match settled.iter_mut().find(|it| name(it) == name(entry)) {
            Some(before) => before.clone_from(entry),
            None => settled.push(entry.clone()),
        }
    }
    settled.retain(|entry| entry != "HOME=");
    process.set_env(Some(settled));
}

fn drop_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut unknown = BTreeSet::new();
    let sets = process
        .get_mut("capabilities")
        .and_then(Value::as_object_mut);
    let sets = sets.into_iter().flat_map(|sets| sets.values_mut());
    for set in sets.filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let known = name
                .as_str()
                .is_none_or(|name| capability::parse(name).is_ok());
            if !known {
                unknown.insert(name.to_string());
            }
            known
        });
    }
    let warning = |name| format!("nobody knows the capability {name}");
    unknown.into_iter().map(warning).collect()
}

/// The spec of a shell in `rootfs` on a terminal, to begin with: namespaces of its own, few
/// capabilities, no new privileges, a root that is not written to.
#[must_use]
pub fn default_spec() -> Spec {
    let mut spec = defaults::default_spec();
    spec.set_version(OCI_VERSION.to_owned());
    spec.set_hostname(Some("container".to_owned()));
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path("rootfs".into());
    root.set_readonly(Some(true));
    spec.set_root(Some(root));
    defaults::set_capabilities(&mut spec, capabilities());
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_terminal(Some(true));
    process.set_args(Some(vec!["sh".to_owned()]));
    process.set_env(Some(vec![
        format!("PATH={SEARCH_PATH}"),
        "TERM=xterm".to_owned(),
    ]));
    process.set_no_new_privileges(Some(true));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut resources = LinuxResources::default();
    let nothing = LinuxDeviceCgroupBuilder::default()
        .allow(false)
        .access("rwm".to_owned());
    resources.set_devices(nothing.build().ok().map(|rule| vec![rule]));
    linux.set_resources(Some(resources));
    linux.set_sysctl(None);
    linux.set_seccomp(None);
    // Version 1 has no tree of the container's own to show without the host's.
    if !matches!(cgroup::version(), Ok(Versions::V2)) {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Cgroup);
        linux.set_namespaces(Some(namespaces));
    }
    spec.set_linux(Some(linux));
    spec
}

/// The same for a plain user: in a user namespace in which root is this user, on the host's network,
/// and without limits.
#[must_use]
pub fn rootless_spec() -> Spec {
    let mut spec = default_spec();
    let mounts = spec.mounts().iter().flatten().map(for_plain_user).collect();
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    let mut own = LinuxNamespace::default();
    own.set_typ(LinuxNamespaceType::User);
    own.set_path(None);
    namespaces.push(own);
    linux.set_namespaces(Some(namespaces));
    linux.set_uid_mappings(Some(map_root_to(rustix::process::geteuid().as_raw())));
    linux.set_gid_mappings(Some(map_root_to(rustix::process::getegid().as_raw())));
    linux.set_resources(None);
    spec.set_linux(Some(linux));
    spec
}

/// A plain user may mount a sysfs only with a network namespace, and give nothing to other ids.
fn for_plain_user(mount: &Mount) -> Mount {
    let mut mount = mount.clone();
    if mount.destination() == Path::new("/sys") {
        mount.set_typ(Some("none".to_owned()));
        mount.set_source(Some(PathBuf::from("/sys")));
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
        mount.set_options(Some(options.map(str::to_owned).into()));
        return mount;
    }
    let mut options = mount.options().clone().unwrap_or_default();
    options.retain(|option| !option.starts_with("uid=") && !option.starts_with("gid="));
    mount.set_options(Some(options));
    mount
}

fn map_root_to(id: u32) -> Vec<LinuxIdMapping> {
    let map = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(id)
        .size(1_u32);
    map.build().into_iter().collect()
}

/// To write the audit log, to signal any process, and to listen on low ports.
fn capabilities() -> u64 {
    [
        Capability::AuditWrite,
        Capability::Kill,
        Capability::NetBindService,
    ]
    .into_iter()
    .fold(0, |mask, one| mask | 1 << capability::number(one))
}

const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longer than any spec: seccomp profiles, the longest part, have some tens of kilobytes.
const MAX_SPEC: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_left_out_with_a_warning() {
        let text = br#"{"cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": ["CAP_KILL", "CAP_NONE"]},
            "env": ["A=1", "HOME=", "B=2", "A=3=4"]}"#;
        let (process, warnings) = parse_process(text).unwrap();
        assert_eq!(warnings, ["nobody knows the capability \"CAP_NONE\""]);
        assert_eq!(process.env().as_deref().unwrap(), ["A=3=4", "B=2"]);
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert!(parse_process(b"{").is_err());
    }
}
