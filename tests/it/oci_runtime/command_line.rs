//! The command line, beside runc's and crun's.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Said, bundle, edit, run, said_by};
use crate::engine::example;
use crate::support::host::remove_cgroups;
use crate::support::isolate::isolated;
use crate::support::{peers, skip};

/// When a state that must come is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// A runtime with a state directory of its own.
struct Runtime<'a> {
    program: &'a Path,
    root: &'a Path,
    bundle: &'a Path,
}

impl Runtime<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .arg("--root")
            .arg(self.root)
            .args(arguments)
            .current_dir(self.bundle);
        command.stdin(Stdio::null());
        command
    }

    fn call(&self, arguments: &[&str]) -> Said {
        let mut command = self.command(arguments);
        if arguments[0] == "create" || arguments.contains(&"-d") {
            // What stays would keep a pipe open.
            let path = self.bundle.join("stderr");
            let file = fs::File::create(&path).expect("make a file");
            let status = command.stdout(Stdio::null()).stderr(file).status();
            return Said {
                code: status.expect("run a runtime").code(),
                stdout: String::new(),
                stderr: fs::read_to_string(path).expect("read a file"),
            };
        }
        run(&mut command)
    }

    fn state(&self, id: &str) -> Value {
        let said = self.call(&["state", id]);
        serde_json::from_str(&said.stdout).unwrap_or(Value::Null)
    }

    fn status(&self, id: &str) -> String {
        self.state(id)["status"]
            .as_str()
            .unwrap_or("gone")
            .to_owned()
    }

    fn await_status(&self, id: &str, want: &str, said: &str) {
        let end = Instant::now() + LIMIT;
        while self.status(id) != want {
            assert!(
                Instant::now() < end,
                "{id} is {}, not {want}: {said}",
                self.status(id)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Commands, each with the state that it leads to: the same of every runtime.
const SCRIPT: [(&[&str], &str); 26] = [
    (&["start", "c"], "gone"),
    (&["create", "c"], "created"),
    (&["create", "c"], "created"),
    (&["start", "c"], "running"),
    (&["start", "c"], "running"),
    (&["delete", "c"], "running"),
    (&["exec", "c", "sh", "-c", "exit 3"], "running"),
    (&["exec", "c", "sh", "-c", "kill -9 $$"], "running"),
    (&["exec", "c", "/no/such/program"], "running"),
    (&["exec", "-d", "c", "sleep", "600"], "running"),
    (
        &[
            "exec",
            "-e",
            "A=b",
            "--cwd",
            "/tmp",
            "-u",
            "7:8",
            "c",
            "sh",
            "-c",
            "test $A$(pwd)$(id -u)$(id -g) = b/tmp78",
        ],
        "running",
    ),
    (&["pause", "c"], "paused"),
    (&["exec", "c", "true"], "paused"),
    (&["resume", "c"], "running"),
    (&["resume", "c"], "running"),
    (&["update", "--pids-limit", "20", "c"], "running"),
    (&["kill", "c", "USR1"], "running"),
    (&["kill", "c", "NOSUCHSIGNAL"], "running"),
    (&["kill", "c", "KILL"], "stopped"),
    (&["kill", "c", "KILL"], "stopped"),
    (&["exec", "c", "true"], "stopped"),
    (&["start", "c"], "stopped"),
    (&["pause", "c"], "stopped"),
    (&["delete", "c"], "gone"),
    (&["delete", "c"], "gone"),
    (&["delete", "-f", "c"], "gone"),
];

#[test]
fn privileged_every_runtime_answers_the_same() {
    isolated(|place| {
        let ours = example("oci-runtime");
        let Some(bundle) = bundle(place, &ours, "bundle") else {
            return;
        };
        edit(&bundle, |spec| {
            // The crun of some distributions knows no later one.
            spec["ociVersion"] = json!("1.0.2");
            let script = "trap : USR1; while :; do sleep 0.1; done";
            spec["process"]["args"] = json!(["sh", "-c", script]);
        });
        let root = place.dir().join("state");
        let answers = |program: &Path| {
            let runtime = Runtime {
                program,
                root: &root,
                bundle: &bundle,
            };
            let answer = |(arguments, state): &(&[&str], &str)| {
                let Said { code, stderr, .. } = runtime.call(arguments);
                runtime.await_status("c", state, &stderr);
                // What fails fails; only the codes of programs are compared by number.
                let code = match (arguments[0], code) {
                    ("exec", Some(code)) if code != 255 && code != 1 => code,
                    (_, Some(0)) => 0,
                    _ => -1,
                };
                (arguments.join(" "), code)
            };
            let answers: Vec<_> = SCRIPT.iter().map(answer).collect();
            let _ = fs::remove_dir_all(&root);
            answers
        };
        let ours = answers(&ours);
        let exec = |index: usize| ours[index].1;
        assert_eq!((exec(6), exec(7), exec(10)), (3, 137, 0));
        for peer in ["runc", "crun"] {
            let Some(program) = peers::find(peer) else {
                continue;
            };
            if peer == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
                skip("this crun does not run on hosts with both versions of groups");
                continue;
            }
            for answer in answers(&program) {
                assert!(
                    ours.contains(&answer),
                    "{peer}: {answer:?}, ours: {ours:#?}"
                );
            }
            // Others leave the groups above that they made.
            remove_cgroups(place.cgroup());
        }
    });
}

#[test]
fn privileged_states_are_told_as_engines_read_them() {
    isolated(|place| {
        let program = example("oci-runtime");
        let Some(bundle) = bundle(place, &program, "bundle") else {
            return;
        };
        edit(&bundle, |spec| {
            spec["process"]["args"] = json!(["sleep", "600"]);
            spec["annotations"] = json!({ "a": "b" });
        });
        let root = place.dir().join("state");
        let runtime = Runtime {
            program: &program,
            root: &root,
            bundle: &bundle,
        };
        let pid_file = place.dir().join("pid");
        let created = runtime.call(&[
            "create",
            "--pid-file",
            pid_file.to_str().expect("UTF-8"),
            "c",
        ]);
        assert_eq!(created.code, Some(0));
        let state = runtime.state("c");
        let pid = state["pid"].as_i64().expect("a number");
        assert_eq!(
            fs::read_to_string(&pid_file).expect("a file"),
            pid.to_string()
        );
        assert_eq!(state["id"], "c");
        assert_eq!(state["owner"], "root");
        assert_eq!(state["annotations"]["a"], "b");
        assert_eq!(state["bundle"], bundle.to_str().expect("UTF-8"));
        assert!(state["created"].as_str().expect("text").ends_with('Z'));
        runtime.call(&["start", "c"]);

        let list: Value =
            serde_json::from_str(&runtime.call(&["list", "-f", "json"]).stdout).expect("JSON");
        assert_eq!(list[0]["pid"], pid);
        assert_eq!(runtime.call(&["list", "-q"]).stdout, "c");
        assert!(runtime.call(&["list"]).stdout.starts_with("ID "));
        let pids = runtime.call(&["ps", "-f", "json", "c"]).stdout;
        assert_eq!(pids, format!("[{pid}]"));
        assert!(runtime.call(&["ps", "c"]).stdout.contains("sleep 600"));

        // Limits, and what is used of them.
        let updated = runtime.call(&["update", "--memory", "64M", "--pids-limit", "30", "c"]);
        assert_eq!(updated.code, Some(0), "{updated:?}");
        let stats = || -> Value {
            let said = runtime.call(&["events", "--stats", "c"]);
            serde_json::from_str(&said.stdout).expect("JSON")
        };
        let event = stats();
        assert_eq!(
            (&event["type"], &event["id"]),
            (&json!("stats"), &json!("c"))
        );
        assert_eq!(event["data"]["memory"]["usage"]["limit"], 64 << 20);
        assert_eq!(event["data"]["pids"]["limit"], 30);
        assert_eq!(event["data"]["pids"]["current"], 1);
        let limits = place.dir().join("limits");
        fs::write(&limits, r#"{"pids": {"limit": 40}}"#).expect("write");
        runtime.call(&["update", "-r", limits.to_str().expect("UTF-8"), "c"]);
        assert_eq!(stats()["data"]["pids"]["limit"], 40);
        assert_eq!(runtime.call(&["delete", "--force", "c"]).code, Some(0));
        assert_eq!(runtime.call(&["list", "-f", "json"]).stdout, "[]");
    });
}

#[test]
fn privileged_a_program_in_the_foreground_is_what_it_runs() {
    isolated(|place| {
        let program = example("oci-runtime");
        let Some(bundle) = bundle(place, &program, "bundle") else {
            return;
        };
        let root = place.dir().join("state");
        let runtime = Runtime {
            program: &program,
            root: &root,
            bundle: &bundle,
        };
        let script = |script: &str| {
            edit(&bundle, |spec| {
                spec["process"]["args"] = json!(["sh", "-c", script])
            });
        };
        script("echo out; echo err >&2; exit 7");
        let said = runtime.call(&["run", "c"]);
        assert_eq!(
            (said.code, said.stdout.as_str(), said.stderr.as_str()),
            (Some(7), "out", "err")
        );
        assert_eq!(runtime.status("c"), "gone");
        runtime.call(&["run", "--keep", "c"]);
        assert_eq!(runtime.status("c"), "stopped");
        runtime.call(&["delete", "c"]);

        // Signals go to the program.
        script("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done");
        let mut child = runtime
            .command(&["run", "c"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("run");
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut line).expect("read");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("send a signal");
        assert_eq!(child.wait().expect("wait").code(), Some(9));
        assert_eq!(runtime.status("c"), "gone");

        // Descriptors, as asked for.
        script("ls /proc/self/fd | wc -l");
        let count = |options: &[&str]| {
            let mut shell = Command::new("sh");
            shell
                .current_dir(&bundle)
                .arg("-c")
                .arg("exec 3</dev/null 4</dev/null 5<&- 6<&- 7<&- 8<&- 9<&-; exec \"$@\"")
                .arg("sh");
            shell
                .arg(&program)
                .arg("--root")
                .arg(&root)
                .arg("run")
                .args(options)
                .arg("c");
            // The streams, and that of the directory.
            said_by(&mut shell).parse::<usize>().expect("a number") - 4
        };
        assert_eq!((count(&[]), count(&["--preserve-fds", "2"])), (0, 2));
        // What is not there is not passed on.
        assert_eq!(count(&["--preserve-fds", "7"]), 2);
    });
}

#[test]
fn privileged_failures_are_logged_as_engines_read_them() {
    isolated(|place| {
        let program = example("oci-runtime");
        let log = place.dir().join("log");
        let root = place.dir().join("state");
        let mut command = Command::new(&program);
        command
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json", "--root"])
            .arg(&root);
        let said = run(command.args(["state", "nobody"]));
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""));
        assert!(said.stderr.contains("does not exist"), "{}", said.stderr);
        let line: Value =
            serde_json::from_str(&fs::read_to_string(&log).expect("a log")).expect("JSON");
        assert_eq!(line["level"], "error");
        assert_eq!(line["msg"], said.stderr);
        assert!(line["time"].as_str().expect("text").ends_with('Z'));
        for verb in ["checkpoint", "restore"] {
            let said = run(Command::new(&program)
                .arg(verb)
                .args(["--image-path", "x", "c"]));
            assert_eq!(said.code, Some(1));
            assert!(
                said.stderr.contains(&format!("{verb} is not supported")),
                "{}",
                said.stderr
            );
        }
        let said = run(Command::new(&program).args(["--systemd-cgroup", "create", "c"]));
        assert!(
            said.stderr.contains("--systemd-cgroup is not supported"),
            "{}",
            said.stderr
        );
        let version = said_by(Command::new(&program).arg("--version"));
        let lines: Vec<_> = version.lines().collect();
        assert!(lines[0].starts_with("oci-runtime version "), "{version}");
        let spec = container_engine::container_core::runtime::OCI_VERSION;
        assert_eq!(lines[1], format!("spec: {spec}"));
        let features: Value =
            serde_json::from_str(&said_by(Command::new(&program).arg("features"))).expect("JSON");
        assert_eq!(features["ociVersionMax"], spec);
        assert!(
            features["hooks"]
                .as_array()
                .is_some_and(|hooks| hooks.len() == 6)
        );
    });
}
