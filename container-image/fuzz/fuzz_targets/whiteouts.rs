//! Deletions: two layers made of what the fuzzer says unpack to the same tree whether they are
//! unpacked one after the other or flattened before. Runs as root.

#![no_main]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use container_image::layer::{Compression, Entry, EntryKind, Packer, UnpackOptions, unpack};
use container_image::{History, ImageEdit, Platform, Store, StoreOptions};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 16] = [
    "a",
    "b",
    "a/b",
    "a/c",
    "a/b/c",
    "b/a",
    "c/a/b",
    ".",
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "b/.wh.a",
    ".wh..wh..opq",
    "a/.wh..wh..opq",
    "a/b/.wh..wh..opq",
    "b/.wh..wh.x",
];
const TARGETS: [&str; 8] = ["a", "b", "../c", "/a", "a/b", ".", "nowhere", "../../a/b"];

fuzz_target!(|bytes: &[u8]| {
    let mut layers = Vec::new();
    for bytes in bytes.split(|byte| *byte == 255).take(3) {
        let mut packer = Packer::new(Vec::new(), Compression::None).unwrap();
        for pair in bytes.chunks_exact(2).take(12) {
            let name = NAMES[usize::from(pair[0] % 16)];
            let target = PathBuf::from(TARGETS[usize::from(pair[1] >> 5)]);
            let kind = match pair[1] % 5 {
                _ if name.contains(".wh.") => EntryKind::File { size_bytes: 0 },
                0 | 1 => EntryKind::File { size_bytes: 2 },
                2 => EntryKind::Directory,
                3 => EntryKind::Symlink { target },
                _ => EntryKind::HardLink { target },
            };
            let contents = if name.contains(".wh.") { &[][..] } else { pair };
            if packer
                .append(&Entry::new(name, kind), &mut &contents[..])
                .is_err()
            {
                return;
            }
        }
        layers.push(packer.finish().unwrap().1);
    }
    let outer = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = |name: &str| {
        let path = outer.path().join(name);
        fs::create_dir(&path).unwrap();
        (File::open(&path).unwrap(), path)
    };
    let (apart, apart_path) = dir("apart");
    let options = UnpackOptions::default();
    let all = layers
        .iter()
        .try_for_each(|layer| unpack(&mut &layer[..], apart.as_fd(), &options).map(|_| ()));
    let mut sync = StoreOptions::default();
    sync.sync = false;
    let store = Store::open_with(outer.path().join("store"), &sync).unwrap();
    let mut edit = ImageEdit::scratch(&store, &Platform::host());
    for layer in &layers {
        edit = edit.append(&layer[..], History::default());
    }
    let mut flat = Vec::new();
    let image = edit.build().unwrap();
    let written = image.write_flat(&mut flat, Compression::None);
    assert_eq!(all.is_ok(), written.is_ok());
    if all.is_ok() {
        let (together, together_path) = dir("together");
        unpack(&mut &flat[..], together.as_fd(), &options).unwrap();
        assert_eq!(tree(&apart_path), tree(&together_path));
    }
});

/// Type, mode and contents of all files by path.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut tree = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let contents = if meta.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        };
        tree.insert(
            path.strip_prefix(root).unwrap().to_owned(),
            (meta.mode(), contents),
        );
    }
    tree
}
