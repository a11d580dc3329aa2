//! Plans as text, compared with what a reviewer has seen, and specs that no plan is made for.
//!
//! Each directory of `tests/fixtures/plan` is a case: `spec.json` goes in, `plan.txt` comes out.
//! `UPDATE_GOLDEN=1` rewrites what comes out; the difference is to be read before it is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use container_core::oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use container_core::{
    CgroupEntry, ErrorKind, Features, Hierarchy, Plan, PlanOptions, defaults, seccomp,
};
use serde_json::{Value, json};

use crate::support::bundle::set_namespace;

/// What plans are made of beside the spec, so that they are the same on every host.
fn options(case: &str) -> PlanOptions {
    let mut options = PlanOptions::default();
    let mut features = Features::host();
    features.overlay_append = case != "overlay-before-6.8";
    features.apparmor = case == "attributes";
    features.selinux = matches!(case, "attributes" | "mount-label");
    features.capabilities = (1 << 41) - 1;
    options.features = features;
    options.id = matches!(case, "attributes" | "hooks").then(|| "web".into());
    options.wait_for_start = case != "hardened";
    options.cgroups = match case {
        "cgroup-v1" => cgroups(
            2,
            false,
            vec![
                v1("cpu,cpuacct", &["cpu", "cpuacct"]),
                v1("memory", &["memory"]),
            ],
        ),
        "cgroup-without-a-namespace" => {
            let views = vec![v1("cpu,cpuacct", &["cpu", "cpuacct"]), Hierarchy::V2];
            let mut entry = cgroups(1, true, views);
            for (controller, directory) in [("cpuacct", "cpu,cpuacct"), ("", "unified")] {
                let group = Path::new("/sys/fs/cgroup").join(directory).join("web");
                entry.own.insert(controller.into(), group);
            }
            entry
        }
        "cgroup-hybrid" => {
            let systemd = v1("systemd", &["none", "name=systemd"]);
            cgroups(
                2,
                true,
                vec![v1("memory", &["memory"]), systemd, Hierarchy::V2],
            )
        }
        "user-namespace" => CgroupEntry::default(),
        _ => cgroups(0, true, vec![Hierarchy::V2]),
    };
    if case.starts_with("overlay") {
        options.root_mounts = vec![overlay()];
    }
    if case == "user-lookup" {
        options.user = Some("web:logs".into());
    }
    options
}

fn cgroups(joins: usize, into: bool, hierarchies: Vec<Hierarchy>) -> CgroupEntry {
    let mut entry = CgroupEntry::default();
    entry.joins = joins;
    entry.into = into;
    entry.hierarchies = hierarchies;
    entry
}

fn v1(directory: &str, options: &[&str]) -> Hierarchy {
    Hierarchy::V1 {
        directory: directory.into(),
        options: options.iter().map(ToString::to_string).collect(),
    }
}

fn overlay() -> Mount {
    let mut mount = Mount::default();
    mount.set_typ(Some("overlay".into()));
    mount.set_destination("/".into());
    mount.set_options(Some(
        [
            "lowerdir+=/store/overlay/3/fs",
            "lowerdir+=/store/overlay/1/fs",
            "upperdir=/store/overlay/4/fs",
            "workdir=/store/overlay/4/work",
            "userxattr",
        ]
        .map(str::to_owned)
        .into(),
    ));
    mount
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plan")
}

#[test]
fn plans_are_as_reviewed() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let mut cases = BTreeSet::new();
    for entry in fs::read_dir(fixtures()).unwrap() {
        let dir = entry.unwrap().path();
        let case = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let spec: Spec = serde_json::from_slice(&fs::read(dir.join("spec.json")).unwrap()).unwrap();
        let plan = Plan::compile(&spec, Path::new("/bundle"), &options(&case))
            .unwrap_or_else(|error| panic!("{case}: {error:?}"))
            .to_string();
        let golden = dir.join("plan.txt");
        if update {
            fs::write(&golden, &plan).unwrap();
        }
        let want = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(plan, want, "{case}: UPDATE_GOLDEN=1 takes it over");
        cases.insert(case);
    }
    assert!(cases.len() >= 11, "{cases:?}");
}

#[test]
fn filter_comes_last_only_without_new_privileges() {
    let steps = |hardened: bool| {
        let mut spec = default_spec();
        if hardened {
            defaults::hardened(&mut spec);
        }
        let plan = compile(&spec).unwrap().to_string();
        let at = |start: &str| plan.lines().position(|line| line.starts_with(start));
        let filter = at("load").expect("there is a filter");
        (
            filter,
            at("set capabilities").unwrap(),
            at("execute").unwrap(),
        )
    };
    let (filter, capabilities, _) = steps(false);
    assert!(filter < capabilities, "it needs CAP_SYS_ADMIN");
    let (filter, _, execute) = steps(true);
    assert_eq!(filter + 1, execute, "no later step has to pass it");
}

#[test]
fn plans_hold_what_the_default_profile_compiles_to() {
    let spec = default_spec();
    let linux = spec.linux().clone().unwrap();
    let filter = seccomp::compile(linux.seccomp().as_ref().unwrap()).unwrap();
    let plan = compile(&spec).unwrap().to_string();
    let line = plan.lines().find(|line| line.starts_with("load")).unwrap();
    assert!(
        line.contains(&filter.instructions.len().to_string()),
        "{line}"
    );
}

fn default_spec() -> Spec {
    edited(|_| {})
}

/// The default spec with a command, changed as JSON: so the tests name fields as users do.
fn edited(edit: impl FnOnce(&mut Value)) -> Spec {
    let mut spec = serde_json::to_value(defaults::default_spec()).expect("to JSON");
    spec["process"]["args"] = json!(["true"]);
    edit(&mut spec);
    serde_json::from_value(spec).expect("from JSON")
}

fn compile(spec: &Spec) -> container_core::Result<Plan> {
    Plan::compile(spec, Path::new("/bundle"), &options("default"))
}

/// Sees `edit` refused with this code, by an error that names `part`.
fn refused(code: &str, part: &str, edit: impl FnOnce(&mut Value)) {
    let error = match compile(&edited(edit)) {
        Ok(plan) => panic!("{part} is taken:\n{plan}"),
        Err(error) => error,
    };
    let report = error.report();
    assert_eq!(error.code(), code, "{report}");
    assert!(report.contains(part), "want {part}, got {report}");
    let kind = match code {
        "Unsupported" | "SelinuxUnavailable" => ErrorKind::Unsupported,
        _ => ErrorKind::InvalidInput,
    };
    assert_eq!(error.kind(), kind, "{report}");
}

#[test]
fn unsupported_fields_are_named() {
    for (pointer, value) in [
        ("/linux/intelRdt", json!({"closID": "guaranteed"})),
        ("/linux/netDevices", json!({"eth0": {"name": "lan"}})),
    ] {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let named = pointer.trim_start_matches('/').replace('/', ".");
        refused("Unsupported", &named, |spec| {
            spec.pointer_mut(parent).unwrap()[field] = value;
        });
    }
    refused("Unsupported", "mount namespace", |spec| {
        spec["linux"]["namespaces"] = json!([])
    });
    refused("Unsupported", "mount namespace", |spec| {
        spec["linux"]["namespaces"] = json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]);
    });
}

fn add_namespace(spec: &mut Value, namespace: Value) {
    let namespaces = spec["linux"]["namespaces"].as_array_mut();
    namespaces.expect("a list").push(namespace);
}

fn add_mount(spec: &mut Value, destination: &str, kind: &str, options: &[&str]) {
    let mount = json!({
        "destination": destination, "type": kind, "source": "/data", "options": options,
    });
    let mounts = spec["mounts"].as_array_mut();
    mounts.expect("a list").push(mount);
}

#[test]
fn mounts_that_would_cover_what_protects_are_refused() {
    for destination in [
        "/proc",
        "/proc/",
        "/proc/self",
        "/proc/sys/kernel",
        "/../proc/1",
        "/x/../proc/./sys",
        "/sys",
        "/sys/kernel",
        "//sys//firmware",
    ] {
        refused("InvalidMount", destination, |spec| {
            add_mount(spec, destination, "bind", &["rbind"]);
        });
        refused("InvalidMount", destination, |spec| {
            add_mount(spec, destination, "tmpfs", &[])
        });
    }
    for destination in [
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/fs/cgroup/mine",
        "/procession",
        "/system",
    ] {
        let spec = edited(|spec| add_mount(spec, destination, "bind", &["rbind"]));
        compile(&spec).unwrap();
    }
}

#[test]
fn malformed_mounts_are_refused() {
    for (destination, kind, options, part) in [
        ("/", "bind", &["rbind"][..], "below the root"),
        ("/..", "bind", &["rbind"][..], "below the root"),
        ("", "tmpfs", &[][..], "below the root"),
        ("/data", "bind", &["rbind", "size=1k"][..], "size"),
        ("/data", "", &[][..], "no type"),
    ] {
        refused("InvalidMount", part, |spec| {
            add_mount(spec, destination, kind, options)
        });
    }
    refused("InvalidMount", "no source", |spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/data", "type": "bind", "options": ["rbind"]}));
    });
    for (kind, option, part) in [
        ("bind", "sync", "sync"),
        ("bind", "tmpcopyup", "no tmpfs"),
        ("ext4", "tmpcopyup", "no tmpfs"),
        ("bind", "idmap", "neither it nor the container has a map"),
        ("bind", "ridmap", "neither it nor the container has a map"),
    ] {
        refused("InvalidMount", part, |spec| {
            add_mount(spec, "/data", kind, &[option])
        });
    }
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mapped = |spec: &mut Value, kind: &str, field: &str| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/data", "type": kind, "source": "/x"}));
        mounts.last_mut().unwrap()[field] = map.clone();
    };
    for field in ["uidMappings", "gidMappings"] {
        refused("InvalidMount", "only users or only groups", |spec| {
            mapped(spec, "bind", field)
        });
    }
    refused("Unsupported", "new tmpfs at /data", |spec| {
        mapped(spec, "tmpfs", "uidMappings");
        spec["mounts"].as_array_mut().unwrap().last_mut().unwrap()["gidMappings"] = map.clone();
    });
    refused("InvalidSpec", "rootfsPropagation", |spec| {
        spec["linux"]["rootfsPropagation"] = json!("sideways");
    });
    refused("SelinuxUnavailable", "linux.mountLabel", |spec| {
        spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    });
}

#[test]
fn missing_command_is_named() {
    for args in [json!([]), json!([""]), Value::Null] {
        refused("NoCommand", "process.args", |spec| {
            spec["process"]["args"] = args
        });
    }
}

#[test]
fn nul_bytes_are_refused_everywhere() {
    let nul = "a\0b";
    refused("NulByte", "process.args", |spec| {
        spec["process"]["args"] = json!([nul])
    });
    refused("NulByte", "process.args", |spec| {
        spec["process"]["args"] = json!(["true", nul])
    });
    refused("NulByte", "process.env", |spec| {
        spec["process"]["env"] = json!([nul])
    });
    refused("NulByte", "path", |spec| {
        spec["process"]["cwd"] = json!("/a\0b")
    });
    refused("NulByte", "hostname", |spec| spec["hostname"] = json!(nul));
    refused("NulByte", "root.path", |spec| {
        spec["root"]["path"] = json!(nul)
    });
    refused("NulByte", "path", |spec| {
        spec["linux"]["maskedPaths"] = json!(["/a\0b"])
    });
    refused("NulByte", "path", |spec| {
        spec["linux"]["readonlyPaths"] = json!(["/a\0b"])
    });
    refused("NulByte", "sysctl", |spec| {
        spec["linux"]["sysctl"] = json!({"kernel.msgmax": nul});
    });
    refused("NulByte", "path", |spec| {
        add_mount(spec, "/a\0b", "tmpfs", &[])
    });
    refused("NulByte", "mount option", |spec| {
        add_mount(spec, "/data", "tmpfs", &["size=\0"])
    });
    refused("NulByte", "mount type", |spec| {
        add_mount(spec, "/data", nul, &[])
    });
    let mut options = options("default");
    options.user = Some(nul.into());
    let error = Plan::compile(&default_spec(), Path::new("/bundle"), &options).unwrap_err();
    assert_eq!(error.code(), "NulByte");
}

#[test]
fn kernel_parameters_of_the_host_are_refused() {
    for name in [
        "kernel.core_pattern",
        "vm.overcommit_memory",
        "fs.file-max",
        "kernel.shmmax/../../core_pattern",
        "net",
        "",
        "kernel/core_pattern",
        "net/../kernel/core_pattern",
        "net./../kernel/core_pattern",
        "net.../kernel/core_pattern",
        "fs.mqueue./../../kernel/core_pattern",
    ] {
        refused("InvalidSysctl", "sysctl", |spec| {
            spec["linux"]["sysctl"] = json!({name: "1"});
        });
    }
    for (name, namespace) in [
        ("net.ipv4.ip_forward", "network"),
        ("kernel.msgmax", "ipc"),
        ("fs.mqueue.queues_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("user.max_net_namespaces", "user"),
    ] {
        refused("InvalidSysctl", name, |spec| {
            spec["linux"]["sysctl"] = json!({name: "1"});
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|it| it["type"] != namespace);
        });
    }
}

#[test]
fn host_name_needs_a_namespace() {
    refused("InvalidSpec", "hostname", |spec| {
        spec["hostname"] = json!("web");
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|it| it["type"] != "uts");
    });
}

#[test]
fn user_namespace_without_root_is_refused() {
    for (uid, gid) in [
        (json!([]), json!([])),
        (map(1), map(0)),
        (map(0), map(5)),
        (Value::Null, map(0)),
    ] {
        refused("InvalidIdMap", "does not map id 0", |spec| {
            add_namespace(spec, json!({"type": "user"}));
            spec["linux"]["uidMappings"] = uid;
            spec["linux"]["gidMappings"] = gid;
        });
    }
}

fn map(first: u32) -> Value {
    json!([{"containerID": first, "hostID": 1000, "size": 1}])
}

/// The kernel takes the highest number for "leave it as it is", and so it would stay root.
#[test]
fn ids_that_are_none_are_refused() {
    let none = u32::MAX;
    for (part, user) in [
        ("uid 4294967295", json!({"uid": none, "gid": 0})),
        ("gid 4294967295", json!({"uid": 0, "gid": none})),
        (
            "gid 4294967295",
            json!({"uid": 0, "gid": 0, "additionalGids": [1, none]}),
        ),
    ] {
        refused("InvalidUser", part, |spec| spec["process"]["user"] = user);
    }
    for (part, user) in [
        ("uid 10", json!({"uid": 10, "gid": 0})),
        ("gid 10", json!({"uid": 0, "gid": 10})),
        (
            "gid 10",
            json!({"uid": 0, "gid": 0, "additionalGids": [10]}),
        ),
    ] {
        refused("InvalidUser", part, |spec| {
            add_namespace(spec, json!({"type": "user"}));
            let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
            spec["linux"]["uidMappings"] = map.clone();
            spec["linux"]["gidMappings"] = map;
            spec["process"]["user"] = user;
        });
    }
}

#[test]
fn malformed_hooks_are_refused() {
    let hook = |hook: Value| move |spec: &mut Value| spec["hooks"] = json!({"poststop": [hook]});
    for (part, value) in [
        ("not absolute", json!({"path": "bin/true"})),
        ("not absolute", json!({"path": ""})),
        ("timeout", json!({"path": "/bin/true", "timeout": 0})),
        ("timeout", json!({"path": "/bin/true", "timeout": -1})),
        (
            "timeout",
            json!({"path": "/bin/true", "timeout": 1_u64 << 32}),
        ),
    ] {
        let mut options = options("default");
        options.id = Some("web".into());
        let spec = edited(hook(value));
        let error = Plan::compile(&spec, Path::new("/bundle"), &options).unwrap_err();
        assert_eq!(error.code(), "InvalidHook", "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    refused(
        "NoId",
        "id of the container",
        hook(json!({"path": "/bin/true"})),
    );
}

#[test]
fn labels_without_their_module_are_refused() {
    for (field, module) in [("apparmorProfile", "AppArmor"), ("selinuxLabel", "SELinux")] {
        let spec = edited(|spec| spec["process"][field] = json!("label"));
        let error = compile(&spec).unwrap_err();
        assert_eq!(error.code(), "SecurityModuleUnavailable", "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(module), "{error}");
    }
}

#[test]
fn capabilities_that_the_kernel_does_not_know_are_left_out() {
    let spec = edited(|spec| {
        let sets = json!(["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"]);
        for set in [
            "bounding",
            "permitted",
            "effective",
            "inheritable",
            "ambient",
        ] {
            spec["process"]["capabilities"][set] = sets.clone();
        }
    });
    let mut options = options("default");
    options.features.capabilities = (1 << 40) - 1;
    let plan = Plan::compile(&spec, Path::new("/bundle"), &options).unwrap();
    let plan = plan.to_string();
    assert!(plan.contains("bound capabilities to CHOWN\n"), "{plan}");
    assert!(plan.contains("ambient CHOWN\n"), "{plan}");
}

#[test]
fn malformed_rest_is_refused() {
    refused("InvalidSpec", "process.cwd", |spec| {
        spec["process"]["cwd"] = json!("tmp")
    });
    refused("InvalidSpec", "process.cwd", |spec| {
        spec["process"]["cwd"] = json!("")
    });
    refused("PathTooLong", "too long", |spec| {
        spec["process"]["cwd"] = json!(format!("/{}", "a/".repeat(3000)));
    });
    refused("InvalidLimit", "soft", |spec| {
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]);
    });
    refused("InvalidLimit", "twice", |spec| {
        let limit = json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1});
        spec["process"]["rlimits"] = json!([limit, limit]);
    });
    for (field, part, value) in [
        ("scheduler", "SCHED_ISO", json!({"policy": "SCHED_ISO"})),
        (
            "scheduler",
            "-1",
            json!({"policy": "SCHED_FIFO", "priority": -1}),
        ),
        (
            "scheduler",
            "20",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
        ),
        (
            "ioPriority",
            "8",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
        ),
    ] {
        let code = if part == "SCHED_ISO" {
            "Unsupported"
        } else {
            "InvalidSpec"
        };
        refused(code, part, |spec| spec["process"][field] = value);
    }
    refused("Unsupported", "ADDR_NO_RANDOMIZE", |spec| {
        spec["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
    });
    refused("InvalidSpec", "memoryPolicy", |spec| {
        spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1-0"});
    });
    refused("InvalidDevice", "/dev/all", |spec| {
        spec["linux"]["devices"] =
            json!([{"path": "/dev/all", "type": "a", "major": 1, "minor": 3}]);
    });
    refused("InvalidDevice", "/dev/odd", |spec| {
        spec["linux"]["devices"] =
            json!([{"path": "/dev/odd", "type": "c", "major": -1, "minor": 3}]);
    });
    for field in ["process", "linux", "root"] {
        refused("InvalidSpec", field, |spec| {
            spec.as_object_mut().unwrap().remove(field);
        });
    }
    // No field of it is needed to say so.
    let mut spec = default_spec();
    set_namespace(&mut spec, LinuxNamespaceType::Network, None);
    compile(&spec).unwrap();
}
