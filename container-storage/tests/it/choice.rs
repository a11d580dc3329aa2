//! Which driver a store gets and keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use container_storage::testsuite::in_own_namespace;
use container_storage::{DriverOptions, ErrorKind, Kind, mount_detached, open, probe};

use crate::support::{Place, is_root};

#[test]
fn a_store_keeps_its_driver() {
    let place = Place::in_memory();
    let vfs = DriverOptions::default().kind(Some(Kind::Vfs));
    open(place.path(), &vfs)
        .unwrap()
        .prepare("a", None)
        .unwrap();
    let again = open(place.path(), &DriverOptions::default()).unwrap();
    assert_eq!(again.kind(), Kind::Vfs);
    assert_eq!(again.stat("a").unwrap().name, "a");
    let mode = fs::metadata(place.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn drivers_of_later_versions_say_so() {
    let place = Place::in_memory();
    for kind in [Kind::Btrfs, Kind::Zfs, Kind::DeviceMapper, Kind::Aufs] {
        let error = probe(place.path(), kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("not built into this version"),
            "{error}"
        );
        let options = DriverOptions::default().kind(Some(kind));
        assert_eq!(
            open(place.path(), &options).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
    // What was refused has chosen nothing.
    let options = DriverOptions::default().kind(Some(Kind::Vfs));
    assert_eq!(open(place.path(), &options).unwrap().kind(), Kind::Vfs);
}

#[test]
fn two_roots_do_not_see_each_other() {
    let (one, two) = (Place::in_memory(), Place::in_memory());
    let options = DriverOptions::default().kind(Some(Kind::Vfs));
    let one = open(one.path(), &options).unwrap();
    let two = open(two.path(), &options).unwrap();
    one.prepare("a", None).unwrap();
    assert_eq!(two.stat("a").unwrap_err().kind(), ErrorKind::NotFound);
    two.prepare("a", None).unwrap();
}

#[test]
fn a_damaged_choice_is_an_error() {
    let place = Place::in_memory();
    for damage in [
        &b""[..],
        b"{",
        b"{\"version\":2,\"kind\":\"vfs\"}",
        b"../../bin/sh",
    ] {
        fs::write(place.path().join("driver"), damage).unwrap();
        let error = open(place.path(), &DriverOptions::default()).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Integrity, "StoreBroken")
        );
    }
}

#[test]
fn privileged_a_new_store_prefers_overlay_and_switches_only_when_empty() {
    if !is_root("privileged_a_new_store_prefers_overlay_and_switches_only_when_empty") {
        return;
    }
    let place = Place::in_memory();
    let driver = open(place.path(), &DriverOptions::default()).unwrap();
    assert_eq!(driver.kind(), Kind::Overlay);
    driver.prepare("a", None).unwrap();
    let vfs = DriverOptions::default().kind(Some(Kind::Vfs));
    let error = open(place.path(), &vfs).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::InvalidState, "DriverChanged")
    );
    assert_eq!(
        (error.wanted(), error.found()),
        (Some("vfs"), Some("overlay"))
    );
    driver.remove("a").unwrap();
    assert_eq!(open(place.path(), &vfs).unwrap().kind(), Kind::Vfs);
    assert_eq!(
        open(place.path(), &DriverOptions::default())
            .unwrap()
            .kind(),
        Kind::Vfs
    );
}

#[test]
fn privileged_overlay_on_overlay_is_passed_over_in_words() {
    if !is_root("privileged_overlay_on_overlay_is_passed_over_in_words") {
        return;
    }
    let (below, place) = (Place::in_memory(), Place::in_memory());
    in_own_namespace(|| {
        let driver = open(below.path(), &DriverOptions::default()).unwrap();
        driver.prepare("base", None).unwrap();
        driver.commit("base", "base", &Default::default()).unwrap();
        let mounts = driver.prepare("upper", Some("base")).unwrap();
        let _guard = container_storage::mount(&mounts, place.path()).unwrap();
        let root = place.path().join("store");
        let error = probe(&root, Kind::Overlay).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("the upper one"),
            "{}",
            error.report()
        );
        assert_eq!(
            open(&root, &DriverOptions::default()).unwrap().kind(),
            Kind::Vfs
        );
        assert_eq!(entries(&root), ["driver", "lock", "vfs"]);
    })
    .unwrap();
}

#[test]
fn privileged_a_long_root_still_mounts() {
    if !is_root("privileged_a_long_root_still_mounts") {
        return;
    }
    let place = Place::in_memory();
    // Longer than one string of fsconfig(2) may be, and with what overlay splits its options at.
    let root = place
        .path()
        .join(format!("a,b:c\\d{}", "x".repeat(200)))
        .join("y".repeat(200));
    let driver = open(&root, &DriverOptions::default()).unwrap();
    assert_eq!(driver.kind(), Kind::Overlay);
    for (name, parent) in [("1", None), ("2", Some("1"))] {
        driver.prepare(name, parent).unwrap();
        fs::write(driver.target(name).unwrap().directory.join(name), name).unwrap();
        driver.commit(name, name, &Default::default()).unwrap();
    }
    let tree = mount_detached(&driver.prepare("top", Some("2")).unwrap()).unwrap();
    let flags = rustix::fs::OFlags::RDONLY;
    for name in ["1", "2"] {
        rustix::fs::openat(&tree, name, flags, rustix::fs::Mode::empty()).unwrap();
    }
}

/// The names in a directory, sorted.
fn entries(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}
