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
        let meta = fs::symlink_metadata(&full).unwrap();
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

const FORMS: [Whiteouts; 4] = [
    Whiteouts::Apply,
    Whiteouts::Overlay,
    Whiteouts::OverlayUser,
    Whiteouts::Keep,
];

#[test]
fn nothing_outside_the_root_is_read_or_changed() {
    // Names are relative to "root"; "OUT" stands for the path of the directory beside it.
    let cases: Vec<(&str, Vec<Vec<u8>>, Result<(), &str>)> = vec![
        (
            "file through a relative link",
            vec![link("l", "../outside"), file("l/secret")],
            Ok(()),
        ),
        (
            "file through an absolute link",
            vec![link("l", "OUT"), file("l/secret")],
            Ok(()),
        ),
        (
            "file over a link",
            vec![link("l", "OUT/secret"), file("l")],
            Ok(()),
        ),
        (
            "file through two links",
            vec![link("a", "b"), link("b", "OUT"), file("a/secret")],
            Ok(()),
        ),
        (
            "link loop",
            vec![link("a", "b"), link("b", "a"), file("a/x")],
            Err("Os"),
        ),
        ("dots", vec![file("../outside/secret")], Err("PathEscapes")),
        (
            "dots after a name",
            vec![file("a/../../outside/secret")],
            Err("PathEscapes"),
        ),
        ("absolute name", vec![file("OUT/secret")], Ok(())),
        (
            "hard link with dots",
            vec![hard_link("h", "../outside/secret")],
            Err("PathEscapes"),
        ),
        (
            "absolute hard link",
            vec![hard_link("h", "OUT/secret")],
            Err("InvalidLink"),
        ),
        (
            "hard link through a link",
            vec![
                link("l", "../outside"),
                hard_link("h", "l/secret"),
                file("h"),
            ],
            Err("InvalidLink"),
        ),
        (
            "hard link to a link, then written",
            vec![
                link("l", "../outside/secret"),
                hard_link("h", "l"),
                file("h"),
            ],
            Ok(()),
        ),
        (
            "hard link to a directory",
            vec![directory("d"), hard_link("h", "d")],
            Err("InvalidLink"),
        ),
        (
            "hard link to the root",
            vec![hard_link("h", ".")],
            Err("InvalidLink"),
        ),
        (
            "directory over a link",
            vec![link("l", "../outside"), directory("l")],
            Ok(()),
        ),
        (
            "directory over a link, twice",
            vec![link("l", "OUT"), directory("l"), file("l/x")],
            Ok(()),
        ),
        (
            "root as a link",
            vec![link(".", "../outside"), file("secret")],
            Err("InvalidPath"),
        ),
        (
            "root as a link, by slash",
            vec![link("/", "OUT")],
            Err("InvalidPath"),
        ),
        (
            "root without a name",
            vec![link("", "OUT")],
            Err("InvalidPath"),
        ),
        ("root as a file", vec![file("./")], Err("InvalidPath")),
        (
            "magic link",
            vec![link("l", "/proc/self/root"), file("l/x")],
            Ok(()),
        ),
        ("device", vec![member(b'3', "null", "", b"")], Ok(())),
        (
            "fifo, then a link to it",
            vec![member(b'6', "f", "", b""), hard_link("g", "f")],
            Ok(()),
        ),
        (
            "file over a fifo",
            vec![member(b'6', "f", "", b""), file("f")],
            Ok(()),
        ),
    ];
    for (name, members, want) in cases {
        for form in FORMS {
            let sandbox = Sandbox::new();
            let outside = sandbox.outside();
            let mut bytes = Vec::new();
            for member in &members {
                bytes.extend(replace(member, b"OUT", outside.as_os_str().as_bytes()));
            }
            let bytes = archive(&[bytes]);
            let got = sandbox.unpack(&bytes, &options(form));
            let got = got.map(|_| ()).map_err(|error| error.code());
            assert_eq!(got, want, "{name} with {form:?}");
        }
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

#[test]
fn whiteouts_stay_inside_the_root() {
    for whiteout in [".wh.secret", ".wh.directory", ".wh..wh..opq", ".wh.link"] {
        for target in ["../outside", "OUT"] {
            for form in FORMS {
                let sandbox = Sandbox::new();
                let outside = sandbox.outside();
                let members = [link("l", target), file(&format!("l/{whiteout}"))];
                let members = members.iter();
                let bytes = members.map(|m| replace(m, b"OUT", outside.as_os_str().as_bytes()));
                let bytes = archive(&bytes.collect::<Vec<_>>());
                sandbox.unpack(&bytes, &options(form)).unwrap();
            }
        }
    }
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..", ".wh.x/y"] {
        let sandbox = Sandbox::new();
        let error = sandbox.unpack(&archive(&[file(name)]), &options(Whiteouts::Apply));
        assert_eq!(error.unwrap_err().code(), "InvalidWhiteout", "{name}");
    }
}

#[test]
fn layers_take_the_place_of_what_is_below() {
    let below = || {
        archive(&[
            directory("d"),
            directory("d/sub"),
            file("d/sub/deep"),
            file("d/x"),
            file("f"),
            link("l", "d"),
        ])
    };
    // With the layers unpacked one into the other.
    let cases: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        (
            "file deleted",
            vec![file(".wh.f")],
            "d d/sub d/sub/deep d/x l",
        ),
        (
            "deleted by a hard link",
            vec![file("k"), hard_link(".wh.f", "k")],
            "d d/sub d/sub/deep d/x k l",
        ),
        (
            "deleted by a directory",
            vec![directory(".wh.f")],
            "d d/sub d/sub/deep d/x l",
        ),
        ("tree deleted", vec![file(".wh.d")], "f l"),
        (
            "link deleted, not what it is to",
            vec![file(".wh.l")],
            "d d/sub d/sub/deep d/x f",
        ),
        (
            "nothing to delete",
            vec![file(".wh.none"), file("none/.wh.none")],
            "d d/sub d/sub/deep d/x f l",
        ),
        (
            "opaque first",
            vec![file("d/.wh..wh..opq"), file("d/new")],
            "d d/new f l",
        ),
        (
            "opaque last",
            vec![file("d/new"), file("d/.wh..wh..opq")],
            "d d/new f l",
        ),
        (
            "opaque with a deep file",
            vec![file("d/sub/new"), file("d/.wh..wh..opq")],
            "d d/sub d/sub/new f l",
        ),
        (
            "opaque root",
            vec![file("new"), file(".wh..wh..opq")],
            "new",
        ),
        (
            "deleted and made again",
            vec![file(".wh.d"), directory("d"), file("d/new")],
            "d d/new f l",
        ),
        (
            "made again and deleted",
            vec![directory("d"), file("d/new"), file(".wh.d")],
            "d d/new f l",
        ),
        (
            "file for itself",
            vec![file("f"), file(".wh.f")],
            "d d/sub d/sub/deep d/x f l",
        ),
        ("file for directory", vec![file("d")], "d f l"),
        ("link for directory", vec![link("d", "f")], "d f l"),
        (
            "directory for file",
            vec![directory("f"), file("f/x")],
            "d d/sub d/sub/deep d/x f f/x l",
        ),
        (
            "implied directory for file",
            vec![file("f/x")],
            "d d/sub d/sub/deep d/x f f/x l",
        ),
        (
            "directory for link",
            vec![directory("l"), file("l/x")],
            "d d/sub d/sub/deep d/x f l l/x",
        ),
        (
            "file through a link",
            vec![file("l/y")],
            "d d/sub d/sub/deep d/x d/y f l",
        ),
        (
            "deleted through a link",
            vec![file("l/.wh.x")],
            "d d/sub d/sub/deep f l",
        ),
        (
            "aufs records",
            vec![
                directory(".wh..wh.plnk"),
                file(".wh..wh.plnk/1.2"),
                file(".wh..wh.aufs"),
            ],
            "d d/sub d/sub/deep d/x f l",
        ),
        (
            "link to a lower file",
            vec![hard_link("g", "d/x")],
            "d d/sub d/sub/deep d/x f g l",
        ),
        (
            "link to itself",
            vec![hard_link("f", "f")],
            "d d/sub d/sub/deep d/x f l",
        ),
    ];
    for (name, members, want) in cases {
        let sandbox = Sandbox::new();
        sandbox
            .unpack(&below(), &options(Whiteouts::Apply))
            .unwrap();
        sandbox
            .unpack(&archive(&members), &options(Whiteouts::Apply))
            .unwrap();
        assert_eq!(names(&sandbox.root()).join(" "), want, "{name}");
    }
}

#[test]
fn kept_whiteouts_are_files() {
    let sandbox = Sandbox::new();
    let bytes = archive(&[file("d/.wh.x"), file("d/.wh..wh..opq")]);
    sandbox.unpack(&bytes, &options(Whiteouts::Keep)).unwrap();
    assert_eq!(names(&sandbox.root()), ["d", "d/.wh..wh..opq", "d/.wh.x"]);
}

#[test]
fn directories_without_an_entry_are_told() {
    let cases: [(Vec<Vec<u8>>, &str); 5] = [
        (vec![file("a/b/c")], ". a a/b"),
        (vec![file("a/b/c"), directory("a")], ". a/b"),
        (vec![directory("./"), directory("a"), file("a/c")], ""),
        (vec![link("l", "gone/far"), file("l/x")], ". gone gone/far"),
        (vec![link("l", "/../../gone"), file("l/x")], ". gone"),
    ];
    for (members, want) in cases {
        let sandbox = Sandbox::new();
        let unpacked = sandbox.unpack(&archive(&members), &options(Whiteouts::OverlayUser));
        let implied = unpacked.unwrap().implied_directories;
        let implied: Vec<_> = implied.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(implied.join(" "), want);
    }
}

#[test]
fn directories_below_keep_their_times() {
    let sandbox = Sandbox::new();
    let below = pax(&[("mtime", "1000.5")], b'5', "d/", b"");
    sandbox
        .unpack(&archive(&[below]), &options(Whiteouts::Apply))
        .unwrap();
    sandbox
        .unpack(&archive(&[file("d/new")]), &options(Whiteouts::Apply))
        .unwrap();
    let meta = fs::metadata(sandbox.root().join("d")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1000, 500_000_000));
}

#[test]
fn odd_names_keep_their_bytes_or_are_refused() {
    let long = "n".repeat(255);
    let deep = "d/".repeat(1023) + "f";
    let good: [&[u8]; 8] = [
        long.as_bytes(),
        deep.as_bytes(),
        b"new\nline",
        b"\xff\xfe invalid UTF-8",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b" \t\"'\\$(x)",
        b"...",
    ];
    for name in good {
        let sandbox = Sandbox::new();
        let bytes = archive(&[member(b'0', name, "", b"new")]);
        sandbox.unpack(&bytes, &options(Whiteouts::Keep)).unwrap();
        let path = sandbox.root().join(OsStr::from_bytes(name));
        assert_eq!(fs::read(path).unwrap(), b"new", "{name:?}");
    }
    let both = archive(&[file("\u{e9}"), file("e\u{301}")]);
    let sandbox = Sandbox::new();
    sandbox.unpack(&both, &options(Whiteouts::Keep)).unwrap();
    assert_eq!(names(&sandbox.root()).len(), 2);
    let bad = [
        ("n".repeat(256), "PathTooLong"),
        ("d/".repeat(3000), "PathTooLong"),
        ("abcdefg/".repeat(70 << 10 >> 3), "PathTooLong"),
        ("x".repeat(2 << 20), "LimitExceeded"),
    ];
    for (name, want) in bad {
        let sandbox = Sandbox::new();
        let result = sandbox.unpack(&archive(&[file(&name)]), &options(Whiteouts::Keep));
        assert_eq!(result.unwrap_err().code(), want, "{} bytes", name.len());
    }
    let long_target = archive(&[link("l", &"t".repeat(5000))]);
    let result = Sandbox::new().unpack(&long_target, &options(Whiteouts::Keep));
    assert_eq!(result.unwrap_err().code(), "PathTooLong");
}

#[test]
fn a_tree_deeper_than_any_path_can_be_removed() {
    let sandbox = Sandbox::new();
    let half = "d/".repeat(1000);
    let bytes = archive(&[file(&format!("{half}f")), file("d/keep"), file(".wh.none")]);
    sandbox.unpack(&bytes, &options(Whiteouts::Apply)).unwrap();
    sandbox
        .unpack(&archive(&[file(".wh.d")]), &options(Whiteouts::Apply))
        .unwrap();
    assert!(names(&sandbox.root()).is_empty());
}

#[test]
fn sizes_of_pax_records_win() {
    // As in CVE-2025-62518 and CVE-2026-33055: whoever believes the header sees another archive.
    let hidden = archive(&[file("hidden")]);
    let mut whole = pax(
        &[("size", &hidden.len().to_string())],
        b'0',
        "nested.tar",
        &hidden,
    );
    whole[1024 + 124..1024 + 136].copy_from_slice(b"00000000000\0");
    seal(&mut whole[1024..]);
    let sandbox = Sandbox::new();
    sandbox
        .unpack(&archive(&[whole, file("after")]), &options(Whiteouts::Keep))
        .unwrap();
    assert_eq!(names(&sandbox.root()), ["after", "nested.tar"]);
    assert_eq!(fs::read(sandbox.root().join("nested.tar")).unwrap(), hidden);
}

#[test]
fn exact_times_modes_and_contents() {
    let sandbox = Sandbox::new();
    let bytes = archive(&[
        pax(&[("mtime", "-1.25")], b'5', "d", b""),
        pax(&[("mtime", "0.000000001")], b'0', "d/f", b"contents"),
        pax(&[("mtime", "1350244992.023960108")], b'2', "d/l", b""),
        file("zero"),
    ]);
    let bytes = replace_all(&bytes, b"0000644\0", b"0007777\0");
    let error = sandbox
        .unpack(&bytes, &options(Whiteouts::Keep))
        .unwrap_err();
    assert_eq!(error.code(), "InvalidLink", "a link without a target");
    let sandbox = Sandbox::new();
    let bytes = archive(&[
        pax(&[("mtime", "-1.25")], b'5', "d", b""),
        pax(&[("mtime", "0.000000001")], b'0', "d/f", b"contents"),
        pax(
            &[("mtime", "1350244992.023960108"), ("linkpath", "\u{e9}")],
            b'2',
            "d/l",
            b"",
        ),
        file("zero"),
    ]);
    let bytes = replace_all(&bytes, b"0000644\0", b"0007777\0");
    sandbox.unpack(&bytes, &options(Whiteouts::Keep)).unwrap();
    let tree = tree(&sandbox.root());
    let node = |path: &str| tree[&Path::new(".").join(path)].clone();
    assert_eq!(node("d").mtime, (-2, 750_000_000));
    assert_eq!(node("d/f").mtime, (0, 1));
    assert_eq!(node("d/f").mode, 0o107_777);
    assert_eq!(node("d/f").contents, b"contents");
    assert_eq!(node("d/l").mtime, (1_350_244_992, 23_960_108));
    assert_eq!(node("d/l").contents, "\u{e9}".as_bytes());
    assert_eq!(node("zero").mtime, (0, 0));
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

#[test]
fn holes_stay_holes() {
    let plain = |map: &str, contents: &[u8]| {
        let bytes = [map.as_bytes(), &vec![0; 512 - map.len()], contents].concat();
        let records = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "sparse"),
            ("GNU.sparse.realsize", "1048580"),
        ];
        pax(&records, b'0', "GNUSparseFile.0/sparse", &bytes)
    };
    let records = [
        ("GNU.sparse.size", "1048580"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.map", "0,3,1048576,3"),
    ];
    let cases = [
        plain("2\n0\n3\n1048576\n3\n", b"abcdef"),
        pax(&records, b'0', "sparse", b"abcdef"),
    ];
    for case in cases {
        let sandbox = Sandbox::new();
        let unpacked = sandbox
            .unpack(&archive(&[case]), &options(Whiteouts::Keep))
            .unwrap();
        assert_eq!(unpacked.bytes, 1_048_580);
        let path = sandbox.root().join("sparse");
        let contents = fs::read(&path).unwrap();
        assert_eq!((contents.len(), &contents[..4]), (1_048_580, &b"abc\0"[..]));
        assert_eq!(&contents[1_048_576..], b"def\0");
        assert!(fs::metadata(&path).unwrap().blocks() * 512 < 64 << 10);
    }
    let lies = [
        "2\n0\n3\n2\n3\n",
        "1\n0\n7\n",
        "2\n0\n3\n1048578\n3\n",
        "9\n0\n3\n",
        "-1\n",
        "x\n",
    ];
    for map in lies {
        let result = Sandbox::new().unpack(
            &archive(&[plain(map, b"abcdef")]),
            &options(Whiteouts::Keep),
        );
        assert_eq!(result.unwrap_err().code(), "InvalidArchive", "{map:?}");
    }
}

#[test]
fn bombs_meet_their_limit() {
    let zeros = vec![0_u8; 64 << 20];
    let whole = archive(&[member(b'0', "zeros", "", &zeros)]);
    for compression in [Compression::Gzip(9), Compression::Zstd(3)] {
        let mut packer = Packer::new(Vec::new(), compression).unwrap();
        let entry = Entry::new(
            "zeros",
            EntryKind::File {
                size_bytes: zeros.len() as u64,
            },
        );
        packer.append(&entry, &mut &zeros[..]).unwrap();
        let (packed, bytes) = packer.finish().unwrap();
        assert!(packed.size_bytes < 100 << 10);
        let sandbox = Sandbox::new();
        let mut plain = decompress(io::Cursor::new(bytes.clone())).unwrap();
        let root = open(&sandbox.root());
        let result = unpack(&mut plain, root.as_fd(), &UnpackOptions::default());
        assert_eq!(
            result.unwrap_err().code(),
            "LimitExceeded",
            "{compression:?}"
        );
        let mut plain = decompress(io::Cursor::new(bytes))
            .unwrap()
            .limit_ratio(u64::MAX);
        unpack(&mut plain, root.as_fd(), &UnpackOptions::default()).unwrap();
    }
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let result = Sandbox::new().unpack(
        &whole,
        &UnpackOptions {
            limits,
            ..Default::default()
        },
    );
    assert_eq!(result.unwrap_err().code(), "LimitExceeded");
    let limits = Limits {
        entries: 100,
        ..Limits::default()
    };
    let cases = [
        (0..101)
            .map(|index| file(&format!("f{index}")))
            .collect::<Vec<_>>(),
        vec![file(&"d/".repeat(101))],
    ];
    for members in cases {
        let result = Sandbox::new().unpack(
            &archive(&members),
            &UnpackOptions {
                limits,
                ..Default::default()
            },
        );
        assert_eq!(result.unwrap_err().code(), "LimitExceeded");
    }
    let sparse = [
        ("GNU.sparse.size", "1099511627776"),
        ("GNU.sparse.numblocks", "0"),
        ("GNU.sparse.major", "0"),
        ("GNU.sparse.minor", "1"),
    ];
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let result = Sandbox::new().unpack(
        &archive(&[pax(&sparse, b'0', "s", b"")]),
        &UnpackOptions {
            limits,
            ..Default::default()
        },
    );
    assert_eq!(result.unwrap_err().code(), "LimitExceeded");
}

#[test]
fn archives_cut_anywhere_are_errors_or_end_between_members() {
    let bytes = archive(&[
        directory("d"),
        file("d/f"),
        pax(&[("path", "d/g")], b'0', "g", b"new"),
    ]);
    for size in 0..bytes.len() {
        let sandbox = Sandbox::new();
        match sandbox.unpack(&bytes[..size], &options(Whiteouts::Apply)) {
            Ok(_) => assert!(size % 512 == 0, "{size}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Integrity, "{size}: {error:?}"),
        }
    }
    for compression in [Compression::Gzip(6), Compression::Zstd(3)] {
        let mut packer = Packer::new(Vec::new(), compression).unwrap();
        let entry = Entry::new("f", EntryKind::File { size_bytes: 3 });
        packer.append(&entry, &mut &b"new"[..]).unwrap();
        let (_, packed) = packer.finish().unwrap();
        for size in 8..packed.len() {
            let sandbox = Sandbox::new();
            let mut plain = decompress(io::Cursor::new(packed[..size].to_vec())).unwrap();
            let root = open(&sandbox.root());
            let result = unpack(&mut plain, root.as_fd(), &UnpackOptions::default());
            assert_eq!(
                result.unwrap_err().kind(),
                ErrorKind::Integrity,
                "{compression:?} {size}"
            );
        }
    }
}

#[test]
fn the_compression_is_told_by_content() {
    let plain = archive(&[file("f")]);
    for compression in [
        Compression::None,
        Compression::Gzip(1),
        Compression::Zstd(1),
    ] {
        let mut packer = Packer::new(Vec::new(), compression).unwrap();
        packer
            .append(&Entry::new("d", EntryKind::Directory), &mut io::empty())
            .unwrap();
        let (packed, bytes) = packer.finish().unwrap();
        assert_eq!(packed.digest, Digest::of(&bytes));
        let mut out = Vec::new();
        decompress(OneByOne(bytes))
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        assert_eq!(packed.diff_id, Digest::of(&out));
    }
    let refused: [(&[u8], &str); 4] = [
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\0\0", "xz"),
        (b"\x04\x22\x4d\x18\0\0", "lz4"),
        (b"LZIP\x01\0", "lzip"),
    ];
    for (bytes, name) in refused {
        let error = decompress(bytes).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unsupported, "UnsupportedCompression")
        );
        assert!(error.to_string().contains(name));
    }
    let two = {
        let half = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        [half(&plain[..700]), half(&plain[700..])].concat()
    };
    let mut out = Vec::new();
    decompress(io::Cursor::new(two))
        .unwrap()
        .read_to_end(&mut out)
        .unwrap();
    assert_eq!(out, plain);
}

/// A source whose reads are as short as can be.
struct OneByOne(Vec<u8>);

impl Read for OneByOne {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() || buffer.is_empty() {
            return Ok(0);
        }
        buffer[0] = self.0.remove(0);
        Ok(1)
    }
}

#[test]
fn attributes_of_the_host_are_not_taken_over() {
    let records = [
        ("SCHILY.xattr.user.note", "yes"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.redirect", "/outside"),
        ("SCHILY.xattr.security.selinux", "x"),
    ];
    for form in FORMS {
        let sandbox = Sandbox::new();
        let bytes = archive(&[
            pax(&records, b'5', "d", b""),
            pax(&records, b'0', "f", b""),
            pax(&records, b'5', "./", b""),
        ]);
        let unpacked = sandbox.unpack(&bytes, &options(form)).unwrap();
        for path in ["d", "f", ""] {
            let xattrs = read_xattrs(&sandbox.root().join(path));
            assert!(
                xattrs.iter().all(|(name, _)| name == "user.note"),
                "{path}: {xattrs:?}"
            );
        }
        assert!(unpacked.skipped_xattrs >= 12);
    }
}

#[test]
fn packing_is_deterministic() {
    let build = |order: &[&str]| {
        let sandbox = Sandbox::new();
        for name in order {
            fs::write(sandbox.root().join(name), name).unwrap();
        }
        let options = PackOptions {
            compression: Compression::Zstd(3),
            mtime: Some(Timestamp::default()),
            owner: Some((0, 0)),
            ..PackOptions::default()
        };
        let root = open(&sandbox.root());
        pack(root.as_fd(), io::sink(), &options).unwrap()
    };
    assert_eq!(build(&["a", "b", "c"]), build(&["c", "a", "b"]));
    assert_ne!(build(&["a", "b"]).diff_id, build(&["a", "c"]).diff_id);
}

#[test]
fn names_of_whiteouts_cannot_be_packed_by_accident() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.root().join(".wh.etc"), "").unwrap();
    let root = open(&sandbox.root());
    let error = pack(root.as_fd(), io::sink(), &PackOptions::default()).unwrap_err();
    assert_eq!(error.code(), "ReservedName");
    let options = PackOptions {
        whiteouts: Whiteouts::Keep,
        ..PackOptions::default()
    };
    pack(root.as_fd(), io::sink(), &options).unwrap();
}

#[test]
fn random_archives_neither_panic_nor_escape() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let names = [
        "a",
        "b",
        "a/b",
        "a/b/c",
        "b/a",
        ".",
        "..",
        "../outside",
        "/",
        "",
        "a/../b",
        "a/../../b",
        ".wh.a",
        ".wh.b",
        "a/.wh.b",
        ".wh..wh..opq",
        "a/.wh..wh..opq",
        ".wh.",
        ".wh..",
        "b/.wh..wh.x",
        "../outside/secret",
        "/proc/self/root",
        "a/b/../../../outside",
    ];
    for round in 0..1500 {
        let sandbox = Sandbox::new();
        let mut members = Vec::new();
        for _ in 0..random.below(12) {
            let flag = *random.pick(b"00012225567xgLKS3");
            let (name, target) = (*random.pick(&names), *random.pick(&names));
            let contents = match flag {
                b'0' | b'L' | b'K' => target.as_bytes(),
                b'x' | b'g' => b"10 path=b\n11 size=12\n",
                _ => b"",
            };
            members.push(member(flag, name, target, contents));
        }
        let mut bytes = archive(&members);
        if round % 3 == 0 {
            for _ in 0..random.below(8) {
                let place = random.below(bytes.len());
                bytes[place] = random.next().to_le_bytes()[0];
                if random.below(2) == 0 {
                    let start = place / 512 * 512;
                    seal(&mut bytes[start..start + 512]);
                }
            }
        }
        let form = *random.pick(&FORMS);
        let limits = Limits {
            bytes: 1 << 20,
            entries: 1000,
        };
        let options = UnpackOptions {
            whiteouts: form,
            limits,
            ..UnpackOptions::default()
        };
        let first = sandbox.unpack(&bytes, &options);
        let second = sandbox.unpack(&bytes, &options);
        if first.is_ok() && form == Whiteouts::Apply {
            second.unwrap();
            let root = open(&sandbox.root());
            if let Err(error) = pack(root.as_fd(), io::sink(), &PackOptions::default()) {
                assert_eq!(error.code(), "ReservedName");
            }
        }
    }
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

/// A directory with one of everything.
fn zoo(root: &Path) {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/ping"), vec![7; 300_000]).unwrap();
    std::os::unix::fs::chown(root.join("usr/bin/ping"), Some(12), Some(3_000_000_000)).unwrap();
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let set = |path: &str, name: &str, value: &[u8]| {
        setxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("usr/bin/ping", "security.capability", capability);
    set("usr/bin/ping", "user.note", b"\0\xff\n=");
    set("usr", "user.empty", b"");
    fs::write(root.join("usr/bin/su"), "su").unwrap();
    fs::set_permissions(root.join("usr/bin/su"), PermissionsExt::from_mode(0o6755)).unwrap();
    fs::hard_link(root.join("usr/bin/su"), root.join("usr/bin/zz")).unwrap();
    fs::hard_link(root.join("usr/bin/su"), root.join("also")).unwrap();
    symlink("/etc/../\u{e9}", root.join("link")).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(1), Some(2)).unwrap();
    let long = "n".repeat(200);
    fs::create_dir(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("x".repeat(255)), "long").unwrap();
    symlink("t".repeat(300), root.join(&long).join("link")).unwrap();
    let mode = Mode::from_raw_mode(0o620);
    mknodat(
        CWD,
        root.join("tty"),
        FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(4, 300),
    )
    .unwrap();
    mknodat(
        CWD,
        root.join("disk"),
        FileType::BlockDevice,
        mode,
        rustix::fs::makedev(8, 1),
    )
    .unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"odd \xff\n")), "").unwrap();
    fs::set_permissions(root, PermissionsExt::from_mode(0o555)).unwrap();
}

#[test]
fn privileged_a_tree_survives_pack_and_unpack() {
    if !is_root() {
        return;
    }
    let source = Sandbox::new();
    zoo(&source.root());
    let want = tree(&source.root());
    for compression in [
        Compression::None,
        Compression::Gzip(6),
        Compression::Zstd(3),
    ] {
        let options = PackOptions {
            compression,
            ..PackOptions::default()
        };
        let root = open(&source.root());
        let mut bytes = Vec::new();
        let packed = pack(root.as_fd(), &mut bytes, &options).unwrap();
        assert_eq!(
            (packed.size_bytes, packed.digest),
            (bytes.len() as u64, Digest::of(&bytes))
        );
        for form in FORMS {
            let copy = Sandbox::new();
            let mut plain = decompress(io::Cursor::new(bytes.clone())).unwrap();
            let root = open(&copy.root());
            let unpacked = unpack(&mut plain, root.as_fd(), &self::options(form)).unwrap();
            assert_eq!(unpacked.implied_directories, Vec::<PathBuf>::new());
            assert_same(&tree(&copy.root()), &want);
        }
    }
}

fn assert_same(got: &Tree, want: &Tree) {
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        want.keys().collect::<Vec<_>>()
    );
    for (path, want) in want {
        let got = &got[path];
        assert!(
            got.contents == want.contents,
            "contents of {}",
            path.display()
        );
        let metadata = |node: &Node| Node {
            contents: Vec::new(),
            ..node.clone()
        };
        assert_eq!(metadata(got), metadata(want), "{}", path.display());
    }
}

#[test]
fn privileged_gnu_tar_agrees_both_ways() {
    if !is_root() {
        return;
    }
    let source = Sandbox::new();
    zoo(&source.root());
    let want = tree(&source.root());
    let copy = Sandbox::new();
    let mut bytes = Vec::new();
    pack(
        open(&source.root()).as_fd(),
        &mut bytes,
        &PackOptions {
            compression: Compression::None,
            ..Default::default()
        },
    )
    .unwrap();
    let packed = source.base.path().join("outside/packed.tar");
    fs::write(&packed, bytes).unwrap();
    let tar = |arguments: &[&str], directory: &Path| {
        let tar = Command::new("tar")
            .args(arguments)
            .arg("-C")
            .arg(directory)
            .output();
        let Ok(output) = tar else { return false };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        true
    };
    let common = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"];
    let extract = [&common[..], &["-xf", packed.to_str().unwrap()]].concat();
    if !tar(&extract, &copy.root()) {
        println!("skipped: there is no tar");
        return;
    }
    assert_same(&tree(&copy.root()), &want);
    for format in ["gnu", "pax"] {
        let file = source.base.path().join("outside").join(format);
        let mut create = Command::new("tar");
        create.args([
            "--numeric-owner",
            "--sort=name",
            &format!("--format={format}"),
        ]);
        if format == "pax" {
            create.arg("--xattrs").arg("--xattrs-include=*");
        }
        create
            .arg("-cf")
            .arg(&file)
            .arg("-C")
            .arg(source.root())
            .arg(".");
        assert!(create.status().unwrap().success());
        let copy = Sandbox::new();
        let mut bytes = File::open(&file).unwrap();
        unpack(
            &mut bytes,
            open(&copy.root()).as_fd(),
            &UnpackOptions::default(),
        )
        .unwrap();
        let mut got = tree(&copy.root());
        let mut want = want.clone();
        if format == "gnu" {
            // The format has whole seconds only, and no attributes.
            for node in got.values_mut().chain(want.values_mut()) {
                node.mtime.1 = 0;
                node.xattrs.clear();
            }
        }
        assert_same(&got, &want);
    }
}

#[test]
fn odd_archives_of_others_are_read_or_refused_as_they_say() {
    let Some(folder) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return;
    };
    let folder = Path::new(&folder).join("tar-corpus");
    // Archives that Go's reader refuses, by its own table, and what is refused beyond it.
    let refused = [
        ("go/pax-bad-hdr-file.tar", "InvalidArchive"),
        ("go/pax-bad-mtime-file.tar", "InvalidArchive"),
        ("go/pax-nul-xattrs.tar", "InvalidArchive"),
        ("go/pax-nul-path.tar", "InvalidArchive"),
        ("go/issue10968.tar", "InvalidArchive"),
        ("go/issue11169.tar", "InvalidArchive"),
        ("go/issue12435.tar", "InvalidArchive"),
        // The list of an incremental backup is no file.
        ("go/gnu-incremental.tar", "UnsupportedEntry"),
        // The header that the extended one describes is missing.
        ("go/pax-path-hdr.tar", "TruncatedArchive"),
        // Only the header of 16 GiB of contents.
        ("go/writer-big.tar", "TruncatedArchive"),
    ];
    let mut failed = Vec::new();
    for part in ["go", "tar-rs"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension() != Some(OsStr::new("tar")) {
                continue;
            }
            let name = format!("{part}/{}", path.file_name().unwrap().to_str().unwrap());
            let want = refused
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, code)| *code);
            let sandbox = Sandbox::new();
            let bytes = fs::read(&path).unwrap();
            let options = UnpackOptions {
                ownership: Ownership::Ignore,
                ..UnpackOptions::default()
            };
            let got = sandbox.unpack(&bytes, &options).err();
            if got.as_ref().map(Error::code) != want {
                failed.push((name, want, got));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
