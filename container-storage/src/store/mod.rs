//! The records of snapshots, their directories and their locks: what all drivers share.
//!
//! ```text
//! <root>/                 0700
//!   driver                {"version":1,"kind":"overlay"}: the choice, made once
//!   lock                  flock, while the choice is made
//!   .probe/               what a probe tries its mounts on
//!   overlay/              one directory per driver, drawn here for all of them
//!     lock                flock: exclusive while a record appears, changes or goes; shared to look twice
//!     records/<name>      one JSON document per snapshot, named after its key or name
//!     removing/<n>        directories on their way out; no record names them
//!     <n>/                the directory of one snapshot, a random hexadecimal number
//!       fs/               the files
//!       work/             overlay's work directory
//!       record            a document on its way to records/
//! ```
//!
//! **Roots.** Nothing here decides what is garbage among the snapshots: who made one removes it.
//!
//! **Locks.** The store lock is held for a few system calls and never while files are copied,
//! synced or deleted, nor during a callback. Who makes, fills or commits a snapshot holds a flock on
//! its directory `<n>` all the while; a directory whose lock is free has no owner alive. Order:
//! directory, then store. Both are per open file description, so they work between threads, and
//! the kernel frees them with a dead process.
//!
//! **Crashes.** A record is written inside `<n>`, then renamed to its name: it is there whole or
//! not at all.
//!
//! | left behind | meaning | `recover` |
//! | --- | --- | --- |
//! | `<n>` without a record | being made, or its record is deleted | deletes it |
//! | record `creating` | its files are being copied | deletes record and directory |
//! | record whose name is not its file's name | a commit before its rename | renames it |
//! | record unreadable, or without directory | damage | set aside: listed as broken, removable |
//! | `removing/<n>` | being deleted | deletes it |
//!
//! A directory without a record is only deleted when every record can be read, as a damaged one
//! may be its own.

mod record;
mod recover;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use self::record::State;
pub(crate) use self::record::{Number, Record, Stamp};
use crate::driver::{Info, SnapshotKind, check_name};
use crate::tree::Cursor;
use crate::{Error, ErrorKind, Result, tree};

/// The store of one driver below one root.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    directory: OwnedFd,
    records: OwnedFd,
    removing: OwnedFd,
    sync: bool,
}

impl Store {
    /// Opens the store of the driver `kind` below `root`, or makes it.
    pub(crate) fn open(root: &Path, kind: &str, sync: bool) -> Result<Self> {
        let path = root.join(kind);
        make_private_directory(&path)?;
        let path = path
            .canonicalize()
            .map_err(|e| Error::os(format!("resolve {path:?}"), e))?;
        if path.to_str().is_none() {
            let doing = format!("keep a store at {path:?}, which no mount option can name");
            return Err(Error::invalid("InvalidPath", doing));
        }
        for name in [RECORDS, REMOVING] {
            make_private_directory(&path.join(name))?;
        }
        let open = |path: &Path| {
            rustix::fs::open(path, DIRECTORY, Mode::empty())
                .map_err(|e| Error::os(format!("open {path:?}"), e))
        };
        let directory = open(&path)?;
        // Made now, as a full disk must not keep anybody from locking.
        lock(&directory, FlockOperation::Unlock)
            .map_err(|e| Error::os(format!("make {:?}", path.join(LOCK)), e))?;
        Ok(Self {
            directory,
            records: open(&path.join(RECORDS))?,
            removing: open(&path.join(REMOVING))?,
            path,
            sync,
        })
    }

    /// Whether actives and views are synced.
    pub(crate) fn syncs(&self) -> bool {
        self.sync
    }

    /// The absolute path of `name` in the directory `number`.
    pub(crate) fn path_of(&self, number: Number, name: &str) -> PathBuf {
        self.path.join(format!("{number}/{name}"))
    }

    /// The same path as text, for a mount.
    pub(crate) fn text_path_of(&self, number: Number, name: &str) -> Result<String> {
        self.path_of(number, name)
            .into_os_string()
            .into_string()
            .map_err(|path| Error::invalid("InvalidPath", format!("write {path:?} into a mount")))
    }

    /// Opens the files of the directory `number`.
    pub(crate) fn open_files(&self, number: Number) -> Result<OwnedFd> {
        rustix::fs::openat(
            &self.directory,
            format!("{number}/{FILES}"),
            DIRECTORY,
            Mode::empty(),
        )
        .map_err(|e| Error::os(format!("open {:?}", self.path_of(number, FILES)), e))
    }

    /// A cursor in the files of the directory `number`.
    pub(crate) fn cursor(&self, number: Number) -> Cursor<'_> {
        Cursor::new(
            self.directory.as_fd(),
            PathBuf::from(format!("{number}/{FILES}")),
        )
    }

    /// Reads the record of a snapshot that can be used.
    pub(crate) fn get(&self, name: &str) -> Result<Record> {
        check_name(name)?;
        let mut record = self.read(name)?;
        if record.name != name {
            // A commit is between its two steps, or died there: wait for the former.
            let _lock = self.lock(FlockOperation::LockShared)?;
            record = self.read(name)?;
        }
        if record.name != name || record.state != State::Ready {
            let doing = format!("use snapshot {name:?}, which is half made");
            return Err(Error::new(ErrorKind::InvalidState, "Incomplete", doing));
        }
        Ok(record)
    }

    /// Reads the record of a snapshot of `kind`.
    pub(crate) fn get_kind(&self, name: &str, kinds: &[SnapshotKind]) -> Result<Record> {
        let record = self.get(name)?;
        if kinds.contains(&record.kind) {
            return Ok(record);
        }
        let (code, want) = match kinds {
            [SnapshotKind::Committed] => ("NotCommitted", "committed"),
            [SnapshotKind::Active] => ("NotActive", "active"),
            _ => ("Committed", "active or view"),
        };
        let doing = format!("use snapshot {name:?}");
        let got = format!("{:?}", record.kind).to_lowercase();
        Err(Error::mismatch(code, doing, want, got).with_kind(ErrorKind::InvalidState))
    }

    /// Makes the snapshot `name` of `kind` on `parent`; `make` fills its directory.
    ///
    /// Nothing is visible before `make` has ended, so it must be quick or [`Store::create_slowly`]
    /// be used.
    pub(crate) fn create(
        &self,
        name: &str,
        kind: SnapshotKind,
        parent: Option<&str>,
        make: impl FnOnce(&Slot<'_>, &Record) -> Result<()>,
    ) -> Result<Record> {
        let (slot, record) = self.begin(name, kind, parent)?;
        let made = make(&slot, &record).and_then(|()| self.publish(&slot, &record, None));
        self.end(slot, record, made)
    }

    /// Makes the snapshot `name` as [`Store::create`] does, with a record from the beginning, so
    /// that the parent stays and recovery finds it; `fill` may take its time.
    pub(crate) fn create_slowly(
        &self,
        name: &str,
        kind: SnapshotKind,
        parent: Option<&str>,
        fill: impl FnOnce(&Slot<'_>, &mut Record) -> Result<()>,
    ) -> Result<Record> {
        let (slot, mut record) = self.begin(name, kind, parent)?;
        record.state = State::Creating;
        if let Err(error) = self.publish(&slot, &record, None) {
            return self.end(slot, record, Err(error));
        }
        record.state = State::Ready;
        let filled = fill(&slot, &mut record)
            .and_then(|()| self.sync_tree(&slot))
            .and_then(|()| self.publish(&slot, &record, Some(name)));
        if filled.is_err() {
            let unlinked = self.unlink_record(name);
            return self
                .end(slot, record, filled)
                .map_err(|e| e.with_cleanup(unlinked.err()));
        }
        self.end(slot, record, filled)
    }

    /// Turns the active `key` into the committed `name` on `parent`; `prepare` gets it ready.
    pub(crate) fn commit(
        &self,
        name: &str,
        key: &str,
        parent: Option<&str>,
        can_rebase: bool,
        prepare: impl FnOnce(&mut Record) -> Result<()>,
    ) -> Result<Slot<'_>> {
        check_name(name)?;
        let active = self.get_kind(key, &[SnapshotKind::Active])?;
        let slot = self.claim(active.directory, key)?;
        let mut record = active.clone();
        record.kind = SnapshotKind::Committed;
        name.clone_into(&mut record.name);
        if parent.is_some() && record.parent.as_deref() != parent {
            if record.parent.is_some() || !can_rebase {
                let doing = format!("commit {key:?} on another parent than it was prepared on");
                return Err(Error::new(ErrorKind::Unsupported, "CannotRebase", doing));
            }
            self.adopt(&mut record, parent)?;
        }
        let renames = name != key;
        if renames && self.exists(name)? {
            return Err(already_exists(name));
        }
        prepare(&mut record)?;
        rustix::fs::syncfs(&slot.directory)
            .map_err(|e| Error::os(format!("sync the file system of {:?}", self.path), e))?;
        self.write_document(&slot, &record, true)?;

        let lock = self.lock(FlockOperation::LockExclusive)?;
        if self.read(key)? != active {
            let doing = format!("commit {key:?}, which somebody changed meanwhile");
            return Err(Error::new(ErrorKind::Busy, "Changed", doing).with_retry());
        }
        self.check_parent(&record)?;
        if renames && self.exists(name)? {
            return Err(already_exists(name));
        }
        // From here on the record says committed; recovery does the second rename if we die.
        self.rename_document(&slot, key, RenameFlags::empty())?;
        if renames {
            self.rename_record(key, name)?;
        }
        drop(lock);
        self.sync_records()?;
        Ok(slot)
    }

    /// Makes the active `new_key` beside the active `key`, whose files `fill` copies.
    pub(crate) fn duplicate(
        &self,
        new_key: &str,
        key: &str,
        fill: impl FnOnce(&Slot<'_>, BorrowedFd<'_>) -> Result<()>,
    ) -> Result<()> {
        let original = self.get_kind(key, &[SnapshotKind::Active])?;
        let files = self.open_files(original.directory)?;
        let parent = original.parent.as_deref();
        self.create_slowly(new_key, SnapshotKind::Active, parent, |slot, _| {
            fill(slot, files.as_fd())
        })?;
        Ok(())
    }

    /// Removes the snapshot `name`; succeeds if there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        let record = match self.read(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.code() == BROKEN => None,
            other => Some(other?),
        };
        self.check_childless(name, record.as_ref())?;
        let slot = match &record {
            Some(record) => self.claim_if_there(record.directory, name)?,
            None => None,
        };
        // The record goes first: from here on the name is free, and the directory nobody's.
        self.unlink_record(name)?;
        let doomed = match &slot {
            Some(slot) => vec![self.set_aside(slot.number)?],
            None => self.set_orphans_aside()?,
        };
        drop(lock);
        if self.sync {
            self.sync_records()?;
        }
        drop(slot);
        doomed
            .iter()
            .try_for_each(|name| tree::remove(&self.removing, name))
    }

    /// Deletes `name` in the directory `below` of a snapshot's own directory, if they are there.
    pub(crate) fn remove_below(&self, number: Number, (below, name): (&str, &str)) -> Result<()> {
        let path = Path::new(&number.to_string()).join(below);
        match tree::open_beneath(&self.directory, &path) {
            Ok(directory) => tree::remove(directory, OsStr::new(name)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells of one snapshot.
    pub(crate) fn stat(&self, name: &str) -> Result<Info> {
        check_name(name)?;
        let doing = || format!("look up snapshot {name:?}");
        self.look(name)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, NOT_FOUND, doing()))
    }

    /// Tells of every snapshot, by name.
    pub(crate) fn list(&self, visit: &mut dyn FnMut(Info) -> Result<()>) -> Result<()> {
        for name in self.names()? {
            if let Some(info) = self.look(&name)? {
                visit(info)?;
            }
        }
        Ok(())
    }

    /// Whether there is no snapshot at all.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        Ok(self.names()?.is_empty())
    }

    /// Makes a directory and a record for it, in memory only.
    fn begin(
        &self,
        name: &str,
        kind: SnapshotKind,
        parent: Option<&str>,
    ) -> Result<(Slot<'_>, Record)> {
        check_name(name)?;
        if self.exists(name)? {
            return Err(already_exists(name));
        }
        let mut record = Record {
            version: VERSION,
            name: name.to_owned(),
            kind,
            state: State::Ready,
            parent: None,
            created: SystemTime::now().max(SystemTime::UNIX_EPOCH),
            directory: Number(0),
            lowers: Vec::new(),
            opaque: false,
            copied: None,
        };
        self.adopt(&mut record, parent)?;
        let slot = self.reserve()?;
        record.directory = slot.number;
        Ok((slot, record))
    }

    /// Deletes the directory again if the creation failed.
    fn end(&self, slot: Slot<'_>, record: Record, made: Result<()>) -> Result<Record> {
        let Err(error) = made else {
            return Ok(record);
        };
        let removed = self
            .set_aside(slot.number)
            .and_then(|name| tree::remove(&self.removing, &name));
        Err(error.with_cleanup(removed.err()))
    }

    /// Puts `record` on `parent`.
    fn adopt(&self, record: &mut Record, parent: Option<&str>) -> Result<()> {
        let Some(parent) = parent else {
            return Ok(());
        };
        let below = self.get_kind(parent, &[SnapshotKind::Committed])?;
        record.parent = Some(below.name);
        record.lowers = Vec::with_capacity(below.lowers.len() + 1);
        record.lowers.push(below.directory);
        if !below.opaque {
            record.lowers.extend(below.lowers);
        }
        Ok(())
    }

    /// Makes sure, under the store lock, that the parent is still the one whose directories
    /// `record` names.
    fn check_parent(&self, record: &Record) -> Result<()> {
        let Some(parent) = &record.parent else {
            return Ok(());
        };
        let below = self.read(parent)?;
        if Some(&below.directory) == record.lowers.first() {
            return Ok(());
        }
        let doing = format!("use parent {parent:?}, which somebody replaced meanwhile");
        Err(Error::new(ErrorKind::Busy, "Changed", doing).with_retry())
    }

    /// Fails if another snapshot uses the directory of this one.
    fn check_childless(&self, name: &str, record: Option<&Record>) -> Result<()> {
        if record.is_some_and(|r| matches!(r.kind, SnapshotKind::Active | SnapshotKind::View)) {
            return Ok(()); // They cannot be parents.
        }
        for other in self.names()? {
            let Ok(child) = self.read(&other) else {
                continue;
            };
            let uses = match record {
                Some(record) => child.lowers.contains(&record.directory),
                None => child.parent.as_deref() == Some(name),
            };
            if uses {
                let doing = format!("remove snapshot {name:?}, on which {other:?} is built");
                return Err(Error::new(ErrorKind::Busy, "HasChildren", doing));
            }
        }
        Ok(())
    }

    /// Makes the record visible as its name; `replacing` the one of that name or none.
    fn publish(&self, slot: &Slot<'_>, record: &Record, replacing: Option<&str>) -> Result<()> {
        self.write_document(slot, record, self.sync)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        self.check_parent(record)?;
        let flags = match replacing {
            Some(_) => RenameFlags::empty(),
            None => RenameFlags::NOREPLACE,
        };
        self.rename_document(slot, &record.name, flags)?;
        drop(lock);
        if !self.sync {
            return Ok(());
        }
        let synced = self.sync_records();
        if synced.is_err() {
            self.unlink_record(&record.name)?;
        }
        synced
    }

    /// Writes `record` into its own directory.
    fn write_document(&self, slot: &Slot<'_>, record: &Record, sync: bool) -> Result<()> {
        let doing = || format!("write {:?}", self.path_of(slot.number, DOCUMENT));
        let os = |e: Errno| Error::os(doing(), e);
        let document = serde_json::to_vec(record)
            .map_err(|e| Error::new(ErrorKind::Internal, "Encode", doing()).with_source(e))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(
            &slot.directory,
            DOCUMENT,
            flags | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(os)?;
        tree::write_all(&file, &document).map_err(os)?;
        if sync {
            rustix::fs::fsync(&file).map_err(os)?;
            rustix::fs::fsync(&slot.directory).map_err(os)?;
            rustix::fs::fsync(&self.directory).map_err(os)?;
        }
        Ok(())
    }

    fn rename_document(&self, slot: &Slot<'_>, name: &str, flags: RenameFlags) -> Result<()> {
        match rustix::fs::renameat_with(&slot.directory, DOCUMENT, &self.records, name, flags) {
            Err(Errno::EXIST) => Err(already_exists(name)),
            other => {
                other.map_err(|e| Error::os(format!("put the record of {name:?} in place"), e))
            }
        }
    }

    fn rename_record(&self, from: &str, to: &str) -> Result<()> {
        let noreplace = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.records, from, &self.records, to, noreplace)
            .map_err(|e| Error::os(format!("rename the record of {from:?} to {to:?}"), e))
    }

    fn unlink_record(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.records, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::os(format!("unlink the record of {name:?}"), errno)),
        }
    }

    fn exists(&self, name: &str) -> Result<bool> {
        match rustix::fs::statat(&self.records, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::os(format!("look up snapshot {name:?}"), errno)),
        }
    }

    fn read(&self, name: &str) -> Result<Record> {
        let doing = || format!("read the record of snapshot {name:?}");
        let bytes =
            tree::read_file(&self.records, name, MAX_RECORD).map_err(|errno| match errno {
                Errno::NOENT => Error::new(
                    ErrorKind::NotFound,
                    NOT_FOUND,
                    format!("find snapshot {name:?}"),
                ),
                Errno::FBIG | Errno::LOOP => Error::os(doing(), errno)
                    .with_kind(ErrorKind::Integrity)
                    .with_code(BROKEN),
                errno => Error::os(doing(), errno),
            })?;
        let broken = || Error::new(ErrorKind::Integrity, BROKEN, doing());
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| broken().with_source(e))?;
        if record.version != VERSION || check_name(&record.name).is_err() {
            return Err(broken());
        }
        Ok(record)
    }

    /// What a listing says of `name`: nothing if it is gone or somebody alive is making it.
    fn look(&self, name: &str) -> Result<Option<Info>> {
        let broken =
            |parent, created| Ok(Some(Info::new(name, SnapshotKind::Broken, parent, created)));
        let record = match self.read(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.code() == BROKEN => return broken(None, SystemTime::UNIX_EPOCH),
            other => other?,
        };
        if record.state == State::Creating {
            return match self.try_claim(record.directory)? {
                None => Ok(None),
                Some(_) => broken(record.parent, record.created),
            };
        }
        if record.name != name {
            let _lock = self.lock(FlockOperation::LockShared)?;
            return match self.read(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                _ => broken(record.parent, record.created),
            };
        }
        if self.has_directory(&record)? {
            return Ok(Some(record.info()));
        }
        // Between reading the record and here somebody may have removed both.
        if self.exists(name)? {
            return broken(record.parent, record.created);
        }
        Ok(None)
    }

    fn has_directory(&self, record: &Record) -> Result<bool> {
        let name = record.directory.to_string();
        match rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::os(format!("stat {:?}", self.path.join(name)), errno)),
        }
    }

    /// The names of all records, sorted.
    fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = tree::names(&self.records)?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a directory under a free number and locks it.
    fn reserve(&self) -> Result<Slot<'_>> {
        for _ in 0..MAX_ATTEMPTS {
            let number = Number::random();
            let name = number.to_string();
            match rustix::fs::mkdirat(&self.directory, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                other => other.map_err(|e| {
                    Error::os(format!("make directory {:?}", self.path.join(&name)), e)
                })?,
            }
            // A recovery that ran in between may have taken it for an orphan: then take another.
            if let Some(Some(slot)) = self.try_claim(number)? {
                return Ok(slot);
            }
        }
        let doing = format!("find a free number in {:?}", self.path);
        Err(Error::new(ErrorKind::Busy, "Busy", doing).with_retry())
    }

    /// Locks the directory of the snapshot `name`.
    fn claim(&self, number: Number, name: &str) -> Result<Slot<'_>> {
        self.claim_if_there(number, name)?.ok_or_else(|| {
            let doing = format!("use snapshot {name:?}, whose directory is gone");
            Error::new(ErrorKind::Integrity, BROKEN, doing)
        })
    }

    fn claim_if_there(&self, number: Number, name: &str) -> Result<Option<Slot<'_>>> {
        self.try_claim(number)?.ok_or_else(|| {
            let doing = format!("use snapshot {name:?}, which somebody makes or commits");
            Error::new(ErrorKind::Busy, "InUse", doing).with_retry()
        })
    }

    /// Locks a directory: none if another has it locked, none inside if it does not exist.
    #[expect(clippy::option_option, reason = "the two answers are different")]
    fn try_claim(&self, number: Number) -> Result<Option<Option<Slot<'_>>>> {
        let name = number.to_string();
        let doing = || format!("lock directory {:?}", self.path.join(&name));
        let directory = match rustix::fs::openat(&self.directory, &name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Some(None)),
            other => other.map_err(|e| Error::os(doing(), e))?,
        };
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(|e| Error::os(doing(), e))?,
        }
        // The lock is worth something only if the directory still has its name.
        let mine = rustix::fs::fstat(&directory).map_err(|e| Error::os(doing(), e))?;
        match rustix::fs::statat(&self.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if named.st_ino == mine.st_ino => Ok(Some(Some(Slot {
                store: self,
                number,
                directory,
            }))),
            Ok(_) | Err(Errno::NOENT) => Ok(Some(None)),
            Err(errno) => Err(Error::os(doing(), errno)),
        }
    }

    /// Moves a directory where deletion takes it, under the name that is returned.
    fn set_aside(&self, number: Number) -> Result<OsString> {
        let from = number.to_string();
        let mut to = number;
        loop {
            let name = to.to_string();
            let moved = rustix::fs::renameat_with(
                &self.directory,
                &from,
                &self.removing,
                &name,
                RenameFlags::NOREPLACE,
            );
            match moved {
                Ok(()) | Err(Errno::NOENT) => return Ok(name.into()),
                Err(Errno::EXIST) => to = Number::random(),
                Err(errno) => {
                    let doing = format!("move {:?} away", self.path.join(from));
                    return Err(Error::os(doing, errno));
                }
            }
        }
    }

    fn sync_tree(&self, slot: &Slot<'_>) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        rustix::fs::syncfs(&slot.directory)
            .map_err(|e| Error::os(format!("sync the file system of {:?}", self.path), e))
    }

    fn sync_records(&self) -> Result<()> {
        rustix::fs::fsync(&self.records)
            .map_err(|e| Error::os(format!("fsync {:?}", self.path.join(RECORDS)), e))
    }

    fn lock(&self, operation: FlockOperation) -> Result<OwnedFd> {
        lock(self.directory.as_fd(), operation)
            .map_err(|e| Error::os(format!("lock {:?}", self.path.join(LOCK)), e))
    }
}

/// The directory of one snapshot, locked by us.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    store: &'a Store,
    number: Number,
    directory: OwnedFd,
}

impl Drop for Slot<'_> {
    /// Closing the directory would not do: what another thread starts meanwhile has it open, too, until
    /// it is executed.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }
}

impl Slot<'_> {
    /// Makes the directory `name` with exactly `mode`.
    pub(crate) fn make_directory(&self, name: &str, mode: Mode) -> Result<OwnedFd> {
        let doing = || format!("make directory {:?}", self.store.path_of(self.number, name));
        let os = |e: Errno| Error::os(doing(), e);
        rustix::fs::mkdirat(&self.directory, name, Mode::RWXU).map_err(os)?;
        let made =
            rustix::fs::openat(&self.directory, name, DIRECTORY, Mode::empty()).map_err(os)?;
        if mode != Mode::RWXU {
            // The caller's umask has no say.
            rustix::fs::fchmod(&made, mode).map_err(os)?;
        }
        Ok(made)
    }

    /// Deletes the directory `name` with all that is in it.
    pub(crate) fn remove_directory(&self, name: &str) -> Result<()> {
        tree::remove(&self.directory, OsStr::new(name))
    }
}

/// Takes the lock file in `directory`; closing the result gives it back.
pub(crate) fn lock(directory: impl AsFd, operation: FlockOperation) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, LOCK, flags, Mode::RUSR | Mode::WUSR)?;
    loop {
        match rustix::fs::flock(&file, operation) {
            Err(Errno::INTR) => {}
            other => return other.map(|()| file),
        }
    }
}

/// Makes `path` and what is above it, `path` itself for its owner only.
pub(crate) fn make_private_directory(path: &Path) -> Result<()> {
    let doing = || format!("make directory {path:?}");
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(|e| Error::os(doing(), e))?;
    }
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::os(doing(), errno)),
    }
    let directory =
        rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|e| Error::os(doing(), e))?;
    let found = rustix::fs::fstat(&directory).map_err(|e| Error::os(doing(), e))?;
    if Mode::from_raw_mode(found.st_mode) == Mode::RWXU {
        return Ok(());
    }
    rustix::fs::fchmod(&directory, Mode::RWXU).map_err(|e| Error::os(doing(), e))
}

fn already_exists(name: &str) -> Error {
    let doing = format!("make snapshot {name:?}, which exists");
    Error::new(ErrorKind::AlreadyExists, "SnapshotExists", doing)
}

/// The files of a snapshot.
pub(crate) const FILES: &str = "fs";

/// How directories are opened.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

const RECORDS: &str = "records";
const REMOVING: &str = "removing";
const LOCK: &str = "lock";
const DOCUMENT: &str = "record";
const NOT_FOUND: &str = "SnapshotNotFound";
const BROKEN: &str = "RecordBroken";

/// The format of the records; one that is not known is left alone.
const VERSION: u32 = 1;

/// A record with 500 lowers takes 6 KiB.
const MAX_RECORD: usize = 64 * 1024;

/// With a million snapshots one in four thousand numbers is taken.
const MAX_ATTEMPTS: usize = 64;
