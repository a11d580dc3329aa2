//! The good and bad documents of the runtime-spec's own tests, if `CONFORMANCE_DIR` has them.

use std::fs;
use std::path::{Path, PathBuf};

use container_core::cgroup::{Cgroup, CgroupPath};
use container_core::oci_spec::runtime::{Features, Spec, State};
use container_core::{ErrorKind, Plan, PlanOptions, defaults};
use serde_json::{Value, json};

use crate::support::isolate::isolated;
use crate::support::skip;

/// The documents of this kind, by file name.
fn documents(kind: &str) -> Option<Vec<(String, String)>> {
    let Some(root) = std::env::var_os("CONFORMANCE_DIR") else {
        skip("CONFORMANCE_DIR is not set");
        return None;
    };
    let dir = Path::new(&root)
        .join("oci-schema/runtime-spec/test")
        .join(kind);
    let entries = fs::read_dir(&dir).expect("read a directory");
    let mut paths: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, fs::read_to_string(&path).expect("read a document"))
    };
    Some(paths.into_iter().map(read).collect())
}

/// Compiles a document; gives what is wrong with it.
fn compile(document: &str) -> Result<(), String> {
    let spec: Spec = serde_json::from_str(document).map_err(|error| error.to_string())?;
    let plan = Plan::compile(&spec, Path::new("/bundle"), &PlanOptions::default());
    plan.map(drop).map_err(|error| {
        let kind = error.kind();
        let typed = matches!(kind, ErrorKind::InvalidInput | ErrorKind::Unsupported);
        assert!(typed, "{}", error.report());
        error.report()
    })
}

/// The document with what a container needs beside it.
fn completed(document: &str) -> String {
    let mut whole = serde_json::to_value(defaults::default_spec()).expect("to JSON");
    whole["process"]["args"] = json!(["true"]);
    let given: Value = serde_json::from_str(document).expect("JSON");
    for (field, value) in given.as_object().expect("an object") {
        match (whole.get_mut(field), value) {
            (Some(Value::Object(there)), Value::Object(given)) => there.extend(given.clone()),
            _ => whole[field] = value.clone(),
        }
    }
    whole.to_string()
}

#[test]
fn good_documents_are_taken_or_refused_by_a_field() {
    let Some(good) = documents("config/good") else {
        return;
    };
    assert!(!good.is_empty());
    for (name, document) in good {
        for (document, whole) in [(document.clone(), false), (completed(&document), true)] {
            let Err(report) = compile(&document) else {
                continue;
            };
            let fields = [
                "process",
                "linux",
                "root",
                "hooks",
                "mounts",
                "vm",
                "mount at",
                "missing field",
            ];
            let named = fields.iter().any(|field| report.contains(field));
            assert!(named, "{name}, whole: {whole}: {report}");
        }
    }
}

#[test]
fn privileged_bad_documents_are_refused() {
    let Some(bad) = documents("config/bad") else {
        return;
    };
    assert!(!bad.is_empty());
    isolated(|place| {
        for (name, document) in documents("config/bad").expect("they are there") {
            assert!(compile(&document).is_err(), "{name}");
            // What is for another system is none of ours.
            if !document.contains("\"linux\"") {
                continue;
            }
            let Ok(spec) = serde_json::from_str::<Spec>(&completed(&document)) else {
                continue;
            };
            // Limits are looked at where they are set.
            let linux = spec.linux().clone().unwrap();
            let path = CgroupPath::new(&format!("{}/bad", place.cgroup())).unwrap();
            let error = Cgroup::create(&path, &linux.resources().clone().unwrap()).unwrap_err();
            let typed = matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            );
            assert!(typed, "{name}: {}", error.report());
        }
    });
}

#[test]
fn states_and_features_are_told_apart_from_what_is_none() {
    for (kind, want) in [("state", true), ("features", false)] {
        for (goodness, good) in [("good", true), ("bad", false)] {
            let Some(documents) = documents(&format!("{kind}/{goodness}")) else {
                return;
            };
            for (name, document) in documents {
                let read = match want {
                    true => serde_json::from_str::<State>(&document).map(drop),
                    false => serde_json::from_str::<Features>(&document).map(drop),
                };
                assert_eq!(read.is_ok(), good, "{kind}/{name}: {read:?}");
            }
        }
    }
}
