//! Landlock: what a container may do with files, beside everything else that limits it.
//!
//! An extra of this library, that no spec asks for. Where capabilities and file modes say what a user
//! may do, a [`Ruleset`] says what this container may do, as whatever user: nothing but what one of
//! its rules allows.
//!
//! ```
//! use container_core::landlock::{Access, Ruleset};
//!
//! let rules = Ruleset::default()
//!     .allow("/", Access::READ | Access::EXECUTE)
//!     .allow("/tmp", Access::READ | Access::WRITE);
//! ```
//!
//! # References
//! `landlock(7)`; Linux 5.13, all of it 6.2.

use std::ops::BitOr;
use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Result};

/// What may be done with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// Reads files, lists directories.
    pub const READ: Self = Self(READ_FILE | READ_DIRECTORY);
    /// Changes files, makes, moves and removes them and everything else that has a name.
    pub const WRITE: Self = Self(WRITE_FILE | REMOVE | MAKE | REFER | TRUNCATE);
    /// Executes files. Libraries are read, not executed.
    pub const EXECUTE: Self = Self(1);
    /// Controls devices beyond reading and writing them, where the kernel tells these apart (Linux 6.10).
    pub const CONTROL: Self = Self(CONTROL_DEVICE);
}

impl BitOr for Access {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The files that a container may do something with: those below the paths of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    rules: Vec<(PathBuf, Access)>,
    least_version: u32,
}

impl Default for Ruleset {
    /// Nothing is allowed, by a kernel that can forbid all of it.
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            least_version: COMPLETE,
        }
    }
}

impl Ruleset {
    /// Allows `access` to the file at `path`, in the container, or to everything below it. What several
    /// rules allow adds up. The path must exist when the container starts; links on the way are
    /// followed inside the container.
    #[must_use]
    pub fn allow(mut self, path: impl Into<PathBuf>, access: Access) -> Self {
        self.rules.push((path.into(), access));
        self
    }

    /// Makes do with a kernel whose Landlock is of this version (its ABI) or later; 3 (Linux 6.2) unless
    /// set. Version 1 cannot forbid to truncate a file, nor can version 2; and 1 forbids to move files
    /// between directories altogether.
    #[must_use]
    pub fn least_version(mut self, version: u32) -> Self {
        self.least_version = version;
        self
    }

    /// What the kernel is to decide on, and the paths with what is allowed there, on a kernel whose
    /// Landlock is of this version; 0: it has none.
    pub(crate) fn for_version(&self, version: u32) -> Result<(u64, Vec<(&Path, u64)>)> {
        let least = self.least_version.max(1);
        if version < least {
            let what =
                format!("restrict a container: want Landlock version {least}, got {version}");
            let code = "LandlockUnavailable";
            return Err(Error::new(ErrorKind::Unsupported, code, what)
                .with_difference(Some(&least.to_string()), Some(&version.to_string())));
        }
        let handled = handled(version);
        let rules = self.rules.iter();
        let rules = rules.map(|(path, access)| (path.as_path(), access.0 & handled));
        Ok((handled, rules.collect()))
    }
}

/// All that the kernel can decide on.
fn handled(version: u32) -> u64 {
    let since = |least: u32, rights: u64| if version >= least { rights } else { 0 };
    Access::READ.0
        | Access::EXECUTE.0
        | WRITE_FILE
        | REMOVE
        | MAKE
        | since(2, REFER)
        | since(3, TRUNCATE)
        | since(5, CONTROL_DEVICE)
}

/// The rights that a file can have that is no directory.
pub(crate) const OF_FILES: u64 = 1 | WRITE_FILE | READ_FILE | TRUNCATE | CONTROL_DEVICE;

/// The first version that can forbid everything that changes a file.
const COMPLETE: u32 = 3;

// `LANDLOCK_ACCESS_FS_*` of `linux/landlock.h`.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIRECTORY: u64 = 1 << 3;
/// Directories and others.
const REMOVE: u64 = 1 << 4 | 1 << 5;
/// Devices of both kinds, directories, regular files, sockets, FIFOs, symlinks.
const MAKE: u64 = 0x7f << 6;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const CONTROL_DEVICE: u64 = 1 << 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_those_that_the_kernel_knows() {
        // The masks of the versions as `landlock(7)` lists their rights.
        for (version, all) in [
            (1, 0x1fff),
            (2, 0x3fff),
            (3, 0x7fff),
            (4, 0x7fff),
            (5, 0xffff),
        ] {
            let rules = Ruleset::default().least_version(0).allow(
                "/",
                Access::READ | Access::WRITE | Access::EXECUTE | Access::CONTROL,
            );
            let (handled, rules) = rules.for_version(version).unwrap();
            assert_eq!(handled, all, "{version}");
            assert_eq!(rules, [(Path::new("/"), all)], "{version}");
        }
    }

    #[test]
    fn an_older_kernel_has_to_be_asked_for() {
        for (rules, version) in [
            (Ruleset::default(), 2),
            (Ruleset::default().least_version(5), 4),
            (Ruleset::default().least_version(0), 0),
        ] {
            let error = rules.for_version(version).unwrap_err();
            assert_eq!(error.code(), "LandlockUnavailable");
            assert_eq!(error.found(), Some(version.to_string().as_str()));
        }
        assert!(Ruleset::default().least_version(2).for_version(2).is_ok());
    }
}
