//! What containers share with the host and with each other: every namespace, messages, weights and limits of groups,
//! filters; and containers in containers.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container_core::cgroup::{Cgroup, CgroupPath, Controller, Versions};
use container_core::oci_spec::runtime::{
    LinuxNamespace, LinuxNamespaceType, LinuxResources, LinuxSeccompAction, Spec,
};
use container_core::{
    Container, CreateOptions, Launcher, Plan, PlanOptions, Signal, Stdio, capability, defaults,
    seccomp,
};
use serde_json::json;

use crate::namespaces::add_user_namespace;
use crate::support::bundle::{
    Bundle, add_bind, edit_linux, edit_process, finish, piped, read_until, run, set_namespace,
    stdout_of, with_bundle,
};
use crate::support::{host, peers, role, sys};

/// The namespaces of a container, and their names in `/proc/PID/ns`.
const NAMESPACES: [(LinuxNamespaceType, &str); 8] = [
    (LinuxNamespaceType::User, "user"),
    (LinuxNamespaceType::Mount, "mnt"),
    (LinuxNamespaceType::Pid, "pid"),
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::Cgroup, "cgroup"),
    (LinuxNamespaceType::Time, "time"),
];

/// By how much the clock since boot is moved in the containers that have their own.
const OFFSET: i64 = 1_000_000;

fn namespace_of(pid: impl std::fmt::Display, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("read a namespace");
    link.to_string_lossy().into_owned()
}

/// Adds a time namespace whose clock is ahead by [`OFFSET`] seconds.
fn add_time_namespace(spec: &mut Spec) {
    edit_linux(spec, |linux| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::Time);
        namespace.set_path(None);
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.push(namespace);
        linux.set_namespaces(Some(namespaces));
        let offsets = json!({"boottime": {"secs": OFFSET}, "monotonic": {"nanosecs": 5}});
        linux.set_time_offsets(serde_json::from_value(offsets).expect("offsets"));
    });
}

/// Takes out what needs a mount namespace of the container's own.
fn without_mounts(spec: &mut Spec) {
    spec.set_mounts(None);
    spec.set_root(None);
    edit_linux(spec, |linux| {
        linux.set_masked_paths(None);
        linux.set_readonly_paths(None);
    });
}

/// Starts a container that stays until it is killed.
fn start(launcher: &Launcher, spec: &Spec) -> Container {
    let container = launcher
        .create(spec, CreateOptions::default())
        .expect("create");
    container.start().expect("start");
    container
}

fn end(container: &Container) {
    container.kill(Signal::KILL).expect("kill");
    container.wait().expect("wait");
}

/// Joins the namespace of this kind of `first`, or stays in the host's.
fn enter(spec: &mut Spec, kind: LinuxNamespaceType, path: Option<&str>) {
    set_namespace(spec, kind, path);
    match kind {
        LinuxNamespaceType::Mount => without_mounts(spec),
        LinuxNamespaceType::Time => edit_linux(spec, |linux| {
            linux.set_time_offsets(None);
        }),
        _ => {}
    }
}

#[test]
fn privileged_each_namespace_is_new_the_hosts_or_joined() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let all_new = || {
            let mut spec = bundle.spec(&["sleep", "600"]);
            add_time_namespace(&mut spec);
            spec
        };
        let first = start(&launcher, &all_new());
        let kinds = &NAMESPACES[1..];
        for (_, name) in kinds {
            assert_ne!(
                namespace_of(first.pid(), name),
                namespace_of("self", name),
                "{name}"
            );
        }
        for (kind, name) in kinds {
            for path in [Some(format!("/proc/{}/ns/{name}", first.pid())), None] {
                let mut spec = all_new();
                enter(&mut spec, *kind, path.as_deref());
                let second = start(&launcher, &spec);
                for (_, other) in kinds {
                    let own = namespace_of(second.pid(), other);
                    let firsts = own == namespace_of(first.pid(), other);
                    let hosts = own == namespace_of("self", other);
                    let want = (name == other, path.is_some());
                    assert_eq!(
                        (firsts, hosts),
                        (want.0 && want.1, want.0 && !want.1),
                        "{other} of one with {name} {path:?}"
                    );
                }
                let user = namespace_of(second.pid(), "user");
                assert_eq!(user, namespace_of("self", "user"));
                end(&second);
            }
        }
        end(&first);
    });
}

#[test]
fn privileged_a_user_namespace_is_new_or_joined_with_or_without_the_others() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["sleep", "600"]);
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        add_time_namespace(&mut spec);
        let first = start(&launcher, &spec);
        for (_, name) in NAMESPACES {
            let own = namespace_of(first.pid(), name);
            assert_ne!(own, namespace_of("self", name), "{name}");
        }

        // Of all that is new the namespace that was joined is the owner: a root can be mounted in it.
        let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid());
        let mut spec = bundle.shell("id -u; cat /proc/self/uid_map | tr -s ' '; exec sleep 600");
        edit_linux(&mut spec, |linux| {
            linux.set_sysctl(None);
        });
        set_namespace(&mut spec, LinuxNamespaceType::User, Some(&path("user")));
        add_time_namespace(&mut spec);
        let mut second = launcher.create(&spec, piped()).unwrap();
        second.start().unwrap();
        let mut stdout = second.take_stdout().unwrap();
        assert_eq!(read_until(&mut stdout, "65536\n"), "0\n 0 100000 65536\n");
        for (_, name) in NAMESPACES {
            let own = namespace_of(second.pid(), name);
            assert_ne!(own, namespace_of("self", name), "{name}");
            let firsts = own == namespace_of(first.pid(), name);
            assert_eq!(firsts, name == "user", "{name}");
        }
        end(&second);

        // All of another container's: the same world.
        let mut spec = bundle.spec(&["sleep", "600"]);
        edit_linux(&mut spec, |linux| {
            linux.set_sysctl(None);
        });
        for (kind, name) in NAMESPACES {
            enter(&mut spec, kind, Some(&path(name)));
        }
        let mut options = CreateOptions::default();
        options.user = Some("web".into());
        let third = launcher.create(&spec, options).unwrap();
        third.start().unwrap();
        for (_, name) in NAMESPACES {
            let own = namespace_of(third.pid(), name);
            assert_eq!(own, namespace_of(first.pid(), name), "{name}");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", third.pid())).unwrap();
        assert!(status.contains("Uid:\t101000\t101000\t"), "{status}");
        end(&third);
        end(&first);
    });
}

#[test]
fn privileged_clocks_are_moved_in_a_time_namespace() {
    with_bundle!(|_, bundle| {
        let uptime = |text: &str| text.split('.').next().unwrap().parse::<i64>().unwrap();
        let host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["sleep", "600"]);
        add_time_namespace(&mut spec);
        let first = start(&launcher, &spec);
        let mut own = bundle.spec(&["cat", "/proc/uptime"]);
        let mut joined = own.clone();
        add_time_namespace(&mut own);
        let path = format!("/proc/{}/ns/time", first.pid());
        set_namespace(&mut joined, LinuxNamespaceType::Time, Some(&path));
        for spec in [own, joined] {
            let before = host();
            let inside = uptime(&stdout_of(&launcher, &spec));
            let after = host();
            assert!(
                (before + OFFSET..=after + OFFSET + 1).contains(&inside),
                "{before} {inside} {after}"
            );
        }
        end(&first);
    });
}

#[test]
fn plans_say_which_namespaces_are_entered() {
    let mut spec = defaults::default_spec();
    edit_process(&mut spec, |process| {
        process.set_args(Some(vec!["true".into()]));
    });
    add_time_namespace(&mut spec);
    set_namespace(&mut spec, LinuxNamespaceType::User, Some("/run/user"));
    let plan = |spec: &Spec| Plan::compile(spec, Path::new("/bundle"), &PlanOptions::default());
    let text = plan(&spec).unwrap().to_string();
    let start: Vec<_> = text.lines().take(5).collect();
    assert_eq!(
        start,
        [
            "clone into new namespaces: pid mount network ipc uts",
            "born in namespace /run/user",
            "make a time namespace, boottime 1000000 0, monotonic 0 5",
            "become root of the user namespace",
            "start a session",
        ]
    );

    let mut joined = spec.clone();
    without_mounts(&mut joined);
    set_namespace(&mut joined, LinuxNamespaceType::Mount, Some("/run/mnt"));
    let text = plan(&joined).unwrap().to_string();
    assert!(text.contains("join namespace /run/mnt\n"), "{text}");
    for never in ["mount ", "pivot", "make device", "make read-only", "mask"] {
        assert!(!text.lines().any(|line| line.starts_with(never)), "{text}");
    }
    joined.set_mounts(spec.mounts().clone());
    let error = plan(&joined).unwrap_err();
    assert!(error.report().contains("mounts without a mount namespace"));
    let mut options = PlanOptions::default();
    options.root_mounts = spec.mounts().clone().unwrap().split_off(1);
    joined.set_mounts(None);
    let error = Plan::compile(&joined, Path::new("/bundle"), &options).unwrap_err();
    assert!(error.report().contains("root_mounts without"), "{error:?}");

    for (clock, nanoseconds) in [("realtime", 0), ("monotonic", 1_000_000_000)] {
        let mut spec = spec.clone();
        edit_linux(&mut spec, |linux| {
            let offsets = json!({clock: {"secs": 1, "nanosecs": nanoseconds}});
            linux.set_time_offsets(serde_json::from_value(offsets).unwrap());
        });
        assert_eq!(plan(&spec).unwrap_err().code(), "InvalidSpec", "{clock}");
    }
    set_namespace(&mut spec, LinuxNamespaceType::Time, None);
    let error = plan(&spec).unwrap_err();
    assert_eq!(error.code(), "InvalidSpec");
    assert!(error.report().contains("timeOffsets"), "{error:?}");
}

/// The command and environment that play a role in a container.
pub(crate) fn set_role(spec: &mut Spec, name: &str, more: &[&str]) {
    let (arguments, variable) = role::arguments(name);
    edit_process(spec, |process| {
        let command = std::iter::once("/probe".to_owned()).chain(arguments);
        process.set_args(Some(command.collect()));
        let more = more.iter().map(ToString::to_string);
        process.set_env(Some(std::iter::once(variable).chain(more).collect()));
    });
}

/// A container that starts a container and keeps it until its own standard input ends.
#[test]
fn role_container_with_a_container() {
    if !role::plays("rows::role_container_with_a_container") {
        return;
    }
    let bundle = Bundle::existing(Path::new("/inner"));
    let launcher = Launcher::new();
    let seen = stdout_of(&launcher, &bundle.shell("echo $$ in $(hostname)"));
    role::say(format!("it is {seen}"));
    let inner = start(&launcher, &bundle.spec(&["sleep", "600"]));
    role::say(format!("inner {} ready", inner.pid()));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    end(&inner);
}

#[test]
fn privileged_a_container_runs_in_a_container() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let mut spec = bundle.spec(&[]);
        set_role(&mut spec, "rows::role_container_with_a_container", &[]);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let own = status
            .lines()
            .find_map(|line| line.strip_prefix("CapPrm:\t"));
        let own = u64::from_str_radix(own.unwrap(), 16).unwrap();
        defaults::set_capabilities(&mut spec, own);
        edit_linux(&mut spec, |linux| {
            linux.set_seccomp(None);
            linux.set_masked_paths(None);
            linux.set_readonly_paths(None);
        });
        add_bind(&mut spec, bundle.root(), "/inner", &[]);
        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut outer = Launcher::new().create(&spec, options).unwrap();
        outer.start().unwrap();
        let mut stdout = outer.take_stdout().unwrap();
        let said = read_until(&mut stdout, "ready\n");
        let said = role::said(&said);
        assert!(said[0].starts_with("it is 1 in "), "{said:?}");
        let inner = said[1].split(' ').nth(1).unwrap();
        let numbers: Vec<Vec<String>> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("status")).ok())
            .filter_map(|status| {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("NSpid:"))?;
                Some(line.split_whitespace().map(str::to_owned).collect())
            })
            .filter(|numbers: &Vec<String>| numbers.len() == 3)
            .collect();
        assert_eq!(numbers.len(), 1, "{numbers:?}");
        assert_eq!(numbers[0][1..], [inner, "1"]);
        drop(outer.take_stdin());
        assert!(finish(&mut outer).status.success());
    });
}

/// System V objects have numbers, queues of POSIX have names.
const KEY: u64 = 0x00c0_ffee;
const QUEUE: &std::ffi::CStr = c"row";

/// Makes or finds a semaphore, a shared memory, and two message queues: which of them are there?
fn messages(make: bool) -> [bool; 4] {
    let (ipc, file) = match make {
        true => (
            libc::IPC_CREAT | libc::IPC_EXCL,
            libc::O_CREAT | libc::O_EXCL,
        ),
        false => (0, 0),
    };
    let ipc = u64::from((ipc | 0o600).unsigned_abs());
    let file = u64::from((file | libc::O_RDWR).unsigned_abs());
    [
        (libc::SYS_semget, [KEY, 1, ipc, 0]),
        (libc::SYS_shmget, [KEY, 4096, ipc, 0]),
        (libc::SYS_msgget, [KEY, ipc, 0, 0]),
        (libc::SYS_mq_open, [QUEUE.as_ptr() as u64, file, 0o600, 0]),
    ]
    .map(|(number, arguments)| match sys::call(number, arguments) {
        Ok(_) => true,
        Err(libc::ENOENT) => false,
        Err(errno) => panic!("call {number} failed with {errno}"),
    })
}

#[test]
fn role_messenger() {
    if role::plays("rows::role_messenger") {
        role::say(format!("{:?} made", messages(true)));
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
}

#[test]
fn role_listener() {
    if role::plays("rows::role_listener") {
        role::say(format!("{:?}", messages(false)));
    }
}

#[test]
fn privileged_messages_are_for_those_who_share_the_ipc_namespace() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&[]);
        set_role(&mut spec, "rows::role_messenger", &[]);
        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut maker = launcher.create(&spec, options).unwrap();
        maker.start().unwrap();
        let mut stdout = maker.take_stdout().unwrap();
        let said = read_until(&mut stdout, "made\n");
        assert_eq!(role::said(&said), [format!("{:?} made", [true; 4])]);

        let listen = |path: Option<String>| {
            let mut spec = bundle.spec(&[]);
            set_role(&mut spec, "rows::role_listener", &[]);
            if let Some(path) = path {
                set_namespace(&mut spec, LinuxNamespaceType::Ipc, Some(&path));
            }
            let output = run(&launcher, &spec);
            assert!(output.status.success(), "{output:?}");
            role::said(&output.stdout).join("")
        };
        assert_eq!(messages(false), [false; 4], "on the host");
        assert_eq!(listen(None), format!("{:?}", [false; 4]));
        let path = format!("/proc/{}/ns/ipc", maker.pid());
        assert_eq!(listen(Some(path)), format!("{:?}", [true; 4]));
        drop(maker.take_stdin());
        assert!(finish(&mut maker).status.success());
    });
}

fn resources(json: serde_json::Value) -> LinuxResources {
    serde_json::from_value(json).expect("resources")
}

/// Puts the container into a group with these limits.
fn set_group(spec: &mut Spec, path: &str, limits: serde_json::Value) {
    edit_linux(spec, |linux| {
        linux.set_cgroups_path(Some(path.into()));
        linux.set_resources(Some(resources(limits)));
    });
}

#[test]
fn privileged_limits_of_a_parent_bind_its_children() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let parent = CgroupPath::new(&format!("{}/parent", place.cgroup())).unwrap();
        let limits = json!({"pids": {"limit": 8}, "memory": {"limit": 32 << 20}});
        let parent = Cgroup::create(&parent, &resources(limits)).unwrap();
        let path = format!("{}/child", parent.path());

        let mut spec = bundle.shell("for i in $(seq 20); do sleep 60 & done; echo all");
        set_group(&mut spec, &path, json!({}));
        let output = run(&launcher, &spec);
        assert!(output.stderr.contains("can't fork"), "{output:?}");
        let mut spec = bundle.shell("x=$(yes | head -c 64000000); echo no");
        set_group(&mut spec, &path, json!({}));
        let output = run(&launcher, &spec);
        assert!(!output.stdout.contains("no"), "{output:?}");
        assert!(output.status.oom_killed(), "{output:?}");

        // Groups in groups are found from above, and go with the one that they are in.
        let mut spec = bundle.spec(&["sleep", "600"]);
        set_group(&mut spec, &format!("{path}/deeper"), json!({}));
        let container = start(&launcher, &spec);
        assert!(parent.pids().unwrap().contains(&container.pid()));
        let beside = CgroupPath::new(&format!("{}/beside/below", parent.path())).unwrap();
        Cgroup::create(&beside, &resources(json!({}))).unwrap();
        assert!(Cgroup::open(&beside).is_ok());
        end(&container);
        parent.remove().unwrap();
        assert!(Cgroup::open(&beside).is_err());
        assert!(Cgroup::open(parent.path()).is_err());
        host::remove_cgroups(place.cgroup());
    });
}

/// Nanoseconds that a process has run.
fn run_time(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("it lives");
    text.split(' ')
        .next()
        .expect("a word")
        .parse()
        .expect("a number")
}

/// The CPU time of the first container per that of the second, over a while in which both could have all of it.
fn ratio(first: &Container, second: &Container) -> f64 {
    let times = || [first, second].map(|container| run_time(container.pid()));
    let before = times();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = times();
    let [first, second] = [0, 1].map(|number| after[number] - before[number]);
    #[expect(clippy::cast_precision_loss, reason = "seconds in nanoseconds")]
    let ratio = first as f64 / second as f64;
    ratio
}

/// Whether the ratio is this one, to a tenth; on a machine with other work it may take more than one look.
fn has_ratio(first: &Container, second: &Container, want: f64) -> bool {
    (0..3).any(|_| (ratio(first, second) / want - 1.0).abs() <= 0.1)
}

#[test]
fn privileged_shares_of_the_processor_are_weights() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        let cpu = allowed.trim().split([',', '-']).next().unwrap();
        let busy = |name: &str, shares: u64| {
            let mut spec = bundle.shell("while :; do :; done");
            let limits = json!({"cpu": {"shares": shares, "cpus": cpu}});
            set_group(&mut spec, &format!("{}/{name}", place.cgroup()), limits);
            start(&launcher, &spec)
        };
        let heavy = busy("one/heavy", 2048);
        let light = busy("one/light", 1024);
        // Version 2 has no shares, and the usual curve from shares to weights is not a line.
        let want = match Controller::Cpu.version().unwrap() {
            Versions::V2 => 1.74,
            _ => 2.0,
        };
        assert!(has_ratio(&heavy, &light, want), "2048 to 1024");
        end(&heavy);
        // Alone it has all that its parent has, whatever its weight: as much as one of another parent.
        let other = busy("other/alone", 2048);
        assert!(has_ratio(&other, &light, 1.0), "each alone");
        end(&light);
        end(&other);
        host::remove_cgroups(place.cgroup());
    });
}

/// A profile with each kind of rule.
const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []}],
    "syscalls": [
        {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
        {"name": "sysinfo", "action": "SCMP_ACT_ERRNO"},
        {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 78,
         "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 79,
         "args": [{"index": 2, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["getsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 80,
         "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 81,
         "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"}
    ]
}"#;

#[test]
fn role_filtered() {
    if !role::plays("rows::role_filtered") {
        return;
    }
    const AS_IT_IS: u64 = 0xffff_ffff;
    let results = [
        (libc::SYS_getpriority, [0; 4]),
        (libc::SYS_sysinfo, [0; 4]),
        (libc::SYS_personality, [8, 0, 0, 0]),
        (libc::SYS_personality, [AS_IT_IS, 0, 0, 0]),
        (libc::SYS_setpriority, [0, 0, 3, 0]),
        (libc::SYS_setpriority, [0, 0, 2, 0]),
        (libc::SYS_getsid, [0; 4]),
        (libc::SYS_getpgid, [0; 4]),
    ]
    .map(|(number, arguments)| sys::call(number, arguments).err().unwrap_or(0));
    role::say(format!("{results:?}"));
    let _ = sys::call(libc::SYS_sync, [0; 4]);
    role::say("alive");
}

#[test]
fn privileged_a_profile_of_ones_own_is_enforced() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let mut spec = bundle.spec(&[]);
        set_role(&mut spec, "rows::role_filtered", &[]);
        let profile = seccomp::Profile::parse(PROFILE.as_bytes()).unwrap();
        let host = seccomp::Host::current(capability::DEFAULT);
        edit_linux(&mut spec, |linux| {
            linux.set_seccomp(Some(profile.expand(&host).unwrap()));
        });
        let output = run(&Launcher::new(), &spec);
        let said = role::said(&output.stdout);
        assert_eq!(said, ["[77, 1, 78, 0, 79, 0, 80, 0]"], "{output:?}");
        assert_eq!(output.status.signal(), Some(31), "SIGSYS: {output:?}");
    });
}

/// The numbers of the calls that the default filter lets through with no arguments at all.
fn denied() -> Vec<u64> {
    let host = seccomp::Host::current(capability::DEFAULT);
    let filter = seccomp::default_profile().expand(&host).expect("expand");
    let allowed: Vec<String> = filter
        .syscalls()
        .iter()
        .flatten()
        .filter(|call| call.action() == LinuxSeccompAction::ScmpActAllow)
        .flat_map(|call| call.names().clone())
        .collect();
    (0..600)
        .filter(|number| {
            let call = usize::try_from(*number).ok().and_then(syscalls::Sysno::new);
            call.is_none_or(|call| !allowed.iter().any(|name| name == call.name()))
        })
        .collect()
}

/// Makes each call that is denied, and those whose arguments decide.
#[test]
fn role_prober() {
    if !role::plays("rows::role_prober") {
        return;
    }
    let mut results = String::new();
    let mut probe = |number: u64, arguments: [u64; 4]| {
        let outcome = sys::call(number.cast_signed(), arguments).err();
        results += &format!("{number}:{}:{} ", arguments[0], outcome.unwrap_or(0));
    };
    for number in denied() {
        // Arguments that no call takes, should one be made.
        probe(number, [u64::MAX; 4]);
    }
    for family in 0..48 {
        probe(libc::SYS_socket.unsigned_abs(), [family, 0xff, 0, 0]);
    }
    for request in [0x5412, 0x541c, 0x5401] {
        probe(libc::SYS_ioctl.unsigned_abs(), [u64::MAX, request, 0, 0]);
    }
    for namespace in 25..31 {
        // A thread with signal handlers of its own: the kernel itself refuses it.
        let flags = 1 << namespace | libc::CLONE_THREAD.unsigned_abs();
        probe(libc::SYS_clone.unsigned_abs(), [flags.into(), 0, 0, 0]);
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff, 1, 0x40_0000] {
        probe(libc::SYS_personality.unsigned_abs(), [persona, 0, 0, 0]);
    }
    role::say(results);
}

/// A result without the error, where that depends on how new the list of calls of its maker is.
fn verdict(result: &str) -> (&str, bool) {
    /// The last call that libseccomp 2.5 knows.
    const KNOWN: u32 = 448;
    let (call, outcome) = result.rsplit_once(':').expect("a result");
    let number = call
        .split(':')
        .next()
        .and_then(|number| number.parse().ok());
    let new = number.is_some_and(|number: u32| number > KNOWN);
    match new && matches!(outcome, "1" | "38") {
        true => (call, true),
        false => (result, false),
    }
}

#[test]
fn privileged_the_default_filter_decides_as_under_runc() {
    with_bundle!(|place, bundle| {
        let Some(runc) = peers::find("runc") else {
            return;
        };
        bundle.add_probe();
        let mut spec = bundle.spec(&[]);
        set_role(&mut spec, "rows::role_prober", &[]);
        let group = format!("/{}/peer", place.cgroup());
        set_group(&mut spec, &group, json!({}));
        let ours = run(&Launcher::new(), &spec);
        assert!(ours.status.success(), "{ours:?}");
        let dir = place.dir().join("bundle");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        let theirs = std::process::Command::new(runc)
            .arg("--root")
            .arg(place.dir().join("runc"))
            .args(["run", "--bundle"])
            .arg(&dir)
            .arg("peer")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&theirs.stdout);
        assert!(theirs.status.success(), "{theirs:?}");
        let both = [
            role::said(&ours.stdout).concat(),
            role::said(&text).concat(),
        ];
        let [ours, theirs] = both
            .each_ref()
            .map(|said| said.split_whitespace().collect::<Vec<_>>());
        assert!(ours.len() > 100, "{ours:?}");
        assert_eq!(ours.len(), theirs.len());
        let differ: Vec<_> = ours
            .iter()
            .zip(&theirs)
            .filter(|(ours, theirs)| ours != theirs && verdict(ours) != verdict(theirs))
            .collect();
        assert!(differ.is_empty(), "{differ:?}");
        let groups: Vec<PathBuf> = host::cgroups("peer");
        assert!(groups.is_empty(), "{groups:?}");
        host::remove_cgroups(place.cgroup());
    });
}
