//! Namespaces themselves.

use std::os::fd::{AsFd, OwnedFd};

use container_net::netns;

use crate::world::{inside, ip, privileged};

fn identity(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

#[test]
fn privileged_work_elsewhere_does_not_move_the_caller() {
    privileged(|_| {
        let here = identity(&netns::current().unwrap());
        let other = netns::create().unwrap();
        let there = inside(&other, || identity(&netns::current().unwrap()));
        assert_eq!(there, identity(&other));
        assert_eq!(identity(&netns::current().unwrap()), here);
        assert_ne!(there, here);
    });
}

#[test]
fn privileged_pinned_namespace_outlives_its_descriptor() {
    privileged(|world| {
        let path = world.directory.path().join("pinned");
        let netns = netns::create().unwrap();
        inside(&netns, || ip("link add mark0 type bridge"));
        netns::pin(netns.as_fd(), &path).unwrap();
        drop(netns);
        let again = OwnedFd::from(std::fs::File::open(&path).unwrap());
        assert!(inside(&again, || ip("-o link")).contains("mark0"));
        assert!(netns::pin(again.as_fd(), &path).is_err());
        netns::unpin(&path).unwrap();
        netns::unpin(&path).unwrap();
        assert!(!path.exists());
    });
}

#[test]
fn privileged_loopback_alone() {
    privileged(|_| {
        let netns = netns::create().unwrap();
        netns::set_loopback_up(netns.as_fd()).unwrap();
        let links = inside(&netns, || ip("-o link"));
        assert!(links.contains("LOOPBACK,UP"), "{links}");
        assert_eq!(links.lines().count(), 1, "{links}");
    });
}

#[test]
fn privileged_descriptor_of_something_else_is_refused() {
    privileged(|_| {
        let file = OwnedFd::from(std::fs::File::open("/proc/self/ns/mnt").unwrap());
        let error = netns::run_in(file.as_fd(), || Ok(())).unwrap_err();
        assert_eq!(error.code(), "NotANetworkNamespace");
    });
}
