//! Control groups, version 1, version 2, and both at once.
//!
//! A [`Cgroup`] is one group of that name in every hierarchy of the host: limits live in whichever
//! hierarchy has their controller. Groups are made below the highest group that this process may
//! change: the root of each hierarchy for root, a delegated group for a plain user.
//!
//! ```no_run
//! use container_core::cgroup::{Cgroup, CgroupPath};
//! use container_core::oci_spec::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder};
//! use std::time::Duration;
//!
//! let memory = LinuxMemoryBuilder::default().limit(200 << 20).build()?;
//! let resources = LinuxResourcesBuilder::default().memory(memory).build()?;
//! let group = Cgroup::create(&CgroupPath::new("batch/one")?, &resources)?;
//! group.add(std::process::Command::new("make").spawn()?.id())?;
//! for stats in group.stats_every(Duration::from_secs(1)) {
//!     println!("{:?}", stats?.memory.map(|memory| memory.usage_bytes));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # References
//! `cgroups(7)`; kernel `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

mod beside;
mod block;
mod controller;
mod device;
mod file;
mod freezer;
mod group;
mod layout;
mod limit;
mod oom;
mod path;
mod setting;
mod stats;
mod tree;
mod v1;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::block::BlockDevice;
pub use self::controller::Controller;
use self::group::Group;
use self::layout::{Layout, Version};
pub use self::oom::OomEvents;
pub use self::path::CgroupPath;
pub use self::stats::{
    CpuStats, HugePageStats, IoStats, MemoryStats, PidsStats, Pressure, PressureShare, Pressures,
    Stats, StatsIter, Throttling,
};
use crate::{Error, ErrorKind, Result};

/// Which versions of cgroups a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Versions {
    /// No hierarchy is mounted.
    None,
    /// Version 1 only.
    V1,
    /// Version 2 only.
    V2,
    /// Version 1, with the unified hierarchy beside it.
    Hybrid,
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        })
    }
}

/// The versions that this host has, found out once.
///
/// # Errors
/// `Os` if `/proc` cannot be read.
pub fn version() -> Result<Versions> {
    let layout = Layout::host()?;
    Ok(match (layout.has(Version::V1), layout.has(Version::V2)) {
        (false, false) => Versions::None,
        (true, false) => Versions::V1,
        (false, true) => Versions::V2,
        (true, true) => Versions::Hybrid,
    })
}

/// The hierarchies of this host, as a container's view of them is mounted.
pub(crate) fn hierarchies() -> Result<Vec<crate::Hierarchy>> {
    let layout = Layout::host()?;
    let of = |hierarchy: &layout::Hierarchy| match hierarchy.version {
        Version::V2 => crate::Hierarchy::V2,
        Version::V1 => crate::Hierarchy::V1 {
            directory: directory_name(&hierarchy.mount_point),
            options: hierarchy.controllers.clone(),
        },
    };
    Ok(layout.hierarchies.iter().map(of).collect())
}

/// What a process needs to enter the groups that the process `pid` is in.
pub(crate) fn join_of(pid: i32) -> Result<Join> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::os(format!("read {path:?}"), error))?;
    let mut join = Join::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let is_meant = |hierarchy: &&layout::Hierarchy| match controllers.split(',').next() {
            Some("") | None => hierarchy.version == Version::V2,
            Some(first) => {
                hierarchy.version == Version::V1
                    && hierarchy.controllers.iter().any(|it| it == first)
            }
        };
        if let Some(hierarchy) = Layout::host()?.hierarchies.iter().find(is_meant) {
            let group = hierarchy.mount_point.join(group.trim_start_matches('/'));
            join.add(hierarchy.version, &group)?;
        }
    }
    Ok(join)
}

/// Whether `resources` limit anything.
pub(crate) fn has_limits(resources: &LinuxResources) -> bool {
    !setting::is_empty(resources)
}

/// One group, in all hierarchies.
///
/// It can be stored and read back, by another process too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    path: CgroupPath,
    groups: Vec<Group>,
}

/// What a process needs to enter a group.
#[derive(Debug, Default)]
pub struct Join {
    /// Files of version 1 groups, to which a process of one thread writes `0`.
    ///
    /// These are the `tasks` files: a write to `cgroup.procs` would wait until no process of the whole
    /// host is about to fork or exec, which takes up to tens of milliseconds.
    pub procs: Vec<OwnedFd>,
    /// The directory of the version 2 group, for `CLONE_INTO_CGROUP`.
    pub into: Option<OwnedFd>,
}

impl Join {
    fn add(&mut self, version: Version, group: &Path) -> Result<()> {
        match version {
            Version::V1 => self
                .procs
                .push(file::open(&group.join("tasks"), OFlags::WRONLY)?),
            Version::V2 => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                self.into = Some(file::open(group, flags)?);
            }
        }
        Ok(())
    }
}

impl Cgroup {
    /// Makes the group and sets its limits; what is not limited is as the kernel has it.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` for limits that break their rules (`SwapBelowMemory`,
    /// `InvalidLimit`); `Unsupported` and `PermissionDenied` (`ControllerUnavailable`) for a limit
    /// that this host or user has no controller for; `CgroupUnavailable` if no group can be made at
    /// all. After an error nothing is left behind.
    ///
    /// # Privileges
    /// Root, or a delegated group.
    pub fn create(path: &CgroupPath, resources: &LinuxResources) -> Result<Self> {
        let layout = Layout::host()?;
        let settings = setting::collect(layout, resources)?;
        let planned = Self::plan(path)?;
        let mut made = Self {
            path: path.clone(),
            groups: Vec::new(),
        };
        let outcome = planned.groups.into_iter().try_for_each(|group| {
            group.make(path, &settings)?;
            made.groups.push(group);
            Ok(())
        });
        let limited = outcome
            .and_then(|()| made.limit(layout, &settings))
            .and_then(|()| made.limit_devices(resources, false));
        match limited {
            Ok(()) => Ok(made),
            // What could not be made was somebody else's: only what was made goes.
            Err(error) => Err(match made.remove() {
                Err(cleanup) => error.with_cleanup([cleanup]),
                Ok(()) => error,
            }),
        }
    }

    /// The group as it will be made, to be recorded before it is.
    ///
    /// # Errors
    /// `CgroupUnavailable` if this process may change no group of any hierarchy.
    pub fn plan(path: &CgroupPath) -> Result<Self> {
        let layout = Layout::host()?;
        let groups: Vec<_> = layout
            .hierarchies
            .iter()
            .filter_map(|hierarchy| {
                let base = hierarchy.base.as_ref()?;
                Some(Group {
                    version: hierarchy.version,
                    controllers: hierarchy.controllers.clone(),
                    directory: base.join(path.as_str()),
                })
            })
            .collect();
        if groups.is_empty() {
            let what =
                format!("make cgroup {path}: no hierarchy has a group that this user may change");
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "CgroupUnavailable",
                what,
            ));
        }
        Ok(Self {
            path: path.clone(),
            groups,
        })
    }

    /// The group of that name, made by any process.
    ///
    /// # Errors
    /// `NotFound` if no hierarchy has it; `CgroupUnavailable` as [`Self::plan`].
    pub fn open(path: &CgroupPath) -> Result<Self> {
        let mut cgroup = Self::plan(path)?;
        cgroup.groups.retain(|group| group.directory.is_dir());
        if cgroup.groups.is_empty() {
            let what = format!("find cgroup {path}");
            return Err(Error::new(ErrorKind::NotFound, "CgroupUnknown", what));
        }
        Ok(cgroup)
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Its directories, by controller; the unified hierarchy by the empty name.
    #[must_use]
    pub fn directories(&self) -> BTreeMap<&str, &Path> {
        let mut all = BTreeMap::new();
        for group in &self.groups {
            if group.version == Version::V2 {
                all.insert("", group.directory.as_path());
            }
            for controller in &group.controllers {
                all.insert(controller.as_str(), group.directory.as_path());
            }
        }
        all
    }

    /// Opens what a process needs to enter it.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn join(&self) -> Result<Join> {
        let mut join = Join::default();
        for group in &self.groups {
            join.add(group.version, &group.directory)?;
        }
        Ok(join)
    }

    /// Opens what a process needs to enter the group `path` below it, or itself in hierarchies that
    /// do not have that.
    ///
    /// # Errors
    /// `NotFound` (`CgroupUnknown`) if no hierarchy has it.
    pub(crate) fn join_below(&self, path: &CgroupPath) -> Result<Join> {
        let mut join = Join::default();
        let mut found = false;
        for group in &self.groups {
            let below = group.directory.join(path.as_str());
            let there = below.is_dir();
            found |= there;
            join.add(group.version, if there { &below } else { &group.directory })?;
        }
        if found {
            return Ok(join);
        }
        let what = format!("find cgroup {path} below {}", self.path);
        Err(Error::new(ErrorKind::NotFound, "CgroupUnknown", what))
    }

    /// Whether it hands controllers down to groups below, and so takes no process itself (version 2).
    pub(crate) fn hands_down(&self) -> Result<bool> {
        match self.unified() {
            Some(group) => file::read(&group.directory.join("cgroup.subtree_control"))
                .map(|controllers| !controllers.trim().is_empty()),
            None => Ok(false),
        }
    }

    /// How many processes of the group the kernel killed for want of memory.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn oom_kill_count(&self) -> Result<u64> {
        let Some((version, group)) = self.group_with("memory") else {
            return Ok(0);
        };
        oom::kills(version, &group.join(oom::file(version)))
    }

    /// How many bytes of memory the group may use; `None` without a limit.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn memory_limit(&self) -> Result<Option<u64>> {
        let Some((version, group)) = self.group_with("memory") else {
            return Ok(None);
        };
        let file = group.join(match version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        });
        Ok(file::limit(&file::read(&file)?))
    }

    /// The group as the kernel counts events of it: for `perf_event_open(2)` with `PERF_FLAG_PID_CGROUP`.
    ///
    /// # Errors
    /// `Unsupported` (`ControllerUnavailable`) where neither version 1 has the controller nor version 2 is
    /// mounted; `Os` if the group is gone.
    pub fn perf_event_group(&self) -> Result<OwnedFd> {
        let version_1 = self.group_with("perf_event").map(|(_, group)| group);
        let unified = || self.unified().map(|group| group.directory.as_path());
        let Some(directory) = version_1.or_else(unified) else {
            let what = format!(
                "open cgroup {} for performance counters: no group",
                self.path
            );
            return Err(Error::new(
                ErrorKind::Unsupported,
                "ControllerUnavailable",
                what,
            ));
        };
        file::open(directory, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// The processes in the group and below it, as this PID namespace numbers them.
    ///
    /// # Errors
    /// `Os` if they cannot be read.
    pub fn pids(&self) -> Result<BTreeSet<i32>> {
        self.collect_pids(tree::pids)
    }

    /// The processes in the group itself, without those in groups below it.
    ///
    /// # Errors
    /// `Os` if they cannot be read.
    pub fn own_pids(&self) -> Result<BTreeSet<i32>> {
        self.collect_pids(tree::own_pids)
    }

    fn collect_pids(&self, read: fn(&Path) -> Result<BTreeSet<i32>>) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for group in &self.groups {
            pids.extend(read(&group.directory)?);
        }
        Ok(pids)
    }

    /// Moves a process with all its threads into the group.
    ///
    /// What it starts from now on starts there; what it has started before stays where it is.
    ///
    /// # Errors
    /// `NotFound` (`NoProcess`) if it has ended; `Os` if the kernel refuses.
    pub fn add(&self, pid: u32) -> Result<()> {
        for group in &self.groups {
            let file = group.directory.join("cgroup.procs");
            file::write(&file, &pid.to_string()).map_err(|error| {
                if error.kind() == ErrorKind::Os(Errno::SRCH.raw_os_error()) {
                    let what = format!("move process {pid} into cgroup {}", self.path);
                    return Error::new(ErrorKind::NotFound, "NoProcess", what).with_source(error);
                }
                error
            })?;
        }
        Ok(())
    }

    /// Makes the group `name` below this one, as [`create`](Self::create) does.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `InvalidName`. On version 2 `Busy` if a limit is asked for and
    /// processes are in this group itself: only groups without processes hand controllers down.
    pub fn create_child(&self, name: &str, resources: &LinuxResources) -> Result<Self> {
        Self::create(&self.path.child(name)?, resources)
    }

    /// The groups directly below, by name. Left out is what no [`CgroupPath`] can name: names that are
    /// not UTF-8.
    ///
    /// # Errors
    /// `Os` if they cannot be listed.
    pub fn children(&self) -> Result<Vec<Self>> {
        let mut names = BTreeSet::new();
        for group in &self.groups {
            names.extend(tree::children(&group.directory)?);
        }
        let paths = names.iter().filter_map(|name| self.path.child(name).ok());
        let opened = paths.map(|path| Self::open(&path));
        // One that has gone meanwhile is none.
        let gone = |child: &Result<Self>| matches!(child, Err(error) if error.kind() == ErrorKind::NotFound);
        opened.filter(|child| !gone(child)).collect()
    }

    /// The group above; `None` at the top.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parent(&self) -> Result<Option<Self>> {
        self.path.parent().map(|path| Self::open(&path)).transpose()
    }

    /// are empty then; done if it is gone.
    ///
    /// # Errors
    /// `Cleanup` with all that could not be removed; `Busy` among it where processes are alive.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut errors = Vec::new();
        if let Ok(beside) = self.beside() {
            // Left by a monitor that was killed.
            beside.remove_if_left();
        }
        for group in &self.groups {
            match tree::remove(&group.directory, deadline) {
                Ok(()) => group.remove_ancestors(&self.path),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let what = format!("remove cgroup {}", self.path);
        Err(Error::new(ErrorKind::Cleanup, "Cleanup", what).with_cleanup(errors))
    }

    /// Removes the group as it is, if nothing is in it: neither a process nor a group below it.
    ///
    /// For a group that may be left of a program that died between making and marking it.
    ///
    /// # Errors
    /// The kind of the failed removal; that something is in it is no error.
    pub fn remove_if_empty(&self) -> Result<()> {
        for group in &self.groups {
            match rustix::fs::rmdir(&group.directory) {
                Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(errno) => {
                    let what = format!("remove cgroup {:?}", group.directory);
                    return Err(Error::os(what, errno));
                }
            }
        }
        Ok(())
    }

    fn unified(&self) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.version == Version::V2)
    }

    fn group_with(&self, controller: &str) -> Option<(Version, &Path)> {
        let has = |group: &&Group| group.controllers.iter().any(|it| it == controller);
        let group = self.groups.iter().find(has)?;
        Some((group.version, &group.directory))
    }
}

fn directory_name(mount_point: &Path) -> String {
    mount_point
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// How long a removal waits for processes that are about to end.
const PATIENCE: Duration = Duration::from_secs(2);
