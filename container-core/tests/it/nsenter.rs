//! Programs in namespaces of others, beside `nsenter` of util-linux.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use container_core::oci_spec::runtime::LinuxNamespaceType;
use container_core::userns::IdMap;
use container_core::{Container, CreateOptions, ErrorKind, Launcher, Nsenter};

use crate::namespaces::add_user_namespace;
use crate::rootless::{Settled, as_plain_user, playing};
use crate::support::bundle::{Bundle, edit_linux, edit_process, read_until, with_bundle};
use crate::support::peers;

/// Tells where it is and who it is.
const PROBE: &str = "for n in cgroup ipc mnt net pid pid_for_children time user uts; do
    readlink /proc/self/ns/$n; done; pwd; id -u; id -g; id -G; hostname; umask; echo $VARIABLE
    grep -E '^(NSpid|Cap|Sig|Seccomp|NoNew)' /proc/self/status | wc -l; ls / | sort | head -3";

fn container(bundle: &Bundle, user_namespace: bool) -> Container {
    let mut spec = bundle.spec(&["sleep", "600"]);
    spec.set_hostname(Some("inside".into()));
    edit_process(&mut spec, |process| {
        process.set_cwd("/tmp".into());
        process.set_env(Some(vec!["PATH=/bin".into(), "VARIABLE=theirs".into()]));
    });
    edit_linux(&mut spec, |linux| {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        let mut time = namespaces[0].clone();
        time.set_typ(LinuxNamespaceType::Time);
        namespaces.push(time);
        linux.set_namespaces(Some(namespaces));
    });
    if user_namespace {
        add_user_namespace(&mut spec, 100_000, 100_000, 65_536);
    }
    let container = Launcher::new().create(&spec, CreateOptions::default());
    let container = container.expect("create");
    container.start().expect("start");
    container
}

/// The example of this crate, which cargo builds with the tests.
fn ours() -> PathBuf {
    let tests = std::env::current_exe().expect("the path of this program");
    let built = tests
        .ancestors()
        .nth(2)
        .expect("the directory of the build");
    let example = built.join("examples/nsenter");
    assert!(
        example.is_file(),
        "{example:?} is missing: run `cargo build -p container-core --examples`"
    );
    example
}

fn output(program: &Path, arguments: &[impl AsRef<OsStr>], shell: &str) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .env("SHELL", shell)
        .env("PATH", "/usr/bin:/bin")
        .env("VARIABLE", "ours")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("execute");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(b"echo $0\n");
    drop(stdin);
    child.wait_with_output().expect("wait")
}

/// Runs both with these words, and fails unless they do the same.
fn compare(theirs: &Path, options: &str, command: &[&str]) {
    let words: Vec<_> = options.split(' ').chain(command.iter().copied()).collect();
    let (theirs, ours) = (
        output(theirs, &words, "/bin/sh"),
        output(&ours(), &words, "/bin/sh"),
    );
    let shown = |output: &Output| {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), stdout)
    };
    assert_eq!(
        shown(&ours),
        shown(&theirs),
        "nsenter {options} {command:?}\n{}\n{}",
        String::from_utf8_lossy(&ours.stderr),
        String::from_utf8_lossy(&theirs.stderr)
    );
    assert_eq!(
        ours.stderr.is_empty(),
        theirs.stderr.is_empty(),
        "{options}"
    );
}

#[test]
fn privileged_each_option_does_as_nsenter_does() {
    with_bundle!(|place, bundle| {
        let Some(theirs) = peers::find("nsenter") else {
            return;
        };
        for user_namespace in [false, true] {
            let container = container(bundle, user_namespace);
            let pid = container.pid();
            let dir = place.dir().display();
            for options in [
                format!("-t {pid}"),
                format!("-t {pid} -m"),
                format!("-t {pid} -u"),
                format!("-t {pid} -i"),
                format!("-t {pid} -n"),
                format!("-t{pid} -p"),
                format!("-t {pid} -C"),
                format!("-t {pid} -T"),
                format!("-t {pid} -a"),
                format!("--target {pid} --all"),
                format!("--target={pid} --mount --uts --ipc --net --pid --cgroup --time"),
                format!("-muinpCT -t {pid}"),
                format!("-t {pid} -p -F"),
                format!("-t {pid} -u --no-fork"),
                format!("--net=/proc/{pid}/ns/net --uts=/proc/{pid}/ns/uts"),
                format!("-n/proc/{pid}/ns/net -m/proc/{pid}/ns/mnt -p/proc/{pid}/ns/pid"),
                format!("-i/proc/{pid}/ns/ipc -C/proc/{pid}/ns/cgroup -T/proc/{pid}/ns/time"),
                format!("-t {pid} -u -S 1000 -G 2000"),
                format!("-t {pid} -u -S1000"),
                format!("-t {pid} -u --setgid 2000"),
                format!("-t {pid} -a --setuid=33 --setgid=34"),
                format!("-t {pid} -r"),
                format!("-t {pid} -m -r"),
                format!("-t {pid} -w"),
                format!("-t {pid} -m -w"),
                format!("-t {pid} -m -r -w"),
                format!("-t {pid} -r -w"),
                format!("-r{dir}/root"),
                format!("--root={dir}/root --wd={dir}/root/etc"),
                format!("-w{dir}"),
                format!("--wd={dir} -u -t {pid}"),
                format!("-t {pid} -m -W /etc"),
                format!("-t {pid} -r --wdns=/root"),
                format!("-t {pid} -m -W /missing"),
                format!("-t {pid} -m --wdns=relative"),
                "-n/proc/self/exe".to_owned(),
                "-n/missing".to_owned(),
                "-t 4194303 -n".to_owned(),
                "-n".to_owned(),
                "-t x -n".to_owned(),
                "-X".to_owned(),
                "--what".to_owned(),
            ] {
                compare(&theirs, &options, &["sh", "-c", PROBE]);
            }
            if user_namespace {
                for options in [
                    format!("-t {pid} -U"),
                    format!("-t {pid} -U -n"),
                    format!("-U/proc/{pid}/ns/user"),
                    format!("-t {pid} -U --preserve-credentials"),
                    format!("-t {pid} -a --preserve-credentials"),
                    format!("-t {pid} -a -S 5 -G 6"),
                    format!("-t {pid} -U -S 5"),
                ] {
                    compare(&theirs, &options, &["sh", "-c", PROBE]);
                }
            }
            for command in [
                &["sh", "-c", "exit 42"][..],
                &["missing"],
                &["/etc/passwd"],
                &["/tmp"],
                &["--", "echo", "-t"],
                &["true"],
                &[],
            ] {
                compare(&theirs, &format!("-t {pid} -u"), command);
                compare(&theirs, &format!("-t {pid} -a"), command);
            }
        }
    });
}

#[test]
fn privileged_environment_and_cgroups_of_the_target_are_taken_over() {
    with_bundle!(|place, bundle| {
        let mut spec = bundle.spec(&["sleep", "600"]);
        edit_process(&mut spec, |process| {
            let environment = ["PATH=/bin", "VARIABLE=theirs"];
            process.set_env(Some(environment.map(str::to_owned).to_vec()));
        });
        edit_linux(&mut spec, |linux| {
            linux.set_cgroups_path(Some(format!("/{}/one", place.cgroup()).into()));
        });
        let container = Launcher::new().create(&spec, CreateOptions::default());
        let container = container.expect("create");
        container.start().expect("start");
        let pid = container.pid().to_string();
        let said = |option: &str, script: &str| {
            let output = output(
                &ours(),
                &["-t", &pid, option, "sh", "-c", script],
                "/bin/sh",
            );
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("ASCII")
        };
        let variables = said("-e", "echo $VARIABLE $PATH");
        assert_eq!(variables, "theirs /bin\n");
        assert_eq!(said("-u", "echo $VARIABLE"), "ours\n");
        let groups = |process: &str| fs::read_to_string(format!("/proc/{process}/cgroup"));
        let theirs = groups(&pid).expect("read");
        assert!(theirs.contains(place.cgroup()), "{theirs}");
        assert_eq!(said("-c", "cat /proc/self/cgroup"), theirs);
        assert_eq!(
            said("--env", "cat /proc/self/cgroup"),
            groups("self").expect("read")
        );
        container.kill(container_core::Signal::KILL).expect("kill");
        container.wait().expect("wait");
    });
}

#[test]
fn privileged_entering_needs_a_target_that_lives() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let container = container(bundle, false);
        let refused = |entered: Nsenter| {
            let error = entered.command("true", [""; 0]).spawn(&launcher);
            let error = error.expect_err("it must fail");
            (error.kind(), error.code())
        };
        let no_target = (ErrorKind::InvalidInput, "NoTarget");
        assert_eq!(refused(Nsenter::new().all()), no_target);
        assert_eq!(refused(Nsenter::new().root()), no_target);
        assert_eq!(refused(Nsenter::new().directory()), no_target);
        assert_eq!(refused(Nsenter::new().environment_of_target()), no_target);
        assert_eq!(refused(Nsenter::new().join_cgroup()), no_target);
        let network = LinuxNamespaceType::Network;
        assert_eq!(refused(Nsenter::new().namespace(network)), no_target);
        let pid = container.pid();
        let context = Nsenter::new().target(pid).follow_context();
        assert_eq!(refused(context).0, ErrorKind::Unsupported);
        container.kill(container_core::Signal::KILL).expect("kill");
        container.wait().expect("wait");
        let gone = Nsenter::new().target(pid).namespace(network);
        assert_eq!(refused(gone), (ErrorKind::NotFound, "NoProcess"));
    });
}

#[test]
fn privileged_entered_program_can_have_a_terminal() {
    with_bundle!(|_, bundle| {
        let container = container(bundle, false);
        let script = "trap 'exit 5' INT; tty; hostname; while :; do sleep 0.05; done";
        let entered = Nsenter::new().target(container.pid()).all().terminal();
        let mut process = entered
            .command("sh", ["-c", script])
            .spawn(&Launcher::new())
            .expect("enter");
        let terminal = process.take_terminal().expect("it comes").expect("ours");
        let mut terminal = fs::File::from(rustix::io::dup(&terminal).expect("duplicate"));
        let said = read_until(&mut terminal, "inside\r\n");
        assert!(said.starts_with("/dev/pts/"), "{said}");
        terminal.write_all(b"\x03").expect("type");
        assert_eq!(process.wait().expect("wait").code(), 5);
    });
}

#[test]
fn role_plain_user_enters() {
    let Some(bundle) = playing("nsenter::role_plain_user_enters") else {
        return;
    };
    let theirs = peers::find("nsenter").expect("looked for before");
    let mut spec = bundle.spec(&["sleep", "600"]);
    spec.set_hostname(Some("inside".into()));
    IdMap::single().apply(&mut spec);
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(None);
        linux.set_resources(None);
    });
    let container = Launcher::new().create(&spec, CreateOptions::default());
    let container = container.expect("create");
    container.start().expect("start");
    let pid = container.pid();
    for options in [
        format!("-t {pid} -U --preserve-credentials"),
        format!("-t {pid} -U -n --preserve-credentials"),
        format!("-t {pid} -U -p -m --preserve-credentials"),
        format!("-t {pid} -muinpCU --preserve-credentials"),
        format!("-t {pid} -U -m -r -w --preserve-credentials"),
        // Without his user namespace he may enter nothing.
        format!("-t {pid} -n"),
    ] {
        compare(&theirs, &options, &["sh", "-c", PROBE]);
    }
    // All of them, where util-linux stops at a namespace that both are in, and at groups that may
    // not be set.
    let words = ["-t", &pid.to_string(), "-a", "id", "-u"];
    let output = output(&ours(), &words, "/bin/sh");
    assert_eq!(output.stdout, b"0\n", "{output:?}");
}

#[test]
fn privileged_plain_user_enters_what_is_his() {
    with_bundle!(|place, bundle| {
        if peers::find("nsenter").is_none() {
            return;
        }
        let _settled = Settled::new(place, bundle, "");
        as_plain_user(place, "nsenter::role_plain_user_enters");
    });
}
