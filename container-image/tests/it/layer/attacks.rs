//! What hostile archives may not do.

use super::*;

/// A name, the members of an archive, and how unpacking ends.
type Case = (&'static str, Vec<Vec<u8>>, Result<(), &'static str>);

#[test]
fn nothing_outside_the_root_is_read_or_changed() {
    // Names are relative to "root"; "OUT" stands for the path of the directory beside it.
    let cases: Vec<Case> = vec![
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
        for &form in forms() {
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

#[test]
fn whiteouts_stay_inside_the_root() {
    for whiteout in [".wh.secret", ".wh.directory", ".wh..wh..opq", ".wh.link"] {
        for target in ["../outside", "OUT"] {
            for &form in forms() {
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
fn bombs_meet_their_limit() {
    let zeros = vec![0_u8; 64 << 20];
    let whole = archive(&[member(b'0', "zeros", "", &zeros)]);
    // Our own gzip compresses zeros worse: an attacker's is one block.
    let gzip = {
        let level = flate2::Compression::best();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(&whole).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = {
        let mut packer = Packer::new(Vec::new(), Compression::Zstd(3)).unwrap();
        let size_bytes = zeros.len() as u64;
        let entry = Entry::new("zeros", EntryKind::File { size_bytes });
        packer.append(&entry, &mut &zeros[..]).unwrap();
        packer.finish().unwrap().1
    };
    for bytes in [gzip, zstd] {
        assert!(bytes.len() < 100 << 10);
        let sandbox = Sandbox::new();
        let mut plain = decompress(io::Cursor::new(bytes.clone())).unwrap();
        let root = open(&sandbox.root());
        let result = unpack(&mut plain, root.as_fd(), &without_owners());
        assert_eq!(result.unwrap_err().code(), "LimitExceeded");
        let mut plain = decompress(io::Cursor::new(bytes))
            .unwrap()
            .limit_ratio(u64::MAX);
        unpack(&mut plain, root.as_fd(), &without_owners()).unwrap();
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
            let result = unpack(&mut plain, root.as_fd(), &without_owners());
            assert_eq!(
                result.unwrap_err().kind(),
                ErrorKind::Integrity,
                "{compression:?} {size}"
            );
        }
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
    for &form in forms() {
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
        let form = *random.pick(forms());
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

#[test]
fn deleting_the_same_again_costs_nothing() {
    let sandbox = Sandbox::new();
    let mut members: Vec<_> = (0..5000).map(|index| file(&format!("d/{index}"))).collect();
    for _ in 0..5000 {
        members.push(file("d/.wh..wh..opq"));
        members.push(file(".wh.d"));
    }
    let bytes = archive(&members);
    sandbox.unpack(&bytes, &options(Whiteouts::Apply)).unwrap();
    assert_eq!(names(&sandbox.root()).len(), 5001);
}
