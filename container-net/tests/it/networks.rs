//! The set of networks and its documents.

use container_net::{AttachOptions, Driver, ErrorKind, Network, NetworkOptions, Networks, netns};
use std::os::fd::AsFd;

use crate::world::{Container, ip, options, privileged, run};

fn with_subnet(name: &str, subnet: &str) -> NetworkOptions {
    let mut options = NetworkOptions::new(name);
    options.subnet = Some(subnet.parse().unwrap());
    options
}

fn subnet(network: &Network) -> String {
    network.config().bridge.as_ref().unwrap().subnet.to_string()
}

#[test]
fn handles_are_shared_between_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Networks>();
    check::<Network>();
}

#[test]
fn privileged_three_networks_exist_from_the_start() {
    privileged(|world| {
        let networks = world.networks.list().unwrap();
        let known: Vec<_> = networks
            .iter()
            .map(|network| (network.name(), network.config().driver))
            .collect();
        let want = [
            ("bridge", Driver::Bridge),
            ("host", Driver::Host),
            ("none", Driver::Null),
        ];
        assert_eq!(known, want);
        assert_eq!(subnet(&networks[0]), "172.17.0.0/16");
        let gateway = networks[0].config().bridge.as_ref().unwrap().gateway;
        assert_eq!(gateway.to_string(), "172.17.0.1");
        for network in &networks {
            assert_eq!(network.config().id.len(), 64);
            let error = world.networks.remove(network.name()).unwrap_err();
            assert_eq!(error.code(), "PredefinedNetwork");
        }
        let netns = netns::create().unwrap();
        let error = networks[2]
            .attach(netns.as_fd(), &AttachOptions::new("c1"))
            .unwrap_err();
        assert_eq!(error.code(), "NotABridge");
        // Opening changes nothing in the kernel, and opens the same again.
        assert!(!ip("-o link").contains("container0"));
        let again = Networks::open(options(world.directory.path())).unwrap();
        assert_eq!(again.get("bridge").unwrap().config(), networks[0].config());
    });
}

#[test]
fn privileged_free_subnets_overlap_no_route_of_the_host() {
    privileged(|world| {
        ip("addr add 172.18.5.1/24 dev up0");
        ip("route add 172.19.0.0/17 via 10.99.0.2");
        ip("route add default via 10.99.0.2");
        let network = world.networks.create(&NetworkOptions::new("one")).unwrap();
        assert_eq!(subnet(&network), "172.20.0.0/16");
        let network = world.networks.create(&NetworkOptions::new("two")).unwrap();
        assert_eq!(subnet(&network), "172.21.0.0/16");
        world.networks.remove("one").unwrap();
        let network = world
            .networks
            .create(&NetworkOptions::new("three"))
            .unwrap();
        assert_eq!(subnet(&network), "172.20.0.0/16");
    });
}

#[test]
fn privileged_default_subnet_gives_way_to_the_host() {
    privileged(|world| {
        ip("route add 172.17.0.0/24 via 10.99.0.2");
        let other = world.directory.path().join("other");
        let networks = Networks::open(options(&other)).unwrap();
        assert_eq!(subnet(&networks.get("bridge").unwrap()), "172.18.0.0/16");
    });
}

#[test]
fn privileged_a_subnet_that_the_host_took_meanwhile_is_given_up() {
    privileged(|world| {
        let network = world.networks.get("bridge").unwrap();
        assert_eq!(subnet(&network), "172.17.0.0/16");
        ip("route add 172.17.5.0/24 via 10.99.0.2");
        let container = Container::start(&network, &AttachOptions::new("c1"));
        assert_eq!(container.address().to_string(), "172.18.0.2");
        // While it is in use it stays, whatever the host does.
        ip("route add 172.18.5.0/24 via 10.99.0.2");
        let second = Container::start(&network, &AttachOptions::new("c2"));
        assert_eq!(second.address().to_string(), "172.18.0.3");
        assert_eq!(
            subnet(&world.networks.get("bridge").unwrap()),
            "172.18.0.0/16"
        );
    });
}

#[test]
fn privileged_subnet_and_gateway_as_wanted_or_refused() {
    privileged(|world| {
        let mut wish = with_subnet("good", "172.25.3.4/24");
        wish.gateway = Some("172.25.3.254".parse().unwrap());
        let network = world.networks.create(&wish).unwrap();
        assert_eq!(subnet(&network), "172.25.3.0/24");
        let container = Container::start(&network, &AttachOptions::new("c1"));
        assert_eq!(container.address().to_string(), "172.25.3.1");
        assert_eq!(
            container.attached.attachment.gateway.to_string(),
            "172.25.3.254"
        );

        for (name, subnet, code) in [
            ("bad", "172.25.0.0/16", "SubnetOverlap"),
            ("bad", "10.99.0.128/25", "SubnetOverlap"),
            ("bad", "172.17.9.0/24", "SubnetOverlap"),
            ("bad", "127.0.0.0/8", "InvalidSubnet"),
            ("bad", "172.26.0.0/31", "InvalidSubnet"),
            ("good", "172.26.0.0/24", "NetworkExists"),
            ("none", "172.26.0.0/24", "NetworkExists"),
            ("../bad", "172.26.0.0/24", "InvalidName"),
            ("", "172.26.0.0/24", "InvalidName"),
        ] {
            let error = world
                .networks
                .create(&with_subnet(name, subnet))
                .unwrap_err();
            assert_eq!(error.code(), code, "{name} {subnet}");
        }
        let mut wish = with_subnet("bad", "172.26.0.0/24");
        wish.gateway = Some("172.27.0.1".parse().unwrap());
        assert_eq!(
            world.networks.create(&wish).unwrap_err().code(),
            "AddressOutside"
        );
        assert_eq!(world.networks.list().unwrap().len(), 4);
    });
}

#[test]
fn privileged_network_is_found_by_id_and_removed_when_unused() {
    privileged(|world| {
        let before = world.traces();
        let network = world.networks.create(&NetworkOptions::new("mine")).unwrap();
        let id = &network.config().id;
        assert_eq!(world.networks.get(&id[..12]).unwrap().name(), "mine");
        assert_eq!(
            world.networks.get("nothing").unwrap_err().code(),
            "NoSuchNetwork"
        );
        assert_eq!(world.networks.get("").unwrap_err().code(), "NoSuchNetwork");

        let container = Container::start(&network, &AttachOptions::new("c1"));
        assert!(ip("-o link").contains(&format!("ce-{}", &id[..12])));
        let error = world.networks.remove("mine").unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Busy, "NetworkInUse")
        );
        assert!(error.report().contains("c1"), "{}", error.report());
        drop(container);
        network.detach("c1", "eth0").unwrap();
        world.networks.remove("mine").unwrap();
        world.networks.remove("mine").unwrap();
        world.assert_traces(&before);
        let netns = netns::create().unwrap();
        let error = network
            .attach(netns.as_fd(), &AttachOptions::new("c1"))
            .unwrap_err();
        assert_eq!(error.code(), "NoSuchNetwork");
        world.assert_traces(&before);
    });
}

#[test]
fn privileged_small_subnet_is_used_to_the_last_address() {
    privileged(|world| {
        let network = world
            .networks
            .create(&with_subnet("small", "172.28.0.0/29"))
            .unwrap();
        let start = |name: &str| Container::start(&network, &AttachOptions::new(name));
        let mut containers: Vec<_> = ["a", "b", "c", "d", "e"].map(start).into();
        let netns = netns::create().unwrap();
        let error = network
            .attach(netns.as_fd(), &AttachOptions::new("f"))
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Busy, "NoFreeAddress")
        );
        let freed = containers.remove(2);
        network.detach("c", "eth0").unwrap();
        assert_eq!(start("f").address(), freed.address());
    });
}

#[test]
fn privileged_links_and_tables_of_others_are_not_touched() {
    privileged(|world| {
        ip("link add container0 type bridge");
        let netns = netns::create().unwrap();
        let attach = || {
            world
                .bridge()
                .attach(netns.as_fd(), &AttachOptions::new("c1"))
        };
        let error = attach().unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Busy, "InterfaceTaken")
        );
        world.networks.recover(&|_| false).unwrap();
        assert!(ip("-o link").contains("container0"));
        ip("link delete container0");

        run("nft", "add table inet container_engine");
        let error = attach().unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Busy, "TableTaken")
        );
        world.networks.recover(&|_| false).unwrap();
        assert!(run("nft", "list tables").contains("container_engine"));
        assert!(!ip("-o link").contains("container0"));
        run("nft", "delete table inet container_engine");
        drop(attach().unwrap());
    });
}

#[test]
fn privileged_broken_document_spoils_no_other() {
    privileged(|world| {
        world.networks.create(&NetworkOptions::new("mine")).unwrap();
        let path = world.directory.path().join("state/mine.json");
        for content in ["", "{\"version\":1,\"id\":\"12", "{\"version\":2}"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(
                world.networks.get("mine").unwrap_err().code(),
                "BrokenDocument"
            );
            assert_eq!(world.networks.list().unwrap().len(), 3);
            drop(world.start("c1", &[]));
            world.bridge().detach("c1", "eth0").unwrap();
        }
        // One that was used before leaves no bridge.
        let network = world.networks.create(&NetworkOptions::new("used")).unwrap();
        let container = Container::start(&network, &AttachOptions::new("c2"));
        std::fs::write(world.directory.path().join("state/used.json"), "{").unwrap();
        assert_eq!(
            world.networks.remove("used").unwrap_err().code(),
            "NetworkInUse"
        );
        world.networks.recover(&|_| true).unwrap();
        assert!(ip("-o link").contains("ce-"));
        drop(container);
        world.networks.recover(&|_| false).unwrap();
        world.networks.remove("mine").unwrap();
        world.networks.remove("used").unwrap();
        assert!(!path.exists());
        world.assert_traces(&[]);
    });
}
