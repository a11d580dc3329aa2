//! Containers that share namespaces and a cgroup.

use std::fs;

use container_core::oci_spec::runtime::{LinuxPids, LinuxResources, Spec};
use container_core::userns::{IdMap, IdRange};
use container_core::{Container, CreateOptions, Launcher, Pod, PodOptions, Signal, Stdio};

use crate::rootless::{Settled, as_plain_user, playing};
use crate::support::bundle::{Bundle, edit_linux, read_until, stdout_of, with_bundle};
use crate::support::host::cgroups;
use crate::support::peers;
use crate::support::role::wait_until;

fn member(pod: &Pod, bundle: &Bundle, script: &str) -> Spec {
    let mut spec = bundle.shell(script);
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(None);
    });
    pod.adapt(&mut spec).expect("adapt");
    spec
}

/// The namespace of the first process.
fn namespace(container: &Container, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{}/ns/{name}", container.pid())).expect("a link");
    link.to_string_lossy().into_owned()
}

fn running(launcher: &Launcher, spec: &Spec) -> Container {
    let mut options = CreateOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
    let mut container = launcher.create(spec, options).expect("create");
    container.start().expect("start");
    read_until(&mut container.take_stdout().expect("piped"), "ready\n");
    container
}

const NAMESPACES: &str = "for n in net ipc uts pid user mnt; do readlink /proc/self/ns/$n; done";

#[test]
fn privileged_containers_of_a_pod_share_network_messages_and_name() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let mut options = PodOptions::default();
        options.hostname = Some("pod".into());
        let pod = launcher.create_pod(options).expect("create a pod");
        let server = "ipcmk -Q > /dev/null 2>&1; nc -l -p 80 -e echo hello &
            sleep 0.3; echo ready; exec sleep 600";
        let first = running(&launcher, &member(&pod, bundle, server));
        let script = format!("{NAMESPACES}; hostname; nc 127.0.0.1 80; echo $$");
        let said = stdout_of(&launcher, &member(&pod, bundle, &script));
        let said: Vec<_> = said.lines().collect();
        let of = |name| namespace(&first, name);
        assert_eq!(said[..3], [of("net"), of("ipc"), of("uts")]);
        assert_ne!(said[3], of("pid"), "their processes are their own");
        assert_ne!(said[5], of("mnt"), "so are their files");
        assert_eq!(said[6..], ["pod", "hello", "1"]);
        // Nothing idles for the pod, and what it shares outlives every container.
        first.kill(Signal::KILL).expect("kill");
        first.wait().expect("wait");
        let again = stdout_of(&launcher, &member(&pod, bundle, NAMESPACES));
        assert_eq!(again.lines().take(3).collect::<Vec<_>>(), said[..3]);
        let ports = container_core::in_netns(pod.network_namespace(), || {
            fs::read_to_string("/proc/thread-self/net/tcp")
                .expect("read")
                .lines()
                .count()
        });
        assert!(ports.expect("enter") >= 1);
        pod.remove().expect("remove");
    });
}

#[test]
fn privileged_containers_of_a_pod_can_share_processes_and_users() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(
            place.dir(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .expect("open");
        let launcher = Launcher::new();
        let range = IdRange {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        };
        let mut options = PodOptions::default();
        options.share_pids = true;
        options.users = Some(IdMap {
            users: vec![range],
            groups: vec![range],
        });
        let pod = launcher.create_pod(options).expect("create a pod");
        let first = running(
            &launcher,
            &member(&pod, bundle, "echo ready; exec sleep 606"),
        );
        let script = format!(
            "{NAMESPACES}; id -u; ps -o args | grep -c 'sleep 60[6]'; cut -d' ' -f2 /proc/1/stat
             ls /proc/1/root 2>&1 | grep -c denied; sh -c 'sleep 0.1 & exec true'; sleep 0.5
             grep -l 'Z (zombie)' /proc/[0-9]*/status 2>/dev/null | wc -l"
        );
        let said = stdout_of(&launcher, &member(&pod, bundle, &script));
        let said: Vec<_> = said.lines().collect();
        let of = |name| namespace(&first, name);
        assert_eq!(said[3..5], [of("pid"), of("user")]);
        assert_eq!(said[6..], ["0", "1", "(ctr-init)", "1", "0"]);
        drop(first);
        // The end of the pod is the end of all that is in it.
        let left = running(
            &launcher,
            &member(&pod, bundle, "echo ready; exec sleep 607"),
        );
        pod.remove().expect("remove");
        let status = left.wait().expect("wait");
        assert_eq!(status.signal(), Some(9));
    });
}

#[test]
fn privileged_containers_of_a_pod_are_limited_together() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let mut options = PodOptions::default();
        let mut pids = LinuxPids::default();
        pids.set_limit(4);
        let mut resources = LinuxResources::default();
        resources.set_pids(Some(pids));
        options.resources = resources;
        options.cgroup = Some(format!("{}/pod", place.cgroup()));
        let pod = launcher.create_pod(options).expect("create a pod");
        let spec = |name: &str, script: &str| {
            let mut spec = bundle.shell(script);
            edit_linux(&mut spec, |linux| {
                linux.set_cgroups_path(Some(format!("/elsewhere/{name}").into()));
            });
            pod.adapt(&mut spec).expect("adapt");
            spec
        };
        let one = running(
            &launcher,
            &spec("one", "sleep 600 & echo ready; exec sleep 601"),
        );
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", one.pid())).expect("read");
        assert!(
            groups.contains(&format!("{}/pod/one", place.cgroup())),
            "{groups}"
        );
        // Two of four are taken.
        let two = spec("two", "sleep 602 & sleep 603 & sleep 604 & wait");
        let mut options = CreateOptions::default();
        options.stdio = [Stdio::Null, Stdio::Null, Stdio::Piped];
        let mut two = launcher.create(&two, options).expect("create");
        two.start().expect("start");
        read_until(&mut two.take_stderr().expect("piped"), "can't fork");
        for container in [&one, &two] {
            container.kill(Signal::KILL).expect("kill");
            container.wait().expect("wait");
        }
        pod.remove().expect("remove");
        wait_until("the removal", || cgroups("pod").is_empty());
    });
}

#[test]
fn role_plain_users_pod() {
    let Some(bundle) = playing("pods::role_plain_users_pod") else {
        return;
    };
    let launcher = Launcher::new();
    for share_pids in [false, true] {
        let mut options = PodOptions::default();
        options.hostname = Some("pod".into());
        options.share_pids = share_pids;
        options.users = Some(IdMap::subordinate().expect("there are some"));
        let pod = launcher.create_pod(options).expect("create a pod");
        let spec = |script: &str| {
            let mut spec = member(&pod, &bundle, script);
            edit_linux(&mut spec, |linux| {
                linux.set_resources(None);
            });
            spec
        };
        let first = running(
            &launcher,
            &spec("nc -l -p 80 -e echo hello & echo ready; exec sleep 600"),
        );
        let said = stdout_of(
            &launcher,
            &spec("sleep 0.5; nc 127.0.0.1 80; hostname; id -u"),
        );
        assert_eq!(said, "hello\npod\n0", "{share_pids}");
        drop(first);
        pod.remove().expect("remove");
    }
}

#[test]
fn privileged_plain_user_has_pods() {
    with_bundle!(|place, bundle| {
        if peers::find("newuidmap").is_none() {
            return;
        }
        let _settled = Settled::new(place, bundle, "container-test:100000:65536\n");
        as_plain_user(place, "pods::role_plain_users_pod");
    });
}
