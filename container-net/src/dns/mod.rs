//! How names become addresses inside a container.

mod files;

pub use files::{ResolvConfOptions, hostname, hosts, parse_extra_host, resolv_conf};
