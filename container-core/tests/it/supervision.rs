//! Who looks after a container: its creator, its monitor, or somebody else's subreaper; and what other
//! processes can do with it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use container_core::cgroup::{Cgroup, CgroupPath};
use container_core::oci_spec::runtime::LinuxResources;
use container_core::{
    Container, CreateOptions, ErrorKind, ExecOptions, Launcher, Signal, Supervision,
};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::bundle::{Bundle, LIMIT, edit_linux, set_user, with_bundle};
use crate::support::host;
use crate::support::isolate::Place;
use crate::support::role::{self, wait_until};

/// What a role is to execute.
const SCRIPT: &str = "CONTAINER_CORE_TEST_SCRIPT";

/// How it is to be supervised.
const DISOWNED: &str = "CONTAINER_CORE_TEST_DISOWNED";

/// How many KiB a monitor may have for itself.
const MONITOR: u32 = 150;

/// Where the test is.
const WORK: &str = "/srv/work";

/// Creates a container as `runc create` does: it says how that went, and ends.
#[test]
fn role_creator() {
    if !role::plays("supervision::role_creator") {
        return;
    }
    let bundle = Bundle::existing(&Path::new(WORK).join("root"));
    let script = std::env::var(SCRIPT).expect("given");
    let mut spec = match script.strip_prefix("program ") {
        Some(program) => bundle.spec(&[program]),
        None => bundle.shell(&script),
    };
    let group = fs::read_to_string(Path::new(WORK).join("group")).expect("given");
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(group.into()));
    });
    let state = Path::new(WORK).join("state");
    let _ = fs::create_dir(&state);
    let mut options = CreateOptions::default();
    options.state = Some(state);
    options.supervision = match std::env::var(DISOWNED).as_deref() {
        Ok("yes") => Supervision::Disowned,
        _ => Supervision::Detached,
    };
    let created = Launcher::new()
        .create(&spec, options)
        .and_then(|container| container.wait_created().map(|()| container.pid()));
    match created {
        Ok(pid) => role::say(pid),
        Err(error) => role::say(error.code()),
    }
}

/// Has a process that ends create a container; gives what it says, and the state directory.
fn create(place: &Place, script: &str, disowned: bool) -> (String, PathBuf) {
    fs::write(place.dir().join("group"), group(place)).expect("a step of the test");
    let mut creator = role::command("supervision::role_creator");
    creator.env(SCRIPT, script);
    creator.env(DISOWNED, if disowned { "yes" } else { "no" });
    let mut creator = creator.spawn().expect("a step of the test");
    let said = role::hear(&mut creator);
    assert!(creator.wait().expect("a step of the test").success());
    (said, place.dir().join("state"))
}

fn group(place: &Place) -> String {
    format!("{}/supervised", place.cgroup())
}

fn processes(name: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("a step of the test").flatten();
    let named = |path: PathBuf| fs::read_to_string(path).is_ok_and(|comm| comm.trim() == name);
    entries
        .filter(|entry| named(entry.path().join("comm")))
        .count()
}

fn status(pid: &str, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a step of the test");
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.expect("the field").trim().to_owned()
}

#[test]
fn privileged_disowned_container_belongs_to_the_subreaper() {
    with_bundle!(|place, _| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let (pid, state) = create(
            place,
            "while [ ! -e /stop ]; do sleep 0.01; done; exit 7",
            true,
        );
        let own = std::process::id().to_string();
        wait_until("the adoption", || status(&pid, "PPid:") == own);

        let container = Container::open(&state, None).unwrap();
        assert_eq!(container.pid().to_string(), pid);
        assert!(!container.is_started().unwrap());
        assert!(container.try_wait().unwrap().is_none());
        container.start().unwrap();
        assert!(container.is_started().unwrap());
        let error = container.start().unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "AlreadyStarted")
        );

        // Whoever comes later can execute there, and leave that to the subreaper as well.
        let launcher = Launcher::new();
        let bundle = Bundle::existing(&place.dir().join("root"));
        let process = bundle.shell("sleep 0.1; exit 8").process().clone().unwrap();
        let mut options = ExecOptions::default();
        options.supervision = Supervision::Disowned;
        let executed = launcher.exec(&container, &process, options).unwrap();
        let pid = executed.pid().to_string();
        wait_until("the adoption", || status(&pid, "PPid:") == own);
        assert_eq!(executed.wait().unwrap_err().code(), "Disowned");
        let cgroup = Cgroup::open(&CgroupPath::new(&group(place)).unwrap()).unwrap();
        assert!(cgroup.pids().unwrap().contains(&executed.pid()));
        drop(launcher);
        let ended = waitpid(Pid::from_raw(executed.pid()), None).unwrap();
        assert_eq!(ended, WaitStatus::Exited(Pid::from_raw(executed.pid()), 8));

        fs::write(bundle.root().join("stop"), "").unwrap();
        let ended = waitpid(Pid::from_raw(container.pid()), None).unwrap();
        assert_eq!(ended, WaitStatus::Exited(Pid::from_raw(container.pid()), 7));
        assert_eq!(container.wait().unwrap_err().code(), "Disowned");
        let error = Container::open(&state, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        // What is left is for whoever deletes it.
        cgroup.remove().unwrap();
        host::remove_cgroups(place.cgroup());
        // Whatever else lost its parent came here, too.
        while waitpid(None, None).is_ok() {}
    });
}

#[test]
fn privileged_disowned_container_without_a_program_is_not_created() {
    with_bundle!(|place, bundle| {
        fs::write(bundle.root().join("bin/plain"), "text").unwrap();
        fs::create_dir(bundle.root().join("bin/dir")).unwrap();
        fs::set_permissions(
            bundle.root().join("bin/dir"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        for (program, code) in [
            ("nosuch", "CommandNotFound"),
            ("/bin/nosuch", "CommandNotFound"),
            ("plain", "CommandNotExecutable"),
            ("/bin/dir", "CommandNotExecutable"),
        ] {
            let (said, state) = create(place, &format!("program {program}"), true);
            assert_eq!(said, code, "{program}");
            // The monitor takes note after it has told; nothing else is left.
            wait_until("the end of the monitor", || processes("ctr-monitor") == 0);
            let left: Vec<_> = fs::read_dir(&state)
                .unwrap()
                .flatten()
                .map(|it| it.file_name())
                .collect();
            assert!(left.iter().all(|name| name == "failure"), "{left:?}");
        }
        let state_less = {
            let mut options = CreateOptions::default();
            options.supervision = Supervision::Disowned;
            Launcher::new().create(&bundle.spec(&["true"]), options)
        };
        assert_eq!(state_less.unwrap_err().code(), "NoState");
        host::remove_cgroups(place.cgroup());
    });
}

#[test]
fn privileged_start_by_another_process_tells_what_fails() {
    with_bundle!(|place, _| {
        for (program, kind, code) in [
            ("nosuch", ErrorKind::NotFound, "CommandNotFound"),
            (
                "/etc/passwd",
                ErrorKind::PermissionDenied,
                "CommandNotExecutable",
            ),
        ] {
            let (_, state) = create(place, &format!("program {program}"), false);
            let container = Container::open(&state, None).unwrap();
            let error = container.start().unwrap_err();
            assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}");
            assert!(
                error
                    .report()
                    .starts_with(&format!("execute \"{program}\"")),
                "{error:?}"
            );
            assert_eq!(container.wait().unwrap_err().code(), code);
        }
        // What ran before does not count for what runs now.
        let (_, state) = create(place, "exit 0", false);
        let container = Container::open(&state, None).unwrap();
        container.start().unwrap();
        wait_until("the end", || container.try_wait().is_err());
        assert_eq!(container.wait().unwrap_err().code(), "MonitorLost");
        wait_until("the end of the monitor", || processes("ctr-monitor") == 0);
        host::remove_cgroups(place.cgroup());
    });
}

#[test]
fn privileged_of_many_who_start_a_container_one_does() {
    with_bundle!(|place, _| {
        for _ in 0..10 {
            let (_, state) = create(place, "sleep 600", false);
            let started = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..8)
                    .map(|_| scope.spawn(|| Container::open(&state, None).unwrap().start()))
                    .collect();
                let results = starts.into_iter().map(|start| start.join().unwrap());
                results
                    .filter(|result| match result {
                        Ok(()) => true,
                        Err(error) => {
                            assert_eq!(error.code(), "AlreadyStarted");
                            false
                        }
                    })
                    .count()
            });
            assert_eq!(started, 1);
            let container = Container::open(&state, None).unwrap();
            container.kill(Signal::KILL).unwrap();
            let _ = container.wait_timeout(LIMIT);
            wait_until("the end of the monitor", || processes("ctr-monitor") == 0);
        }
        host::remove_cgroups(place.cgroup());
    });
}

/// Creates a detached container in the group of a service, and stays until it is killed.
#[test]
fn role_service() {
    if !role::plays("supervision::role_service") {
        return;
    }
    let bundle = Bundle::existing(&Path::new(WORK).join("root"));
    let group = fs::read_to_string(Path::new(WORK).join("group")).expect("given");
    let service = Cgroup::open(&CgroupPath::new(&format!("{group}-service")).unwrap()).unwrap();
    service.add(std::process::id()).unwrap();
    let mut spec = bundle.shell("while [ ! -e /stop ]; do sleep 0.01; done; exit 4");
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(group.into()));
    });
    let state = Path::new(WORK).join("state");
    fs::create_dir(&state).unwrap();
    let mut options = CreateOptions::default();
    options.state = Some(state);
    options.exit_record = Some(Path::new(WORK).join("exit.json"));
    options.supervision = Supervision::Detached;
    let launcher = Launcher::new();
    let container = launcher.create(&spec, options).unwrap();
    container.start().unwrap();
    let mut options = ExecOptions::default();
    options.supervision = Supervision::Detached;
    options.exit_record = Some(Path::new(WORK).join("exec.json"));
    let process = spec.process().clone().unwrap();
    launcher.exec(&container, &process, options).unwrap();
    role::say(container.pid());
    std::thread::sleep(LIMIT);
}

/// As systemd does at the end of a service.
#[test]
fn privileged_detached_container_outlives_all_in_the_group_of_its_program() {
    with_bundle!(|place, bundle| {
        fs::write(place.dir().join("group"), group(place)).unwrap();
        let path = CgroupPath::new(&format!("{}-service", group(place))).unwrap();
        let service = Cgroup::create(&path, &LinuxResources::default()).unwrap();
        let mut program = role::command("supervision::role_service").spawn().unwrap();
        role::hear(&mut program);
        service.kill_all().unwrap();
        program.wait().unwrap();
        service.remove().unwrap();

        let record = place.dir().join("exit.json");
        let container = Container::open(&place.dir().join("state"), Some(&record)).unwrap();
        assert!(container.try_wait().unwrap().is_none());
        fs::write(bundle.root().join("stop"), "").unwrap();
        let status = container.wait_timeout(LIMIT).unwrap().unwrap();
        assert_eq!(status.code(), 4);
        let executed = place.dir().join("exec.json");
        wait_until("the record of the other", || executed.exists());
        // The groups of the monitors are gone with them.
        wait_until("the end of the monitors", || processes("ctr-monitor") == 0);
        let test = place.cgroup().rsplit('/').next().unwrap();
        let mut left = host::cgroups(test);
        left.retain(|group| !group.ends_with(test));
        assert!(left.is_empty(), "{left:?}");
        host::remove_cgroups(place.cgroup());
    });
}

/// A process that changed its user is not told by the kernel that its monitor died.
#[test]
fn privileged_killed_monitor_takes_a_container_along_that_changed_its_user() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        // A program that the kernel gives privileges to loses the signal of its parent's death.
        fs::create_dir(bundle.root().join("setuid")).unwrap();
        let setuid = bundle.root().join("setuid/busybox");
        fs::copy(bundle.root().join("bin/busybox"), &setuid).unwrap();
        fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
        let mut spec = bundle.spec(&["/setuid/busybox", "sleep", "600"]);
        set_user(&mut spec, 1000, 1000);
        let state = place.dir().join("state");
        fs::create_dir(&state).unwrap();
        for opened in [false, true] {
            let mut options = CreateOptions::default();
            options.state = Some(state.clone());
            options.supervision = Supervision::Detached;
            let container = launcher.create(&spec, options).unwrap();
            container.start().unwrap();
            let pid = container.pid().to_string();
            let monitor: i32 = status(&pid, "PPid:").parse().unwrap();
            kill(Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).unwrap();
            wait_until("the end of the monitor", || processes("ctr-monitor") == 0);
            assert!(Path::new("/proc").join(&pid).exists(), "it lives on");
            let error = match opened {
                true => Container::open(&state, None).unwrap_err(),
                false => container.wait().unwrap_err(),
            };
            assert_eq!(
                error.code(),
                if opened { "NotRunning" } else { "MonitorLost" }
            );
            wait_until("the end of the container", || {
                let status = fs::read_to_string(format!("/proc/{pid}/status"));
                !status.is_ok_and(|status| !status.contains("State:\tZ"))
            });
        }
    });
}

/// What a monitor has in memory for itself alone, beside what it shares with its launcher.
#[test]
fn privileged_monitors_are_small() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let spec = bundle.spec(&["sleep", "600"]);
        let start = || {
            let container = launcher.create(&spec, CreateOptions::default()).unwrap();
            container.start().unwrap();
            container
        };
        let containers: Vec<_> = (0..4).map(|_| start()).collect();
        for container in &containers {
            let monitor = status(&container.pid().to_string(), "PPid:");
            let memory = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).unwrap();
            let private = memory.lines().filter(|line| line.starts_with("Private_"));
            let size = |line: &str| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u32>()
                    .unwrap()
            };
            let kibibytes: u32 = private.map(size).sum();
            assert!(kibibytes < MONITOR, "{kibibytes} KiB:\n{memory}");
        }
    });
}
