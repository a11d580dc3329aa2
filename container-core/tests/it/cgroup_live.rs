//! Control groups while processes run in them: the tree, changed limits, statistics, events.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use container_core::ErrorKind;
use container_core::cgroup::{Cgroup, Controller, Stats, Versions};
use container_core::oci_spec::runtime::LinuxResources;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::support::group::{Guard, create, name, privileged, resources};
use crate::support::role::wait_until;

/// A file of the group by its name in version 1 or in version 2, whichever this host has for it.
fn read(group: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let directories = group.directories();
    let file = match directories
        .get(controller)
        .map(|directory| directory.join(v1))
    {
        Some(file) if file.exists() => file,
        _ => directories[""].join(v2),
    };
    fs::read_to_string(&file).unwrap().trim().to_owned()
}

#[test]
fn privileged_groups_form_a_tree() {
    if !privileged() {
        return;
    }
    let group = create("tree", "{}");
    assert_eq!(group.0.children().unwrap(), []);
    let limits = resources(r#"{"pids":{"limit":7}}"#);
    let one = group.0.create_child("one", &limits).unwrap();
    let two = group
        .0
        .create_child("two", &LinuxResources::default())
        .unwrap();
    assert_eq!(group.0.children().unwrap(), [one.clone(), two.clone()]);
    assert_eq!(one.parent().unwrap().unwrap(), group.0);
    assert_eq!(read(&one, "pids", "pids.max", "pids.max"), "7");
    assert_eq!(
        group.0.create_child("../x", &limits).unwrap_err().code(),
        "InvalidName"
    );
    let error = group.0.create_child("one", &limits).unwrap_err();
    assert_eq!(error.code(), "CgroupExists");

    assert_eq!(two.add(u32::MAX / 2).unwrap_err().code(), "NoProcess");
}

#[test]
fn privileged_processes_are_listed_by_group_and_with_those_below() {
    if !privileged() {
        return;
    }
    let group = create("listed", "{}");
    let below = Guard(
        group
            .0
            .create_child("below", &LinuxResources::default())
            .unwrap(),
    );
    let mut child = below.shell("sleep 60");
    let pid = i32::try_from(child.id()).unwrap();
    assert!(group.0.pids().unwrap().contains(&pid));
    assert!(!group.0.own_pids().unwrap().contains(&pid));
    assert!(below.0.own_pids().unwrap().contains(&pid));
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_limits_change_while_processes_run() {
    if !privileged() {
        return;
    }
    let group = create(
        "update",
        r#"{"memory":{"limit":67108864,"swap":67108864},"pids":{"limit":20},
            "cpu":{"quota":50000,"period":100000}}"#,
    );
    let mut child = group.shell("sleep 60");
    let memory = || read(&group.0, "memory", "memory.limit_in_bytes", "memory.max");
    let pids = || read(&group.0, "pids", "pids.max", "pids.max");
    let update = |json: &str| group.0.update(&resources(json));

    // What is not named stays.
    update(r#"{"pids":{"limit":30}}"#).unwrap();
    assert_eq!((memory().as_str(), pids().as_str()), ("67108864", "30"));
    // Up and down, whichever of the two has to go first.
    update(r#"{"memory":{"limit":134217728,"swap":134217728}}"#).unwrap();
    assert_eq!(memory(), "134217728");
    update(r#"{"memory":{"limit":33554432,"swap":67108864}}"#).unwrap();
    assert_eq!(memory(), "33554432");
    update(r#"{"memory":{"limit":16777216}}"#).unwrap();
    assert_eq!(
        group.0.stats().unwrap().memory.unwrap().limit_bytes,
        Some(16 << 20)
    );
    update(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert_eq!(group.0.memory_limit().unwrap(), None);
    // A quota that is longer than the old period, and one for the new.
    for (quota, period) in [(500_000, 1_000_000), (1000, 1000), (20_000, 100_000)] {
        update(&format!(
            r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#
        ))
        .unwrap();
        let want = (quota.to_string(), format!("{quota} {period}"));
        let got = read(&group.0, "cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(got == want.0 || got == want.1, "{got}");
    }
    let error = update(r#"{"cpu":{"cpus":"9999"}}"#).unwrap_err();
    assert!(error.report().contains("9999"), "{}", error.report());
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_less_memory_than_is_used_is_refused_if_asked() {
    if !privileged() {
        return;
    }
    let group = create("used", r#"{"memory":{"limit":134217728,"swap":134217728}}"#);
    let mut child = group.shell("x=$(head -c 4000000 /dev/zero | tr '\\0' x); sleep 60");
    wait_until("the shell uses memory", || {
        group.0.stats().unwrap().memory.unwrap().usage_bytes > 3 << 20
    });
    let json = r#"{"memory":{"limit":1048576,"checkBeforeUpdate":true}}"#;
    let error = group.0.update(&resources(json)).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Busy, "LimitBelowUsage")
    );
    assert_eq!(group.0.memory_limit().unwrap(), Some(128 << 20));
    if group
        .directory("memory")
        .is_some_and(|path| path.join("memory.memsw.limit_in_bytes").exists())
    {
        let json = r#"{"memory":{"limit":268435456}}"#;
        assert_eq!(
            group.0.update(&resources(json)).unwrap_err().code(),
            "SwapBelowMemory"
        );
    }
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_device_rules_change_while_processes_run() {
    if !privileged() {
        return;
    }
    let rules = |more: &str| {
        let null = r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}"#;
        format!(r#"{{"devices":[{{"allow":false,"access":"rwm"}},{null}{more}]}}"#)
    };
    let group = create("devrules", &rules(""));
    // Nothing may ever refuse the null device, nor, before and after, allow zero.
    let mut child = group.shell("while read x < /dev/null || [ $? = 1 ]; do :; done 2>/dev/null");
    let zero = || {
        let output = group
            .shell("head -c 1 /dev/zero | od -An -tx1")
            .wait_with_output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim() == "00"
    };
    assert!(!zero());
    let with_zero = r#",{"allow":true,"type":"c","major":1,"minor":5,"access":"r"}"#;
    group.0.update(&resources(&rules(with_zero))).unwrap();
    assert!(zero());
    for _ in 0..50 {
        group.0.update(&resources(&rules(""))).unwrap();
        group.0.update(&resources(&rules(with_zero))).unwrap();
    }
    group.0.update(&resources(&rules(""))).unwrap();
    assert!(!zero());
    assert!(
        child.try_wait().unwrap().is_none(),
        "the null device was refused"
    );
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn privileged_statistics_tell_what_was_used() {
    if !privileged() {
        return;
    }
    let group = create(
        "stats",
        r#"{"memory":{"limit":67108864},"pids":{"limit":9},"cpu":{"quota":20000,"period":100000}}"#,
    );
    let before = group.0.stats().unwrap();
    assert_eq!(before.cpu.unwrap().usage_ns, 0);
    let mut child = group.shell("x=$(head -c 3000000 /dev/zero | tr '\\0' x); while :; do :; done");
    let busy = |stats: &Stats| {
        let (cpu, memory) = (stats.cpu.as_ref().unwrap(), stats.memory.as_ref().unwrap());
        cpu.usage_ns > 30_000_000 && cpu.throttling.throttled_ns > 0 && memory.rss_bytes > 2 << 20
    };
    wait_until("the shell is busy", || busy(&group.0.stats().unwrap()));
    let stats = group.0.stats().unwrap();
    let (cpu, memory, pids) = (
        stats.cpu.unwrap(),
        stats.memory.unwrap(),
        stats.pids.unwrap(),
    );
    assert!(cpu.throttling.periods >= cpu.throttling.throttled_periods);
    assert!(cpu.throttling.throttled_periods > 0);
    if Controller::CpuAccounting.version().unwrap() == Versions::V1 {
        let sum: u64 = cpu.per_cpu_ns.iter().sum();
        assert!(sum >= cpu.usage_ns, "{cpu:?}");
    }
    assert_eq!((memory.limit_bytes, memory.oom_kills), (Some(64 << 20), 0));
    assert!(memory.usage_bytes >= memory.rss_bytes && !memory.details.is_empty());
    assert!((1..=4).contains(&pids.current) && pids.limit == Some(9));

    // Stopped, it uses nothing more; then it goes on.
    group.0.freeze().unwrap();
    let usage = || group.0.stats().unwrap().cpu.unwrap().usage_ns;
    let stopped = usage();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(usage(), stopped);
    group.0.thaw().unwrap();
    wait_until("it goes on", || usage() > stopped);

    let mut stream = group.0.stats_every(Duration::from_millis(1));
    let first = stream.next().unwrap().unwrap();
    let second = stream.next().unwrap().unwrap();
    assert!(second.unix_time_ns >= first.unix_time_ns);
    let json = serde_json::to_value(&first).unwrap();
    assert_eq!(json["pids"]["limit"], 9);
    assert_eq!(serde_json::from_value::<Stats>(json).unwrap(), first);
    group.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
    group.0.remove().unwrap();
    assert!(stream.next().is_none());
    assert_eq!(group.0.stats().unwrap_err().code(), "CgroupUnknown");
}

#[test]
fn privileged_no_out_of_memory_event_is_lost() {
    if !privileged() {
        return;
    }
    let greedy = "x=0123456789abcdef; while :; do x=$x$x; done";
    let group = create("oom", r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    // Before anybody looks …
    assert!(!group.shell(greedy).wait().unwrap().success());
    let mut events = group.0.oom_events().unwrap();
    let ready = |events: &container_core::cgroup::OomEvents| {
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(0_u8)).unwrap() > 0
    };
    assert_eq!(events.read().unwrap(), Some(1));
    assert_eq!(events.read().unwrap(), Some(0));
    assert_eq!(
        events.wait(Some(Duration::from_millis(1))).unwrap(),
        Some(0)
    );
    // Version 2 may signal once more, late, with nothing new.
    wait_until("the signals end", || {
        assert_eq!(events.read().unwrap(), Some(0));
        !ready(&events)
    });
    // … several times between two looks, and while somebody waits.
    for _ in 0..3 {
        assert!(!group.shell(greedy).wait().unwrap().success());
    }
    assert!(ready(&events));
    assert_eq!(events.read().unwrap(), Some(3));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| events.wait(None).unwrap());
        assert!(!group.shell(greedy).wait().unwrap().success());
        assert_eq!(waiter.join().unwrap(), Some(1));
    });
    assert_eq!(group.0.oom_kill_count().unwrap(), 5);
    group.0.remove().unwrap();
    assert_eq!(events.wait(None).unwrap(), None);
}

#[test]
fn privileged_kills_below_a_group_are_counted() {
    if !privileged() {
        return;
    }
    let group = create(
        "oombelow",
        r#"{"memory":{"limit":16777216,"swap":16777216}}"#,
    );
    let below = Guard(
        group
            .0
            .create_child("below", &LinuxResources::default())
            .unwrap(),
    );
    let greedy = "x=0123456789abcdef; while :; do x=$x$x; done";
    assert!(!below.shell(greedy).wait().unwrap().success());
    assert_eq!(group.0.oom_kill_count().unwrap(), 1);
}

#[test]
fn privileged_a_missing_controller_is_named() {
    if !privileged() {
        return;
    }
    for controller in Controller::ALL {
        let Err(error) = controller.version() else {
            continue;
        };
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unsupported, "ControllerUnavailable")
        );
        assert!(error.to_string().contains(controller.name()), "{error}");
    }
    let error = Controller::Ns.version().unwrap_err();
    assert!(error.to_string().contains("3.0"), "{error}");
    for (controller, field, json) in [
        (
            Controller::NetClass,
            "classID",
            r#"{"network":{"classID":1048577}}"#,
        ),
        (
            Controller::NetPriority,
            "priorities",
            r#"{"network":{"priorities":[{"name":"lo","priority":3}]}}"#,
        ),
        (
            Controller::Rdma,
            "rdma",
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#,
        ),
    ] {
        if controller.version().is_ok() {
            continue;
        }
        let error = Cgroup::create(&name("lacks"), &resources(json)).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unsupported, "ControllerUnavailable")
        );
        assert!(error.to_string().contains(field), "{error}");
    }
}
