//! Layers: what hostile and odd archives do, and what survives a round trip.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use container_image::layer::{
    Compression, Entry, EntryKind, Limits, Ownership, PackOptions, Packer, Timestamp,
    UnpackOptions, Unpacked, Whiteouts, decompress, pack, unpack,
};
use container_image::{Digest, Error, ErrorKind};
use tempfile::TempDir;

mod attacks;
mod changes;
mod corpus;
mod difference;
mod flatten;
mod round_trip;

/// A directory to unpack into, beside one that nothing may change.
struct Sandbox {
    base: TempDir,
    before: Tree,
}

/// What is in a directory, by path.
type Tree = BTreeMap<PathBuf, Node>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    uid: u32,
    gid: u32,
    device: u64,
    mtime: (i64, i64),
    /// File contents or the text of a link.
    contents: Vec<u8>,
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// The first path of the same file.
    same_as: PathBuf,
}

impl Sandbox {
    fn new() -> Self {
        let base = tempfile::Builder::new()
            .prefix("layer")
            .tempdir_in(scratch())
            .unwrap();
        fs::create_dir(base.path().join("root")).unwrap();
        let outside = base.path().join("outside");
        fs::create_dir_all(outside.join("directory")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::write(outside.join("directory/file"), "file").unwrap();
        symlink("secret", outside.join("link")).unwrap();
        let before = tree(&outside);
        Self { base, before }
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    fn unpack(&self, archive: &[u8], options: &UnpackOptions) -> Result<Unpacked, Error> {
        let root = open(&self.root());
        let result = unpack(&mut &archive[..], root.as_fd(), options);
        assert_eq!(
            tree(&self.outside()),
            self.before,
            "something outside changed"
        );
        assert_eq!(fs::read_dir(self.base.path()).unwrap().count(), 2);
        result
    }
}

/// The bytes of one member whose header says what it is told, however wrong.
fn member(flag: u8, name: impl AsRef<[u8]>, link: impl AsRef<[u8]>, contents: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    let (name, link) = (name.as_ref(), link.as_ref());
    if name.len() > 100 || link.len() > 100 {
        let mut bytes = Vec::new();
        for (flag, text) in [(b'L', name), (b'K', link)] {
            if text.len() > 100 {
                bytes.extend(member(flag, "././@LongLink", "", &[text, b"\0"].concat()));
            }
        }
        bytes.extend(member(
            flag,
            &name[..name.len().min(100)],
            &link[..link.len().min(100)],
            contents,
        ));
        return bytes;
    }
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(if flag == b'5' {
        b"0000755\0"
    } else {
        b"0000644\0"
    });
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    block[108..116].copy_from_slice(format!("{:07o}\0", uid.as_raw()).as_bytes());
    block[116..124].copy_from_slice(format!("{:07o}\0", gid.as_raw()).as_bytes());
    block[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    let mut bytes = block.to_vec();
    bytes.extend_from_slice(contents);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Sets the checksum of a header.
fn seal(block: &mut [u8]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block[..512].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A member preceded by PAX records.
fn pax(records: &[(&str, &str)], flag: u8, name: &str, contents: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest..)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        text += &format!("{length} {key}={value}\n");
    }
    let mut bytes = member(b'x', "pax", "", text.as_bytes());
    bytes.extend(member(flag, name, "", contents));
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = members.concat();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    member(b'0', name, "", b"new")
}

fn directory(name: &str) -> Vec<u8> {
    member(b'5', name, "", b"")
}

fn link(name: &str, target: &str) -> Vec<u8> {
    member(b'2', name, target, b"")
}

fn hard_link(name: &str, target: &str) -> Vec<u8> {
    member(b'1', name, target, b"")
}

fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first = BTreeMap::new();
    let mut todo = vec![PathBuf::from(".")];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        // Overlayfs lists whiteouts of names that no lower layer has, but there is nothing.
        let Ok(meta) = fs::symlink_metadata(&full) else {
            continue;
        };
        let kind = meta.file_type();
        let mut xattrs = Vec::new();
        let contents = if kind.is_symlink() {
            fs::read_link(&full).unwrap().into_os_string().into_vec()
        } else if kind.is_file() {
            xattrs = read_xattrs(&full);
            fs::read(&full).unwrap()
        } else {
            Vec::new()
        };
        if kind.is_dir() {
            xattrs = read_xattrs(&full);
            let names = fs::read_dir(&full)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.collect();
            names.sort();
            todo.extend(names.iter().rev().map(|name| path.join(name)));
        }
        let same_as = match kind.is_dir() {
            true => path.clone(),
            false => first
                .entry(meta.ino())
                .or_insert_with(|| path.clone())
                .clone(),
        };
        let node = Node {
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            device: meta.rdev(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            contents,
            xattrs,
            same_as,
        };
        tree.insert(path, node);
    }
    tree
}

fn read_xattrs(path: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let size = rustix::fs::listxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..size]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut xattrs: Vec<_> = names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let size = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            value.truncate(size);
            (OsString::from_vec(name.to_vec()), value)
        })
        .collect();
    xattrs.sort();
    xattrs
}

fn names(root: &Path) -> Vec<String> {
    let tree = tree(root);
    let names = tree
        .keys()
        .skip(1)
        .map(|path| path.strip_prefix(".").unwrap());
    names
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

fn options(whiteouts: Whiteouts) -> UnpackOptions {
    UnpackOptions {
        whiteouts,
        ..UnpackOptions::default()
    }
}

fn without_owners() -> UnpackOptions {
    UnpackOptions {
        ownership: Ownership::Ignore,
        ..UnpackOptions::default()
    }
}

/// The forms that whoever runs the test may write.
fn forms() -> &'static [Whiteouts] {
    use Whiteouts::{Apply, Keep, Overlay, OverlayUser};
    match rustix::process::geteuid().is_root() {
        true => &[Apply, Keep, OverlayUser, Overlay],
        false => &[Apply, Keep, OverlayUser],
    }
}

/// Replaces a placeholder in the name or link of a header.
fn replace(member: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = member.to_vec();
    for field in [0..100, 157..257] {
        let text = &member[field.clone()];
        let text = &text[..text
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(text.len())];
        if let Some(rest) = text.strip_prefix(from) {
            let text = [to, rest].concat();
            bytes[field.start..field.start + text.len()].copy_from_slice(&text);
        }
    }
    seal(&mut bytes);
    bytes
}

fn replace_all(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for start in (0..bytes.len()).step_by(512) {
        if bytes[start..].get(100..108) == Some(from) {
            bytes[start + 100..start + 108].copy_from_slice(to);
            seal(&mut bytes[start..start + 512]);
        }
    }
    bytes
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
