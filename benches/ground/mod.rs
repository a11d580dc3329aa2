//! The ground that all candidates of a benchmark run on: namespaces, a tmpfs, cgroups, an image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move,
    unmount,
};
use tempfile::TempDir;

use crate::peers::{find, say};

/// Where hosts have their cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What the benchmark works in; what it used of the host is gone when this is dropped.
pub(crate) struct Ground {
    scratch: TempDir,
    parent: String,
}

/// A cgroup hierarchy that is mounted.
pub(crate) struct Hierarchy {
    pub(crate) v2: bool,
    pub(crate) mount_point: PathBuf,
}

impl Ground {
    /// Moves this program, which must not have started a thread, to mount and network namespaces of
    /// its own; `None`, with a word about it, without root.
    ///
    /// Of a host with both versions of cgroups the namespaces show version 1 alone, for all
    /// candidates: crun refuses anything else.
    pub(crate) fn enter() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            say("skipped: needs root");
            return Ok(None);
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
        mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )?;
        // Not on a disk: the benchmark would measure that.
        let scratch = TempDir::new_in("/dev/shm").context("make a directory on a tmpfs")?;
        show_one_version(&scratch.path().join("view")).context("show one version of cgroups")?;
        let parent = format!("container-engine-bench-{}", std::process::id());
        for hierarchy in hierarchies()? {
            make_group(&hierarchy.mount_point, &parent)?;
        }
        Ok(Some(Self { scratch, parent }))
    }

    /// A directory on a tmpfs.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The group that the groups of all candidates are in.
    pub(crate) fn parent(&self) -> &str {
        &self.parent
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for hierarchy in hierarchies().unwrap_or_default() {
            // Whoever measured has removed the groups below; what fails shows on the host.
            let _ = fs::remove_dir(hierarchy.mount_point.join(&self.parent));
        }
    }
}

/// The hierarchies of cgroups that this mount namespace shows.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mut found = Vec::new();
    for line in table.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let v2 = kind.starts_with("cgroup2 ");
        let Some(mount_point) = place.split(' ').nth(4) else {
            continue;
        };
        if (v2 || kind.starts_with("cgroup ")) && mount_point.starts_with(CGROUPS) {
            found.push(Hierarchy {
                v2,
                mount_point: mount_point.into(),
            });
        }
    }
    Ok(found)
}

/// Makes a root file system in which `/bin/true` is busybox; `None` where there is no busybox.
pub(crate) fn make_root(directory: &Path) -> Result<Option<()>> {
    let Some(busybox) = find("busybox") else {
        return Ok(None);
    };
    for name in ["bin", "dev", "etc", "proc", "sys"] {
        fs::create_dir_all(directory.join(name))?;
    }
    fs::copy(busybox, directory.join("bin/busybox"))?;
    symlink("busybox", directory.join("bin/true"))?;
    Ok(Some(()))
}

fn show_one_version(aside: &Path) -> Result<()> {
    let all = hierarchies()?;
    if all.iter().all(|hierarchy| hierarchy.v2) || all.iter().all(|hierarchy| !hierarchy.v2) {
        return Ok(());
    }
    // Put together aside, as it covers what it is made of.
    fs::create_dir(aside)?;
    mount("cgroup", aside, "tmpfs", MountFlags::empty(), c"mode=755")?;
    for hierarchy in all.iter().filter(|hierarchy| !hierarchy.v2) {
        let target = aside.join(hierarchy.mount_point.strip_prefix(CGROUPS)?);
        fs::create_dir(&target)?;
        mount_bind(&hierarchy.mount_point, &target)?;
    }
    unmount(CGROUPS, UnmountFlags::DETACH)?;
    mount_move(aside, CGROUPS)?;
    Ok(fs::remove_dir(aside)?)
}

fn make_group(above: &Path, name: &str) -> Result<()> {
    let group = above.join(name);
    fs::create_dir(&group).with_context(|| format!("make {group:?}"))?;
    // Without these nothing can join a group of this controller, or of one below it.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read(above.join(file)) {
            fs::write(group.join(file), value).with_context(|| format!("write {file:?}"))?;
        }
    }
    Ok(())
}
