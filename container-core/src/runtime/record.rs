//! The directory of a container: how it gets its name and its lock, and what is written in it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::state::{self, ProcessId};
use crate::{CreateOptions, Error, ErrorKind, Result, Supervision};

/// What a container is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    /// Since the epoch.
    created: Duration,
    /// The group that was, or was about to be, made for it.
    pub(super) cgroup: Option<Cgroup>,
    /// It has no monitor, so that what comes after its start and its end is up to whoever starts and
    /// deletes it.
    pub(super) disowned: bool,
    /// Its process, once everything is set up.
    pub(super) init: Option<Init>,
}

/// The first process of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Init {
    pub(super) process: ProcessId,
    /// The boot that the process belongs to; start times count from it.
    boot: String,
}

impl Record {
    pub(super) fn new(id: &str, options: &CreateOptions, cgroup: Option<Cgroup>) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            bundle: options.bundle.clone(),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            cgroup,
            disowned: options.supervision == Supervision::Disowned,
            init: None,
        }
    }

    pub(super) fn created(&self) -> SystemTime {
        UNIX_EPOCH + self.created
    }

    /// Reads the record in `directory`; `None` if there is none, or none that can be understood.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(STATE);
        match state::read::<Self>(&path) {
            Ok(record) => Ok(record.filter(|record| record.version == VERSION)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Error::os(format!("read {path:?}"), error)),
        }
    }
}

impl Init {
    /// Notes the process `pid`, which must exist.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let process = ProcessId::of(pid)
            .map_err(|error| Error::os(format!("read the start time of process {pid}"), error))?;
        let boot = boot_id()?;
        Ok(Self { process, boot })
    }

    /// Whether the process can still be there.
    pub(super) fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot)
    }
}

/// The directory of a container, held so that nobody else changes the container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) directory: PathBuf,
    _lock: File,
}

impl Entry {
    /// Makes the directory of a container that there is none of yet, with its documents.
    pub(super) fn create(root: &Path, record: &Record, spec: &Spec) -> Result<Self> {
        let failed = |path: &Path, error| Error::os(format!("make {path:?}"), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(|error| failed(root, error))?;
        let nameless = root.join(nameless());
        DirBuilder::new()
            .mode(0o700)
            .create(&nameless)
            .map_err(|error| failed(&nameless, error))?;
        let directory = root.join(&record.id);
        let made = Self::fill(&nameless, record, spec).and_then(|lock| {
            match renameat_with(CWD, &nameless, CWD, &directory, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(lock),
                Err(Errno::EXIST) => {
                    let what = format!("create container {}, which exists", record.id);
                    Err(Error::new(
                        ErrorKind::AlreadyExists,
                        "ContainerExists",
                        what,
                    ))
                }
                Err(errno) => Err(failed(&directory, io::Error::from(errno))),
            }
        });
        match made {
            Ok(lock) => Ok(Self {
                directory,
                _lock: lock,
            }),
            Err(error) => {
                let _ = fs::remove_dir_all(&nameless);
                Err(error)
            }
        }
    }

    fn fill(directory: &Path, record: &Record, spec: &Spec) -> Result<File> {
        let lock = open(directory)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => Error::os(format!("lock {directory:?}"), error),
            TryLockError::WouldBlock => busy(directory),
        })?;
        write(directory, STATE, record)?;
        write(directory, CONFIG, spec)?;
        Ok(lock)
    }

    /// Takes the lock of the container `id`, and waits for others to give it back.
    ///
    /// # Errors
    /// `NotFound`; `Busy` after ten seconds.
    pub(super) fn lock(root: &Path, id: &str) -> Result<Self> {
        let directory = root.join(id);
        let end = Instant::now() + PATIENCE;
        loop {
            let lock = match open(&directory) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(unknown(id)),
                result => result?,
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
                Err(TryLockError::WouldBlock) => return Err(busy(&directory)),
                Err(TryLockError::Error(error)) => {
                    return Err(Error::os(format!("lock {directory:?}"), error));
                }
            }
            // It may have lost its name while we waited, and another one may have it now.
            if is_at(&lock, &directory) {
                return Ok(Self {
                    directory,
                    _lock: lock,
                });
            }
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        write(&self.directory, STATE, record)
    }

    /// Takes the container's name from it, then removes what it had.
    pub(super) fn remove(self) -> Result<()> {
        let root = self.directory.parent().unwrap_or(Path::new("/"));
        let nameless = root.join(nameless());
        let failed = |error| Error::os(format!("remove {:?}", self.directory), error);
        fs::rename(&self.directory, &nameless).map_err(failed)?;
        fs::remove_dir_all(&nameless).map_err(failed)
    }
}

/// The spec of the container in `directory`.
pub(super) fn read_spec(directory: &Path) -> Result<Spec> {
    let path = directory.join(CONFIG);
    let spec = state::read(&path).map_err(|error| Error::os(format!("read {path:?}"), error))?;
    spec.ok_or_else(|| Error::os(format!("read {path:?}"), Errno::NOENT))
}

/// Whether somebody is changing the container in `directory`.
pub(super) fn is_locked(directory: &Path) -> bool {
    let lock = open(directory).map(|directory| directory.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

/// Removes the directories below `root` that whoever made them did not live to name or remove.
pub(super) fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let nameless = entry.file_name().as_encoded_bytes().starts_with(b"~");
        // What a living process works on is locked from its first document on; before, it is empty.
        let abandoned = || state::read::<Record>(&path.join(STATE)).is_ok_and(|it| it.is_some());
        if nameless && abandoned() && !is_locked(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

pub(super) fn unknown(id: &str) -> Error {
    let what = format!("find container {id:?}: container does not exist");
    Error::new(ErrorKind::NotFound, "ContainerUnknown", what)
}

fn open(directory: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| Error::os(format!("open {directory:?}"), errno))
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |it: fs::Metadata| (it.dev(), it.ino());
    let here = file.metadata().map(identity).ok();
    here.is_some() && here == fs::symlink_metadata(path).map(identity).ok()
}

fn write<T: Serialize>(directory: &Path, name: &str, document: &T) -> Result<()> {
    let path = directory.join(name);
    state::write(&path, document, false)
        .map_err(|error| Error::os(format!("write {path:?}"), error))
}

fn busy(directory: &Path) -> Error {
    let what = format!("lock {directory:?}: somebody else is changing the container");
    Error::new(ErrorKind::Busy, "ContainerBusy", what).with_retry()
}

/// A name that no container can have and no other process uses now.
fn nameless() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("~{}-{number}", std::process::id())
}

fn boot_id() -> Result<String> {
    fs::read_to_string(BOOT_ID)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::os(format!("read {BOOT_ID:?}"), error))
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
const VERSION: u32 = 1;

/// How long to wait for others who change a container.
const PATIENCE: Duration = Duration::from_secs(10);
