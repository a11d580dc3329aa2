//! The same spec under other runtimes: the same values in the files of its group.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use container_core::Launcher;
use container_core::cgroup::{Cgroup, CgroupPath, Controller, Versions};
use container_core::oci_spec::runtime::Spec;
use nix::mount::{MsFlags, mount, umount};

use crate::support::block::Loop;
use crate::support::bundle::{edit_linux, with_bundle};
use crate::support::group::resources;
use crate::support::isolate::Place;
use crate::support::{host, peers};

/// What all runtimes know of limits. Swap is among it: not asked for, we limit it to as much as the memory, as Docker
/// does, and the others do not.
fn limits(device: &Loop) -> String {
    let device = device.numbers();
    format!(
        r#"{{
            "memory": {{"limit": 67108864, "swap": 134217728, "reservation": 33554432}},
            "cpu": {{"shares": 2000, "quota": 50000, "period": 200000, "cpus": "0", "mems": "0"}},
            "pids": {{"limit": 50}},
            "blockIO": {{
                "throttleReadBpsDevice": [{{{device}, "rate": 1048576}}],
                "throttleWriteIOPSDevice": [{{{device}, "rate": 100}}]
            }}
        }}"#
    )
}

/// The files that `limits` are for, by controller and version.
const FILES: [(Controller, &[&str], &[&str]); 5] = [
    (
        Controller::Memory,
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.soft_limit_in_bytes",
            "memory.swappiness",
            "memory.oom_control",
        ],
        &[
            "memory.max",
            "memory.swap.max",
            "memory.low",
            "memory.high",
            "memory.min",
            "memory.oom.group",
        ],
    ),
    (
        Controller::Cpu,
        &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"],
        &["cpu.weight", "cpu.max"],
    ),
    (
        Controller::CpuSet,
        &["cpuset.cpus", "cpuset.mems"],
        &["cpuset.cpus", "cpuset.mems"],
    ),
    (Controller::Pids, &["pids.max"], &["pids.max"]),
    (
        Controller::BlockIo,
        &[
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_iops_device",
        ],
        &["io.max"],
    ),
];

/// The values in the group `path`, by file.
fn values(path: &str) -> BTreeMap<String, String> {
    let group = Cgroup::open(&CgroupPath::new(path).unwrap()).unwrap();
    let directories = group.directories();
    let mut values = BTreeMap::new();
    for (controller, v1, v2) in FILES {
        let (directory, files) = match controller.version().unwrap() {
            Versions::V1 => (directories[controller.name()], v1),
            _ => (directories[""], v2),
        };
        for file in files {
            // Some kernels do not account swap.
            if let Ok(text) = fs::read_to_string(directory.join(file)) {
                values.insert((*file).to_owned(), text.trim().to_owned());
            }
        }
    }
    values
}

/// The values that the peer sets.
fn values_of(place: &Place, peer: &Path, spec: &Spec) -> BTreeMap<String, String> {
    let name = peer.file_name().unwrap().to_str().unwrap();
    let path = format!("/{}/{name}", place.cgroup());
    let mut spec = spec.clone();
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(path.clone().into()));
    });
    let dir = place.dir().join(name);
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let call = |args: &[&str]| {
        let mut command = Command::new(peer);
        command
            .arg("--root")
            .arg(dir.join("state"))
            .args(args)
            .current_dir(&dir);
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{name} {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    call(&["run", "--detach", "peer"]);
    let values = values(&path);
    call(&["delete", "--force", "peer"]);
    values
}

#[test]
fn privileged_limits_are_those_of_other_runtimes() {
    with_bundle!(|place, bundle| {
        // They leave the descriptors that they get to the container.
        let mut spec = bundle.shell("exec sleep 600 </dev/null >/dev/null 2>&1");
        let Some(device) = Loop::new(1 << 20) else {
            return;
        };
        let limits = limits(&device);
        edit_linux(&mut spec, |linux| {
            let mut all = resources(&limits);
            all.set_devices(
                linux
                    .resources()
                    .as_ref()
                    .and_then(|it| it.devices().clone()),
            );
            linux.set_resources(Some(all));
        });
        let mut ours = spec.clone();
        let path = format!("{}/ours", place.cgroup());
        edit_linux(&mut ours, |linux| {
            linux.set_cgroups_path(Some(path.clone().into()));
        });
        let container = Launcher::new()
            .create(&ours, container_core::CreateOptions::default())
            .unwrap();
        container.start().unwrap();
        let ours = values(&path);
        container.kill(container_core::Signal::KILL).unwrap();
        container.wait().unwrap();
        // crun refuses hosts on which both versions have controllers.
        let unified = Path::new("/sys/fs/cgroup/unified");
        if unified.exists() {
            let none = None::<&str>;
            mount(none, unified, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        }
        for peer in ["runc", "crun"] {
            let Some(peer) = peers::find(peer) else {
                continue;
            };
            let mut theirs = values_of(place, &peer, &spec);
            if Controller::Cpu.version().unwrap() == Versions::V2 {
                // Debian's are older than the curve that is usual by now: 1 + (2000 - 2) * 9999 / 262142.
                assert_eq!(
                    theirs.insert("cpu.weight".into(), "170".into()).unwrap(),
                    "77"
                );
                assert_eq!(ours["cpu.weight"], "170");
            }
            assert_eq!(ours, theirs, "{peer:?}");
        }
        assert_eq!(ours["pids.max"], "50");
        if unified.exists() {
            umount(unified).unwrap();
        }
        host::remove_cgroups(place.cgroup());
    });
}
