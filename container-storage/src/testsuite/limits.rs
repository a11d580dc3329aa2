//! How much room snapshots take, and what happens when there is none.

use std::fs;
use std::io::Write;

use rustix::io::Errno;

use super::{Case, Suite, mount_tmpfs};
use crate::{CommitOptions, ErrorKind, mount};

pub(super) const CASES: &[Case] = &[
    ("usage is a snapshot's own", usage),
    ("a hundred actives on one base", hundred_actives),
    ("a full disk", full_disk),
    ("no inodes left", no_inodes),
    ("3000 directories deep", deep),
];

fn usage(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::write(dir.join("big"), vec![1; 4 << 20]).unwrap()
    });
    let base = suite.driver.usage("base").unwrap();
    assert!((4 << 20..5 << 20).contains(&base.size_bytes), "{base:?}");
    suite.driver.prepare("top", Some("base")).unwrap();
    let fresh = suite.driver.usage("top").unwrap();
    if suite.properties.shares_layers {
        assert!(fresh.size_bytes < 1 << 20, "{fresh:?}");
    }
    suite.with("top", |dir| {
        fs::write(dir.join("new"), vec![2; 1 << 20]).unwrap();
        fs::hard_link(dir.join("new"), dir.join("again")).unwrap();
    });
    let filled = suite.driver.usage("top").unwrap();
    let grown = filled.size_bytes - fresh.size_bytes;
    assert!(
        (1 << 20..(1 << 20) + (64 << 10)).contains(&grown),
        "{grown}"
    );
    assert_eq!(filled.inodes, fresh.inodes + 1);
}

fn hundred_actives(suite: &Suite<'_>) {
    if !suite.properties.shares_layers {
        return;
    }
    suite.layer("base", None, |dir| {
        fs::write(dir.join("big"), vec![1; 8 << 20]).unwrap()
    });
    let free = || {
        let stat = rustix::fs::statvfs(suite.root).unwrap();
        stat.f_bfree * stat.f_frsize
    };
    let before = free();
    for n in 0..100 {
        let key = format!("container-{n}");
        suite.driver.prepare(&key, Some("base")).unwrap();
        suite.with(&key, |dir| {
            fs::write(dir.join("own"), key.as_bytes()).unwrap()
        });
    }
    let grown = before.saturating_sub(free());
    assert!(grown < 100 << 20, "{grown} bytes for a hundred actives");
    for n in 0..100 {
        suite.driver.remove(&format!("container-{n}")).unwrap();
    }
    assert_eq!(suite.names(), ["base"]);
}

fn full_disk(suite: &Suite<'_>) {
    fill_up(suite, "size=2m");
}

fn no_inodes(suite: &Suite<'_>) {
    fill_up(suite, "nr_inodes=100");
}

/// Fills a small file system from inside a container, and sees that all goes on afterwards.
fn fill_up(suite: &Suite<'_>, options: &str) {
    if !suite.properties.works_on_tmpfs {
        return;
    }
    let small = suite.root.join("small");
    fs::create_dir(&small).unwrap();
    mount_tmpfs(&small, options);
    let driver = (suite.open)(&small.join("store")).unwrap();
    let place = suite.root.join("mnt");

    driver.prepare("key", None).unwrap();
    let guard = mount(&driver.mounts("key").unwrap(), &place).unwrap();
    fs::write(place.join("f"), "kept").unwrap();
    guard.unmount().unwrap();
    driver
        .commit("base", "key", &CommitOptions::default())
        .unwrap();
    driver.prepare("greedy", Some("base")).unwrap();
    let guard = mount(&driver.mounts("greedy").unwrap(), &place).unwrap();
    let mut count = 0;
    // First large files, then small ones, until not even one byte goes in.
    for size in [100_000, 1] {
        while fs::File::create(place.join(count.to_string()))
            .and_then(|mut file| file.write_all(&vec![1; size]))
            .is_ok()
        {
            count += 1;
        }
    }
    guard.unmount().unwrap();

    let full = ErrorKind::Os(Errno::NOSPC.raw_os_error());
    assert_eq!(
        driver.prepare("another", Some("base")).unwrap_err().kind(),
        full
    );
    assert_eq!(
        driver
            .commit("fat", "greedy", &CommitOptions::default())
            .unwrap_err()
            .kind(),
        full
    );
    assert_eq!(driver.duplicate("twin", "greedy").unwrap_err().kind(), full);
    let mut names = Vec::new();
    let mut visit = |info: crate::Info| {
        names.push(info.name);
        Ok(())
    };
    driver.list(&mut visit).unwrap();
    assert_eq!(names, ["base", "greedy"]);
    let reopened = (suite.open)(&small.join("store")).unwrap();
    assert_eq!(reopened.recover().unwrap(), crate::Recovered::default());
    reopened.remove("greedy").unwrap();

    driver.prepare("another", Some("base")).unwrap();
    let guard = mount(&driver.mounts("another").unwrap(), &place).unwrap();
    assert_eq!(fs::read_to_string(place.join("f")).unwrap(), "kept");
    guard.unmount().unwrap();
    driver.remove("another").unwrap();
    driver.remove("base").unwrap();
}

fn deep(suite: &Suite<'_>) {
    const DEPTH: usize = 3000;
    suite.driver.prepare("key", None).unwrap();
    suite.with("key", |dir| {
        let name = "d".repeat(200);
        let flags = crate::store::DIRECTORY;
        let mut at = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
        }
    });
    assert_eq!(suite.changes("key").len(), DEPTH);
    assert_eq!(suite.driver.usage("key").unwrap().inodes, 1 + DEPTH as u64);
    suite.driver.duplicate("twin", "key").unwrap();
    suite.driver.remove("key").unwrap();
    suite.driver.remove("twin").unwrap();
    assert!(suite.names().is_empty());
}
