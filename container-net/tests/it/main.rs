//! Integration tests of `container-net`: public API only.
//!
//! What changes the kernel happens in network namespaces made for each test: one plays the host,
//! one an outside machine on its wire, the others containers. Nothing of the real host is touched.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panics and tell why they skip"
)]

mod attach;
mod conformance;
mod isolation;
mod namespaces;
mod networks;
mod publish;
mod recovery;
mod world;
