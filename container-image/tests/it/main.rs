//! Integration tests of `container-image`: public API only.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails and skips in this way"
)]

mod archive;
mod auth;
mod build;
mod builder;
mod client;
mod conformance;
mod copy;
mod edit;
mod faults;
mod fixture;
mod http;
mod layer;
mod lint;
mod mirrors;
mod network;
mod peers;
mod policy;
mod programs;
mod registry;
mod server;
mod store;
mod tls;
