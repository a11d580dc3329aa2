//! What these tests share: isolation from the host and the check that nothing is left behind, which the tests of the
//! whole suite have, and a small root file system to run things in.

pub(crate) mod block;
pub(crate) mod bundle;
pub(crate) mod group;
#[path = "../../../../tests/it/support/host.rs"]
pub(crate) mod host;
#[path = "../../../../tests/it/support/isolate.rs"]
pub(crate) mod isolate;
#[path = "../../../../tests/it/support/peers.rs"]
pub(crate) mod peers;
pub(crate) mod role;
pub(crate) mod runtime;
pub(crate) mod sys;

use std::io::Write;

/// Tells why a test, or a part of one, is not run. Goes past the capture of the test harness, so that skips can be
/// counted.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current();
    let _ = writeln!(
        std::io::stderr(),
        "skipped: {}: {why}",
        test.name().unwrap_or("main")
    );
}
