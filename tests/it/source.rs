//! Rules for the source files themselves, and the list of them for other checks.

use std::fs;
use std::path::{Path, PathBuf};

use syn::buffer::{Cursor, TokenBuffer};

/// The directories with the code of the five crates, below the root of the workspace.
pub(crate) const SOURCE_DIRS: [&str; 5] = [
    "src",
    "container-core/src",
    "container-image/src",
    "container-net/src",
    "container-storage/src",
];

/// About where a file stops to be one subject.
const MAX_LINES: usize = 900;

/// All files below `dir` whose name ends in `.rs`, with their path relative to it, sorted.
pub(crate) fn source_files(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        let entries =
            fs::read_dir(&next).unwrap_or_else(|error| panic!("list {}: {error}", next.display()));
        for path in entries.map(|entry| entry.expect("a directory entry").path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)
                    .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
                files.push((
                    path.strip_prefix(dir).expect("it is below").to_owned(),
                    text,
                ));
            }
        }
    }
    files.sort();
    files
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn unsafe_code_stays_behind_its_fence() {
    let mut outside = Vec::new();
    for dir in SOURCE_DIRS {
        let files = source_files(&root().join(dir));
        assert!(!files.is_empty(), "no sources in {dir}");
        let bad = files
            .into_iter()
            .filter(|(path, text)| !may_hold_unsafe(path) && has_unsafe(text));
        outside.extend(bad.map(|(path, _)| Path::new(dir).join(path)));
    }
    assert!(
        outside.is_empty(),
        "unsafe code, or leave for it, in {outside:?}"
    );
}

#[test]
fn no_source_file_is_too_long() {
    let mut long = Vec::new();
    for dir in SOURCE_DIRS {
        for (path, text) in source_files(&root().join(dir)) {
            let lines = text.lines().count();
            if lines > MAX_LINES {
                long.push(format!("{dir}/{}: {lines}", path.display()));
            }
        }
    }
    assert!(
        long.is_empty(),
        "files to split by subject (want at most {MAX_LINES} lines): {long:#?}"
    );
}

#[test]
fn unsafe_code_is_found_wherever_it_hides() {
    for (text, want) in [
        ("fn f() { unsafe { g() } }", true),
        ("unsafe fn f() {}", true),
        ("unsafe impl Send for X {}", true),
        ("#[unsafe(no_mangle)] extern fn f() {}", true),
        ("macro_rules! m { () => { [unsafe { g() }] } }", true),
        ("#![allow(unsafe_code)]", true),
        (
            "#[expect(dead_code, unsafe_code, reason = \"x\")] fn f() {}",
            true,
        ),
        ("#[cfg_attr(linux, allow(unsafe_code))] fn f() {}", true),
        (
            "#![forbid(unsafe_code)] // unsafe\nfn f() { g(\"unsafe\", r#unsafe_f) }",
            false,
        ),
    ] {
        assert_eq!(has_unsafe(text), want, "{text}");
    }
    for (path, want) in [
        ("sys/mount.rs", true),
        ("net/sys.rs", true),
        ("plan/child/program.rs", false),
        ("program.rs", false),
        ("system.rs", false),
    ] {
        assert_eq!(may_hold_unsafe(Path::new(path)), want, "{path}");
    }
}

/// True for the files of raw system calls and the entry before `main`.
fn may_hold_unsafe(path: &Path) -> bool {
    let in_sys = path
        .components()
        .any(|part| part.as_os_str() == "sys" || part.as_os_str() == "sys.rs");
    in_sys || path.ends_with("launcher/entry.rs")
}

/// True if the code, that in macros included, says `unsafe` or lifts the lint against it.
fn has_unsafe(text: &str) -> bool {
    let tokens = TokenBuffer::new2(syn::parse_str(text).expect("Rust"));
    says_unsafe(tokens.begin(), false)
}

/// `lint_names`: the tokens are those between the parentheses of `allow(…)` and the like.
fn says_unsafe(mut cursor: Cursor<'_>, lint_names: bool) -> bool {
    let mut lifts = false;
    while !cursor.eof() {
        if let Some((inside, _, _, next)) = cursor.any_group() {
            if says_unsafe(inside, lifts) {
                return true;
            }
            (cursor, lifts) = (next, false);
        } else if let Some((ident, next)) = cursor.ident() {
            if ident == "unsafe" || (lint_names && ident == "unsafe_code") {
                return true;
            }
            lifts = ["allow", "expect", "warn"]
                .iter()
                .any(|level| ident == level);
            cursor = next;
        } else {
            let Some((_, next)) = cursor.token_tree() else {
                break;
            };
            (cursor, lifts) = (next, false);
        }
    }
    false
}
