//! From the creation of a container to its exit status, and what can go wrong between.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_core::oci_spec::runtime::{
    LinuxMemory, LinuxNamespaceType, LinuxPids, LinuxResources,
};
use container_core::{
    Container, CreateOptions, ErrorKind, ExitStatus, Launcher, Signal, Stdio, Supervision,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, kill_process, test_kill_process};

use crate::support::bundle::{
    Bundle, LIMIT, add_bind, edit_linux, edit_process, finish, piped, read_until, run,
    set_namespace, stdout_of, try_run, with_bundle,
};
use crate::support::isolate::Place;
use crate::support::role::{self, wait_until};

/// Directories and the name of the test, for a role in another process.
const DIRECTORY: &str = "CONTAINER_CORE_TEST_DIRECTORY";

/// The parent of a process.
fn parent_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    let (_, rest) = stat.rsplit_once(") ").expect("the format of stat");
    let parent = rest.split(' ').nth(1).expect("the parent");
    parent.parse().expect("a number")
}

/// The processes of this name.
fn processes(name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter(|pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
    .collect()
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    kill_process(Pid::from_raw(pid).expect("not 0"), signal).expect("send a signal");
}

fn is_alive(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).expect("not 0")).is_ok()
        && fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn is_readable(file: &impl AsFd) -> bool {
    let mut wait = [PollFd::new(file, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut wait, Some(&now)).expect("poll") == 1
}

/// Options for a container that other processes can find.
fn recorded(place: &Place) -> (CreateOptions, PathBuf, PathBuf) {
    let state = place.dir().join("state");
    fs::create_dir_all(&state).expect("make the state directory");
    let record = place.dir().join("exit.json");
    let mut options = piped();
    options.state = Some(state.clone());
    options.exit_record = Some(record.clone());
    (options, state, record)
}

#[test]
fn privileged_streams_are_apart_and_complete() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let output = run(
            &launcher,
            &bundle.shell("echo out; echo err >&2; echo more"),
        );
        assert!(output.status.success());
        assert_eq!(output.stdout, "out\nmore\n");
        assert_eq!(output.stderr, "err\n");

        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut container = launcher.create(&bundle.spec(&["cat"]), options).unwrap();
        container.start().unwrap();
        let mut input = container.take_stdin().unwrap();
        assert!(container.take_stdin().is_none());
        let writer = std::thread::spawn(move || input.write_all(&vec![b'x'; 1 << 20]).unwrap());
        let output = finish(&mut container);
        writer.join().unwrap();
        assert_eq!(output.stdout.len(), 1 << 20);
    });
}

#[test]
fn privileged_streams_may_be_files_and_default_to_nothing() {
    with_bundle!(|place, bundle| {
        let path = place.dir().join("out");
        let mut options = CreateOptions::default();
        options.stdio[1] = Stdio::Fd(fs::File::create(&path).unwrap().into());
        let spec = bundle.shell("cat; echo to a file; echo nowhere >&2");
        let output = try_run(&Launcher::new(), &spec, options).unwrap();
        assert!(output.status.success());
        assert_eq!(fs::read_to_string(path).unwrap(), "to a file\n");
    });
}

#[test]
fn privileged_exit_codes_are_passed_on() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for code in [0, 1, 42, 255] {
            let status = run(&launcher, &bundle.shell(&format!("exit {code}"))).status;
            assert_eq!((status.code(), status.signal()), (code, None));
            assert_eq!(status.success(), code == 0);
            assert_eq!(status.to_string(), format!("exit code {code}"));
        }
    });
}

#[test]
fn privileged_signals_reach_the_first_process() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for name in ["HUP", "TERM", "USR1", "RTMIN", "RTMIN+3", "RTMAX"] {
            let number = name.parse::<Signal>().unwrap().number();
            let script = format!(
                "trap 'echo got {number}; exit 7' {number}; echo ready; while :; do sleep 0.01; done"
            );
            let mut container = launcher.create(&bundle.shell(&script), piped()).unwrap();
            container.start().unwrap();
            let mut stdout = container.take_stdout().unwrap();
            read_until(&mut stdout, "ready\n");
            container.kill(name.parse().unwrap()).unwrap();
            let status = container.wait().unwrap();
            assert_eq!(status.code(), 7, "{name}");
            assert_eq!(read_until(&mut stdout, "\n"), format!("got {number}\n"));
        }
    });
}

#[test]
fn privileged_killed_container_tells_the_signal() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let container = launcher
            .create(&bundle.spec(&["sleep", "600"]), CreateOptions::default())
            .unwrap();
        container.start().unwrap();
        container.kill(Signal::KILL).unwrap();
        let status = container.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (137, Some(9)));
        assert_eq!(status.to_string(), "SIGKILL");
        assert!(!status.oom_killed());
        // Again, and to nobody: fine.
        container.kill(Signal::KILL).unwrap();
        assert_eq!(container.wait().unwrap(), status);
    });
}

#[test]
fn privileged_created_container_waits_for_its_start() {
    with_bundle!(|_, bundle| {
        let marker = bundle.root().join("started");
        let launcher = Launcher::new();
        let container = launcher
            .create(
                &bundle.spec(&["touch", "/started"]),
                CreateOptions::default(),
            )
            .unwrap();
        container.wait_created().unwrap();
        assert!(container.network_namespace().is_some());
        let early = container.wait_timeout(Duration::from_millis(50)).unwrap();
        assert_eq!(early, None);
        assert!(!marker.exists());
        container.start().unwrap();
        assert!(container.wait().unwrap().success());
        assert!(marker.exists());
    });
}

#[test]
fn privileged_second_start_is_refused() {
    with_bundle!(|place, bundle| {
        for state in [None, Some(place.dir().join("state"))] {
            if let Some(state) = &state {
                fs::create_dir(state).unwrap();
            }
            let mut options = CreateOptions::default();
            options.state.clone_from(&state);
            let container = Launcher::new()
                .create(&bundle.spec(&["sleep", "600"]), options)
                .unwrap();
            container.start().unwrap();
            let error = container.start().unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::InvalidState, "AlreadyStarted")
            );
            if let Some(state) = &state {
                let other = Container::open(state, None).unwrap();
                assert_eq!(other.start().unwrap_err().code(), "AlreadyStarted");
            }
            container.kill(Signal::KILL).unwrap();
            container.wait().unwrap();
        }
    });
}

#[test]
fn privileged_start_at_once_needs_no_start() {
    with_bundle!(|_, bundle| {
        let mut options = piped();
        options.start_at_once = true;
        let mut container = Launcher::new()
            .create(&bundle.shell("echo runs"), options)
            .unwrap();
        container.wait_running().unwrap();
        assert_eq!(finish(&mut container).stdout, "runs\n");
    });
}

#[test]
fn privileged_waits_with_a_limit_and_by_polling() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let mut options = CreateOptions::default();
        options.stdio[0] = Stdio::Piped;
        let mut container = launcher.create(&bundle.spec(&["cat"]), options).unwrap();
        container.start().unwrap();
        assert_eq!(container.try_wait().unwrap(), None);
        assert_eq!(
            container.wait_timeout(Duration::from_millis(20)).unwrap(),
            None
        );
        assert!(!is_readable(&container));
        drop(container.take_stdin());
        wait_until("the end of the container", || is_readable(&container));
        wait_until("the status", || container.try_wait().unwrap().is_some());
        assert!(is_readable(&container), "it stays so");
        assert!(container.wait().unwrap().success());
    });
}

#[test]
fn privileged_all_waiting_threads_get_the_same_status() {
    with_bundle!(|_, bundle| {
        let mut options = CreateOptions::default();
        options.stdio[0] = Stdio::Piped;
        let mut container = Launcher::new()
            .create(&bundle.shell("cat; exit 9"), options)
            .unwrap();
        container.start().unwrap();
        let input = container.take_stdin();
        let container = &container;
        let statuses: Vec<ExitStatus> = std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || container.wait().unwrap()))
                .collect();
            drop(input);
            waiters.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert_eq!(statuses[0].code(), 9);
        assert!(statuses.iter().all(|status| *status == statuses[0]));
    });
}

#[test]
fn privileged_container_is_opened_started_and_waited_for_through_its_records() {
    with_bundle!(|place, bundle| {
        let (options, state, record) = recorded(place);
        let mut container = Launcher::new()
            .create(
                &bundle.shell("cat /proc/sys/kernel/hostname >/dev/null; exit 5"),
                options,
            )
            .unwrap();
        container.wait_created().unwrap();
        assert_eq!(ExitStatus::read(&record).unwrap(), None);

        let other = Container::open(&state, Some(&record)).unwrap();
        assert_eq!(other.pid(), container.pid());
        assert_eq!(other.try_wait().unwrap(), None);
        other.start().unwrap();
        let seen = other.wait().unwrap();
        let own = finish(&mut container).status;
        assert_eq!(seen.code(), 5);
        assert_eq!(seen, own);
        assert_eq!(ExitStatus::read(&record).unwrap(), Some(own));

        let error = Container::open(&state, Some(&record)).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "NotRunning")
        );
        let left: Vec<_> = fs::read_dir(&state).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn privileged_failed_creation_leaves_the_state_directory_usable() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["true"]);
        set_namespace(&mut spec, LinuxNamespaceType::Ipc, Some("/nonexistent"));
        let (options, state, _) = recorded(place);
        let error = launcher.create(&spec, options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.report().contains("/nonexistent"), "{error:?}");
        let left: Vec<_> = fs::read_dir(&state).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        let (options, ..) = recorded(place);
        try_run(&launcher, &bundle.spec(&["true"]), options).unwrap();
    });
}

#[test]
fn privileged_command_errors_are_in_words() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        fs::write(bundle.root().join("plain"), "text").unwrap();
        fs::write(bundle.root().join("script"), "#!/no/such/interpreter\n").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bundle.root().join("script"), executable).unwrap();
        for (command, kind, code) in [
            ("nosuchcommand", ErrorKind::NotFound, "CommandNotFound"),
            ("/no/such/command", ErrorKind::NotFound, "CommandNotFound"),
            ("/script", ErrorKind::NotFound, "CommandNotFound"),
            (
                "/plain",
                ErrorKind::PermissionDenied,
                "CommandNotExecutable",
            ),
            ("/etc", ErrorKind::PermissionDenied, "CommandNotExecutable"),
        ] {
            let container = launcher
                .create(
                    &bundle.spec(&[command, "argument"]),
                    CreateOptions::default(),
                )
                .unwrap();
            let error = container.start().unwrap_err();
            assert_eq!((error.kind(), error.code()), (kind, code), "{command}");
            let report = error.report();
            assert!(
                report.contains(command) && report.contains("execve"),
                "{report}"
            );
            // The failure stays what a wait tells.
            assert_eq!(container.wait().unwrap_err().code(), code);
        }
    });
}

#[test]
fn privileged_failing_mount_names_the_mount_and_the_call() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["true"]);
        add_bind(&mut spec, Path::new("/no/such/source"), "/data", &[]);
        let container = launcher.create(&spec, CreateOptions::default()).unwrap();
        let error = container.wait_created().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let report = error.report();
        for part in [
            "mount",
            "/no/such/source",
            "/data",
            "open_tree",
            "No such file",
        ] {
            assert!(report.contains(part), "{report}");
        }
    });
}

#[test]
fn privileged_missing_root_is_named() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.spec(&["true"]);
        let mut root = spec.root().clone().unwrap();
        root.set_path("/no/such/root".into());
        spec.set_root(Some(root));
        let result = Launcher::new()
            .create(&spec, CreateOptions::default())
            .and_then(|container| container.start());
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.report().contains("/no/such/root"), "{error:?}");
    });
}

#[test]
fn privileged_working_directory_is_made_if_missing() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for (cwd, seen) in [
            ("/", "/"),
            ("/tmp", "/tmp"),
            ("/new/and/deep", "/new/and/deep"),
            ("/with/../dots/./x//", "/dots/x"),
            ("/../../above", "/above"),
        ] {
            let mut spec = bundle.spec(&["pwd"]);
            edit_process(&mut spec, |process| {
                process.set_cwd(cwd.into());
            });
            assert_eq!(stdout_of(&launcher, &spec), seen, "{cwd}");
        }
    });
}

#[test]
fn privileged_container_killed_before_its_start_has_ended() {
    with_bundle!(|_, bundle| {
        let container = Launcher::new()
            .create(&bundle.spec(&["true"]), CreateOptions::default())
            .unwrap();
        container.wait_created().unwrap();
        container.kill(Signal::KILL).unwrap();
        assert_eq!(container.wait().unwrap().signal(), Some(9));
        assert_eq!(
            container.start().unwrap_err().kind(),
            ErrorKind::InvalidState
        );
        assert_eq!(
            container.wait_running().unwrap_err().kind(),
            ErrorKind::InvalidState
        );
    });
}

#[test]
fn privileged_dropped_handle_kills_an_attached_container() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let spec = bundle.spec(&["sleep", "600"]);
        let container = launcher.create(&spec, CreateOptions::default()).unwrap();
        container.start().unwrap();
        let pid = container.pid();
        assert!(is_alive(pid));
        drop(container);
        wait_until("the end of the container", || !is_alive(pid));
    });
}

#[test]
fn privileged_detached_container_outlives_handle_and_launcher() {
    with_bundle!(|place, bundle| {
        let (mut options, state, record) = recorded(place);
        options.supervision = Supervision::Detached;
        options.stdio = [Stdio::Null, Stdio::Null, Stdio::Null];
        let launcher = Launcher::new();
        let spec = bundle.shell("while [ ! -e /stop ]; do sleep 0.01; done; exit 3");
        let container = launcher.create(&spec, options).unwrap();
        container.start().unwrap();
        drop(container);
        drop(launcher);
        assert_eq!(processes("ctr-launcher"), [0; 0]);
        let again = Container::open(&state, Some(&record)).unwrap();
        fs::write(bundle.root().join("stop"), "").unwrap();
        let status = again.wait_timeout(LIMIT).unwrap().unwrap();
        assert_eq!(status.code(), 3);
    });
}

/// An embedder that starts one attached and one detached container and then waits to be killed.
#[test]
fn role_embedder_with_two_containers() {
    const NAME: &str = "start::role_embedder_with_two_containers";
    if !role::plays(NAME) {
        return;
    }
    let dir = PathBuf::from(std::env::var(DIRECTORY).expect("given"));
    let bundle = Bundle::existing(&dir.join("root"));
    let launcher = Launcher::new();
    let mut kept = Vec::new();
    for attached in [true, false] {
        let state = dir.join(if attached { "attached" } else { "detached" });
        fs::create_dir(&state).unwrap();
        let mut options = CreateOptions::default();
        options.supervision = match attached {
            true => Supervision::Attached,
            false => Supervision::Detached,
        };
        options.state = Some(state);
        let container = launcher
            .create(&bundle.spec(&["sleep", "600"]), options)
            .unwrap();
        container.start().unwrap();
        role::say(container.pid());
        kept.push(container);
    }
    std::thread::sleep(LIMIT);
}

#[test]
fn privileged_killed_embedder_takes_its_attached_containers_along() {
    with_bundle!(|place, _| {
        let mut embedder = role::command("start::role_embedder_with_two_containers")
            .env(DIRECTORY, place.dir())
            .spawn()
            .unwrap();
        let [attached, detached]: [i32; 2] =
            [(); 2].map(|()| role::hear(&mut embedder).parse().unwrap());
        assert!(is_alive(attached) && is_alive(detached));
        embedder.kill().unwrap();
        embedder.wait().unwrap();
        wait_until("the end of the attached container", || !is_alive(attached));
        assert!(is_alive(detached));
        assert!(Container::open(&place.dir().join("attached"), None).is_err());
        let container = Container::open(&place.dir().join("detached"), None).unwrap();
        container.kill(Signal::KILL).unwrap();
        wait_until("the end of the detached container", || {
            container.wait_timeout(Duration::ZERO).is_err()
        });
    });
}

#[test]
fn privileged_killed_launcher_is_replaced_and_containers_live_on() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut first = launcher
            .create(&bundle.shell("cat; exit 4"), options)
            .unwrap();
        first.start().unwrap();
        let [old] = processes("ctr-launcher")[..] else {
            panic!("there is one launcher");
        };
        signal(old, rustix::process::Signal::KILL);
        assert_eq!(
            stdout_of(&launcher, &bundle.spec(&["echo", "second"])),
            "second"
        );
        let [new] = processes("ctr-launcher")[..] else {
            panic!("there is one launcher again");
        };
        assert_ne!(old, new);
        drop(first.take_stdin());
        assert_eq!(finish(&mut first).status.code(), 4);
    });
}

#[test]
fn privileged_killed_monitor_takes_the_container_along() {
    with_bundle!(|place, bundle| {
        let (options, state, record) = recorded(place);
        let container = Launcher::new()
            .create(&bundle.spec(&["sleep", "600"]), options)
            .unwrap();
        container.start().unwrap();
        let other = Container::open(&state, Some(&record)).unwrap();
        signal(parent_of(container.pid()), rustix::process::Signal::KILL);
        wait_until("the end of the container", || !is_alive(container.pid()));
        for handle in [&container, &other] {
            let error = handle.wait().unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::InvalidState, "MonitorLost")
            );
        }
        assert_eq!(
            Container::open(&state, None).unwrap_err().code(),
            "NotRunning"
        );
    });
}

#[test]
fn privileged_monitor_killed_during_the_set_up_takes_the_container_along() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let mut spec = bundle.spec(&["sleep", "600"]);
        // Enough work that the monitor dies in the middle of it.
        for number in 0..3000 {
            add_bind(
                &mut spec,
                Path::new("/dev/null"),
                &format!("/tmp/{number}"),
                &["ro"],
            );
        }
        let mut options = CreateOptions::default();
        options.start_at_once = true;
        let container = launcher.create(&spec, options).unwrap();
        signal(parent_of(container.pid()), rustix::process::Signal::KILL);
        assert_eq!(container.wait().unwrap_err().code(), "MonitorLost");
        wait_until("the end of the process", || !is_alive(container.pid()));
    });
}

#[test]
fn privileged_too_little_memory_is_reported() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let limited = |bytes: i64, name: &str, args: &[&str]| {
            let mut spec = bundle.spec(args);
            edit_linux(&mut spec, |linux| {
                linux.set_cgroups_path(Some(format!("{}/{name}", place.cgroup()).into()));
                let mut memory = LinuxMemory::default();
                memory.set_limit(Some(bytes));
                let mut resources = linux.resources().clone().unwrap_or_default();
                resources.set_memory(Some(memory));
                linux.set_resources(Some(resources));
            });
            spec
        };
        let spec = limited(
            16 << 20,
            "hungry",
            &["sh", "-c", "x=$(yes | head -c 64000000); echo no"],
        );
        let output = run(&launcher, &spec);
        assert!(output.status.oom_killed(), "{output:?}");
        assert!(!output.status.success());

        // So little that the set-up itself does not fit.
        let spec = limited(4096, "starved", &["true"]);
        let outcome = try_run(&launcher, &spec, piped());
        match outcome {
            Ok(output) => assert!(output.status.oom_killed(), "{output:?}"),
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::InvalidState | ErrorKind::Os(_)),
                "{error:?}"
            ),
        }
        remove_parent(place);
    });
}

#[test]
fn privileged_cgroup_is_there_while_the_container_runs() {
    with_bundle!(|place, bundle| {
        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut spec = bundle.shell("cat /proc/self/cgroup; echo ready; cat");
        let path = format!("{}/here", place.cgroup());
        edit_linux(&mut spec, |linux| {
            linux.set_cgroups_path(Some(path.clone().into()));
            let mut pids = LinuxPids::default();
            pids.set_limit(17);
            let mut resources = LinuxResources::default();
            resources.set_pids(Some(pids));
            linux.set_resources(Some(resources));
        });
        let mut container = Launcher::new().create(&spec, options).unwrap();
        container.start().unwrap();
        let mut stdout = container.take_stdout().unwrap();
        let inside = read_until(&mut stdout, "ready\n");
        assert!(
            !inside.contains(place.cgroup()),
            "the namespace hides it: {inside}"
        );
        let outside = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        assert!(outside.contains(&path), "{outside}");
        let error = Launcher::new().create(&spec, piped()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
        drop(container.take_stdin());
        assert!(finish(&mut container).status.success());
        let groups = crate::support::host::cgroups("here");
        assert_eq!(groups, [""; 0].map(PathBuf::from));
        drop(stdout);
        remove_parent(place);
    });
}

/// The group that all groups of a test are below stays: it may be a shared one.
fn remove_parent(place: &Place) {
    crate::support::host::remove_cgroups(place.cgroup());
}

#[test]
fn privileged_containers_are_independent_of_each_other() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let launcher = launcher.clone();
                scope.spawn(move || {
                    for _ in 0..5 {
                        let output = run(
                            &launcher,
                            &bundle.shell(&format!("echo {number}; exit {number}")),
                        );
                        assert_eq!(output.stdout, format!("{number}\n"));
                        assert_eq!(output.status.code(), number);
                    }
                });
            }
        });
    });
}

#[test]
fn privileged_first_process_has_a_clean_start() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.shell("ls /proc/self/fd; cat; umask; pwd; echo $$; env");
        edit_process(&mut spec, |process| {
            process.set_env(Some(vec!["PATH=/bin".into(), "A=b".into()]));
        });
        let output = run(&Launcher::new(), &spec);
        let lines: Vec<_> = output.stdout.lines().collect();
        // 3 is the directory that ls reads.
        assert_eq!(&lines[..7], ["0", "1", "2", "3", "0022", "/", "1"]);
        let mut environment: Vec<_> = lines[7..].to_vec();
        environment.sort_unstable();
        // The shell sets these two itself.
        environment.retain(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="));
        assert_eq!(environment, ["A=b", "PATH=/bin"]);
    });
}

#[test]
fn privileged_unreadable_stdin_is_no_reason_to_fail() {
    with_bundle!(|place, bundle| {
        let path = place.dir().join("write-only");
        let file = fs::File::create(path).unwrap();
        let mut options = piped();
        options.stdio[0] = Stdio::Fd(file.into());
        let output = try_run(&Launcher::new(), &bundle.spec(&["echo", "fine"]), options).unwrap();
        assert_eq!(output.stdout, "fine\n");
        let mut rest = String::new();
        fs::File::open(place.dir().join("write-only"))
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        assert_eq!(rest, "");
    });
}
