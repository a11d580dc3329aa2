//! Packing: archives from directories, or entry by entry.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::compress::Compressor;
use super::entry::{Entry, EntryKind, Timestamp, clean, show, to_path};
use super::header::{BLOCK_BYTES, XATTR_PREFIX};
use super::{Compression, Whiteouts, whiteout, xattr};
use crate::store::from_io;
use crate::{Digest, Error, ErrorKind, HashWriter, Hasher, Result};

/// How to pack a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// How the layer is compressed.
    pub compression: Compression,
    /// The form that deletions have in the directory.
    pub whiteouts: Whiteouts,
    /// The user and group of all entries, instead of the owners on disk.
    pub owner: Option<(u32, u32)>,
    /// The time of all entries, instead of those on disk.
    pub mtime: Option<Timestamp>,
}

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Packed {
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The digest of the bytes that were written.
    pub digest: Digest,
    /// How many bytes were written.
    pub size_bytes: u64,
    /// How they are compressed.
    pub compression: Compression,
}

/// Writes all that is in `directory` to `output` as a layer.
///
/// The same tree gives the same archive: entries are sorted by name, parents first. Files that
/// have several names become hard links. The directory itself is the entry `./`. Sockets are left
/// out, as are attributes that do not belong to the image (see [`unpack`](super::unpack())).
///
/// The tree should not change meanwhile; where it does, no symbolic link is followed and nothing
/// outside is read, but the layer holds a mixture.
///
/// # Errors
/// `FileChanged` if a file shrinks while it is read; `ReservedName` if a file has the name of a
/// whiteout and `whiteouts` is not [`Whiteouts::Keep`]; `Unsupported` for directories that overlayfs
/// has redirected; system errors with the path.
///
/// # References
/// `openat2(2)`, Linux 5.6.
pub fn pack(
    directory: BorrowedFd<'_>,
    output: impl Write,
    options: &PackOptions,
) -> Result<Packed> {
    let mut walk = Walk::new(directory, output, options)?;
    walk.run()?;
    let (packed, _) = walk.packer.finish()?;
    Ok(packed)
}

/// Makes a layer entry by entry, compressing and hashing it on the way.
///
/// # Examples
///
/// ```
/// use container_image::layer::{Compression, Entry, EntryKind, Packer};
///
/// let mut packer = Packer::new(Vec::new(), Compression::None)?;
/// let file = Entry::new("etc/motd", EntryKind::File { size_bytes: 6 });
/// packer.append(&file, &mut &b"hello\n"[..])?;
/// let (packed, bytes) = packer.finish()?;
/// assert_eq!(packed.size_bytes, bytes.len() as u64);
/// # Ok::<(), container_image::Error>(())
/// ```
pub struct Packer<W: Write> {
    output: Compressor<HashWriter<BufWriter<W>>>,
    /// Of the uncompressed bytes; unused where they are what is written.
    hasher: Hasher,
    compression: Compression,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    /// A layer that is written to `output`.
    ///
    /// # Errors
    /// If the compressor cannot be made.
    pub fn new(output: W, compression: Compression) -> Result<Self> {
        let output = BufWriter::with_capacity(BUFFER_BYTES, output);
        let output = Compressor::new(HashWriter::new(output), compression)
            .map_err(|error| Error::os("make a compressor", error))?;
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self {
            output,
            hasher: Hasher::new(),
            compression,
            buffer,
        })
    }

    /// Adds an entry; the contents of a file are read from `contents`, which is else not used.
    ///
    /// # Errors
    /// `PathTooLong`, `PathEscapes`, `InvalidPath`; `FileChanged` if `contents` ends too early; and
    /// what reading and writing fail with.
    pub fn append(&mut self, entry: &Entry, contents: &mut dyn Read) -> Result<()> {
        let mut path = clean(entry.path_bytes())?;
        if path.is_empty() {
            path.extend_from_slice(b".");
        }
        if entry.kind == EntryKind::Directory {
            path.push(b'/');
        }
        let headers = headers(entry, &path)?;
        self.write(&headers)?;
        if let EntryKind::File { size_bytes } = entry.kind {
            self.contents(&path, size_bytes, contents)?;
        }
        Ok(())
    }

    /// Ends the archive and gives the output back.
    ///
    /// # Errors
    /// What writing fails with.
    pub fn finish(mut self) -> Result<(Packed, W)> {
        self.write(&[0; 2 * BLOCK_BYTES])?;
        let output = self
            .output
            .finish()
            .map_err(|error| from_io("write a layer", error))?;
        let (output, hasher) = output.into_parts();
        let output = output.into_inner().map_err(io::IntoInnerError::into_error);
        let mut output = output.map_err(|error| from_io("write a layer", error))?;
        output
            .flush()
            .map_err(|error| from_io("write a layer", error))?;
        let size_bytes = hasher.size_bytes();
        let digest = hasher.finish();
        let diff_id = match self.compression {
            Compression::None => digest,
            Compression::Gzip(_) | Compression::Zstd(_) => self.hasher.finish(),
        };
        let packed = Packed {
            diff_id,
            digest,
            size_bytes,
            compression: self.compression,
        };
        Ok((packed, output))
    }

    fn contents(&mut self, path: &[u8], size: u64, contents: &mut dyn Read) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let count = match contents.read(&mut buffer[..room]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(from_io(&format!("read {}", show(path)), error)),
            };
            if count == 0 {
                let doing = format!("read {}: it shrank meanwhile", show(path));
                return Err(Error::new(ErrorKind::InvalidState, "FileChanged", doing));
            }
            self.write(&buffer[..count])?;
            left -= count as u64;
        }
        self.buffer = buffer;
        self.write(&[0; BLOCK_BYTES][..padding(size)])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.compression != Compression::None {
            self.hasher.update(bytes);
        }
        self.output
            .write_all(bytes)
            .map_err(|error| from_io("write a layer", error))
    }
}

impl<W: Write> fmt::Debug for Packer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer")
            .field("hasher", &self.hasher)
            .finish_non_exhaustive()
    }
}

/// A walk over a directory, in the order of the archive.
pub(super) struct Walk<'a, W: Write> {
    root: BorrowedFd<'a>,
    options: &'a PackOptions,
    pub(super) packer: Packer<W>,
    /// The first path of files that have several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

/// A directory on the way down: its path and the names in it that are still to come, last first.
struct Level {
    path: Vec<u8>,
    names: Vec<Vec<u8>>,
}

impl<'a, W: Write> Walk<'a, W> {
    pub(super) fn new(root: BorrowedFd<'a>, output: W, options: &'a PackOptions) -> Result<Self> {
        Ok(Self {
            root,
            options,
            packer: Packer::new(output, options.compression)?,
            links: HashMap::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut directory = self.open_directory(b"")?;
        let mut levels = vec![self.enter(&directory, Vec::new())?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                levels.pop();
                if let Some(above) = levels.last() {
                    directory = self.open_directory(&above.path)?;
                }
                continue;
            };
            let path = if level.path.is_empty() {
                name.clone()
            } else {
                [&level.path, &b"/"[..], &name].concat()
            };
            let stat = whiteout::lookup(directory.as_fd(), &name)
                .map_err(|error| Error::os(format!("look at {}", show(&path)), error))?;
            let Some(stat) = stat else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.check_name(&path, &name)?;
                directory = self.open_directory(&path)?;
                levels.push(self.enter(&directory, path)?);
            } else {
                self.file(&directory, path, &name, &stat)?;
            }
        }
        Ok(())
    }

    /// Packs the entry of a directory and lists what is in it.
    fn enter(&mut self, directory: &OwnedFd, path: Vec<u8>) -> Result<Level> {
        self.directory(directory, &path)?;
        let doing = |error| Error::os(format!("read directory {}", show(&path)), error);
        let mut names = names_in(directory).map_err(doing)?;
        names.reverse();
        Ok(Level { path, names })
    }

    /// Packs the entry of a directory.
    pub(super) fn directory(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<()> {
        let doing = |error| Error::os(format!("read directory {}", show(path)), error);
        let stat = rustix::fs::fstat(directory).map_err(doing)?;
        let mut entry = self.entry(path, EntryKind::Directory, &stat);
        let names = xattr::list(directory.as_fd()).map_err(doing)?;
        self.check_overlay(path, &names)?;
        entry.xattrs = portable(directory.as_fd(), &names).map_err(doing)?;
        self.packer.append(&entry, &mut io::empty())?;
        let opaque = whiteout::opaque_xattr(self.options.whiteouts);
        if opaque.is_some_and(|opaque| names.iter().any(|name| name == opaque)) {
            let opaque = [path, &b"/"[..], whiteout::OPAQUE].concat();
            self.whiteout(&opaque, &stat)?;
        }
        Ok(())
    }

    pub(super) fn file(
        &mut self,
        directory: &OwnedFd,
        path: Vec<u8>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<()> {
        let doing = |error| Error::os(format!("read {}", show(&path)), error);
        let overlay = whiteout::opaque_xattr(self.options.whiteouts).is_some();
        if overlay && whiteout::is_device(stat) {
            let parent = &path[..path.len() - name.len()];
            return self.whiteout(&[parent, whiteout::PREFIX, name].concat(), stat);
        }
        self.check_name(&path, name)?;
        if stat.st_nlink > 1
            && let Some(target) = self.links.get(&(stat.st_dev, stat.st_ino))
        {
            let kind = EntryKind::HardLink {
                target: target.clone(),
            };
            return self
                .packer
                .append(&self.entry(&path, kind, stat), &mut io::empty());
        }
        let (major, minor) = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                self.regular(directory, &path, name)?;
                self.note_link(path, stat);
                return Ok(());
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(doing)?;
                EntryKind::Symlink {
                    target: to_path(target.to_bytes()),
                }
            }
            FileType::CharacterDevice => EntryKind::CharDevice { major, minor },
            FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
            FileType::Fifo => EntryKind::Fifo,
            // A socket is nothing without the program that listens.
            _ => return Ok(()),
        };
        self.packer
            .append(&self.entry(&path, kind, stat), &mut io::empty())?;
        self.note_link(path, stat);
        Ok(())
    }

    fn regular(&mut self, directory: &OwnedFd, path: &[u8], name: &[u8]) -> Result<()> {
        let doing = |error| Error::os(format!("read {}", show(path)), error);
        // Without NONBLOCK, a FIFO that took the place of the file meanwhile would hang us.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(doing)?;
        let stat = rustix::fs::fstat(&file).map_err(doing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let doing = format!("read {}: it is no file any more", show(path));
            return Err(Error::new(ErrorKind::InvalidState, "FileChanged", doing));
        }
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let mut entry = self.entry(path, EntryKind::File { size_bytes }, &stat);
        let names = xattr::list(file.as_fd()).map_err(doing)?;
        self.check_overlay(path, &names)?;
        entry.xattrs = portable(file.as_fd(), &names).map_err(doing)?;
        self.packer.append(&entry, &mut std::fs::File::from(file))
    }

    fn note_link(&mut self, path: Vec<u8>, stat: &Stat) {
        if stat.st_nlink > 1 {
            let path = PathBuf::from(OsString::from_vec(path));
            self.links.insert((stat.st_dev, stat.st_ino), path);
        }
    }

    pub(super) fn whiteout(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let mut entry = self.entry(path, EntryKind::File { size_bytes: 0 }, stat);
        entry.mode = 0o600;
        self.packer.append(&entry, &mut io::empty())
    }

    fn entry(&self, path: &[u8], kind: EntryKind, stat: &Stat) -> Entry {
        let (uid, gid) = self.options.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let mtime = Timestamp {
            seconds: stat.st_mtime,
            nanoseconds,
        };
        Entry {
            path: to_path(path),
            kind,
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            mtime: self.options.mtime.unwrap_or(mtime),
            xattrs: Vec::new(),
        }
    }

    /// Refuses files that the layer would turn into whiteouts.
    pub(super) fn check_name(&self, path: &[u8], name: &[u8]) -> Result<()> {
        if self.options.whiteouts == Whiteouts::Keep || !name.starts_with(whiteout::PREFIX) {
            return Ok(());
        }
        let doing = format!("pack {}: the name means a deletion in layers", show(path));
        Err(Error::invalid("ReservedName", doing))
    }

    /// Refuses what has its contents in another layer of an overlay.
    fn check_overlay(&self, path: &[u8], names: &[OsString]) -> Result<()> {
        let Some(opaque) = whiteout::opaque_xattr(self.options.whiteouts) else {
            return Ok(());
        };
        let space = opaque.trim_end_matches("opaque").as_bytes();
        let elsewhere = |name: &OsString| {
            let name = name.as_bytes().strip_prefix(space);
            matches!(name, Some(b"redirect" | b"metacopy"))
        };
        if names.iter().any(elsewhere) {
            let doing = format!(
                "pack {}: overlayfs keeps its contents elsewhere",
                show(path)
            );
            return Err(Error::new(ErrorKind::Unsupported, "Unsupported", doing));
        }
        Ok(())
    }

    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        open_directory(self.root, path)
    }
}

/// Opens the directory `path` below `root`, to which no link leads.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let name = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, name, flags, Mode::empty(), resolve)
        .map_err(|error| Error::os(format!("open {}", show(path)), error))
}

/// The names in a directory, sorted.
pub(super) fn names_in(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The attributes of `names` that belong to the image, with their values.
pub(super) fn portable(
    file: BorrowedFd<'_>,
    names: &[OsString],
) -> Result<Vec<(OsString, Vec<u8>)>, Errno> {
    let mut xattrs = Vec::new();
    for name in names.iter().filter(|name| xattr::is_portable(name)) {
        if let Some(value) = xattr::get(file, name)? {
            xattrs.push((name.clone(), value));
        }
    }
    Ok(xattrs)
}

/// The header blocks of an entry: ustar, with a PAX header before it for what does not fit.
fn headers(entry: &Entry, path: &[u8]) -> Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut block = [0; BLOCK_BYTES];
    if path.len() <= NAME_BYTES {
        block[..path.len()].copy_from_slice(path);
    } else {
        block[..NAME_BYTES].copy_from_slice(&path[..NAME_BYTES]);
        record(&mut records, "path", path);
    }
    let (flag, link) = match &entry.kind {
        EntryKind::File { .. } => (b'0', None),
        EntryKind::HardLink { target } => (b'1', Some(clean(target.as_os_str().as_bytes())?)),
        EntryKind::Symlink { target } => (b'2', Some(target.as_os_str().as_bytes().to_vec())),
        EntryKind::CharDevice { .. } => (b'3', None),
        EntryKind::BlockDevice { .. } => (b'4', None),
        EntryKind::Directory => (b'5', None),
        EntryKind::Fifo => (b'6', None),
    };
    if let Some(link) = link {
        if link.contains(&0) {
            let doing = format!("pack {}: NUL byte in the target", show(path));
            return Err(Error::invalid("InvalidLink", doing));
        }
        let fits = link.len().min(NAME_BYTES);
        block[157..157 + fits].copy_from_slice(&link[..fits]);
        if fits < link.len() {
            record(&mut records, "linkpath", &link);
        }
    }
    let size = match entry.kind {
        EntryKind::File { size_bytes } => size_bytes,
        _ => 0,
    };
    number(&mut block[100..108], u64::from(entry.mode & 0o7777));
    let mut text = |field: &mut [u8], key: &str, value: u64| {
        if !number(field, value) {
            record(&mut records, key, value.to_string().as_bytes());
        }
    };
    text(&mut block[108..116], "uid", entry.uid.into());
    text(&mut block[116..124], "gid", entry.gid.into());
    text(&mut block[124..136], "size", size);
    let seconds = u64::try_from(entry.mtime.seconds).ok();
    let whole = seconds.filter(|_| entry.mtime.nanoseconds == 0);
    if !number(&mut block[136..148], seconds.unwrap_or(0)) || whole.is_none() {
        record(&mut records, "mtime", time(entry.mtime).as_bytes());
    }
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let (major, minor) = match entry.kind {
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            (major, minor)
        }
        _ => (0, 0),
    };
    let fits = number(&mut block[329..337], major.into());
    if !(number(&mut block[337..345], minor.into()) && fits) {
        let doing = format!(
            "pack {}: device number {major}:{minor} is too large",
            show(path)
        );
        return Err(Error::invalid("InvalidDevice", doing));
    }
    for (name, value) in &entry.xattrs {
        let key = [XATTR_PREFIX.as_bytes(), name.as_bytes()].concat();
        if key.contains(&b'=') || key.contains(&0) {
            let doing = format!("pack {}: no layer can hold attribute {name:?}", show(path));
            return Err(Error::invalid("InvalidAttribute", doing));
        }
        record_bytes(&mut records, &key, value);
    }
    checksum(&mut block);
    if records.is_empty() {
        return Ok(block.to_vec());
    }
    let mut bytes = Vec::with_capacity(records.len() + 3 * BLOCK_BYTES);
    let mut extended = [0; BLOCK_BYTES];
    extended[..PAX_NAME.len()].copy_from_slice(PAX_NAME);
    number(&mut extended[100..108], 0o644);
    number(&mut extended[108..116], 0);
    number(&mut extended[116..124], 0);
    number(&mut extended[124..136], records.len() as u64);
    number(&mut extended[136..148], 0);
    extended[156] = b'x';
    extended[257..265].copy_from_slice(b"ustar\x0000");
    checksum(&mut extended);
    bytes.extend_from_slice(&extended);
    bytes.extend_from_slice(&records);
    bytes.resize(bytes.len() + padding(records.len() as u64), 0);
    bytes.extend_from_slice(&block);
    Ok(bytes)
}

fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    record_bytes(records, key.as_bytes(), value);
}

/// Adds `length key=value\n`, where the length counts its own digits.
fn record_bytes(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Writes an octal number that ends with a NUL; false, and zeros, if it does not fit.
fn number(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    let fits = text.len() == digits;
    let text = if fits { text } else { "0".repeat(digits) };
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
    fits
}

fn time(time: Timestamp) -> String {
    match (time.seconds, time.nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ 0.., nanoseconds) => {
            let text = format!("{seconds}.{nanoseconds:09}");
            text.trim_end_matches('0').to_owned()
        }
        (seconds, nanoseconds) => {
            let text = format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
            text.trim_end_matches('0').to_owned()
        }
    }
}

fn checksum(block: &mut [u8; BLOCK_BYTES]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    number(&mut block[148..155], sum);
}

/// How many bytes are missing to whole blocks.
fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK_BYTES as u64).unwrap_or(0)
}

/// How long names in headers can be.
const NAME_BYTES: usize = 100;

/// The name of extended headers, which nobody reads.
const PAX_NAME: &[u8] = b"PaxHeader";

const BUFFER_BYTES: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for size in [0, 1, 2, 3, 90, 91, 92, 93, 989, 990, 991] {
            let mut records = Vec::new();
            record(&mut records, "k", &vec![b'v'; size]);
            let text = String::from_utf8(records).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, text.len());
        }
    }

    #[test]
    fn times_as_pax_writes_them() {
        let cases = [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 750_000_000, "-1.25"),
        ];
        for (seconds, nanoseconds, want) in cases {
            assert_eq!(
                time(Timestamp {
                    seconds,
                    nanoseconds
                }),
                want
            );
        }
    }
}
