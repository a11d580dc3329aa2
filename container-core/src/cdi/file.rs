//! What a CDI file says, and whether it may say that.

use std::path::PathBuf;

use serde::Deserialize;

use super::yaml;
use crate::{Error, Result};

/// The versions whose meaning is known here.
const VERSIONS: [&str; 6] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0"];

/// When hooks can run.
pub(super) const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct File {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde_json::Map<String, serde_json::Value>,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde_json::Map<String, serde_json::Value>,
    pub(super) container_edits: Edits,
}

/// Changes to the spec of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) net_devices: Vec<NetDevice>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<IntelRdt>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: PathBuf,
    pub(super) container_path: PathBuf,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(super) clos_id: Option<String>,
    pub(super) l3_cache_schema: Option<String>,
    pub(super) mem_bw_schema: Option<String>,
    #[serde(default, rename = "enableCMT")]
    pub(super) enable_cmt: bool,
    #[serde(default, rename = "enableMBM")]
    pub(super) enable_mbm: bool,
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let value = match text.trim_start().starts_with('{') {
            true => serde_json::from_str(text).map_err(|error| malformed(&error))?,
            false => yaml::parse(text)?,
        };
        let file: Self = serde_json::from_value(value).map_err(|error| malformed(&error))?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let version = self.cdi_version.trim_start_matches('v');
        if !VERSIONS.contains(&version) {
            return Err(invalid(format!("version {version:?} is not known")));
        }
        check_kind(&self.kind)?;
        if self.devices.is_empty() {
            return Err(invalid("it has no devices"));
        }
        self.container_edits.check()?;
        let mut names: Vec<_> = Vec::with_capacity(self.devices.len());
        for device in &self.devices {
            check_device(&device.name)?;
            device.container_edits.check()?;
            names.push(&device.name);
        }
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(invalid(format!("device {:?} is there twice", pair[0]))),
            None => Ok(()),
        }
    }
}

impl Edits {
    fn check(&self) -> Result<()> {
        let bad_variable = |it: &&String| matches!(it.find('='), None | Some(0));
        if let Some(variable) = self.env.iter().find(bad_variable) {
            return Err(invalid(format!("variable {variable:?} is no NAME=VALUE")));
        }
        for node in &self.device_nodes {
            let path = &node.path;
            if !path.is_absolute() {
                return Err(invalid(format!("device path {path:?} is not absolute")));
            }
            let kind = node.kind.as_deref().unwrap_or_default();
            if !matches!(kind, "" | "b" | "c" | "u" | "p") {
                return Err(invalid(format!("device {path:?} is of type {kind:?}")));
            }
            let access = node.permissions.as_deref().unwrap_or_default();
            if access.chars().any(|letter| !"rwm".contains(letter)) {
                return Err(invalid(format!("device {path:?} has access {access:?}")));
            }
        }
        for device in &self.net_devices {
            if device.host_interface_name.is_empty() || device.name.is_empty() {
                return Err(invalid("a network device has no name"));
            }
        }
        for mount in &self.mounts {
            let (from, to) = (&mount.host_path, &mount.container_path);
            if from.as_os_str().is_empty() || to.as_os_str().is_empty() {
                return Err(invalid(format!("mount of {from:?} at {to:?} lacks a path")));
            }
        }
        for hook in &self.hooks {
            let (name, path) = (hook.hook_name.as_str(), &hook.path);
            if !HOOKS.contains(&name) || path.as_os_str().is_empty() {
                return Err(invalid(format!("hook {name:?} of {path:?} is none")));
            }
        }
        Ok(())
    }
}

/// Checks the form of `VENDOR/CLASS=DEVICE`.
pub(super) fn check_name(name: &str) -> Result<()> {
    let parts = name.split_once('=');
    let checked = parts.map(|(kind, device)| check_kind(kind).and_then(|()| check_device(device)));
    match checked {
        Some(Ok(())) => Ok(()),
        _ => {
            let what = format!("take {name:?} for VENDOR/CLASS=DEVICE");
            Err(Error::invalid("InvalidName", what))
        }
    }
}

fn check_kind(kind: &str) -> Result<()> {
    let starts = |part: &str| part.starts_with(|it: char| it.is_ascii_alphabetic());
    let good = |part: &str, inner: &str| starts(part) && is_name(part, inner);
    match kind.split_once('/') {
        Some((vendor, class)) if good(vendor, "-_.") && good(class, "-_.") => Ok(()),
        _ => Err(invalid(format!("kind {kind:?} is no VENDOR/CLASS"))),
    }
}

fn check_device(name: &str) -> Result<()> {
    match is_name(name, "-_.:") {
        true => Ok(()),
        false => Err(invalid(format!("{name:?} is no name of a device"))),
    }
}

/// Whether a name begins and ends with a letter or digit and has only these, or `inner`, between.
fn is_name(name: &str, inner: &str) -> bool {
    let plain = |it: char| it.is_ascii_alphanumeric();
    name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|it| plain(it) || inner.contains(it))
}

fn malformed(error: &serde_json::Error) -> Error {
    invalid(error.to_string())
}

pub(super) fn invalid(why: impl std::fmt::Display) -> Error {
    Error::invalid("InvalidCdi", format!("understand a CDI file: {why}"))
}
