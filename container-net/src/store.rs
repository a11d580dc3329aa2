//! Small files: written so that a reader never sees half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::{Error, ErrorKind, Result};

/// The most that a document may have; ours are below two kilobytes.
const MAX_DOCUMENT_BYTES: u64 = 1024 * 1024;
/// How long a lock may be held by others. What is done under one takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether a file has to survive the loss of power.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It lives until the next boot at most.
    Boot,
    /// It is on the disk when the call returns.
    Disk,
}

/// An exclusive lock, held until this is dropped (or the process dies).
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    /// Closing the file would not do: what another thread starts meanwhile has it open, too, until it
    /// is executed.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes the lock `path`, waiting for others to release it.
pub(crate) fn lock(path: &Path) -> Result<Lock> {
    const FIRST_PAUSE: Duration = Duration::from_micros(50);
    const LONGEST_PAUSE: Duration = Duration::from_millis(2);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Error::os(format!("open lock {path:?}"), source))?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut pause = FIRST_PAUSE;
    loop {
        match try_lock(&file) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(Errno::WOULDBLOCK) => {
                let doing = format!("wait for lock {path:?}");
                return Err(Error::new(ErrorKind::TimedOut, "LockTimeout", doing).with_retry());
            }
            Err(errno) => return Err(Error::os(format!("lock {path:?}"), errno)),
        }
    }
}

fn try_lock(file: &File) -> Result<(), Errno> {
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Whether somebody holds a lock on the file `path` itself.
pub(crate) fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    matches!(try_lock(&file), Err(Errno::WOULDBLOCK))
}

/// Makes a directory and those above it, for the owner alone.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::os(format!("create directory {path:?}"), source))
}

/// Writes a file in one step, over what was there; it is locked as long as the returned lock is held.
pub(crate) fn write(path: &Path, content: &[u8], durability: Durability) -> Result<Lock> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary_of(path);
    let written = || -> io::Result<Lock> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        try_lock(&file)?;
        file.write_all(content)?;
        if durability == Durability::Disk {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durability == Durability::Disk {
            File::open(directory)?.sync_all()?;
        }
        Ok(Lock(file))
    };
    written().map_err(|source| {
        // The failure of the write is what matters; a leftover is overwritten by the next one.
        let _ = fs::remove_file(&temporary);
        Error::os(format!("write {path:?}"), source)
    })
}

/// Names that begin with a dot are temporary; no document's does.
fn temporary_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}"))
}

/// Makes a small file that must not exist yet; false if it does.
pub(crate) fn create_new(path: &Path, content: &[u8]) -> Result<bool> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = match file {
        Ok(mut file) => file.write_all(content),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(source) => Err(source),
    };
    written
        .map(|()| true)
        .map_err(|source| Error::os(format!("create {path:?}"), source))
}

/// Reads a file, `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let mut content = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES).read_to_string(&mut content));
    match read {
        Ok(_) => Ok(Some(content)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::os(format!("read {path:?}"), source)),
    }
}

/// Removes a file; gone is as good.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::os(format!("remove {path:?}"), source))
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it; gone is as good.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::os(format!("remove {path:?}"), source))
        }
        _ => Ok(()),
    }
}

/// Removes what a dead process was writing to `directory`. Nobody else may be writing there.
pub(crate) fn remove_temporaries(directory: &Path) -> Result<()> {
    for name in all_names(directory)? {
        let path = directory.join(&name);
        if name.starts_with('.') && !path.is_dir() {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The names in a directory in their order, without temporary files; none if it does not exist.
pub(crate) fn names(path: &Path) -> Result<Vec<String>> {
    let mut names = all_names(path)?;
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    Ok(names)
}

fn all_names(path: &Path) -> Result<Vec<String>> {
    let failed = |source| Error::os(format!("list {path:?}"), source);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}
