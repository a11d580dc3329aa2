//! The built-in init.

use std::fs;
use std::io::{Read, Write};

use container_core::oci_spec::runtime::{LinuxNamespaceType, LinuxSeccompAction, Spec};
use container_core::{CreateOptions, ErrorKind, Launcher, Signal};

use crate::support::bundle::{
    Output, add_bind, edit_linux, edit_process, finish, piped, read_until, run, set_namespace,
    set_user, try_run, with_bundle,
};
use crate::support::role::wait_until;

fn with_init() -> CreateOptions {
    let mut options = piped();
    options.init = true;
    options
}

fn run_with_init(spec: &Spec) -> Output {
    try_run(&Launcher::new(), spec, with_init()).expect("run a container")
}

#[test]
fn privileged_program_runs_below_an_init() {
    with_bundle!(|_, bundle| {
        let script = "echo $$ $PPID; cut -d' ' -f2 /proc/1/stat; id -u; exit 7";
        let mut spec = bundle.shell(script);
        set_user(&mut spec, 1000, 1000);
        let output = run_with_init(&spec);
        assert_eq!(output.stdout, "2 1\n(ctr-init)\n1000\n", "{output:?}");
        assert_eq!(output.status.code(), 7);
        assert_eq!(output.status.signal(), None);
        // Without being asked for there is none.
        let output = run(&Launcher::new(), &bundle.shell("echo $$"));
        assert_eq!(output.stdout, "1\n");
    });
}

#[test]
fn privileged_init_ends_as_the_program_did() {
    with_bundle!(|_, bundle| {
        for (end, code) in [("kill -9 $$", 137), ("kill -15 $$", 143), ("true", 0)] {
            assert_eq!(run_with_init(&bundle.shell(end)).status.code(), code);
        }
        let error = try_run(&Launcher::new(), &bundle.spec(&["missing"]), with_init());
        let error = error.expect_err("there is no such program");
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, "CommandNotFound")
        );
    });
}

/// Waits until the container has no zombie, and counts those that it had.
const ORPHANS: &str = "for i in 1 2 3 4 5 6 7 8; do sh -c 'sleep 0.1 & exec true'; done
    (sh -c 'sleep 0.2 & exec true'); echo made; sleep 1; cat /proc/[0-9]*/stat | grep -c ' Z '";

#[test]
fn privileged_init_reaps_orphans() {
    with_bundle!(|_, bundle| {
        let output = run_with_init(&bundle.shell(ORPHANS));
        assert_eq!(output.stdout, "made\n0\n", "{output:?}");
        // Control: a program that does not reap has them.
        let own = "sh -c 'sleep 0.1 & exec true'; exec sleep 1";
        let container = Launcher::new()
            .create(&bundle.shell(own), piped())
            .expect("create");
        container.start().expect("start");
        let mut zombie = false;
        let children = format!("/proc/{0}/task/{0}/children", container.pid());
        wait_until("a zombie", || {
            let list = fs::read_to_string(&children).unwrap_or_default();
            zombie |= list.split_whitespace().any(|pid| {
                fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|stat| stat.contains(") Z "))
            });
            zombie || container.try_wait().expect("look").is_some()
        });
        assert!(zombie, "without an init a zombie stays");
        container.wait().expect("wait");
    });
}

#[test]
fn privileged_init_hands_signals_on() {
    with_bundle!(|_, bundle| {
        for number in [1, 2, 10, 12, 15, 28, 34, 40, 64] {
            let script = format!(
                "trap 'echo got; exit 3' {number}; echo ready; while :; do sleep 0.05; done"
            );
            let mut container = Launcher::new()
                .create(&bundle.shell(&script), with_init())
                .expect("create");
            container.start().expect("start");
            let mut stdout = container.take_stdout().expect("piped");
            read_until(&mut stdout, "ready\n");
            let signal = Signal::from_number(number).expect("a signal");
            container.kill(signal).expect("kill");
            assert_eq!(read_until(&mut stdout, "got\n"), "got\n", "{number}");
            assert_eq!(container.wait().expect("wait").code(), 3);
        }
        // A program that does nothing about it ends, as it would not as process 1.
        for (number, code) in [(15, 143), (2, 130), (1, 129)] {
            let container = Launcher::new()
                .create(&bundle.spec(&["sleep", "1000"]), with_init())
                .expect("create");
            container.start().expect("start");
            let signal = Signal::from_number(number).expect("a signal");
            container.kill(signal).expect("kill");
            assert_eq!(container.wait().expect("wait").code(), code);
        }
    });
}

#[test]
fn privileged_init_is_confined_as_the_program_and_closed_to_it() {
    with_bundle!(|_, bundle| {
        for restricted in [false, true] {
            let mut spec = bundle.shell(
                "for process in 1 self; do
                    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/$process/status; echo; done
                 ls /proc/1/fd 2>/dev/null | wc -l; readlink /proc/1/exe || echo closed",
            );
            edit_process(&mut spec, |process| {
                process.set_no_new_privileges(Some(restricted));
            });
            let output = run_with_init(&spec);
            let parts: Vec<_> = output.stdout.split("\n\n").collect();
            assert!(parts[0].contains("Seccomp:\t2"), "{output:?}");
            assert_eq!(parts[0], parts[1]);
            assert_eq!(parts[2], "0\nclosed\n");
        }
    });
}

#[test]
fn privileged_init_works_with_any_filter_and_in_namespaces_of_the_host() {
    with_bundle!(|_, bundle| {
        // One that knows no clone3 is the default; here is one that forbids to wait for signals.
        let mut spec = bundle.shell("echo ran");
        edit_linux(&mut spec, |linux| {
            let mut filter = linux.seccomp().clone().expect("there is a default");
            filter.set_default_action(LinuxSeccompAction::ScmpActAllow);
            filter.set_default_errno_ret(None);
            filter.set_syscalls(None);
            linux.set_seccomp(Some(filter));
        });
        assert_eq!(run_with_init(&spec).stdout, "ran\n");
        // Among the processes of the host it still gets the orphans of its program.
        let script = "(sh -c 'sleep 0.2; echo $PPID > /tmp/parent' & exec true); sleep 1
            read program name state init rest < /proc/$$/stat; echo $init; cat /tmp/parent";
        let mut spec = bundle.shell(script);
        set_namespace(&mut spec, LinuxNamespaceType::Pid, None);
        let output = run_with_init(&spec);
        let (init, parent) = output.stdout.split_once('\n').expect("two lines");
        assert_eq!(init, parent.trim(), "{output:?}");
    });
}

#[test]
fn privileged_init_keeps_no_stream_of_the_program_open_and_little_memory() {
    with_bundle!(|place, bundle| {
        fs::create_dir(place.dir().join("shared")).expect("make a directory");
        let mut spec = bundle.shell("echo ready; exec sleep 1000");
        add_bind(&mut spec, &place.dir().join("shared"), "/shared", &[]);
        let mut container = Launcher::new().create(&spec, with_init()).expect("create");
        container.start().expect("start");
        read_until(&mut container.take_stdout().expect("piped"), "ready\n");
        let proc = format!("/proc/{}", container.pid());
        let open: Vec<_> = fs::read_dir(format!("{proc}/fd"))
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert!(open.is_empty(), "{open:?}");
        let rollup = fs::read_to_string(format!("{proc}/smaps_rollup")).expect("read");
        let private: u64 = rollup
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum();
        assert!(private < 1024, "{private} KiB");
        container.kill(Signal::KILL).expect("kill");
        assert_eq!(finish(&mut container).status.signal(), Some(9));
    });
}

#[test]
fn privileged_program_below_an_init_has_the_terminal() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.shell("trap 'exit 5' INT; tty; while :; do sleep 0.05; done");
        edit_process(&mut spec, |process| {
            process.set_terminal(Some(true));
        });
        let mut options = CreateOptions::default();
        options.init = true;
        let mut container = Launcher::new().create(&spec, options).expect("create");
        container.start().expect("start");
        let mut terminal = container
            .take_terminal()
            .expect("it comes")
            .expect("it is ours");
        let mut text = String::new();
        while !text.contains("/dev/") || !text.ends_with('\n') {
            let mut bytes = [0; 64];
            let count = terminal.read(&mut bytes).expect("read");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        terminal.write_all(b"\x03").expect("write");
        assert_eq!(container.wait().expect("wait").code(), 5, "{text}");
    });
}
