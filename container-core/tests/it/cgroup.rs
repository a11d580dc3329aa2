//! Control groups of the host, made under a parent of each test's own.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use container_core::ErrorKind;
use container_core::cgroup::{Cgroup, CgroupPath};
use container_core::oci_spec::runtime::LinuxResources;

use crate::support::group::{Guard, create, name, privileged, resources};

#[test]
fn hostile_names_have_no_effect() {
    for path in [
        "",
        "..",
        "../..",
        "/../x",
        "a/../../b",
        "a\0b",
        &"x".repeat(300),
    ] {
        assert_eq!(
            CgroupPath::new(path).unwrap_err().code(),
            "InvalidName",
            "{path:?}"
        );
    }
    for id in ["..", "a/b", "", "a\0b", &"x".repeat(300)] {
        assert_eq!(
            CgroupPath::below(None, id).unwrap_err().code(),
            "InvalidName",
            "{id:?}"
        );
    }
}

#[test]
fn privileged_limits_are_set_and_read_back() {
    if !privileged() {
        return;
    }
    let json = r#"{"memory":{"limit":67108864,"reservation":33554432},"pids":{"limit":20},
        "cpu":{"shares":2048,"quota":50000,"period":100000,"burst":20000,"cpus":"0","mems":"0"}}"#;
    let group = create("limits", json);
    for (controller, v1, v2) in [
        (
            "memory",
            "memory.limit_in_bytes=67108864",
            "memory.max=67108864",
        ),
        (
            "memory",
            "memory.soft_limit_in_bytes=33554432",
            "memory.low=33554432",
        ),
        ("pids", "pids.max=20", "pids.max=20"),
        ("cpu", "cpu.shares=2048", "cpu.weight=174"),
        ("cpu", "cpu.cfs_quota_us=50000", "cpu.max=50000 100000"),
        ("cpu", "cpu.cfs_period_us=100000", "cpu.max=50000 100000"),
        ("cpu", "cpu.cfs_burst_us=20000", "cpu.max.burst=20000"),
        ("cpuset", "cpuset.cpus=0", "cpuset.cpus=0"),
        ("cpuset", "cpuset.mems=0", "cpuset.mems=0"),
    ] {
        let (file, want) = if group.has_v1(controller) { v1 } else { v2 }
            .split_once('=')
            .unwrap();
        assert_eq!(group.read(controller, file), want, "{file}");
    }
    // Swap that nobody asked for: as much again, where it is accounted.
    for (file, want) in [
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.swap.max", "67108864"),
    ] {
        let file = group.directory("memory").unwrap().join(file);
        if file.exists() {
            assert_eq!(fs::read_to_string(file).unwrap().trim(), want);
        }
    }
    assert_eq!(group.0.memory_limit().unwrap(), Some(64 << 20));
    let json = serde_json::to_string(&group.0).unwrap();
    assert_eq!(serde_json::from_str::<Cgroup>(&json).unwrap(), group.0);
}

#[test]
fn privileged_without_limits_nothing_is_limited_and_nothing_stays() {
    if !privileged() {
        return;
    }
    let group = create("bare", "{}");
    assert_eq!(group.0.memory_limit().unwrap(), None);
    assert_eq!(group.0.oom_kill_count().unwrap(), 0);
    let directories: Vec<_> = group
        .0
        .directories()
        .into_values()
        .map(Path::to_owned)
        .collect();
    assert!(directories.iter().all(|path| path.is_dir()));
    assert_eq!(Cgroup::open(group.0.path()).unwrap(), group.0);
    group.0.remove().unwrap();
    group.0.remove().unwrap();
    for directory in directories {
        assert!(!directory.exists(), "{directory:?}");
        assert!(
            !directory.parent().unwrap().exists(),
            "{directory:?} has left its parent"
        );
    }
    let error = Cgroup::open(group.0.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn privileged_a_group_of_that_name_is_left_alone() {
    if !privileged() {
        return;
    }
    let group = create("taken", r#"{"pids":{"limit":20}}"#);
    let below: Vec<_> = group
        .0
        .directories()
        .into_values()
        .map(|path| path.join("below"))
        .collect();
    below
        .iter()
        .for_each(|path| fs::create_dir_all(path).unwrap());
    let error = Cgroup::create(group.0.path(), &LinuxResources::default()).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::AlreadyExists, "CgroupExists")
    );
    assert!(below.iter().all(|path| path.is_dir()));
}

#[test]
fn privileged_a_parent_of_somebody_else_stays() {
    if !privileged() {
        return;
    }
    let path = name("foreign");
    let planned = Cgroup::plan(&path).unwrap();
    let memory = planned
        .directories()
        .into_values()
        .next()
        .unwrap()
        .to_owned();
    let parent = memory.parent().unwrap();
    fs::create_dir(parent).unwrap();
    let group = Guard(Cgroup::create(&path, &LinuxResources::default()).unwrap());
    group.0.remove().unwrap();
    assert!(parent.is_dir() && !memory.exists());
    fs::remove_dir(parent).unwrap();
}

#[test]
fn privileged_a_limit_that_fails_leaves_nothing() {
    if !privileged() {
        return;
    }
    let path = name("wrong");
    let error = Cgroup::create(&path, &resources(r#"{"cpu":{"cpus":"0-9999"}}"#)).unwrap_err();
    assert!(
        error.report().contains("write \"0-9999\" to "),
        "{}",
        error.report()
    );
    assert!(error.cleanup_errors().is_empty());
    assert_eq!(Cgroup::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let error = Cgroup::create(
        &path,
        &resources(r#"{"memory":{"limit":9000000,"swap":8000000}}"#),
    );
    assert_eq!(error.unwrap_err().code(), "SwapBelowMemory");
}

#[test]
fn privileged_a_process_enters_and_is_bound() {
    if !privileged() {
        return;
    }
    let group = create(
        "enter",
        r#"{"cpu":{"cpus":"0","mems":"0"},"pids":{"limit":8}}"#,
    );
    // A shell whose fork is refused ends, so it tells itself where it is.
    let script = "cat /proc/self/cgroup; grep Mems_allowed_list /proc/self/status; \
        grep Cpus_allowed_list /proc/self/status; \
        for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait";
    let child = group.shell(script);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline && !group.read("pids", "pids.events").contains("max 1") {
        assert!(group.0.pids().unwrap().len() <= 8);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !group.read("pids", "pids.events").starts_with("max 0"),
        "a fork was refused"
    );
    group.0.kill_all().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(group.0.path().as_str()), "{text}");
    assert_eq!(text.split_whitespace().last(), Some("0"), "{text}");
}

#[test]
fn privileged_what_takes_too_much_memory_is_killed_and_counted() {
    if !privileged() {
        return;
    }
    let group = create("memory", r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    let child = group.shell("x=0123456789abcdef; while :; do x=$x$x; done");
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", output.status);
    assert!(group.0.oom_kill_count().unwrap() >= 1);
}

#[test]
fn privileged_groups_within_are_removed_with_their_processes() {
    if !privileged() {
        return;
    }
    let group = create("nested", "{}");
    let directory = group
        .0
        .directories()
        .into_values()
        .next()
        .unwrap()
        .to_owned();
    let mut deep = directory.clone();
    for number in 0..50 {
        deep = deep.join(number.to_string());
        fs::create_dir(&deep).unwrap();
        fs::create_dir(deep.join("beside")).unwrap();
    }
    let mut child = group.shell(&format!(
        "echo 0 > {}/cgroup.procs; sleep 60 & wait",
        deep.display()
    ));
    group.0.kill_all().unwrap();
    group.0.remove().unwrap();
    assert!(!directory.exists());
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_a_frozen_group_stands_still_and_can_be_killed() {
    if !privileged() {
        return;
    }
    let group = create("frozen", "{}");
    let mut child = group.shell("while :; do :; done");
    let ticks = |child: &Child| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit(')')
            .next()
            .unwrap()
            .split(' ')
            .nth(12)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    group.0.freeze().unwrap();
    let before = ticks(&child);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(ticks(&child), before);
    group.0.thaw().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while ticks(&child) == before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ticks(&child) > before);
    group.0.freeze().unwrap();
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_devices_that_are_not_listed_cannot_be_opened() {
    if !privileged() {
        return;
    }
    let json = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}"#;
    let path = name("devices");
    let group = match Cgroup::create(&path, &resources(json)) {
        Ok(group) => Guard(group),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            crate::support::skip("no devices controller");
            return;
        }
    };
    let child = group.shell("read x < /dev/null; cat /dev/zero > /dev/null || echo refused");
    let output = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("refused"),
        "{output:?}"
    );
}
