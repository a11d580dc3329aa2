//! What layers do to those below them.

use super::*;

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
            "d d/sub d/sub/deep d/x f l none",
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
fn privileged_overlayfs_shows_what_applying_gives() {
    if !is_root() {
        return;
    }
    // In a thread of its own, whose mount namespace ends with it.
    let thread = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for round in 0..300 {
            let form = [Whiteouts::Overlay, Whiteouts::OverlayUser][round % 2];
            let (below, above) = (
                random_layer(&mut random, false),
                random_layer(&mut random, true),
            );
            let applied = Sandbox::new();
            applied.unpack(&below, &options(Whiteouts::Apply)).unwrap();
            applied.unpack(&above, &options(Whiteouts::Apply)).unwrap();
            let (lower, upper) = (Sandbox::new(), Sandbox::new());
            lower.unpack(&below, &options(form)).unwrap();
            upper.unpack(&above, &options(form)).unwrap();
            let merged = tempfile::tempdir_in(scratch()).unwrap();
            let mut data = format!(
                "lowerdir={}:{}",
                upper.root().display(),
                lower.root().display()
            );
            if form == Whiteouts::OverlayUser {
                data += ",userxattr";
            }
            let (overlay, flags) = (Some("overlay"), MsFlags::MS_RDONLY);
            if mount(overlay, merged.path(), overlay, flags, Some(&*data)).is_err() {
                println!("skipped: overlayfs cannot be mounted");
                return;
            }
            let (got, want) = (shape(merged.path()), shape(&applied.root()));
            nix::mount::umount(merged.path()).unwrap();
            assert_eq!(got, want, "round {round}: {:?}", names(&upper.root()));
        }
    });
    thread.join().unwrap();
}

/// Paths, types and contents.
fn shape(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let nodes = tree(root).into_iter();
    nodes
        .map(|(path, node)| (path, node.mode & 0o170_000, node.contents))
        .collect()
}

/// A layer of a few files with names that clash with those of other layers.
///
/// It never deletes a directory and something in that directory as well, which would be one
/// deletion to some and two to others.
fn random_layer(random: &mut Random, whiteouts: bool) -> Vec<u8> {
    let mut members = Vec::new();
    let mut gone: Vec<String> = Vec::new();
    for _ in 0..random.below(9) {
        let path = *random.pick(&["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/b/a", "b/a/b"]);
        let what = random.below(if whiteouts { 6 } else { 3 });
        if what > 2 {
            let inside = format!("{path}/");
            if gone
                .iter()
                .any(|gone| gone.starts_with(&inside) || inside.starts_with(gone))
            {
                continue;
            }
            gone.push(inside);
        }
        members.push(match what {
            0 => member(b'0', path, "", format!("{}", random.next()).as_bytes()),
            1 => directory(path),
            // Under names of their own: layers that unpack apart do not see each other's links.
            2 => link(["l", "a/l"][random.below(2)], path),
            3 | 4 => match path.rsplit_once('/') {
                Some((parent, name)) => file(&format!("{parent}/.wh.{name}")),
                None => file(&format!(".wh.{path}")),
            },
            _ => file(&format!("{path}/.wh..wh..opq")),
        });
    }
    archive(&members)
}

#[test]
fn all_names_of_a_file_can_be_deleted() {
    let sandbox = Sandbox::new();
    let below = archive(&[file("f"), hard_link("g", "f"), hard_link("h", "f")]);
    sandbox.unpack(&below, &options(Whiteouts::Apply)).unwrap();
    let above = archive(&[file(".wh.f"), file(".wh.g")]);
    sandbox.unpack(&above, &options(Whiteouts::Apply)).unwrap();
    assert_eq!(names(&sandbox.root()), ["h"]);
}

#[test]
fn an_opaque_root_is_told() {
    for &form in forms() {
        let sandbox = Sandbox::new();
        let bytes = archive(&[file("d/.wh..wh..opq")]);
        assert!(!sandbox.unpack(&bytes, &options(form)).unwrap().opaque_root);
        let unpacked = sandbox
            .unpack(&archive(&[file(".wh..wh..opq")]), &options(form))
            .unwrap();
        assert_eq!(unpacked.opaque_root, form != Whiteouts::Keep);
    }
}
