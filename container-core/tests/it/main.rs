//! Integration tests of `container-core`: public API only.

mod contract;
mod plan;
mod start;
mod support;
mod threats;
