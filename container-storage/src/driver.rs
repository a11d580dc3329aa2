//! What every driver offers, and the words for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Keeps file system states as a tree of snapshots and tells how to mount them.
///
/// A **snapshot** is one of three kinds. An *active* is writable and has a *key*; a *view* is
/// read-only and has a key; a *committed* snapshot never changes, has a *name*, and only it can be
/// a parent. Keys and names are one space: letters, digits and `:._-`, 1 to 255 of them, not
/// starting with a dot.
///
/// # Lifecycle
///
/// ```text
///   prepare(key, parent) ──► active ──commit(name, key)──► committed ──► parent of others
///   view(key, parent) ─────► view            │                 │
///                              └──────────── remove ───────────┘   Busy while it has children
/// ```
///
/// A layer becomes a snapshot in this way: `prepare` an active, unpack into its [`target`], and
/// `commit` it. Where [`can_rebase`] is true, actives without a parent may be filled side by side
/// and get their parent at the commit; elsewhere each is prepared on the one below it.
///
/// A container gets an active on its image's last layer, mounts what [`prepare`] returns, and asks
/// [`mounts`] again for every later mount of it. Who mounts must unmount before `commit` and
/// `remove`.
///
/// # Guarantees
///
/// Many threads and processes may use one store at once. What a call that succeeded made is
/// complete after a crash, and after a power cut too where [`DriverOptions::sync`] is set and for
/// every committed snapshot; what a call left half done is invisible, and removed or finished by
/// [`recover`]. `remove` works on a full disk. One damaged record spoils no other snapshot.
///
/// # Drivers of your own
///
/// The trait is open. `container_storage::testsuite` (feature `_testsuite`) holds the list of
/// cases that a driver must pass.
///
/// [`target`]: Driver::target
/// [`can_rebase`]: Driver::can_rebase
/// [`prepare`]: Driver::prepare
/// [`mounts`]: Driver::mounts
/// [`recover`]: Driver::recover
///
/// # Examples
///
/// ```no_run
/// use container_storage::{CommitOptions, DriverOptions, open};
///
/// # fn main() -> container_storage::Result<()> {
/// let driver = open("/var/lib/example/storage", &DriverOptions::default())?;
/// driver.prepare("unpack-1", None)?;
/// let target = driver.target("unpack-1")?;
/// // … unpack a layer into target.directory …
/// driver.commit("sha256:1f0c", "unpack-1", &CommitOptions::default())?;
/// let mounts = driver.prepare("web", Some("sha256:1f0c"))?;
/// // … run a container on the mounts …
/// driver.remove("web")?;
/// # Ok(()) }
/// ```
pub trait Driver: Send + Sync + fmt::Debug {
    /// Tells which driver this is.
    fn kind(&self) -> Kind;

    /// Makes the active `key` on the committed snapshot `parent`, or empty, and tells how to mount it.
    ///
    /// The mounts are to be made in order; their destinations are relative to the root file
    /// system, `/` being its root. An overlay has one `lowerdir+=<absolute path>` option for each
    /// lower directory, top first, as `fsconfig(2)` takes them since Linux 6.8.
    ///
    /// # Errors
    /// `AlreadyExists` if the key is taken, `NotFound` if the parent does not exist,
    /// `InvalidState` if it is not committed, `InvalidInput` for a hostile key.
    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>>;

    /// Makes the read-only view `key` of the committed snapshot `parent` and tells how to mount it.
    ///
    /// # Errors
    /// As [`prepare`](Driver::prepare).
    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>>;

    /// Tells again how to mount the active or view `key`, and makes it ready for one more mount.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if it is committed.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Tells where and in which form a layer is unpacked into the active `key`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` if it is not an active.
    fn target(&self, key: &str) -> Result<Target>;

    /// Turns the active `key` into the committed snapshot `name`; the key is free afterwards.
    ///
    /// The data reach the disk before the record says so. The active must not be mounted any more.
    ///
    /// # Errors
    /// `AlreadyExists` if the name is taken, `NotFound`, `Busy` if another thread is at it,
    /// `Unsupported` for a rebase where [`can_rebase`](Driver::can_rebase) is false. The active is
    /// unchanged after an error, but for the metadata of implied directories.
    fn commit(&self, name: &str, key: &str, options: &CommitOptions<'_>) -> Result<()>;

    /// Tells whether `commit` can give a parent to an active that was prepared without one.
    fn can_rebase(&self) -> bool;

    /// Calls `visit` for each path in which the snapshot differs from its parent.
    ///
    /// A directory comes before what is in it, siblings come in byte order. Where a directory is
    /// new, all that is in it is reported; where one is gone, only the directory itself. A
    /// directory is modified if its own metadata differ or an entry was added or deleted in it.
    /// The root itself is never reported. No lock is held during the calls.
    ///
    /// # Errors
    /// The first error of `visit`; `NotFound`; any error in reading.
    fn changes(&self, key_or_name: &str, visit: &mut dyn FnMut(Change) -> Result<()>)
    -> Result<()>;

    /// Makes the active `new_key` with the parent and the present content of the active `key`.
    ///
    /// What is written meanwhile may be in the duplicate or not: pause the writer first.
    ///
    /// # Errors
    /// As [`prepare`](Driver::prepare).
    fn duplicate(&self, new_key: &str, key: &str) -> Result<()>;

    /// Removes a snapshot of any kind, a broken one too; succeeds if there is none.
    ///
    /// The name is free as soon as this returns, even with an error in deleting the files, which
    /// [`recover`](Driver::recover) then finishes.
    ///
    /// # Errors
    /// `Busy` while it has children, is being made or committed, or something is mounted in it.
    fn remove(&self, key_or_name: &str) -> Result<()>;

    /// Tells kind, parent and age of one snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    fn stat(&self, key_or_name: &str) -> Result<Info>;

    /// Counts what the snapshot itself takes on the disk, without what it shares with its parents.
    ///
    /// # Errors
    /// `NotFound`; any error in reading.
    fn usage(&self, key_or_name: &str) -> Result<Usage>;

    /// Calls `visit` for every snapshot, in byte order of the names, broken ones included.
    ///
    /// No lock is held during the calls.
    ///
    /// # Errors
    /// The first error of `visit`.
    fn list(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()>;

    /// Finishes or undoes what dead processes left half done; living ones are left alone.
    ///
    /// # Errors
    /// Any error in deleting; the rest is done all the same.
    fn recover(&self) -> Result<Recovered>;
}

/// Names a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// The kernel's overlay file system over plain directories.
    Overlay,
    /// Subvolumes and snapshots of btrfs.
    Btrfs,
    /// Thin volumes of the device mapper.
    DeviceMapper,
    /// Datasets, snapshots and clones of ZFS.
    Zfs,
    /// The kernel's AUFS, or a FUSE union with its semantics.
    Aufs,
    /// Full copies of directories; works everywhere.
    Vfs,
    /// A driver of another crate.
    Other,
}

impl Kind {
    /// The kinds that can be asked for by name, best first.
    pub const ALL: [Self; 6] = [
        Self::Overlay,
        Self::Btrfs,
        Self::Zfs,
        Self::Aufs,
        Self::DeviceMapper,
        Self::Vfs,
    ];

    /// The name as configuration and `info` write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Btrfs => "btrfs",
            Self::DeviceMapper => "devicemapper",
            Self::Zfs => "zfs",
            Self::Aufs => "aufs",
            Self::Vfs => "vfs",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    /// Reads a name as [`Kind::as_str`] writes it; `overlay2` is Docker's word for `overlay`.
    fn from_str(name: &str) -> Result<Self> {
        let name = if name == "overlay2" { "overlay" } else { name };
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| Error::invalid("InvalidDriver", format!("read storage driver {name:?}")))
    }
}

/// How a store is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverOptions {
    /// The driver to use; by default the one that the store has, or for a new store the best that
    /// the host supports.
    pub kind: Option<Kind>,
    /// Whether actives and views survive a power cut (the default).
    ///
    /// Without it `prepare`, `view` and `remove` wait for no disk, and overlay mounts are
    /// `volatile`: right for containers that die with their program. Committed snapshots are
    /// always synced. A store may be opened twice, in both ways.
    pub sync: bool,
}

impl DriverOptions {
    /// Sets the driver.
    #[must_use]
    pub const fn kind(mut self, kind: Option<Kind>) -> Self {
        self.kind = kind;
        self
    }

    /// Sets whether actives and views survive a power cut.
    #[must_use]
    pub const fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            kind: None,
            sync: true,
        }
    }
}

/// Where a layer is unpacked to, and how it says there that something is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The directory that takes the layer's root.
    pub directory: PathBuf,
    /// The form of whiteouts and opaque directories.
    pub whiteouts: WhiteoutForm,
}

impl Target {
    /// A target at `directory` with `whiteouts`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, whiteouts: WhiteoutForm) -> Self {
        Self {
            directory: directory.into(),
            whiteouts,
        }
    }
}

/// How a directory says that something of a lower layer is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhiteoutForm {
    /// Nothing is written: the directory holds the parent's files, and what the layer deletes is deleted.
    Apply,
    /// A character device 0:0, and `trusted.overlay.opaque` = `y` on directories.
    Overlay,
    /// A character device 0:0, and `user.overlay.opaque` = `y` on directories: for overlay mounts
    /// in a user namespace.
    OverlayUser,
}

/// What a commit may do beside renaming.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct CommitOptions<'a> {
    /// The parent that an active without one gets; for an active with a parent, this or nothing.
    pub parent: Option<&'a str>,
    /// Directories that the layer has only because something is in them; they get owner, mode,
    /// xattrs and times of the parent's directory, if it has one there. Relative paths; the empty
    /// path is the root.
    pub implied_directories: &'a [PathBuf],
}

impl<'a> CommitOptions<'a> {
    /// Sets the parent.
    #[must_use]
    pub const fn parent(mut self, parent: Option<&'a str>) -> Self {
        self.parent = parent;
        self
    }

    /// Sets the implied directories.
    #[must_use]
    pub const fn implied_directories(mut self, directories: &'a [PathBuf]) -> Self {
        self.implied_directories = directories;
        self
    }
}

/// One path in which a snapshot differs from its parent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The path relative to the root, without a leading slash.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

impl Change {
    /// A change of `kind` at `path`.
    #[must_use]
    pub fn new(kind: ChangeKind, path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_path_buf(),
            kind,
        }
    }
}

impl fmt::Display for Change {
    /// Writes the change as `docker diff` does: `C /etc`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        write!(f, "{letter} /{}", self.path.display())
    }
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// The parent does not have it.
    Added,
    /// Content or metadata differ, or it is of another type.
    Modified,
    /// Only the parent has it.
    Deleted,
}

/// The kind of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SnapshotKind {
    /// Writable, with a key.
    Active,
    /// Read-only, with a key.
    View,
    /// Immutable, with a name; can be a parent.
    Committed,
    /// Half made, or its record or directory is damaged: only `remove` takes it.
    Broken,
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The key or name.
    pub name: String,
    /// The kind.
    pub kind: SnapshotKind,
    /// The parent's name; none if it has no parent, or if a broken record does not tell.
    pub parent: Option<String>,
    /// When it was prepared; the epoch if a broken record does not tell.
    pub created: SystemTime,
}

impl Info {
    /// What is known of the snapshot `name`, of `kind`, on `parent`, made at `created`.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        kind: SnapshotKind,
        parent: Option<String>,
        created: SystemTime,
    ) -> Self {
        Self {
            name: name.into(),
            kind,
            parent,
            created,
        }
    }
}

/// What a snapshot takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes; hard links count once, holes not at all.
    pub size_bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// What [`Driver::recover`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Snapshots whose commit was finished.
    pub finished: Vec<String>,
    /// Keys whose creation was undone.
    pub undone: Vec<String>,
    /// Snapshots that are set aside: listed as broken, to be removed by name.
    pub broken: Vec<String>,
    /// Directories without a record that were deleted.
    pub swept: usize,
}

/// Refuses what cannot be a key or name: it becomes a file name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":._-".contains(&byte);
    if (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::invalid(
        "InvalidName",
        format!("use {shown:?} as the name of a snapshot"),
    ))
}

/// `NAME_MAX` of `linux/limits.h`.
const MAX_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        let longest = "a".repeat(255);
        for good in ["a", "sha256:0f", "web_1.2-x", "0", &longest] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", ".", "..", ".a", "a/b", "../x", "a\0", "a b", "é", "a\n", &long,
        ] {
            assert_eq!(
                check_name(bad).unwrap_err().code(),
                "InvalidName",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>().unwrap(), kind);
        }
        assert_eq!("overlay2".parse::<Kind>().unwrap(), Kind::Overlay);
        for bad in ["../../bin/sh", "", "other", "Overlay"] {
            assert_eq!(
                bad.parse::<Kind>().unwrap_err().code(),
                "InvalidDriver",
                "{bad:?}"
            );
        }
    }
}
