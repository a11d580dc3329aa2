//! One group in one hierarchy: how it and those above it are made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Mode, XattrFlags, mkdir};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::file::{read, write};
use super::layout::Version;
use super::setting::{self, Settings};
use super::{CgroupPath, tree};
use crate::{Error, ErrorKind, Result};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) version: Version,
    pub(super) controllers: Vec<String>,
    pub(super) directory: PathBuf,
}

impl Group {
    /// Makes the group, and those above it that are missing.
    pub(super) fn make(&self, path: &CgroupPath, settings: &[Settings]) -> Result<()> {
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
                        // Those below get the same from the kernel; without this, from us.
                        let _ = write(&ancestor.join("cgroup.clone_children"), "1");
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
        self.hand_down(path, settings)
    }

    /// Version 2: has the groups above hand down the controllers that `settings` need, and those that
    /// count what is used.
    pub(super) fn hand_down(&self, path: &CgroupPath, settings: &[Settings]) -> Result<()> {
        if self.version == Version::V1 {
            return Ok(());
        }
        let needed = setting::v2_controllers(settings);
        let counting = COUNTING
            .into_iter()
            .filter(|it| !needed.contains(it) && self.controllers.iter().any(|known| known == it));
        let counting: Vec<_> = counting.collect();
        // Siblings of this group have mostly seen to it.
        let has = read(&self.directory.join("cgroup.controllers"))?;
        let has: Vec<_> = has.split_whitespace().collect();
        if needed.iter().chain(&counting).all(|it| has.contains(it)) {
            return Ok(());
        }
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
    pub(super) fn remove_ancestors(&self, path: &CgroupPath) {
        for ancestor in self.ancestors(path).iter().rev() {
            // Somebody else's group is in it: that keeps it.
            if !is_marked(ancestor) || fs::remove_dir(ancestor).is_err() {
                return;
            }
        }
    }
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
pub(super) fn base_of(group: &Path, path: &CgroupPath) -> PathBuf {
    let depth = path.as_str().split('/').count();
    group
        .ancestors()
        .nth(depth)
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// The controllers of version 2 that tell what is used.
const COUNTING: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// How often a group above is made again that others keep removing.
const ATTEMPTS: usize = 64;

const MODE: Mode = Mode::from_bits_truncate(0o755);

/// The attributes that mark a group as made by this library: root's, and a plain user's.
const MARKS: [&str; 2] = ["trusted.container-engine", "user.container-engine"];
