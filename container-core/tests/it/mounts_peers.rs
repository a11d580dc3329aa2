//! Mounts and devices beside those that other runtimes make of the same spec.

use std::fs;
use std::path::Path;

use container_core::Launcher;
use container_core::oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::attributes::edit;
use crate::mounts::add_mount;
use crate::support::bundle::{stdout_of, with_bundle};
use crate::support::runtime::Peer;

/// Prints the mounts, what `/dev` has, and what the file systems hold.
const LOOK: &str = "cat /proc/self/mountinfo; echo; cd /dev; \
    find . -path ./pts -prune -o -print | sort | xargs stat -c '%n %a %u:%g %F %t:%T %N'; \
    echo; stat -c '%n %a %u:%g %F' /t /t/nested /data /file /var/deep/er /copy /copy/file; \
    cat /file /copy/file";

/// A list of mounts without what differs from one start to the next: ids, devices, and where the
/// runtime keeps the bundle.
fn normalized(text: &str, id: &str) -> (Vec<String>, String) {
    let (mounts, rest) = text.split_once("\n\n").unwrap_or_else(|| panic!("{text}"));
    let mut mounts: Vec<_> = mounts
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let dash = fields
                .iter()
                .position(|field| *field == "-")
                .expect("a field");
            let options = |text: &str| {
                let mut list: Vec<_> = text.split(',').collect();
                list.sort_unstable();
                list.join(",")
            };
            let optional: Vec<_> = fields[6..dash]
                .iter()
                .map(|field| field.split(':').next().expect("a field"))
                .collect();
            let root = match fields[4] {
                "/" => "/",
                _ => fields[3],
            };
            let super_options: Vec<_> = fields[dash + 3]
                .split(',')
                // Whether a whole file system is read-only beside its mount, and what a tmpfs is by default.
                .filter(|option| !["ro", "rw", "inode64"].contains(option))
                .collect();
            let text = format!(
                "{} from {root} {} {optional:?} {} {} {}",
                fields[4],
                options(fields[5]),
                fields[dash + 1],
                fields[dash + 2],
                options(&super_options.join(","))
            );
            text.replace(id, "ID")
        })
        // Named otherwise, and here made read-only, too.
        .filter(|line| {
            let own = [
                "/sys/fs/cgroup ",
                "/sys/fs/cgroup/systemd ",
                "/sys/fs/cgroup/unified ",
            ];
            !own.iter().any(|path| line.starts_with(path))
        })
        .collect();
    mounts.sort();
    // Where the kernel has it, others link to the memory of the host, which is masked then.
    let rest = rest.lines().filter(|line| !line.starts_with("./core "));
    (mounts, rest.collect::<Vec<_>>().join("\n"))
}

/// Mounts of many kinds.
fn spec_of(spec: &Spec, dir: &Path) -> Spec {
    let data = dir.join("data");
    edit(spec, |spec| {
        let file = data.join("file");
        for mount in [
            json!({"destination": "/t", "type": "tmpfs", "source": "scratch",
                "options": ["nosuid", "nodev", "size=1m", "mode=1770", "uid=3"]}),
            json!({"destination": "/t/nested", "type": "tmpfs", "source": "tmpfs",
                "options": ["ro", "noexec", "noatime"]}),
            json!({"destination": "/data", "type": "bind", "source": data,
                "options": ["rbind", "rprivate", "nosuid", "nodev"]}),
            json!({"destination": "/file", "type": "bind", "source": file,
                "options": ["bind", "ro", "strictatime"]}),
            json!({"destination": "/var/deep/er", "type": "bind", "source": data,
                "options": ["bind", "ro", "noexec", "nodiratime"]}),
            json!({"destination": "/copy", "type": "tmpfs", "source": "tmpfs",
                "options": ["tmpcopyup", "size=64k"]}),
        ] {
            add_mount(spec, mount);
        }
        spec["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/fifo", "type": "p", "fileMode": 0o622},
            {"path": "/dev/sub/block", "type": "b", "major": 7, "minor": 0},
        ]);
        spec["linux"]["sysctl"] = Value::Null;
        // Masks are made of other things: ours are the host's `/dev/null` and a stricter empty directory.
        spec["linux"]["maskedPaths"] = json!([]);
        spec["process"]["cwd"] = json!("/");
    })
}

#[test]
fn privileged_mounts_and_devices_are_as_other_runtimes_make_them() {
    with_bundle!(|place, bundle| {
        fs::create_dir(place.dir().join("data")).unwrap();
        fs::write(place.dir().join("data/file"), "bound").unwrap();
        fs::create_dir(bundle.root().join("copy")).unwrap();
        fs::write(bundle.root().join("copy/file"), "copied").unwrap();
        let spec = spec_of(&bundle.shell(LOOK), place.dir());
        for name in ["runc", "crun"] {
            let Some(peer) = Peer::find(place, name) else {
                continue;
            };
            let id = format!("{}-{name}", place.cgroup());
            let theirs = peer.run(&spec, &id);
            assert!(theirs.status.success(), "{theirs:?}");
            let ours = edit(&spec, |spec| {
                spec["linux"]["cgroupsPath"] = json!(format!("/{}/{id}", place.cgroup()));
            });
            let ours = stdout_of(&Launcher::new(), &ours);
            let (our_mounts, our_rest) = normalized(&ours, &id);
            let text = String::from_utf8_lossy(&theirs.stdout).replace(&format!("/{name}"), "/ID");
            let (their_mounts, their_rest) = normalized(text.trim_end(), &id);
            let differ = |a: &[String], b: &[String]| -> Vec<_> {
                a.iter().filter(|it| !b.contains(it)).cloned().collect()
            };
            let ours = differ(&our_mounts, &their_mounts);
            let theirs = differ(&their_mounts, &our_mounts);
            assert_eq!(ours, theirs, "{name}");
            assert_eq!(our_rest, their_rest, "{name}");
        }
        crate::support::host::remove_cgroups(place.cgroup());
    });
}
