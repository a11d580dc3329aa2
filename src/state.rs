//! Documents and locks.
//!
//! ```text
//! <root>/                       0700, survives a boot
//!   image/                      OCI image layout: the images
//!   storage/                    snapshots: layers unpacked, writable layers
//!   network/                    the networks
//!   containers/<id>/            one directory for each container that was created to stay
//!     container.json            what it is; written first, removed last
//!     started                   there once it has been started
//!     exit.json                 how it ended last time
//!     hostname hosts resolv.conf
//!   lease.lock                  shared by whoever unpacks, exclusive for whoever sweeps snapshots
//! <run>/                        0700, on a tmpfs
//!   containers/<id>/            the same for containers that go with their program; for others:
//!     init.json start           who runs it; where it waits for its start
//!   network/                    leases, attachments
//!   cgroup.json                 there if the cgroup parent was not, so that it is ours to remove
//!   rootfs/                     where every container mounts its root, in its own mount namespace
//! ```
//!
//! A container's directory is locked (`flock`) by the program that is changing it, and for its whole
//! life by the program that an attached container belongs to: the kernel frees the lock when that
//! program dies, and then the next [`Engine`](crate::Engine) cleans up.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::RunConfig;
use crate::lower::Doing;
use crate::{Error, ErrorKind, Result};

/// The document of a container.
pub(crate) const DOCUMENT: &str = "container.json";

/// How its last run ended.
pub(crate) const EXIT: &str = "exit.json";

/// Says that it has been started at least once.
pub(crate) const STARTED: &str = "started";

/// How long a verb waits for another program that is changing the same container.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The form of the documents that this version writes.
const VERSION: u32 = 1;

/// No document is larger.
const MAX_DOCUMENT: u64 = 4 << 20;

/// What a container is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    /// The digest of the image's manifest.
    pub(crate) image: String,
    /// What the caller called the image.
    pub(crate) image_name: Option<String>,
    /// What the image runs by default: the container keeps it when the image goes.
    pub(crate) image_defaults: container_image::RunConfig,
    /// The snapshot of the image's last layer.
    pub(crate) layer: Option<String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// Goes with the program that made it.
    pub(crate) ephemeral: bool,
    pub(crate) config: RunConfig,
}

impl Record {
    pub(crate) fn new(id: String, config: RunConfig, ephemeral: bool) -> Self {
        Self {
            version: VERSION,
            id,
            name: None,
            image: String::new(),
            image_name: None,
            image_defaults: container_image::RunConfig::default(),
            layer: None,
            created: jiff::Timestamp::now().to_string(),
            ephemeral,
            config,
        }
    }
}

/// A locked directory of a container.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Drop for Directory {
    /// Closing the file would not do: what another thread starts meanwhile has it open, too, until it is
    /// executed.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Directory {
    /// Makes the directory and locks it; `parent` is the lock of the directory that it is made in, so
    /// that nobody takes it for an abandoned one before it is locked.
    pub(crate) fn create(path: PathBuf, _parent: &ParentLock) -> Result<Self> {
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .doing(|| format!("make directory {path:?}"))?;
        Self::try_lock(&path)?.ok_or_else(|| busy(&path))
    }

    /// Locks an existing directory; waits for a program that is changing it.
    ///
    /// # Errors
    /// `Busy` (`ContainerBusy`) if that takes longer than [`LOCK_TIMEOUT`].
    pub(crate) fn lock(path: &Path) -> Result<Self> {
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            if let Some(directory) = Self::try_lock(path)? {
                return Ok(directory);
            }
            if Instant::now() > end {
                return Err(busy(path));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Locks an existing directory; `None` if a living program has it.
    pub(crate) fn try_lock(path: &Path) -> Result<Option<Self>> {
        let lock = File::open(path).doing(|| format!("open {path:?}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self {
                path: path.to_owned(),
                lock,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::os(format!("lock {path:?}"), error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the directory with all that is in it.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_tree(&self.path)
    }
}

/// The lock of a directory of containers: shared to add one, exclusive to look for abandoned ones, or
/// to give one a name.
#[derive(Debug)]
pub(crate) struct ParentLock {
    _lock: File,
}

impl ParentLock {
    pub(crate) fn shared(path: &Path) -> Result<Self> {
        let lock = File::open(path).doing(|| format!("open {path:?}"))?;
        lock.lock_shared().doing(|| format!("lock {path:?}"))?;
        Ok(Self { _lock: lock })
    }

    pub(crate) fn exclusive(path: &Path) -> Result<Self> {
        let lock = File::open(path).doing(|| format!("open {path:?}"))?;
        lock.lock().doing(|| format!("lock {path:?}"))?;
        Ok(Self { _lock: lock })
    }
}

/// The error for a container that another program is changing.
fn busy(path: &Path) -> Error {
    let what = format!("lock {path:?}, which another program is using");
    Error::new(ErrorKind::Busy, "ContainerBusy", what)
}

/// Removes a directory tree of ours; done if there is none.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {path:?}")),
    }
}

/// Removes a file of ours; done if there is none.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.doing(|| format!("remove {path:?}")),
    }
}

/// Makes a private directory, and those above it, unless they exist.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .doing(|| format!("make directory {path:?}"))
}

/// Replaces the document at `path`; `durable`: it survives a power cut.
pub(crate) fn write<T: Serialize>(path: &Path, document: &T, durable: bool) -> Result<()> {
    let bytes = serde_json::to_vec(document).map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            "DocumentEncoding",
            format!("encode {path:?}"),
        )
        .with_source(error)
    })?;
    replace(path, &bytes, durable).doing(|| format!("write {path:?}"))
}

fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) if durable => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads the document at `path`; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.doing(|| format!("open {path:?}"))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .doing(|| format!("read {path:?}"))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let what = format!("read the document {path:?}");
        Error::new(ErrorKind::Integrity, "BrokenDocument", what).with_source(error)
    })
}

/// The entries of a directory, sorted; none if it does not exist.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        }),
    };
    let mut listed = listed.doing(|| format!("list {path:?}"))?;
    listed.sort();
    Ok(listed)
}

/// 64 random hexadecimal digits.
pub(crate) fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .doing(|| "read \"/dev/urandom\"".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
