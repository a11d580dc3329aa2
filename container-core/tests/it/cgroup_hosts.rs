//! Control groups on hosts that are set up in other ways: without the unified hierarchy, with other controllers, with
//! swap, for a plain user; and when the kernel does not answer as it should.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use container_core::ErrorKind;
use container_core::cgroup::{Cgroup, CgroupPath, Controller, Versions, version};
use nix::mount::{MsFlags, mount, umount};
use nix::unistd::chown;

use crate::support::group::{Guard, create, privileged, resources};
use crate::support::isolate::isolated;
use crate::support::role::{self, wait_until};
use crate::support::{host, skip, sys};

/// The clock ticks that a process has run.
fn ticks(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it lives");
    let after_name = stat.rsplit(')').next().expect("fields");
    after_name
        .split(' ')
        .nth(12)
        .and_then(|text| text.parse().ok())
        .expect("a number")
}

fn stands_still(child: &Child) -> bool {
    let before = ticks(child);
    std::thread::sleep(Duration::from_millis(60));
    ticks(child) == before
}

#[test]
fn privileged_version_1_alone_freezes_and_kills() {
    isolated(|place| {
        if !Path::new("/sys/fs/cgroup/freezer/cgroup.procs").exists() {
            return skip("no freezer of version 1");
        }
        let unified = Path::new("/sys/fs/cgroup/unified");
        if unified.exists() {
            mount(
                Some("none"),
                unified,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
        }
        assert_eq!(version().unwrap(), Versions::V1);
        let path = CgroupPath::new(&format!("{}/frozen", place.cgroup())).unwrap();
        let group = Guard(Cgroup::create(&path, &resources("{}")).unwrap());
        let mut child = group.shell("while :; do :; done");
        assert!(!group.0.is_frozen().unwrap());
        group.0.freeze().unwrap();
        assert!(group.0.is_frozen().unwrap() && stands_still(&child));
        group.0.thaw().unwrap();
        wait_until("it goes on", || !stands_still(&child));
        // What is stopped by itself, below, is killed all the same.
        let below = Guard(group.0.create_child("below", &resources("{}")).unwrap());
        let mut second = below.shell("while :; do :; done");
        below.0.freeze().unwrap();
        group.0.freeze().unwrap();
        group.0.kill_all().unwrap();
        assert!(!child.wait().unwrap().success() && !second.wait().unwrap().success());
        drop(below);
        drop(group);
        host::remove_cgroups(place.cgroup());
        if unified.exists() {
            umount(unified).unwrap();
        }
    });
}

#[test]
fn privileged_what_does_not_freeze_is_thawed() {
    isolated(|place| {
        let path = CgroupPath::new(&format!("{}/stuck", place.cgroup())).unwrap();
        let group = Guard(Cgroup::create(&path, &resources("{}")).unwrap());
        let Some(report) = group.directory("").map(|path| path.join("cgroup.events")) else {
            return skip("no unified hierarchy");
        };
        let mut child = group.shell("while :; do :; done");
        // The kernel stops it, but nobody hears of it.
        let silent = place.dir().join("silent");
        fs::write(&silent, "populated 1\nfrozen 0\n").unwrap();
        mount(
            Some(&silent),
            &report,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        let error = group.0.freeze().unwrap_err();
        umount(&report).unwrap();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::TimedOut, "NotFrozen")
        );
        assert!(error.is_retryable() && error.cleanup_errors().is_empty());
        assert!(!group.0.is_frozen().unwrap());
        wait_until("it goes on", || !stands_still(&child));
        group.0.kill_all().unwrap();
        child.wait().unwrap();
        drop(group);
        host::remove_cgroups(place.cgroup());
    });
}

#[test]
fn privileged_packets_are_marked_where_version_1_does_it() {
    isolated(|place| {
        let mounted: Vec<_> = ["net_cls", "net_prio"]
            .into_iter()
            .filter_map(|name| {
                let at = place.dir().join(name);
                fs::create_dir(&at).unwrap();
                let mounted = mount(
                    Some("none"),
                    &at,
                    Some("cgroup"),
                    MsFlags::empty(),
                    Some(name),
                );
                mounted.is_ok().then_some(at)
            })
            .collect();
        if mounted.len() < 2 {
            return skip("net_cls and net_prio of version 1 cannot be mounted");
        }
        assert_eq!(Controller::NetClass.version().unwrap(), Versions::V1);
        let path = CgroupPath::new(&format!("{}/marked", place.cgroup())).unwrap();
        let limits = r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":7}]}}"#;
        let group = Guard(Cgroup::create(&path, &resources(limits)).unwrap());
        assert_eq!(group.read("net_cls", "net_cls.classid"), "1048577");
        let priorities = group.read("net_prio", "net_prio.ifpriomap");
        assert!(
            priorities.lines().any(|line| line == "lo 7"),
            "{priorities}"
        );
        let mut child = group.shell("sleep 600");
        assert!(
            group
                .read("net_cls", "cgroup.procs")
                .contains(&child.id().to_string())
        );
        group
            .0
            .update(&resources(r#"{"network":{"classID":3}}"#))
            .unwrap();
        assert_eq!(group.read("net_cls", "net_cls.classid"), "3");
        let error = group.0.update(&resources(
            r#"{"network":{"priorities":[{"name":"none0","priority":1}]}}"#,
        ));
        assert!(error.unwrap_err().report().contains("none0"));
        group.0.kill_all().unwrap();
        child.wait().unwrap();
        drop(group);
        host::remove_cgroups(place.cgroup());
        for at in mounted {
            umount(&at).unwrap();
        }
    });
}

#[test]
fn privileged_performance_is_counted_by_group() {
    if !privileged() {
        return;
    }
    let busy = create("perf", r#"{"cpu":{"cpus":"0","mems":"0"}}"#);
    let idle = create("perfidle", "{}");
    let counter = |group: &Guard| sys::count_run_time(&group.0.perf_event_group().unwrap(), 0);
    let (counters, mut child) = match (counter(&busy), counter(&idle)) {
        (Ok(one), Ok(two)) => ([one, two], busy.shell("while :; do :; done")),
        (result, _) => return skip(&format!("no performance events: error {:?}", result.err())),
    };
    let [mut busy_count, mut idle_count] = counters.map(fs::File::from);
    let count = |file: &mut fs::File| {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    };
    wait_until("some time is counted", || {
        count(&mut busy_count) > 10_000_000
    });
    assert_eq!(count(&mut idle_count), 0);
    busy.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn privileged_swap_takes_what_memory_does_not() {
    if !privileged() {
        return;
    }
    let swap = fs::read_to_string("/proc/swaps").unwrap();
    if swap.lines().count() < 2 {
        return skip("no swap, such as zram");
    }
    // 28 MB, of which memory takes 20.
    let worker = "head -c 28000000 /dev/zero | tail -n 1 | wc -c";
    let mib = 1 << 20;
    for (limits, fits) in [
        (format!(r#""limit":{},"swap":{}"#, 20 * mib, 30 * mib), true),
        (format!(r#""limit":{}"#, 20 * mib), true),
        (format!(r#""limit":{0},"swap":{0}"#, 20 * mib), false),
    ] {
        let group = create("swap", &format!(r#"{{"memory":{{{limits}}}}}"#));
        let output = group.shell(worker).wait_with_output().unwrap();
        let whole = String::from_utf8_lossy(&output.stdout).trim() == "28000000";
        assert_eq!(whole, fits, "{limits}: {output:?}");
        let memory = group.0.stats().unwrap().memory.unwrap();
        assert_eq!(memory.oom_kills > 0, !fits, "{limits}: {memory:?}");
        assert!(memory.limit_hits > 0 && memory.peak_bytes.is_none_or(|peak| peak <= 20 << 20));
    }
}

#[test]
fn privileged_files_of_version_2_are_set_by_name() {
    if !privileged() {
        return;
    }
    let unified = |files: &str| resources(&format!(r#"{{"unified":{{{files}}}}}"#));
    let path = CgroupPath::below(
        Some(&format!("core-test-unified-{}", std::process::id())),
        "one",
    )
    .unwrap();
    for (files, kind, code) in [
        (
            r#""nosuch.max":"1""#,
            ErrorKind::Unsupported,
            "ControllerUnavailable",
        ),
        (
            r#""cgroup.procs":"1""#,
            ErrorKind::Unsupported,
            "ControllerUnavailable",
        ),
        (
            r#""../memory.max":"1""#,
            ErrorKind::InvalidInput,
            "InvalidLimit",
        ),
        (r#""memory":"1""#, ErrorKind::InvalidInput, "InvalidLimit"),
    ] {
        let error = Cgroup::create(&path, &unified(files)).unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{files}");
    }
    if version().unwrap() == Versions::V1 {
        return skip("no unified hierarchy");
    }
    let group = Guard(Cgroup::create(&path, &unified(r#""cgroup.max.depth":"3""#)).unwrap());
    assert_eq!(group.read("", "cgroup.max.depth"), "3");
    if Controller::Memory.version().unwrap() != Versions::V2 {
        return skip("memory is not in version 2");
    }
    group
        .0
        .update(&unified(
            r#""memory.high":"1048576","pids.max":"7","memory.oom.group":"1""#,
        ))
        .unwrap();
    for (file, want) in [
        ("memory.high", "1048576"),
        ("pids.max", "7"),
        ("memory.oom.group", "1"),
    ] {
        assert_eq!(group.read("", file), want);
    }
    let both = r#"{"memory":{"limit":2097152},"unified":{"memory.swap.max":"4096"}}"#;
    group.0.update(&resources(both)).unwrap();
    assert_eq!(group.read("", "memory.max"), "2097152");
    assert!(matches!(
        fs::read_to_string(group.directory("").unwrap().join("memory.swap.max")).as_deref(),
        Ok("4096\n") | Err(_)
    ));
    let error = group
        .0
        .update(&unified(r#""memory.nosuch":"1""#))
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unsupported, "ControllerUnavailable")
    );
}

/// Who plays it is a plain user, to whom the group above is delegated.
#[test]
fn role_delegated() {
    if !role::plays("cgroup_hosts::role_delegated") {
        return;
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let path = CgroupPath::new("mine/one").unwrap();
    let limits =
        r#"{"memory":{"limit":67108864},"pids":{"limit":9},"cpu":{"quota":50000,"period":100000}}"#;
    let group = Guard(Cgroup::create(&path, &resources(limits)).unwrap());
    let mut child = group.shell("sleep 600");
    let stats = group.0.stats().unwrap();
    assert_eq!(stats.pids.unwrap().limit, Some(9));
    assert_eq!(stats.memory.unwrap().limit_bytes, Some(64 << 20));
    group
        .0
        .update(&resources(r#"{"pids":{"limit":10}}"#))
        .unwrap();
    group.0.freeze().unwrap();
    group.0.kill_all().unwrap();
    child.wait().unwrap();
    let directory = group.directory("").unwrap();
    group.0.remove().unwrap();
    assert!(
        !directory.parent().unwrap().exists(),
        "the group above was made, and goes"
    );
    let error = Cgroup::create(&path, &resources(r#"{"devices":[{"allow":false}]}"#)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    role::say(directory.display());
}

#[test]
fn privileged_a_plain_user_limits_below_a_delegated_group() {
    if !privileged() {
        return;
    }
    const USER: u32 = 4243;
    let top = match Controller::Memory.version() {
        Ok(Versions::V2) => PathBuf::from("/sys/fs/cgroup"),
        _ => return skip("memory is not in version 2"),
    };
    fs::write(top.join("cgroup.subtree_control"), "+cpu +memory +pids").unwrap();
    let group = top.join(format!("core-test-delegated-{}", std::process::id()));
    let own = group.join("own");
    fs::create_dir_all(&own).unwrap();
    let delegated = [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ];
    for path in delegated
        .map(|name| group.join(name))
        .into_iter()
        .chain([own.clone(), own.join("cgroup.procs")])
    {
        chown(&path, Some(USER.into()), Some(USER.into())).unwrap();
    }
    let mut child = role::command("cgroup_hosts::role_delegated")
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(own.join("cgroup.procs"), child.id().to_string()).unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    fs::remove_dir(own).unwrap();
    fs::remove_dir(&group).unwrap();
    assert_eq!(
        role::said(&said),
        [group.join("mine/one").display().to_string()],
        "{said}"
    );
}
