//! The vfs driver: every snapshot is a full copy of its parent. It works on any file system.
//!
//! Copies share their blocks where the file system can (btrfs, xfs, bcachefs); elsewhere a
//! container takes as much room as its image, and page cache is not shared either.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::changes::{Item, Items};
use crate::driver::{
    Change, ChangeKind, CommitOptions, Driver, Info, Kind, Recovered, SnapshotKind, Target, Usage,
    WhiteoutForm,
};
use crate::overlay::bind;
use crate::store::{FILES, Record, Slot, Stamp, Store};
use crate::tree::Cursor;
use crate::{Error, Result, changes, copy, metadata, tree};

/// Snapshots as full copies.
#[derive(Debug)]
pub(crate) struct Vfs {
    store: Store,
}

impl Vfs {
    /// Opens the store below `root`, or makes it.
    pub(crate) fn open(root: &Path, sync: bool) -> Result<Self> {
        Ok(Self {
            store: Store::open(root, Kind::Vfs.as_str(), sync)?,
        })
    }

    fn mounts_of(&self, record: &Record) -> Result<Vec<Mount>> {
        // A view needs no copy: the parent cannot change.
        let number = match (record.kind, record.lowers.first()) {
            (SnapshotKind::View, Some(&parent)) => parent,
            _ => record.directory,
        };
        Ok(vec![bind(
            self.store.text_path_of(number, FILES)?,
            record.kind == SnapshotKind::Active,
        )])
    }

    /// Copies the parent's files.
    fn fill(&self, slot: &Slot<'_>, record: &mut Record) -> Result<()> {
        let files = slot.make_directory(FILES, ROOT_MODE)?;
        if let Some(&parent) = record.lowers.first() {
            copy::tree(self.store.open_files(parent)?.as_fd(), files.as_fd())?;
            // The root was changed last: what changes from now on has a change time no earlier.
            let stat = rustix::fs::fstat(&files)
                .map_err(|e| Error::os("stat the root of a snapshot", e))?;
            record.copied = Some(changed(&stat));
        }
        Ok(())
    }
}

impl Driver for Vfs {
    fn kind(&self) -> Kind {
        Kind::Vfs
    }

    fn prepare(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        let fill = |slot: &Slot<'_>, record: &mut Record| self.fill(slot, record);
        self.mounts_of(
            &self
                .store
                .create_slowly(key, SnapshotKind::Active, parent, fill)?,
        )
    }

    fn view(&self, key: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        let make = |slot: &Slot<'_>, _: &Record| slot.make_directory(FILES, ROOT_MODE).map(drop);
        self.mounts_of(&self.store.create(key, SnapshotKind::View, parent, make)?)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let kinds = [SnapshotKind::Active, SnapshotKind::View];
        self.mounts_of(&self.store.get_kind(key, &kinds)?)
    }

    fn target(&self, key: &str) -> Result<Target> {
        let record = self.store.get_kind(key, &[SnapshotKind::Active])?;
        Ok(Target::new(
            self.store.path_of(record.directory, FILES),
            WhiteoutForm::Apply,
        ))
    }

    fn can_rebase(&self) -> bool {
        false
    }

    fn commit(&self, name: &str, key: &str, options: &CommitOptions<'_>) -> Result<()> {
        // Implied directories are copies of the parent's already.
        self.store
            .commit(name, key, options.parent, false, |_| Ok(()))
            .map(drop)
    }

    fn changes(
        &self,
        key_or_name: &str,
        visit: &mut dyn FnMut(Change) -> Result<()>,
    ) -> Result<()> {
        let record = self.store.get(key_or_name)?;
        if record.kind == SnapshotKind::View {
            return Ok(());
        }
        let mut pair = Pair {
            new: self.store.cursor(record.directory),
            old: record
                .lowers
                .first()
                .map(|&parent| self.store.cursor(parent)),
            copied: record.copied,
        };
        changes::report(
            pair.old.is_some(),
            &mut |path, &both| pair.entries(path, both),
            visit,
        )
    }

    fn duplicate(&self, new_key: &str, key: &str) -> Result<()> {
        self.store.duplicate(new_key, key, |slot, files| {
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

/// A snapshot beside its parent.
struct Pair<'a> {
    new: Cursor<'a>,
    old: Option<Cursor<'a>>,
    /// What has an earlier change time is as it was copied.
    copied: Option<Stamp>,
}

impl Pair<'_> {
    /// What differs at each name of the directory `path`, which the parent has too if `both`.
    fn entries(&mut self, path: &Path, both: bool) -> Result<Items<bool>> {
        let new = self.new.go(path)?;
        let old = match &mut self.old {
            Some(old) if both => Some(old.go(path)?),
            _ => None,
        };
        let mut items = Vec::new();
        if let Some(old) = old {
            for name in tree::names(old)? {
                if stat(new, &name)?.is_none() {
                    items.push((name, Item::Leaf(ChangeKind::Deleted)));
                }
            }
        }
        for name in tree::names(new)? {
            let Some(mine) = stat(new, &name)? else {
                continue;
            };
            let theirs = match old {
                Some(old) => stat(old, &name)?.map(|theirs| (old, theirs)),
                None => None,
            };
            let kind = match &theirs {
                None => Some(ChangeKind::Added),
                Some((old, theirs)) => (!same((new, &mine), (*old, theirs), &name, self.copied)?)
                    .then_some(ChangeKind::Modified),
            };
            if is_directory(&mine) {
                let state = theirs.is_some_and(|(_, theirs)| is_directory(&theirs));
                items.push((name, Item::Directory { kind, state }));
            } else if let Some(kind) = kind {
                items.push((name, Item::Leaf(kind)));
            }
        }
        Ok(items)
    }
}

/// Whether a file is as the parent has it.
fn same(
    (new, mine): (BorrowedFd<'_>, &Stat),
    (old, theirs): (BorrowedFd<'_>, &Stat),
    name: &OsStr,
    copied: Option<Stamp>,
) -> Result<bool> {
    if !metadata::same_stat(mine, theirs) {
        return Ok(false);
    }
    if copied.is_some_and(|copied| changed(mine) < copied) {
        return Ok(true);
    }
    // Times and size can be set back, so look inside.
    metadata::same_xattrs(new, old, name, metadata::every)
        .and_then(|same| Ok(same && same_content(new, old, mine, name)?))
        .map_err(|e| Error::os(format!("compare {name:?} with the parent's"), e))
}

fn same_content(
    new: BorrowedFd<'_>,
    old: BorrowedFd<'_>,
    stat: &Stat,
    name: &OsStr,
) -> Result<bool, Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => {
            let read = |directory| rustix::fs::readlinkat(directory, name, Vec::new());
            return Ok(read(new)? == read(old)?);
        }
        _ => return Ok(true),
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |directory| rustix::fs::openat(directory, name, flags, Mode::empty());
    let (new, old) = (open(new)?, open(old)?);
    let (mut mine, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let length = read_fully(&new, &mut mine, at)?;
        if length != read_fully(&old, &mut theirs, at)? || mine[..length] != theirs[..length] {
            return Ok(false);
        }
        if length < PIECE {
            return Ok(true);
        }
        at += length as u64;
    }
}

fn read_fully(file: &OwnedFd, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

fn stat(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::os(format!("stat {name:?} of a snapshot"), errno)),
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn changed(stat: &Stat) -> Stamp {
    let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(u32::MAX);
    Stamp {
        seconds: stat.st_ctime,
        nanoseconds,
    }
}

/// Bytes compared at once.
const PIECE: usize = 256 * 1024;

/// The root of a layer that does not say otherwise.
const ROOT_MODE: Mode = Mode::from_bits_retain(0o755);
