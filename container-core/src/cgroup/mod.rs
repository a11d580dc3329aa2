//! Control groups, version 1, version 2, and both at once.
//!
//! A [`Cgroup`] is one group of that name in every hierarchy of the host: limits live in whichever
//! hierarchy has their controller. Groups are made below the highest group that this process may
//! change: the root of each hierarchy for root, a delegated group for a plain user.
//!
//! # References
//! `cgroups(7)`; kernel `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

mod layout;
mod path;
mod setting;
mod tree;
mod v1;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use self::layout::{Layout, Version};
pub use self::path::CgroupPath;
use self::setting::{Absent, Setting, Settings};
use crate::{Error, ErrorKind, Result};

/// How long a removal waits for processes that are about to end.
const REMOVAL: Duration = Duration::from_secs(2);

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    version: Version,
    controllers: Vec<String>,
    directory: PathBuf,
}

/// What a process needs to enter a group.
#[derive(Debug, Default)]
pub struct Join {
    /// Files of version 1 groups, to which the process writes `0`.
    pub procs: Vec<OwnedFd>,
    /// The directory of the version 2 group, for `CLONE_INTO_CGROUP`.
    pub into: Option<OwnedFd>,
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
        let cgroup = Self::plan(path)?;
        cgroup.make(layout, &settings).map_err(|error| match cgroup.remove() {
            // A group of that name is somebody else's.
            _ if error.kind() == ErrorKind::AlreadyExists => error,
            Err(cleanup) => error.with_cleanup([cleanup]),
            Ok(()) => error,
        })?;
        Ok(cgroup)
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
            let what = format!("make cgroup {path}: no hierarchy has a group that this user may change");
            return Err(Error::new(ErrorKind::PermissionDenied, "CgroupUnavailable", what));
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
            match group.version {
                Version::V1 => {
                    let file = group.directory.join("cgroup.procs");
                    join.procs.push(open(&file, OFlags::WRONLY)?);
                }
                Version::V2 => {
                    let flags = OFlags::PATH | OFlags::DIRECTORY;
                    join.into = Some(open(&group.directory, flags)?);
                }
            }
        }
        Ok(join)
    }

    /// How many processes of the group the kernel killed for want of memory.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn oom_kill_count(&self) -> Result<u64> {
        let Some((version, group)) = self.group_with("memory") else {
            return Ok(0);
        };
        let file = group.join(match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        });
        let text = read(&file)?;
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    /// The processes in the group and below it, as this PID namespace numbers them.
    ///
    /// # Errors
    /// `Os` if they cannot be read.
    pub fn pids(&self) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for group in &self.groups {
            pids.extend(tree::pids(&group.directory)?);
        }
        Ok(pids)
    }

    /// Stops all processes in the group and below it, until [`Self::thaw`].
    ///
    /// # Errors
    /// `Unsupported` (`ControllerUnavailable`) where the host has no freezer.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// As [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    /// Kills everything in the group and below it; frozen processes die, too.
    ///
    /// # Errors
    /// `Busy` if something is still alive after two seconds.
    pub fn kill_all(&self) -> Result<()> {
        let unified = self.groups.iter().find(|group| group.version == Version::V2);
        if let Some(group) = unified {
            // Linux 5.14; on a hybrid host the processes are in both.
            let _ = fs::write(group.directory.join("cgroup.kill"), "1");
        }
        let deadline = Instant::now() + REMOVAL;
        let mut pause = Duration::from_micros(100);
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            // Nothing that is frozen can be missed, and nothing can fork away meanwhile.
            let frozen = self.freeze().is_ok();
            for pid in self.pids()? {
                kill(pid);
            }
            if frozen {
                self.thaw()?;
            }
            if Instant::now() > deadline {
                let what = format!("kill the processes of cgroup {}: {pids:?} live on", self.path);
                return Err(Error::new(ErrorKind::Busy, "ProcessesAlive", what).with_retry());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the group with all groups below it, and the groups above it that are empty then; done
    /// if it is gone.
    ///
    /// # Errors
    /// `Cleanup` with all that could not be removed; `Busy` among it where processes are alive.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL;
        let mut errors = Vec::new();
        for group in &self.groups {
            match tree::remove(&group.directory, deadline) {
                Ok(()) => remove_ancestors(&group.directory, &self.path),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let what = format!("remove cgroup {}", self.path);
        Err(Error::new(ErrorKind::Cleanup, "Cleanup", what).with_cleanup(errors))
    }

    fn make(&self, layout: &Layout, settings: &[Settings]) -> Result<()> {
        for group in &self.groups {
            for ancestor in self.path.ancestors() {
                let base = base_of(&group.directory, &self.path);
                make_directory(&base.join(ancestor), true)?;
                self.pass_on(group, &base.join(ancestor), settings)?;
            }
            if group.version == Version::V2 {
                self.pass_on(group, &base_of(&group.directory, &self.path), settings)?;
                // Again, now that the controllers reach the groups in between.
                for ancestor in self.path.ancestors() {
                    let base = base_of(&group.directory, &self.path);
                    self.pass_on(group, &base.join(ancestor), settings)?;
                }
            }
            make_directory(&group.directory, false)?;
            if group.version == Version::V1 && group.controllers.iter().any(|it| it == "cpuset") {
                fill_cpuset(&group.directory)?;
            }
        }
        for part in settings {
            let hierarchy = layout.with(part.version, part.controller);
            let Some(base) = hierarchy.and_then(|hierarchy| hierarchy.base.as_ref()) else {
                continue;
            };
            let directory = base.join(self.path.as_str());
            for setting in &part.list {
                apply(&directory, setting)?;
            }
        }
        Ok(())
    }

    /// Version 1: gives a group above its processors, which a new group has none of. Version 2: lets
    /// the groups below have the controllers that are needed.
    fn pass_on(&self, group: &Group, directory: &Path, settings: &[Settings]) -> Result<()> {
        if group.version == Version::V1 {
            if group.controllers.iter().any(|it| it == "cpuset") {
                fill_cpuset(directory)?;
            }
            return Ok(());
        }
        for controller in setting::v2_controllers(settings) {
            let file = directory.join("cgroup.subtree_control");
            // A group that has processes, or that lacks the controller itself, refuses; then the
            // limit's own file is missing, which is the error to report.
            let _ = fs::write(file, format!("+{controller}"));
        }
        Ok(())
    }

    fn group_with(&self, controller: &str) -> Option<(Version, &Path)> {
        let has = |group: &&Group| group.controllers.iter().any(|it| it == controller);
        let group = self.groups.iter().find(has)?;
        Some((group.version, &group.directory))
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let v1 = self.group_with("freezer").map(|(_, group)| group);
        let unified = self.groups.iter().find(|group| group.version == Version::V2);
        match (v1, unified) {
            (Some(group), _) => {
                let value = if frozen { "FROZEN" } else { "THAWED" };
                write(&group.join("freezer.state"), value)
            }
            (None, Some(group)) => {
                write(&group.directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })
            }
            (None, None) => {
                let what = format!("freeze cgroup {}: this host has no freezer", self.path);
                Err(Error::new(ErrorKind::Unsupported, "ControllerUnavailable", what))
            }
        }
    }
}

/// Sends SIGKILL; a process that ended by itself is as good.
fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn apply(directory: &Path, setting: &Setting) -> Result<()> {
    let file = directory.join(&setting.file);
    match (write(&file, &setting.value), &setting.absent) {
        (Err(error), Absent::Skip) if error.kind() == ErrorKind::NotFound => Ok(()),
        (Err(error), Absent::Use(other)) if error.kind() == ErrorKind::NotFound => {
            apply(directory, other)
        }
        (result, _) => result,
    }
}

/// Gives a new group the processors and memory nodes of the group above it.
fn fill_cpuset(directory: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = directory.join(name);
        if !read(&file)?.trim().is_empty() {
            continue;
        }
        let above = directory.parent().map(|parent| parent.join(name));
        let inherited = above.map(|above| read(&above)).transpose()?.unwrap_or_default();
        write(&file, inherited.trim())?;
    }
    Ok(())
}

fn make_directory(path: &Path, may_exist: bool) -> Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if may_exist && error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|error| Error::os(format!("make cgroup {path:?}"), error)),
    }
}

/// Removes the named groups above `group` that nobody uses.
fn remove_ancestors(group: &Path, path: &CgroupPath) {
    let base = base_of(group, path);
    for ancestor in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
        // Somebody else's group is in it: that keeps it.
        if fs::remove_dir(base.join(ancestor)).is_err() {
            return;
        }
    }
}

/// The directory that `path` is below.
fn base_of(group: &Path, path: &CgroupPath) -> PathBuf {
    let depth = path.as_str().split('/').count();
    group.ancestors().nth(depth).unwrap_or(Path::new("/")).to_owned()
}

fn directory_name(mount_point: &Path) -> String {
    mount_point.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os(format!("open {path:?}"), errno))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::os(format!("read {path:?}"), error))
}

fn write(path: &Path, value: &str) -> Result<()> {
    let file = fs::File::options().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| Error::os(format!("write {value:?} to {path:?}"), error))
}
