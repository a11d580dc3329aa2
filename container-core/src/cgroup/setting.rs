//! Limits as values for files, by controller and version.

use std::collections::{BTreeMap, BTreeSet};

use oci_spec::runtime::LinuxResources;

use super::layout::{Hierarchy, Layout, Version};
use super::{v1, v2};
use crate::{Error, ErrorKind, Result};

/// A value for a file of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) file: String,
    pub(super) value: String,
    /// What to do where the group has no such file.
    pub(super) absent: Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    Fail,
    Skip,
    Use(Box<Setting>),
}

impl Setting {
    pub(super) fn new(file: impl Into<String>, value: impl ToString) -> Self {
        Self {
            file: file.into(),
            value: value.to_string(),
            absent: Absent::Fail,
        }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            absent: Absent::Use(Box::new(other)),
            ..self
        }
    }

    pub(super) fn or_skip(self) -> Self {
        Self {
            absent: Absent::Skip,
            ..self
        }
    }
}

/// The settings for one controller where it is.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) version: Version,
    pub(super) controller: String,
    pub(super) list: Vec<Setting>,
}

/// Whether anything is limited.
pub(super) fn is_empty(resources: &LinuxResources) -> bool {
    // What cannot be put into settings was asked for all the same.
    let nothing = |list: Result<Vec<Setting>>| list.is_ok_and(|list| list.is_empty());
    resources.devices().iter().flatten().next().is_none()
        && resources.unified().iter().flatten().next().is_none()
        && SUBJECTS
            .iter()
            .all(|subject| nothing((subject.v1)(resources)))
}

/// All that `resources` ask for, for the controllers that this host has; without the devices, which
/// version 2 has no file for.
pub(super) fn collect(layout: &Layout, resources: &LinuxResources) -> Result<Vec<Settings>> {
    let mut all = Vec::new();
    for subject in &SUBJECTS {
        let asked = (subject.v1)(resources)?;
        if asked.is_empty() {
            continue;
        }
        let (version, controller, list) = if layout.with(Version::V1, subject.v1_name).is_some() {
            (Version::V1, subject.v1_name, asked)
        } else if layout.with(Version::V2, subject.v2_name).is_some() {
            (Version::V2, subject.v2_name, (subject.v2)(resources)?)
        } else {
            return Err(missing(subject, layout));
        };
        check_base(layout.with(version, controller), subject.field, controller)?;
        all.push(Settings {
            version,
            controller: controller.to_owned(),
            list,
        });
    }
    collect_unified(layout, resources, &mut all)?;
    Ok(all)
}

/// Values for files of version 2 by name. They are set last: where another field is for the same file,
/// the value by name holds.
fn collect_unified(
    layout: &Layout,
    resources: &LinuxResources,
    all: &mut Vec<Settings>,
) -> Result<()> {
    const FIELD: &str = "linux.resources.unified";
    let files: BTreeMap<_, _> = resources.unified().iter().flatten().collect();
    for (file, value) in files {
        let Some((controller, rest)) = file.split_once('.').filter(|_| !file.contains('/')) else {
            let what = format!("limit {FIELD}: {file:?} is no name of a file of a group");
            return Err(Error::invalid("InvalidLimit", what));
        };
        // Those of `cgroup` every group has; but what moves, stops or kills processes is no limit.
        let is_general = controller == "cgroup" && rest.starts_with("max.");
        let hierarchy = match is_general {
            true => layout.unified(),
            false => layout.with(Version::V2, controller),
        };
        if hierarchy.is_none() {
            let what =
                format!("limit {FIELD}: {file:?} needs controller {controller} in version 2");
            return Err(Error::new(
                ErrorKind::Unsupported,
                "ControllerUnavailable",
                what,
            ));
        }
        check_base(hierarchy, FIELD, controller)?;
        let lines = value.lines().filter(|line| !line.is_empty());
        all.push(Settings {
            version: Version::V2,
            controller: if is_general {
                String::new()
            } else {
                controller.to_owned()
            },
            list: lines.map(|line| Setting::new(file, line)).collect(),
        });
    }
    Ok(())
}

fn check_base(hierarchy: Option<&Hierarchy>, field: &str, controller: &str) -> Result<()> {
    if hierarchy.is_some_and(|hierarchy| hierarchy.base.is_some()) {
        return Ok(());
    }
    let what = format!(
        "limit {field}: no group of the {controller} controller may be changed by this user"
    );
    Err(Error::new(
        ErrorKind::PermissionDenied,
        "ControllerUnavailable",
        what,
    ))
}

/// The controllers that `settings` need in the unified hierarchy.
pub(super) fn v2_controllers(settings: &[Settings]) -> BTreeSet<&str> {
    let unified = settings.iter().filter(|it| it.version == Version::V2);
    unified
        .map(|it| it.controller.as_str())
        .filter(|it| !it.is_empty())
        .collect()
}

fn missing(subject: &Subject, layout: &Layout) -> Error {
    let what = match (layout.has(Version::V1), subject.v2_name) {
        (true, _) => format!("this host has no {} controller", subject.v1_name),
        (false, NONE) => format!("version 2 has no {} controller", subject.v1_name),
        (false, name) => format!("this host has no {name} controller"),
    };
    let what = format!("limit {}: {what}", subject.field);
    Error::new(ErrorKind::Unsupported, "ControllerUnavailable", what)
}

/// One part of the resources, and how each version takes it.
struct Subject {
    field: &'static str,
    v1_name: &'static str,
    v1: fn(&LinuxResources) -> Result<Vec<Setting>>,
    v2_name: &'static str,
    v2: fn(&LinuxResources) -> Result<Vec<Setting>>,
}

const SUBJECTS: [Subject; 9] = [
    Subject {
        field: "linux.resources.memory",
        v1_name: "memory",
        v1: v1::memory,
        v2_name: "memory",
        v2: v2::memory,
    },
    Subject {
        field: "linux.resources.cpu",
        v1_name: "cpu",
        v1: v1::cpu,
        v2_name: "cpu",
        v2: v2::cpu,
    },
    Subject {
        field: "linux.resources.cpu.cpus and mems",
        v1_name: "cpuset",
        v1: v1::cpuset,
        v2_name: "cpuset",
        v2: v1::cpuset,
    },
    Subject {
        field: "linux.resources.pids",
        v1_name: "pids",
        v1: v1::pids,
        v2_name: "pids",
        v2: v1::pids,
    },
    Subject {
        field: "linux.resources.blockIO",
        v1_name: "blkio",
        v1: v1::block_io,
        v2_name: "io",
        v2: v2::block_io,
    },
    Subject {
        field: "linux.resources.hugepageLimits",
        v1_name: "hugetlb",
        v1: v1::huge_pages,
        v2_name: "hugetlb",
        v2: v2::huge_pages,
    },
    Subject {
        field: "linux.resources.network.classID",
        v1_name: "net_cls",
        v1: v1::network_class,
        v2_name: NONE,
        v2: v1::network_class,
    },
    Subject {
        field: "linux.resources.network.priorities",
        v1_name: "net_prio",
        v1: v1::network_priorities,
        v2_name: NONE,
        v2: v1::network_priorities,
    },
    Subject {
        field: "linux.resources.rdma",
        v1_name: "rdma",
        v1: v1::rdma,
        v2_name: "rdma",
        v2: v1::rdma,
    },
];

/// No controller of version 2 has this name.
const NONE: &str = "";
