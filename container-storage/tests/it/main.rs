//! Integration tests of `container-storage`: public API only.

#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test skips and fails in this way"
)]

mod choice;
mod conformance;
mod kill;
mod support;
mod view;
