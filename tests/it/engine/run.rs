//! Running containers.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use container_engine::{Container, ErrorKind, Signal, State, Stdio};
use nix::mount::{MsFlags, mount, umount};

use super::{again, ground, open, open_at, role, text};
use crate::support::isolate::isolated;

#[test]
fn privileged_output_status_and_exit_code() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = |script: &str| {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
                .cmd(["sh", "-c", script])
        };
        let output = run("echo out; echo err >&2; exit 3").output().expect("run");
        assert_eq!(
            (text(&output.stdout), text(&output.stderr)),
            ("out".into(), "err".into())
        );
        assert_eq!(output.status.code(), 3);
        assert!(run("true").status().expect("run").success());
        let killed = run("kill -9 $$").status().expect("run");
        // Process 1 ignores what it has no handler for, even from itself; its child does not.
        assert_eq!(killed.signal(), None);
    });
}

#[test]
fn privileged_the_container_is_isolated() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let script = "echo $$; hostname; id -u; ls /proc | grep -c '^[0-9]'; ip -o link | wc -l; \
                      grep -c . /proc/mounts; touch /x && echo writable; cat /proc/self/status | grep Seccomp:";
        let output = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .hostname("box")
            .cmd(["sh", "-c", script])
            .output()
            .expect("run");
        let stdout = text(&output.stdout);
        let lines: Vec<_> = stdout.lines().collect();
        assert_eq!(
            &lines[..3],
            ["1", "box", "0"],
            "{stdout}\n{}",
            text(&output.stderr)
        );
        assert_eq!(lines[4], "1", "only lo: {stdout}");
        assert!(lines.contains(&"writable"), "{stdout}");
        assert!(lines.contains(&"Seccomp:\t2"), "{stdout}");
        let host = rustix::system::uname().nodename().to_owned();
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
        };
        let container = run().stdout(Stdio::Piped).cmd(["hostname"]).spawn();
        let container = container.expect("spawn");
        let mut name = String::new();
        let mut stdout = container.take_stdout().expect("piped");
        stdout.read_to_string(&mut name).expect("read");
        assert_eq!(name.trim(), &container.id()[..12]);
        assert_eq!(rustix::system::uname().nodename(), host.as_c_str());
        // The next container of the same image does not see the file.
        let next = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .cmd(["test", "-e", "/x"])
            .status()
            .expect("run");
        assert_eq!(next.code(), 1);
    });
}

#[test]
fn privileged_streams_are_pipes() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let container = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .stdin(Stdio::Piped)
            .stdout(Stdio::Piped)
            .cmd(["tr", "a-z", "A-Z"])
            .spawn()
            .expect("spawn");
        let mut stdin = container.take_stdin().expect("piped");
        stdin.write_all(b"hello").expect("write");
        drop(stdin);
        let mut answer = String::new();
        container
            .take_stdout()
            .expect("piped")
            .read_to_string(&mut answer)
            .expect("read");
        assert_eq!(answer, "HELLO");
        assert!(container.wait().expect("wait").success());
    });
}

#[test]
fn privileged_a_container_that_stays() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let containers = ground.engine.containers();
        let container = containers
            .run(&ground.image)
            .network("none")
            .name("web")
            .cmd([
                "sh",
                "-c",
                "echo again >> /log; wc -l < /log; [ $(wc -l < /log) = 2 ] || sleep 1000",
            ])
            .create()
            .expect("create");
        assert_eq!(container.state().expect("state"), State::Created);
        container.start().expect("start");
        // Another engine on the same directories sees it, waits for it and kills it.
        let other = open(place).containers().get("web").expect("get");
        assert_eq!(other.state().expect("state"), State::Running);
        assert_eq!(
            other.wait_timeout(Duration::from_millis(50)).expect("wait"),
            None
        );
        assert_eq!(
            other.remove().expect_err("it runs").code(),
            "ContainerRunning"
        );
        assert_eq!(other.start().expect_err("it runs").code(), "AlreadyRunning");
        other.kill(Signal::KILL).expect("kill");
        let status = other.wait().expect("wait");
        assert_eq!((status.code(), status.signal()), (137, Some(9)));
        assert_eq!(container.wait().expect("wait"), status);
        assert_eq!(
            container.state().expect("state"),
            State::Exited(Some(status))
        );
        // Its file system is as it was left.
        container.start().expect("start again");
        assert!(container.wait().expect("wait").success());
        assert_eq!(containers.list().expect("list").len(), 1);
        let taken = containers
            .run(&ground.image)
            .name("web")
            .create()
            .expect_err("the name");
        assert_eq!(
            (taken.kind(), taken.code()),
            (ErrorKind::AlreadyExists, "NameTaken")
        );
        container.remove().expect("remove");
        container.remove().expect("remove once more");
        assert_eq!(
            containers.get("web").expect_err("gone").kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn privileged_streams_are_files_too() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let path = |name: &str| place.dir().join(name);
        fs::write(path("in"), b"from \xff a file").expect("write");
        let file = |name: &str| Stdio::Fd(File::create(path(name)).expect("create").into());
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none");
        let status = run
            .stdin(Stdio::Fd(File::open(path("in")).expect("open").into()))
            .stdout(file("out"))
            .stderr(file("err"))
            .cmd(["sh", "-c", "cat; echo apart >&2"])
            .spawn()
            .expect("spawn")
            .wait()
            .expect("wait");
        assert!(status.success());
        assert_eq!(fs::read(path("out")).expect("read"), b"from \xff a file");
        assert_eq!(fs::read(path("err")).expect("read"), b"apart\n");
    });
}

/// Not a test by itself: lets a container use the streams of this program.
#[test]
fn program_with_streams() {
    let Some(role) = role() else { return };
    let [dir, cgroup, name] = &role[..] else {
        panic!("want three parts, got {role:?}")
    };
    let engine = open_at(Path::new(dir), cgroup);
    let image = engine.images().get(name).expect("the image");
    let run = engine.containers().run(&image).network("none");
    let run = run
        .stdin(Stdio::Inherit)
        .stdout(Stdio::Inherit)
        .stderr(Stdio::Inherit);
    let container = run
        .cmd(["sh", "-c", "cat; echo to stderr >&2"])
        .spawn()
        .expect("spawn");
    assert!(container.wait().expect("wait").success());
}

#[test]
fn privileged_streams_can_be_those_of_the_program() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let dir = place.dir().to_string_lossy();
        let role = [&*dir, place.cgroup(), &ground.name];
        let mut program = again("engine::run::program_with_streams", &role)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("execute this program again");
        let mut stdin = program.stdin.take().expect("piped");
        stdin.write_all(b"through the program\n").expect("write");
        drop(stdin);
        let output = program.wait_with_output().expect("wait");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("through the program"));
        assert!(text(&output.stderr).contains("to stderr"));
    });
}

#[test]
fn privileged_mounts_of_the_host_stay_outside() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let shared = place.dir().join("shared");
        fs::create_dir_all(shared.join("later")).expect("make a directory");
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none");
        let script = "cat /proc/self/mountinfo; read line; ls /shared/later; echo end";
        let container = run
            .bind(&shared, "/shared")
            .stdin(Stdio::Piped)
            .stdout(Stdio::Piped)
            .cmd(["sh", "-c", script])
            .spawn()
            .expect("spawn");
        let mut lines = BufReader::new(container.take_stdout().expect("piped")).lines();
        // The last of the container's own mounts is what it asked for.
        let mut mounts = Vec::new();
        while mounts
            .last()
            .is_none_or(|mount: &String| !mount.contains(" /shared "))
        {
            mounts.push(lines.next().expect("a line").expect("text"));
        }
        let points = mounts.iter().filter_map(|mount| mount.split(' ').nth(4));
        let own = ["/", "/dev", "/etc/", "/proc", "/shared", "/sys"];
        for point in points {
            let known = own
                .iter()
                .any(|own| point == *own || *own != "/" && point.starts_with(own));
            assert!(known, "{point} in {mounts:#?}");
        }
        assert!(
            mounts.iter().all(|mount| !mount.contains("shared:")),
            "{mounts:#?}"
        );
        // A mount made now does not get in, though its place is shared.
        let later = shared.join("later");
        mount(
            Some("tmpfs"),
            &later,
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount");
        fs::write(later.join("file"), "").expect("write");
        container
            .take_stdin()
            .expect("piped")
            .write_all(b"go on\n")
            .expect("write");
        let rest: Vec<_> = lines
            .map(|line| line.expect("text"))
            .filter(|line| !line.contains(" - "))
            .collect();
        umount(&later).expect("unmount");
        assert_eq!(rest, ["end"]);
        assert!(container.wait().expect("wait").success());
    });
}

#[test]
fn privileged_a_process_has_a_number_inside_and_one_outside() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
                .cmd(["sleep", "1000"])
        };
        let containers = [run(), run()].map(|run| run.spawn().expect("spawn"));
        for container in &containers {
            let pid = container.pid().expect("it runs");
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let numbers = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .expect("numbers");
            assert_eq!(
                numbers.split_whitespace().collect::<Vec<_>>(),
                [&*pid.to_string(), "1"]
            );
        }
    });
}

#[test]
fn privileged_stop_restart_and_rename() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = |script: &str| {
            let run = ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none");
            run.cmd(["sh", "-c", script])
                .name("one")
                .create()
                .expect("create")
        };
        let long = Duration::from_secs(20);
        let polite = run("trap 'exit 7' TERM; echo up >> /log; while :; do sleep 0.02; done");
        polite.stop(long).expect("it does not run");
        polite.start().expect("start");
        wait_for_trap(&polite);
        polite.restart(long).expect("restart");
        wait_for_trap(&polite);
        polite.stop(long).expect("stop");
        assert_eq!(polite.wait().expect("wait").code(), 7);

        let renamed = polite.rename("two").expect("rename");
        let containers = ground.engine.containers();
        assert_eq!(containers.get("two").expect("get").id(), polite.id());
        assert_eq!(
            containers.get("one").expect_err("renamed").code(),
            "ContainerUnknown"
        );
        let stubborn = run("trap '' TERM; while :; do sleep 0.02; done");
        assert_eq!(
            stubborn.rename("two").expect_err("taken").code(),
            "NameTaken"
        );
        assert_eq!(
            stubborn.rename("../x").expect_err("no name").code(),
            "InvalidName"
        );
        stubborn.start().expect("start");
        stubborn.stop(Duration::from_millis(300)).expect("stop");
        assert_eq!(stubborn.wait().expect("wait").signal(), Some(9));
        stubborn.remove().expect("remove");
        renamed.remove().expect("remove");
    });
}

/// Waits until the first process of the container handles SIGTERM (15).
fn wait_for_trap(container: &Container) {
    let path = format!("/proc/{}/status", container.pid().expect("it runs"));
    let handles = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask & 1 << 14 != 0)
    };
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !handles() {
        assert!(std::time::Instant::now() < end, "no handler for SIGTERM");
        std::thread::sleep(Duration::from_millis(2));
    }
}
