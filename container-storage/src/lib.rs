//! Union-mount snapshots for containers: overlay, vfs and more behind one trait.
//!
//! An image is a stack of read-only layers, a container one writable layer on top. This crate keeps
//! the layers on disk as **snapshots**, each on its parent, and tells how to mount a stack of them:
//! it hands out [`oci_spec::runtime::Mount`]s and leaves it to the caller to make them inside a
//! container, or makes them itself for a look from outside ([`mount()`]).
//!
//! ```no_run
//! use container_storage::{CommitOptions, DriverOptions, mount, open};
//!
//! # fn main() -> container_storage::Result<()> {
//! let driver = open("/var/lib/example/storage", &DriverOptions::default())?;
//! driver.prepare("unpack", None)?;                      // an empty active
//! let target = driver.target("unpack")?;                // unpack a layer into target.directory
//! driver.commit("base", "unpack", &CommitOptions::default())?;
//!
//! let mounts = driver.prepare("web", Some("base"))?;    // the root file system of a container
//! let root = mount(&mounts, "/mnt")?;
//! root.unmount()?;
//! driver.changes("web", &mut |change| {
//!     println!("{change}");                             // as `docker diff`
//!     Ok(())
//! })?;
//! driver.remove("web")?;
//! # Ok(()) }
//! ```
//!
//! # Drivers
//!
//! | driver | a snapshot is | needs |
//! | --- | --- | --- |
//! | [`Kind::Overlay`] | the difference to its parent | Linux 5.12, an upper file system with xattrs and `d_type` (ext4, xfs, btrfs, tmpfs) |
//! | [`Kind::Vfs`] | a full copy of its parent, with shared blocks where the file system can | nothing |
//!
//! The other kinds have names already and are refused with the reason. [`open`] chooses for a new
//! store and keeps the choice; [`probe`] tells why a driver cannot be used. Overlay needs 6.8 for
//! layers beyond what one page of mount options holds (some 300). Without privilege the mounts are
//! made by a process in a user namespace, so the probe, which cannot try them, chooses vfs; a caller
//! that runs in that namespace gets overlay with `userxattr`.
//!
//! # Trust
//!
//! Trusted are the kernel, the caller and the directory of the store, which is 0700. What is in a
//! snapshot is not: it may come from a hostile image or be written by a container at this moment.
//! Trees are walked by descriptor with `openat2(2)`, without following links or crossing mounts,
//! and without recursion; device nodes are never opened; names become file names only after a
//! check. A layer's own `trusted.overlay.*` xattrs must not be unpacked: whoever fills a target
//! filters them.
//!
//! # Processes, threads, crashes
//!
//! Any number of processes and threads may use a store at once. Calls block, on the disk above
//! all; none waits for another that copies or syncs. The embedding program's working directory,
//! umask and namespaces are never changed. See [`Driver`] for what survives a crash.
//!
//! # Features
//!
//! None that users need. `_testsuite` has the cases that drivers of other crates must pass.

mod error;
pub use error::{Error, ErrorKind, Result};

mod driver;
pub use driver::{
    Change, ChangeKind, CommitOptions, Driver, DriverOptions, Info, Kind, Recovered, SnapshotKind,
    Target, Usage, WhiteoutForm,
};

mod detect;
pub use detect::{open, probe};

mod mount;
pub use mount::{MountGuard, mount, mount_detached};

mod changes;
mod copy;
mod metadata;
mod overlay;
mod store;
mod sys;
mod tree;
mod vfs;

#[cfg(feature = "_testsuite")]
#[doc(hidden)]
pub mod testsuite;

pub use oci_spec;
