//! Differences: the layer that makes one tree of another.

use std::os::unix::fs::lchown;

use container_image::layer::pack_changes;

use super::*;

fn difference(old: &Path, new: &Path) -> Vec<u8> {
    let (old, new) = (open(old), open(new));
    let options = PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    };
    let mut bytes = Vec::new();
    pack_changes(old.as_fd(), new.as_fd(), &mut bytes, &options).unwrap();
    let mut again = Vec::new();
    pack_changes(old.as_fd(), new.as_fd(), &mut again, &options).unwrap();
    assert_eq!(bytes, again);
    bytes
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect()
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn privileged_a_difference_makes_one_tree_of_the_other() {
    if !is_root() {
        return;
    }
    let mut random = Random(0x0123_4567_89ab_cdef);
    let paths = ["a", "b", "c", "a/b", "a/c", "a/b/c", "b/a", "c/a/b"];
    let mut packed = 0;
    for round in 0..300 {
        let dir = tempfile::tempdir_in(scratch()).unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        for _ in 0..random.below(15) {
            change(&old, &paths, &mut random);
        }
        copy_tree(&old, &new);
        assert_eq!(
            names(&difference(&old, &new)),
            Vec::<String>::new(),
            "{round}"
        );
        for _ in 0..1 + random.below(8) {
            change(&new, &paths, &mut random);
        }
        let layer = difference(&old, &new);
        packed += names(&layer).len();
        unpack(
            &mut &layer[..],
            open(&old).as_fd(),
            &UnpackOptions::default(),
        )
        .unwrap();
        assert_eq!(tree(&old), tree(&new), "{round}: {:?}", names(&layer));
    }
    assert!(packed > 100, "{packed}");
}

/// Does something to a tree, or fails to.
fn change(root: &Path, paths: &[&str], random: &mut Random) {
    let path = root.join(random.pick(paths));
    let other = root.join(random.pick(paths));
    let _ = match random.below(10) {
        0..=2 => fs::write(&path, random.next().to_string()),
        3 => fs::create_dir(&path),
        4 => symlink("a/b", &path),
        5 => fs::hard_link(&other, &path),
        6 => fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)),
        7 => fs::rename(&other, &path),
        8 => lchown(
            &path,
            Some(7),
            Some(u32::try_from(random.below(9)).unwrap()),
        ),
        _ => fs::set_permissions(&path, PermissionsExt::from_mode(0o700)),
    };
}

#[test]
fn only_what_changed_is_in_a_difference() {
    let dir = tempfile::tempdir_in(scratch()).unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    fs::create_dir_all(old.join("kept/deep")).unwrap();
    fs::write(old.join("kept/deep/file"), "same").unwrap();
    fs::write(old.join("gone"), "x").unwrap();
    fs::write(old.join("one"), "x").unwrap();
    fs::hard_link(old.join("one"), old.join("two")).unwrap();
    copy_tree(&old, &new);
    fs::remove_file(new.join("gone")).unwrap();
    fs::hard_link(new.join("one"), new.join("three")).unwrap();
    fs::write(new.join("kept/new"), "n").unwrap();
    let got = names(&difference(&old, &new));
    // A name that is new brings all names of its file, as the layer stands for itself.
    assert_eq!(
        got,
        ["./", ".wh.gone", "kept/", "kept/new", "one", "three", "two"]
    );
    let options = PackOptions {
        whiteouts: Whiteouts::Overlay,
        ..PackOptions::default()
    };
    let error = pack_changes(open(&old).as_fd(), open(&new).as_fd(), io::sink(), &options);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
}
