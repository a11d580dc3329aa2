//! What snapshots go through.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mount::UnmountFlags;

use super::{Case, Suite};
use crate::{CommitOptions, ErrorKind, SnapshotKind};

pub(super) const CASES: &[Case] = &[
    ("order of removal", order_of_removal),
    ("list and stat", list_and_stat),
    ("hostile names", hostile_names),
    ("wrong states", wrong_states),
    ("a failed commit changes nothing", failed_commit),
    ("duplicate", duplicate),
    ("a second mount", second_mount),
    ("reopen and recover", reopen),
    ("removal follows no link", removal_follows_no_link),
    ("removal crosses no mount", removal_crosses_no_mount),
    ("eight threads", threads),
    ("one winner for one name", one_winner),
];

fn order_of_removal(suite: &Suite<'_>) {
    suite.layer("1", None, |dir| fs::write(dir.join("f"), "").unwrap());
    suite.layer("2", Some("1"), |_| {});
    suite.driver.prepare("active", Some("2")).unwrap();
    suite.driver.view("view", Some("1")).unwrap();
    for name in ["1", "2"] {
        let error = suite.driver.remove(name).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Busy, "HasChildren"),
            "{name}"
        );
    }
    suite.driver.remove("active").unwrap();
    suite.driver.remove("2").unwrap();
    assert_eq!(
        suite.driver.remove("1").unwrap_err().kind(),
        ErrorKind::Busy
    );
    suite.driver.remove("view").unwrap();
    suite.driver.remove("1").unwrap();
    suite.driver.remove("1").unwrap();
    assert!(suite.names().is_empty());
    suite.layer("1", None, |dir| {
        assert!(fs::read_dir(dir).unwrap().next().is_none())
    });
}

fn list_and_stat(suite: &Suite<'_>) {
    assert!(suite.names().is_empty());
    suite.layer("sha256:b", None, |_| {});
    suite.driver.prepare("web", Some("sha256:b")).unwrap();
    suite.driver.view("look", None).unwrap();
    assert_eq!(suite.names(), ["look", "sha256:b", "web"]);
    for (name, kind, parent) in [
        ("look", SnapshotKind::View, None),
        ("sha256:b", SnapshotKind::Committed, None),
        ("web", SnapshotKind::Active, Some("sha256:b")),
    ] {
        let info = suite.driver.stat(name).unwrap();
        assert_eq!((&*info.name, info.kind), (name, kind));
        assert_eq!(info.parent.as_deref(), parent);
        assert!(info.created.elapsed().unwrap().as_secs() < 3600);
    }
    assert_eq!(
        suite.driver.stat("none").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

fn hostile_names(suite: &Suite<'_>) {
    let long = "x".repeat(256);
    for bad in [
        "", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0b", "a b", "a\n", &long,
    ] {
        let driver = &suite.driver;
        let errors = [
            driver.prepare(bad, None).unwrap_err(),
            driver.prepare("good", Some(bad)).unwrap_err(),
            driver.view(bad, None).unwrap_err(),
            driver.mounts(bad).unwrap_err(),
            driver.target(bad).unwrap_err(),
            driver
                .commit("good", bad, &CommitOptions::default())
                .unwrap_err(),
            driver.duplicate("good", bad).unwrap_err(),
            driver.remove(bad).unwrap_err(),
            driver.stat(bad).unwrap_err(),
            driver.usage(bad).unwrap_err(),
            driver.changes(bad, &mut |_| Ok(())).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.code(), "InvalidName", "{bad:?}: {error:?}");
        }
    }
    assert!(suite.names().is_empty());
    let longest = "x".repeat(255);
    suite.driver.prepare(&longest, None).unwrap();
    let error = suite
        .driver
        .commit("..", &longest, &CommitOptions::default())
        .unwrap_err();
    assert_eq!(error.code(), "InvalidName");
    suite.driver.remove(&longest).unwrap();
}

fn wrong_states(suite: &Suite<'_>) {
    let driver = &suite.driver;
    suite.layer("base", None, |_| {});
    driver.prepare("active", Some("base")).unwrap();
    for (error, kind) in [
        (
            driver.prepare("active", None).unwrap_err(),
            ErrorKind::AlreadyExists,
        ),
        (
            driver.prepare("base", None).unwrap_err(),
            ErrorKind::AlreadyExists,
        ),
        (
            driver.view("active", None).unwrap_err(),
            ErrorKind::AlreadyExists,
        ),
        (
            driver.prepare("new", Some("none")).unwrap_err(),
            ErrorKind::NotFound,
        ),
        (
            driver.prepare("new", Some("active")).unwrap_err(),
            ErrorKind::InvalidState,
        ),
        (driver.mounts("base").unwrap_err(), ErrorKind::InvalidState),
        (driver.mounts("none").unwrap_err(), ErrorKind::NotFound),
        (driver.target("base").unwrap_err(), ErrorKind::InvalidState),
        (driver.usage("none").unwrap_err(), ErrorKind::NotFound),
        (
            driver.changes("none", &mut |_| Ok(())).unwrap_err(),
            ErrorKind::NotFound,
        ),
        (
            driver.duplicate("new", "base").unwrap_err(),
            ErrorKind::InvalidState,
        ),
        (
            driver.duplicate("active", "active").unwrap_err(),
            ErrorKind::AlreadyExists,
        ),
    ] {
        assert_eq!(error.kind(), kind, "{error:?}");
    }
    assert_eq!(suite.names(), ["active", "base"]);
}

fn failed_commit(suite: &Suite<'_>) {
    let commit = |name: &str, key: &str| suite.driver.commit(name, key, &CommitOptions::default());
    suite.layer("taken", None, |_| {});
    suite.driver.prepare("key", None).unwrap();
    suite.with("key", |dir| fs::write(dir.join("f"), "kept").unwrap());
    assert_eq!(
        commit("taken", "key").unwrap_err().kind(),
        ErrorKind::AlreadyExists
    );
    assert_eq!(
        commit("new", "none").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        commit("new", "taken").unwrap_err().kind(),
        ErrorKind::InvalidState
    );
    suite.with("key", |dir| {
        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "kept")
    });
    commit("new", "key").unwrap();
    assert_eq!(
        commit("new", "key").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    suite.driver.prepare("key", Some("new")).unwrap();
    suite.with("key", |dir| assert!(dir.join("f").exists()));
    commit("key", "key").unwrap();
    assert_eq!(
        suite.driver.stat("key").unwrap().kind,
        SnapshotKind::Committed
    );
}

fn duplicate(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| {
        fs::write(dir.join("gone"), "").unwrap();
        fs::write(dir.join("kept"), "").unwrap();
    });
    suite.driver.prepare("one", Some("base")).unwrap();
    suite.with("one", |dir| {
        fs::remove_file(dir.join("gone")).unwrap();
        fs::write(dir.join("new"), "one").unwrap();
        fs::hard_link(dir.join("new"), dir.join("new2")).unwrap();
    });
    suite.driver.duplicate("two", "one").unwrap();
    let expected = ["D /gone", "A /new", "A /new2"];
    assert_eq!(suite.changes("two"), expected);
    suite.with("two", |dir| {
        assert!(!dir.join("gone").exists() && dir.join("kept").exists());
        fs::write(dir.join("new"), "two").unwrap();
        assert_eq!(fs::read_to_string(dir.join("new2")).unwrap(), "two");
    });
    suite.with("one", |dir| {
        assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "one")
    });
    suite.driver.remove("one").unwrap();
    assert_eq!(suite.changes("two"), expected);
    assert_eq!(
        suite.driver.stat("two").unwrap().parent.as_deref(),
        Some("base")
    );
}

fn second_mount(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| fs::write(dir.join("f"), "").unwrap());
    suite.driver.prepare("key", Some("base")).unwrap();
    for round in 0..3 {
        suite.with("key", |dir| {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 1 + round);
            fs::write(dir.join(format!("round-{round}")), "").unwrap();
        });
    }
}

fn reopen(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| fs::write(dir.join("f"), "f").unwrap());
    suite.driver.prepare("key", Some("base")).unwrap();
    suite.with("key", |dir| fs::write(dir.join("g"), "g").unwrap());
    let other = (suite.open)(&suite.root.join("store")).unwrap();
    assert_eq!(other.kind(), suite.driver.kind());
    assert_eq!(other.recover().unwrap(), crate::Recovered::default());
    assert_eq!(suite.names(), ["base", "key"]);
    other
        .commit("top", "key", &CommitOptions::default())
        .unwrap();
    suite.look("top", |dir| {
        assert_eq!(fs::read_to_string(dir.join("g")).unwrap(), "g")
    });
}

fn removal_follows_no_link(suite: &Suite<'_>) {
    let outside = suite.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    suite.driver.prepare("key", None).unwrap();
    suite.with("key", |dir| {
        symlink(&outside, dir.join("link")).unwrap();
        fs::create_dir(dir.join("d")).unwrap();
        symlink("../../../../outside", dir.join("d/link")).unwrap();
        fs::hard_link(outside.join("precious"), dir.join("hard")).unwrap_err();
    });
    suite.driver.remove("key").unwrap();
    assert!(outside.join("precious").exists());
}

fn removal_crosses_no_mount(suite: &Suite<'_>) {
    let outside = suite.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    suite.driver.prepare("key", None).unwrap();
    let inside = suite.driver.target("key").unwrap().directory.join("d");
    fs::create_dir(&inside).unwrap();
    rustix::mount::mount_bind(&outside, &inside).unwrap();
    assert_eq!(
        suite.driver.remove("key").unwrap_err().kind(),
        ErrorKind::Busy
    );
    assert!(outside.join("precious").exists());
    // The name is free at once, and what could not be deleted goes as soon as it can.
    suite.driver.prepare("key", None).unwrap();
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = mounts
        .lines()
        .rfind(|line| line.contains("suite-"))
        .unwrap();
    let mounted = line.split(' ').nth(4).unwrap().replace("\\040", " ");
    rustix::mount::unmount(mounted, UnmountFlags::empty()).unwrap();
    suite.driver.recover().unwrap();
    assert_eq!(suite.names(), ["key"]);
    assert!(outside.join("precious").exists());
}

fn threads(suite: &Suite<'_>) {
    suite.layer("base", None, |dir| fs::write(dir.join("f"), "f").unwrap());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for round in 0..10 {
                    let key = format!("key-{thread}-{round}");
                    let name = format!("name-{thread}-{round}");
                    suite.driver.prepare(&key, Some("base")).unwrap();
                    suite.with(&key, |dir| {
                        assert_eq!(fs::read_to_string(dir.join("f")).unwrap(), "f");
                        fs::write(dir.join("mine"), &key).unwrap();
                    });
                    suite
                        .driver
                        .commit(&name, &key, &CommitOptions::default())
                        .unwrap();
                    suite.look(&name, |dir| {
                        assert_eq!(fs::read_to_string(dir.join("mine")).unwrap(), key);
                    });
                    if round % 3 == 0 {
                        suite.driver.recover().unwrap();
                    }
                    suite.names();
                    if round % 2 == 0 {
                        suite.driver.remove(&name).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(suite.names().len(), 1 + 8 * 5);
    assert_eq!(suite.changes("name-3-1"), ["A /mine"]);
}

fn one_winner(suite: &Suite<'_>) {
    suite.layer("base", None, |_| {});
    let (prepared, committed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (prepared, committed) = (&prepared, &committed);
            scope.spawn(move || {
                match suite.driver.prepare("same", Some("base")) {
                    Ok(_) => _ = prepared.fetch_add(1, Ordering::Relaxed),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
                }
                let key = format!("key-{thread}");
                suite.driver.prepare(&key, Some("base")).unwrap();
                match suite
                    .driver
                    .commit("layer", &key, &CommitOptions::default())
                {
                    Ok(()) => _ = committed.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                        suite.driver.remove(&key).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!((prepared.into_inner(), committed.into_inner()), (1, 1));
    assert_eq!(suite.names(), ["base", "layer", "same"]);
}
