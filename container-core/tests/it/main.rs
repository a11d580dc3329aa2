//! Integration tests of `container-core`: public API only.

mod cgroup;
mod contract;
mod namespaces;
mod plan;
mod rows;
mod start;
mod support;
mod threats;

#[global_allocator]
static ALLOCATOR: support::sys::Watched = support::sys::Watched;
