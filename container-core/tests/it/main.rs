//! Integration tests of `container-core`: public API only.

mod attributes;
mod bundles;
mod cdi;
mod cgroup;
mod cgroup_hosts;
mod cgroup_io;
mod cgroup_live;
mod cgroup_peers;
mod contract;
mod exec;
mod hooks;
mod init;
mod landlock;
mod mounts;
mod mounts_ids;
mod mounts_peers;
mod namespaces;
mod netns;
mod nsenter;
mod plan;
mod pods;
mod rootless;
mod rows;
mod runtime;
mod schema;
mod seccomp;
mod start;
mod supervision;
mod support;
mod terminal;
mod threats;
mod top;
mod worker;

#[global_allocator]
static ALLOCATOR: support::sys::Watched = support::sys::Watched;
