//! Read-only views of images.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use container_storage::testsuite::{describe, in_own_namespace};
use container_storage::{CommitOptions, Driver, DriverOptions, Kind, mount, open};

use crate::support::{Place, is_root};

#[test]
fn privileged_a_view_is_unmounted_on_drop_and_twice_is_fine() {
    if !is_root("privileged_a_view_is_unmounted_on_drop_and_twice_is_fine") {
        return;
    }
    let place = Place::in_memory();
    in_own_namespace(|| {
        let driver = two_layers(&place);
        let target = place.path().join("mnt");
        fs::create_dir(&target).unwrap();
        let mounts = driver.view("look", Some("2")).unwrap();
        let before = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let guard = mount(&mounts, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("2")).unwrap(), "2");
        assert_ne!(
            fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            before
        );
        drop(guard);
        assert_eq!(
            fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            before
        );

        let guard = mount(&mounts, &target).unwrap();
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap_or(());
        guard.unmount().unwrap();
        assert_eq!(
            fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
            before
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    })
    .unwrap();
}

#[test]
fn privileged_overlay_and_vfs_show_the_same_tree() {
    if !is_root("privileged_overlay_and_vfs_show_the_same_tree") {
        return;
    }
    let trees = [Kind::Overlay, Kind::Vfs].map(|kind| {
        let place = Place::in_memory();
        in_own_namespace(|| {
            let options = DriverOptions::default().kind(Some(kind));
            let driver = open(place.path().join("store"), &options).unwrap();
            let target = place.path().join("mnt");
            fs::create_dir(&target).unwrap();
            for n in 0..4 {
                let parent = (n > 0).then(|| format!("layer-{}", n - 1));
                let guard = mount(&driver.prepare("key", parent.as_deref()).unwrap(), &target);
                let guard = guard.unwrap();
                let directory = target.join(format!("d{}", n % 2));
                if n > 1 {
                    fs::remove_dir_all(&directory).unwrap();
                }
                fs::create_dir(&directory).unwrap();
                fs::write(directory.join(format!("f{n}")), n.to_string()).unwrap();
                fs::hard_link(
                    directory.join(format!("f{n}")),
                    target.join(format!("l{n}")),
                )
                .unwrap();
                guard.unmount().unwrap();
                let name = format!("layer-{n}");
                driver
                    .commit(&name, "key", &CommitOptions::default())
                    .unwrap();
            }
            let guard = mount(&driver.view("look", Some("layer-3")).unwrap(), &target).unwrap();
            let lines = describe(&target);
            guard.unmount().unwrap();
            // Everything but the times, which the clock decides, and the counts of links, from which
            // overlay does not take what only an upper layer deletes.
            lines
                .into_iter()
                .map(|(path, line)| {
                    let words: Vec<&str> = line.split(' ').collect();
                    (path, [&words[..3], &words[5..]].concat().join(" "))
                })
                .collect::<Vec<_>>()
        })
        .unwrap()
    });
    assert_eq!(trees[0], trees[1]);
    assert_eq!(trees[0].len(), 1 + 2 + 2 + 4);
}

#[test]
fn privileged_layers_share_their_files_in_memory() {
    if !is_root("privileged_layers_share_their_files_in_memory") {
        return;
    }
    let place = Place::in_memory();
    in_own_namespace(|| {
        let driver = two_layers(&place);
        // One inode below is one copy in the page cache.
        let inodes = ["a", "b"].map(|key| {
            let target = place.path().join(key);
            fs::create_dir(&target).unwrap();
            let mounts = driver.prepare(key, Some("2")).unwrap();
            let guard = mount(&mounts, &target).unwrap();
            let inode = fs::metadata(target.join("1")).unwrap().ino();
            guard.unmount().unwrap();
            inode
        });
        assert_eq!(inodes[0], inodes[1]);
    })
    .unwrap();
}

#[test]
fn privileged_devices_and_setuid_files_have_no_power_in_a_view() {
    if !is_root("privileged_devices_and_setuid_files_have_no_power_in_a_view") {
        return;
    }
    let place = Place::in_memory();
    in_own_namespace(|| {
        let driver = two_layers(&place);
        let target = place.path().join("mnt");
        fs::create_dir(&target).unwrap();
        let mounts = driver.prepare("top", Some("1")).unwrap();
        let guard = mount(&mounts, &target).unwrap();
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, target.join("null"), kind, mode, device).unwrap();
        assert_eq!(
            fs::read(target.join("null")).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        guard.unmount().unwrap();
        for (key, parent) in [("bind", Some("1")), ("overlay", Some("2"))] {
            let guard = mount(&driver.view(key, parent).unwrap(), &target).unwrap();
            let flags = rustix::fs::statvfs(&target).unwrap().f_flag;
            for flag in ["NOSUID", "NODEV", "RDONLY"] {
                let flag = rustix::fs::StatVfsMountFlags::from_name(flag).unwrap();
                assert!(flags.contains(flag), "{key} {flag:?}");
            }
            guard.unmount().unwrap();
        }
    })
    .unwrap();
}

/// A store with the layers `1` and `2`, each with one file of its name.
fn two_layers(place: &Place) -> Box<dyn Driver> {
    let driver = open(place.path().join("store"), &DriverOptions::default()).unwrap();
    for (name, parent) in [("1", None), ("2", Some("1"))] {
        driver.prepare(name, parent).unwrap();
        fs::write(driver.target(name).unwrap().directory.join(name), name).unwrap();
        driver
            .commit(name, name, &CommitOptions::default())
            .unwrap();
    }
    driver
}
