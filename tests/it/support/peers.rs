//! Programs of others that tests compare with or are fed by.

use std::path::PathBuf;

use super::skip;

/// Finds the program `name` on the search path.
///
/// Without it the test should return: the reason has been printed. With `REQUIRE_PEERS=1`, as in continuous
/// integration, a missing peer fails the test instead.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let found = search_path()
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "the peer program `{name}` is not installed");
        skip(&format!("the peer program `{name}` is not installed"));
    }
    found
}

/// The directories of `PATH`, then those for administrators, which the `PATH` of a plain user may lack.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_a_program_by_name() {
        assert!(super::find("sh").is_some_and(|path| path.ends_with("sh")));
    }
}
