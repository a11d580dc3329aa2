//! Adds the edits of CDI files to a spec.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{
    Hook as SpecHook, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIntelRdt,
    LinuxNetDevice, Mount as SpecMount, Process, Spec,
};
use rustix::fs::FileType;

use super::file::{Edits, Hook, IntelRdt, Mount, Node, invalid};
use crate::{Error, Result};

pub(super) fn apply(edits: &Edits, spec: &mut Spec) -> Result<()> {
    add_environment(edits, spec);
    for node in &edits.device_nodes {
        add_device(node, spec)?;
    }
    for device in &edits.net_devices {
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut inside = LinuxNetDevice::default();
        inside.set_name(Some(device.name.clone()));
        let mut devices: HashMap<_, _> = linux.net_devices().clone().unwrap_or_default();
        devices.insert(device.host_interface_name.clone(), inside);
        linux.set_net_devices(Some(devices));
        spec.set_linux(Some(linux));
    }
    for mount in &edits.mounts {
        add_mount(mount, spec);
    }
    if !edits.mounts.is_empty() {
        sort_mounts(spec);
    }
    for hook in &edits.hooks {
        add_hook(hook, spec)?;
    }
    if let Some(rdt) = &edits.intel_rdt {
        set_cache_allocation(rdt, spec);
    }
    Ok(())
}

/// What lies below another mount comes after it.
fn sort_mounts(spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.sort_by_key(|mount| mount.destination().components().count());
    spec.set_mounts(Some(mounts));
}

fn add_environment(edits: &Edits, spec: &mut Spec) {
    if edits.env.is_empty() && edits.additional_gids.is_empty() {
        return;
    }
    let mut process = spec.process().clone().unwrap_or_else(empty_process);
    let mut variables = process.env().clone().unwrap_or_default();
    for variable in &edits.env {
        let name = |text: &str| text.split('=').next().map(str::to_owned);
        match variables.iter_mut().find(|it| name(it) == name(variable)) {
            Some(there) => there.clone_from(variable),
            None => variables.push(variable.clone()),
        }
    }
    process.set_env(Some(variables));
    let mut user = process.user().clone();
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for group in &edits.additional_gids {
        // To be in root's group is nothing that a device gives.
        if *group != 0 && !groups.contains(group) {
            groups.push(*group);
        }
    }
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups));
        process.set_user(user);
    }
    spec.set_process(Some(process));
}

fn empty_process() -> Process {
    let mut process = Process::default();
    process.set_args(None);
    process.set_env(None);
    process
}

fn add_device(node: &Node, spec: &mut Spec) -> Result<()> {
    let mut device = LinuxDevice::default();
    device.set_path(node.path.clone());
    let (kind, (major, minor)) = number(node)?;
    device.set_typ(kind);
    device.set_major(major);
    device.set_minor(minor);
    device.set_file_mode(node.file_mode);
    // A program of another user than root is to have what it was given.
    let user = spec.process().as_ref().map(|process| process.user());
    let not_root = |id: u32| (id > 0).then_some(id);
    let uid = user.and_then(|user| not_root(user.uid()));
    let gid = user.and_then(|user| not_root(user.gid()));
    device.set_uid(node.uid.or(uid));
    device.set_gid(node.gid.or(gid));
    let mut linux = spec.linux().clone().unwrap_or_default();
    if kind != LinuxDeviceType::P {
        let mut rule = LinuxDeviceCgroup::from(&device);
        let access = node
            .permissions
            .as_deref()
            .filter(|access| !access.is_empty());
        rule.set_access(Some(access.unwrap_or("rwm").to_owned()));
        let mut resources = linux.resources().clone().unwrap_or_default();
        let mut rules = resources.devices().clone().unwrap_or_default();
        rules.push(rule);
        resources.set_devices(Some(rules));
        linux.set_resources(Some(resources));
    }
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|there| there.path() != device.path());
    devices.push(device);
    linux.set_devices(Some(devices));
    spec.set_linux(Some(linux));
    Ok(())
}

/// The type and number of a device, those of the host's node where the file does not say.
fn number(node: &Node) -> Result<(LinuxDeviceType, (i64, i64))> {
    let said = (node.major.unwrap_or(0), node.minor.unwrap_or(0));
    let kind = node.kind.as_deref().filter(|kind| !kind.is_empty());
    if let Some(kind) = kind.filter(|kind| *kind == "p" || said != (0, 0)) {
        let kind = match kind {
            "b" => LinuxDeviceType::B,
            "p" => LinuxDeviceType::P,
            "u" => LinuxDeviceType::U,
            _ => LinuxDeviceType::C,
        };
        return Ok((kind, said));
    }
    let path = node.host_path.as_deref().unwrap_or(&node.path);
    let (found, number) = look_at(path)?;
    if kind.is_some_and(|kind| kind != letter(found) && (kind, found) != ("u", LinuxDeviceType::C))
    {
        return Err(invalid(format!("device {path:?} is of another type")));
    }
    match said {
        (0, 0) => Ok((found, number)),
        _ => Ok((found, said)),
    }
}

fn letter(kind: LinuxDeviceType) -> &'static str {
    match kind {
        LinuxDeviceType::B => "b",
        LinuxDeviceType::P => "p",
        _ => "c",
    }
}

fn look_at(path: &Path) -> Result<(LinuxDeviceType, (i64, i64))> {
    let status = rustix::fs::stat(path)
        .map_err(|errno| Error::os(format!("look at device {path:?}"), errno))?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        FileType::Fifo => LinuxDeviceType::P,
        _ => return Err(invalid(format!("{path:?} is no device"))),
    };
    let number = status.st_rdev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok((kind, (i64::from(major), i64::from(minor))))
}

fn add_mount(mount: &Mount, spec: &mut Spec) {
    let mut added = SpecMount::default();
    added.set_source(Some(mount.host_path.clone()));
    added.set_destination(mount.container_path.clone());
    added.set_typ(mount.kind.clone().or_else(|| Some("bind".into())));
    added.set_options(Some(mount.options.clone()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.retain(|there| there.destination() != added.destination());
    mounts.push(added);
    spec.set_mounts(Some(mounts));
}

fn add_hook(hook: &Hook, spec: &mut Spec) -> Result<()> {
    let mut added = SpecHook::default();
    added.set_path(hook.path.clone());
    let list = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    added.set_args(list(&hook.args));
    added.set_env(list(&hook.env));
    added.set_timeout(hook.timeout);
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let place = match hook.hook_name.as_str() {
        "prestart" => hooks.prestart_mut(),
        "createRuntime" => hooks.create_runtime_mut(),
        "createContainer" => hooks.create_container_mut(),
        "startContainer" => hooks.start_container_mut(),
        "poststart" => hooks.poststart_mut(),
        "poststop" => hooks.poststop_mut(),
        name => return Err(invalid(format!("hook {name:?} is none"))),
    };
    place.get_or_insert_default().push(added);
    spec.set_hooks(Some(hooks));
    Ok(())
}

fn set_cache_allocation(rdt: &IntelRdt, spec: &mut Spec) {
    let mut allocation = LinuxIntelRdt::default();
    allocation.set_clos_id(rdt.clos_id.clone());
    allocation.set_l3_cache_schema(rdt.l3_cache_schema.clone());
    allocation.set_mem_bw_schema(rdt.mem_bw_schema.clone());
    let asked = |flag: bool| flag.then_some(true);
    allocation.set_enable_cmt(asked(rdt.enable_cmt));
    allocation.set_enable_mbm(asked(rdt.enable_mbm));
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_intel_rdt(Some(allocation));
    spec.set_linux(Some(linux));
}
