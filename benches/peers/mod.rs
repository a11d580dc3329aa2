//! Programs of others to compare with.

use std::io::Write;
use std::path::PathBuf;

/// Finds a program on the search path or in the directories for administrators; says so if there is
/// none.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        say(&format!("skipped: {name}, which is not installed"));
    }
    found
}

/// Tells why something is not measured.
pub(crate) fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
