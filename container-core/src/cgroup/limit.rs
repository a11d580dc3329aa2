//! Setting limits, at first and while processes run.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxMemory, LinuxResources};
use rustix::fs::OFlags;

use super::layout::{Layout, Version};
use super::setting::{self, Absent, Setting, Settings};
use super::{Cgroup, device, file, v1};
use crate::{Error, ErrorKind, Result};

impl Cgroup {
    /// Changes the limits that `resources` name, while processes run; all others stay as they are.
    ///
    /// Device rules are the exception: a list of them takes the place of the one before. What stays
    /// allowed can be used all the time. Swap alone is set beside the limit of memory that there is.
    ///
    /// # Errors
    /// As [`create`](Self::create), `SwapBelowMemory` also for more memory than the limit of memory with
    /// swap that stays; with `memory.checkBeforeUpdate`, `Busy` (`LimitBelowUsage`) for less memory than is
    /// in use. What was set before the failure stays set.
    ///
    /// # Privileges
    /// As [`create`](Self::create).
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let layout = Layout::host()?;
        let mut resources = resources.clone();
        let mut keeps_swap = false;
        if let Some(memory) = resources.memory_mut() {
            keeps_swap = self.relate(memory)?;
        }
        let mut settings = setting::collect(layout, &resources)?;
        let by_name = resources.unified().as_ref();
        let is_named = |file: &str| by_name.is_some_and(|files| files.contains_key(file));
        for part in settings.iter_mut().filter(|_| keeps_swap) {
            let is_swap = |file: &str| file == v1::MEMORY_AND_SWAP || file == v1::SWAP_MAX;
            part.list
                .retain(|it| !is_swap(&it.file) || is_named(&it.file));
        }
        for group in &self.groups {
            group.hand_down(&self.path, &settings)?;
        }
        self.limit(layout, &settings)?;
        self.limit_devices(&resources, true)
    }

    /// Checks new limits of memory against what is, and adds what they relate to. Tells whether the limit
    /// of swap is to stay.
    fn relate(&self, memory: &mut LinuxMemory) -> Result<bool> {
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = memory.swap().filter(|swap| *swap != 0);
        if limit.is_none() && swap.is_some_and(|swap| swap > 0) {
            let limit = self
                .memory_limit()?
                .and_then(|limit| i64::try_from(limit).ok());
            memory.set_limit(limit);
        }
        let Some(limit) = limit.and_then(|limit| u64::try_from(limit).ok()) else {
            return Ok(false);
        };
        let Some((version, group)) = self.group_with("memory") else {
            return Ok(false);
        };
        let (usage, total) = match version {
            Version::V1 => ("memory.usage_in_bytes", Some(v1::MEMORY_AND_SWAP)),
            Version::V2 => ("memory.current", None),
        };
        if memory.check_before_update() == Some(true) {
            let usage = file::limit(&file::read(&group.join(usage))?).unwrap_or(0);
            if usage > limit {
                let what = format!("limit memory to {limit} bytes while {usage} are in use");
                return Err(Error::new(ErrorKind::Busy, "LimitBelowUsage", what));
            }
        }
        let total = total
            .map(|name| file::read_if_there(&group.join(name)))
            .transpose()?;
        let total = total.flatten().as_deref().and_then(file::limit);
        if let Some(total) = total.filter(|total| swap.is_none() && *total < limit) {
            let what =
                format!("limit memory to {limit} while memory with swap is limited to {total}");
            return Err(Error::invalid("SwapBelowMemory", what));
        }
        Ok(swap.is_none())
    }

    pub(super) fn limit(&self, layout: &Layout, settings: &[Settings]) -> Result<()> {
        for part in settings {
            let hierarchy = layout.with(part.version, &part.controller);
            let base = match hierarchy {
                Some(hierarchy) => hierarchy.base.as_ref(),
                // Files that belong to no controller.
                None => layout
                    .unified()
                    .and_then(|hierarchy| hierarchy.base.as_ref()),
            };
            let Some(base) = base else { continue };
            let directory = base.join(self.path.as_str());
            let mut files = Files::of(&directory);
            let mut later = Vec::new();
            for setting in &part.list {
                match files.set(setting) {
                    // Limits that bound each other (memory, memory with swap; quota, period) have to be
                    // set in an order that depends on what was set before.
                    Err(error) if file::is_invalid(&error) => later.push(setting),
                    outcome => outcome?,
                }
            }
            later
                .into_iter()
                .try_for_each(|setting| files.set(setting))?;
        }
        Ok(())
    }

    pub(super) fn limit_devices(&self, resources: &LinuxResources, live: bool) -> Result<()> {
        let Some(rules) = resources.devices().as_ref().filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        match (self.group_with("devices"), self.unified()) {
            (Some((_, directory)), _) => {
                let settings = if live {
                    let list = file::read(&directory.join("devices.list"))?;
                    v1::device_changes(rules, &list)?
                } else {
                    v1::devices(rules)?
                };
                let mut files = Files::of(directory);
                settings.iter().try_for_each(|setting| files.set(setting))
            }
            (None, Some(group)) => {
                let directory = file::open(&group.directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
                device::attach(directory.as_fd(), rules)
            }
            (None, None) => {
                let what = "limit linux.resources.devices: no group of the devices controller may \
                            be changed by this user";
                let kind = ErrorKind::PermissionDenied;
                Err(Error::new(kind, "ControllerUnavailable", what))
            }
        }
    }
}

/// The files of one group, of which the last stays open: rules come many for one file.
struct Files<'g> {
    group: &'g Path,
    open: Option<(PathBuf, OwnedFd)>,
}

impl<'g> Files<'g> {
    fn of(group: &'g Path) -> Self {
        Self { group, open: None }
    }

    fn set(&mut self, setting: &Setting) -> Result<()> {
        let Err(error) = self.write(&setting.file, &setting.value) else {
            return Ok(());
        };
        match (&setting.absent, error.kind()) {
            (Absent::Skip, ErrorKind::NotFound) => Ok(()),
            (Absent::Use(other), ErrorKind::NotFound) => self.set(other),
            // The controller is there, as its group is; this kernel's lacks the file, or what it was for.
            (_, ErrorKind::NotFound | ErrorKind::Unsupported) if self.group.exists() => {
                let what = format!("set {}, which this kernel does not have", setting.file);
                let kind = ErrorKind::Unsupported;
                Err(Error::new(kind, "ControllerUnavailable", what).with_source(error))
            }
            _ => Err(error),
        }
    }

    fn write(&mut self, name: &str, value: &str) -> Result<()> {
        let path = self.group.join(name);
        let file = match self.open.take() {
            Some((open, file)) if open == path => file,
            _ => file::open(&path, OFlags::WRONLY)?,
        };
        let written = file::write_to(&file, &path, value);
        self.open = Some((path, file));
        written
    }
}
