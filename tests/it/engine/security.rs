//! More than the default, and less: privileges, filters of system calls, namespaces of others.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use container_engine::{ErrorKind, RunBuilder};
use nix::mount::{MsFlags, mount, umount};

use super::{Ground, ground, open, serve, text};
use crate::support::fixtures::debian_layout;
use crate::support::isolate::isolated;
use crate::support::skip;

/// Makes one object of each kind of IPC, says so by a file, and waits.
const PERL_MAKE_IPC: &str = r#"
    use strict; use warnings;
    my $create = 01600;
    defined shmget(4711, 4096, $create) or die "shmget: $!";
    defined semget(4711, 1, $create) or die "semget: $!";
    defined msgget(4711, $create) or die "msgget: $!";
    open(my $queue, ">", "/dev/mqueue/queue") or die "mqueue: $!";
    open(my $made, ">", "/shared/made") or die "open: $!";
    sleep 1000;
"#;

/// Says which of them are there.
const SHELL_SEE_IPC: &str =
    r#"perl -ne 'print "$ARGV\n" if /^\s*4711\s/' /proc/sysvipc/*; ls /dev/mqueue"#;

/// As Docker has them: denied but for those who may administrate the system.
const NO_DIRECTORIES: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
    "syscalls": [{
        "names": ["mkdir", "mkdirat"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": 95,
        "excludes": {"caps": ["CAP_SYS_ADMIN"]}
    }]
}"#;

fn run(ground: &Ground) -> RunBuilder {
    ground
        .engine
        .containers()
        .run(&ground.image)
        .network("none")
}

/// What a shell with `script` writes, to both streams.
fn shell(run: RunBuilder, script: &str) -> String {
    let script = format!("{{ {script}\n}} 2>&1");
    let output = run.cmd(["sh", "-c", &script]).output().expect("run");
    text(&output.stdout)
}

/// A block device of the host that can be opened.
fn block_device() -> Option<PathBuf> {
    let entries = fs::read_dir("/dev").expect("list").flatten();
    let mut devices = entries.filter(|entry| {
        let kind = entry.file_type();
        kind.is_ok_and(|kind| kind.is_block_device()) && File::open(entry.path()).is_ok()
    });
    devices.next().map(|entry| entry.path())
}

#[test]
fn privileged_all_privileges_are_all_that_there_are() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let facts = "grep CapEff /proc/self/status; grep Seccomp: /proc/self/status; \
                     head -c 1 /proc/interrupts | wc -c; \
                     echo 1 > /proc/sys/net/ipv4/ip_forward && echo sysctl; \
                     grep -q ' /sys sysfs rw' /proc/mounts && echo sys; \
                     for top in /sys/fs/cgroup/pids /sys/fs/cgroup; do \
                         test -d $top && mkdir $top/sub && rmdir $top/sub && echo cgroup && break; \
                     done";
        let own = rustix::thread::capabilities(None).expect("capabilities");
        let all = shell(run(&ground).privileged(), facts);
        let want = format!(
            "CapEff:\t{:016x}\nSeccomp:\t0\n1\nsysctl\nsys\ncgroup",
            own.permitted.bits()
        );
        assert_eq!(all, want);
        let usual = shell(run(&ground), facts);
        let usual: Vec<_> = usual.lines().collect();
        assert_eq!(
            &usual[..3],
            ["CapEff:\t00000000a80425fb", "Seccomp:\t2", "0"]
        );
        assert!(
            !usual
                .iter()
                .any(|line| ["sysctl", "sys", "cgroup"].contains(line)),
            "{usual:?}"
        );

        let Some(device) = block_device() else {
            return skip("no block device can be opened");
        };
        let device_path = device.display();
        let script = format!(
            "stat -c '%F %t:%T %a %u:%g' {device_path}; \
             dd if={device_path} of=/dev/null bs=1 count=0 2>&- && echo opened"
        );
        let host = fs::metadata(&device).expect("stat");
        let want = format!(
            "block special file {:x}:{:x} {:o} {}:{}\nopened",
            rustix::fs::major(host.rdev()),
            rustix::fs::minor(host.rdev()),
            host.mode() & 0o7777,
            host.uid(),
            host.gid()
        );
        assert_eq!(shell(run(&ground).privileged(), &script), want);
        let none = shell(run(&ground), &script);
        assert!(
            !none.contains("block") && !none.contains("opened"),
            "{none}"
        );
    });
}

#[test]
fn privileged_filters_of_the_caller() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let make = "mkdir /made && echo made";
        let denied = shell(run(&ground).seccomp_profile(NO_DIRECTORIES), make);
        assert!(denied.ends_with("Operation not supported"), "{denied}");
        assert_eq!(shell(run(&ground), make), "made");
        // The rule is not for containers with this capability, and a privileged one has it.
        let able = run(&ground)
            .cap_add("SYS_ADMIN")
            .seccomp_profile(NO_DIRECTORIES);
        assert_eq!(shell(able, make), "made");
        // Who asks for a filter has it, privileged or not.
        let status = "grep Seccomp: /proc/self/status";
        let both = run(&ground).privileged().seccomp_profile(NO_DIRECTORIES);
        assert_eq!(shell(both, status), "Seccomp:\t2");
        let unconfined = shell(run(&ground).seccomp_unconfined(), status);
        assert_eq!(unconfined, "Seccomp:\t0");

        // The kernel looks for the place before it asks for the capability; the default filter
        // refuses at once.
        let attempt = "mount -t tmpfs none /nowhere";
        let refused = shell(run(&ground), attempt);
        assert!(
            refused.contains("permi") && !refused.contains("No such"),
            "{refused}"
        );
        let open = shell(run(&ground).seccomp_unconfined(), attempt);
        assert!(open.contains("No such file"), "{open}");

        let wrong = run(&ground)
            .seccomp_profile("{\"defaultAction\": \"SCMP_ACT_JUMP\"}")
            .memory("much")
            .output()
            .expect_err("both are wrong");
        assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
        let report = wrong.report();
        assert!(
            report.contains("SCMP_ACT_JUMP") && report.contains("much"),
            "{report}"
        );
    });
}

#[test]
fn privileged_ipc_is_private_unless_shared() {
    let Some(layout) = debian_layout() else {
        return;
    };
    isolated(|place| {
        let engine = open(place);
        let (server, name) = serve(&layout, "debian");
        let image = engine.images().pull(&name).expect("pull");
        drop(server);
        let shared = place.dir().join("shared");
        fs::create_dir(&shared).expect("make a directory");
        let containers = engine.containers();
        let run = || containers.run(&image).network("none");
        let maker = run()
            .name("maker")
            .ipc("shareable")
            .bind(&shared, "/shared")
            .cmd(["perl", "-e", PERL_MAKE_IPC])
            .detach()
            .expect("start");
        let end = Instant::now() + Duration::from_secs(30);
        while !shared.join("made").exists() {
            assert!(Instant::now() < end, "{:?}", maker.state());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(shell(run(), SHELL_SEE_IPC), "");
        let all = "/proc/sysvipc/msg\n/proc/sysvipc/sem\n/proc/sysvipc/shm\nqueue";
        let joined = run().ipc("container:maker");
        assert_eq!(shell(joined, SHELL_SEE_IPC), all);
        for kind in ["shm", "sem", "msg"] {
            let host = fs::read_to_string(format!("/proc/sysvipc/{kind}")).expect("read");
            let mut keys = host
                .lines()
                .filter_map(|line| line.split_whitespace().next());
            assert!(!keys.any(|key| key == "4711"), "{host}");
        }

        let queues = place.dir().join("queues");
        fs::create_dir(&queues).expect("make a directory");
        let (kind, flags) = (Some("mqueue"), MsFlags::empty());
        mount(kind, &queues, kind, flags, None::<&str>).expect("mount the host's queues");
        assert!(!queues.join("queue").exists());
        umount(&queues).expect("unmount");

        maker.remove_force().expect("remove");
        let gone = run().ipc("container:maker").spawn().expect_err("removed");
        assert_eq!(gone.code(), "ContainerUnknown");
        let resting = run()
            .name("resting")
            .cmd(["true"])
            .create()
            .expect("create");
        let error = run()
            .ipc("container:resting")
            .spawn()
            .expect_err("not started");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "NotRunning")
        );
        resting.remove().expect("remove");
    });
}

#[test]
fn privileged_namespaces_of_the_host_and_of_others() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let namespaces = "for kind in ipc pid uts; do readlink /proc/self/ns/$kind; done";
        let own = |kind: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).expect("read a link");
            link.to_string_lossy().into_owned()
        };
        let host = ["ipc", "pid", "uts"].map(own);
        let shared = shell(run(&ground).ipc("host").pid("host").uts("host"), namespaces);
        assert_eq!(shared.lines().collect::<Vec<_>>(), host);
        let private = shell(run(&ground), namespaces);
        assert!(!host.iter().any(|link| private.contains(link)), "{private}");

        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let names = "hostname; cat /etc/hostname; echo $HOSTNAME";
        let names = shell(run(&ground).uts("host"), names);
        assert_eq!(names, [&*name; 3].join("\n"));
        let named = run(&ground).uts("host").hostname("box").spawn();
        assert_eq!(
            named.expect_err("not its own").kind(),
            ErrorKind::InvalidInput
        );
        let sleeper = run(&ground).name("sleeper").cmd(["sleep", "1000"]);
        let sleeper = sleeper.detach().expect("start");
        let joined = run(&ground).pid("container:sleeper");
        assert_eq!(shell(joined, "cat /proc/1/comm"), "sleep");
        sleeper.remove_force().expect("remove");

        for run in [
            run(&ground).ipc("shared"),
            run(&ground).pid("container:"),
            run(&ground).uts("container:sleeper"),
        ] {
            let error = run.spawn().expect_err("no such mode");
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::InvalidInput, "InvalidNamespace")
            );
        }
    });
}
