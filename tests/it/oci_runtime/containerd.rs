//! containerd, through its shim, with our runtime.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{pack, run, said_by};
use crate::engine::example;
use crate::support::fixtures::busybox_layout;
use crate::support::host::remove_cgroups;
use crate::support::isolate::{Place, isolated};
use crate::support::peers;

/// When what must happen is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// Plugins that look for what a test's place does not have.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]"#;

struct Containerd {
    client: PathBuf,
    socket: PathBuf,
    daemon: Child,
}

impl Containerd {
    /// Nothing if containerd is not installed.
    fn start(place: &Place) -> Option<Self> {
        let (client, daemon) = (peers::find("ctr")?, peers::find("containerd")?);
        let dir = place.dir().join("containerd");
        fs::create_dir(&dir).expect("make a directory");
        let socket = dir.join("socket");
        let configuration = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {DISABLED}\n[grpc]\naddress = {socket:?}\n",
            dir.join("root"),
            dir.join("state"),
        );
        fs::write(dir.join("config.toml"), configuration).expect("write");
        let log = fs::File::create(dir.join("log")).expect("make a file");
        let mut command = Command::new(daemon);
        command.arg("--config").arg(dir.join("config.toml"));
        let daemon = command.stdout(Stdio::null()).stderr(log).spawn();
        let containerd = Self {
            client,
            socket,
            daemon: daemon.expect("start containerd"),
        };
        wait_until("containerd answers", || {
            run(&mut containerd.command(&["version"])).code == Some(0)
        });
        Some(containerd)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.client);
        command.arg("--address").arg(&self.socket).args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> String {
        said_by(&mut self.command(arguments))
    }

    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.daemon.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("stop containerd");
        self.daemon.wait().expect("wait for containerd");
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "it is not so that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn privileged_containerd_runs_containers_with_it() {
    isolated(|place| {
        let Some(layout) = busybox_layout(&place.dir().join("layout")) else {
            return;
        };
        let archive = pack(&layout, &place.dir().join("layout.tar"));
        let Some(containerd) = Containerd::start(place) else {
            return;
        };
        let archive = archive.to_str().expect("UTF-8");
        containerd.ask(&[
            "images",
            "import",
            "--snapshotter",
            "native",
            "--base-name",
            "busybox",
            archive,
        ]);
        let image = containerd.ask(&["images", "list", "--quiet"]);
        let runtime = example("oci-runtime");
        let runtime = runtime.to_str().expect("UTF-8");
        let group = |id: &str| format!("/{}/{id}", place.cgroup());
        let (first, second) = (group("first"), group("second"));
        let options = [
            "--snapshotter",
            "native",
            "--runc-binary",
            runtime,
            "--cgroup",
        ];

        let command = [&image, "first", "sh", "-c", "echo hello; exit 5"];
        let said = run(&mut containerd
            .command(&[&["run", "--rm"], &options[..], &[&first], &command].concat()));
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(5), "hello"),
            "{said:?}"
        );

        let detached = ["run", "--detach", "--memory-limit", "67108864"];
        let command = [&image, "second", "sleep", "600"];
        containerd.ask(&[&detached[..], &options, &[&second], &command].concat());
        let script = [
            "tasks",
            "exec",
            "--exec-id",
            "other",
            "second",
            "sh",
            "-c",
            "echo in; exit 3",
        ];
        let executed = run(&mut containerd.command(&script));
        assert_eq!((executed.code, executed.stdout.as_str()), (Some(3), "in"));
        let status = || {
            let tasks = containerd.ask(&["tasks", "list"]);
            let line = tasks.lines().find(|line| line.starts_with("second"));
            line.and_then(|line| line.split_whitespace().nth(2))
                .unwrap_or("gone")
                .to_owned()
        };
        containerd.ask(&["tasks", "pause", "second"]);
        assert_eq!(status(), "PAUSED");
        containerd.ask(&["tasks", "resume", "second"]);
        assert_eq!(status(), "RUNNING");
        assert!(containerd.ask(&["tasks", "ps", "second"]).lines().count() > 1);
        let metrics = containerd.ask(&["tasks", "metrics", "second"]);
        assert!(
            metrics.contains("67108864") || metrics.contains("memory.usage"),
            "{metrics}"
        );
        containerd.ask(&["tasks", "kill", "--signal", "SIGKILL", "second"]);
        wait_until("the task has stopped", || status() == "STOPPED");
        // It passes the exit code of the task on.
        run(&mut containerd.command(&["tasks", "rm", "second"]));
        containerd.ask(&["containers", "rm", "second"]);
        containerd.stop();
        remove_cgroups(place.cgroup());
    });
}
