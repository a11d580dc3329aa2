//! Processes that are executed in running containers.

use std::fs;
use std::io::Read;

use container_core::oci_spec::runtime::{Process, Spec};
use container_core::{Container, CreateOptions, ExecOptions, Launcher, Signal, Stdio};

use crate::support::bundle::{Bundle, LIMIT, with_bundle};

/// The process of `spec` with another command.
pub(crate) fn command(spec: &Spec, args: &[&str]) -> Process {
    let mut process = spec.process().clone().expect("a default spec has one");
    process.set_args(Some(args.iter().map(ToString::to_string).collect()));
    process
}

/// A container that runs until it is dropped.
fn sleeper(launcher: &Launcher, bundle: &Bundle) -> (Spec, Container) {
    let spec = bundle.spec(&["sleep", "600"]);
    let container = launcher
        .create(&spec, CreateOptions::default())
        .expect("create a container");
    container.start().expect("start a container");
    (spec, container)
}

fn piped() -> ExecOptions {
    let mut options = ExecOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Piped];
    options
}

/// What `process` writes to its standard output and error, and its exit code.
pub(crate) fn output(
    launcher: &Launcher,
    container: &Container,
    process: &Process,
) -> (String, String, i32) {
    output_with(launcher, container, process, piped())
}

fn output_with(
    launcher: &Launcher,
    container: &Container,
    process: &Process,
    options: ExecOptions,
) -> (String, String, i32) {
    let mut process = launcher
        .exec(container, process, options)
        .expect("execute a process");
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = process.take_stdout().expect("it is piped");
    let mut stderr = process.take_stderr().expect("it is piped");
    stdout.read_to_string(&mut out).expect("read");
    stderr.read_to_string(&mut err).expect("read");
    let status = process.wait_timeout(LIMIT).expect("wait");
    (out, err, status.expect("it ends").code())
}

/// What a shell in the container says.
fn shell(launcher: &Launcher, spec: &Spec, container: &Container, script: &str) -> String {
    let (out, err, code) = output(launcher, container, &command(spec, &["sh", "-c", script]));
    assert_eq!((err.as_str(), code), ("", 0), "{script}: {out}");
    out.trim_end().to_owned()
}

#[test]
fn privileged_exec_is_inside_and_is_not_the_first_process() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let say = |script: &str| shell(&launcher, &spec, &container, script);
        assert_eq!(say("cat /proc/1/cmdline | tr '\\0' ' '"), "sleep 600");
        assert_ne!(say("echo $$"), "1");
        assert_eq!(say("echo $PPID"), "0");
        for kind in ["user", "cgroup", "ipc", "uts", "net", "pid", "mnt"] {
            let link = format!("/proc/{}/ns/{kind}", container.pid());
            let want = fs::read_link(link).unwrap();
            assert_eq!(
                say(&format!("readlink /proc/self/ns/{kind}")),
                want.to_str().unwrap()
            );
        }
        assert_eq!(
            say("ls /proc/self/fd").lines().count(),
            4,
            "0, 1, 2 and that of ls"
        );
        // A session and a process group of its own.
        let ids = say("echo $$; cut -d' ' -f 5,6 /proc/$$/stat");
        let (pid, groups) = ids.split_once('\n').unwrap();
        assert_eq!(groups, format!("{pid} {pid}"));
        assert!(container.try_wait().unwrap().is_none());
    });
}

#[test]
fn privileged_exec_passes_on_codes_signals_and_streams() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let (spec, container) = sleeper(&launcher, bundle);
        let script = "echo out; echo err >&2; exit 7";
        let (out, err, code) = output(
            &launcher,
            &container,
            &command(&spec, &["sh", "-c", script]),
        );
        assert_eq!((out.as_str(), err.as_str(), code), ("out\n", "err\n", 7));

        let process = command(&spec, &["sleep", "600"]);
        let process = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap();
        assert!(process.try_wait().unwrap().is_none());
        process.kill(Signal::KILL).unwrap();
        let status = process.wait_timeout(LIMIT).unwrap().unwrap();
        assert_eq!((status.signal(), status.code()), (Some(9), 137));
        assert!(container.try_wait().unwrap().is_none());
    });
}
