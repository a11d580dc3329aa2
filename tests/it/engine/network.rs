//! Containers on networks.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use container_engine::{ErrorKind, Stdio};

use super::{ground, text};
use crate::support::isolate::isolated;

/// Connects to `address` as soon as somebody listens there, and reads to the end.
pub(crate) fn fetch(address: &str) -> String {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let mut answer = String::new();
        // A published port takes connections only once the program listens.
        if let Ok(mut stream) = TcpStream::connect(address)
            && stream.read_to_string(&mut answer).is_ok()
            && !answer.is_empty()
        {
            return answer;
        }
        assert!(Instant::now() < end, "nobody answers at {address}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn privileged_bridge_gives_address_route_and_names() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let output = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("bridge")
            .hostname("named")
            .add_host("db", IpAddr::from([10, 1, 2, 3]))
            .dns(IpAddr::from([9, 9, 9, 9]))
            .dns_search("corp.example")
            .cmd([
                "sh",
                "-c",
                "ip -o -4 addr show eth0; ip route; cat /etc/hosts /etc/resolv.conf /etc/hostname",
            ])
            .output()
            .expect("run");
        let stdout = text(&output.stdout);
        assert!(stdout.contains("inet 172.17.0.2/16"), "{stdout}");
        assert!(
            stdout.contains("default via 172.17.0.1 dev eth0"),
            "{stdout}"
        );
        assert!(stdout.contains("172.17.0.2\tnamed"), "{stdout}");
        assert!(stdout.contains("10.1.2.3\tdb"), "{stdout}");
        assert!(
            stdout.contains("nameserver 9.9.9.9\nsearch corp.example"),
            "{stdout}"
        );
        assert!(stdout.ends_with("named"), "{stdout}");
    });
}

#[test]
fn privileged_none_has_only_lo_and_host_shares_the_stack() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = |network: &str, script: &str| {
            let run = ground
                .engine
                .containers()
                .run(&ground.image)
                .network(network);
            text(&run.cmd(["sh", "-c", script]).output().expect("run").stdout)
        };
        let links = run("none", "ip -o link");
        assert!(
            links.lines().count() == 1 && links.contains("LOOPBACK,UP"),
            "{links}"
        );
        let inside = run("host", "readlink /proc/self/ns/net");
        let outside = std::fs::read_link("/proc/thread-self/ns/net").expect("the own namespace");
        assert_eq!(inside, outside.to_string_lossy());
        // A port that the host uses cannot be bound in there.
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let clash = run("host", &format!("nc -l -p {port} 2>&1; echo $?"));
        assert!(clash.ends_with('1') && clash.contains("in use"), "{clash}");
    });
}

#[test]
fn privileged_a_published_port_answers_until_the_container_ends() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let container = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("bridge")
            .publish("8080:80")
            .stdout(Stdio::Null)
            .cmd([
                "sh",
                "-c",
                "while :; do echo hello from $(hostname -i) | nc -l -p 80; done",
            ])
            .spawn()
            .expect("spawn");
        assert!(fetch("127.0.0.1:8080").starts_with("hello from 172.17.0.2"));
        assert_eq!(container.ports()[0].host_port, 8080);
        let taken = ground
            .engine
            .containers()
            .run(&ground.image)
            .publish("8080:81")
            .cmd(["true"])
            .status()
            .expect_err("the port is taken");
        assert_eq!((taken.kind(), taken.code()), (ErrorKind::Busy, "PortTaken"));
        drop(container);
        assert!(TcpStream::connect("127.0.0.1:8080").is_err(), "it is gone");
        // And can be had again.
        let listener = TcpListener::bind("0.0.0.0:8080").expect("the port is free");
        drop(listener);
    });
}

#[test]
fn privileged_containers_on_one_bridge_talk() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let run = || {
            ground
                .engine
                .containers()
                .run(&ground.image)
                .network("bridge")
        };
        let server = run()
            .stdin(Stdio::Piped)
            .cmd(["nc", "-l", "-p", "7000"])
            .spawn()
            .expect("spawn");
        let mut stdin = server.take_stdin().expect("piped");
        stdin.write_all(b"over the bridge\n").expect("write");
        let address = server.address().expect("it is on a network").to_string();
        let script = format!("until nc {address} 7000; do sleep 0.02; done");
        let client = run().cmd(["sh", "-c", &script]).stdin(Stdio::Null).spawn();
        drop(stdin);
        assert!(client.expect("spawn").wait().expect("wait").success());
        assert!(server.wait().expect("wait").success());
    });
}

#[test]
fn privileged_containers_have_ports_of_their_own() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let serve = |port: &str| {
            let run = ground
                .engine
                .containers()
                .run(&ground.image)
                .network("bridge");
            let script = "while :; do echo $HOSTNAME | nc -l -p 80; done";
            let run = run.hostname(port).publish(format!("{port}:80"));
            run.cmd(["sh", "-c", script]).spawn().expect("spawn")
        };
        let servers = ["8081", "8082"].map(serve);
        for port in ["8081", "8082"] {
            assert_eq!(fetch(&format!("127.0.0.1:{port}")).trim(), port);
        }
        drop(servers);
    });
}
