//! What several tests need.

use std::path::Path;

/// Whether the test can run: it needs root.
pub(crate) fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skip {test}: needs root");
    }
    root
}

/// A directory that goes with the test.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    /// A directory in memory, where files are quick to make.
    pub(crate) fn in_memory() -> Self {
        let shared = Path::new("/dev/shm");
        let above = if shared.is_dir() {
            shared.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        Self(tempfile::tempdir_in(above).unwrap())
    }

    /// A directory on whatever disk takes temporary files.
    pub(crate) fn on_disk() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}
