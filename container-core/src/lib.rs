//! Run isolated processes on Linux.

mod error;
pub use error::{Error, ErrorKind, Result};
pub use oci_spec;
