//! Files and directories that go again unless they are wanted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file that gets its name when it is complete.
pub(crate) struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
    done: bool,
}

impl Temporary {
    /// Makes the file that is to become `target`, in the same directory.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let path = parent.join(unique());
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| doing("create", &path, error))?;
        let target = target.to_owned();
        Ok(Self {
            file,
            path,
            target,
            done: false,
        })
    }

    /// Gives the file its name; it is on disk then.
    pub(super) fn persist(mut self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.target))
            .map_err(|error| doing("write", &self.target, error))?;
        self.done = true;
        let parent = self
            .target
            .parent()
            .filter(|path| !path.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))
            .and_then(|directory| directory.sync_all())
            .map_err(|error| doing("sync the directory of", &self.target, error))
    }
}

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A directory for its owner alone, which goes with all that is in it.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(parent: &Path) -> Result<Self> {
        let path = parent.join(unique());
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| doing("make directory", &path, error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name that nobody else has; who creates it finds out if somebody does.
fn unique() -> String {
    let number = RandomState::new().hash_one(std::process::id());
    format!(".container-image-{number:016x}")
}

fn doing(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::os(format!("{doing} {}", path.display()), error)
}
