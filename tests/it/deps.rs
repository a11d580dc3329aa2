//! The edges between the crates of the workspace.

use std::process::Command;

use serde_json::Value;

/// The crates that only the root package may depend on.
const LOWER_CRATES: [&str; 4] = [
    "container-core",
    "container-image",
    "container-net",
    "container-storage",
];
const ROOT: &str = "container-engine";

#[test]
fn only_the_root_depends_on_the_lower_crates() {
    assert_eq!(forbidden_edges(&metadata()), [""; 0]);
}

#[test]
fn forbidden_edges_of_all_kinds_are_found() {
    let dependency =
        |name: &str, kind: Option<&str>| serde_json::json!({"name": name, "kind": kind});
    let package = |name: &str, dependencies: Vec<Value>| serde_json::json!({"name": name, "dependencies": dependencies});
    let metadata = serde_json::json!({"packages": [
        package(ROOT, vec![dependency("container-core", None), dependency("container-net", Some("dev"))]),
        package("container-core", vec![dependency("container-image", None), dependency("libc", None)]),
        package("container-net", vec![dependency("container-storage", Some("build"))]),
        package("container-storage", vec![dependency("container-net", Some("dev"))]),
        package("fifth", vec![dependency("container-image", None)]),
    ]});
    assert_eq!(
        forbidden_edges(&metadata),
        [
            "container-core -> container-image",
            "container-net -> container-storage",
            "container-storage -> container-net",
            "fifth -> container-image",
        ]
    );
}

/// What the workspace's manifests say, its own packages only.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("run cargo");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let names: Vec<_> = packages(&metadata).map(name).collect();
    assert!(
        LOWER_CRATES.iter().all(|lower| names.contains(lower)),
        "crates are missing: {names:?}"
    );
    metadata
}

/// Normal, build and dev dependencies on a lower crate, of any package but the root.
fn forbidden_edges(metadata: &Value) -> Vec<String> {
    let others = packages(metadata).filter(|package| name(package) != ROOT);
    let edges = others.flat_map(|package| {
        let dependencies = package["dependencies"].as_array().expect("an array").iter();
        dependencies.map(move |dependency| (name(package), name(dependency)))
    });
    // A crate may name itself, to switch a feature on for its own tests.
    edges
        .filter(|(from, to)| LOWER_CRATES.contains(to) && from != to)
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect()
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().expect("an array").iter()
}

fn name(value: &Value) -> &str {
    value["name"].as_str().expect("a name")
}
