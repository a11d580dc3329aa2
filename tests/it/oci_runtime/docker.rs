//! Docker's everyday commands with our runtime, with a daemon of the test's own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{rootfs_archive, run, said_by};
use crate::engine::example;
use crate::support::host::remove_cgroups;
use crate::support::isolate::{Place, isolated};
use crate::support::peers;

/// When a daemon that does not answer is given up.
const LIMIT: Duration = Duration::from_secs(60);

struct Docker {
    client: PathBuf,
    address: String,
    daemon: Child,
}

impl Docker {
    /// Starts a daemon without networks, whose only runtime is ours; nothing if Docker is not installed.
    fn start(place: &Place) -> Option<Self> {
        let (client, daemon) = (peers::find("docker")?, peers::find("dockerd")?);
        let dir = place.dir().join("docker");
        let address = format!("unix://{}", dir.join("socket").display());
        let mut command = Command::new(daemon);
        command
            .args(["--iptables=false", "--ip6tables=false", "--bridge=none"])
            .args(["--storage-driver", "vfs", "--host", &address])
            .args(["--default-ulimit", "nofile=1024:1024"])
            .arg("--cgroup-parent")
            .arg(format!("/{}", place.cgroup()))
            .args(["--default-runtime", "ours", "--add-runtime"])
            .arg(format!("ours={}", example("oci-runtime").display()));
        for (option, name) in [
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(option).arg(dir.join(name));
        }
        std::fs::create_dir(&dir).expect("make a directory");
        let log = std::fs::File::create(dir.join("log")).expect("make a file");
        let daemon = command.stdout(Stdio::null()).stderr(log).spawn();
        let docker = Self {
            client,
            address,
            daemon: daemon.expect("start dockerd"),
        };
        let end = Instant::now() + LIMIT;
        while run(&mut docker.command(&["version"])).code != Some(0) {
            assert!(Instant::now() < end, "dockerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(docker)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.args(["--host", &self.address]).args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        said_by(&mut self.command(arguments))
    }

    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("stop dockerd");
        self.daemon.wait().expect("wait for dockerd");
    }
}

#[test]
fn privileged_docker_runs_containers_with_it() {
    isolated(|place| {
        let Some(archive) = rootfs_archive(place) else {
            return;
        };
        let Some(docker) = Docker::start(place) else {
            return;
        };
        docker.ask(&["import", archive.to_str().expect("UTF-8"), "image"]);
        let mut once = vec!["run", "--rm", "--network", "none", "image"];
        let said = |command: &[&str]| run(&mut docker.command(&[&once[..], command].concat()));
        assert_eq!(said(&["echo", "hello"]).stdout, "hello");
        assert_eq!(said(&["sh", "-c", "exit 5"]).code, Some(5));
        assert_eq!(said(&["/no/such/program"]).code, Some(127));
        assert_eq!(said(&["no-such-program"]).code, Some(127));
        assert_eq!(said(&["/etc/passwd"]).code, Some(126));
        once.insert(1, "-t");
        assert_eq!(docker.ask(&[&once[..], &["tty"]].concat()), "/dev/pts/0");

        let create = ["run", "-d", "--name", "one", "--network", "none"];
        let limits = ["--memory", "64m", "--pids-limit", "50"];
        let script = ["image", "sh", "-c", "echo logged; exec sleep 600"];
        docker.ask(&[&create[..], &limits, &script].concat());
        let executed = run(&mut docker.command(&["exec", "one", "sh", "-c", "echo in; exit 3"]));
        assert_eq!((executed.code, executed.stdout.as_str()), (Some(3), "in"));
        assert_eq!(docker.ask(&["exec", "-t", "one", "tty"]), "/dev/pts/0");
        assert_eq!(docker.ask(&["logs", "one"]), "logged");
        assert!(docker.ask(&["top", "one"]).contains("sleep 600"));
        let memory = docker.ask(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]);
        assert!(memory.ends_with("64MiB"), "{memory}");
        let state = |field: &str| docker.ask(&["inspect", "--format", field, "one"]);
        docker.ask(&["pause", "one"]);
        assert_eq!(state("{{.State.Status}}"), "paused");
        docker.ask(&["unpause", "one"]);
        docker.ask(&["update", "--memory", "128m", "--memory-swap", "128m", "one"]);
        let memory = docker.ask(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"]);
        assert!(memory.ends_with("128MiB"), "{memory}");
        docker.ask(&["stop", "--time", "0", "one"]);
        assert_eq!(state("{{.State.Status}} {{.State.ExitCode}}"), "exited 137");
        docker.ask(&["start", "one"]);
        docker.ask(&["restart", "--time", "0", "one"]);
        docker.ask(&["rm", "--force", "one"]);
        docker.stop();
        remove_cgroups(place.cgroup());
    });
}
