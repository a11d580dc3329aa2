//! Where the monitor of a detached container is.
//!
//! A service manager ends what is in the group of a service, and a detached container is to outlive the
//! service that started it. So its monitor goes where nobody looks for what belongs to a service: to the
//! top of every version 1 hierarchy, and, as version 2 wants processes in leaves only, to a group of its
//! own beside that of the container.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::group::{Group, base_of};
use super::layout::Version;
use super::{Cgroup, CgroupPath, file};
use crate::Result;

/// What the name of the monitor's group has more than that of the container's.
const SUFFIX: &str = ".monitor";

impl Cgroup {
    /// Where the monitor of the container goes that this group is of.
    ///
    /// # Errors
    /// `InvalidName` if the group's name is too long for another one beside it.
    pub(crate) fn beside(&self) -> Result<Self> {
        let path = CgroupPath::new(&format!("{}{SUFFIX}", self.path))?;
        let of = |group: &Group| {
            let base = base_of(&group.directory, &self.path);
            Group {
                directory: match group.version {
                    Version::V1 => base,
                    Version::V2 => base.join(path.as_str()),
                },
                ..group.clone()
            }
        };
        Ok(Self {
            groups: self.groups.iter().map(of).collect(),
            path,
        })
    }

    /// Makes the version 2 group of a monitor, unless another monitor has, or left it when it was
    /// killed; gives its directory, for `CLONE_INTO_CGROUP`.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub(crate) fn make_unified(&self) -> Result<Option<OwnedFd>> {
        let Some(group) = self.unified() else {
            return Ok(None);
        };
        match group.make(&self.path, &[]) {
            Err(error) if error.code() != "CgroupExists" => return Err(error),
            _ => {}
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        file::open(&group.directory, flags).map(Some)
    }

    /// Moves the calling process, of one thread, into the version 1 groups.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let of_version_1 = |group: &&Group| group.version == Version::V1;
        self.groups
            .iter()
            .filter(of_version_1)
            .try_for_each(|group| fs::write(group.directory.join("tasks"), "0"))
    }

    /// Moves the calling process to the top of the version 2 hierarchy, and removes its group unless
    /// another monitor is in it. What cannot be left stays; the removal of the container's group takes
    /// it along.
    pub(crate) fn leave(&self) {
        if let Some(group) = self.unified() {
            let top = base_of(&group.directory, &self.path);
            let _ = fs::write(top.join("cgroup.procs"), "0");
        }
        self.remove_if_left();
    }

    /// Removes the version 2 group of a monitor that is not there any more.
    pub(super) fn remove_if_left(&self) {
        if let Some(group) = self.unified()
            && fs::remove_dir(&group.directory).is_ok()
        {
            group.remove_ancestors(&self.path);
        }
    }
}
