//! Unpacking: an archive applied to a directory.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::entry::{
    Entry, EntryKind, MAX_PATH_BYTES, Timestamp, clean, show, split, to_path, too_long,
};
use super::reader::{Member, Reader, Segment};
use super::tree::{Parent, Tree, change_mode, make_directory};
use super::whiteout::{self, Meaning, lookup};
use super::{Limits, Ownership, Whiteouts, xattr};
use crate::{Error, ErrorKind, Result};

/// How to unpack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// What becomes of deletions.
    pub whiteouts: Whiteouts,
    /// What becomes of owners.
    pub ownership: Ownership,
    /// How much the layer may bring.
    pub limits: Limits,
}

/// What a layer brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unpacked {
    /// Bytes of file contents, holes included.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Device nodes that the kernel does not let the caller make, and that are left out.
    pub skipped_devices: u64,
    /// Extended attributes that are never taken over or that the file system refused.
    pub skipped_xattrs: u64,
    /// Whether the layer hides all layers below it. Overlayfs takes no notice of such a mark on the
    /// root of a layer: with the overlay forms, the layers below must not be mounted.
    pub opaque_root: bool,
    /// Directories that have no entry of their own and were made for what lies in them, and `.`
    /// where the root has no entry. Their metadata is that of the layer below.
    ///
    /// They are relative to the directory, parents first; a path may lead through symbolic links
    /// and has to be resolved inside the directory.
    pub implied_directories: Vec<PathBuf>,
}

/// Applies the uncompressed archive `tar` to `directory` and reads `tar` to its end.
///
/// Files get owner, mode, extended attributes and times of their entries, exactly, whatever the
/// umask; the process is not changed. An entry takes the place of what has its name, except that a
/// directory keeps what is in it. Symbolic links on the way to an entry are followed inside
/// `directory`; those on the way to the target of a hard link are not. A whiteout never removes
/// what its own layer brings, whatever their order. Extended attributes travel as far as they
/// belong to the image: `user.*`, file capabilities and access lists, but nothing of `trusted.*`,
/// of security modules or of overlay file systems.
///
/// With [`Whiteouts::Apply`], `directory` holds the layers below; with the overlay forms it should be
/// empty. Nobody else may change it meanwhile. Nothing is synced. After an error it holds a part of
/// the layer. Blocks while `tar` does. Sets of names are kept in memory, some hundred bytes for each
/// directory and, with [`Whiteouts::Apply`], some ten for each entry.
///
/// # Errors
/// `InvalidArchive`, `TruncatedArchive`, `UnsupportedEntry`; `PathTooLong`, `PathEscapes`,
/// `InvalidPath`, `InvalidLink`, `InvalidWhiteout`; `LimitExceeded`; system errors with the path; and
/// what `tar` fails with.
///
/// # Privileges
/// With [`Ownership::Keep`], `CAP_CHOWN`, `CAP_FOWNER`, `CAP_DAC_OVERRIDE` and `CAP_SETFCAP`, all in
/// the current user namespace; device nodes need `CAP_MKNOD` in the first one. With
/// [`Whiteouts::Overlay`], `CAP_SYS_ADMIN` in the first one. Otherwise none.
///
/// # References
/// image-spec `layer.md`; `openat2(2)`, Linux 5.6; kernel `Documentation/filesystems/overlayfs.rst`.
pub fn unpack(
    tar: &mut dyn Read,
    directory: BorrowedFd<'_>,
    options: &UnpackOptions,
) -> Result<Unpacked> {
    let mut reader = Reader::new(tar, options.limits.bytes);
    let mut unpacker = Unpacker::new(directory, options);
    while let Some(member) = reader.next()? {
        unpacker.apply(&member, &mut reader)?;
    }
    reader.drain()?;
    unpacker.finish()
}

struct Unpacker<'a> {
    options: &'a UnpackOptions,
    tree: Tree<'a>,
    uid: u32,
    gid: u32,
    unpacked: Unpacked,
    /// What is to be done to directories when all is in them, by inode.
    pending: HashMap<u64, Pending>,
    /// Paths of implied directories, by inode.
    implied: HashMap<u64, Vec<u8>>,
    root_has_entry: bool,
    /// Bytes of names in `pending` and `implied`.
    name_bytes: usize,
    /// Hashes of (inode of the directory, name) for all that this layer brought.
    added: HashSet<u64>,
    hasher: RandomState,
    /// Inodes of directories in which nothing of the layers below is left.
    cleared: HashSet<u64>,
}

/// What a directory gets at the end.
struct Pending {
    path: Vec<u8>,
    mode: Option<u32>,
    default_acl: Option<Vec<u8>>,
    mtime: Timestamp,
}

impl<'a> Unpacker<'a> {
    fn new(directory: BorrowedFd<'a>, options: &'a UnpackOptions) -> Self {
        Self {
            options,
            tree: Tree::new(directory),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            unpacked: Unpacked::default(),
            pending: HashMap::new(),
            implied: HashMap::new(),
            root_has_entry: false,
            name_bytes: 0,
            added: HashSet::new(),
            hasher: RandomState::new(),
            cleared: HashSet::new(),
        }
    }

    fn apply(&mut self, member: &Member, reader: &mut Reader<'_>) -> Result<()> {
        self.unpacked.entries += 1;
        self.check_entries()?;
        let path = clean(member.entry.path_bytes())?;
        let meaning = match self.options.whiteouts {
            Whiteouts::Keep => Meaning::File,
            _ => whiteout::meaning(&path)?,
        };
        match meaning {
            Meaning::File => self.file(&path, member, reader),
            Meaning::Gone { parent, name } => self.gone(parent, name),
            Meaning::Opaque(directory) => self.opaque(directory),
            Meaning::Nothing => Ok(()),
        }
    }

    /// Finishes the directories.
    fn finish(mut self) -> Result<Unpacked> {
        let mut pending: Vec<_> = self.pending.drain().collect();
        // Children before parents, as those may not be passable afterwards.
        pending.sort_unstable_by(|(_, one), (_, other)| other.path.cmp(&one.path));
        for (inode, last) in pending {
            self.finish_directory(inode, &last)
                .map_err(|error| Error::os(format!("finish {}", show(&last.path)), error))?;
        }
        let mut implied: Vec<_> = self.implied.drain().map(|(_, path)| path).collect();
        if !self.root_has_entry {
            implied.push(b".".to_vec());
        }
        implied.sort_unstable();
        self.unpacked.implied_directories = implied.iter().map(|path| to_path(path)).collect();
        Ok(self.unpacked)
    }

    fn finish_directory(&self, inode: u64, last: &Pending) -> Result<(), Errno> {
        let directory = match self.tree.open_directory(&last.path) {
            Ok(directory) => directory,
            // A later entry took its place.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(error),
        };
        if rustix::fs::fstat(&directory)?.st_ino != inode {
            return Ok(());
        }
        if let Some(acl) = &last.default_acl {
            let name = xattr::DEFAULT_ACL.as_ref();
            xattr::set(directory.as_fd(), name, acl, self.options.ownership)?;
        }
        if let Some(mode) = last.mode {
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
        }
        rustix::fs::futimens(&directory, &timestamps(last.mtime))
    }

    fn file(&mut self, path: &[u8], member: &Member, reader: &mut Reader<'_>) -> Result<()> {
        let entry = &member.entry;
        if path.is_empty() {
            return self.root(entry);
        }
        let (above, name) = split(path);
        let parent = self.parent(above)?;
        let place = Place {
            path,
            parent: &parent,
            name,
        };
        match &entry.kind {
            EntryKind::File { size_bytes } => {
                let segments = member.segments.as_deref();
                self.regular(&place, entry, *size_bytes, segments, reader)?;
            }
            EntryKind::Directory => self.directory(&place, entry)?,
            EntryKind::Symlink { target } => self.symlink(&place, entry, target)?,
            EntryKind::HardLink { target } => self.hard_link(&place, target)?,
            EntryKind::CharDevice { major, minor } => {
                self.node(&place, entry, FileType::CharacterDevice, (*major, *minor))?;
            }
            EntryKind::BlockDevice { major, minor } => {
                self.node(&place, entry, FileType::BlockDevice, (*major, *minor))?;
            }
            EntryKind::Fifo => self.node(&place, entry, FileType::Fifo, (0, 0))?,
        }
        self.add(&parent, name);
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            let doing = format!(
                "unpack the root entry: it is not a directory but {:?}",
                entry.kind
            );
            return Err(Error::invalid("InvalidPath", doing));
        }
        self.root_has_entry = true;
        let root = self.tree.open_directory(b"");
        let root = root.map_err(|error| self.system("open", b".", error))?;
        self.directory_metadata(&root, b"", entry, None)
    }

    fn regular(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        size: u64,
        segments: Option<&[Segment]>,
        reader: &mut Reader<'_>,
    ) -> Result<()> {
        self.unpacked.bytes = self.unpacked.bytes.saturating_add(size);
        if self.unpacked.bytes > self.options.limits.bytes {
            let doing = format!(
                "unpack files of more than {} bytes",
                self.options.limits.bytes
            );
            return Err(Error::invalid("LimitExceeded", doing));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let file = self.make(place, |parent, name| {
            rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        match segments {
            None => write_contents(&file, place.path, None, u64::MAX, reader)?,
            Some(segments) => {
                let doing = |error| Error::os(format!("size {}", show(place.path)), error);
                rustix::fs::ftruncate(&file, size).map_err(doing)?;
                for segment in segments {
                    let offset = Some(segment.offset);
                    write_contents(&file, place.path, offset, segment.size, reader)?;
                }
            }
        }
        // The owner first, as it takes setuid bits and capabilities away.
        let done = self.set_owner(file.as_fd(), entry, Some(place.parent));
        done.map_err(|error| self.system("set the owner of", place.path, error))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
            .map_err(|error| self.system("set the mode of", place.path, error))?;
        self.set_xattrs(file.as_fd(), place.path, entry)?;
        rustix::fs::futimens(&file, &timestamps(entry.mtime))
            .map_err(|error| self.system("set the time of", place.path, error))
    }

    fn directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let (directory, made) = self.make_directory(place)?;
        self.directory_metadata(&directory, place.path, entry, made.then_some(place.parent))
    }

    /// Gives an open directory what its entry says; `parent` if it was just made there.
    fn directory_metadata(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        entry: &Entry,
        parent: Option<&Parent>,
    ) -> Result<()> {
        let stat = rustix::fs::fstat(directory);
        let inode = stat
            .map_err(|error| self.system("look at", path, error))?
            .st_ino;
        if parent.is_none() {
            xattr::clear(directory.as_fd())
                .map_err(|error| self.system("clear the attributes of", path, error))?;
        }
        let done = self.set_owner(directory.as_fd(), entry, parent);
        done.map_err(|error| self.system("set the owner of", path, error))?;
        let passable = if self.uid == 0 {
            entry.mode
        } else {
            entry.mode | 0o700
        };
        rustix::fs::fchmod(directory, Mode::from_raw_mode(passable))
            .map_err(|error| self.system("set the mode of", path, error))?;
        self.set_xattrs(directory.as_fd(), path, entry)?;
        let acl = entry
            .xattrs
            .iter()
            .find(|(name, _)| name == xattr::DEFAULT_ACL);
        let pending = Pending {
            path: path.to_vec(),
            mode: (passable != entry.mode).then_some(entry.mode),
            default_acl: acl.map(|(_, value)| value.clone()),
            mtime: entry.mtime,
        };
        self.implied.remove(&inode);
        self.pending.insert(inode, pending);
        self.remember(path)
    }

    fn symlink(&mut self, place: &Place<'_>, entry: &Entry, target: &Path) -> Result<()> {
        let target = target.as_os_str().as_bytes();
        if target.is_empty() || target.contains(&0) {
            let doing = format!("make symbolic link {}: bad target", show(place.path));
            return Err(Error::invalid("InvalidLink", doing));
        }
        if target.len() >= MAX_PATH_BYTES {
            return Err(too_long(target).context(format!("make {}", show(place.path))));
        }
        self.make(place, |parent, name| {
            rustix::fs::symlinkat(target, parent, name)
        })?;
        self.unpacked.skipped_xattrs += entry.xattrs.len() as u64;
        self.node_metadata(place, entry)
    }

    fn hard_link(&mut self, place: &Place<'_>, target: &Path) -> Result<()> {
        let invalid = |why: &str| {
            let target = show(target.as_os_str().as_bytes());
            let doing = format!("link {} to {target}: {why}", show(place.path));
            Error::invalid("InvalidLink", doing)
        };
        let path = clean(target.as_os_str().as_bytes())
            .map_err(|error| error.context(format!("link {}", show(place.path))))?;
        let (above, target) = split(&path);
        let from = match self.tree.open_plain(above) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(invalid("there is no such file")),
            Err(Errno::LOOP) => return Err(invalid("a symbolic link is on the way")),
            Err(error) => return Err(self.system("find the target of", place.path, error)),
        };
        let stat = lookup(from.as_fd(), if target.is_empty() { b"." } else { target })
            .map_err(|error| self.system("find the target of", place.path, error))?
            .ok_or_else(|| invalid("there is no such file"))?;
        if is_directory(&stat) {
            return Err(invalid("it is a directory"));
        }
        let overlay = whiteout::opaque_xattr(self.options.whiteouts).is_some();
        if overlay && whiteout::is_device(&stat) {
            return Err(invalid("it was deleted"));
        }
        let there = lookup(place.parent.fd.as_fd(), place.name)
            .map_err(|error| self.system("look at", place.path, error))?;
        if there.is_some_and(|there| same_file(&there, &stat)) {
            return Ok(());
        }
        self.make(place, |parent, name| {
            rustix::fs::linkat(&from, target, parent, name, AtFlags::empty())
        })
    }

    /// Makes a device or a FIFO, which is never opened.
    fn node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        kind: FileType,
        (major, minor): (u32, u32),
    ) -> Result<()> {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::RUSR | Mode::WUSR;
        let mut refused = false;
        self.make(place, |parent, name| {
            match rustix::fs::mknodat(parent, name, kind, mode, device) {
                Err(Errno::PERM) if kind != FileType::Fifo => {
                    refused = true;
                    Ok(())
                }
                made => made,
            }
        })?;
        if refused {
            self.unpacked.skipped_devices += 1;
            return Ok(());
        }
        self.node_metadata(place, entry)?;
        self.unpacked.skipped_xattrs += entry.xattrs.len() as u64;
        Ok(())
    }

    /// Sets what can be set without opening the file that was just made.
    fn node_metadata(&self, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let (parent, name) = (&place.parent.fd, place.name);
        if self.needs_owner(entry, Some(place.parent)) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)
                .map_err(|error| self.system("set the owner of", place.path, error))?;
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            change_mode(parent.as_fd(), name, entry.mode)
                .map_err(|error| self.system("set the mode of", place.path, error))?;
        }
        let times = timestamps(entry.mtime);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.system("set the time of", place.path, error))
    }

    /// Takes `name` of the layers below away.
    fn gone(&mut self, above: &[u8], name: &[u8]) -> Result<()> {
        let parent = self.parent(above)?;
        let stat =
            lookup(parent.fd.as_fd(), name).map_err(|error| self.system("look at", name, error))?;
        if self.options.whiteouts == Whiteouts::Apply {
            let (added, hasher) = (&self.added, &self.hasher);
            let keep = |inode, name: &[u8]| added.contains(&hasher.hash_one((inode, name)));
            let directory = stat.filter(is_directory);
            if directory.is_some_and(|stat| !self.cleared.insert(stat.st_ino)) {
                // What is left in it is of this layer; if that is nothing, it goes itself.
                let own = keep(parent.stat.st_ino, name);
                return if own {
                    Ok(())
                } else {
                    self.tree.remove_empty(&parent, name)
                };
            }
            return self.tree.remove(&parent, name, &keep);
        }
        let doing = |error| Error::os(format!("make the whiteout of {}", show(name)), error);
        match stat {
            None => whiteout::set_gone(parent.fd.as_fd(), name).map_err(doing),
            // The layer has a directory there: only what is below it is gone.
            Some(stat) if is_directory(&stat) => {
                let (directory, _) = make_directory(parent.fd.as_fd(), name).map_err(doing)?;
                whiteout::set_opaque(directory.as_fd(), self.options.whiteouts).map_err(doing)
            }
            Some(_) => Ok(()),
        }
    }

    /// Takes all that the layers below have in a directory away.
    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.unpacked.opaque_root |= path.is_empty();
        let parent = self.parent(path)?;
        if self.options.whiteouts == Whiteouts::Apply {
            if !self.cleared.insert(parent.stat.st_ino) {
                return Ok(());
            }
            let (added, hasher) = (&self.added, &self.hasher);
            let keep = |inode, name: &[u8]| added.contains(&hasher.hash_one((inode, name)));
            return self.tree.empty(&parent, &keep);
        }
        let doing = |error| Error::os(format!("make {} opaque", show(path)), error);
        let (directory, _) = make_directory(parent.fd.as_fd(), b".").map_err(doing)?;
        whiteout::set_opaque(directory.as_fd(), self.options.whiteouts).map_err(doing)
    }

    /// The directory `path`, made with all above it where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Parent>> {
        if let Some(parent) = self.tree.recent(path) {
            return Ok(parent);
        }
        match self.tree.open(path) {
            Ok(parent) => return self.touch(path, &parent).map(|()| parent),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(self.system("open", path, error)),
        }
        let (path, mut length) = self.tree.existing_part(path)?;
        let above = self.tree.open(&path[..length]);
        let mut parent = above.map_err(|error| self.system("open", &path[..length], error))?;
        self.touch(&path[..length], &parent)?;
        while length < path.len() {
            let start = if length == 0 { 0 } else { length + 1 };
            let size = path[start..].iter().position(|byte| *byte == b'/');
            length = size.map_or(path.len(), |size| start + size);
            parent = self.imply(&path[..length], &path[start..length], &parent)?;
        }
        Ok(parent)
    }

    /// Makes a directory that has no entry yet.
    fn imply(&mut self, path: &[u8], name: &[u8], parent: &Parent) -> Result<Rc<Parent>> {
        let (fd, made) = self.make_directory(&Place { path, parent, name })?;
        let doing = |error| Error::os(format!("make directory {}", show(path)), error);
        if made {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(IMPLIED_MODE)).map_err(doing)?;
        }
        let stat = rustix::fs::fstat(&fd).map_err(doing)?;
        if made {
            // The inode may have been that of a directory that went.
            self.pending.remove(&stat.st_ino);
            self.implied.insert(stat.st_ino, path.to_vec());
            self.remember(path)?;
            self.check_entries()?;
            self.add(parent, name);
        }
        Ok(Rc::new(Parent { fd, stat }))
    }

    /// Notes how a directory of the layers below looked before the first change in it, and makes
    /// it one that can be changed.
    fn touch(&mut self, path: &[u8], parent: &Parent) -> Result<()> {
        if self.options.whiteouts != Whiteouts::Apply {
            return Ok(());
        }
        let stat = &parent.stat;
        if self.pending.contains_key(&stat.st_ino) || self.implied.contains_key(&stat.st_ino) {
            return Ok(());
        }
        let mode = stat.st_mode & 0o7777;
        let closed = self.uid != 0 && mode & 0o700 != 0o700;
        if closed {
            change_mode(parent.fd.as_fd(), b".", mode | 0o700)
                .map_err(|error| self.system("open up", path, error))?;
        }
        let pending = Pending {
            path: path.to_vec(),
            mode: closed.then_some(mode),
            default_acl: None,
            mtime: Timestamp {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        };
        self.pending.insert(stat.st_ino, pending);
        self.remember(path)
    }

    /// Makes a directory or opens the one that is there; the flag tells which.
    fn make_directory(&mut self, place: &Place<'_>) -> Result<(OwnedFd, bool)> {
        let (parent, name) = (place.parent.fd.as_fd(), place.name);
        let doing = |error| Error::os(format!("make directory {}", show(place.path)), error);
        match make_directory(parent, name) {
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            result => return result.map_err(doing),
        }
        self.tree.remove(place.parent, name, &|_, _| false)?;
        let (directory, made) = make_directory(parent, name).map_err(doing)?;
        // What was there, a whiteout or a file, hid the lower layers; they must not come back.
        whiteout::set_opaque(directory.as_fd(), self.options.whiteouts).map_err(doing)?;
        Ok((directory, made))
    }

    /// Makes a file in the place of what is there.
    fn make<T>(
        &mut self,
        place: &Place<'_>,
        mut make: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T> {
        let parent = place.parent.fd.as_fd();
        let mut made = make(parent, place.name);
        if matches!(made, Err(Errno::EXIST)) {
            self.tree.remove(place.parent, place.name, &|_, _| false)?;
            made = make(parent, place.name);
        }
        made.map_err(|error| self.system("make", place.path, error))
    }

    fn needs_owner(&self, entry: &Entry, parent: Option<&Parent>) -> bool {
        let mine = (entry.uid, entry.gid) == (self.uid, self.gid);
        // A new file may have got the group of its directory.
        let made_so = parent.is_some_and(|parent| mine && parent.stat.st_gid == self.gid);
        self.options.ownership == Ownership::Keep && !made_so
    }

    fn set_owner(
        &self,
        file: BorrowedFd<'_>,
        entry: &Entry,
        parent: Option<&Parent>,
    ) -> Result<(), Errno> {
        if !self.needs_owner(entry, parent) {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::fchown(file, Some(uid), Some(gid))
    }

    fn set_xattrs(&mut self, file: BorrowedFd<'_>, path: &[u8], entry: &Entry) -> Result<()> {
        for (name, value) in &entry.xattrs {
            let later = name == xattr::DEFAULT_ACL && entry.kind == EntryKind::Directory;
            if later {
                continue;
            }
            let set = xattr::is_portable(name)
                && xattr::set(file, name, value, self.options.ownership).map_err(|error| {
                    let doing = format!("set attribute {} of", show(name.as_bytes()));
                    self.system(&doing, path, error)
                })?;
            self.unpacked.skipped_xattrs += u64::from(!set);
        }
        Ok(())
    }

    fn add(&mut self, parent: &Parent, name: &[u8]) {
        if self.options.whiteouts == Whiteouts::Apply {
            self.added
                .insert(self.hasher.hash_one((parent.stat.st_ino, name)));
        }
    }

    fn check_entries(&self) -> Result<()> {
        let (there, limit) = (self.implied.len() as u64, self.options.limits.entries);
        if self.unpacked.entries.saturating_add(there) > limit {
            let doing = format!("unpack an archive of more than {limit} entries");
            return Err(Error::invalid("LimitExceeded", doing));
        }
        Ok(())
    }

    fn remember(&mut self, path: &[u8]) -> Result<()> {
        self.name_bytes += path.len();
        if self.name_bytes > MAX_NAME_BYTES {
            let doing =
                format!("remember directories of more than {MAX_NAME_BYTES} bytes of names");
            return Err(Error::invalid("LimitExceeded", doing));
        }
        Ok(())
    }

    fn system(&self, doing: &str, path: &[u8], error: Errno) -> Error {
        match error {
            Errno::NOSYS => {
                let doing = format!("{doing} {}: the kernel lacks openat2", show(path));
                Error::new(ErrorKind::Unsupported, "Unsupported", doing).with_source(error)
            }
            error => Error::os(format!("{doing} {}", show(path)), error),
        }
    }
}

/// Where an entry goes.
struct Place<'a> {
    path: &'a [u8],
    parent: &'a Parent,
    name: &'a [u8],
}

/// Writes up to `at_most` bytes of the current member, at `offset` or at the end.
fn write_contents(
    file: &OwnedFd,
    path: &[u8],
    mut offset: Option<u64>,
    mut at_most: u64,
    reader: &mut Reader<'_>,
) -> Result<()> {
    while at_most > 0 {
        let mut bytes = reader.contents(at_most)?;
        if bytes.is_empty() {
            return Ok(());
        }
        at_most -= bytes.len() as u64;
        while !bytes.is_empty() {
            let written = match offset {
                Some(offset) => rustix::io::pwrite(file, bytes, offset),
                None => rustix::io::write(file, bytes),
            };
            match written {
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset = offset.map(|offset| offset + count as u64);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::os(format!("write {}", show(path)), error)),
            }
        }
    }
    Ok(())
}

fn timestamps(mtime: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The mode of directories without an entry, until that of the layer below is known.
const IMPLIED_MODE: u32 = 0o755;

/// How many bytes of directory names are kept in memory, some hundred times those of large images.
const MAX_NAME_BYTES: usize = 256 << 20;
