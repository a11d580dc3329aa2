//! Mounts in user namespaces, and mounts whose ids are mapped.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use container_core::{ErrorKind, Launcher};
use serde_json::{Value, json};

use crate::attributes::edit;
use crate::mounts::{HostMount, add_mount, bind, options_of, shell_with};
use crate::namespaces::add_user_namespace;
use crate::support::bundle::{piped, run, stdout_of, try_run, with_bundle};

/// A map of one id, which both sides of a mount have.
fn map(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

#[test]
fn privileged_ids_of_mounts_are_mapped() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        // On the file system of the sources, and in memory.
        let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let memory = HostMount::new(place.dir().join("memory"), &[]);
        for dir in [disk.path(), &memory.0] {
            let _sub = HostMount::new(dir.join("sub"), &[]);
            for path in ["", "sub"] {
                fs::write(dir.join(path).join("file"), "").unwrap();
                chown(dir.join(path).join("file"), Some(1000), Some(1001)).unwrap();
                chown(dir.join(path), Some(1000), Some(1001)).unwrap();
            }
            let script =
                "stat -c %u:%g /d/file /d/sub/file; touch /d/new 2>/dev/null; stat -c %u:%g /d/new";
            let mounted = |options: &[&str], maps: Option<(Value, Value)>, user: (u32, u32)| {
                let spec = edit(&bundle.shell(script), |spec| {
                    let mut mount = bind(dir, "/d", options);
                    if let Some((uid, gid)) = maps {
                        mount["uidMappings"] = uid;
                        mount["gidMappings"] = gid;
                    }
                    add_mount(spec, mount);
                    spec["process"]["user"] = json!({"uid": user.0, "gid": user.1});
                });
                let said = run(&Launcher::new(), &spec).stdout;
                let new = fs::metadata(dir.join("new")).map(|it| (it.uid(), it.gid()));
                let _ = fs::remove_file(dir.join("new"));
                (said, new.ok())
            };
            let maps = || Some((map(1000, 5000, 10), map(1001, 6001, 10)));
            let seen = "5000:6001\n1000:1001\n5000:6001\n".to_owned();
            let (said, new) = mounted(&["rbind", "idmap"], maps(), (5000, 6001));
            assert_eq!((said, new), (seen, Some((1000, 1001))), "{dir:?}");
            let seen = "5000:6001\n5000:6001\n5000:6001\n".to_owned();
            let (said, new) = mounted(&["rbind", "ridmap"], maps(), (5000, 6001));
            assert_eq!((said, new), (seen, Some((1000, 1001))), "{dir:?}");
            // Without an option the maps count, too; other ids are nobody's.
            let maps = || Some((map(0, 5000, 1), map(0, 6000, 1)));
            let (said, new) = mounted(&["bind"], maps(), (5000, 6000));
            assert!(said.starts_with("65534:65534\n"), "{said}");
            assert_eq!(new, None, "{dir:?}");
        }
    });
}

#[test]
fn privileged_mounts_take_the_ids_of_the_containers_user_namespace() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(bundle.root().join("d")).unwrap();
        let memory = HostMount::new(place.dir().join("memory"), &[]);
        let private = memory.0.join("private");
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(private.join("file"), "").unwrap();
        chown(private.join("file"), Some(1000), Some(7)).unwrap();
        let script = "stat -c %u:%g /d /d/file; touch /d/new && stat -c %u:%g /d/new";
        for (mapped, want) in [(true, "0:0\n1000:7\n0:0"), (false, "65534:65534")] {
            let options: &[&str] = if mapped {
                &["rbind", "idmap", "ro", "rw"]
            } else {
                &["rbind"]
            };
            let mut spec = shell_with(bundle, script, &[bind(&private, "/d", options)]);
            add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
            let output = run(&Launcher::new(), &spec);
            assert_eq!(output.stdout.trim_end(), want, "{output:?}");
        }
        let new = fs::metadata(private.join("new")).unwrap();
        assert_eq!((new.uid(), new.gid()), (0, 0));
        // Own maps, beside those of the container.
        let mut mount = bind(&private, "/d", &["rbind", "idmap"]);
        mount["uidMappings"] = map(1000, 100_005, 1);
        mount["gidMappings"] = map(7, 200_006, 1);
        let mut spec = shell_with(bundle, "stat -c %u:%g /d/file", &[mount]);
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        // The directory is nobody's now, and closed.
        fs::set_permissions(&private, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(stdout_of(&Launcher::new(), &spec), "5:6");
    });
}

#[test]
fn privileged_flags_of_the_host_stay_in_a_user_namespace() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(bundle.root().join("d")).unwrap();
        let data = HostMount::new(
            place.dir().join("data"),
            &["-o", "nosuid,nodev,noexec,noatime"],
        );
        for (options, want) in [
            (&["rbind"][..], "rw,nosuid,nodev,noexec,noatime"),
            (&["rbind", "ro"], "ro,nosuid,nodev,noexec,noatime"),
            (&["rbind", "rw", "nosuid"], "rw,nosuid,nodev,noexec,noatime"),
        ] {
            let script = "cat /proc/self/mountinfo";
            let mut spec = shell_with(bundle, script, &[bind(&data.0, "/d", options)]);
            add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
            let info = stdout_of(&Launcher::new(), &spec);
            assert_eq!(options_of(&info, "/d").0.join(","), want, "{options:?}");
        }
        // To take one away is refused by the kernel, and so the start is.
        for option in ["exec", "suid", "dev", "strictatime"] {
            let mount = bind(&data.0, "/d", &["rbind", option]);
            let mut spec = shell_with(bundle, "true", &[mount]);
            add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
            let error = try_run(&Launcher::new(), &spec, piped()).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::PermissionDenied,
                "{option}: {}",
                error.report()
            );
        }
    });
}

#[test]
fn privileged_kernel_file_systems_of_the_host_stand_in_where_no_new_ones_are_given() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let script = "ls /proc/self/status; ls -d /sys/kernel; touch /sys/kernel/x 2>&1 | grep -o Read-only; \
            cat /proc/self/mountinfo";
        let mut spec = edit(&bundle.shell(script), |spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|it| it["type"] != "network" && it["type"] != "pid");
            spec["linux"]["sysctl"] = Value::Null;
        });
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        let said = stdout_of(&Launcher::new(), &spec);
        assert!(said.contains("/proc/self/status\n"), "{said}");
        assert!(said.contains("/sys/kernel\n"), "{said}");
        assert!(said.contains("Read-only\n"), "{said}");
        for (path, want) in [
            ("/sys", "ro,nosuid,nodev,noexec,relatime"),
            ("/proc", "rw,nosuid,nodev,noexec,relatime"),
        ] {
            assert_eq!(options_of(&said, path).0.join(","), want, "{said}");
        }
        // The same asked for by name, as rootless engines do; nothing else passes for it.
        let by_name = |source: &str| {
            edit(
                &bundle.shell("ls -d /sys/kernel; ls /sys/firmware | wc -l"),
                |spec| {
                    let mounts = spec["mounts"].as_array_mut().unwrap();
                    mounts.retain(|it| !it["destination"].as_str().unwrap().starts_with("/sys"));
                    let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
                    add_mount(spec, bind(Path::new(source), "/sys", &options));
                },
            )
        };
        assert_eq!(
            stdout_of(&Launcher::new(), &by_name("/sys")),
            "/sys/kernel\n0"
        );
        let _fake = HostMount::new("/sys/fs/fuse".into(), &[]);
        let error = try_run(&Launcher::new(), &by_name("/sys/fs/fuse"), piped()).unwrap_err();
        assert_eq!(error.code(), "InvalidMount");
        let covered = HostMount::new("/sys".into(), &[]);
        let error = try_run(&Launcher::new(), &by_name("/sys"), piped()).unwrap_err();
        assert!(error.report().contains("on /sys"), "{}", error.report());
        drop(covered);
    });
}

#[test]
fn privileged_kernel_parameters_of_own_namespaces_can_be_set() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let domain = edit(&bundle.shell("cat /proc/sys/kernel/domainname"), |spec| {
            spec["linux"]["sysctl"] = json!({"kernel.domainname": "inside"});
        });
        assert_eq!(stdout_of(&Launcher::new(), &domain), "inside");
        let script = "cat /proc/sys/user/max_net_namespaces \
            /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/queues_max";
        let mut spec = edit(&bundle.shell(script), |_| {});
        add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
        spec = edit(&spec, |spec| {
            spec["linux"]["sysctl"] = json!({
                "user.max_net_namespaces": "3", "kernel.shmmni": "77", "fs.mqueue.queues_max": "5",
            });
        });
        let host = fs::read_to_string("/proc/sys/user/max_net_namespaces").unwrap();
        assert_eq!(stdout_of(&Launcher::new(), &spec), "3\n77\n5");
        let after = fs::read_to_string("/proc/sys/user/max_net_namespaces").unwrap();
        assert_eq!(host, after);
    });
}
