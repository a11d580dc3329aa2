//! Integration tests of `container-image`: public API only.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests may panic, and say what they skip")]

mod builder;
mod conformance;
mod faults;
mod fixture;
mod layer;
mod peers;
mod registry;
mod store;
