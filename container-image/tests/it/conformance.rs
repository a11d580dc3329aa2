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

/// Whether the first part of a name is a host, and not already the path.
fn is_host(text: &str) -> bool {
    text.contains(['.', ':']) || text == "localhost" || text != text.to_lowercase()
}

/// Whether a tag stands at the end.
fn is_tagged(text: &str) -> bool {
    text.rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'))
}

/// The longest name of a repository.
const MAX_NAME: usize = 255;

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
            // With a tag it is no name, but a reference all the same.
            ("TestWithNameFailure", _) => parsed.is_err() || is_tagged(input),
            // Names that are not canonical are completed here, and not refused.
            ("TestParseNamed", _) if !case["err"].is_null() => true,
            ("TestParseNamed" | "TestDomainAndPath" | "TestSerialization", _) => {
                let is_error = !case["err"].is_null();
                parsed.map_or(is_error, |parsed| {
                    let domain = text(&case, "domain");
                    let split = !is_host(domain)
                        || (parsed.registry(), parsed.repository())
                            == (domain, text(&case, "path"));
                    let tag = text(&case, "tag");
                    !is_error && split && (tag.is_empty() || parsed.tag() == Some(tag))
                })
            }
            ("TestWithTag", _) => {
                let whole = text(&case, "combined").parse::<Reference>();
                let name = text(&case, "name").parse::<Reference>();
                other_digest(text(&case, "combined"))
                    || whole.is_ok_and(|whole| {
                        let tagged = name.and_then(|name| name.with_tag(text(&case, "tag")));
                        tagged.is_ok_and(|tagged| {
                            (whole.name(), whole.tag()) == (tagged.name(), tagged.tag())
                        })
                    })
            }
            // The digests in this table are too short, which only a strict reader sees.
            ("TestWithDigest", _) => other_digest(text(&case, "combined")),
            ("TestDomainRegexp", _) => {
                let parsed = format!("{input}/x").parse::<Reference>();
                let is_registry = parsed.is_ok_and(|parsed| parsed.registry() == input);
                // A word is a host only in a pattern: as part of a name it is none.
                let matches = case["match"] == true;
                is_registry == matches || matches && !is_host(input)
            }
            ("TestFullNameRegexp", _) if case["match"] == false => {
                parsed.is_err() || is_tagged(input)
            }
            ("TestFullNameRegexp" | "TestReferenceRegexp", _) => {
                // The length is not for patterns to bound.
                parsed.is_ok() == (case["match"] == true)
                    || other_digest(input)
                    || input.len() > MAX_NAME
            }
            // What looks like an identifier is no name.
            ("TestIdentifierRegexp", _) => parsed.is_err() || case["match"] == false,
            // Patterns over names, containerd's locators with queries, and what names an image by its ID alone:
            // they are not references of this form.
            ("TestMatch" | "TestReferenceParser" | "TestParseImageReferences", _) => true,
            (other, _) => panic!("the table {other} is new"),
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
            "TestParseSelector" => true,
            // Strict choice, and choice by the system alone, are not offered.
            "TestOnlyStrict" | "TestOnlyOS" | "TestOnlyOSLess" => true,
            // Versions and features of systems are not part of our text.
            "TestFormatAllEncoding"
            | "TestFormatAllSkipsEmptyOSFeatures"
            | "TestCompareOSFeatures"
            | "BenchmarkParseOSOptions"
            | "BenchmarkFormatAllOSFeatures" => true,
            // The variant of a host is told by its architecture, not by /proc/cpuinfo.
            "TestCPUVariant" | "TestGetCPUVariantFromArch" => true,
            other => panic!("the table {other} is new"),
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
