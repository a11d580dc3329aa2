//! Tables of other implementations, if `CONFORMANCE_DIR` names a directory that has them.

use std::path::PathBuf;

use container_image::{Document, ImageConfig, Platform, Reference};
use serde_json::Value;

/// Every case of the tables of one topic, with the function that it tests there.
fn cases(topic: &str) -> Vec<(String, String, Value)> {
    let Some(dir) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return Vec::new();
    };
    let path = PathBuf::from(dir).join(topic);
    let files: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut cases = Vec::new();
    for file in files.as_array().unwrap() {
        for table in file["tables"].as_array().unwrap() {
            let function = table["func"].as_str().unwrap();
            let variable = table["var"].as_str().unwrap_or("");
            for case in table["cases"].as_array().unwrap() {
                cases.push((function.to_owned(), variable.to_owned(), case.clone()));
            }
        }
    }
    cases
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or("")
}

/// Digests of other algorithms than SHA-256 are refused here, on purpose.
fn other_digest(input: &str) -> bool {
    input.contains('@')
        && input
            .parse::<Reference>()
            .is_err_and(|e| e.code() == "InvalidDigest")
}

#[test]
fn references_agree_with_those_of_docker() {
    let mut differences = Vec::new();
    for (function, variable, case) in cases("reference/tables.json") {
        let input = case.as_str().unwrap_or_else(|| text(&case, "input"));
        let parsed = input.parse::<Reference>();
        let agrees = match (function.as_str(), variable.as_str()) {
            ("TestReferenceParse", _) => {
                // That parser knows no default registry: `a/b` has the domain `a` there.
                let refused = !case["err"].is_null();
                match &parsed {
                    Ok(parsed) => {
                        let tag = text(&case, "tag");
                        !refused && (tag.is_empty() || parsed.tag() == Some(tag))
                    }
                    Err(_) => refused || other_digest(input),
                }
            }
            ("TestValidateReferenceName", "validRepoNames")
            | ("TestValidateRemoteName", "validRepositoryNames") => parsed.is_ok(),
            ("TestValidateReferenceName", "invalidRepoNames")
            | ("TestValidateRemoteName", "invalidRepositoryNames") => parsed.is_err(),
            ("TestParseRepositoryInfo", _) => {
                let names = ["FamiliarName", "FullName", "AmbiguousName"];
                names
                    .iter()
                    .map(|key| text(&case, key))
                    .filter(|name| !name.is_empty())
                    .all(|name| {
                        name.parse::<Reference>().is_ok_and(|parsed| {
                            parsed.registry() == text(&case, "Domain")
                                && parsed.repository() == text(&case, "RemoteName")
                                && parsed.name() == text(&case, "FullName")
                                && parsed.with_tag("x").unwrap().familiar()
                                    == format!("{}:x", text(&case, "FamiliarName"))
                        })
                    })
            }
            ("TestNormalizedSplitHostname", _) => parsed.is_ok_and(|parsed| {
                parsed.registry() == text(&case, "domain")
                    && parsed.repository() == text(&case, "path")
            }),
            ("TestParseDockerRef", _) => {
                // Docker forgets a tag beside a digest; here it stays as a remark.
                let expected: Reference = text(&case, "expected").parse().unwrap();
                parsed.is_ok_and(|parsed| match parsed.digest() {
                    Some(digest) => parsed.with_digest(digest) == expected,
                    None => parsed == expected,
                })
            }
            ("TestParseAnyReference", _) => {
                let parsed = text(&case, "Reference").parse::<Reference>();
                let expected = text(&case, "Equivalent").parse::<Reference>();
                parsed.is_ok_and(|parsed| expected.is_ok_and(|expected| parsed == expected))
            }
            _ => true,
        };
        if !agrees {
            differences.push(format!("{function}: {case}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn platforms_agree_with_those_of_containerd() {
    let mut differences = Vec::new();
    for (function, _, case) in cases("platforms/tables.json") {
        // Patterns, versions and features of operating systems are not part of our text.
        let odd = |text: &str| text.contains(['*', '(']);
        let listed = |key: &str| -> Vec<String> {
            let list = case["matches"][key].as_array().cloned().unwrap_or_default();
            list.iter()
                .map(|text| text.as_str().unwrap().to_owned())
                .collect()
        };
        let agrees = match function.as_str() {
            "TestParseSelector" if !odd(text(&case, "formatted")) => {
                let parsed = text(&case, "input").parse::<Platform>();
                parsed.is_ok_and(|parsed| parsed.to_string() == text(&case, "formatted"))
            }
            "TestParseSelectorInvalid" => text(&case, "input").parse::<Platform>().is_err(),
            "TestOnly" => {
                let wanted: Platform = text(&case, "platform").parse().unwrap();
                let ranks = |offered: &String| {
                    let offered = offered.parse::<Platform>();
                    offered.is_ok_and(|offered| wanted.rank(&offered).is_some())
                };
                listed("true").iter().filter(|text| !odd(text)).all(ranks)
                    && !listed("false").iter().any(ranks)
            }
            _ => true,
        };
        if !agrees {
            differences.push(format!("{function}: {case}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

#[test]
fn documents_agree_with_the_schemas_of_oci() {
    let mut differences = Vec::new();
    let mut rows = std::collections::BTreeMap::<String, usize>::new();
    for (function, _, case) in cases("oci-schema/image-spec-tables.json") {
        let row = rows.entry(function.clone()).or_default();
        let read = match function.as_str() {
            "TestConfig" | "TestBackwardsCompatibilityConfig" => {
                ImageConfig::parse(text(&case, "config").as_bytes()).map(|_| ())
            }
            "TestDescriptor" => {
                let index = format!(
                    r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                    text(&case, "descriptor")
                );
                Document::parse(index.as_bytes(), None).map(|_| ())
            }
            "TestImageIndex" | "TestBackwardsCompatibilityImageIndex" => {
                Document::parse(text(&case, "imageIndex").as_bytes(), None).map(|_| ())
            }
            "TestManifest" | "TestBackwardsCompatibilityManifest" => {
                Document::parse(text(&case, "manifest").as_bytes(), None).map(|_| ())
            }
            _ => continue,
        };
        let listed = SCHEMA_DIFFERENCES
            .iter()
            .any(|(of, rows)| *of == function && rows.contains(row));
        let differs = read.is_ok() == (case["fail"] == true);
        if differs != listed {
            differences.push(format!("{function} {row}: {case}"));
        }
        *row += 1;
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Rows in which we are not of the schemas' opinion.
const SCHEMA_DIFFERENCES: [(&str, &[usize]); 8] = [
    // A variable without a value, which Docker lets through as well.
    ("TestConfig", &[9]),
    // Media types are compared, never taken apart: odd ones pass through like unknown ones.
    ("TestDescriptor", &[3, 4, 5, 7, 8, 19]),
    ("TestImageIndex", &[0, 4, 5, 11]),
    ("TestManifest", &[0, 8]),
    // URLs are not fetched and embedded data is not used, so it does not matter what they are.
    ("TestDescriptor", &[17, 29]),
    // Digests of any other algorithm than SHA-256 are refused.
    ("TestDescriptor", &[21, 22, 23, 24, 25, 27, 28]),
    ("TestManifest", &[6]),
    // An image of no layers, such as one that only holds a config, is one.
    ("TestManifest", &[5]),
];
