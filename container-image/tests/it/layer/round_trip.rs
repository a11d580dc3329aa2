//! What survives packing and unpacking, and what others read and write.

use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;

use super::*;

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
    // Two streams of each, as one.
    for bytes in [BZIP2, XZ] {
        let mut out = String::new();
        let mut plain = decompress(OneByOne(bytes.to_vec())).unwrap();
        plain.read_to_string(&mut out).unwrap();
        assert_eq!(out, "hello, world\n");
        assert_eq!(plain.media_type(), None);
        for damaged in [&bytes[..bytes.len() - 9], &[bytes, b"BZh9"].concat()] {
            let damaged = damaged.to_vec();
            let read = decompress(&damaged[..])
                .unwrap()
                .read_to_end(&mut Vec::new());
            assert!(read.is_err());
        }
    }
    // A window of 1.5 GiB is more than anybody needs.
    let read = decompress(XZ_WITH_A_HUGE_WINDOW)
        .unwrap()
        .read_to_end(&mut Vec::new());
    assert!(read.is_err());
    let refused: [(&[u8], &str); 2] = [(b"\x04\x22\x4d\x18\0\0", "lz4"), (b"LZIP\x01\0", "lzip")];
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
        for &form in forms() {
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

#[test]
fn plain_users_unpack_without_owners() {
    if rustix::process::geteuid().is_root() {
        let program = std::env::current_exe().unwrap();
        let name = "layer::round_trip::plain_users_unpack_without_owners";
        let mut again = Command::new(program);
        again
            .args(["--exact", name, "--nocapture"])
            .uid(65534)
            .gid(65534)
            .current_dir("/");
        match again.output() {
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout);
                assert!(text.contains("1 passed"), "{text}{output:?}");
            }
            Err(error) => println!("skipped: cannot start as another user: {error}"),
        }
        return;
    }
    let closed = |mut member: Vec<u8>, mode: &[u8; 8]| {
        let start = member.len() - 512;
        member[start + 100..start + 108].copy_from_slice(mode);
        member[start + 108..start + 116].copy_from_slice(b"0000000\0");
        seal(&mut member[start..]);
        member
    };
    let capability = pax(
        &[("SCHILY.xattr.security.capability", "x")],
        b'5',
        "closed/d",
        b"",
    );
    let mut device = member(b'3', "null", "", b"");
    device[329..345].copy_from_slice(b"0000001\x000000003\0");
    seal(&mut device);
    let below = archive(&[
        closed(directory("closed"), b"0000555\0"),
        closed(directory("none"), b"0000000\0"),
        closed(capability, b"0000311\0"),
        file("closed/d/f"),
        device,
        member(b'6', "pipe", "", b""),
    ]);
    let above = archive(&[file("closed/new"), file("closed/d/.wh.f")]);
    let plain = |whiteouts| UnpackOptions {
        whiteouts,
        ownership: Ownership::Ignore,
        ..UnpackOptions::default()
    };
    let mode = |sandbox: &Sandbox, path: &str| {
        fs::symlink_metadata(sandbox.root().join(path))
            .unwrap()
            .mode()
            & 0o7777
    };
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(&below, &plain(Whiteouts::Apply)).unwrap();
    assert_eq!((unpacked.skipped_xattrs, unpacked.skipped_devices), (1, 1));
    assert_eq!(mode(&sandbox, "closed"), 0o555);
    sandbox.unpack(&above, &plain(Whiteouts::Apply)).unwrap();
    assert_eq!(fs::read(sandbox.root().join("closed/new")).unwrap(), b"new");
    for (path, want) in [("closed", 0o555), ("none", 0), ("closed/d", 0o311)] {
        assert_eq!(mode(&sandbox, path), want, "{path}");
    }
    sandbox
        .unpack(
            &archive(&[file(".wh.closed"), file(".wh.none")]),
            &plain(Whiteouts::Apply),
        )
        .unwrap();
    assert_eq!(names(&sandbox.root()), ["pipe"]);
    let sandbox = Sandbox::new();
    sandbox
        .unpack(&above, &plain(Whiteouts::OverlayUser))
        .unwrap();
    let gone = fs::symlink_metadata(sandbox.root().join("closed/d/f")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
}

/// What `bzip2` makes of `hello, ` and of `world\n`.
const BZIP2: &[u8] = b"BZh91AY&SYuj\x10\x05\x00\x00\x01\x91\x00@\x04\x02D\xa0\x00!\x80\x0c\x01k.\x1c]\xc9\x14\xe1BA\xd5\xa8@\x14BZh91AY&SY\x0aX\x06\x95\x00\x00\x02\xc1\x80\x00\x10\x04\x04\x90\x80 \x00\x22\x18h0\x04\xe8\x18]\xc9\x14\xe1B@)`\x1aT";

/// What `xz` makes of the same.
const XZ: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x06hello, \x00\x00\x101\x83\xe0\xd4\xc9\xf86\x00\x01\x1f\x07\x16.\xb8s\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ\xfd7zXZ\x00\x00\x0a\xe1\xfb\x0c\xa1\x02\x00!\x01\x1c\x00\x00\x00\x10\xcfX\xcc\x01\x00\x05world\x0a\x00\x00\x00\xe2X\xd2H\xfd\xa9Lcu6\x07\xf7\xc4IN\xe0\xfc\xbe\x92\xf1\xa7k\xfd\xacy\x5c\x9d\x84\x10\x1e\xb3\x17\x00\x016\x06k\x81\xf9@\x18\x9bK\x9a\x01\x00\x00\x00\x00\x0aYZ";

/// What `xz --lzma2=dict=1536MiB` makes of `hello`.
const XZ_WITH_A_HUGE_WINDOW: &[u8] = b"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4F\x02\x00!\x01%\x00\x00\x00;x{A\x01\x00\x04hello\x00\x00\x00\x00\xb17\xb9\xdb\xe5\xda\x1e\x9b\x00\x01\x1d\x05\xb8-\x80\xaf\x1f\xb6\xf3}\x01\x00\x00\x00\x00\x04YZ";
