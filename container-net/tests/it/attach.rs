//! What a container gets, and what the host has of it.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::thread;

use container_net::{
    AttachOptions, ErrorKind, Firewall, ForeignDrop, MacAddress, NetworkOptions, Networks, Result,
    Rules, netns,
};
use serde_json::Value;

use crate::world::{Container, inside, ip, options, privileged, tcp, with_ports};

fn json(arguments: &str) -> Value {
    serde_json::from_str(&ip(arguments)).unwrap()
}

#[test]
fn privileged_container_has_address_mac_route_and_loopback() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let attachment = &container.attached.attachment;
        assert_eq!(attachment.address.to_string(), "172.17.0.2");
        assert_eq!(attachment.gateway.to_string(), "172.17.0.1");
        assert_eq!(attachment.prefix_len, 16);
        assert_eq!(attachment.mac.to_string(), "02:42:ac:11:00:02");
        let (links, routes) = inside(&container.netns, || (json("-j addr"), json("-j route")));
        let eth0 = links
            .as_array()
            .unwrap()
            .iter()
            .find(|link| link["ifname"] == "eth0")
            .unwrap();
        assert_eq!(eth0["address"], "02:42:ac:11:00:02");
        assert!(
            eth0["flags"]
                .as_array()
                .unwrap()
                .contains(&"LOWER_UP".into())
        );
        assert_eq!(eth0["addr_info"][0]["local"], "172.17.0.2");
        assert_eq!(eth0["addr_info"][0]["prefixlen"], 16);
        assert_eq!(links[0]["ifname"], "lo");
        assert!(links[0]["flags"].as_array().unwrap().contains(&"UP".into()));
        assert_eq!(routes[0]["dst"], "default");
        assert_eq!(routes[0]["gateway"], "172.17.0.1");
    });
}

#[test]
fn privileged_peer_indexes_of_the_pair_match_and_the_bridge_shows_it() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let name = &container.attached.attachment.host_interface;
        assert!(name.starts_with("cev"), "{name}");
        let host = &json(&format!("-j -d link show {name}"))[0];
        let guest = inside(&container.netns, || json("-j link show eth0"))[0].clone();
        assert_eq!(host["link_index"], guest["ifindex"]);
        assert_eq!(guest["link_index"], host["ifindex"]);
        assert_eq!(host["master"], "container0");
        assert_eq!(host["linkinfo"]["info_slave_data"]["hairpin"], true);
        let bridge = &json("-j -d addr show container0")[0];
        assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
        assert_eq!(bridge["addr_info"][0]["local"], "172.17.0.1");
        assert_eq!(bridge["addr_info"].as_array().unwrap().len(), 1);
        assert_eq!(bridge["address"], "02:42:ac:11:00:01");
    });
}

#[test]
fn privileged_mac_and_address_as_wanted() {
    privileged(|world| {
        let mut options = NetworkOptions::new("fixed");
        options.subnet = Some("172.30.0.0/24".parse().unwrap());
        let network = world.networks.create(&options).unwrap();
        let mut wish = AttachOptions::new("c1");
        wish.address = Some("172.30.0.77".parse().unwrap());
        wish.mac = Some("02:00:00:00:00:99".parse().unwrap());
        let container = Container::start(&network, &wish);
        let eth0 = inside(&container.netns, || json("-j addr show eth0"))[0].clone();
        assert_eq!(eth0["addr_info"][0]["local"], "172.30.0.77");
        assert_eq!(eth0["address"], "02:00:00:00:00:99");

        let netns = netns::create().unwrap();
        let cases = [
            ("172.30.0.77", "AddressTaken", "c1"),
            ("172.30.0.1", "AddressTaken", "gateway"),
            ("172.30.1.2", "AddressOutside", "172.30.0.0/24"),
            ("172.30.0.255", "AddressOutside", "172.30.0.0/24"),
        ];
        for (address, code, named) in cases {
            let mut wish = AttachOptions::new("c2");
            wish.address = Some(address.parse().unwrap());
            let error = network.attach(netns.as_fd(), &wish).unwrap_err();
            assert_eq!(error.code(), code, "{address}");
            assert!(error.report().contains(named), "{}", error.report());
        }
        // Not where the subnet may be another one tomorrow.
        let mut wish = AttachOptions::new("c2");
        wish.address = Some("172.17.0.9".parse().unwrap());
        let error = world.bridge().attach(netns.as_fd(), &wish).unwrap_err();
        assert_eq!(error.code(), "StaticAddressRefused");
    });
}

#[test]
fn privileged_containers_on_one_bridge_talk() {
    privileged(|world| {
        let (one, two) = (world.start("c1", &[]), world.start("c2", &[]));
        two.serve_tcp(80);
        let seen = inside(&one.netns, || tcp(two.address(), 80));
        assert_eq!(seen, Some(one.address().to_string()));
    });
}

#[test]
fn privileged_disconnect_takes_the_link_of_a_living_container() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let network = world
            .networks
            .create(&NetworkOptions::new("second"))
            .unwrap();
        let mut options = AttachOptions::new("c1");
        options.interface = "eth1".to_owned();
        options.default_route = false;
        let second = network.attach(container.netns.as_fd(), &options).unwrap();
        assert_eq!(second.attachment.address.to_string(), "172.18.0.2");
        let links = || inside(&container.netns, || ip("-o link"));
        assert!(links().contains("eth1"));
        network.disconnect("c1", "eth1").unwrap();
        assert!(!links().contains("eth1"));
        assert!(links().contains("eth0"));
        network.disconnect("c1", "eth1").unwrap();
    });
}

#[test]
fn privileged_ended_attachments_leave_nothing() {
    privileged(|world| {
        let before = world.traces();
        let container = world.start("c1", &["8080:80", "127.0.0.1::53/udp"]);
        assert!(world.traces().len() > before.len());
        drop(container);
        world.bridge().detach("c1", "eth0").unwrap();
        world.bridge().detach("c1", "eth0").unwrap();
        world.networks.release_idle().unwrap();
        world.networks.release_idle().unwrap();
        world.assert_traces(&before);
    });
}

#[test]
fn privileged_failed_attachment_leaves_nothing() {
    privileged(|world| {
        let keeper = world.start("keeper", &[]);
        let before = world.traces();
        let netns = netns::create().unwrap();
        inside(&netns, || ip("link add eth0 type bridge"));
        let mut options = AttachOptions::new("c1");
        options.ports = container_net::PortMapping::parse("8080:80").unwrap();
        let error = world.bridge().attach(netns.as_fd(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.report().contains("eth0"), "{}", error.report());
        world.assert_traces(&before);

        // Not a namespace at all.
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = world.bridge().attach(file.as_fd(), &options).unwrap_err();
        assert!(error.cleanup_errors().is_empty(), "{}", error.report());
        world.assert_traces(&before);
        drop(keeper);
    });
}

/// A packet filter that has all rules and takes no port.
#[derive(Debug)]
struct Refusing;

impl Firewall for Refusing {
    fn exists(&self) -> Result<bool> {
        Ok(false)
    }

    fn replace(&self, _: &Rules) -> Result<()> {
        Ok(())
    }

    fn add(&self, rules: &Rules) -> Result<()> {
        if rules.forwards.is_empty() {
            Ok(())
        } else {
            "no".parse::<MacAddress>().map(drop)
        }
    }

    fn remove(&self, _: &Rules) -> Result<()> {
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(())
    }

    fn foreign_drops(&self) -> Result<Vec<ForeignDrop>> {
        Ok(Vec::new())
    }
}

#[test]
fn privileged_refused_port_undoes_the_link() {
    privileged(|world| {
        let before = world.traces();
        let mut options = options(world.directory.path());
        options.firewall = Arc::new(Refusing);
        let networks = Networks::open(options).unwrap();
        let netns = netns::create().unwrap();
        let bridge = networks.get("bridge").unwrap();
        let error = bridge
            .attach(netns.as_fd(), &with_ports("c1", &["8080:80"]))
            .unwrap_err();
        assert_eq!(error.code(), "InvalidMacAddress");
        assert!(error.cleanup_errors().is_empty());
        assert!(!inside(&netns, || ip("-o link")).contains("eth0"));
        networks.release_idle().unwrap();
        world.assert_traces(&before);
    });
}

#[test]
fn privileged_hostile_names_are_refused_without_effect() {
    privileged(|world| {
        let netns = netns::create().unwrap();
        let before = world.traces();
        let long = "x".repeat(300);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../../etc",
            "a@b",
            "-a",
            "a b",
            "a\0b",
            "a\nb",
            &long,
        ] {
            let mut options = AttachOptions::new(name);
            let error = world.bridge().attach(netns.as_fd(), &options).unwrap_err();
            assert_eq!(error.code(), "InvalidContainer", "{name:?}");
            options = AttachOptions::new("c1");
            options.interface = name.to_owned();
            let error = world.bridge().attach(netns.as_fd(), &options).unwrap_err();
            assert_eq!(error.code(), "InvalidInterface", "{name:?}");
        }
        world.assert_traces(&before);
    });
}

#[test]
fn privileged_second_attachment_of_an_interface_is_refused() {
    privileged(|world| {
        let container = world.start("c1", &[]);
        let again = world
            .bridge()
            .attach(container.netns.as_fd(), &AttachOptions::new("c1"));
        assert_eq!(again.unwrap_err().code(), "AttachmentExists");
        assert_eq!(
            world.bridge().attachments().unwrap(),
            [container.attached.attachment]
        );
    });
}

#[test]
fn privileged_stale_link_is_replaced() {
    privileged(|world| {
        let first = world.start("c1", &[]);
        let name = first.attached.attachment.host_interface.clone();
        // Its namespace lives on, so that its link does too.
        world.bridge().detach("c1", "eth0").unwrap();
        assert!(ip("-o link").contains(&name));
        let second = world.start("c1", &[]);
        assert_eq!(second.attached.attachment.host_interface, name);
        assert_ne!(second.address(), first.address());
        let links = inside(&first.netns, || ip("-o link"));
        assert!(!links.contains("eth0"), "{links}");
    });
}

#[test]
fn privileged_two_hundred_at_once_get_different_addresses() {
    const THREADS: usize = 20;
    const EACH: usize = 10;
    privileged(|world| {
        let barrier = Barrier::new(THREADS);
        let addresses: Vec<_> = thread::scope(|scope| {
            let attach = |thread: usize| {
                barrier.wait();
                let start = |number| world.start(&format!("c{thread}-{number}"), &["80"]);
                (0..EACH).map(start).collect::<Vec<_>>()
            };
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || attach(thread)))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let distinct: HashSet<_> = addresses.iter().map(Container::address).collect();
        assert_eq!(distinct.len(), THREADS * EACH);
        let ports: HashSet<_> = addresses
            .iter()
            .map(|container| container.host_port(0))
            .collect();
        assert_eq!(ports.len(), THREADS * EACH);
        assert_eq!(world.networks.attachments().unwrap().len(), THREADS * EACH);
    });
}

#[test]
fn privileged_sixteen_threads_attach_and_detach() {
    privileged(|world| {
        let before = world.traces();
        thread::scope(|scope| {
            for thread in 0..16 {
                let world = &world;
                scope.spawn(move || {
                    for round in 0..8 {
                        let name = format!("c{thread}");
                        let container = world.start(&name, &["80", "53/udp"]);
                        if round % 2 == 0 {
                            world.bridge().disconnect(&name, "eth0").unwrap();
                        } else {
                            drop(container);
                            world.bridge().detach(&name, "eth0").unwrap();
                        }
                        if thread == 0 {
                            world.networks.release_idle().unwrap();
                        }
                    }
                });
            }
        });
        world.networks.release_idle().unwrap();
        world.assert_traces(&before);
    });
}

#[test]
fn privileged_thread_of_another_namespace_is_refused() {
    privileged(|world| {
        let netns = netns::create().unwrap();
        let error = inside(&world.outside, || {
            world
                .bridge()
                .attach(netns.as_fd(), &AttachOptions::new("c1"))
                .unwrap_err()
        });
        assert_eq!(error.code(), "OtherNamespace");
        assert_eq!(error.kind(), ErrorKind::InvalidState);
    });
}
