//! Control groups, version 1, version 2, and both at once.
//!
//! A [`Cgroup`] is one group of that name in every hierarchy of the host: limits live in whichever
//! hierarchy has their controller. Groups are made below the highest group that this process may
//! change: the root of each hierarchy for root, a delegated group for a plain user.
//!
//! # References
//! `cgroups(7)`; kernel `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

mod device;
mod layout;
mod path;
mod setting;
mod tree;
mod v1;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{CWD, Mode, OFlags, XattrFlags, mkdir, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use self::layout::{Layout, Version};
pub use self::path::CgroupPath;
use self::setting::{Absent, Setting, Settings};
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
            Version::V1 => self.procs.push(open(&group.join("tasks"), OFlags::WRONLY)?),
            Version::V2 => {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                self.into = Some(open(group, flags)?);
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
            .and_then(|()| made.limit_devices(resources));
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
        Ok(count
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0))
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
        let limit = read(&file)?.trim().parse().ok();
        Ok(limit.filter(|limit| *limit < UNLIMITED))
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
    /// `Unsupported` (`ControllerUnavailable`) where the host has no freezer; `TimedOut` if something
    /// still runs after two seconds, and then everything does.
    pub fn freeze(&self) -> Result<()> {
        let freezer = self.freezer()?;
        let stopped = freezer
            .set(true)
            .and_then(|()| freezer.wait(Instant::now() + REMOVAL));
        stopped.map_err(|error| match freezer.set(false) {
            Err(cleanup) => error.with_cleanup([cleanup]),
            Ok(()) => error,
        })
    }

    /// Whether its processes are stopped, or about to be.
    ///
    /// # Errors
    /// `Os` if the group is gone.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Ok(freezer) => freezer.is_set(),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// `Unsupported` as [`Self::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.freezer()?.set(false)
    }

    /// Kills everything in the group and below it; frozen processes die, too.
    ///
    /// # Errors
    /// `Busy` (`ProcessesAlive`) if something is still alive after two seconds.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL;
        if let Some(group) = self.unified() {
            // Linux 5.14. What is left, or came in by version 1 alone, is killed one by one.
            let _ = fs::write(group.directory.join("cgroup.kill"), "1");
        }
        let mut pause = Duration::from_micros(100);
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = format!(
                    "kill the processes of cgroup {}: {pids:?} live on",
                    self.path
                );
                return Err(Error::new(ErrorKind::Busy, "ProcessesAlive", what).with_retry());
            }
            self.kill_each(deadline)?;
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Removes the group with all groups below it, and those above it that this library made and that
    /// are empty then; done if it is gone.
    ///
    /// # Errors
    /// `Cleanup` with all that could not be removed; `Busy` among it where processes are alive.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVAL;
        let mut errors = Vec::new();
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

    fn limit(&self, layout: &Layout, settings: &[Settings]) -> Result<()> {
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

    fn limit_devices(&self, resources: &LinuxResources) -> Result<()> {
        let Some(rules) = resources.devices().as_ref().filter(|it| !it.is_empty()) else {
            return Ok(());
        };
        match (self.group_with("devices"), self.unified()) {
            (Some((_, directory)), _) => v1::devices(resources)?
                .iter()
                .try_for_each(|setting| apply(directory, setting)),
            (None, Some(group)) => {
                let directory = open(&group.directory, OFlags::RDONLY | OFlags::DIRECTORY)?;
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

    /// Kills what is in the group now. It is stopped meanwhile where that can be, so that nothing
    /// forks away, and goes on again whatever fails.
    fn kill_each(&self, deadline: Instant) -> Result<()> {
        let freezer = self.freezer().ok();
        if let Some(freezer) = &freezer {
            // A group that does not stop in time is killed as it runs.
            let soon = deadline.min(Instant::now() + Duration::from_millis(100));
            let _ = freezer.set(true).and_then(|()| freezer.wait(soon));
        }
        let killed = self.pids().and_then(|pids| {
            let held: Vec<_> = pids.into_iter().filter_map(hold).collect();
            // A number that is still listed was not given to another process before it was held.
            let still = self.pids()?;
            for (pid, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                match pidfd_send_signal(process, Signal::KILL) {
                    Ok(()) | Err(Errno::SRCH) => {}
                    Err(errno) => return Err(Error::os(format!("kill process {pid}"), errno)),
                }
            }
            Ok(())
        });
        let thawed = freezer.map_or(Ok(()), |freezer| freezer.set(false));
        killed.and(thawed)
    }

    fn unified(&self) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.version == Version::V2)
    }

    /// The unified one if there is one: what it stops can still be killed.
    fn freezer(&self) -> Result<Freezer> {
        let unified = self.unified().map(|group| Freezer {
            file: group.directory.join("cgroup.freeze"),
            words: ("1", "0"),
            report: group.directory.join("cgroup.events"),
            stopped: "frozen 1",
        });
        if let Some(freezer) = unified.filter(|freezer| freezer.file.exists()) {
            return Ok(freezer);
        }
        let Some((Version::V1, group)) = self.group_with("freezer") else {
            let what = format!("freeze cgroup {}: this host has no freezer", self.path);
            return Err(Error::new(
                ErrorKind::Unsupported,
                "ControllerUnavailable",
                what,
            ));
        };
        let file = group.join("freezer.state");
        Ok(Freezer {
            report: file.clone(),
            file,
            words: ("FROZEN", "THAWED"),
            stopped: "FROZEN",
        })
    }

    fn group_with(&self, controller: &str) -> Option<(Version, &Path)> {
        let has = |group: &&Group| group.controllers.iter().any(|it| it == controller);
        let group = self.groups.iter().find(has)?;
        Some((group.version, &group.directory))
    }
}

impl Group {
    /// Makes the group, and those above it that are missing.
    fn make(&self, path: &CgroupPath, settings: &[Settings]) -> Result<()> {
        let failed = |errno| Error::os(format!("make cgroup {:?}", self.directory), errno);
        for _ in 0..ATTEMPTS {
            match mkdir(&self.directory, MODE) {
                Ok(()) => {
                    return self.prepare(path, settings).map_err(|error| {
                        match tree::remove(&self.directory, Instant::now()) {
                            Err(cleanup) => error.with_cleanup([cleanup]),
                            Ok(()) => error,
                        }
                    });
                }
                Err(Errno::EXIST) => return Err(failed(Errno::EXIST).with_code("CgroupExists")),
                // Nothing above it yet, or no longer: the last user of a group removes it.
                Err(Errno::NOENT) => match self.make_ancestors(path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                Err(errno) => return Err(failed(errno)),
            }
        }
        Err(failed(Errno::NOENT).with_retry())
    }

    fn make_ancestors(&self, path: &CgroupPath) -> Result<()> {
        for ancestor in self.ancestors(path) {
            match mkdir(&ancestor, MODE) {
                Ok(()) => {
                    mark(&ancestor);
                    if self.has_cpuset() {
                        fill_cpuset(&ancestor)?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::os(format!("make cgroup {ancestor:?}"), errno)),
            }
        }
        Ok(())
    }

    /// Version 1: gives the group processors, which a new one has none of. Version 2: has the groups
    /// above hand down the controllers that are needed, and those that count.
    fn prepare(&self, path: &CgroupPath, settings: &[Settings]) -> Result<()> {
        if self.has_cpuset() {
            return fill_cpuset(&self.directory);
        }
        if self.version == Version::V1 {
            return Ok(());
        }
        let needed = setting::v2_controllers(settings);
        let counting = ["cpu", "io", "memory", "pids"]
            .into_iter()
            .filter(|it| !needed.contains(it));
        let counting = counting.filter(|it| self.controllers.iter().any(|known| known == it));
        let counting: Vec<_> = counting.collect();
        let base = base_of(&self.directory, path);
        for above in [base].into_iter().chain(self.ancestors(path)) {
            let file = above.join("cgroup.subtree_control");
            for controller in &needed {
                write(&file, &format!("+{controller}"))?;
            }
            for controller in &counting {
                // Nobody asked: without them nothing is counted, nor shared fairly.
                let _ = write(&file, &format!("+{controller}"));
            }
        }
        Ok(())
    }

    fn has_cpuset(&self) -> bool {
        self.version == Version::V1 && self.controllers.iter().any(|it| it == "cpuset")
    }

    /// The groups above it, topmost first.
    fn ancestors(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let base = base_of(&self.directory, path);
        path.ancestors()
            .map(|ancestor| base.join(ancestor))
            .collect()
    }

    /// Removes the groups above it that this library made and nobody uses.
    fn remove_ancestors(&self, path: &CgroupPath) {
        for ancestor in self.ancestors(path).iter().rev() {
            // Somebody else's group is in it: that keeps it.
            if !is_marked(ancestor) || fs::remove_dir(ancestor).is_err() {
                return;
            }
        }
    }
}

/// The files that stop a group and tell that it has stopped.
struct Freezer {
    file: PathBuf,
    words: (&'static str, &'static str),
    report: PathBuf,
    stopped: &'static str,
}

impl Freezer {
    fn set(&self, frozen: bool) -> Result<()> {
        write(&self.file, if frozen { self.words.0 } else { self.words.1 })
    }

    fn is_set(&self) -> Result<bool> {
        // Version 1 tells by the same file, and has a word more for what is about to stop.
        Ok(matches!(
            read(&self.file)?.trim(),
            "1" | "FROZEN" | "FREEZING"
        ))
    }

    fn wait(&self, deadline: Instant) -> Result<()> {
        let mut pause = Duration::from_micros(50);
        while !read(&self.report)?.lines().any(|line| line == self.stopped) {
            if Instant::now() > deadline {
                let what = format!("wait for {:?} in {:?}", self.stopped, self.report);
                return Err(Error::new(ErrorKind::TimedOut, "NotFrozen", what).with_retry());
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Opens a process by its number; `None` if it is gone.
fn hold(pid: i32) -> Option<(i32, OwnedFd)> {
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    Some((pid, process))
}

/// Notes on a group that this library made it. Kernels and mounts that have no room for the note keep
/// the group.
fn mark(group: &Path) {
    for name in MARKS {
        if rustix::fs::setxattr(group, name, b"1", XattrFlags::empty()).is_ok() {
            return;
        }
    }
}

fn is_marked(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    MARKS
        .iter()
        .any(|name| rustix::fs::getxattr(group, *name, &mut value).is_ok())
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
        let Some(above) = directory.parent() else {
            continue;
        };
        // Somebody else may have made that just now; the topmost has all there is.
        fill_cpuset(above)?;
        write(&file, read(&above.join(name))?.trim())?;
    }
    Ok(())
}

/// The directory that `path` is below.
fn base_of(group: &Path, path: &CgroupPath) -> PathBuf {
    let depth = path.as_str().split('/').count();
    group
        .ancestors()
        .nth(depth)
        .unwrap_or(Path::new("/"))
        .to_owned()
}

fn directory_name(mount_point: &Path) -> String {
    mount_point
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
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

/// How long a removal waits for processes that are about to end.
const REMOVAL: Duration = Duration::from_secs(2);

/// How often a group above is made again that others keep removing.
const ATTEMPTS: usize = 64;

const MODE: Mode = Mode::from_bits_truncate(0o755);

/// The attributes that mark a group as made by this library: root's, and a plain user's.
const MARKS: [&str; 2] = ["trusted.container-engine", "user.container-engine"];

/// Version 1 says "no limit" by the largest number of pages, in bytes: just below this.
const UNLIMITED: u64 = 1 << 62;
