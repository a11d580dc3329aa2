//! Processes that are executed in running containers.

mod bounds;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use container_core::cgroup::{Cgroup, CgroupPath};
use container_core::oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process, Spec};
use container_core::{
    Container, CreateOptions, ErrorKind, ExecOptions, ExitStatus, Launcher, Signal, Stdio,
    Supervision, defaults,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::bundle::{
    Bundle, LIMIT, edit_linux, edit_process, finish, read_until, set_user, with_bundle,
};
use crate::support::isolate::Place;
use crate::support::role::wait_until;
use crate::support::{host, skip};

/// The process of `spec` with another command.
pub(crate) fn command(spec: &Spec, args: &[&str]) -> Process {
    let mut process = spec.process().clone().expect("a default spec has one");
    process.set_args(Some(args.iter().map(ToString::to_string).collect()));
    process
}

/// A container that runs until it is dropped.
fn sleeper(launcher: &Launcher, bundle: &Bundle) -> (Spec, Container) {
    let spec = bundle.spec(&["sleep", "600"]);
    let container = start(launcher, &spec, CreateOptions::default());
    (spec, container)
}

fn start(launcher: &Launcher, spec: &Spec, options: CreateOptions) -> Container {
    let container = launcher.create(spec, options).expect("create a container");
    container.start().expect("start a container");
    container
}

/// The same, in a group of the test's own.
fn grouped(place: &Place, launcher: &Launcher, bundle: &Bundle) -> (Spec, Container, Cgroup) {
    let mut spec = bundle.spec(&["sleep", "600"]);
    let path = format!("{}/exec", place.cgroup());
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(path.clone().into()));
    });
    let container = start(launcher, &spec, CreateOptions::default());
    let cgroup = Cgroup::open(&CgroupPath::new(&path).expect("a step of the test"))
        .expect("a step of the test");
    (spec, container, cgroup)
}

fn end(place: &Place, container: Container) {
    container.kill(Signal::KILL).expect("a step of the test");
    container
        .wait_timeout(LIMIT)
        .expect("a step of the test")
        .expect("a step of the test");
    host::remove_cgroups(place.cgroup());
}

/// The groups that a process is in, as the host has them.
fn groups(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives")
}

fn piped() -> ExecOptions {
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Piped];
    options
}

/// What `process` writes to its standard output and error, and its exit code.
pub(crate) fn output(
    launcher: &Launcher,
    container: &Container,
    process: &Process,
) -> (String, String, i32) {
    output_with(launcher, container, process, piped())
}

fn output_with(
    launcher: &Launcher,
    container: &Container,
    process: &Process,
    options: ExecOptions,
) -> (String, String, i32) {
    let mut process = launcher
        .exec(container, process, options)
        .expect("execute a process");
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = process.take_stdout().expect("it is piped");
    let mut stderr = process.take_stderr().expect("it is piped");
    stdout.read_to_string(&mut out).expect("read");
    stderr.read_to_string(&mut err).expect("read");
    let status = process.wait_timeout(LIMIT).expect("wait");
    (out, err, status.expect("it ends").code())
}

/// What a shell in the container says.
fn shell(launcher: &Launcher, spec: &Spec, container: &Container, script: &str) -> String {
    let (out, err, code) = output(launcher, container, &command(spec, &["sh", "-c", script]));
    assert_eq!((err.as_str(), code), ("", 0), "{script}: {out}");
    out.trim_end().to_owned()
}

#[test]
fn privileged_exec_is_inside_and_is_not_the_first_process() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let say = |script: &str| shell(&launcher, &spec, &container, script);
        assert_eq!(say("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 600");
        assert_ne!(say("echo $$"), "1");
        assert_eq!(say("echo $PPID"), "0");
        for kind in ["user", "cgroup", "ipc", "uts", "net", "pid", "mnt"] {
            let link = format!("/proc/{}/ns/{kind}", container.pid());
            let want = fs::read_link(link).unwrap();
            assert_eq!(
                say(&format!("readlink /proc/self/ns/{kind}")),
                want.to_str().unwrap()
            );
        }
        assert_eq!(
            say("ls /proc/self/fd").lines().count(),
            4,
            "0, 1, 2 and that of ls"
        );
        // A session and a process group of its own.
        let ids = say("echo $$; cut -d' ' -f 5,6 /proc/$$/stat");
        let (pid, groups) = ids.split_once('\n').unwrap();
        assert_eq!(groups, format!("{pid} {pid}"));
        assert!(container.try_wait().unwrap().is_none());
    });
}

#[test]
fn privileged_exec_passes_on_codes_signals_and_streams() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let script = "echo out; echo err >&2; exit 7";
        let (out, err, code) = output(
            &launcher,
            &container,
            &command(&spec, &["sh", "-c", script]),
        );
        assert_eq!((out.as_str(), err.as_str(), code), ("out\n", "err\n", 7));

        let process = command(&spec, &["sleep", "600"]);
        let process = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        assert!(process.try_wait().unwrap().is_none());
        process.kill(Signal::KILL).unwrap();
        let status = process.wait_timeout(LIMIT).unwrap().unwrap();
        assert_eq!((status.signal(), status.code()), (Some(9), 137));
        assert!(container.try_wait().unwrap().is_none());
    });
}

#[test]
fn privileged_exec_has_the_account_environment_and_directory_asked_for() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let mut process = command(&spec, &["sh", "-c", "id -u; id -g; id -G; pwd; umask; env"]);
        process.set_env(Some(vec![
            "PATH=/bin".into(),
            "GREETING=hello world".into(),
        ]));
        process.set_cwd("/tmp".into());
        let mut options = piped();
        options.user = Some("web".into());
        let (out, err, code) = output_with(&launcher, &container, &process, options);
        assert_eq!((err.as_str(), code), ("", 0));
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[..5], ["1000", "1000", "1000 2000", "/tmp", "0022"]);
        let mut environment = lines[5..].to_vec();
        environment.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("PWD="));
        environment.sort_unstable();
        assert_eq!(
            environment,
            ["GREETING=hello world", "HOME=/home/web", "PATH=/bin"]
        );

        let mut user = process.user().clone();
        user.set_uid(1234);
        user.set_gid(2345);
        user.set_additional_gids(Some(vec![7, 8]));
        user.set_umask(Some(0o077));
        process.set_user(user);
        let (out, ..) = output(&launcher, &container, &process);
        let lines: Vec<_> = out.lines().take(5).collect();
        assert_eq!(lines, ["1234", "2345", "2345 7 8", "/tmp", "0077"]);
    });
}

#[test]
fn privileged_exec_is_bound_as_the_first_process() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let fields = "^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Umask|Sig...):";
        for (uid, hardened) in [(0, false), (1000, false), (0, true), (1000, true)] {
            let mut spec = bundle.spec(&["sleep", "600"]);
            set_user(&mut spec, uid, uid);
            if hardened {
                defaults::hardened(&mut spec);
            }
            edit_process(&mut spec, |process| {
                let limit = PosixRlimitBuilder::default()
                    .typ(PosixRlimitType::RlimitNofile)
                    .soft(123_u64)
                    .hard(456_u64)
                    .build();
                process.set_rlimits(Some(vec![limit.unwrap()]));
            });
            let container = start(&launcher, &spec, CreateOptions::default());
            let say = |script: &str| shell(&launcher, &spec, &container, script);
            let seen = say(&format!("grep -E '{fields}' /proc/1/status"));
            assert_eq!(
                say(&format!("exec grep -E '{fields}' /proc/self/status")),
                seen
            );
            assert!(seen.contains("Seccomp:\t2") && seen.contains(&format!("Uid:\t{uid}\t")));
            assert_eq!(say("cat /proc/self/limits"), say("cat /proc/1/limits"));
            assert_eq!(say("ulimit -n; ulimit -Hn"), "123\n456");
            assert_eq!(
                say("unshare -U true 2>&1 || echo denied"),
                "unshare: unshare(0x10000000): Operation not permitted\ndenied"
            );
        }
    });
}

#[test]
fn privileged_exec_is_bound_by_the_records_of_a_container_that_was_opened() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let spec = bundle.spec(&["sleep", "600"]);
        let state = place.dir().join("state");
        fs::create_dir(&state).unwrap();
        let mut options = CreateOptions::default();
        options.state = Some(state.clone());
        let first = start(&launcher, &spec, options);
        let opened = Container::open(&state, None).unwrap();
        // By another launcher, too.
        for launcher in [&launcher, &Launcher::new()] {
            let script =
                "grep -E '^Seccomp|^CapEff' /proc/self/status /proc/1/status | cut -d: -f2-";
            let said = shell(launcher, &spec, &opened, script);
            let lines: Vec<_> = said.lines().collect();
            assert_eq!(lines[..3], lines[3..]);
            assert!(said.contains("Seccomp:\t2"), "{said}");
        }
        // Without the record nothing is executed, as nothing would bind it.
        fs::write(state.join("confinement"), "x").unwrap();
        let process = command(&spec, &["true"]);
        let error = launcher
            .exec(&opened, &process, ExecOptions::default())
            .unwrap_err();
        assert_eq!(error.code(), "RecordDamaged", "{error:?}");
        drop(first);
    });
}

#[test]
fn privileged_exec_is_in_the_group_of_the_container_or_below() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let (spec, container, cgroup) = grouped(place, &launcher, bundle);
        let process = command(&spec, &["sleep", "600"]);
        let run = |group: Option<&str>| {
            let mut options = ExecOptions::default();
            options.cgroup = group.map(str::to_owned);
            launcher.exec(&container, &process, options)
        };
        let beside = run(None).unwrap();
        assert_eq!(groups(beside.pid()), groups(container.pid()));
        assert!(cgroup.pids().unwrap().contains(&beside.pid()));

        let error = run(Some("part")).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "CgroupUnknown")
        );
        let pids = cgroup.directories()["pids"].to_owned();
        fs::create_dir(pids.join("part")).unwrap();
        let below = run(Some("/part")).unwrap();
        let there = fs::read_to_string(pids.join("part/cgroup.procs")).unwrap();
        assert_eq!(there.trim(), below.pid().to_string());
        for name in ["..", "part/../..", "", "/"] {
            assert_eq!(run(Some(name)).unwrap_err().code(), "InvalidName", "{name}");
        }
        end(place, container);
        for process in [beside, below] {
            assert_eq!(
                process.wait_timeout(LIMIT).unwrap().unwrap().signal(),
                Some(9)
            );
        }
    });
}

/// As systemd does in a container of its own.
#[test]
fn privileged_exec_goes_where_the_first_process_is_if_its_group_takes_none() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let (spec, container, cgroup) = grouped(place, &launcher, bundle);
        let unified = cgroup.directories().get("").map(|path| path.to_path_buf());
        let controllers = |dir: &PathBuf| fs::read_to_string(dir.join("cgroup.controllers"));
        let Some(unified) = unified.filter(|it| controllers(it).is_ok_and(|it| it.len() > 1))
        else {
            skip("no controller of version 2 is here");
            return end(place, container);
        };
        let inner = unified.join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("cgroup.procs"), container.pid().to_string()).unwrap();
        let names = controllers(&unified).unwrap();
        let first = names.split_whitespace().next().unwrap();
        fs::write(unified.join("cgroup.subtree_control"), format!("+{first}")).unwrap();
        let process = command(&spec, &["sleep", "600"]);
        let beside = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        assert_eq!(groups(beside.pid()), groups(container.pid()));
        end(place, container);
    });
}

#[test]
fn privileged_exec_in_a_paused_container_is_refused_unless_asked_for() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let (spec, container, cgroup) = grouped(place, &launcher, bundle);
        cgroup.freeze().unwrap();
        let process = command(&spec, &["true"]);
        let error = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "Paused")
        );
        std::thread::scope(|scope| {
            let executed = scope.spawn(|| {
                let mut options = ExecOptions::default();
                options.ignore_paused = true;
                launcher.exec(&container, &process, options)
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!executed.is_finished());
            cgroup.thaw().unwrap();
            let process = executed.join().unwrap().unwrap();
            assert!(process.wait_timeout(LIMIT).unwrap().unwrap().success());
        });
        end(place, container);
    });
}

#[test]
fn privileged_exec_in_a_container_that_ended_is_refused() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        container.kill(Signal::KILL).unwrap();
        container.wait().unwrap();
        let process = command(&spec, &["true"]);
        let error = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "NotRunning")
        );
    });
}

#[test]
fn privileged_exec_that_races_with_the_end_is_executed_or_refused() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let spec = bundle.spec(&["sleep", "600"]);
        let process = command(&spec, &["true"]);
        let mut refused = 0;
        for turn in 0..60 {
            let container = start(&launcher, &spec, CreateOptions::default());
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_micros(turn * 50));
                    container.kill(Signal::KILL).unwrap();
                });
                match launcher.exec(&container, &process, ExecOptions::default()) {
                    Ok(process) => {
                        process.wait_timeout(LIMIT).unwrap().unwrap();
                    }
                    Err(error) => {
                        assert_eq!(error.code(), "NotRunning", "{error:?}");
                        refused += 1;
                    }
                }
            });
            assert_eq!(container.wait().unwrap().signal(), Some(9));
        }
        assert!(refused > 0);
    });
}

#[test]
fn privileged_exec_errors_are_in_words_and_leave_nothing() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        fs::write(bundle.root().join("bin/plain"), "text").unwrap();
        let fails = |edit: &dyn Fn(&mut Process, &mut ExecOptions)| {
            let (mut process, mut options) = (command(&spec, &["true"]), ExecOptions::default());
            edit(&mut process, &mut options);
            let error = launcher.exec(&container, &process, options).unwrap_err();
            (error.kind(), error.code(), error.report())
        };
        let args = |args: &str| Some(vec![args.to_owned()]);
        let error = fails(&|process, _| _ = process.set_args(args("nosuch")));
        assert_eq!((error.0, error.1), (ErrorKind::NotFound, "CommandNotFound"));
        let error = fails(&|process, _| _ = process.set_args(args("plain")));
        assert_eq!(
            (error.0, error.1),
            (ErrorKind::PermissionDenied, "CommandNotExecutable")
        );
        let error = fails(&|process, _| _ = process.set_args(None));
        assert_eq!(error.1, "NoCommand");
        let error = fails(&|_, options| options.user = Some("nobody-here".into()));
        assert_eq!((error.0, error.1), (ErrorKind::NotFound, "UserNotFound"));
        // Other than that of a container, its directory is not made.
        let error = fails(&|process, _| _ = process.set_cwd("/no/such".into()));
        assert_eq!(error.0, ErrorKind::NotFound);
        assert!(
            error
                .2
                .starts_with("change to directory \"/no/such\": chdir:"),
            "{}",
            error.2
        );
        assert!(!bundle.root().join("no").exists());
        assert!(container.try_wait().unwrap().is_none());
    });
}

#[test]
fn privileged_exec_ends_with_its_handle_unless_it_is_detached() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let process = command(&spec, &["sh", "-c", "sleep 600"]);
        let attached = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        let pid = attached.pid();
        drop(attached);
        let proc = PathBuf::from(format!("/proc/{pid}"));
        wait_until("the end of an attached process", || !proc.exists());

        let record = place.dir().join("exec.json");
        let script = "while [ ! -e /stop ]; do sleep 0.01; done; exit 9";
        let mut options = ExecOptions::default();
        options.supervision = Supervision::Detached;
        options.exit_record = Some(record.clone());
        let process = command(&spec, &["sh", "-c", script]);
        let detached = launcher.exec(&container, &process, options).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", detached.pid()));
        drop(detached);
        drop(launcher);
        assert!(proc.exists());
        assert_eq!(ExitStatus::read(&record).unwrap(), None);
        fs::write(bundle.root().join("stop"), "").unwrap();
        wait_until("the record", || record.exists());
        assert_eq!(ExitStatus::read(&record).unwrap().unwrap().code(), 9);
    });
}

#[test]
fn privileged_exec_returns_while_a_child_of_it_holds_its_output() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let script = "sleep 600 & echo started";
        let mut process = launcher
            .exec(&container, &command(&spec, &["sh", "-c", script]), piped())
            .unwrap();
        let status = process.wait_timeout(LIMIT).unwrap().unwrap();
        assert!(status.success());
        let mut stdout = process.take_stdout().unwrap();
        assert_eq!(read_until(&mut stdout, "started\n"), "started\n");
        let mut wait = [PollFd::new(&stdout, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut wait, Some(&now)).unwrap(), 0, "it is held open");
    });
}

#[test]
fn privileged_descriptors_are_passed_under_the_numbers_asked_for() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let files: Vec<PathBuf> = (0..3)
            .map(|n| place.dir().join(format!("file{n}")))
            .collect();
        let numbers = [5, 3, 40];
        let descriptors = || -> Vec<(OwnedFd, u32)> {
            let open = |(path, number): (&PathBuf, &u32)| {
                fs::write(path, format!("as {number}")).unwrap();
                (fs::File::open(path).unwrap().into(), *number)
            };
            files.iter().zip(&numbers).map(open).collect()
        };
        let script = "cat <&5; cat <&3; cat /proc/self/fd/40; ls /proc/self/fd | tr '\\n' ' '";
        let want = "as 5as 3as 40";
        let spec = bundle.shell(script);
        let mut options = crate::support::bundle::piped();
        options.descriptors = descriptors();
        let mut container = launcher.create(&spec, options).unwrap();
        container.start().unwrap();
        let seen = finish(&mut container).stdout;
        assert_eq!(seen, format!("{want}0 1 2 3 4 40 5 "), "4 is that of ls");

        let (_, container) = sleeper(&launcher, bundle);
        let mut options = piped();
        options.descriptors = descriptors();
        let process = command(&spec, &["sh", "-c", script]);
        let (out, ..) = output_with(&launcher, &container, &process, options);
        assert_eq!(out, format!("{want}0 1 2 3 4 40 5 "));
        for numbers in [vec![2], vec![3, 3], vec![100_000]] {
            let mut options = piped();
            let null = || fs::File::open("/dev/null").unwrap().into();
            options.descriptors = numbers.iter().map(|number| (null(), *number)).collect();
            let error = launcher.exec(&container, &process, options).unwrap_err();
            assert_eq!(error.code(), "InvalidDescriptor");
        }
    });
}
