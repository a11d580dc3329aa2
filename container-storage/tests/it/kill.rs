//! A process is killed in the middle of its work, again and again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use container_storage::{CommitOptions, Driver, DriverOptions, Kind, SnapshotKind, open};

use crate::support::{Place, is_root};

const ROOT: &str = "CONTAINER_STORAGE_KILL_ROOT";
const DRIVER: &str = "CONTAINER_STORAGE_KILL_DRIVER";

#[test]
fn vfs_survives_kill() {
    survive(Kind::Vfs);
}

#[test]
fn privileged_overlay_survives_kill() {
    if is_root("privileged_overlay_survives_kill") {
        survive(Kind::Overlay);
    }
}

/// The process that is killed; does nothing when it runs as a test.
#[test]
fn victim() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else {
        return;
    };
    let kind = std::env::var(DRIVER).unwrap().parse().unwrap();
    let driver = store(&root, kind);
    for n in 0.. {
        let key = format!("key-{n}");
        let parent = (n % 5 > 0).then(|| format!("layer-{}", n - 1));
        driver.prepare(&key, parent.as_deref()).unwrap();
        let directory = driver.target(&key).unwrap().directory;
        fs::write(directory.join(format!("file-{n}")), n.to_string()).unwrap();
        driver.duplicate("twin", &key).unwrap();
        driver
            .commit(&format!("layer-{n}"), &key, &CommitOptions::default())
            .unwrap();
        driver.remove("twin").unwrap();
        driver
            .view(&format!("view-{n}"), Some(&format!("layer-{n}")))
            .unwrap();
        driver.remove(&format!("view-{n}")).unwrap();
    }
}

fn survive(kind: Kind) {
    for round in 0..25_u64 {
        let place = Place::in_memory();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::victim"])
            .env(ROOT, place.path())
            .env(DRIVER, kind.as_str())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !place.path().join(kind.as_str()).join("records").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 1_300));
        child.kill().unwrap();
        child.wait().unwrap();

        let driver = store(place.path(), kind);
        driver.recover().unwrap();
        let snapshots = list(&*driver);
        for (name, snapshot) in &snapshots {
            assert_ne!(*snapshot, SnapshotKind::Broken, "{name}");
            driver.changes(name, &mut |_| Ok(())).unwrap();
            if let Some(number) = name.strip_prefix("layer-") {
                let mut found = Vec::new();
                let mut visit = |change: container_storage::Change| {
                    found.push(change.to_string());
                    Ok(())
                };
                driver.changes(name, &mut visit).unwrap();
                assert_eq!(found, [format!("A /file-{number}")]);
            }
        }
        // What was there is there in full; what was not can be made; all goes at the first try.
        if !snapshots.iter().any(|(name, _)| name == "twin") {
            driver.prepare("twin", None).unwrap();
        }
        let mut names: Vec<String> = snapshots.into_iter().map(|(name, _)| name).collect();
        names.sort_by_key(|name| {
            let layer = name
                .strip_prefix("layer-")
                .map(|n| n.parse::<i64>().unwrap());
            layer.map_or(i64::MIN, |n| -n)
        });
        for name in names.iter().map(String::as_str).chain(["twin"]) {
            driver.remove(name).unwrap();
        }
        let mut left: Vec<_> = fs::read_dir(place.path().join(kind.as_str()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["lock", "records", "removing"]);
        for empty in ["records", "removing"] {
            let path = place.path().join(kind.as_str()).join(empty);
            assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        }
    }
}

fn store(root: &Path, kind: Kind) -> Box<dyn Driver> {
    open(root, &DriverOptions::default().kind(Some(kind)).sync(false)).unwrap()
}

fn list(driver: &dyn Driver) -> Vec<(String, SnapshotKind)> {
    let mut all = Vec::new();
    let mut visit = |info: container_storage::Info| {
        all.push((info.name, info.kind));
        Ok(())
    };
    driver.list(&mut visit).unwrap();
    all
}
