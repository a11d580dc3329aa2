//! What the end-to-end tests share: isolation from the host and from each other, the check that nothing is left
//! behind, programs of others to compare with, and images to work on.

pub(crate) mod fixtures;
pub(crate) mod host;
pub(crate) mod isolate;
pub(crate) mod peers;

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
