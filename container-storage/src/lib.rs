//! Union-mount snapshots for containers: overlay, vfs and more behind one trait.

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
