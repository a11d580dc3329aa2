//! Container networks over netlink alone: bridges, veth pairs, NAT, published ports.

mod error;
pub use error::{Error, ErrorKind, Result};
