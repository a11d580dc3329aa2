//! Devices of the Container Device Interface.

use std::fs;

use container_core::oci_spec::runtime::Spec;
use container_core::{ErrorKind, Launcher, cdi, defaults};
use serde_json::{Value, json};

use crate::support::bundle::{stdout_of, with_bundle};

/// As a vendor's tool writes it.
const YAML: &str = r#"---
cdiVersion: "0.7.0"
kind: vendor.com/gpu
annotations:
  note: "whatever"
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu0      # by number
      type: c
      major: 195
      minor: 0
      fileMode: 0660
      permissions: rw
      uid: 0
    env: [GPU=0]
- name: all
  containerEdits:
    deviceNodes:
    - {path: /dev/gpu-zero, hostPath: /dev/zero}
    - path: /dev/gpu-pipe
      type: p
    additionalGids: [44, 0, 44]
containerEdits:
  env:
  - PATH=/vendor/bin
  - VENDOR_LIBRARY=/usr/lib/vendor.so
  mounts:
  - hostPath: /usr/lib/vendor.so
    containerPath: /usr/lib/vendor.so
    options: [ro, nosuid, bind]
  - hostPath: tmpfs
    containerPath: /scratch
    type: tmpfs
    options:
    - mode=1777
  hooks:
  - hookName: createContainer
    path: /usr/bin/vendor-hook
    args:
    - vendor-hook
    - create-symlinks
    env: ["A=b"]
    timeout: 5
  intelRdt:
    closID: fast
"#;

fn registry(text: &str) -> cdi::Registry {
    let mut registry = cdi::Registry::default();
    registry.add(text, 0).expect("a good file");
    registry
}

fn applied(registry: &cdi::Registry, names: &[&str]) -> Value {
    let mut spec = defaults::default_spec();
    registry.apply(&mut spec, names).expect("known devices");
    serde_json::to_value(spec).expect("to JSON")
}

#[test]
fn a_spec_gets_what_the_devices_need() {
    let before = serde_json::to_value(defaults::default_spec()).unwrap();
    let registry = registry(YAML);
    let names: Vec<_> = registry.devices().collect();
    assert_eq!(names, ["vendor.com/gpu=0", "vendor.com/gpu=all"]);
    let spec = applied(&registry, &["vendor.com/gpu=0", "vendor.com/gpu=all"]);
    let process = &spec["process"];
    let want = [
        "PATH=/vendor/bin",
        "VENDOR_LIBRARY=/usr/lib/vendor.so",
        "GPU=0",
    ];
    assert_eq!(process["env"], json!(want));
    assert_eq!(process["user"]["additionalGids"], json!([44]));
    assert_eq!(
        spec["linux"]["devices"],
        json!([
            {"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 0, "fileMode": 0o660, "uid": 0},
            {"path": "/dev/gpu-zero", "type": "c", "major": 1, "minor": 5},
            {"path": "/dev/gpu-pipe", "type": "p", "major": 0, "minor": 0},
        ])
    );
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    let old = before["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(
        rules[old.len()..],
        [
            json!({"allow": true, "type": "c", "major": 195, "minor": 0, "access": "rw"}),
            json!({"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"}),
        ]
    );
    let mounts = spec["mounts"].as_array().unwrap();
    let destinations: Vec<_> = mounts
        .iter()
        .map(|it| it["destination"].as_str().unwrap())
        .collect();
    let depths: Vec<_> = destinations
        .iter()
        .map(|it| it.matches('/').count())
        .collect();
    assert!(depths.is_sorted(), "{destinations:?}");
    let library = mounts
        .iter()
        .find(|it| it["destination"] == "/usr/lib/vendor.so");
    assert_eq!(
        library,
        Some(
            &json!({"destination": "/usr/lib/vendor.so", "source": "/usr/lib/vendor.so",
            "type": "bind", "options": ["ro", "nosuid", "bind"]})
        )
    );
    assert_eq!(
        spec["hooks"],
        json!({"createContainer": [{"path": "/usr/bin/vendor-hook", "timeout": 5,
            "args": ["vendor-hook", "create-symlinks"], "env": ["A=b"]}]})
    );
    assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "fast"}));
    // Nothing asked for, nothing changed.
    assert_eq!(applied(&registry, &[]), before);
}

#[test]
fn json_and_yaml_say_the_same() {
    let file = json!({
        "cdiVersion": "0.5.0", "kind": "a/b",
        "devices": [{"name": "c", "containerEdits": {"env": ["X=1"]}}],
    });
    let yaml = "cdiVersion: 0.5.0\nkind: a/b\ndevices:\n  - name: c\n    containerEdits:\n      env: [X=1]\n";
    let from_json = applied(&registry(&file.to_string()), &["a/b=c"]);
    assert_eq!(from_json, applied(&registry(yaml), &["a/b=c"]));
}

#[test]
fn malformed_files_are_refused_by_name() {
    let good = json!({
        "cdiVersion": "0.8.0", "kind": "vendor.com/class",
        "devices": [{"name": "dev", "containerEdits": {}}],
    });
    registry(&good.to_string());
    let edits = |field: &str, value: Value| json!({ "containerEdits": { field: value } });
    for (change, part) in [
        (json!({"cdiVersion": "9.0.0"}), "9.0.0"),
        (json!({"cdiVersion": ""}), "version"),
        (json!({"kind": "vendor.com"}), "kind"),
        (json!({"kind": "/class"}), "kind"),
        (json!({"kind": "../x/class"}), "kind"),
        (json!({"kind": "vendor.com/1class"}), "kind"),
        (json!({"devices": []}), "no devices"),
        (
            json!({"devices": [{"name": "a b", "containerEdits": {}}]}),
            "a b",
        ),
        (
            json!({"devices": [{"name": "", "containerEdits": {}}]}),
            "name",
        ),
        (
            json!({"devices": [{"name": "a", "containerEdits": {}}, {"name": "a", "containerEdits": {}}]}),
            "twice",
        ),
        (json!({"surprise": 1}), "surprise"),
        (edits("env", json!(["=x"])), "NAME=VALUE"),
        (edits("env", json!(["x"])), "NAME=VALUE"),
        (
            edits("deviceNodes", json!([{"path": "relative"}])),
            "relative",
        ),
        (
            edits("deviceNodes", json!([{"path": "/dev/x", "type": "z"}])),
            "type",
        ),
        (
            edits(
                "deviceNodes",
                json!([{"path": "/dev/x", "permissions": "rx"}]),
            ),
            "access",
        ),
        (
            edits("deviceNodes", json!([{"path": "/dev/x", "major": "1"}])),
            "invalid type",
        ),
        (
            edits("mounts", json!([{"hostPath": "", "containerPath": "/x"}])),
            "lacks a path",
        ),
        (
            edits("hooks", json!([{"hookName": "never", "path": "/x"}])),
            "never",
        ),
        (
            edits("hooks", json!([{"hookName": "poststop", "path": ""}])),
            "poststop",
        ),
        (
            edits(
                "netDevices",
                json!([{"hostInterfaceName": "", "name": "x"}]),
            ),
            "network",
        ),
    ] {
        let mut file = good.clone();
        let fields = file.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        let error = cdi::Registry::default()
            .add(&file.to_string(), 0)
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidInput, "InvalidCdi")
        );
        assert!(
            error.report().contains(part),
            "want {part}, got {}",
            error.report()
        );
    }
}

#[test]
fn unknown_and_ambiguous_devices_leave_the_spec_as_it_was() {
    let file = |value: &str| {
        json!({"cdiVersion": "0.3.0", "kind": "a/b", "devices": [
            {"name": "c", "containerEdits": {"env": [format!("X={value}")]}},
        ]})
        .to_string()
    };
    let mut registry = registry(&file("low"));
    registry.add(&file("high"), 1).unwrap();
    assert_eq!(
        applied(&registry, &["a/b=c"])["process"]["env"],
        json!(["X=high"])
    );
    registry.add(&file("other"), 0).unwrap();
    assert_eq!(
        applied(&registry, &["a/b=c"])["process"]["env"],
        json!(["X=high"])
    );
    registry.add(&file("high, too"), 1).unwrap();
    let before = defaults::default_spec();
    for (name, kind, code) in [
        ("a/b=c", ErrorKind::NotFound, "DeviceNotFound"),
        ("a/b=d", ErrorKind::NotFound, "DeviceNotFound"),
        ("a/b", ErrorKind::InvalidInput, "InvalidName"),
        ("../../dev/sda", ErrorKind::InvalidInput, "InvalidName"),
        ("", ErrorKind::InvalidInput, "InvalidName"),
    ] {
        let mut spec: Spec = before.clone();
        let error = registry.apply(&mut spec, &[name]).unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{name}");
        assert!(error.report().contains(name), "{}", error.report());
        assert_eq!(spec, before);
    }
}

#[test]
fn privileged_a_container_has_its_cdi_devices() {
    with_bundle!(|place, bundle| {
        let [etc, run] = ["etc", "run"].map(|name| place.dir().join(name));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&run).unwrap();
        let library = place.dir().join("library");
        fs::write(&library, "vendor's").unwrap();
        let file = |minor: u32| {
            format!(
                "cdiVersion: 0.6.0\nkind: vendor.com/zero\ndevices:\n- name: one\n  containerEdits:\n    \
                 deviceNodes:\n    - path: /dev/vendor\n      type: c\n      major: 1\n      minor: {minor}\n    \
                 mounts:\n    - hostPath: {}\n      containerPath: /lib/vendor.so\n      options: [ro, bind]\n    \
                 env: [VENDOR=yes]\n",
                library.display()
            )
        };
        fs::write(etc.join("vendor.yaml"), file(3)).unwrap();
        fs::write(run.join("vendor.yaml"), file(5)).unwrap();
        fs::write(run.join("broken.json"), "{").unwrap();
        fs::write(run.join("README"), "no file of devices").unwrap();
        let missing = place.dir().join("missing");
        let registry = cdi::Registry::read(&[&etc, &run, &missing]).unwrap();
        assert_eq!(
            registry.devices().collect::<Vec<_>>(),
            ["vendor.com/zero=one"]
        );
        let [broken] = registry.broken() else {
            panic!("{:?}", registry.broken())
        };
        assert!(
            broken.report().contains("broken.json"),
            "{}",
            broken.report()
        );
        let script = "stat -c '%t:%T' /dev/vendor; head -c 3 /dev/vendor | wc -c; cat /lib/vendor.so; \
            echo; touch /lib/vendor.so 2>&1 | grep -o Read-only; echo $VENDOR";
        let mut spec = bundle.shell(script);
        registry.apply(&mut spec, &["vendor.com/zero=one"]).unwrap();
        let want = "1:5\n3\nvendor's\nRead-only\nyes";
        assert_eq!(stdout_of(&Launcher::new(), &spec), want);
    });
}
