//! Block devices as limits name them.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{
    LinuxThrottleDevice, LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};

use crate::{Error, Result};

/// A block device, for the limits and weights of [`LinuxBlockIo`](oci_spec::runtime::LinuxBlockIo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockDevice {
    major: u32,
    minor: u32,
}

impl BlockDevice {
    /// The device that `path` is, or is a link to.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` (`NotABlockDevice`) for anything else.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let doing = || format!("find block device {path:?}");
        let file = std::fs::metadata(path).map_err(|error| Error::os(doing(), error))?;
        if !file.file_type().is_block_device() {
            return Err(Error::invalid("NotABlockDevice", doing()));
        }
        let (major, minor) = (
            rustix::fs::major(file.rdev()),
            rustix::fs::minor(file.rdev()),
        );
        Ok(Self { major, minor })
    }

    /// A limit of it, in bytes or requests per second.
    #[must_use]
    pub fn throttle(self, rate: u64) -> LinuxThrottleDevice {
        let numbers = LinuxThrottleDeviceBuilder::default()
            .major(self.major)
            .minor(self.minor);
        // Every field has a default: nothing can be missing.
        numbers.rate(rate).build().unwrap_or_default()
    }

    /// A weight of its own, from 10 to 1000.
    #[must_use]
    pub fn weight(self, weight: u16) -> LinuxWeightDevice {
        let numbers = LinuxWeightDeviceBuilder::default()
            .major(self.major)
            .minor(self.minor);
        numbers.weight(weight).build().unwrap_or_default()
    }
}

/// `major:minor`, the key of [`Stats::io`](super::Stats::io).
impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}
