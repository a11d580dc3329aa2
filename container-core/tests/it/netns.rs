//! Work of the host in the network namespaces of containers.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use container_core::oci_spec::runtime::LinuxNamespaceType;
use container_core::{Container, CreateOptions, ErrorKind, Launcher, in_netns};

use crate::support::bundle::{Bundle, piped, read_until, set_namespace, with_bundle};
use crate::support::peers;

fn namespace() -> u64 {
    let path = "/proc/thread-self/ns/net";
    fs::metadata(path).expect("a namespace").ino()
}

fn sleeper(bundle: &Bundle) -> Container {
    let spec = bundle.spec(&["sleep", "600"]);
    let container = Launcher::new().create(&spec, CreateOptions::default());
    let container = container.expect("create");
    container.start().expect("start");
    container
}

#[test]
fn privileged_sockets_of_a_container_are_listed_by_a_tool_of_the_host() {
    with_bundle!(|_, bundle| {
        let Some(ss) = peers::find("ss") else {
            return;
        };
        let ss = |state: &str| {
            let output = Command::new(&ss)
                .args(["-Htn", "state", state])
                .output()
                .expect("run ss");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let script = "nc -l -p 8042 -e sleep 600 & sleep 0.3; nc 127.0.0.1 8042 < /dev/zero &
            sleep 0.5; echo ready; wait";
        let mut container = Launcher::new()
            .create(&bundle.shell(script), piped())
            .expect("create");
        container.start().expect("start");
        read_until(&mut container.take_stdout().expect("piped"), "ready\n");
        let inside = container.in_netns(|| ss("established")).expect("enter");
        assert_eq!(inside.lines().count(), 2, "{inside}");
        assert!(inside.lines().all(|line| line.contains(":8042")));
        assert_eq!(ss("established"), "", "the host has none of them");
    });
}

#[test]
fn privileged_only_the_closure_is_in_the_network_namespace() {
    with_bundle!(|_, bundle| {
        let container = sleeper(bundle);
        let before = namespace();
        let theirs = fs::metadata(format!("/proc/{}/ns/net", container.pid())).unwrap();
        let mut seen = 0;
        let listener = container.in_netns(|| {
            seen = namespace();
            TcpListener::bind("127.0.0.1:80")
        });
        let listener = listener.expect("enter").expect("bind");
        assert_eq!((seen, namespace()), (theirs.ino(), before));
        assert_ne!(before, theirs.ino());
        // The socket stays where it was made.
        let address = listener.local_addr().unwrap();
        assert!(TcpStream::connect(address).is_err());
        let connected = container.in_netns(|| TcpStream::connect(address).is_ok());
        assert!(connected.expect("enter"));
        // One of two containers with a common namespace leads there too.
        let path = format!("/proc/{}/ns/net", container.pid());
        let mut spec = bundle.spec(&["sleep", "600"]);
        set_namespace(&mut spec, LinuxNamespaceType::Network, Some(&path));
        let other = Launcher::new().create(&spec, CreateOptions::default());
        let other = other.expect("create");
        other.start().expect("start");
        assert_eq!(other.in_netns(namespace).expect("enter"), theirs.ino());
    });
}

#[test]
fn privileged_panics_and_errors_come_back_from_a_network_namespace() {
    with_bundle!(|place, bundle| {
        let container = sleeper(bundle);
        let panic = catch_unwind(AssertUnwindSafe(|| {
            container.in_netns(|| panic!("as it should"))
        }));
        let panic = panic.expect_err("it panics").downcast::<&str>();
        assert_eq!(*panic.expect("its own words"), "as it should");
        let error = in_netns(File::open(place.dir()).unwrap(), || ()).expect_err("a directory");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidInput, "NotANamespace")
        );
        container.kill(container_core::Signal::KILL).expect("kill");
        container.wait().expect("wait");
        // The namespace outlives the container while somebody holds it.
        assert!(container.in_netns(|| ()).is_ok());
    });
}
