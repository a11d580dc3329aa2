//! Integration tests of `container-core`: public API only.

mod start;
mod support;
