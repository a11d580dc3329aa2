//! The example `registry`, used as its users would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use container_image::{Client, ClientOptions, Credentials, ErrorKind, Reference};

use crate::engine::example;

struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(example("registry"))
            .args(["--address", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the example");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdout }
    }

    /// What follows `start` in the next line.
    fn line(&mut self, start: &str) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("read a line");
        let rest = line.trim().strip_prefix(start);
        rest.unwrap_or_else(|| panic!("want {start}…, got {line:?}"))
            .into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().expect("kill the example");
        self.child.wait().expect("wait for the example");
    }
}

fn options(registry: &str) -> ClientOptions {
    let mut options = ClientOptions::default();
    let user = Credentials::new("user", "secret");
    options.credentials.insert(registry.into(), user);
    options
}

#[test]
fn the_example_serves_users_and_lets_everybody_pull_what_is_public() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    // `htpasswd -nbBC 4 user secret`
    let users = "user:$2y$04$yU9MD3JHfT8MaU1Wky6W6urd1mgGKrSOtB2wz/igKHkTqUz35gR3K\n";
    fs::write(path("users"), users).expect("write the users");
    let (root, users) = (path("root"), path("users"));
    let mut registry = Running::start(&[
        "--root",
        &root,
        "--htpasswd",
        &users,
        "--public",
        "library",
        "--self-signed",
        "registry.example.com,127.0.0.1",
    ]);
    let certificate = registry.line("certificate in ");
    assert!(
        fs::read_to_string(&certificate)
            .expect("a certificate")
            .contains("BEGIN CERTIFICATE")
    );
    fs::remove_file(&certificate).expect("remove the certificate");
    let address = registry.line("serving on ");
    let name = |repository: &str| -> Reference {
        format!("{address}/{repository}:v1")
            .parse()
            .expect("a name")
    };
    let (user, anybody) = (
        Client::new(options(&address)),
        Client::new(ClientOptions::default()),
    );
    let index = container_image::Index::new(Vec::new()).expect("an index");
    for repository in ["library/app", "secret/app"] {
        let media_type = &index.descriptor().media_type;
        user.put_manifest(&name(repository), media_type, index.raw())
            .expect("push");
    }
    anybody
        .manifest(&name("library/app"))
        .expect("pull what is public");
    let error = anybody
        .manifest(&name("secret/app"))
        .expect_err("pull a secret");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let collect = Command::new(example("registry"))
        .args(["--address", "127.0.0.1:0", "--root", &root, "--collect"])
        .output()
        .expect("collect");
    assert_eq!(collect.stdout, b"removed 0 blobs, 0 bytes\n");
    assert!(Path::new(&root).join("blobs").is_dir());
}
