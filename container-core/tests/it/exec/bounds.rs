//! What binds a process that is executed, and what must not get in with it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use container_core::oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use container_core::{Container, CreateOptions, ExecOptions, Launcher, Signal, Stdio, defaults};

use super::{command, output, piped, shell, sleeper, start};
use crate::namespaces::add_user_namespace;
use crate::rows::set_role;
use crate::support::bundle::{
    Bundle, edit_linux, edit_process, read_until, run, set_namespace, set_user, with_bundle,
};
use crate::support::isolate::Place;
use crate::support::{host, peers, role, skip};

/// How many processes are executed one after the other; 300 unless this variable says otherwise.
const EXECS: &str = "CONTAINER_CORE_TEST_EXECS";

#[test]
fn privileged_exec_enters_a_user_namespace() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["sleep", "600"]);
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        let container = start(&launcher, &spec, CreateOptions::default());
        check_user_namespace(&launcher, &spec, &container);

        // Of which only some namespaces are new.
        set_namespace(&mut spec, LinuxNamespaceType::Uts, None);
        spec.set_hostname(None);
        let container = start(&launcher, &spec, CreateOptions::default());
        check_user_namespace(&launcher, &spec, &container);
    });
}

fn check_user_namespace(launcher: &Launcher, spec: &Spec, container: &Container) {
    let say = |script: &str| shell(launcher, spec, container, script);
    for kind in ["user", "net", "pid", "mnt"] {
        let want = fs::read_link(format!("/proc/{}/ns/{kind}", container.pid()))
            .expect("a step of the test");
        assert_eq!(
            say(&format!("readlink /proc/self/ns/{kind}")),
            want.to_str().expect("a step of the test")
        );
    }
    let fields = "grep -E '^(Uid|Gid|Groups|Cap|Seccomp)' /proc/";
    assert_eq!(
        say(&format!("{fields}self/status")),
        say(&format!("{fields}1/status"))
    );
    assert_eq!(
        say("id -u; cat /proc/self/uid_map | tr -s ' '")
            .lines()
            .next(),
        Some("0")
    );
}

/// A plain user with a container in a user namespace, and a process executed in it.
#[test]
fn role_plain_user() {
    if !role::plays("exec::bounds::role_plain_user") {
        return;
    }
    let bundle = Bundle::existing(Path::new("/srv/work/root"));
    let mut spec = bundle.spec(&["sleep", "600"]);
    add_user_namespace(&mut spec, 4242, 4242, 1);
    let launcher = Launcher::new();
    let container = start(&launcher, &spec, CreateOptions::default());
    check_user_namespace(&launcher, &spec, &container);
    role::say("executed");
}

#[test]
fn privileged_plain_user_executes_in_a_container() {
    with_bundle!(|place, _| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut user = role::command("exec::bounds::role_plain_user");
        let mut user = user.uid(4242).gid(4242).spawn().unwrap();
        assert_eq!(role::hear(&mut user), "executed");
        assert!(user.wait().unwrap().success());
    });
}

/// Executes again and again; nothing may pile up.
#[test]
fn privileged_many_execs_leave_descriptors_and_memory_as_they_are() {
    with_bundle!(|_, bundle| {
        let execs = std::env::var(EXECS).map_or(300, |number| number.parse().unwrap());
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let process = command(&spec, &["echo", "x"]);
        let launchers = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            all.map(|entry| entry.path()).filter(|path| {
                fs::read_to_string(path.join("comm"))
                    .is_ok_and(|comm| comm.trim() == "ctr-launcher")
            })
        };
        let measure = || {
            let launcher = launchers().next().expect("it runs");
            let count = |dir: &Path| fs::read_dir(dir).unwrap().count();
            let memory = fs::read_to_string(launcher.join("statm")).unwrap();
            let pages: u64 = memory.split(' ').nth(1).unwrap().parse().unwrap();
            (
                count(Path::new("/proc/self/fd")),
                count(&launcher.join("fd")),
                pages,
            )
        };
        let run = |times: usize| {
            for _ in 0..times {
                let (out, _, code) = output(&launcher, &container, &process);
                assert_eq!((out.as_str(), code), ("x\n", 0));
            }
        };
        run(20);
        let before = measure();
        run(execs);
        let after = measure();
        assert_eq!((after.0, after.1), (before.0, before.1), "descriptors");
        assert!(
            after.2 <= before.2 + 64,
            "pages: {} and then {}",
            before.2,
            after.2
        );
    });
}

#[test]
fn privileged_output_without_a_reader_waits_in_a_pipe() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let memory = || {
            let text = fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let process = command(&spec, &["dd", "if=/dev/zero", "bs=1M", "count=4096"]);
        let before = memory();
        let mut process = launcher.exec(&container, &process, piped()).unwrap();
        assert_eq!(
            process.wait_timeout(Duration::from_millis(300)).unwrap(),
            None
        );
        assert!(memory() < before + 256, "1 MiB in pages");
        let mut some = [0; 100];
        process
            .take_stdout()
            .unwrap()
            .read_exact(&mut some)
            .unwrap();
        process.kill(Signal::KILL).unwrap();
        assert_eq!(process.wait().unwrap().signal(), Some(9));
    });
}

#[test]
fn privileged_working_directory_of_an_exec_never_lies_outside() {
    with_bundle!(|place, bundle| {
        let outside = place.dir().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let open = |_| {
            use rustix::fs::{CWD, Mode, OFlags, openat};
            openat(CWD, &outside, OFlags::RDONLY, Mode::empty()).unwrap()
        };
        let held: Vec<_> = (0..20).map(open).collect();
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        for number in 0..40 {
            let link = format!("link{number}");
            symlink(format!("/proc/self/fd/{number}"), bundle.root().join(&link)).unwrap();
            for cwd in [
                format!("/proc/self/fd/{number}"),
                format!("/proc/self/fd/{number}/.."),
                format!("/{link}"),
            ] {
                let mut process = command(&spec, &["sh", "-c", "pwd; ls -a . .."]);
                process.set_cwd(cwd.clone().into());
                if let Ok(mut process) = launcher.exec(&container, &process, piped()) {
                    let mut out = String::new();
                    process
                        .take_stdout()
                        .unwrap()
                        .read_to_string(&mut out)
                        .unwrap();
                    assert!(
                        out.starts_with('/') && !out.contains("secret"),
                        "{cwd}: {out}"
                    );
                }
            }
        }
        drop(held);
    });
}

#[test]
fn privileged_system_calls_of_an_exec_meet_the_filter_of_the_first_process() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let launcher = Launcher::new();
        for (uid, hardened) in [(0, false), (1000, true)] {
            let mut probing = bundle.spec(&[]);
            set_user(&mut probing, uid, uid);
            if hardened {
                defaults::hardened(&mut probing);
            }
            let mut sleeping = probing.clone();
            set_role(&mut probing, "rows::role_prober", &[]);
            edit_process(&mut sleeping, |process| {
                process.set_args(Some(["/bin/sleep", "600"].map(str::to_owned).to_vec()));
            });
            let first = run(&launcher, &probing).stdout;
            let container = start(&launcher, &sleeping, CreateOptions::default());
            let process = probing.process().clone().expect("it has one");
            let (executed, ..) = output(&launcher, &container, &process);
            let said = role::said(&first);
            assert!(said.concat().len() > 1000, "{first}");
            assert_eq!(role::said(&executed), said);
        }
    });
}

/// What is being executed is not the container's to look into before it is inside, and what it was
/// before is no program of the host's that could be written to.
#[test]
fn privileged_processes_on_their_way_into_a_container_cannot_be_looked_into() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let script = "echo ready; while [ ! -e /stop ]; do for d in /proc/[0-9]*; do \
              n=${d#/proc/}; [ $n = $$ ] && continue; seen=$((seen + 1)); \
              exe=$(readlink $d/exe 2>/dev/null) && [ $exe != /bin/busybox ] && echo exe $exe; \
              for f in $d/fd/*; do to=$(readlink $f 2>/dev/null) && case $to in \
                pipe:*|/dev/null|/proc/*|socket:*|/stop) ;; *) echo fd $f $to;; esac; done; \
            done; done; echo seen $seen";
        let spec = bundle.shell(script);
        let mut options = crate::support::bundle::piped();
        options.stdio[2] = Stdio::Null;
        let mut container = start(&launcher, &spec, options);
        let mut stdout = container.take_stdout().unwrap();
        read_until(&mut stdout, "ready\n");
        let process = command(&spec, &["true"]);
        for _ in 0..300 {
            let process = launcher
                .exec(&container, &process, ExecOptions::default())
                .unwrap();
            process.wait().unwrap();
        }
        fs::write(bundle.root().join("stop"), "").unwrap();
        let mut out = String::new();
        stdout.read_to_string(&mut out).unwrap();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 1, "{out}");
        let seen: u32 = lines[0].strip_prefix("seen ").unwrap().parse().unwrap();
        assert!(seen > 10, "{seen}");
    });
}

#[test]
fn privileged_exec_gives_what_runc_and_crun_give() {
    with_bundle!(|place, bundle| {
        let fields = "^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Umask|SigBlk|SigIgn|SigCgt):";
        let launcher = Launcher::new();
        for (uid, hardened) in [(0, false), (1000, true)] {
            let mut spec = bundle.spec(&["sleep", "600"]);
            set_user(&mut spec, uid, uid);
            edit_process(&mut spec, |process| {
                let mut user = process.user().clone();
                user.set_umask(Some(0o27));
                user.set_additional_gids(Some(vec![5, 6]));
                process.set_user(user);
            });
            if hardened {
                defaults::hardened(&mut spec);
            }
            let process = command(&spec, &["grep", "-E", fields, "/proc/self/status"]);
            let container = start(&launcher, &spec, CreateOptions::default());
            let (ours, ..) = output(&launcher, &container, &process);
            drop(container);
            for name in ["runc", "crun"] {
                let Some(peer) = peers::find(name) else {
                    continue;
                };
                if name == "crun" && is_split_host() {
                    skip("crun wants all controllers on one version of cgroups");
                    continue;
                }
                let theirs = peer_exec(place, &peer, &spec, &process);
                // The peers pass on what their caller, or Go, ignores; runc 1.1 also a umask.
                let left_out = |line: &&str| {
                    line.starts_with("SigIgn") || (name == "runc" && line.starts_with("Umask"))
                };
                let [ours, theirs] = [&ours, &theirs].map(|text| {
                    text.lines()
                        .filter(|line| !left_out(line))
                        .collect::<Vec<_>>()
                });
                assert_eq!(ours, theirs, "{name}, user {uid}");
            }
        }
    });
}

/// Whether some controllers are version 1's and others version 2's.
fn is_split_host() -> bool {
    fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers")
        .is_ok_and(|controllers| !controllers.trim().is_empty())
}

/// What `process` says when another runtime executes it in a container of its own.
fn peer_exec(place: &Place, peer: &Path, spec: &Spec, process: &Process) -> String {
    let dir = place.dir().join("peer");
    fs::create_dir_all(&dir).expect("a step of the test");
    let mut spec = spec.clone();
    let group = format!("/{}/peer", place.cgroup());
    edit_linux(&mut spec, |linux| {
        _ = linux.set_cgroups_path(Some(group.into()))
    });
    fs::write(
        dir.join("config.json"),
        serde_json::to_vec(&spec).expect("a step of the test"),
    )
    .expect("a step of the test");
    fs::write(
        dir.join("process.json"),
        serde_json::to_vec(process).expect("a step of the test"),
    )
    .expect("a step of the test");
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(peer);
        command.arg("--root").arg(dir.join("state")).args(arguments);
        let output = command
            .current_dir(&dir)
            .output()
            .expect("a step of the test");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("a step of the test")
    };
    // With pipes they would wait for the end of the container.
    let mut command = std::process::Command::new(peer);
    command.arg("--root").arg(dir.join("state"));
    command.args(["run", "--detach", "peer"]).current_dir(&dir);
    let messages = dir.join("messages");
    let null = std::process::Stdio::null;
    command.stdin(null()).stdout(null());
    let started = command
        .stderr(fs::File::create(&messages).expect("a step of the test"))
        .status();
    assert!(
        started.expect("a step of the test").success(),
        "{:?}",
        fs::read_to_string(messages)
    );
    let said = run(&["exec", "--process", "process.json", "peer"]);
    run(&["delete", "--force", "peer"]);
    host::remove_cgroups(place.cgroup());
    said
}
