//! Limits as values for files, by controller and version.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxResources;

use super::layout::{Layout, Version};
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
    pub(super) controller: &'static str,
    pub(super) list: Vec<Setting>,
}

/// Whether anything is limited.
pub(super) fn is_empty(resources: &LinuxResources) -> bool {
    // What cannot be put into settings was asked for all the same.
    let nothing = |list: Result<Vec<Setting>>| list.is_ok_and(|list| list.is_empty());
    resources.devices().iter().flatten().next().is_none()
        && refuse_unknown(resources).is_ok()
        && SUBJECTS
            .iter()
            .all(|subject| nothing((subject.v1)(resources)))
}

/// All that `resources` ask for, for the controllers that this host has; without the devices, which
/// version 2 has no file for.
pub(super) fn collect(layout: &Layout, resources: &LinuxResources) -> Result<Vec<Settings>> {
    refuse_unknown(resources)?;
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
        let hierarchy = layout.with(version, controller);
        if hierarchy.is_none_or(|hierarchy| hierarchy.base.is_none()) {
            let what = format!(
                "limit {}: no group of the {controller} controller",
                subject.field
            );
            let what = format!("{what} may be changed by this user");
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "ControllerUnavailable",
                what,
            ));
        }
        all.push(Settings {
            version,
            controller,
            list,
        });
    }
    Ok(all)
}

/// The controllers that `settings` need in the unified hierarchy.
pub(super) fn v2_controllers(settings: &[Settings]) -> BTreeSet<&str> {
    let unified = settings.iter().filter(|it| it.version == Version::V2);
    unified.map(|it| it.controller).collect()
}

fn missing(subject: &Subject, layout: &Layout) -> Error {
    let name = if layout.has(Version::V1) {
        subject.v1_name
    } else {
        subject.v2_name
    };
    let what = format!(
        "limit {}: this host has no {name} controller",
        subject.field
    );
    Error::new(ErrorKind::Unsupported, "ControllerUnavailable", what)
}

/// What is not in [`SUBJECTS`] is refused rather than passed over.
fn refuse_unknown(resources: &LinuxResources) -> Result<()> {
    let refuse = |asked: bool, field: &str| {
        if asked {
            let what = format!("limit linux.resources.{field}, which is not supported");
            return Err(Error::new(
                ErrorKind::Unsupported,
                "ControllerUnavailable",
                what,
            ));
        }
        Ok(())
    };
    refuse(resources.network().is_some(), "network")?;
    refuse(
        resources.rdma().as_ref().is_some_and(|map| !map.is_empty()),
        "rdma",
    )?;
    refuse(
        resources
            .unified()
            .as_ref()
            .is_some_and(|map| !map.is_empty()),
        "unified",
    )
}

/// One part of the resources, and how each version takes it.
struct Subject {
    field: &'static str,
    v1_name: &'static str,
    v1: fn(&LinuxResources) -> Result<Vec<Setting>>,
    v2_name: &'static str,
    v2: fn(&LinuxResources) -> Result<Vec<Setting>>,
}

const SUBJECTS: [Subject; 6] = [
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
];
