//! Podman's everyday commands with our runtime.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{rootfs_archive, run, said_by};
use crate::engine::example;
use crate::support::host::remove_cgroups;
use crate::support::isolate::{Place, isolated};
use crate::support::peers;

/// Limits that every user may set; Podman's own need more than some machines give to root.
const CONFIGURATION: &str =
    "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";

struct Podman<'a> {
    program: &'a Path,
    place: &'a Place,
}

impl Podman<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .env("CONTAINERS_CONF", self.place.dir().join("containers.conf"))
            .args(["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"])
            .args(["--events-backend", "none", "--runtime"])
            .arg(example("oci-runtime"))
            .args(arguments);
        command
    }

    /// `podman run` with what all have in common.
    fn run(&self, options: &[&str]) -> Command {
        let parent = format!("--cgroup-parent=/{}", self.place.cgroup());
        self.command(&[&["run", "--network", "none", &parent], options].concat())
    }
}

#[test]
fn privileged_podman_runs_containers_with_it() {
    isolated(|place| {
        let (Some(program), Some(archive)) = (peers::find("podman"), rootfs_archive(place)) else {
            return;
        };
        fs::write(place.dir().join("containers.conf"), CONFIGURATION).expect("write");
        let podman = Podman {
            program: &program,
            place,
        };
        let archive = archive.to_str().expect("UTF-8");
        said_by(&mut podman.command(&["import", archive, "image"]));

        let hello = said_by(&mut podman.run(&["--rm", "image", "echo", "hello"]));
        assert_eq!(hello, "hello");
        let code = |options: &[&str]| run(&mut podman.run(options)).code;
        assert_eq!(code(&["--rm", "image", "sh", "-c", "exit 5"]), Some(5));
        assert_eq!(code(&["--rm", "image", "/no/such/program"]), Some(127));
        assert_eq!(code(&["--rm", "image", "/etc/passwd"]), Some(126));
        let tty = said_by(&mut podman.run(&["--rm", "-t", "image", "tty"]));
        assert_eq!(tty, "/dev/pts/0");

        let limits = ["--memory", "64m", "--pids-limit", "50"];
        let script = "echo logged; exec sleep 600";
        let detached = [
            &["-d", "--name", "one"],
            &limits[..],
            &["image", "sh", "-c", script],
        ];
        said_by(&mut podman.run(&detached.concat()));
        let executed = run(&mut podman.command(&["exec", "one", "sh", "-c", "echo in; exit 3"]));
        assert_eq!((executed.code, executed.stdout.as_str()), (Some(3), "in"));
        let ask = |arguments: &[&str]| said_by(&mut podman.command(arguments));
        assert_eq!(ask(&["exec", "-t", "one", "tty"]), "/dev/pts/0");
        assert_eq!(ask(&["logs", "one"]), "logged");
        assert!(ask(&["top", "one"]).contains("sleep 600"));
        let memory = ask(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]);
        assert!(memory.ends_with("67.11MB"), "{memory}");
        let state = |field: &str| ask(&["inspect", "--format", field, "one"]);
        ask(&["pause", "one"]);
        assert_eq!(state("{{.State.Status}}"), "paused");
        ask(&["unpause", "one"]);
        assert_eq!(state("{{.State.Status}}"), "running");
        ask(&["stop", "--time", "0", "one"]);
        assert_eq!(state("{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
        ask(&["start", "one"]);
        ask(&["rm", "--force", "--time", "0", "one"]);
        // Podman's own monitor has a group there, which Podman leaves.
        remove_cgroups(place.cgroup());
    });
}
