//! Running containers.

use std::io::{Read, Write};
use std::time::Duration;

use container_engine::{ErrorKind, Signal, State, Stdio};

use super::{ground, open, text};
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
