//! The overlay driver: a snapshot is the difference to its parent, the kernel merges them.
//!
//! Each snapshot's `fs` is an upper directory while it is active and a lower one afterwards, so a
//! commit copies nothing. The options of a mount, each on purpose:
//!
//! - `lowerdir+=`, one per lower: no limit of one page for all of them together (Linux 6.8; who
//!   mounts on an older kernel joins them into one `lowerdir=` of short relative names).
//! - `index=off`: a file with several hard links is copied up as one of its own, as everywhere
//!   else; with an index, lowers could not be shared between uppers nor duplicated.
//! - `metacopy=off`: what is in the upper is complete, so that it can be committed and packed.
//! - `redirect_dir=nofollow`: a rename of a directory of the lowers fails with `EXDEV` and programs
//!   copy it instead, so that the upper says what was deleted and what is new. Nothing follows a
//!   redirect that an image brought along.
//! - `userxattr` in a user namespace, where `trusted.*` xattrs are refused (Linux 5.11).
//! - `volatile` where the store is opened without sync: unmounting does not write back the whole
//!   file system below (Linux 5.10). The kernel leaves a mark that refuses the next mount, which
//!   [`Driver::mounts`] takes away.

mod changes;
mod lowers;

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::Mode;

use self::changes::Upper;
use self::lowers::Lowers;
use crate::driver::{
    Change, CommitOptions, Driver, Info, Kind, Recovered, SnapshotKind, Target, Usage, WhiteoutForm,
};
use crate::store::{FILES, Record, Slot, Store};
use crate::{Error, ErrorKind, Result, changes as report, copy, metadata, tree};

/// Snapshots as directories that the kernel's overlay file system merges.
#[derive(Debug)]
pub(crate) struct Overlay {
    store: Store,
    user_xattrs: bool,
}

impl Overlay {
    /// Opens the store below `root`, or makes it.
    pub(crate) fn open(root: &Path, sync: bool, user_xattrs: bool) -> Result<Self> {
        Ok(Self {
            store: Store::open(root, Kind::Overlay.as_str(), sync)?,
            user_xattrs,
        })
    }

    fn opaque(&self) -> &'static CStr {
        if self.user_xattrs {
            c"user.overlay.opaque"
        } else {
            c"trusted.overlay.opaque"
        }
    }

    /// Makes the directories of a snapshot, its root with the metadata of the parent's.
    fn make(&self, slot: &Slot<'_>, record: &Record) -> Result<()> {
        if record.lowers.len() > MAX_LOWERS {
            let doing = format!("put an overlay on {} layers", record.lowers.len());
            return Err(Error::new(ErrorKind::Unsupported, "TooManyLayers", doing));
        }
        let files = slot.make_directory(FILES, ROOT_MODE)?;
        if record.kind == SnapshotKind::Active {
            slot.make_directory(WORK, Mode::RWXU)?;
        }
        match record.lowers.first() {
            Some(&top) => copy_root(&self.store.open_files(top)?, &files),
            None => Ok(()),
        }
    }

    /// How to mount `record`.
    fn mounts_of(&self, record: &Record) -> Result<Vec<Mount>> {
        let path = |number, name| self.store.text_path_of(number, name);
        let writable = record.kind == SnapshotKind::Active;
        let mut options = Vec::with_capacity(record.lowers.len() + 7);
        match record.lowers[..] {
            [] => return Ok(vec![bind(path(record.directory, FILES)?, writable)]),
            [lower] if !writable => return Ok(vec![bind(path(lower, FILES)?, false)]),
            _ => {}
        }
        for &lower in &record.lowers {
            options.push(format!("lowerdir+={}", path(lower, FILES)?));
        }
        if writable {
            options.push(format!("upperdir={}", path(record.directory, FILES)?));
            options.push(format!("workdir={}", path(record.directory, WORK)?));
        }
        let flags = FLAGS
            .into_iter()
            .chain(self.user_xattrs.then_some("userxattr"))
            .chain((writable && !self.store.syncs()).then_some("volatile"))
            .chain((!writable).then_some("ro"));
        options.extend(flags.map(str::to_owned));
        Ok(vec![overlay_mount(options)])
    }

    /// Gives the directories that a layer only implies the metadata that its parent has there.
    fn fill_implied(&self, record: &Record, options: &CommitOptions<'_>) -> Result<()> {
        if options.implied_directories.is_empty() || record.lowers.is_empty() {
            return Ok(());
        }
        let files = self.store.open_files(record.directory)?;
        let mut lowers = Lowers::new(&self.store, record, self.opaque());
        for path in options.implied_directories {
            if !path.components().all(|c| matches!(c, Component::Normal(_))) {
                let doing = format!("use {path:?} as a directory of a layer");
                return Err(Error::invalid("InvalidPath", doing));
            }
            if let Some(lower) = lowers.open_directory(path)? {
                copy_root(&lower, &tree::open_beneath(&files, path)?)?;
            }
        }
        Ok(())
    }
}

impl Driver for Overlay {
    fn kind(&self) -> Kind {
        Kind::Overlay
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        let make = |slot: &Slot<'_>, record: &Record| self.make(slot, record);
        self.mounts_of(&self.store.create(key, SnapshotKind::Active, parent, make)?)
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        let make = |slot: &Slot<'_>, record: &Record| self.make(slot, record);
        self.mounts_of(&self.store.create(key, SnapshotKind::View, parent, make)?)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let record = self
            .store
            .get_kind(key, &[SnapshotKind::Active, SnapshotKind::View])?;
        if record.kind == SnapshotKind::Active {
            self.store.remove_below(record.directory, VOLATILE_MARK)?;
        }
        self.mounts_of(&record)
    }

    fn target(&self, key: &str) -> Result<Target> {
        let record = self.store.get_kind(key, &[SnapshotKind::Active])?;
        let whiteouts = if self.user_xattrs {
            WhiteoutForm::OverlayUser
        } else {
            WhiteoutForm::Overlay
        };
        Ok(Target::new(
            self.store.path_of(record.directory, FILES),
            whiteouts,
        ))
    }

    fn can_rebase(&self) -> bool {
        true
    }

    fn commit(&self, name: &str, key: &str, options: &CommitOptions<'_>) -> Result<()> {
        let slot = self
            .store
            .commit(name, key, options.parent, true, |record| {
                self.fill_implied(record, options)?;
                let files = self.store.open_files(record.directory)?;
                record.opaque = lowers::is_opaque(files, OsStr::new("."), self.opaque())?;
                Ok(())
            })?;
        if let Err(error) = slot.remove_directory(WORK) {
            // It goes with the snapshot; what was asked for is done.
            tracing::debug!(name, error = error.report(), "the work directory stays");
        }
        Ok(())
    }

    fn changes(
        &self,
        key_or_name: &str,
        visit: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let record = self.store.get(key_or_name)?;
        let opaque = self.opaque();
        let mut upper = Upper {
            files: self.store.cursor(record.directory),
            lowers: Lowers::new(&self.store, &record, opaque),
            opaque,
        };
        report::report(
            upper.root()?,
            &mut |path, state| upper.entries(path, state),
            visit,
        )
    }

    fn duplicate(&self, new_key: &str, key: &str) -> Result<()> {
        self.store.duplicate(new_key, key, |slot, files| {
            slot.make_directory(WORK, Mode::RWXU)?;
            copy::tree(files, slot.make_directory(FILES, ROOT_MODE)?.as_fd())
        })
    }

    fn remove(&self, key_or_name: &str) -> Result<()> {
        self.store.remove(key_or_name)
    }

    fn stat(&self, key_or_name: &str) -> Result<Info> {
        self.store.stat(key_or_name)
    }

    fn usage(&self, key_or_name: &str) -> Result<Usage> {
        let record = self.store.get(key_or_name)?;
        tree::usage(self.store.open_files(record.directory)?.as_fd())
    }

    fn list(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        self.store.list(visit)
    }

    fn recover(&self) -> Result<Recovered> {
        self.store.recover()
    }
}

/// Gives one directory the metadata of another.
fn copy_root(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let here = OsStr::new(".");
    rustix::fs::fstat(from)
        .and_then(|stat| metadata::copy(from, here, &stat, to, here, metadata::not_overlay))
        .map_err(|e| Error::os("copy the metadata of a directory", e))
}

/// A mount of an overlay at the root.
pub(crate) fn overlay_mount(options: Vec<String>) -> Mount {
    mount("overlay", "overlay".to_owned(), options)
}

/// A mount of a directory at the root.
pub(crate) fn bind(source: String, writable: bool) -> Mount {
    let access = if writable { "rw" } else { "ro" };
    mount("bind", source, vec!["bind".to_owned(), access.to_owned()])
}

fn mount(kind: &str, source: String, options: Vec<String>) -> Mount {
    MountBuilder::default()
        .destination("/")
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .expect("a mount with a destination is complete")
}

/// The options of every overlay; the reasons are above.
pub(crate) const FLAGS: [&str; 3] = ["index=off", "metacopy=off", "redirect_dir=nofollow"];

/// `OVL_MAX_STACK` of the kernel's `fs/overlayfs/params.h`.
const MAX_LOWERS: usize = 500;

const WORK: &str = "work";

/// What the kernel leaves after a volatile mount, in the directory of a snapshot.
const VOLATILE_MARK: (&str, &str) = ("work/work", "incompat");

/// The root of a layer that does not say otherwise.
const ROOT_MODE: Mode = Mode::from_bits_retain(0o755);
