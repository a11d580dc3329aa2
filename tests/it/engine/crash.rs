//! Programs that die, and what the next one finds.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use container_engine::State;

use super::{again, ground, open, open_at, role};
use crate::support::host::other_processes;
use crate::support::isolate::{Place, isolated};

/// Not a test by itself: the program that is going to die. Starts a container and waits.
#[test]
fn victim() {
    let Some(role) = role() else { return };
    let [dir, cgroup, image, how] = &role[..] else {
        panic!("want four parts, got {role:?}")
    };
    let engine = open_at(Path::new(dir), cgroup);
    let image = engine.images().get(image).expect("the image");
    let run = engine
        .containers()
        .run(&image)
        .name("lasting")
        .publish("8080:80")
        .cmd(["sleep", "1000"]);
    let container = if how == "detach" {
        run.detach()
    } else {
        run.spawn()
    }
    .expect("start");
    println!("started {}", container.id());
    loop {
        std::thread::park();
    }
}

fn start_victim(place: &Place, image: &str, how: &str) -> Child {
    let role = [&*place.dir().to_string_lossy(), place.cgroup(), image, how];
    let mut victim = again("engine::crash::victim", &role)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the victim");
    let stdout = victim.stdout.take().expect("piped");
    let started = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("started"));
    assert!(started, "the victim did not start its container");
    victim
}

fn sleepers() -> usize {
    other_processes()
        .iter()
        .filter(|process| process.contains("sleep"))
        .count()
}

fn kill(victim: &mut Child) {
    victim.kill().expect("SIGKILL");
    victim.wait().expect("wait");
}

#[test]
fn privileged_attached_containers_die_with_their_program() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let mut victim = start_victim(place, &ground.name, "attach");
        assert_eq!(sleepers(), 1);
        kill(&mut victim);
        let end = Instant::now() + Duration::from_secs(1);
        while sleepers() > 0 {
            assert!(
                Instant::now() < end,
                "alive a second after its program died"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        // Its records, addresses and rules are still there; the next engine removes them.
        let recovered = wait_recovered(place);
        assert_eq!(recovered, 1);
        drop(ground);
    });
}

/// Recovers until the dead program's lock is free; gives how many containers were removed.
fn wait_recovered(place: &Place) -> usize {
    let engine = open(place);
    // Opening has recovered already, unless the monitor was still at its clean-up.
    let left = || std::fs::read_dir(place.dir().join("run/containers")).map_or(0, Iterator::count);
    let end = Instant::now() + Duration::from_secs(5);
    while left() > 0 {
        engine.recover().expect("recover");
        assert!(Instant::now() < end, "not recovered");
        std::thread::sleep(Duration::from_millis(10));
    }
    1
}

#[test]
fn privileged_detached_containers_live_on_and_are_found() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let mut victim = start_victim(place, &ground.name, "detach");
        kill(&mut victim);
        let container = open(place).containers().get("lasting").expect("found");
        assert_eq!(container.state().expect("state"), State::Running);
        assert_eq!(sleepers(), 1);
        let output = container.exec(["echo", "here"]).output().expect("exec");
        assert_eq!(output.stdout, b"here\n");
        container.stop(Duration::from_millis(1)).expect("stop");
        assert!(matches!(
            container.state().expect("state"),
            State::Exited(Some(_))
        ));
        assert_eq!(sleepers(), 0);
        container.remove().expect("remove");
    });
}

#[test]
fn privileged_a_killed_monitor_leaves_nothing_alive() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none")
            .name("orphan");
        let container = run.cmd(["sleep", "1000"]).detach().expect("start");
        let parent = parent_of(container.pid().expect("it runs"));
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(parent).expect("a pid"),
            rustix::process::Signal::KILL,
        )
        .expect("kill the monitor");
        let end = Instant::now() + Duration::from_secs(1);
        while sleepers() > 0 {
            assert!(
                Instant::now() < end,
                "alive a second after its monitor died"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            container.wait().expect_err("nobody knows").code(),
            "MonitorLost"
        );
        ground.engine.recover().expect("recover");
        assert_eq!(container.state().expect("state"), State::Exited(None));
        container.remove().expect("the first try removes it");
    });
}

fn parent_of(pid: i32) -> i32 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.expect("the process exists");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent
        .and_then(|parent| parent.trim().parse().ok())
        .expect("a parent")
}

#[test]
fn privileged_a_container_outlives_the_thread_that_started_it() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none");
        let run = run.cmd(["sleep", "0.5"]);
        let container = std::thread::spawn(|| run.spawn().expect("spawn"))
            .join()
            .expect("thread");
        assert!(container.wait().expect("wait").success());
    });
}
