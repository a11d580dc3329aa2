//! The processes of containers in tables, beside `ps` of the host.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use container_core::oci_spec::runtime::LinuxNamespaceType;
use container_core::{Container, CreateOptions, ErrorKind, Launcher, Table, top};

use crate::support::bundle::{
    Bundle, edit_linux, piped, read_until, set_namespace, set_user, with_bundle,
};
use crate::support::peers;
use crate::support::role::wait_until;

/// A shell with a child, a grandchild and a zombie, none of which needs the processor.
fn family(bundle: &Bundle) -> Container {
    // What is to be the zombie ends when its parent is a program that reaps nobody.
    let zombie = "until grep -q sleep /proc/$PPID/comm; do sleep 0.01; done";
    let script = format!(
        "sh -c 'sleep 601 & exec sleep 602' & sh -c '{zombie}' & echo ready; exec sleep 603"
    );
    let mut spec = bundle.shell(&script);
    set_user(&mut spec, 1000, 1000);
    let mut container = Launcher::new().create(&spec, piped()).expect("create");
    container.start().expect("start");
    read_until(&mut container.take_stdout().expect("piped"), "ready\n");
    wait_until("four processes", || {
        let table = container.top(&["-o", "args"]).expect("look");
        let shown = table.to_string();
        table.processes.len() == 4
            && shown.contains("<defunct>")
            && shown.matches("sleep 60").count() == 3
    });
    container
}

/// What `ps` shows of these processes, read as `docker top` does.
fn by_ps(options: &[&str], pids: &[i32]) -> Option<Table> {
    let output = Command::new(peers::find("ps")?)
        .args(options)
        .env("COLUMNS", "1000")
        .output()
        .expect("run ps");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines = text.lines();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let titles = words(lines.next().expect("titles"));
    let pid = titles
        .iter()
        .position(|title| title == "PID")
        .expect("a column");
    let row = |line: &str| {
        let mut cells = words(line);
        let last = cells.split_off(titles.len() - 1).join(" ");
        cells.push(last);
        cells
    };
    let mut processes: Vec<_> = lines.map(row).collect();
    processes.retain(|cells| pids.iter().any(|number| cells[pid] == number.to_string()));
    processes.sort_by_key(|cells| cells[pid].parse::<i32>().expect("a number"));
    let mut table = top(&[], &["-o", "pid"]).expect("an empty table");
    table.titles = titles;
    table.processes = processes;
    Some(table)
}

/// `ps` shows six letters of the function that a process waits in.
fn cut_functions(table: &mut Table) {
    if let Some(column) = table.titles.iter().position(|title| title == "WCHAN") {
        table
            .processes
            .iter_mut()
            .for_each(|row| row[column].truncate(6));
    }
}

#[test]
fn privileged_formats_are_those_of_ps() {
    with_bundle!(|_, bundle| {
        let container = family(bundle);
        let pids = container.processes().expect("list");
        for options in [
            &["-ef"][..],
            &["aux"],
            &["-e", "-l"],
            &["-elf"],
            &["-ej"],
            &["-efj"],
            &["-eF"],
            &["-eL"],
            &["-efL"],
            &["-eFL"],
            &["-elL"],
            &["-ejL"],
            &["ax"],
            &["axl"],
            &["axj"],
            &["-e"],
            &["-eo", "pid,comm"],
            &["-e", "-o", "pid,ppid", "-o", "user=WHO", "-o", "args"],
            &["axo", "pid,stat,nlwp,cmd"],
            &["-eopid,tty,vsz,rss,args"],
        ] {
            let Some(theirs) = by_ps(options, &pids) else {
                return;
            };
            let mut ours = container.top(options).expect("look");
            cut_functions(&mut ours);
            assert_eq!(ours, theirs, "{options:?}\n{ours}\n{theirs}");
        }
        let none: [&str; 0] = [];
        let default = container.top(&none).expect("look");
        assert_eq!(
            default.titles,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(default.processes.len(), 4);
        container.kill(container_core::Signal::KILL).expect("kill");
        container.wait().expect("wait");
    });
}

#[test]
fn privileged_columns_are_those_of_ps() {
    with_bundle!(|_, bundle| {
        let container = family(bundle);
        let pids = container.processes().expect("list");
        for column in
            "addr args cgroup class cls cmd comm command cputime egid egroup euid euser f \
            flags gid group ipcns lstart lwp maj_flt majflt mntns netns ni nice nlwp \
            opri pgid pgrp pidns pmem policy ppid pri priority rgid rgroup rss rssize rsz \
            rtprio ruid ruser s sess session sid spid start start_time stat state stime sz tgid \
            thcount tid time timens tname tpgid tt tty ucmd ucomm uid uname user userns utsns \
            vsize vsz bsdstart bsdtime"
                .split_whitespace()
        {
            let options = ["-e", "-o", &format!("pid,{column}")];
            let Some(theirs) = by_ps(&options, &pids) else {
                return;
            };
            let mut ours = container.top(&options).expect("look");
            cut_functions(&mut ours);
            for row in &mut ours.processes {
                // As it was read from the other.
                row[1] = row[1].split_whitespace().collect::<Vec<_>>().join(" ");
            }
            assert_eq!(ours, theirs, "{column}");
        }
        container.kill(container_core::Signal::KILL).expect("kill");
        container.wait().expect("wait");
    });
}

#[test]
fn privileged_no_ps_is_needed_and_others_are_not_shown() {
    with_bundle!(|_, bundle| {
        // Neither inside …
        fs::remove_file(bundle.root().join("bin/ps")).expect("remove");
        let launcher = Launcher::new();
        let create = |spec: &_| {
            let container = launcher
                .create(spec, CreateOptions::default())
                .expect("create");
            container.start().expect("start");
            container
        };
        let one = create(&bundle.spec(&["sleep", "601"]));
        let other = create(&bundle.spec(&["sleep", "602"]));
        let shown = one.top(&["-o", "pid,args"]).expect("look");
        assert_eq!(
            shown.processes,
            [[one.pid().to_string(), "sleep 601".to_owned()]]
        );
        assert_eq!(
            shown.to_string(),
            format!("{:<20}COMMAND\n{:<20}sleep 601\n", "PID", one.pid())
        );
        assert_eq!(other.processes().expect("list"), [other.pid()]);
        // … nor, in the host's PID namespace, others of the host.
        let mut spec = bundle.shell("sleep 603 & exec sleep 604");
        set_namespace(&mut spec, LinuxNamespaceType::Pid, None);
        edit_linux(&mut spec, |linux| {
            linux.set_masked_paths(None);
        });
        let shared = create(&spec);
        wait_until("two processes", || {
            let shown = shared
                .top(&["-o", "args"])
                .expect("look")
                .processes
                .concat();
            BTreeSet::from_iter(shown) == ["sleep 603", "sleep 604"].map(str::to_owned).into()
        });
        for pid in shared.processes().expect("list") {
            let pid = rustix::process::Pid::from_raw(pid).expect("a number");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
        }
        for container in [one, other] {
            container.kill(container_core::Signal::KILL).expect("kill");
            container.wait().expect("wait");
            let error = container.processes().expect_err("it has ended");
            assert_eq!(error.code(), "NotRunning");
        }
        shared.wait().expect("wait");
    });
}

#[test]
fn options_that_are_not_known_are_named() {
    let refused = |options: &[&str]| {
        let error = top(&[1], options).expect_err("it is not known");
        (error.kind(), error.code(), error.report())
    };
    for option in ["--forest", "-H", "auxf", "-p", "-", "--no-headers", "-o"] {
        let (kind, code, report) = refused(&[option]);
        assert_eq!((kind, code), (ErrorKind::Unsupported, "PsOption"));
        assert!(report.contains(option), "{report}");
    }
    let (kind, code, report) = refused(&["-o", "pid,what"]);
    assert_eq!((kind, code), (ErrorKind::InvalidInput, "PsColumn"));
    assert!(report.contains("what"), "{report}");
    // What does not exist is not shown; this program is.
    let own = i32::try_from(std::process::id()).expect("a number");
    let table = top(&[own, i32::MAX], &["-o", "pid=,uid=A B"]).expect("look");
    assert_eq!(table.processes.len(), 1);
}
