//! What must not get through.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use container_net::{AttachOptions, Network, NetworkOptions};

use crate::world::{
    Container, HOST, OUTSIDE, World, inside, ip, no_tcp, privileged, run, serve_tcp, tcp,
    with_ports,
};

/// Makes 127.0.0.1 an address that the namespace of this thread sends to `gateway`.
fn route_loopback_by(gateway: Ipv4Addr, link: &str) {
    std::fs::write(
        format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"),
        "1",
    )
    .unwrap();
    ip("addr flush dev lo");
    ip(&format!("route add 127.0.0.1/32 via {gateway}"));
}

fn second(world: &World) -> Network {
    world
        .networks
        .create(&NetworkOptions::new("second"))
        .unwrap()
}

#[test]
fn privileged_neighbour_with_a_route_reaches_no_container() {
    privileged(|world| {
        let container = world.start("c1", &["8080:80", "127.0.0.1:8081:81"]);
        container.serve_tcp(80);
        container.serve_tcp(81);
        container.serve_tcp(82);
        inside(&world.outside, || {
            ip(&format!("route add 172.17.0.0/16 via {HOST}"));
            for port in [80, 81, 82] {
                assert!(no_tcp(container.address(), port), "{port}");
            }
            assert!(tcp(HOST, 8080).is_some());
        });
        // Without the last rule of the chain they are all reached: the test can tell.
        let rules = run("nft", "-a list chain inet container_engine forward");
        let last = rules
            .lines()
            .rfind(|line| line.trim().starts_with("drop"))
            .unwrap();
        let handle = last.rsplit(' ').next().unwrap();
        run(
            "nft",
            &format!("delete rule inet container_engine forward handle {handle}"),
        );
        inside(&world.outside, || {
            assert!(tcp(container.address(), 82).is_some())
        });
    });
}

#[test]
fn privileged_neighbour_reaches_no_port_published_on_loopback() {
    privileged(|world| {
        let container = world.start("c1", &["127.0.0.1:8080:80"]);
        container.serve_tcp(80);
        inside(&world.outside, || {
            route_loopback_by(HOST, "out0");
            assert!(no_tcp(Ipv4Addr::LOCALHOST, 8080));
            assert!(no_tcp(HOST, 8080));
        });
        let rules = run("nft", "-a list chain inet container_engine prerouting");
        let rule = rules.lines().find(|line| line.contains("return")).unwrap();
        let handle = rule.rsplit(' ').next().unwrap();
        run(
            "nft",
            &format!("delete rule inet container_engine prerouting handle {handle}"),
        );
        inside(&world.outside, || {
            assert!(tcp(Ipv4Addr::LOCALHOST, 8080).is_some())
        });
    });
}

#[test]
fn privileged_container_reaches_nothing_on_the_hosts_loopback() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        serve_tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 7000)).unwrap());
        let gateway = container.attached.attachment.gateway;
        inside(&container.netns, || {
            route_loopback_by(gateway, "eth0");
            assert!(no_tcp(Ipv4Addr::LOCALHOST, 7000));
        });
        run("nft", "flush chain inet container_engine raw");
        inside(&container.netns, || {
            assert!(tcp(Ipv4Addr::LOCALHOST, 7000).is_some())
        });
    });
}

#[test]
fn privileged_bridges_are_isolated_also_by_published_ports() {
    privileged(|world| {
        let network = second(&world);
        let one = Container::start(&world.bridge(), &with_ports("c1", &["8080:80"]));
        let two = Container::start(&network, &with_ports("c2", &["8081:80"]));
        one.serve_tcp(80);
        two.serve_tcp(80);
        inside(&one.netns, || {
            assert!(no_tcp(two.address(), 80));
            assert!(no_tcp(HOST, 8081));
            assert!(no_tcp(two.attached.attachment.gateway, 8081));
        });
        inside(&two.netns, || {
            assert!(no_tcp(one.address(), 80));
            assert!(no_tcp(HOST, 8080));
        });
        inside(&world.outside, || {
            assert!(tcp(HOST, 8080).is_some());
            assert!(tcp(HOST, 8081).is_some());
        });
    });
}

#[test]
fn privileged_container_on_two_networks_talks_to_both() {
    privileged(|world| {
        let network = second(&world);
        let one = world.start("c1", &[]);
        let two = Container::start(&network, &AttachOptions::new("c2"));
        one.serve_tcp(80);
        two.serve_tcp(80);
        let mut options = AttachOptions::new("c1");
        options.interface = "eth1".to_owned();
        options.default_route = false;
        let netns = std::os::fd::AsFd::as_fd(&one.netns);
        let joined = network.attach(netns, &options).unwrap();
        let seen = inside(&one.netns, || tcp(two.address(), 80));
        assert_eq!(seen, Some(joined.attachment.address.to_string()));
        assert!(inside(&two.netns, || tcp(joined.attachment.address, 80)).is_some());
        assert!(inside(&two.netns, || no_tcp(one.address(), 80)));
    });
}

#[test]
fn privileged_router_advertisements_of_containers_are_ignored() {
    privileged(|world| {
        let _container = world.start("c1", &[]);
        let setting = Path::new("/proc/sys/net/ipv6/conf/container0/accept_ra");
        if setting.exists() {
            assert_eq!(std::fs::read_to_string(setting).unwrap().trim(), "0");
        }
        assert!(!ip("-6 -o addr show dev container0").contains("inet6"));
    });
}

#[test]
fn privileged_answers_come_back_and_nothing_else() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let listener = inside(&world.outside, || {
            TcpListener::bind((OUTSIDE, 7000)).unwrap()
        });
        serve_tcp(listener);
        container.serve_tcp(9000);
        assert!(inside(&container.netns, || tcp(OUTSIDE, 7000)).is_some());
        inside(&world.outside, || {
            ip(&format!("route add {}/32 via {HOST}", container.address()));
            assert!(no_tcp(container.address(), 9000));
        });
    });
}

#[test]
fn privileged_rules_read_as_they_are_meant() {
    privileged(|world| {
        let _container = world.start("c1", &["127.0.0.1:8080:80", "5353:53/udp"]);
        let rules = run("nft", "list table inet container_engine");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nft/table.nft");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &rules).unwrap();
        }
        assert_eq!(rules, std::fs::read_to_string(golden).unwrap());
    });
}

#[test]
fn privileged_foreign_drop_policies_are_found() {
    privileged(|world| {
        assert_eq!(world.networks.foreign_drops().unwrap(), []);
        let _container = world.start("c1", &[]);
        assert_eq!(world.networks.foreign_drops().unwrap(), []);
        run("nft", "add table ip strict");
        let hook = "{ type filter hook forward priority 0 ; policy drop ; }";
        run("nft", &format!("add chain ip strict gate {hook}"));
        run(
            "nft",
            &format!(
                "add chain ip strict input {}",
                hook.replace("forward", "input")
            ),
        );
        let found = world.networks.foreign_drops().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].table.as_str(), found[0].chain.as_str()),
            ("strict", "gate")
        );
    });
}
