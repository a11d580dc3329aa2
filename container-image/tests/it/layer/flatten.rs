//! Flattening: what comes out is what the layers would unpack to.

use container_image::{History, ImageEdit, Platform};

use super::*;
use crate::fixture::open_store;

#[test]
fn privileged_flattened_layers_are_what_they_unpack_to() {
    if !is_root() {
        return;
    }
    let mut random = Random(0x51_7c_c1_b7_27_22_0a_95);
    let names = [
        "a",
        "b",
        "c",
        "a/b",
        "a/c",
        "a/b/c",
        "b/a",
        "c/a/b",
        ".",
        "a/../b",
        "/a/./c",
        ".wh.a",
        ".wh.b",
        "a/.wh.b",
        "b/.wh.a",
        ".wh..wh..opq",
        "a/.wh..wh..opq",
        "a/b/.wh..wh..opq",
        "b/.wh..wh.x",
    ];
    let targets = ["a", "b", "../c", "/a", "a/b", ".", "nowhere", "../../a/b"];
    let (mut same, mut refused) = (0, 0);
    for round in 0..800 {
        let layers: Vec<_> = (0..1 + random.below(3))
            .map(|_| {
                let members = (0..random.below(8)).map(|index| {
                    let flag = *random.pick(b"000055521263");
                    let name = *random.pick(&names);
                    let flag = if name.contains(".wh.") { b'0' } else { flag };
                    let contents = format!("{round} {index}");
                    let contents = if flag == b'0' {
                        contents.as_bytes()
                    } else {
                        b""
                    };
                    member(flag, name, random.pick(&targets), contents)
                });
                archive(&members.collect::<Vec<_>>())
            })
            .collect();
        let apart = Sandbox::new();
        let all = layers
            .iter()
            .try_for_each(|layer| apart.unpack(layer, &UnpackOptions::default()).map(|_| ()));
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let store = open_store(dir.path());
        let mut edit = ImageEdit::scratch(&store, &Platform::host());
        for layer in &layers {
            edit = edit.append(&layer[..], History::default());
        }
        let image = edit.build().unwrap();
        let mut flat = Vec::new();
        let written = image.write_flat(&mut flat, Compression::None);
        match all {
            Ok(()) => {
                written.unwrap_or_else(|error| panic!("{round}: {}", error.report()));
                let together = Sandbox::new();
                together.unpack(&flat, &UnpackOptions::default()).unwrap();
                let (want, got) = (files(&apart.root()), files(&together.root()));
                assert_eq!(got, want, "{round}");
                same += 1;
            }
            Err(error) => {
                let codes = (error.code(), written.unwrap_err().code());
                // The kernel has a word of its own for circles of links.
                assert!(
                    codes.0 == codes.1 || codes == ("Os", "InvalidLink"),
                    "{round}: {codes:?}"
                );
                refused += 1;
            }
        }
    }
    assert!(same > 150 && refused > 50, "{same} {refused}");
}

#[test]
fn a_link_to_what_it_replaces_is_refused() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let store = open_store(dir.path());
    let layer = archive(&[file("a/b"), hard_link("a", "a/b")]);
    let options = UnpackOptions {
        ownership: Ownership::Ignore,
        ..UnpackOptions::default()
    };
    assert!(Sandbox::new().unpack(&layer, &options).is_err());
    let edit = ImageEdit::scratch(&store, &Platform::host());
    let image = edit.append(&layer[..], History::default()).build().unwrap();
    let error = image.write_flat(io::sink(), Compression::None).unwrap_err();
    assert_eq!(error.code(), "InvalidLink");
}

/// A tree without the times of directories, which change as things are put into them.
fn files(root: &Path) -> Tree {
    let mut tree = tree(root);
    for node in tree.values_mut() {
        if node.mode & 0o170_000 == 0o040_000 {
            node.mtime = (0, 0);
        }
    }
    tree.remove(Path::new("."));
    tree
}
