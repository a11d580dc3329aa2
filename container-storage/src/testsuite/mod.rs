//! The cases that every driver must pass, those of other crates too.
//!
//! A crate with a driver of its own depends on this one with the feature `_testsuite` in its
//! `[dev-dependencies]` and has one test:
//!
//! ```no_run
//! use container_storage::testsuite::{Properties, run};
//! # use container_storage::{Driver, DriverOptions, Kind, Result};
//! # use std::path::Path;
//! # fn open_my_driver(root: &Path) -> Result<Box<dyn Driver>> {
//! #     container_storage::open(root, &DriverOptions::default().kind(Some(Kind::Vfs)))
//! # }
//!
//! let properties = Properties { shares_layers: true, works_on_tmpfs: true };
//! run("/var/tmp".as_ref(), properties, &open_my_driver);
//! ```
//!
//! It needs root (`CAP_SYS_ADMIN`, `CAP_CHOWN`, `CAP_MKNOD`): each case runs on a thread with a
//! mount namespace of its own, so the mounts of the host never change.

#![expect(clippy::unwrap_used, reason = "a case fails by a panic")]

mod content;
mod life;
mod limits;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::{CommitOptions, Driver, Result, mount};

/// What is true of some drivers only.
#[derive(Clone, Copy, Debug)]
pub struct Properties {
    /// A snapshot takes no room for what its parent has.
    pub shares_layers: bool,
    /// A store can be on a tmpfs; without that the cases of full disks are left out.
    pub works_on_tmpfs: bool,
}

/// Runs all cases, each with a new store in a directory of its own below `place`.
///
/// `open` opens a store, or makes it if the directory is empty or absent.
///
/// # Panics
/// If a case fails; the message has the names of all that failed.
pub fn run(
    place: &Path,
    properties: Properties,
    open: &(dyn Fn(&Path) -> Result<Box<dyn Driver>> + Sync),
) {
    let cases = content::CASES
        .iter()
        .chain(life::CASES)
        .chain(limits::CASES);
    let mut failed = Vec::new();
    for &(name, case) in cases {
        let root = place.join(format!("suite-{}-{name}", std::process::id()));
        let result = in_own_namespace(|| {
            let suite = Suite::new(&root, properties, open);
            case(&suite);
        });
        if result.is_err() {
            failed.push(name);
        }
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(failed.is_empty(), "failed cases: {failed:?}");
}

/// Runs `work` on a thread with a mount namespace of its own, from which nothing gets out.
///
/// # Errors
/// The panic of `work`.
pub fn in_own_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> std::thread::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            work()
        });
        thread.join()
    })
}

/// Mounts a tmpfs at `target`, with options such as `size=1m`.
pub fn mount_tmpfs(target: &Path, options: &str) {
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), &*options).unwrap();
}

/// One line for each file of a tree: type, mode, owner, size, time, xattrs and content.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut lines = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let mut line = format!(
            "{:o} {}:{} {} links={} {}.{:09}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.rdev(),
            if kind.is_dir() { 0 } else { stat.nlink() },
            stat.mtime(),
            stat.mtime_nsec()
        );
        if kind.is_symlink() {
            write!(line, " -> {:?}", fs::read_link(&path).unwrap()).unwrap();
        } else if kind.is_file() {
            write!(line, " {:x}", hash(&fs::read(&path).unwrap())).unwrap();
        } else if kind.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            assert!(
                kind.is_char_device()
                    || kind.is_block_device()
                    || kind.is_fifo()
                    || kind.is_socket()
            );
        }
        write!(line, " {:?}", xattrs(&path)).unwrap();
        lines.insert(path.strip_prefix(root).unwrap().to_path_buf(), line);
    }
    lines
}

/// What a case works with.
struct Suite<'a> {
    driver: Box<dyn Driver>,
    /// The directory of this case: `store` and what the case makes.
    root: &'a Path,
    properties: Properties,
    open: &'a (dyn Fn(&Path) -> Result<Box<dyn Driver>> + Sync),
}

impl<'a> Suite<'a> {
    fn new(
        root: &'a Path,
        properties: Properties,
        open: &'a (dyn Fn(&Path) -> Result<Box<dyn Driver>> + Sync),
    ) -> Self {
        fs::create_dir_all(root.join("mnt")).unwrap();
        Self {
            driver: open(&root.join("store")).unwrap(),
            root,
            properties,
            open,
        }
    }

    /// Mounts the active or view `key` again and calls `work` with the place.
    fn with<T>(&self, key: &str, work: impl FnOnce(&Path) -> T) -> T {
        let place = self.root.join("mnt").join(key);
        fs::create_dir_all(&place).unwrap();
        let guard = mount(&self.driver.mounts(key).unwrap(), &place).unwrap();
        let result = work(&place);
        guard.unmount().unwrap();
        fs::remove_dir(&place).unwrap();
        result
    }

    /// Makes the committed `name` on `parent` with what `fill` does to it.
    fn layer(&self, name: &str, parent: Option<&str>, fill: impl FnOnce(&Path)) {
        let key = format!("{name}-key");
        self.driver.prepare(&key, parent).unwrap();
        self.with(&key, fill);
        self.driver
            .commit(name, &key, &CommitOptions::default())
            .unwrap();
    }

    /// Looks at the committed `name`.
    fn look<T>(&self, name: &str, work: impl FnOnce(&Path) -> T) -> T {
        let key = format!("{name}-view");
        self.driver.view(&key, Some(name)).unwrap();
        let result = self.with(&key, work);
        self.driver.remove(&key).unwrap();
        result
    }

    /// The changes of a snapshot, as `docker diff` writes them.
    fn changes(&self, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut visit = |change: crate::Change| {
            lines.push(change.to_string());
            Ok(())
        };
        self.driver.changes(name, &mut visit).unwrap();
        lines
    }

    /// The names of all snapshots.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut visit = |info: crate::Info| {
            names.push(info.name);
            Ok(())
        };
        self.driver.list(&mut visit).unwrap();
        names
    }
}

/// A case and its name.
type Case = (&'static str, fn(&Suite<'_>));

/// The extended attributes of a file, but those that overlay keeps for itself.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let directory = rustix::fs::open(
        path.parent().unwrap(),
        crate::store::DIRECTORY,
        rustix::fs::Mode::empty(),
    );
    crate::tree::xattrs(directory.unwrap(), path.file_name().unwrap())
        .unwrap()
        .into_iter()
        .filter(|(key, _)| crate::metadata::not_overlay(key))
        .map(|(key, value)| (key.into_string().unwrap(), value))
        .collect()
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Moves as `mv` does: where the file system refuses to rename, it copies and deletes.
fn move_tree(from: &Path, to: &Path) {
    match fs::rename(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {}
        other => return other.unwrap(),
    }
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let source = from.join(&path);
        if source.is_dir() {
            fs::create_dir(to.join(&path)).unwrap();
            let entries = fs::read_dir(source)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            pending.extend(entries.map(|name| path.join(name)));
        } else {
            fs::copy(source, to.join(&path)).unwrap();
        }
    }
    fs::remove_dir_all(from).unwrap();
}

fn set_xattr(path: &Path, key: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path.as_os_str().as_bytes(), key, value, flags).unwrap();
}
