//! What is written of a snapshot.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::driver::{Info, SnapshotKind};

/// The document of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(super) version: u32,
    /// The key or name; differs from the file's name between the two steps of a commit.
    pub(crate) name: String,
    pub(crate) kind: SnapshotKind,
    pub(crate) state: State,
    pub(crate) parent: Option<String>,
    pub(crate) created: SystemTime,
    /// The directory `<n>`.
    pub(crate) directory: Number,
    /// The directories of the parent, its parent and so on, top first, as far as they are seen.
    /// They cannot change nor go while this record exists.
    pub(crate) lowers: Vec<Number>,
    /// Whether the root hides all that is below it, so that children need not look there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) opaque: bool,
    /// When the copy of the parent was complete, where the driver copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copied: Option<Stamp>,
}

impl Record {
    pub(crate) fn info(&self) -> Info {
        Info::new(&*self.name, self.kind, self.parent.clone(), self.created)
    }
}

/// Whether a snapshot can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its files are being put in place.
    Creating,
    /// It is complete.
    Ready,
}

/// A moment as the file system's own change times tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// The number that names a snapshot's directory; short, so that many lower directories fit one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Number(pub(super) u32);

impl Number {
    /// A number that is very likely free; who uses it finds out.
    pub(super) fn random() -> Self {
        // The hasher's keys come from the kernel's random numbers, once per thread, and differ
        // from call to call. No secret hangs on them.
        let bits = RandomState::new().build_hasher().finish();
        Self(u32::try_from(bits >> 32).expect("half of 64 bits fits"))
    }

    pub(super) fn parse(name: &OsStr) -> Option<Self> {
        let number = u32::from_str_radix(name.to_str()?, 16).ok().map(Self)?;
        (number.to_string().as_str() == name).then_some(number)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}
