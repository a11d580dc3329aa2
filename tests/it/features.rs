//! `FEATURES.md` has a row for each promise, and what it says works has a test.

use std::collections::BTreeMap;
use std::fs;

use syn::{Attribute, Item};

use crate::source::root;

/// The promises: prefix of the id, number of the last one. Ids count from 01 without gaps.
const ROWS: [(&str, usize); 15] = [
    ("IMG", 16),
    ("REG", 16),
    ("IMC", 10),
    ("BLD", 25),
    ("STO", 19),
    ("VOL", 13),
    ("NS", 12),
    ("CG", 22),
    ("SEC", 8),
    ("LIF", 23),
    ("INS", 8),
    ("NET", 29),
    ("HUB", 14),
    ("SYS", 10),
    ("BEY", 23),
];

#[test]
fn features_are_complete_and_have_tests() {
    let text = fs::read_to_string(root().join("FEATURES.md")).expect("FEATURES.md");
    let problems = problems(&text, &|test| find_test(test));
    assert!(problems.is_empty(), "FEATURES.md: {problems:#?}");
}

#[test]
fn attacks_that_must_fail_name_tests_that_exist() {
    let text = fs::read_to_string(root().join("THREATS.md")).expect("THREATS.md");
    let named = text.split('`').skip(1).step_by(2);
    let tests: Vec<_> = named.filter(|code| code.contains(".rs::")).collect();
    assert!(tests.len() > 100, "{} tests are named", tests.len());
    let missing: Vec<_> = tests
        .into_iter()
        .filter_map(|test| find_test(test).err().map(|why| format!("{test}: {why}")))
        .collect();
    assert!(missing.is_empty(), "THREATS.md: {missing:#?}");
}

#[test]
fn untrue_rows_are_found() {
    let all: String = ids()
        .map(|id| format!("| {id} | something | open | |\n"))
        .collect();
    let find = |test: &str| match test {
        "tests/it/run.rs::runs" => Ok(()),
        _ => Err("no such test".to_owned()),
    };
    assert_eq!(problems(&all, &find), [""; 0]);
    for (row, want) in [
        (
            "| IMG-01 | something | works | `tests/it/run.rs::runs` |",
            None,
        ),
        (
            "| IMG-01 | something | works where the host has zfs | `tests/it/run.rs::runs` |",
            None,
        ),
        (
            "| IMG-01 | something | works | |",
            Some("IMG-01 works, but no test is named"),
        ),
        (
            "| IMG-01 | something | works where the host has | `tests/it/run.rs::runs` |",
            Some("IMG-01 has the status"),
        ),
        (
            "| IMG-01 | something | partly | |",
            Some("IMG-01 has the status `partly`"),
        ),
        (
            "| IMG-01 | something | works | `tests/it/run.rs::walks` |",
            Some("IMG-01 names `tests/it/run.rs::walks`: no"),
        ),
        ("| IMG-01 | | open | |", Some("IMG-01 has no description")),
        ("| IMG-01 | something | open |", Some("a row has 3 cells")),
        ("", Some("IMG-01 is missing")),
        (
            "| IMG-01 | a | open | |\n| IMG-01 | b | open | |",
            Some("IMG-01 has 2 rows"),
        ),
        (
            "| IMG-01 | something | open | |\n| IMG-17 | something | open | |",
            Some("IMG-17 is unknown"),
        ),
    ] {
        let text = all.replace("| IMG-01 | something | open | |", row);
        let found = problems(&text, &find);
        match want {
            None => assert_eq!(found, [""; 0], "{row}"),
            Some(want) => assert!(
                found.iter().any(|problem| problem.starts_with(want)),
                "{row}: {found:?}"
            ),
        }
    }
}

#[test]
fn tests_are_found_by_file_and_name() {
    assert_eq!(
        find_test("tests/it/features.rs::tests_are_found_by_file_and_name"),
        Ok(())
    );
    assert_eq!(find_test("benches/run.rs"), Ok(()));
    for (test, want) in [
        ("benches/nothing.rs", "not a [[bench]] of Cargo.toml"),
        ("tests/it/features.rs::problems", "it is not a test"),
        ("tests/it/features.rs::nothing", "no such function"),
        ("tests/it/nothing.rs::nothing", "no such file"),
        ("features", "not of the form file.rs::test"),
    ] {
        assert_eq!(find_test(test), Err(want.to_owned()), "{test}");
    }
    let parse = |text: &str| test_named(&syn::parse_file(text).expect("Rust").items, "f");
    for (text, want) in [
        ("mod tests { mod deeper { #[test] fn f() {} } }", Ok(())),
        (
            "#[test] #[ignore = \"slow\"] fn f() {}",
            Err("it is ignored"),
        ),
        ("proptest! { #[test] fn f(x in 0..9) {} }", Ok(())),
        ("#[tokio::test] fn f() {}", Err("it is not a test")),
    ] {
        assert_eq!(parse(text), want.map_err(str::to_owned), "{text}");
    }
}

fn ids() -> impl Iterator<Item = String> {
    ROWS.into_iter()
        .flat_map(|(prefix, last)| (1..=last).map(move |number| format!("{prefix}-{number:02}")))
}

/// What is wrong with the tables in `text`; `find` tells whether a test exists.
fn problems(text: &str, find: &dyn Fn(&str) -> Result<(), String>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix('|')) {
        let cells: Vec<&str> = line
            .trim_end()
            .trim_end_matches('|')
            .split('|')
            .map(str::trim)
            .collect();
        let id = cells[0];
        if !is_id(id) {
            continue;
        }
        let [_, feature, status, tests] = cells[..] else {
            problems.push(format!("a row has {} cells, want 4: {id}", cells.len()));
            continue;
        };
        *rows.entry(id).or_default() += 1;
        if feature.is_empty() {
            problems.push(format!("{id} has no description"));
        }
        let works = status == "works" || status.starts_with("works where the host has ");
        if !works && status != "open" {
            problems.push(format!("{id} has the status `{status}`"));
        }
        let tests: Vec<&str> = tests
            .split([',', ' '])
            .map(|test| test.trim_matches('`'))
            .filter(|test| !test.is_empty())
            .collect();
        if works && tests.is_empty() {
            problems.push(format!("{id} works, but no test is named"));
        }
        for test in tests {
            if let Err(why) = find(test) {
                problems.push(format!("{id} names `{test}`: {why}"));
            }
        }
    }
    for id in ids() {
        match rows.remove(id.as_str()) {
            None => problems.push(format!("{id} is missing")),
            Some(1) => {}
            Some(count) => problems.push(format!("{id} has {count} rows")),
        }
    }
    problems.extend(rows.keys().map(|id| format!("{id} is unknown")));
    problems
}

/// True for two or three capitals, a hyphen and two digits.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(prefix, number)| {
        (2..=3).contains(&prefix.len())
            && prefix.bytes().all(|byte| byte.is_ascii_uppercase())
            && number.len() == 2
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Looks for `file.rs::test`, the file relative to the root of the workspace, or for the benchmark
/// `benches/file.rs`.
fn find_test(test: &str) -> Result<(), String> {
    if let Some(name) = test
        .strip_prefix("benches/")
        .and_then(|file| file.strip_suffix(".rs"))
    {
        return find_bench(test, name);
    }
    let (file, name) = test
        .split_once(".rs::")
        .ok_or("not of the form file.rs::test")?;
    let text = fs::read_to_string(root().join(format!("{file}.rs"))).map_err(|_| "no such file")?;
    let file = syn::parse_file(&text).map_err(|error| error.to_string())?;
    test_named(&file.items, name)
}

/// Looks for a benchmark that cargo knows, and its file.
fn find_bench(file: &str, name: &str) -> Result<(), String> {
    let manifest =
        fs::read_to_string(root().join("Cargo.toml")).map_err(|error| error.to_string())?;
    if !manifest.contains(&format!("[[bench]]\nname = \"{name}\"\n")) {
        return Err("not a [[bench]] of Cargo.toml".into());
    }
    if !root().join(file).is_file() {
        return Err("no such file".into());
    }
    Ok(())
}

/// Looks for a test function in `items` and in the modules and macro calls among them.
fn test_named(items: &[Item], name: &str) -> Result<(), String> {
    let mut result = Err("no such function".to_owned());
    for item in items {
        let found = match item {
            Item::Fn(function) if function.sig.ident == name => return check_test(&function.attrs),
            Item::Mod(module) => module
                .content
                .as_ref()
                .map(|(_, items)| test_named(items, name)),
            // proptest! and the like hold functions that are nearly Rust.
            Item::Macro(call) => {
                let text = call.mac.tokens.to_string();
                Some(if text.contains(&format!("fn {name} (")) {
                    Ok(())
                } else {
                    Err("no such function".to_owned())
                })
            }
            _ => None,
        };
        match found {
            Some(Ok(())) => return Ok(()),
            Some(Err(why)) if why != "no such function" => result = Err(why),
            _ => {}
        }
    }
    result
}

fn check_test(attributes: &[Attribute]) -> Result<(), String> {
    if !attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("test"))
    {
        return Err("it is not a test".to_owned());
    }
    if attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("ignore"))
    {
        return Err("it is ignored".to_owned());
    }
    Ok(())
}
