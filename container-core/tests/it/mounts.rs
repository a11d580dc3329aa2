//! Mounts of a spec, by what they do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use container_core::oci_spec::runtime::{Mount, Spec};
use container_core::{CreateOptions, ErrorKind, Launcher, Signal, Stdio};
use serde_json::{Value, json};

use crate::attributes::edit;
use crate::namespaces::add_user_namespace;
use crate::support::bundle::{
    Bundle, finish, piped, read_until, run, stdout_of, try_run, with_bundle,
};

/// Capabilities with which a test may mount inside.
pub(crate) fn allow_mounts(spec: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set]
            .as_array_mut()
            .expect("a list")
            .push(json!("CAP_SYS_ADMIN"));
    }
    spec["linux"]["seccomp"] = Value::Null;
}

pub(crate) fn add_mount(spec: &mut Value, mount: Value) {
    spec["mounts"].as_array_mut().expect("a list").push(mount);
}

pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "source": source, "type": "bind", "options": options})
}

pub(crate) fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "source": "tmpfs", "type": "tmpfs", "options": options})
}

/// A shell with these mounts beside the default ones.
pub(crate) fn shell_with(bundle: &Bundle, script: &str, mounts: &[Value]) -> Spec {
    edit(&bundle.shell(script), |spec| {
        mounts
            .iter()
            .for_each(|mount| add_mount(spec, mount.clone()));
    })
}

/// What the shell says with these mounts.
pub(crate) fn said(bundle: &Bundle, script: &str, mounts: &[Value]) -> String {
    stdout_of(&Launcher::new(), &shell_with(bundle, script, mounts))
}

fn host(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(
        status.expect("run a program").success(),
        "{program} {arguments:?}"
    );
}

/// A tmpfs of the host that goes with the value.
pub(crate) struct HostMount(pub(crate) PathBuf);

impl HostMount {
    pub(crate) fn new(path: PathBuf, more: &[&str]) -> Self {
        fs::create_dir_all(&path).expect("make a directory");
        let mut arguments = vec!["-t", "tmpfs"];
        arguments.extend(more);
        arguments.extend(["none", path.to_str().expect("UTF-8")]);
        host("mount", &arguments);
        Self(path)
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || status.is_ok_and(|status| status.success()));
    }
}

/// Tries everything that an option can forbid in `/d` and in a mount below it.
const TRIES: &str = "for d in /d /d/sub; do \
    touch $d/new 2>/dev/null && echo -n writes || echo -n -; \
    $d/run 2>/dev/null && echo -n ,executes || echo -n ,-; \
    cat $d/null 2>/dev/null && echo -n ,devices || echo -n ,-; \
    cat $d/link 2>/dev/null | grep -q . && echo -n ,links || echo -n ,-; \
    echo -n ' '; done";

/// A directory with a mount below it, on both of which everything of [`TRIES`] works.
fn fill(place: &Path) -> [HostMount; 2] {
    let outer = HostMount::new(place.join("data"), &[]);
    let inner = HostMount::new(outer.0.join("sub"), &[]);
    for dir in [&outer.0, &inner.0] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("fill a directory");
        let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
        fs::write(path("run"), "#!/bin/sh\n").expect("fill a directory");
        fs::set_permissions(path("run"), fs::Permissions::from_mode(0o755))
            .expect("fill a directory");
        fs::write(path("file"), "content").expect("fill a directory");
        symlink("file", path("link")).expect("fill a directory");
        host("mknod", &["-m", "666", &path("null"), "c", "1", "3"]);
    }
    // What lies below goes first.
    [inner, outer]
}

#[test]
fn privileged_options_of_mounts_have_their_effect() {
    with_bundle!(|place, bundle| {
        let _data = fill(place.dir());
        let all = "writes,executes,devices,links";
        let launcher = Launcher::new();
        for (options, outer, inner) in [
            (&["rbind"][..], all, all),
            (&["bind"], all, "-,-,-,-"),
            (&["rbind", "ro"], "-,executes,devices,links", all),
            (
                &["rbind", "rro"],
                "-,executes,devices,links",
                "-,executes,devices,links",
            ),
            (&["rbind", "ro", "rw"], all, all),
            (&["rbind", "rro", "rrw"], all, all),
            (&["rbind", "noexec"], "writes,-,devices,links", all),
            (
                &["rbind", "rnoexec", "rnodev"],
                "writes,-,-,links",
                "writes,-,-,links",
            ),
            (&["rbind", "nodev"], "writes,executes,-,links", all),
            (&["rbind", "nosymfollow"], "writes,executes,devices,-", all),
            (
                &["rbind", "rnosymfollow"],
                "writes,executes,devices,-",
                "writes,executes,devices,-",
            ),
            (
                &["rbind", "rnosuid", "suid"],
                "writes,executes,devices,links",
                "writes,executes,devices,links",
            ),
            (
                &[
                    "rbind", "defaults", "async", "loud", "x-note=a", "exec", "dev", "suid",
                ],
                all,
                all,
            ),
        ] {
            let mut spec = edit(&bundle.shell(TRIES), |spec| {
                add_mount(spec, bind(&place.dir().join("data"), "/d", options));
                spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            });
            spec = edit(&spec, |spec| {
                for set in ["effective", "permitted"] {
                    spec["process"]["capabilities"][set] = json!([]);
                }
            });
            let said = stdout_of(&launcher, &spec);
            let want = format!("{outer} {inner}");
            assert_eq!(said.trim_end(), want, "{options:?}");
            for dir in ["data/new", "data/sub/new"] {
                let _ = fs::remove_file(place.dir().join(dir));
            }
        }
    });
}

/// The options of the mount at `path` as the kernel names them, for the mount and the file system.
pub(crate) fn options_of(mountinfo: &str, path: &str) -> (Vec<String>, Vec<String>) {
    let line = mountinfo
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path));
    let line = line.unwrap_or_else(|| panic!("{path} in {mountinfo}"));
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let own = line.split(' ').nth(5).expect("a field");
    (list(own), list(line.rsplit(' ').next().expect("a field")))
}

#[test]
fn privileged_access_times_and_file_systems_options_are_those_asked_for() {
    with_bundle!(|place, bundle| {
        let data = HostMount::new(place.dir().join("data"), &["-o", "nodev,noatime"]);
        let _sub = HostMount::new(data.0.join("sub"), &[]);
        let look = |mounts: &[Value]| said(bundle, "cat /proc/self/mountinfo", mounts);
        for (options, outer, inner) in [
            (&["rbind"][..], "rw,nodev,noatime", "rw,relatime"),
            (&["rbind", "relatime"], "rw,nodev,relatime", "rw,relatime"),
            (&["rbind", "atime"], "rw,nodev,relatime", "rw,relatime"),
            (&["rbind", "strictatime"], "rw,nodev", "rw,relatime"),
            (
                &["rbind", "nodiratime", "dev"],
                "rw,noatime,nodiratime",
                "rw,relatime",
            ),
            (
                &["rbind", "rnoatime", "rnodiratime"],
                "rw,nodev,noatime,nodiratime",
                "rw,noatime,nodiratime",
            ),
            (&["rbind", "rstrictatime"], "rw,nodev", "rw"),
            (&["rbind", "rrelatime"], "rw,nodev,relatime", "rw,relatime"),
        ] {
            let info = look(&[bind(&data.0, "/d", options)]);
            let found = |path| options_of(&info, path).0.join(",");
            let found = (found("/d"), found("/d/sub"));
            assert_eq!(found, (outer.into(), inner.into()), "{options:?}");
        }
        let info = look(&[tmpfs(
            "/t",
            &["size=64k", "mode=700", "uid=7", "sync", "nosuid"],
        )]);
        let (own, file_system) = options_of(&info, "/t");
        assert_eq!(own.join(","), "rw,nosuid,relatime");
        for option in ["size=64k", "mode=700", "uid=7", "sync"] {
            let there = file_system.iter().any(|it| it == option);
            assert!(there, "{option} in {file_system:?}");
        }
        // What a file system does not know is an error that names the mount.
        let spec = shell_with(bundle, "true", &[tmpfs("/t", &["sizzle=1"])]);
        let report = try_run(&Launcher::new(), &spec, piped()).unwrap_err();
        let report = report.report();
        assert!(
            report.contains("sizzle=1") && report.contains("on /t"),
            "{report}"
        );
    });
}

#[test]
fn privileged_sources_and_destinations_are_found_and_made() {
    with_bundle!(|place, bundle| {
        let dir = place.dir().join("bundle");
        fs::create_dir_all(dir.join("data")).unwrap();
        fs::write(dir.join("data/file"), "content").unwrap();
        symlink("data", dir.join("to-data")).unwrap();
        symlink("data/file", dir.join("to-file")).unwrap();
        fs::write(bundle.root().join("etc/there"), "image").unwrap();
        symlink("../tmp", bundle.root().join("etc/to-tmp")).unwrap();
        let mut spec = shell_with(
            bundle,
            "cat /a/b/c/file /tmp/d/e /etc/there /l/file /f/f /rel/file; \
             readlink /copied; cat /copied-file; \
             stat -c '%a %F' /a /a/b /a/b/c /tmp/d/e; ls /n/m; echo -n , edited >> /etc/there",
            &[
                json!({"destination": "/a/b/c", "source": "data", "options": ["bind"]}),
                json!({"destination": "/etc/to-tmp/d/e", "source": "data/file", "options": ["bind"]}),
                json!({"destination": "/etc/there", "source": "data/file", "options": ["bind"]}),
                json!({"destination": "/l", "source": "to-data", "options": ["rbind"]}),
                json!({"destination": "/f/f", "source": "to-file", "options": ["rbind"]}),
                json!({"destination": "rel", "source": "data", "options": ["rbind"]}),
                json!({"destination": "/copied", "source": "to-file",
                    "options": ["bind", "copy-symlink"]}),
                json!({"destination": "/copied-file", "source": "data/file",
                    "options": ["bind", "copy-symlink"]}),
                tmpfs("/n", &["ro"]),
                tmpfs("/n/m", &[]),
                json!({"destination": "/n/m/deep", "source": "data", "options": ["bind"]}),
            ],
        );
        spec = edit(&spec, |spec| {
            spec["process"]["cwd"] = json!("/");
        });
        let mut options = piped();
        options.bundle = dir.clone();
        let output = try_run(&Launcher::new(), &spec, options).unwrap();
        assert_eq!(output.stderr, "");
        let content = "content".repeat(6);
        let want = format!(
            "{content}data/file\ncontent\
             755 directory\n755 directory\n755 directory\n644 regular file\ndeep\n"
        );
        // The mode of what is mounted is its own; here it is that of files made by the test.
        assert_eq!(output.stdout, want);
        let edited = fs::read_to_string(dir.join("data/file")).unwrap();
        assert_eq!(edited, "content, edited");
        fs::write(bundle.root().join("etc/there"), "image").unwrap();

        let missing = shell_with(
            bundle,
            "true",
            &[bind(&dir.join("nowhere"), "/x", &["bind"])],
        );
        let error = try_run(&Launcher::new(), &missing, piped()).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "MountSourceNotFound")
        );
        assert!(error.report().contains("nowhere"), "{}", error.report());
        let report = {
            let mount = bind(&dir.join("data"), "/etc/there", &["bind"]);
            let spec = shell_with(bundle, "true", &[mount]);
            try_run(&Launcher::new(), &spec, piped())
                .unwrap_err()
                .report()
        };
        assert!(report.contains("on /etc/there"), "{report}");
    });
}

#[test]
fn privileged_tmpfs_takes_over_what_it_covers() {
    with_bundle!(|place, bundle| {
        let below = bundle.root().join("var/below");
        fs::create_dir_all(below.join("deep/er")).unwrap();
        fs::write(below.join("deep/file"), "content").unwrap();
        chown(below.join("deep/file"), Some(7), Some(8)).unwrap();
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(below.join("deep/file"), mode(0o4755)).unwrap();
        fs::set_permissions(below.join("deep"), mode(0o1770)).unwrap();
        fs::set_permissions(&below, mode(0o2751)).unwrap();
        symlink("deep/file", below.join("link")).unwrap();
        let path = below.to_str().unwrap();
        host("mkfifo", &[&format!("{path}/fifo")]);
        host("mknod", &[&format!("{path}/zero"), "c", "1", "5"]);
        let list = "cd /var/below; find . | sort | xargs stat -c '%n %a %u:%g %F %Y'; cat link";
        let plain = said(bundle, list, &[]);
        assert!(
            plain.contains("./deep/file 4755 7:8 regular file"),
            "{plain}"
        );
        let covered = |options: &[&str]| said(bundle, list, &[tmpfs("/var/below", options)]);
        assert_eq!(covered(&["tmpcopyup"]), plain);
        assert_eq!(covered(&["tmpcopyup", "ro", "size=1m"]), plain);
        // What is written there does not reach the image.
        let wrote = said(
            bundle,
            "echo more >> /var/below/deep/file; cat /var/below/deep/file",
            &[tmpfs("/var/below", &["tmpcopyup"])],
        );
        assert_eq!(wrote, "contentmore");
        assert_eq!(
            fs::read_to_string(below.join("deep/file")).unwrap(),
            "content"
        );
        // Without copying it has the permissions alone.
        let stat = |options: &[&str]| {
            let stat = "stat -c %a /var/below; ls -A /var/below; touch /var/below/x && echo w";
            let output = run(
                &Launcher::new(),
                &shell_with(bundle, stat, &[tmpfs("/var/below", options)]),
            );
            output.stdout
        };
        assert_eq!(stat(&[]), "2751\nw\n");
        assert_eq!(stat(&["mode=1755"]), "1755\nw\n");
        assert_eq!(stat(&["ro"]), "2751\n");
        // Too much for it: nothing starts with half of it.
        fs::write(below.join("large"), vec![0; 1 << 20]).unwrap();
        let spec = shell_with(
            bundle,
            "true",
            &[tmpfs("/var/below", &["tmpcopyup", "size=64k"])],
        );
        let report = try_run(&Launcher::new(), &spec, piped()).unwrap_err();
        assert!(
            report.report().contains("on /var/below"),
            "{}",
            report.report()
        );
        let mut deep = below.join("d");
        for _ in 0..200 {
            deep.push("d");
        }
        fs::remove_file(below.join("large")).unwrap();
        fs::create_dir_all(&deep).unwrap();
        let spec = shell_with(bundle, "true", &[tmpfs("/var/below", &["tmpcopyup"])]);
        assert!(try_run(&Launcher::new(), &spec, piped()).is_err());
        let _ = place;
    });
}

#[test]
fn privileged_mounts_can_be_changed_by_remounts() {
    with_bundle!(|place, bundle| {
        let data = HostMount::new(place.dir().join("data"), &[]);
        let remount = |destination: &str, kind: &str, options: &[&str]| {
            let mut all = vec!["remount"];
            all.extend(options);
            json!({"destination": destination, "type": kind, "options": all})
        };
        let info = said(
            bundle,
            "cat /proc/self/mountinfo; touch /d/x 2>&1; touch /t/x 2>&1; true",
            &[
                bind(&data.0, "/d", &["rbind"]),
                remount("/d", "bind", &["bind", "ro", "nosuid"]),
                tmpfs("/t", &["size=64k"]),
                remount("/t", "tmpfs", &["size=128k", "ro"]),
            ],
        );
        assert_eq!(info.matches("Read-only file system").count(), 2, "{info}");
        assert_eq!(options_of(&info, "/d").0.join(","), "ro,nosuid,relatime");
        let (own, file_system) = options_of(&info, "/t");
        assert_eq!(own.join(","), "ro,relatime");
        assert!(
            file_system.contains(&"size=128k".to_owned()),
            "{file_system:?}"
        );
        // The host's mount of the same file system is as it was.
        fs::write(data.0.join("host"), "").unwrap();
    });
}

#[test]
fn privileged_overlays_of_many_layers_can_be_mounted() {
    with_bundle!(|place, bundle| {
        let store = place
            .dir()
            .join("a-directory-with-a-name-that-is-rather-long");
        let mut lower = Vec::new();
        for number in 0..300 {
            let dir = store.join(number.to_string());
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("file{number}")), "").unwrap();
            lower.push(dir.to_str().unwrap().to_owned());
        }
        for dir in ["upper:x", "work"] {
            fs::create_dir_all(store.join(dir)).unwrap();
        }
        let mount = |count: usize| {
            let list = lower[..count].join(":");
            json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": [
                format!("lowerdir={list}"),
                format!("upperdir={}", store.join("upper:x").to_str().unwrap().replace(':', "\\:")),
                format!("workdir={}", store.join("work").to_str().unwrap()),
            ]})
        };
        let script = "ls /o | wc -l; touch /o/new; ls /o/new";
        for count in [2, 60, 300] {
            let upper = store.join("upper:x/new");
            let said = said(bundle, script, &[mount(count)]);
            assert_eq!(said, format!("{count}\n/o/new"));
            fs::remove_file(&upper).unwrap();
        }
    });
}

/// Starts a shell that says `ready`, waits for a line and goes on; `meanwhile` runs in between.
fn meanwhile(spec: &Spec, meanwhile: impl FnOnce()) -> String {
    let mut options = piped();
    options.stdio[0] = Stdio::Piped;
    let mut container = Launcher::new().create(spec, options).expect("create");
    container.start().expect("start");
    let mut stdout = container.take_stdout().expect("it is piped");
    let before = read_until(&mut stdout, "ready\n");
    meanwhile();
    drop(container.take_stdin());
    let mut after = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut after).expect("read");
    finish(&mut container);
    before + &after
}

#[test]
fn privileged_propagation_is_what_was_asked_for() {
    with_bundle!(|place, bundle| {
        let shared = HostMount::new(place.dir().join("shared"), &[]);
        host("mount", &["--make-shared", shared.0.to_str().unwrap()]);
        for dir in ["host", "container"] {
            fs::create_dir(shared.0.join(dir)).unwrap();
        }
        let host_mount = shared.0.join("host");
        let script = "mount -t tmpfs none /d/container && touch /d/container/x; \
            echo ready; read line; ls /d/host; umount /d/container";
        for (options, root, gets, gives) in [
            (&["rbind"][..], None, false, false),
            (&["rbind", "rprivate"], None, false, false),
            (&["rbind", "private"], Some("shared"), false, false),
            (&["rbind", "rslave"], None, true, false),
            (&["rbind", "slave"], Some("private"), true, false),
            (&["rbind", "rslave"], Some("rshared"), true, false),
            (&["rbind", "rslave", "rshared"], None, true, false),
            (&["rbind", "rshared"], None, true, false),
            (&["rbind", "rshared"], Some("rslave"), true, false),
            (&["rbind", "rshared"], Some("rshared"), true, true),
            (&["rbind", "shared"], Some("shared"), true, true),
            (&["rbind", "runbindable"], None, false, false),
        ] {
            let spec = edit(&bundle.shell(script), |spec| {
                allow_mounts(spec);
                add_mount(spec, bind(&shared.0, "/d", options));
                if let Some(root) = root {
                    spec["linux"]["rootfsPropagation"] = json!(root);
                }
            });
            let said = meanwhile(&spec, || {
                let given = shared.0.join("container/x").exists();
                assert_eq!(given, gives, "{options:?} {root:?}");
                host(
                    "mount",
                    &["-t", "tmpfs", "none", host_mount.to_str().unwrap()],
                );
                fs::write(host_mount.join("seen"), "").unwrap();
            });
            assert_eq!(
                said.contains("seen\n"),
                gets,
                "{options:?} {root:?}: {said}"
            );
            host("umount", &[host_mount.to_str().unwrap()]);
        }
    });
}

#[test]
fn privileged_the_root_propagates_as_the_spec_says() {
    with_bundle!(|_, bundle| {
        // The checks of runtime-tools: whether a copy of the root gets what is mounted below the root.
        let script = "mkdir -p /copy /mnt /src; touch /src/file; \
            mount -o bind / /copy || echo unbindable; mount -o bind /src /mnt; \
            ls /copy/mnt; grep ' / / ' /proc/self/mountinfo | grep -o -e shared: -e master: -e unbindable";
        for (propagation, want) in [
            (Value::Null, ""),
            (json!("private"), ""),
            (json!("rprivate"), ""),
            (json!("slave"), "master:"),
            (json!("rslave"), "master:"),
            (json!("shared"), "file\nshared:"),
            (json!("rshared"), "file\nshared:"),
            (json!("unbindable"), "unbindable\nunbindable"),
            (json!("runbindable"), "unbindable\nunbindable"),
        ] {
            let root = HostMount::new(bundle.root().with_file_name("on-its-own"), &[]);
            let path = root.0.to_str().unwrap();
            host(
                "cp",
                &["-a", &format!("{}/.", bundle.root().display()), path],
            );
            host("mount", &["--make-shared", path]);
            let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let spec = edit(&bundle.shell(script), |spec| {
                allow_mounts(spec);
                spec["root"]["path"] = json!(path);
                spec["linux"]["rootfsPropagation"] = propagation.clone();
            });
            let output = run(&Launcher::new(), &spec);
            assert_eq!(output.stdout.trim_end(), want, "{propagation}: {output:?}");
            let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert_eq!(before, after, "{propagation}");
        }
    });
}

#[test]
fn privileged_roots_are_found_through_links_and_made_of_several_mounts() {
    with_bundle!(|place, bundle| {
        let link = place.dir().join("link-to-root");
        symlink(bundle.root(), &link).unwrap();
        let data = place.dir().join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), "content").unwrap();
        let mut spec = edit(
            &bundle.shell("cat /bin/file /srv/file; touch /new"),
            |spec| {
                spec["root"]["path"] = json!("link-to-root");
            },
        );
        let mut options = piped();
        options.bundle = place.dir().to_owned();
        let mount = |value: Value| serde_json::from_value::<Mount>(value).expect("a mount");
        let upper = place.dir().join("upper");
        let work = place.dir().join("work");
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&work).unwrap();
        options.root_mounts = vec![
            mount(json!({"destination": "/", "type": "overlay", "options": [
                format!("lowerdir+={}", data.display()),
                format!("lowerdir+={}", bundle.root().display()),
                format!("upperdir={}", upper.display()), format!("workdir={}", work.display())]})),
            mount(
                json!({"destination": "/srv", "type": "bind", "source": data,
                "options": ["rbind", "ro"]}),
            ),
        ];
        let error = try_run(&Launcher::new(), &spec, options).unwrap();
        assert!(error.stderr.contains("/bin/file"), "{error:?}");
        assert_eq!(error.stdout, "content");
        assert!(upper.join("new").exists());
        assert!(!bundle.root().join("new").exists());

        spec = edit(
            &bundle.shell("touch /new 2>&1; cat /proc/self/mountinfo"),
            |spec| {
                spec["root"] = json!({"path": "link-to-root", "readonly": true});
                add_mount(spec, tmpfs("/tmp", &[]));
            },
        );
        let mut options = piped();
        options.bundle = place.dir().to_owned();
        let output = try_run(&Launcher::new(), &spec, options).unwrap();
        assert!(
            output.stdout.contains("Read-only file system"),
            "{output:?}"
        );
        assert_eq!(options_of(&output.stdout, "/").0[0], "ro");
        assert_eq!(options_of(&output.stdout, "/tmp").0[0], "rw");
    });
}

#[test]
fn privileged_without_a_cgroup_namespace_only_the_own_group_is_seen() {
    with_bundle!(|place, bundle| {
        let script = "cd /sys/fs/cgroup; ls -A; cat */tasks */cgroup.procs cgroup.procs 2>/dev/null | sort -un; \
            mkdir memory/x unified/x x 2>&1 | grep -c -i -e read-only -e \"can't\"; cat /proc/self/mountinfo";
        let with_group = |spec: &mut Value| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|it| it["type"] != "cgroup");
            spec["linux"]["cgroupsPath"] = json!(format!("/{}/own", place.cgroup()));
        };
        let said = stdout_of(&Launcher::new(), &edit(&bundle.shell(script), with_group));
        let views: Vec<_> = said
            .lines()
            .take_while(|line| line.parse::<u32>().is_err())
            .collect();
        let numbers = said.lines().filter_map(|line| line.parse::<u32>().ok());
        assert!(!views.is_empty(), "{said}");
        // It and what it runs: no process of anybody else.
        assert!(numbers.max().unwrap() < 10, "{said}");
        let own = format!("/{}/own /sys/fs/cgroup/", place.cgroup());
        let below = |line: &&str| line.contains(" /sys/fs/cgroup/");
        for line in said.lines().filter(below) {
            assert!(line.contains(&own), "{line}");
            assert_eq!(
                line.split(' ').nth(5).unwrap().split(',').next(),
                Some("ro"),
                "{line}"
            );
        }
        // Without a group of its own there is nothing to see.
        let spec = edit(&bundle.shell("ls -A /sys/fs/cgroup"), |spec| {
            with_group(spec);
            spec["linux"]["cgroupsPath"] = Value::Null;
        });
        assert_eq!(stdout_of(&Launcher::new(), &spec), "");
        crate::support::host::remove_cgroups(place.cgroup());
    });
}

#[test]
fn privileged_devices_are_made_as_listed() {
    with_bundle!(|place, bundle| {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).unwrap();
        let devices = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/sub/loop", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o622, "uid": 7},
            {"path": "/dev/odd", "type": "u", "major": 1, "minor": 5},
            {"path": "/srv/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
        ]);
        let stat = "stat -c '%n %a %u:%g %F %t:%T' /dev/fuse /dev/sub/loop /dev/fifo /dev/odd /srv/null \
            /dev/null /dev/zero; for link in fd stdin stdout stderr ptmx; do readlink /dev/$link; done";
        let spec = edit(&bundle.shell(stat), |spec| {
            spec["linux"]["devices"] = devices.clone()
        });
        let want = "/dev/fuse 640 5:6 character special file a:e5\n\
            /dev/sub/loop 600 0:0 block special file 7:0\n\
            /dev/fifo 622 7:0 fifo 0:0\n\
            /dev/odd 666 0:0 character special file 1:5\n\
            /srv/null 666 0:0 character special file 1:3\n\
            /dev/null 600 0:0 character special file 1:3\n\
            /dev/zero 666 0:0 character special file 1:5\n\
            /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx";
        assert_eq!(stdout_of(&Launcher::new(), &spec), want);
        // The one outside of `/dev` is in the image now, and taken for what it is.
        assert_eq!(stdout_of(&Launcher::new(), &spec), want);
        fs::remove_file(bundle.root().join("srv/null")).unwrap();
        fs::write(bundle.root().join("srv/null"), "").unwrap();
        let report = try_run(&Launcher::new(), &spec, piped())
            .unwrap_err()
            .report();
        assert!(report.contains("/srv/null"), "{report}");

        // In a user namespace nodes are the host's, if they are what the spec says; FIFOs are made.
        let in_namespace = |devices: Value| {
            let script =
                "stat -c '%n %a %F %t:%T' /dev/fifo /dev/full /dev/urandom; echo x > /dev/full";
            let mut spec = edit(&bundle.shell(script), |spec| {
                spec["linux"]["devices"] = devices
            });
            add_user_namespace(&mut spec, 100_000, 200_000, 65_536);
            spec
        };
        let fifo = json!({"path": "/dev/fifo", "type": "p", "fileMode": 0o622, "uid": 7});
        let output = run(&Launcher::new(), &in_namespace(json!([fifo])));
        assert_eq!(
            output.stdout,
            "/dev/fifo 622 fifo 0:0\n/dev/full 666 character special file 1:7\n\
             /dev/urandom 666 character special file 1:9\n"
        );
        assert!(output.stderr.contains("No space left"), "{output:?}");
        let wrong = json!([fifo, {"path": "/dev/full", "type": "c", "major": 1, "minor": 9}]);
        let report = try_run(&Launcher::new(), &in_namespace(wrong), piped())
            .unwrap_err()
            .report();
        assert!(report.contains("/dev/full"), "{report}");
    });
}

#[test]
fn privileged_a_dev_of_the_host_stays_as_it_is() {
    with_bundle!(|place, bundle| {
        let dev = place.dir().join("dev");
        fs::create_dir(&dev).unwrap();
        fs::write(dev.join("mark"), "").unwrap();
        let bound = edit(&bundle.shell("ls -A /dev"), |spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|it| !it["destination"].as_str().unwrap().starts_with("/dev"));
            add_mount(spec, bind(&dev, "/dev", &["rbind"]));
            spec["linux"]["devices"] =
                json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        });
        assert_eq!(stdout_of(&Launcher::new(), &bound), "mark");
        assert_eq!(fs::read_dir(&dev).unwrap().count(), 1);
    });
}

#[test]
fn privileged_a_target_that_is_swapped_while_mounts_are_made_stays_inside() {
    with_bundle!(|place, bundle| {
        // What another container with the same volume can do: names change all the time.
        let volume = place.dir().join("volume");
        let outside = place.dir().join("outside");
        fs::create_dir_all(volume.join("dir")).unwrap();
        fs::create_dir_all(outside.join("target")).unwrap();
        symlink(
            "/../../../../..".to_owned() + outside.to_str().unwrap(),
            volume.join("link"),
        )
        .unwrap();
        let swap = "while :; do mv -T /v/dir /v/x; mv -T /v/link /v/dir; mv -T /v/dir /v/link; mv -T /v/x /v/dir; done";
        let swapper = shell_with(bundle, swap, &[bind(&volume, "/v", &["rbind"])]);
        let launcher = Launcher::new();
        let swapping = launcher.create(&swapper, CreateOptions::default()).unwrap();
        swapping.start().unwrap();
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut landed = 0;
        for _ in 0..150 {
            let mounts = [
                bind(&volume, "/v", &["rbind"]),
                tmpfs("/v/dir/target", &["mode=700"]),
            ];
            let spec = shell_with(
                bundle,
                "grep -c ' /v/.*/\\?target' /proc/self/mountinfo",
                &mounts,
            );
            // The race may end in an error as well: what counts is where nothing lands.
            if let Ok(output) = try_run(&launcher, &spec, piped()) {
                landed += usize::from(output.stdout.trim_end() == "1");
            }
        }
        swapping.kill(Signal::KILL).unwrap();
        swapping.wait().unwrap();
        assert!(landed > 0, "some are mounted where they belong");
        assert_eq!(fs::read_dir(outside.join("target")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
    });
}
