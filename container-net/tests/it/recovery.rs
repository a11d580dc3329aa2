//! What is left when a process dies, and that it goes.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use container_net::{Networks, Recovered};

use crate::world::{HOST, inside, ip, options, privileged, run, tcp, with_ports};

/// Tells the child of [`privileged_killed_attachments_are_recovered`] where to work.
const CHILD: &str = "CONTAINER_NET_TEST_CHILD";

#[test]
fn privileged_dead_containers_are_ended_and_living_ones_kept() {
    privileged(|world| {
        let living = world.start("living", &["8080:80"]);
        let dead = world.start("dead", &["8081:80"]);
        living.serve_tcp(80);
        let recovered = world
            .networks
            .recover(&|container| container == "living")
            .unwrap();
        assert_eq!(
            recovered.ended.as_slice(),
            std::slice::from_ref(&dead.attached.attachment)
        );
        assert!(recovered.broken.is_empty());
        assert_eq!(
            world.networks.attachments().unwrap(),
            std::slice::from_ref(&living.attached.attachment)
        );
        assert!(!ip("-o link").contains(&dead.attached.attachment.host_interface));
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));
        let again = world
            .networks
            .recover(&|container| container == "living")
            .unwrap();
        assert_eq!(again, Recovered::default());
        drop(dead);
        let successor = world.start("dead", &["8081:80"]);
        drop((living, successor));
        world.networks.recover(&|_| false).unwrap();
        world.assert_traces(&[]);
    });
}

#[test]
fn privileged_flushed_rules_are_healed() {
    privileged(|world| {
        let container = world.start("c1", &["8080:80"]);
        container.serve_tcp(80);
        let rules = run("nft", "list ruleset");
        run("nft", "flush ruleset");
        world.networks.recover(&|_| true).unwrap();
        assert_eq!(run("nft", "list ruleset"), rules);
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));

        run("nft", "flush ruleset");
        drop(container);
        world.bridge().detach("c1", "eth0").unwrap();
        let _second = world.start("c2", &["8080:80"]);
        run("nft", "flush ruleset");
        world.networks.release_idle().unwrap();
    });
}

#[test]
fn privileged_bridge_that_somebody_deleted_is_made_again() {
    privileged(|world| {
        let first = world.start("c1", &["8080:80"]);
        ip("link delete container0");
        let second = world.start("c2", &["8081:80"]);
        second.serve_tcp(80);
        inside(&world.outside, || assert!(tcp(HOST, 8081).is_some()));
        drop((first, second));
        world.networks.recover(&|_| false).unwrap();
        world.assert_traces(&[]);
    });
}

#[test]
fn privileged_after_a_reboot_nothing_is_leased() {
    privileged(|world| {
        for number in 0..3 {
            drop(world.start(&format!("c{number}"), &["80"]));
        }
        let container = world.start("last", &["8080:80"]);
        // What a boot does: the kernel forgets everything, and has another id.
        drop(container);
        run("nft", "flush ruleset");
        ip("link delete container0");
        std::fs::write(world.directory.path().join("run/boot"), "an earlier one").unwrap();
        let networks = Networks::open(options(world.directory.path())).unwrap();
        assert_eq!(networks.attachments().unwrap(), []);
        world.assert_traces(&[]);
        let container = world.start("c0", &["8080:80"]);
        assert_eq!(container.address().to_string(), "172.17.0.2");
    });
}

#[test]
fn privileged_broken_record_is_set_aside() {
    privileged(|world| {
        let broken = world.start("broken", &["8080:80"]);
        let living = world.start("living", &["8081:80"]);
        let records = world.directory.path().join("run/attachments/bridge");
        let record = records.join("broken@eth0.json");
        for content in ["", "{\"version\":1,\"netw", "[]"] {
            std::fs::write(&record, content).unwrap();
            assert_eq!(world.networks.attachments().unwrap().len(), 1);
            let recovered = world
                .networks
                .recover(&|container| container == "living")
                .unwrap();
            assert_eq!(recovered.broken.len(), 1);
            assert!(recovered.broken[0].exists());
        }
        assert!(!ip("-o link").contains(&broken.attached.attachment.host_interface));
        drop(broken);
        let again = world.start("broken", &["8080:80"]);
        std::fs::write(&record, "{").unwrap();
        world.bridge().detach("broken", "eth0").unwrap();
        drop((again, living));
        world.networks.recover(&|_| false).unwrap();
        world.assert_traces(&[]);
    });
}

#[test]
fn privileged_living_container_with_a_broken_record_stays_connected() {
    privileged(|world| {
        let broken = world.start("broken", &["8080:80"]);
        let other = world.start("other", &[]);
        broken.serve_tcp(80);
        let record = world
            .directory
            .path()
            .join("run/attachments/bridge/broken@eth0.json");
        std::fs::write(&record, "{").unwrap();
        let recovered = world.networks.recover(&|_| true).unwrap();
        assert_eq!(recovered, Recovered::default());
        assert!(inside(&other.netns, || tcp(broken.address(), 80)).is_some());
        // Nobody else gets its address or port.
        let third = world.start("third", &["8081-8085:80"]);
        assert_ne!(third.address(), broken.address());
        drop((broken, other, third));
        let error = world.bridge().attach(
            std::os::fd::AsFd::as_fd(&container_net::netns::create().unwrap()),
            &with_ports("fourth", &["8080:80"]),
        );
        assert_eq!(error.unwrap_err().code(), "PortTaken");
        world.networks.recover(&|_| false).unwrap();
        world.assert_traces(&[]);
    });
}

#[test]
fn privileged_attachment_in_the_making_is_left_alone() {
    privileged(|world| {
        thread::scope(|scope| {
            let attach = || {
                for number in 0..20 {
                    let container = world.start(&format!("c{number}"), &["80"]);
                    world
                        .bridge()
                        .detach(&format!("c{number}"), "eth0")
                        .unwrap();
                    drop(container);
                }
            };
            let attaching = scope.spawn(attach);
            while !attaching.is_finished() {
                world.networks.recover(&|_| true).unwrap();
            }
            attaching.join().unwrap();
        });
        world.networks.recover(&|_| false).unwrap();
        world.assert_traces(&[]);
    });
}

#[test]
fn privileged_killed_attachments_are_recovered() {
    const TEST: &str = "recovery::child_that_attaches_until_it_is_killed";
    privileged(|world| {
        for round in 0..24_u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", TEST, "--nocapture"])
                .env(CHILD, world.directory.path())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // From before the bridge exists to the middle of any later step.
            thread::sleep(Duration::from_micros(4_000 + round * 1_700));
            child.kill().unwrap();
            child.wait().unwrap();
            world.networks.recover(&|_| false).unwrap();
            world.assert_traces(&[]);
        }
        let container = world.start("after", &["8080:80"]);
        container.serve_tcp(80);
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));
    });
}

#[test]
fn privileged_attachment_killed_at_any_call_is_recovered() {
    /// The calls that change something, in the run directory or in the kernel.
    const CALLS: [&str; 5] = ["sendto", "rename", "unlink", "mkdir", "bind"];
    const TEST: &str = "recovery::child_that_attaches_once";
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        assert!(
            std::env::var_os("REQUIRE_PEERS").is_none(),
            "strace is not installed"
        );
        println!("skipped: strace is not installed");
        return;
    }
    privileged(|world| {
        let mut killed = 0;
        for call in CALLS {
            for count in 1.. {
                let status = Command::new("strace")
                    .args([
                        "-f",
                        "-qq",
                        "-o",
                        "/dev/null",
                        "-e",
                        &format!("trace={call}"),
                        "-e",
                    ])
                    .arg(format!("inject={call}:signal=KILL:when={count}"))
                    .arg(std::env::current_exe().unwrap())
                    .args(["--exact", TEST])
                    .env(CHILD, world.directory.path())
                    .stdout(Stdio::null())
                    .status()
                    .unwrap();
                world.networks.recover(&|_| false).unwrap();
                world.assert_traces(&[]);
                if status.success() {
                    break;
                }
                killed += 1;
            }
        }
        assert!(killed > CALLS.len(), "{killed}");
        let container = world.start("after", &["8080:80"]);
        container.serve_tcp(80);
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));
    });
}

#[test]
fn child_that_attaches_once() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let networks = Networks::open(options(directory.as_ref())).unwrap();
    let bridge = networks.get("bridge").unwrap();
    let netns = container_net::netns::create().unwrap();
    let ports = with_ports("c1", &["8080:80", "53/udp"]);
    drop(
        bridge
            .attach(std::os::fd::AsFd::as_fd(&netns), &ports)
            .unwrap(),
    );
    bridge.disconnect("c1", "eth0").unwrap();
    networks.release_idle().unwrap();
}

#[test]
fn child_that_attaches_until_it_is_killed() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let networks = Networks::open(options(directory.as_ref())).unwrap();
    let bridge = networks.get("bridge").unwrap();
    for number in 0_u32.. {
        let name = format!("c{number}");
        let netns = container_net::netns::create().unwrap();
        let ports = with_ports(&name, &["8080:80", "53/udp"]);
        drop(
            bridge
                .attach(std::os::fd::AsFd::as_fd(&netns), &ports)
                .unwrap(),
        );
        if number % 2 == 0 {
            bridge.disconnect(&name, "eth0").unwrap();
        } else {
            bridge.detach(&name, "eth0").unwrap();
        }
        networks.release_idle().unwrap();
    }
}
