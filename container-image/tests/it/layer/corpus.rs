//! Archives of other projects, if `CONFORMANCE_DIR` names a directory that has them.

use super::*;

/// The archives of the corpus with their names, decoded.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let Some(dir) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return Vec::new();
    };
    let mut archives = Vec::new();
    for origin in ["go", "python", "tar-rs"] {
        let dir = Path::new(&dir).join("tar-corpus").join(origin);
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.contains(".tar") {
                continue;
            }
            let mut bytes = fs::read(&path).unwrap();
            if name.ends_with(".base64") {
                bytes = run(Command::new("base64").arg("-d").arg(&path));
            }
            let mut plain = Vec::new();
            decompress(&bytes[..])
                .unwrap()
                .limit_ratio(u64::MAX)
                .read_to_end(&mut plain)
                .unwrap();
            archives.push((format!("{origin}/{name}"), plain));
        }
    }
    archives.sort();
    archives
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// What is refused, and why.
const REFUSED: [(&str, &str); 15] = [
    // As Go does.
    ("go/gnu-sparse-many-zeros.tar.bz2", "LimitExceeded"),
    ("go/issue10968.tar", "InvalidArchive"),
    ("go/issue11169.tar", "InvalidArchive"),
    ("go/issue12435.tar", "InvalidArchive"),
    ("go/neg-size.tar.base64", "InvalidArchive"),
    ("go/pax-bad-hdr-file.tar", "InvalidArchive"),
    ("go/pax-bad-hdr-large.tar.bz2", "LimitExceeded"),
    ("go/pax-bad-mtime-file.tar", "InvalidArchive"),
    ("go/pax-nul-path.tar", "InvalidArchive"),
    ("go/pax-nul-xattrs.tar", "InvalidArchive"),
    // A directory of an incremental backup, which is no part of an image; Docker refuses it too.
    ("go/gnu-incremental.tar", "UnsupportedEntry"),
    // A header that describes the next one, and there is none.
    ("go/pax-path-hdr.tar", "TruncatedArchive"),
    // Gigabytes are announced and left out, for tests of writers.
    ("go/writer-big-long.tar.base64", "TruncatedArchive"),
    ("go/writer-big.tar", "TruncatedArchive"),
    // A user of number 2^32 - 1, which means "leave it" to the kernel.
    ("python/testtar.tar.xz", "InvalidArchive"),
];

/// What GNU tar extracts in another way, and why.
const DIFFERENT: [&str; 6] = [
    // GNU tar heeds global headers; Go, and with it all container engines, do not.
    "go/pax-global-records.tar",
    // GNU tar takes them for damaged; Go does not.
    "go/hdr-only.tar",
    "go/sparse-formats.tar",
    // Files of sixty gigabytes, all holes: not to be read whole.
    "go/gnu-sparse-big.tar.base64",
    "go/pax-sparse-big.tar.base64",
    "tar-rs/sparse-large.tar",
];

#[test]
fn archives_of_others_are_refused_or_read() {
    for (name, bytes) in corpus() {
        let options = UnpackOptions {
            whiteouts: Whiteouts::Keep,
            ownership: Ownership::Ignore,
            ..UnpackOptions::default()
        };
        let result = Sandbox::new().unpack(&bytes, &options).map(|_| ());
        let want = REFUSED.iter().find(|(refused, _)| *refused == name);
        let got = result.as_ref().map_err(Error::code).copied();
        assert_eq!(got, want.map_or(Ok(()), |(_, code)| Err(*code)), "{name}");
    }
}

#[test]
fn privileged_archives_of_others_unpack_as_gnu_tar_does() {
    if !is_root() {
        return;
    }
    for (name, bytes) in corpus() {
        let refused = REFUSED.iter().any(|(refused, _)| *refused == name);
        if refused || DIFFERENT.contains(&&*name) {
            continue;
        }
        let sandbox = Sandbox::new();
        let options = UnpackOptions {
            whiteouts: Whiteouts::Keep,
            ..UnpackOptions::default()
        };
        sandbox.unpack(&bytes, &options).unwrap();
        let theirs = tempfile::tempdir_in(scratch()).unwrap();
        let (file, root) = (theirs.path().join("a.tar"), theirs.path().join("root"));
        fs::write(&file, &bytes).unwrap();
        fs::create_dir(&root).unwrap();
        run(Command::new("tar")
            .args(["-x", "-p", "--same-owner", "--numeric-owner"])
            .args(["--xattrs", "--xattrs-include=*", "-f"])
            .arg(&file)
            .arg("-C")
            .arg(&root));
        let comparable = |root: &Path| {
            let mut tree = tree(root);
            for node in tree.values_mut() {
                // Labels belong to the host. Directories without an entry have the time of now.
                node.xattrs.retain(|(name, _)| name != "security.selinux");
                if node.mode & 0o170_000 == 0o040_000 {
                    node.mtime = (0, 0);
                }
            }
            tree.remove(Path::new("."));
            tree
        };
        let (ours, want) = (comparable(&sandbox.root()), comparable(&root));
        let differ = ours
            .iter()
            .find(|(path, node)| want.get(*path) != Some(node));
        assert!(differ.is_none(), "{name}: {differ:?}");
        assert_eq!(ours.len(), want.len(), "{name}");
    }
}
