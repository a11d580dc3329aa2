//! What a container sees of the world, and the world of it: new namespaces, joined ones, and those of the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use container_core::oci_spec::runtime::{
    LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Spec,
};
use container_core::{CreateOptions, Launcher, Signal, capability};

use crate::support::bundle::{
    Bundle, edit_linux, edit_process, piped, run, set_namespace, stdout_of, try_run, with_bundle,
};
use crate::support::{role, sys};

/// The classic way out of a chroot: keep a directory open, enter a deeper root, and climb from the open one.
#[test]
fn role_climber() {
    if !role::plays("namespaces::role_climber") {
        return;
    }
    fs::create_dir_all("/tmp/deep").expect("make a directory");
    std::os::unix::fs::chroot("/tmp/deep").expect("it has CAP_SYS_CHROOT");
    for _ in 0..100 {
        std::env::set_current_dir("..").expect("go up");
    }
    std::os::unix::fs::chroot(".").expect("leave the inner root");
    for name in ["/probe", "/mark-of-the-host"] {
        role::say(format!("{name} {}", Path::new(name).exists()));
    }
}

#[test]
fn privileged_climber_stays_inside() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let mark = Path::new("/tmp/mark-of-the-host");
        fs::write(mark, "").unwrap();
        let (arguments, variable) = role::arguments("namespaces::role_climber");
        let mut command = vec!["/probe"];
        command.extend(arguments.iter().map(String::as_str));
        let mut spec = bundle.spec(&command);
        edit_process(&mut spec, |process| {
            process.set_env(Some(vec![variable]));
        });
        let output = run(&Launcher::new(), &spec);
        let said = role::said(&output.stdout);
        assert_eq!(
            said,
            ["/probe true", "/mark-of-the-host false"],
            "{output:?}"
        );
        // And the host's tree is not there to be found: its mounts are gone.
        let mounts = stdout_of(
            &Launcher::new(),
            &bundle.spec(&["cat", "/proc/self/mountinfo"]),
        );
        let roots = mounts
            .lines()
            .filter(|line| line.split(' ').nth(4) == Some("/"));
        assert_eq!(roots.count(), 1, "{mounts}");
        fs::remove_file(mark).unwrap();
    });
}

const NAMESPACES: [(LinuxNamespaceType, &str); 6] = [
    (LinuxNamespaceType::Mount, "mnt"),
    (LinuxNamespaceType::Pid, "pid"),
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::Cgroup, "cgroup"),
];

fn namespace_of(pid: impl std::fmt::Display, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("read a namespace");
    link.to_string_lossy().into_owned()
}

#[test]
fn privileged_namespaces_are_new_or_joined_as_asked() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let start = |mut spec: Spec| {
            spec.set_hostname(None);
            let container = launcher.create(&spec, CreateOptions::default()).unwrap();
            container.start().unwrap();
            container
        };
        let first = start(bundle.spec(&["sleep", "600"]));
        for (_, name) in NAMESPACES {
            assert_ne!(
                namespace_of(first.pid(), name),
                namespace_of("self", name),
                "{name}"
            );
        }
        assert_eq!(
            namespace_of(first.pid(), "user"),
            namespace_of("self", "user")
        );
        let status = fs::read_to_string(format!("/proc/{}/status", first.pid())).unwrap();
        let pids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap();
        assert_eq!(
            pids.split_whitespace().collect::<Vec<_>>(),
            [&first.pid().to_string(), "1"]
        );

        for (kind, name) in NAMESPACES.into_iter().skip(1) {
            for path in [Some(format!("/proc/{}/ns/{name}", first.pid())), None] {
                let mut spec = bundle.spec(&["sleep", "600"]);
                set_namespace(&mut spec, kind, path.as_deref());
                let second = start(spec);
                let want = match path {
                    Some(_) => namespace_of(first.pid(), name),
                    None => namespace_of("self", name),
                };
                assert_eq!(namespace_of(second.pid(), name), want, "{name} {path:?}");
                for (_, other) in NAMESPACES.into_iter().filter(|(_, other)| *other != name) {
                    let own = namespace_of(second.pid(), other);
                    assert_ne!(own, namespace_of("self", other), "{other}");
                    assert_ne!(own, namespace_of(first.pid(), other), "{other}");
                }
                second.kill(Signal::KILL).unwrap();
                second.wait().unwrap();
            }
        }
        first.kill(Signal::KILL).unwrap();
        first.wait().unwrap();
    });
}

#[test]
fn privileged_joined_namespace_of_another_kind_is_refused() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.spec(&["true"]);
        set_namespace(
            &mut spec,
            LinuxNamespaceType::Ipc,
            Some("/proc/self/ns/net"),
        );
        let result = try_run(&Launcher::new(), &spec, piped());
        let report = result.unwrap_err().report();
        assert!(report.contains("setns"), "{report}");
    });
}

#[test]
fn privileged_names_and_messages_stay_inside() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let host = rustix::system::uname().nodename().to_owned();
        let mut spec = bundle.shell("hostname; cat /proc/sys/kernel/domainname; ipcs -q | tail -n +4; ls -A /dev/mqueue /dev/shm");
        spec.set_hostname(Some("inner".into()));
        spec.set_domainname(Some("example".into()));
        let seen = stdout_of(&launcher, &spec);
        assert!(seen.starts_with("inner\nexample\n"), "{seen}");
        assert_eq!(rustix::system::uname().nodename(), host.as_c_str());
        // A queue of the host's is in none of them.
        let queue = sys::call(libc::SYS_msgget, [libc::IPC_PRIVATE as u64, 0o600, 0, 0]).unwrap();
        let table = fs::read_to_string("/proc/sysvipc/msg").unwrap();
        assert!(table.lines().count() > 1, "control: {table}");
        let inside = stdout_of(&launcher, &bundle.spec(&["cat", "/proc/sysvipc/msg"]));
        sys::call(
            libc::SYS_msgctl,
            [queue as u64, libc::IPC_RMID as u64, 0, 0],
        )
        .unwrap();
        assert_eq!(inside.lines().count(), 1, "{inside}");
    });
}

#[test]
fn privileged_processes_of_the_host_are_unseen() {
    with_bundle!(|_, bundle| {
        let seen = stdout_of(
            &Launcher::new(),
            &bundle.shell("ls /proc | grep '^[0-9]' | wc -l; kill -0 2 || echo none; echo $$"),
        );
        let lines: Vec<_> = seen.lines().collect();
        assert_eq!(lines[1..], ["none", "1"]);
        assert!(lines[0].parse::<u32>().unwrap() <= 5, "{seen}");
    });
}

/// Puts the container in a new user namespace with these maps of users and groups.
pub(crate) fn add_user_namespace(spec: &mut Spec, uid: u32, gid: u32, size: u32) {
    edit_linux(spec, |linux| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(LinuxNamespaceType::User);
        namespace.set_path(None);
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.push(namespace);
        linux.set_namespaces(Some(namespaces));
        let map = |host| {
            let map = LinuxIdMappingBuilder::default()
                .container_id(0_u32)
                .host_id(host)
                .size(size)
                .build()
                .expect("nothing is missing");
            Some(vec![map])
        };
        linux.set_uid_mappings(map(uid));
        linux.set_gid_mappings(map(gid));
        // It writes the range of mapped groups only.
        linux.set_sysctl(None);
        linux.set_cgroups_path(None);
    });
}

#[test]
fn privileged_root_of_a_user_namespace_is_somebody_else_outside() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(
            bundle.root().join("tmp"),
            fs::Permissions::from_mode(0o1777),
        )
        .unwrap();
        fs::write(bundle.root().join("of-the-host"), "").unwrap();
        let mut spec = bundle.shell(
            "id -u; id -g; touch /tmp/mine; stat -c %u /of-the-host; echo x > /of-the-host; \
             cat /dev/null; echo x > /dev/null; mknod /tmp/disk b 8 0; grep CapEff /proc/self/status",
        );
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        let seen = run(&Launcher::new(), &spec);
        let default = format!("CapEff:\t{:016x}", capability::DEFAULT);
        assert_eq!(seen.stdout, format!("0\n0\n65534\n{default}\n"), "{seen:?}");
        let mine = fs::metadata(bundle.root().join("tmp/mine")).unwrap();
        assert_eq!((mine.uid(), mine.gid()), (100_000, 200_000));
        assert!(!bundle.root().join("tmp/disk").exists());
        assert_eq!(fs::read(bundle.root().join("of-the-host")).unwrap(), b"");
    });
}

/// A plain user with a container in a user namespace, without any privilege outside.
#[test]
fn role_plain_user() {
    if !role::plays("namespaces::role_plain_user") {
        return;
    }
    let bundle = Bundle::existing(Path::new("/srv/work/root"));
    let mut spec = bundle
        .shell("id -u; cat /proc/self/uid_map | tr -s ' '; touch /tmp/mine; ls /proc/self/fd");
    add_user_namespace(&mut spec, 4242, 4242, 1);
    let output = try_run(&Launcher::new(), &spec, piped());
    role::say(format!("{output:?}"));
}

#[test]
fn privileged_plain_user_runs_a_container() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(
            bundle.root().join("tmp"),
            fs::Permissions::from_mode(0o1777),
        )
        .unwrap();
        let mut user = role::command("namespaces::role_plain_user")
            .uid(4242)
            .gid(4242)
            .spawn()
            .unwrap();
        let said = role::hear(&mut user);
        assert!(user.wait().unwrap().success());
        assert!(
            said.contains(r#"stdout: "0\n 0 4242 1\n0\n1\n2\n3\n""#),
            "{said}"
        );
        let mine = fs::metadata(bundle.root().join("tmp/mine")).unwrap();
        assert_eq!((mine.uid(), mine.gid()), (4242, 4242));
    });
}
