//! What is done in and to a running container: exec, terminal, pause, statistics, other limits.

use std::io::{Read, Write};
use std::time::Duration;

use container_engine::container_core::Size;
use container_engine::{Container, ErrorKind, Signal, State, Stdio};

use super::{Ground, ground, open};
use crate::support::isolate::isolated;

impl Ground {
    /// A container that stays and does nothing.
    fn sleeper(&self, name: &str) -> Container {
        let run = self.engine.containers().run(&self.image).network("none");
        run.name(name)
            .env("FROM", "container")
            .cmd(["sleep", "1000"])
            .detach()
            .expect("detach")
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8").trim_end()
}

#[test]
fn privileged_programs_are_executed_in_a_container() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let box_ = ground.sleeper("box");
        let script = "echo $FROM $EXTRA; id -u; pwd; echo $$; hostname; echo oops >&2; exit 3";
        let output = box_
            .exec(["sh", "-c", script])
            .env("EXTRA", "exec")
            .user("1000:1000")
            .workdir("/tmp")
            .output()
            .expect("exec");
        assert_eq!((output.status.code(), text(&output.stderr)), (3, "oops"));
        let lines: Vec<_> = text(&output.stdout).lines().collect();
        assert_eq!(lines[..3], ["container exec", "1000", "/tmp"]);
        assert_ne!(lines[3], "1", "it is not the first process");
        assert_eq!(lines[4], &box_.id()[..12]);
        // As confined as the container's own program, and seen by it.
        let status =
            "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status /proc/1/status | cut -d: -f2-";
        let output = box_.exec(["sh", "-c", status]).output().expect("exec");
        let lines: Vec<_> = text(&output.stdout).lines().collect();
        let (own, first) = lines.split_at(lines.len() / 2);
        assert_eq!(own, first);
        // Any program that opens the engine may.
        let other = open(place).containers().get("box").expect("get");
        assert!(other.exec(["true"]).status().expect("exec").success());
        let error = other.exec(["nosuch"]).status().expect_err("no program");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "CommandNotFound")
        );
        let error = other
            .exec(["true"])
            .env("A=B", "")
            .status()
            .expect_err("no name");
        assert_eq!(error.code(), "InvalidVariable");
        box_.remove_force().expect("remove");
        let error = other.exec(["true"]).status().expect_err("it is gone");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "NotRunning")
        );
    });
}

#[test]
fn privileged_what_runs_in_the_background_is_not_waited_for() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let box_ = ground.sleeper("box");
        let output = box_
            .exec(["sh", "-c", "sleep 1000 & echo done"])
            .output()
            .expect("exec");
        assert_eq!(text(&output.stdout), "done");
        // A detached one lives on without its handle, an attached one does not.
        let pids = [
            box_.exec(["sleep", "1001"]).detach().expect("detach").pid(),
            box_.exec(["sleep", "1002"]).spawn().expect("spawn").pid(),
        ];
        let lives = |pid: i32| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.contains("(sleep)") && !state.contains(" Z ")
        };
        for _ in 0..500 {
            if !lives(pids[1]) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(pids.map(lives), [true, false]);
        box_.remove_force().expect("remove");
    });
}

#[test]
fn privileged_more_output_than_is_kept_ends_the_program() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let box_ = ground.sleeper("box");
        let mut process = box_
            .exec(["cat", "/dev/zero"])
            .stdout(Stdio::Piped)
            .spawn()
            .expect("spawn");
        let mut some = [0; 4096];
        process
            .take_stdout()
            .expect("piped")
            .read_exact(&mut some)
            .expect("read");
        // Nobody reads any more: it ends by itself, and nothing was kept of it.
        assert_eq!(process.wait().expect("wait").signal(), Some(13));
        let error = box_
            .exec(["cat", "/dev/zero"])
            .output()
            .expect_err("too much");
        assert_eq!(error.code(), "OutputTooLarge");
        box_.remove_force().expect("remove");
    });
}

#[test]
fn privileged_programs_have_terminals() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .tty();
        let shell = run
            .cmd(["sh", "-c", "tty; read line; stty size; echo got $line"])
            .spawn()
            .expect("spawn");
        let mut terminal = shell.take_terminal().expect("a terminal");
        terminal
            .resize(Size {
                columns: 100,
                rows: 40,
            })
            .expect("resize");
        terminal.write_all(b"keys\n").expect("write");
        let mut seen = String::new();
        terminal.read_to_string(&mut seen).expect("read");
        assert!(shell.wait().expect("wait").success());
        for part in ["/dev/", "40 100", "got keys"] {
            assert!(seen.contains(part), "{part} in {seen:?}");
        }
        let box_ = ground.sleeper("box");
        let mut process = box_.exec(["tty"]).tty().spawn().expect("spawn");
        let mut seen = String::new();
        let mut terminal = process.take_terminal().expect("take").expect("a terminal");
        terminal.read_to_string(&mut seen).expect("read");
        assert!(seen.starts_with("/dev/pts/"), "{seen:?}");
        assert!(process.wait().expect("wait").success());
        let error = box_
            .exec(["tty"])
            .tty()
            .detach()
            .expect_err("nobody holds it");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unsupported, "DetachedTerminal")
        );
        box_.remove_force().expect("remove");
    });
}

#[test]
fn privileged_an_init_of_ours_reaps_and_passes_signals_on() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none")
                .init()
        };
        let output = run()
            .cmd([
                "sh",
                "-c",
                "echo $$; (sleep 0.1 &) ; sleep 0.3; ps | grep -c '\\[sleep\\]'",
            ])
            .output()
            .expect("run");
        let lines: Vec<_> = text(&output.stdout).lines().collect();
        assert_eq!(lines[1], "0", "no zombie");
        assert_ne!(lines[0], "1");
        let trap = run().cmd([
            "sh",
            "-c",
            "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done",
        ]);
        let trap = trap.stdout(Stdio::Piped).spawn().expect("spawn");
        let mut up = [0; 3];
        trap.take_stdout()
            .expect("piped")
            .read_exact(&mut up)
            .expect("read");
        trap.kill(Signal::TERM).expect("kill");
        assert_eq!(trap.wait().expect("wait").code(), 7);
    });
}

#[test]
fn privileged_a_paused_container_stands_still() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .name("box");
        let script = "i=0; while :; do i=$((i+1)); echo $i > /count; done";
        let box_ = run.cmd(["sh", "-c", script]).detach().expect("detach");
        let used = || box_.stats().expect("stats").cpu.expect("cpu").usage_ns;
        box_.pause().expect("pause");
        assert_eq!(box_.state().expect("state"), State::Paused);
        let before = used();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(used(), before, "no time is used");
        let error = box_.pause().expect_err("again");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidState, "AlreadyPaused")
        );
        assert_eq!(
            box_.exec(["true"]).status().expect_err("paused").code(),
            "Paused"
        );
        assert_eq!(
            box_.remove().expect_err("it runs").code(),
            "ContainerRunning"
        );
        box_.resume().expect("resume");
        assert_eq!(box_.resume().expect_err("again").code(), "NotPaused");
        assert_eq!(box_.state().expect("state"), State::Running);
        // Whatever ends a container ends a paused one.
        box_.pause().expect("pause");
        box_.stop(Duration::ZERO).expect("stop");
        assert!(matches!(
            box_.state().expect("state"),
            State::Exited(Some(_))
        ));
        assert_eq!(box_.pause().expect_err("ended").code(), "NotRunning");
        box_.start().expect("start");
        box_.pause().expect("pause");
        box_.remove_force().expect("remove");
    });
}

#[test]
fn privileged_limits_change_and_statistics_tell() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let box_ = ground.sleeper("box");
        box_.update()
            .memory("64M")
            .pids_limit(20)
            .cpus(0.5)
            .apply()
            .expect("update");
        let stats = box_.stats().expect("stats");
        let memory = stats.memory.expect("memory");
        assert_eq!(memory.limit_bytes, Some(64 << 20));
        let pids = stats.pids.expect("pids");
        assert_eq!((pids.current, pids.limit), (1, Some(20)));
        let error = box_.update().memory("64X").apply().expect_err("no size");
        assert_eq!(error.code(), "InvalidSize");
        let bomb = "for i in $(seq 40); do sleep 100 & done";
        assert!(
            !box_
                .exec(["sh", "-c", bomb])
                .status()
                .expect("exec")
                .success()
        );
        box_.remove_force().expect("remove");
        assert_eq!(box_.stats().expect_err("gone").code(), "NotRunning");
    });
}

#[test]
fn privileged_containers_that_stay_have_names() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let create = || {
            let run = ground
                .engine
                .containers()
                .run(&ground.image)
                .network("none");
            run.cmd(["true"]).create().expect("create")
        };
        let (one, other) = (create(), create());
        let name = one.name().expect("a name").to_owned();
        assert_ne!(Some(&*name), other.name());
        let word =
            |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        assert!(
            name.split_once('_')
                .is_some_and(|(a, b)| word(a) && word(b)),
            "{name}"
        );
        assert_eq!(
            ground.engine.containers().get(&name).expect("get").id(),
            one.id()
        );
        one.remove().expect("remove");
        other.remove().expect("remove");
    });
}
