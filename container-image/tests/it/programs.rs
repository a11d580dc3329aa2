//! Programs of others to compare with.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Whether the program `name` is here. A missing one fails the test if `REQUIRE_PEERS` is set.
pub(crate) fn has(name: &str) -> bool {
    has_with(name, "--version")
}

/// The same for a program that knows `argument` instead of `--version`.
pub(crate) fn has_with(name: &str, argument: &str) -> bool {
    let found = Command::new(name)
        .arg(argument)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        assert!(
            std::env::var_os("REQUIRE_PEERS").is_none(),
            "{name} is missing"
        );
        println!("skipped: {name} is not installed");
    }
    found
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn skopeo(dir: &Path) -> Command {
    let policy = dir.join("policy.json");
    fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let mut command = Command::new("skopeo");
    command.arg("--policy").arg(policy);
    command
}

/// Podman with all that it keeps in `dir`.
pub(crate) fn podman(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("podman");
    command.arg("--root").arg(dir.join("podman"));
    command.arg("--runroot").arg(dir.join("run"));
    run(command
        .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"])
        .args(args))
}

/// Debian's registry on a port that the kernel chose.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) address: String,
}

impl DockerRegistry {
    /// `more` goes to the end of its configuration, below `http`.
    pub(crate) fn start(dir: &Path, more: &str) -> Self {
        // The program cannot report a port that the kernel gave it: another one is tried if somebody
        // else was faster.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap().to_string();
            let config = dir.join("registry.yml");
            let root = dir.join("registry");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
                 delete:\n    enabled: true\nhttp:\n  addr: {address}\n{more}",
                root.display()
            );
            fs::write(&config, text).unwrap();
            drop(free);
            let child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut registry = Self { child, address };
            while registry.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&registry.address).is_ok() {
                    return registry;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("docker-registry does not start");
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
