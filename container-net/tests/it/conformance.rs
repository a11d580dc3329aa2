//! Cases of other projects, where the folder with them is given by `CONFORMANCE_DIR`.

use std::path::{Path, PathBuf};

use container_net::{PortMapping, ResolvConfOptions, resolv_conf};
use serde_json::Value;

fn folder(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return None;
    };
    Some(Path::new(&folder).join(name))
}

/// The cases of all tables of a function.
fn cases(folder: &Path, function: &str) -> Vec<Value> {
    let tables = std::fs::read_to_string(folder.join("tables.json")).unwrap();
    let files: Vec<Value> = serde_json::from_str(&tables).unwrap();
    let tables = files
        .iter()
        .flat_map(|file| file["tables"].as_array().unwrap());
    let cases = tables.filter(|table| table["func"] == function);
    cases
        .flat_map(|table| table["cases"].as_array().unwrap().clone())
        .collect()
}

/// What counts in a resolv.conf: its lines without comments.
fn lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[test]
fn resolv_conf_is_as_dockers_on_the_default_network() {
    let Some(folder) = folder("resolvconf") else {
        return;
    };
    let cases = cases(&folder, "TestRCTransformForLegacyNw");
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let mut options = ResolvConfOptions::default();
        options.ipv6 = case["ipv6"].as_bool().unwrap_or(false);
        options.nameservers = case["overrideNS"].as_array().map(|servers| {
            servers
                .iter()
                .map(|server| server.as_str().unwrap().parse().unwrap())
                .collect()
        });
        let text = resolv_conf(case["input"].as_str().unwrap(), &options).unwrap();
        let golden = folder
            .join("golden/TestRCTransformForLegacyNw")
            .join(format!("{}.golden", name.replace(' ', "_")));
        assert_eq!(
            lines(&text),
            lines(&std::fs::read_to_string(golden).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn overrides_of_resolv_conf_are_as_dockers() {
    let Some(folder) = folder("resolvconf") else {
        return;
    };
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        words
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let mut compared = 0;
    for case in cases(&folder, "TestRCModify") {
        let overrides = words(&case["overrideNS"]);
        // The others are about steps that are one here.
        if overrides.is_empty() {
            continue;
        }
        let mut host: String = words(&case["inputNS"])
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        host += &format!("search {}\n", words(&case["inputSearch"]).join(" "));
        host += &format!("options {}\n", words(&case["inputOptions"]).join(" "));
        let mut options = ResolvConfOptions::default();
        options.nameservers = Some(
            overrides
                .iter()
                .map(|server| server.parse().unwrap())
                .collect(),
        );
        options.search = Some(words(&case["overrideSearch"]));
        options.options = Some(words(&case["overrideOptions"]));
        let text = resolv_conf(&host, &options).unwrap();
        let golden = folder.join("golden/TestRCModify/Overrides.golden");
        assert_eq!(
            lines(&text),
            lines(&std::fs::read_to_string(golden).unwrap())
        );
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn bad_ports_are_refused_as_by_docker() {
    let Some(folder) = folder("cli-parse") else {
        return;
    };
    let cases = cases(&folder, "TestPortOptInvalidSimpleSyntax");
    assert!(!cases.is_empty());
    for case in cases {
        let value = case["value"].as_str().unwrap();
        // A service of a swarm has no host address; a container does.
        let swarm_only = case["expectedError"] == "hostip is not supported";
        assert_eq!(PortMapping::parse(value).is_ok(), swarm_only, "{value:?}");
    }
}
