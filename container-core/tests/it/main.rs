//! Integration tests of `container-core`: public API only.

mod cgroup;
mod start;
mod support;
