//! Union-mount snapshots for containers: overlay, vfs and more behind one trait.

mod error;
pub use error::{Error, ErrorKind, Result};
