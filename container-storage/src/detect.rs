//! Which driver a store has, and what this host supports.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::driver::{Driver, DriverOptions, Kind};
use crate::overlay::Overlay;
use crate::store::{self, DIRECTORY, Store};
use crate::vfs::Vfs;
use crate::{Error, ErrorKind, Result, mount, tree};

/// Opens the store at `root`, or makes it with mode 0700.
///
/// A store keeps the driver that it was made with. A new one takes the driver that the options
/// name, else the first of overlay, btrfs, zfs, aufs and vfs that the host supports.
///
/// # Errors
/// `InvalidState` with code `DriverChanged` if the options name another driver than that of a store
/// with snapshots; `Unsupported` with the reason if the host does not support the one that they
/// name; `Integrity` if the choice cannot be read.
pub fn open(root: impl AsRef<Path>, options: &DriverOptions) -> Result<Box<dyn Driver>> {
    let root = root.as_ref();
    store::make_private_directory(root)?;
    let root = root
        .canonicalize()
        .map_err(|e| Error::os(format!("resolve {root:?}"), e))?;
    let directory = rustix::fs::open(&root, DIRECTORY, Mode::empty())
        .map_err(|e| Error::os(format!("open {root:?}"), e))?;
    let fits = |stored: &Choice| options.kind.is_none_or(|kind| kind == stored.kind);
    if let Some(stored) = Choice::read(&directory, &root)?.filter(fits) {
        return stored.open(&root, options);
    }
    let _lock = store::lock(&directory, FlockOperation::LockExclusive)
        .map_err(|e| Error::os(format!("lock {root:?}"), e))?;
    if let Some(stored) = Choice::read(&directory, &root)? {
        if fits(&stored) {
            return stored.open(&root, options);
        }
        if !Store::open(&root, stored.kind.as_str(), false)?.is_empty()? {
            let want = options.kind.unwrap_or(stored.kind);
            let doing = format!("open {root:?} with another driver than it has snapshots of");
            return Err(Error::mismatch("DriverChanged", doing, want, stored.kind)
                .with_kind(ErrorKind::InvalidState));
        }
    }
    let choice = Choice::make(&root, options.kind)?;
    choice.write(&directory, &root)?;
    choice.open(&root, options)
}

/// Tries whether the driver `kind` can keep a store at `root`, by doing once what it needs there.
///
/// Makes `root` if it does not exist, and the lock file in it; leaves nothing else behind.
///
/// # Errors
/// `Unsupported`, with the reason in words; any error in making the directory.
pub fn probe(root: impl AsRef<Path>, kind: Kind) -> Result<()> {
    let root = root.as_ref();
    store::make_private_directory(root)?;
    let _lock = rustix::fs::open(root, DIRECTORY, Mode::empty())
        .and_then(|directory| store::lock(directory, FlockOperation::LockExclusive))
        .map_err(|e| Error::os(format!("lock {root:?}"), e))?;
    probe_locked(root, kind)
}

/// What [`probe`] does, where the store's root is locked already.
fn probe_locked(root: &Path, kind: Kind) -> Result<()> {
    let unsupported = |why: &str| {
        let doing = format!("use storage driver {kind} at {root:?}: {why}");
        Err(Error::new(
            ErrorKind::Unsupported,
            "DriverUnsupported",
            doing,
        ))
    };
    match kind {
        Kind::Vfs => Ok(()),
        Kind::Overlay => probe_overlay(root).map_err(|error| {
            let doing = format!("use storage driver {kind} at {root:?}: {}", why_not(&error));
            Error::new(ErrorKind::Unsupported, "DriverUnsupported", doing).with_source(error)
        }),
        Kind::Btrfs | Kind::Zfs | Kind::DeviceMapper | Kind::Aufs => {
            unsupported("it is not built into this version")
        }
        Kind::Other => unsupported("it belongs to another crate"),
    }
}

/// What a store was made with.
#[derive(Debug, Serialize, Deserialize)]
struct Choice {
    version: u32,
    kind: Kind,
    /// Whether overlay's own xattrs are `user.overlay.*`.
    #[serde(default)]
    user_xattrs: bool,
}

impl Choice {
    fn make(root: &Path, wanted: Option<Kind>) -> Result<Self> {
        let kind = match wanted {
            Some(kind) => {
                probe_locked(root, kind)?;
                kind
            }
            None => best(root)?,
        };
        let user_xattrs = kind == Kind::Overlay && in_user_namespace();
        Ok(Self {
            version: VERSION,
            kind,
            user_xattrs,
        })
    }

    fn read(directory: &OwnedFd, root: &Path) -> Result<Option<Self>> {
        let doing = || format!("read {:?}", root.join(CHOICE));
        let broken = || Error::new(ErrorKind::Integrity, "StoreBroken", doing());
        let bytes = match tree::read_file(directory, CHOICE, MAX_CHOICE) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|e| Error::os(doing(), e))?,
        };
        let choice: Self = serde_json::from_slice(&bytes).map_err(|e| broken().with_source(e))?;
        if choice.version == VERSION {
            Ok(Some(choice))
        } else {
            Err(broken())
        }
    }

    fn write(&self, directory: &OwnedFd, root: &Path) -> Result<()> {
        let os = |e: Errno| Error::os(format!("write {:?}", root.join(CHOICE)), e);
        let document = serde_json::to_vec(self).expect("three plain fields are valid JSON");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file =
            rustix::fs::openat(directory, NEW_CHOICE, flags | OFlags::CLOEXEC, mode).map_err(os)?;
        tree::write_all(&file, &document).map_err(os)?;
        rustix::fs::fsync(&file).map_err(os)?;
        rustix::fs::renameat(directory, NEW_CHOICE, directory, CHOICE).map_err(os)?;
        rustix::fs::fsync(directory).map_err(os)
    }

    fn open(&self, root: &Path, options: &DriverOptions) -> Result<Box<dyn Driver>> {
        match self.kind {
            Kind::Overlay => Ok(Box::new(Overlay::open(
                root,
                options.sync,
                self.user_xattrs,
            )?)),
            Kind::Vfs => Ok(Box::new(Vfs::open(root, options.sync)?)),
            kind => {
                let doing = format!("open {root:?}: driver {kind} is not built into this version");
                Err(Error::new(
                    ErrorKind::Unsupported,
                    "DriverUnsupported",
                    doing,
                ))
            }
        }
    }
}

/// The first kind of the order of preference that the host supports.
fn best(root: &Path) -> Result<Kind> {
    for kind in PREFERENCE {
        match probe_locked(root, kind) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::debug!(why = error.report(), "a storage driver is passed over");
            }
            other => return other.map(|()| kind),
        }
    }
    Ok(Kind::Vfs)
}

/// Mounts an overlay below `root` and looks whether deletions leave the marks that they must.
fn probe_overlay(root: &Path) -> Result<()> {
    let above = rustix::fs::open(root, DIRECTORY, Mode::empty())
        .map_err(|e| Error::os(format!("open {root:?}"), e))?;
    // The lock makes this ours alone, so what is there was left by a dead process.
    tree::remove(&above, OsStr::new(PROBE))?;
    let probed = try_overlay(&root.join(PROBE));
    let removed = tree::remove(&above, OsStr::new(PROBE));
    match probed {
        Ok(()) => removed,
        Err(error) => Err(error.with_cleanup(removed.err())),
    }
}

fn try_overlay(directory: &Path) -> Result<()> {
    for name in ["lower/d/old", "upper", "work"] {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).map_err(|e| Error::os(format!("make {path:?}"), e))?;
    }
    let file = directory.join("lower/f");
    std::fs::write(&file, "").map_err(|e| Error::os(format!("write {file:?}"), e))?;
    let user_xattrs = in_user_namespace();
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let mut options = vec![
        format!("lowerdir+={}", path("lower")),
        format!("upperdir={}", path("upper")),
        format!("workdir={}", path("work")),
    ];
    options.extend(crate::overlay::FLAGS.iter().map(|&flag| flag.to_owned()));
    options.extend(user_xattrs.then(|| "userxattr".to_owned()));
    let merged = mount::mount_detached(&[crate::overlay::overlay_mount(options)])?;

    let os = |doing: &str, errno: Errno| Error::os(doing.to_owned(), errno);
    let removal = AtFlags::REMOVEDIR;
    rustix::fs::unlinkat(&merged, "f", AtFlags::empty())
        .and_then(|()| rustix::fs::unlinkat(&merged, "d/old", removal))
        .and_then(|()| rustix::fs::unlinkat(&merged, "d", removal))
        .and_then(|()| rustix::fs::mkdirat(&merged, "d", Mode::RWXU))
        .map_err(|e| os("delete and make files in an overlay", e))?;
    drop(merged);

    let upper = rustix::fs::open(directory.join("upper"), DIRECTORY, Mode::empty())
        .map_err(|e| os("open the upper directory", e))?;
    let missing = |what: &str| {
        Err(Error::new(
            ErrorKind::Unsupported,
            "DriverUnsupported",
            what.to_owned(),
        ))
    };
    if !has_types(upper.as_fd()).map_err(|e| os("read the upper directory", e))? {
        return missing("the file system does not tell the type of a directory's entries (d_type)");
    }
    let key = if user_xattrs {
        c"user.overlay.opaque"
    } else {
        c"trusted.overlay.opaque"
    };
    let mark = tree::xattr(&upper, OsStr::new("d"), key).map_err(|e| os("read an xattr", e))?;
    if mark.as_deref() != Some(b"y") {
        return missing("the file system does not keep overlay's extended attributes");
    }
    Ok(())
}

/// Whether the file system tells in a listing what is a directory and what a device.
fn has_types(directory: rustix::fd::BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() == c"f" {
            return Ok(entry.file_type() == FileType::CharacterDevice);
        }
    }
    Ok(false)
}

/// Why an overlay cannot be used, from how its probe failed.
fn why_not(error: &Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => String::from(
            "mounting needs CAP_SYS_ADMIN; without it the mounts of a container are made by another \
             process in a user namespace of its own, and nothing can be tried from here",
        ),
        ErrorKind::Os(errno) if errno == Errno::NODEV.raw_os_error() => {
            String::from("the kernel has no overlay file system (module overlay)")
        }
        ErrorKind::Os(errno) if errno == Errno::INVAL.raw_os_error() => String::from(
            "the kernel refuses the file system as the upper one; overlay, NFS and most FUSE file \
             systems cannot be that",
        ),
        _ => error.report(),
    }
}

/// Whether this process is in a user namespace other than the host's.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The order in which a new store tries the drivers. The device mapper needs a pool first.
const PREFERENCE: [Kind; 5] = [Kind::Overlay, Kind::Btrfs, Kind::Zfs, Kind::Aufs, Kind::Vfs];

const PROBE: &str = ".probe";
const CHOICE: &str = "driver";
const NEW_CHOICE: &str = "driver.new";
const VERSION: u32 = 1;
const MAX_CHOICE: usize = 4096;
