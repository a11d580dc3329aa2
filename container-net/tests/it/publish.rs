//! Published ports and the way out, with real packets.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use container_net::{ErrorKind, netns};

use crate::world::{
    Container, HOST, OUTSIDE, inside, no_tcp, privileged, run, serve_tcp, tcp, udp, with_ports,
};

#[test]
fn privileged_outside_reaches_published_ports_and_only_these() {
    privileged(|world| {
        let container = world.start("c1", &["8080:80", "5353:53/udp", "10.99.0.1:8443:443"]);
        container.serve_tcp(80);
        container.serve_tcp(81);
        container.serve_tcp(443);
        container.serve_udp(53);
        inside(&world.outside, || {
            let outside = Some(OUTSIDE.to_string());
            assert_eq!(tcp(HOST, 8080), outside, "the container sees who comes");
            assert_eq!(tcp(HOST, 8443), outside);
            assert_eq!(udp(HOST, 5353), outside);
            assert!(no_tcp(HOST, 81));
            assert!(no_tcp(HOST, 80));
        });
    });
}

#[test]
fn privileged_host_reaches_published_ports_by_loopback_and_its_own_address() {
    privileged(|world| {
        let container = world.start(
            "c1",
            &["8080:80", "127.0.0.1:9090:80", "127.0.0.1:5353:53/udp"],
        );
        container.serve_tcp(80);
        container.serve_udp(53);
        let gateway = container.attached.attachment.gateway;
        assert_eq!(tcp(Ipv4Addr::LOCALHOST, 8080), Some(gateway.to_string()));
        assert_eq!(tcp(Ipv4Addr::LOCALHOST, 9090), Some(gateway.to_string()));
        assert_eq!(udp(Ipv4Addr::LOCALHOST, 5353), Some(gateway.to_string()));
        assert_eq!(tcp(HOST, 8080), Some(HOST.to_string()));
        assert!(no_tcp(HOST, 9090), "published on loopback alone");
    });
}

#[test]
fn privileged_containers_reach_published_ports_by_the_host_also_their_own() {
    privileged(|world| {
        let server = world.start("server", &["8080:80"]);
        let client = world.start("client", &[]);
        server.serve_tcp(80);
        let gateway = server.attached.attachment.gateway;
        let seen = Some(gateway.to_string());
        assert_eq!(inside(&client.netns, || tcp(HOST, 8080)), seen);
        assert_eq!(inside(&client.netns, || tcp(gateway, 8080)), seen);
        assert_eq!(inside(&server.netns, || tcp(HOST, 8080)), seen);
    });
}

#[test]
fn privileged_container_goes_out_with_the_hosts_address() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let listener = inside(&world.outside, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7000)).unwrap()
        });
        serve_tcp(listener);
        assert_eq!(
            inside(&container.netns, || tcp(OUTSIDE, 7000)),
            Some(HOST.to_string())
        );
        let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forward.trim(), "1");
    });
}

#[test]
fn privileged_withdrawn_port_is_free_again() {
    privileged(|world| {
        let first = world.start("c1", &["8080:80"]);
        first.serve_tcp(80);
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));
        world.bridge().detach("c1", "eth0").unwrap();
        drop(first);
        inside(&world.outside, || assert!(no_tcp(HOST, 8080)));
        let second = world.start("c2", &["8080:80"]);
        second.serve_tcp(80);
        inside(&world.outside, || assert!(tcp(HOST, 8080).is_some()));
    });
}

#[test]
fn privileged_taken_port_is_refused_and_its_holder_named() {
    privileged(|world| {
        let _listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8081)).unwrap();
        let _loopback = UdpSocket::bind((Ipv4Addr::LOCALHOST, 8082)).unwrap();
        let first = world.start("first", &["8080:80", "127.0.0.1:8083:80"]);
        let before = world.traces();
        let netns = netns::create().unwrap();
        let attach = |port: &str| {
            world
                .bridge()
                .attach(netns.as_fd(), &with_ports("c2", &[port]))
        };
        let process = format!("process {} (", std::process::id());
        let cases = [
            ("8080:80", "first"),
            ("127.0.0.1:8080:80", "first"),
            ("8083:80", "first"),
            ("8081:80", process.as_str()),
            ("8082:80/udp", process.as_str()),
        ];
        for (port, holder) in cases {
            let error = attach(port).unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::Busy, "PortTaken"),
                "{port}"
            );
            let report = error.report();
            assert!(report.contains(holder) && report.contains(port), "{report}");
            world.assert_traces(&before);
        }
        let error = attach("10.1.2.3:8090:80").unwrap_err();
        assert_eq!(error.code(), "NoSuchHostAddress");
        let error = attach("[::1]:8090:80").unwrap_err();
        assert_eq!(error.code(), "Ipv6Publish");
        world.assert_traces(&before);

        // The reservation also keeps other programs away, as long as it is open.
        assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err());
        // Another address or protocol is another port; a range goes on to the next.
        let second = world.start(
            "second",
            &["10.99.0.1:8083:80", "8080:80/udp", "8080-8085:80"],
        );
        assert_eq!(second.host_port(2), 8082);
        drop(first);
        // The reservations are gone, but not the attachment.
        let error = attach("8080:80").unwrap_err();
        assert!(error.report().contains("first"), "{}", error.report());
    });
}

#[test]
fn privileged_omitted_host_port_is_an_ephemeral_one() {
    privileged(|world| {
        let container = world.start("c1", &["80", "53/udp", "127.0.0.1::81"]);
        container.serve_tcp(80);
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let mut range = range
            .split_whitespace()
            .map(|bound| bound.parse::<u16>().unwrap());
        let range = range.next().unwrap()..=range.next().unwrap();
        for index in 0..3 {
            assert!(range.contains(&container.host_port(index)));
        }
        assert!(inside(&world.outside, || tcp(HOST, container.host_port(0))).is_some());
    });
}

#[test]
fn privileged_many_ports_are_one_table() {
    privileged(|world| {
        let container = world.start("c1", &["20000-21500:20000-21500"]);
        assert_eq!(container.attached.attachment.ports.len(), 1501);
        container.serve_tcp(21500);
        inside(&world.outside, || assert!(tcp(HOST, 21500).is_some()));
        run("nft", "flush ruleset");
        // Made anew with all that is published, as the next port finds out.
        let _second = Container::start(&world.bridge(), &with_ports("c2", &["80"]));
        inside(&world.outside, || assert!(tcp(HOST, 21500).is_some()));
        let rules = run("nft", "list chain inet container_engine publish");
        assert_eq!(rules.matches("dnat").count(), 2, "{rules}");
        world.bridge().detach("c1", "eth0").unwrap();
        assert!(!run("nft", "list ruleset").contains("21500"));
    });
}
