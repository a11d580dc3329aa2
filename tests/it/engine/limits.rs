//! Limits, and what a container may do.

use super::{ground, text};
use crate::support::isolate::isolated;

#[test]
fn privileged_a_container_over_its_memory_is_killed_and_says_so() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let status = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .memory("16M")
            .memory_swap("16M")
            .cmd([
                "sh",
                "-c",
                "exec dd if=/dev/zero of=/dev/null bs=64M count=1",
            ])
            .status()
            .expect("run");
        assert_eq!(
            (status.code(), status.signal(), status.oom_killed()),
            (137, Some(9), true)
        );
    });
}

#[test]
fn privileged_limits_stand_in_the_group() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let script = "for f in memory/memory.limit_in_bytes memory.max pids/pids.max pids.max \
                      cpu/cpu.cfs_quota_us cpu.max; do cat /sys/fs/cgroup/$f 2>/dev/null; done";
        let output = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .memory("64M")
            .pids_limit(77)
            .cpus(0.5)
            .cmd(["sh", "-c", script])
            .output()
            .expect("run");
        let stdout = text(&output.stdout);
        let mut words = stdout.split_whitespace();
        assert_eq!(words.next(), Some("67108864"), "{stdout}");
        assert_eq!(words.next(), Some("77"), "{stdout}");
        assert_eq!(words.next(), Some("50000"), "{stdout}");
    });
}

#[test]
fn privileged_processes_are_limited_and_memory_is_not_unless_asked() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let script = "for f in pids/pids.max pids.max memory/memory.limit_in_bytes memory.max \
                      cpu/cpu.shares cpu.weight; do cat /sys/fs/cgroup/$f 2>/dev/null; done";
        let run = |shares: Option<u64>| {
            let run = ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none");
            let run = match shares {
                Some(shares) => run.cpu_shares(shares),
                None => run,
            };
            let output = run.cmd(["sh", "-c", script]).output().expect("run");
            text(&output.stdout)
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let values = run(None);
        assert!(
            values[0].parse::<u64>().expect("a number") <= 32768,
            "{values:?}"
        );
        // Version 1 writes "none" as a number close to 2^63.
        let memory = values[1].parse().unwrap_or(u64::MAX);
        assert!(memory > 1 << 62, "{values:?}");
        assert!(["1024", "100"].contains(&&*values[2]), "{values:?}");
        // Version 2 has weights with 100 in place of the 1024 shares of version 1.
        assert!(["2048", "174"].contains(&&*run(Some(2048))[2]));
    });
}

#[test]
fn privileged_a_fork_bomb_is_contained() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let script = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done 2>/dev/null; echo $i";
        let output = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .pids_limit(20)
            .cmd(["sh", "-c", script])
            .output()
            .expect("run");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(!said.contains("60") || said.contains("fork"), "{said}");
        assert!(!output.status.success() || said.contains("fork"), "{said}");
    });
}

#[test]
fn privileged_users_by_name_and_number() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = |user: &str| {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
                .user(user)
                .cmd([
                    "sh",
                    "-c",
                    "id -u; id -g; echo $HOME; echo x > /dev/stdout; grep CapEff /proc/self/status",
                ])
                .output()
        };
        let lines = |user: &str| {
            let output = run(user).expect("run");
            let stdout = text(&output.stdout);
            stdout.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines("nobody")[..4], ["65534", "65534", "/", "x"]);
        assert_eq!(lines("nobody")[4], "CapEff:\t0000000000000000");
        assert_eq!(lines("1234:5678")[..2], ["1234", "5678"]);
        assert_eq!(lines("root")[..3], ["0", "0", "/root"]);
        assert_eq!(lines("root")[4], "CapEff:\t00000000a80425fb");
        for (user, code) in [
            ("4294967296", "InvalidUser"),
            ("-1", "InvalidUser"),
            ("+0", "InvalidUser"),
            (" 0", "InvalidUser"),
            ("nosuchuser", "UserNotFound"),
            ("0:nosuchgroup", "UserNotFound"),
        ] {
            let error = run(user).expect_err("no such user");
            assert_eq!(error.code(), code, "{user:?}: {}", error.report());
        }
    });
}

#[test]
fn privileged_hardened_read_only_and_capabilities() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
        };
        let facts = [
            "sh",
            "-c",
            "grep -E 'CapBnd|NoNewPrivs' /proc/self/status; touch /x || echo read-only",
        ];
        let hardened = text(
            &run()
                .hardened()
                .read_only()
                .cmd(facts)
                .output()
                .expect("run")
                .stdout,
        );
        assert!(hardened.contains("NoNewPrivs:\t1"), "{hardened}");
        assert!(hardened.contains("read-only"), "{hardened}");
        // Without AUDIT_WRITE (29), MKNOD (27) and NET_RAW (13).
        assert!(hardened.contains("CapBnd:\t00000000800405fb"), "{hardened}");
        let dropped = text(
            &run()
                .cap_drop("ALL")
                .cap_add("net_admin")
                .cmd(facts)
                .output()
                .expect("run")
                .stdout,
        );
        assert!(dropped.contains("CapBnd:\t0000000000001000"), "{dropped}");
        let error = run()
            .cap_add("CAP_NO_SUCH")
            .cmd(["true"])
            .status()
            .expect_err("no such capability");
        assert_eq!(error.code(), "UnknownCapability");
    });
}

#[test]
fn privileged_bind_mounts() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let shared = place.dir().join("shared");
        std::fs::create_dir(&shared).expect("make a directory");
        std::fs::write(shared.join("from-host"), "1").expect("write");
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
        };
        let status = run()
            .bind(&shared, "/data/deep")
            .cmd([
                "sh",
                "-c",
                "cat /data/deep/from-host && echo 2 > /data/deep/from-container",
            ])
            .status()
            .expect("run");
        assert!(status.success());
        assert_eq!(
            std::fs::read_to_string(shared.join("from-container")).expect("read"),
            "2\n"
        );
        let script = "echo 3 > /data/from-container 2>/dev/null || echo refused; mount -o remount,rw /data 2>/dev/null || echo kept";
        let output = run()
            .bind_read_only(&shared, "/data")
            .cmd(["sh", "-c", script])
            .output()
            .expect("run");
        assert_eq!(text(&output.stdout), "refused\nkept");
        for target in ["/proc/sys", "/sys/kernel", "/proc"] {
            let error = run()
                .bind(&shared, target)
                .cmd(["true"])
                .status()
                .expect_err("refused");
            assert_eq!(error.code(), "InvalidMount", "{target}");
        }
    });
}
