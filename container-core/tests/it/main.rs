//! Integration tests of `container-core`: public API only.

mod cgroup;
mod contract;
mod exec;
mod namespaces;
mod plan;
mod rows;
mod runtime;
mod start;
mod support;
mod terminal;
mod threats;

#[global_allocator]
static ALLOCATOR: support::sys::Watched = support::sys::Watched;
