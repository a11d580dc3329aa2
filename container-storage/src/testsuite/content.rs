//! What a file system on snapshots looks like from inside.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};

use super::{Case, Suite, describe, move_tree, set_xattr, xattrs};
use crate::{CommitOptions, ErrorKind, Target, WhiteoutForm};

pub(super) const CASES: &[Case] = &[
    ("the top layer wins", the_top_layer_wins),
    ("128 layers", many_layers),
    ("copy-up keeps all but what is changed", copy_up),
    ("rename", rename),
    ("a directory made anew hides the old one", opaque),
    ("deletions of every type", deletions),
    ("hard links", hard_links),
    ("metadata survive", metadata),
    ("special files", special_files),
    ("holes stay holes", holes),
    ("the root directory keeps its metadata", root_metadata),
    ("a writer leaves the lowers alone", lowers_unchanged),
    ("views are read-only", views),
    ("changes", changes),
    ("changes with forged times", forged_times),
    ("layers unpacked at the target", unpacked),
    ("rebase and implied directories", rebase),
];

fn the_top_layer_wins(suite: &Suite<'_>) {
    suite.layer("1", None, |dir| {
        fs::write(dir.join("all"), "1").unwrap();
        fs::write(dir.join("low"), "1").unwrap();
    });
    suite.layer("2", Some("1"), |dir| {
        fs::write(dir.join("all"), "2").unwrap()
    });
    suite.layer("3", Some("2"), |dir| {
        fs::write(dir.join("all"), "3").unwrap()
    });
    suite.look("3", |dir| {
        assert_eq!(fs::read_to_string(dir.join("all")).unwrap(), "3");
        assert_eq!(fs::read_to_string(dir.join("low")).unwrap(), "1");
        let missing = fs::read(dir.join("none")).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    });
    suite.look("1", |dir| {
        assert_eq!(fs::read_to_string(dir.join("all")).unwrap(), "1")
    });
}

fn many_layers(suite: &Suite<'_>) {
    let name = |n: usize| format!("layer-{n}");
    for n in 0_usize..128 {
        let parent = n.checked_sub(1).map(name);
        suite.layer(&name(n), parent.as_deref(), |dir| {
            fs::write(dir.join(format!("file-{n}")), n.to_string()).unwrap();
            fs::write(dir.join("last"), n.to_string()).unwrap();
        });
    }
    suite.driver.prepare("top", Some("layer-127")).unwrap();
    suite.with("top", |dir| {
        for n in 0..128 {
            assert_eq!(
                fs::read_to_string(dir.join(format!("file-{n}"))).unwrap(),
                n.to_string()
            );
        }
        assert_eq!(fs::read_to_string(dir.join("last")).unwrap(), "127");
        fs::write(dir.join("last"), "top").unwrap();
    });
    assert_eq!(suite.changes("top"), ["C /last"]);
}

fn copy_up(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        let path = dir.join("file");
        fs::write(&path, "0123456789".repeat(1000)).unwrap();
        chown(&path, Some(12), Some(34)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o4750)).unwrap();
        set_xattr(&path, "trusted.kept", b"yes");
        set_time(&path, 1_000_000_000, 123_456_789);
    });
    let before = suite.look("base", describe);
    suite.driver.prepare("top", Some("base")).unwrap();
    suite.with("top", |dir| {
        let path = dir.join("file");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o4700)).unwrap();
        let stat = fs::metadata(&path).unwrap();
        assert_eq!(
            (stat.uid(), stat.gid(), stat.mode() & 0o7777),
            (12, 34, 0o4700)
        );
        assert_eq!(
            (stat.mtime(), stat.mtime_nsec()),
            (1_000_000_000, 123_456_789)
        );
        assert_eq!(xattrs(&path)["trusted.kept"], b"yes");
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"end")
            .unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 10_003);
        assert!(bytes.ends_with(b"789end"));
    });
    assert_eq!(suite.changes("top"), ["C /file"]);
    assert_eq!(suite.look("base", describe), before);
}

fn rename(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/a"), "a").unwrap();
        fs::write(dir.join("d/b"), "b").unwrap();
        fs::write(dir.join("f"), "f").unwrap();
        fs::write(dir.join("over"), "old").unwrap();
    });
    suite.layer("top", Some("base"), |dir| {
        move_tree(&dir.join("d"), &dir.join("e"));
        fs::rename(dir.join("f"), dir.join("over")).unwrap();
    });
    suite.look("top", |dir| {
        assert_eq!(tree(dir), ["e", "e/a", "e/b", "over"]);
        assert_eq!(fs::read_to_string(dir.join("over")).unwrap(), "f");
        assert_eq!(fs::read_to_string(dir.join("e/b")).unwrap(), "b");
    });
    assert_eq!(
        suite.changes("top"),
        ["D /d", "A /e", "A /e/a", "A /e/b", "D /f", "C /over"]
    );
}

fn opaque(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::create_dir_all(dir.join("d/sub")).unwrap();
        fs::write(dir.join("d/old"), "old").unwrap();
        fs::write(dir.join("d/both"), "old").unwrap();
    });
    suite.layer("middle", Some("base"), |dir| {
        fs::write(dir.join("d/mid"), "mid").unwrap()
    });
    suite.layer("top", Some("middle"), |dir| {
        fs::remove_dir_all(dir.join("d")).unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d/both"), "new one").unwrap();
        fs::write(dir.join("d/new"), "new").unwrap();
    });
    suite.look("top", |dir| assert_eq!(tree(dir), ["d", "d/both", "d/new"]));
    assert_eq!(
        suite.changes("top"),
        [
            "C /d",
            "C /d/both",
            "D /d/mid",
            "A /d/new",
            "D /d/old",
            "D /d/sub"
        ]
    );
    suite.layer("above", Some("top"), |dir| {
        fs::write(dir.join("d/old"), "again").unwrap()
    });
    suite.look("above", |dir| {
        assert_eq!(tree(dir), ["d", "d/both", "d/new", "d/old"])
    });
    assert_eq!(suite.changes("above"), ["C /d", "A /d/old"]);
}

fn deletions(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::write(dir.join("file"), "file").unwrap();
        symlink("file", dir.join("link")).unwrap();
        fs::hard_link(dir.join("file"), dir.join("other")).unwrap();
        fs::create_dir_all(dir.join("d/sub/subsub")).unwrap();
        fs::write(dir.join("d/sub/file"), "x").unwrap();
        fs::create_dir(dir.join("swap")).unwrap();
        fs::write(dir.join("back"), "old").unwrap();
        symlink("nowhere", dir.join("kept")).unwrap();
    });
    suite.layer("top", Some("base"), |dir| {
        fs::remove_file(dir.join("link")).unwrap();
        fs::remove_file(dir.join("other")).unwrap();
        fs::remove_dir_all(dir.join("d/sub")).unwrap();
        fs::remove_dir(dir.join("swap")).unwrap();
        fs::write(dir.join("swap"), "now a file").unwrap();
        fs::remove_file(dir.join("file")).unwrap();
        fs::create_dir(dir.join("file")).unwrap();
        fs::remove_file(dir.join("back")).unwrap();
        fs::write(dir.join("short"), "").unwrap();
        fs::remove_file(dir.join("short")).unwrap();
    });
    suite.look("top", |dir| {
        assert_eq!(tree(dir), ["d", "file", "kept", "swap"]);
        assert!(dir.join("file").is_dir() && dir.join("swap").is_file());
    });
    assert_eq!(
        suite.changes("top"),
        [
            "D /back", "C /d", "D /d/sub", "C /file", "D /link", "D /other", "C /swap"
        ]
    );
    suite.layer("again", Some("top"), |dir| {
        fs::write(dir.join("back"), "new").unwrap()
    });
    suite.look("again", |dir| {
        assert_eq!(fs::read_to_string(dir.join("back")).unwrap(), "new");
    });
    assert_eq!(suite.changes("again"), ["A /back"]);
}

fn hard_links(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::write(dir.join("one"), "same").unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        fs::hard_link(dir.join("one"), dir.join("d/two")).unwrap();
    });
    let check = |dir: &Path| {
        let (one, two) = (dir.join("one"), dir.join("d/two"));
        let (one, two) = (fs::metadata(one).unwrap(), fs::metadata(two).unwrap());
        assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    };
    suite.look("base", check);
    suite.driver.prepare("top", Some("base")).unwrap();
    suite.with("top", |dir| {
        check(dir);
        fs::remove_file(dir.join("one")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("d/two")).unwrap(), "same");
        fs::hard_link(dir.join("d/two"), dir.join("three")).unwrap();
    });
    suite
        .driver
        .commit("top", "top", &CommitOptions::default())
        .unwrap();
    suite.look("top", |dir| {
        let two = fs::metadata(dir.join("d/two")).unwrap();
        assert_eq!(two.ino(), fs::metadata(dir.join("three")).unwrap().ino());
    });
}

fn metadata(suite: &Suite<'_>) {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    suite.layer("base", None, |dir| {
        for (name, seconds, nanoseconds) in [
            ("old", 0, 0),
            ("late", 4_000_000_000, 999_999_999),
            ("early", -1, 1),
        ] {
            fs::write(dir.join(name), name).unwrap();
            set_time(&dir.join(name), seconds, nanoseconds);
        }
        fs::write(dir.join("setuid"), "").unwrap();
        chown(dir.join("setuid"), Some(u32::MAX - 2), Some(100_000)).unwrap();
        fs::set_permissions(dir.join("setuid"), PermissionsExt::from_mode(0o6711)).unwrap();
        set_xattr(&dir.join("setuid"), "security.capability", &capability);
        set_xattr(&dir.join("setuid"), "trusted.empty", b"");
        symlink("x".repeat(3000), dir.join("link")).unwrap();
        lchown(dir.join("link"), Some(5), Some(6)).unwrap();
        set_time(&dir.join("link"), 7, 8);
        fs::create_dir(dir.join("d")).unwrap();
        set_xattr(&dir.join("d"), "trusted.of-a-directory", &[7; 1000]);
        fs::set_permissions(dir.join("d"), PermissionsExt::from_mode(0o1777)).unwrap();
        for name in [&b"\xff\xfe"[..], b"new\nline", &[b'n'; 255], b"-rf *"] {
            fs::write(dir.join("d").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        }
        set_time(&dir.join("d"), 9, 10);
    });
    let base = suite.look("base", describe);
    assert!(base[Path::new("link")].contains("5:6"));
    suite.driver.prepare("top", Some("base")).unwrap();
    assert_eq!(suite.with("top", describe), base);
    assert!(suite.changes("top").is_empty());
    suite.driver.duplicate("twin", "top").unwrap();
    assert_eq!(suite.with("twin", describe), base);
    assert!(suite.changes("twin").is_empty());
    suite
        .driver
        .commit("top", "top", &CommitOptions::default())
        .unwrap();
    assert_eq!(suite.look("top", describe), base);
}

fn special_files(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        let make = |name: &str, kind, device| {
            let mode = Mode::from_raw_mode(0o640);
            rustix::fs::mknodat(CWD, dir.join(name), kind, mode, device).unwrap();
        };
        make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        make("disk", FileType::BlockDevice, rustix::fs::makedev(8, 0));
        make("pipe", FileType::Fifo, 0);
        make("socket", FileType::Socket, 0);
    });
    let base = suite.look("base", describe);
    assert_eq!(base.len(), 5);
    suite.driver.prepare("top", Some("base")).unwrap();
    assert_eq!(suite.with("top", describe), base);
    assert!(suite.changes("top").is_empty());
    suite.with("top", |dir| fs::remove_file(dir.join("pipe")).unwrap());
    assert_eq!(suite.changes("top"), ["D /pipe"]);
}

fn holes(suite: &Suite<'_>) {
    const SIZE: u64 = 1 << 30;
    suite.driver.prepare("base", None).unwrap();
    suite.with("base", |dir| {
        let mut file = fs::File::create(dir.join("sparse")).unwrap();
        file.seek(SeekFrom::Start(SIZE / 2)).unwrap();
        file.write_all(b"in the middle").unwrap();
        file.set_len(SIZE).unwrap();
    });
    suite.driver.duplicate("twin", "base").unwrap();
    assert!(suite.driver.usage("twin").unwrap().size_bytes < 1 << 20);
    suite.with("twin", |dir| {
        let file = fs::File::open(dir.join("sparse")).unwrap();
        let mut bytes = [1; 20];
        file.read_exact_at(&mut bytes, SIZE / 2 - 3).unwrap();
        assert_eq!(&bytes, b"\0\0\0in the middle\0\0\0\0");
        let stat = file.metadata().unwrap();
        assert_eq!(stat.len(), SIZE);
        assert!(stat.blocks() * 512 < 1 << 20);
    });
}

fn root_metadata(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o1751)).unwrap();
        chown(dir, Some(3), Some(4)).unwrap();
        set_xattr(dir, "trusted.root", b"1");
        set_time(dir, 5, 6);
    });
    suite.layer("top", Some("base"), |_| {});
    for name in ["base", "top"] {
        suite.look(name, |dir| {
            let stat = fs::metadata(dir).unwrap();
            assert_eq!(
                (stat.uid(), stat.gid(), stat.mode() & 0o7777),
                (3, 4, 0o1751)
            );
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (5, 6));
            assert_eq!(
                xattrs(dir).get("trusted.root").map(Vec::as_slice),
                Some(&b"1"[..])
            );
        });
    }
}

fn lowers_unchanged(suite: &Suite<'_>) {
    suite.layer("1", None, |dir| {
        for n in 0..20 {
            fs::create_dir(dir.join(format!("d{n}"))).unwrap();
            fs::write(dir.join(format!("d{n}/f")), n.to_string()).unwrap();
            fs::hard_link(dir.join(format!("d{n}/f")), dir.join(format!("l{n}"))).unwrap();
        }
    });
    suite.layer("2", Some("1"), |dir| {
        fs::write(dir.join("d3/g"), "g").unwrap()
    });
    let before = (suite.look("1", describe), suite.look("2", describe));
    suite.driver.prepare("top", Some("2")).unwrap();
    suite.with("top", |dir| {
        for n in 0..20 {
            let directory = dir.join(format!("d{n}"));
            let file = directory.join("f");
            match n % 5 {
                0 => fs::write(file, "changed").unwrap(),
                1 => fs::remove_dir_all(directory).unwrap(),
                2 => chown(file, Some(n), None).unwrap(),
                3 => move_tree(&directory, &dir.join(format!("e{n}"))),
                _ => set_xattr(&directory, "trusted.x", b"x"),
            }
        }
    });
    assert_eq!(
        (suite.look("1", describe), suite.look("2", describe)),
        before
    );
    suite.driver.remove("top").unwrap();
    assert_eq!(
        (suite.look("1", describe), suite.look("2", describe)),
        before
    );
}

fn views(suite: &Suite<'_>) {
    suite.layer("1", None, |dir| fs::write(dir.join("f"), "1").unwrap());
    suite.layer("2", Some("1"), |dir| fs::write(dir.join("g"), "2").unwrap());
    for parent in [None, Some("1"), Some("2")] {
        suite.driver.view("look", parent).unwrap();
        suite.with("look", |dir| {
            for error in [
                fs::write(dir.join("new"), "").unwrap_err(),
                fs::create_dir(dir.join("new")).unwrap_err(),
                fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap_err(),
            ] {
                assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            }
            if parent.is_some() {
                assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "1");
                assert!(fs::remove_file(dir.join("f")).is_err());
            }
        });
        assert!(suite.changes("look").is_empty());
        assert!(suite.driver.target("look").is_err());
        suite.driver.remove("look").unwrap();
    }
}

fn changes(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        for path in ["etc/ssl", "usr/bin", "var/lib/app", "var/log"] {
            fs::create_dir_all(dir.join(path)).unwrap();
        }
        for path in [
            "etc/hosts",
            "etc/ssl/cert",
            "usr/bin/sh",
            "usr/bin/ls",
            "var/lib/app/db",
        ] {
            fs::write(dir.join(path), path).unwrap();
        }
    });
    suite.driver.prepare("top", Some("base")).unwrap();
    assert!(suite.changes("top").is_empty());
    suite.with("top", |dir| {
        fs::write(dir.join("etc/hosts"), "127.0.0.1 localhost").unwrap();
        fs::remove_file(dir.join("usr/bin/ls")).unwrap();
        fs::create_dir_all(dir.join("opt/tool")).unwrap();
        fs::write(dir.join("opt/tool/run"), "").unwrap();
        fs::write(dir.join("var/log/new"), "").unwrap();
        fs::set_permissions(dir.join("etc/ssl"), PermissionsExt::from_mode(0o700)).unwrap();
        let db = fs::OpenOptions::new()
            .write(true)
            .open(dir.join("var/lib/app/db"))
            .unwrap();
        db.write_all_at(b"V", 0).unwrap();
        symlink("x", dir.join("zz")).unwrap();
    });
    let expected = [
        "C /etc/hosts",
        "C /etc/ssl",
        "A /opt",
        "A /opt/tool",
        "A /opt/tool/run",
        "C /usr/bin",
        "D /usr/bin/ls",
        "C /var/lib/app/db",
        "C /var/log",
        "A /var/log/new",
        "A /zz",
    ];
    assert_eq!(suite.changes("top"), expected);
    suite
        .driver
        .commit("image", "top", &CommitOptions::default())
        .unwrap();
    assert_eq!(suite.changes("image"), expected);
    let first = suite.changes("base");
    assert_eq!(first.first().map(String::as_str), Some("A /etc"));
    assert_eq!(first.len(), 13);
    let stop = |_| Err(crate::Error::new(ErrorKind::Cancelled, "Stop", "stop"));
    let error = suite.driver.changes("image", &mut { stop }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

fn forged_times(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::write(dir.join("f"), "good").unwrap();
        set_time(&dir.join("f"), 1, 2);
    });
    suite.driver.prepare("top", Some("base")).unwrap();
    suite.with("top", |dir| {
        fs::write(dir.join("f"), "evil").unwrap();
        set_time(&dir.join("f"), 1, 2);
    });
    assert_eq!(suite.changes("top"), ["C /f"]);
}

fn unpacked(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::create_dir_all(dir.join("d/sub")).unwrap();
        fs::write(dir.join("d/old"), "").unwrap();
        fs::write(dir.join("gone"), "").unwrap();
    });
    suite.driver.prepare("key", Some("base")).unwrap();
    let target = suite.driver.target("key").unwrap();
    whiteout(&target, "gone");
    if !target.directory.join("d").exists() {
        fs::create_dir(target.directory.join("d")).unwrap();
    }
    make_opaque(&target, "d");
    fs::write(target.directory.join("d/new"), "").unwrap();
    suite
        .driver
        .commit("top", "key", &CommitOptions::default())
        .unwrap();
    suite.look("top", |dir| assert_eq!(tree(dir), ["d", "d/new"]));
}

fn rebase(suite: &Suite<'_>) {
    let implied = [PathBuf::new(), "d".into(), "d/e".into(), "only-here".into()];
    suite.layer("base", None, |dir| {
        fs::create_dir_all(dir.join("d/e")).unwrap();
        fs::write(dir.join("d/e/old"), "").unwrap();
        fs::write(dir.join("gone"), "").unwrap();
        for path in ["d", "d/e", ""] {
            let path = dir.join(path);
            chown(&path, Some(9), Some(8)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(0o2775)).unwrap();
            set_xattr(&path, "trusted.kept", b"1");
            set_time(&path, 77, 88);
        }
    });
    suite.driver.prepare("key", None).unwrap();
    let options = CommitOptions::default()
        .parent(Some("base"))
        .implied_directories(&implied);
    if !suite.driver.can_rebase() {
        let error = suite.driver.commit("top", "key", &options).unwrap_err();
        assert_eq!(error.code(), "CannotRebase");
        return;
    }
    let target = suite.driver.target("key").unwrap();
    fs::create_dir_all(target.directory.join("d/e")).unwrap();
    fs::create_dir_all(target.directory.join("only-here")).unwrap();
    fs::write(target.directory.join("d/e/new"), "").unwrap();
    whiteout(&target, "gone");
    for bad in ["..", "d/../..", "/etc"] {
        let bad = [PathBuf::from(bad)];
        let options = options.implied_directories(&bad);
        let error = suite.driver.commit("top", "key", &options).unwrap_err();
        assert_eq!(error.code(), "InvalidPath", "{bad:?}");
    }
    suite.driver.commit("top", "key", &options).unwrap();
    suite.look("top", |dir| {
        assert_eq!(tree(dir), ["d", "d/e", "d/e/new", "d/e/old", "only-here"]);
        for path in ["", "d", "d/e"] {
            let path = dir.join(path);
            let stat = fs::metadata(&path).unwrap();
            assert_eq!(
                (stat.uid(), stat.gid(), stat.mode() & 0o7777),
                (9, 8, 0o2775),
                "{path:?}"
            );
            assert_eq!((stat.mtime(), stat.mtime_nsec()), (77, 88), "{path:?}");
            assert_eq!(xattrs(&path)["trusted.kept"], b"1");
        }
    });
    assert_eq!(
        suite.driver.stat("top").unwrap().parent.as_deref(),
        Some("base")
    );
    assert_eq!(
        suite.driver.remove("base").unwrap_err().kind(),
        ErrorKind::Busy
    );

    // An opaque root hides the parent's files altogether.
    suite.driver.prepare("bare", None).unwrap();
    let target = suite.driver.target("bare").unwrap();
    make_opaque(&target, ".");
    fs::write(target.directory.join("alone"), "").unwrap();
    let options = CommitOptions::default().parent(Some("top"));
    suite.driver.commit("bare", "bare", &options).unwrap();
    suite.look("bare", |dir| assert_eq!(tree(dir), ["alone"]));
    suite.layer("on-bare", Some("bare"), |dir| {
        assert_eq!(tree(dir), ["alone"])
    });
    assert_eq!(suite.changes("bare"), ["A /alone", "D /d", "D /only-here"]);
}

/// Deletes a name of the parent as an unpacker does.
fn whiteout(target: &Target, name: &str) {
    let path = target.directory.join(name);
    match target.whiteouts {
        WhiteoutForm::Apply => fs::remove_file(path).unwrap(),
        WhiteoutForm::Overlay | WhiteoutForm::OverlayUser => {
            let kind = FileType::CharacterDevice;
            rustix::fs::mknodat(CWD, path, kind, Mode::empty(), 0).unwrap();
        }
    }
}

/// Deletes what the parent has in a directory as an unpacker does.
fn make_opaque(target: &Target, name: &str) {
    let path = target.directory.join(name);
    match target.whiteouts {
        WhiteoutForm::Apply => {
            fs::remove_dir_all(&path).unwrap();
            fs::create_dir(path).unwrap();
        }
        WhiteoutForm::Overlay => set_xattr(&path, "trusted.overlay.opaque", b"y"),
        WhiteoutForm::OverlayUser => set_xattr(&path, "user.overlay.opaque", b"y"),
    }
}

/// The paths in a tree, sorted.
fn tree(root: &Path) -> Vec<String> {
    let paths = describe(root)
        .into_keys()
        .filter(|path| path != Path::new(""));
    paths
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
