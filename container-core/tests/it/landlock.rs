//! Containers that may do less with files than their user may.

use std::os::unix::fs::symlink;

use container_core::landlock::{Access, Ruleset};
use container_core::{CreateOptions, ErrorKind, Features, Launcher, Signal};
use serde_json::json;

use crate::attributes::edit;
use crate::exec::{command, output};
use crate::support::bundle::{Bundle, piped, set_user, try_run, with_bundle};
use crate::support::skip;

/// Whether this kernel can forbid all that the tests want forbidden.
fn is_there() -> bool {
    let there = Features::host().landlock >= 3;
    if !there {
        skip("Landlock is older than version 3");
    }
    there
}

fn make_directories(bundle: &Bundle) {
    for dir in ["lib", "lib64"] {
        std::fs::create_dir_all(bundle.root().join(dir)).expect("make a directory");
    }
}

/// Reads everywhere but in `/etc`, writes in `/tmp` only.
fn rules() -> Ruleset {
    Ruleset::default()
        .allow("/bin", Access::READ | Access::EXECUTE)
        .allow("/lib", Access::READ | Access::EXECUTE)
        .allow("/lib64", Access::READ | Access::EXECUTE)
        .allow("/dev/null", Access::READ | Access::WRITE)
        .allow("/tmp", Access::READ | Access::WRITE)
        .allow("/root", Access::READ)
}

const SCRIPT: &str = "try() { \"$@\" > /dev/null 2>&1 && echo yes || echo no; }
    try sh -c 'echo x > /tmp/x'; try cat /tmp/x; try sh -c 'echo x > /root/x'; try ls /root
    try cat /etc/passwd; try ls /etc; try rm /root/there; try truncate -s 0 /root/there
    try mkdir /tmp/d; try mv /tmp/x /tmp/d/x; try mv /root/there /tmp/there; try /tmp/run";

const WANT: &str = "yes\nyes\nno\nyes\nno\nno\nno\nno\nyes\nyes\nno\nno\n";

#[test]
fn privileged_a_container_does_only_what_its_rules_allow() {
    with_bundle!(|_, bundle| {
        if !is_there() {
            return;
        }
        let launcher = Launcher::new();
        make_directories(bundle);
        std::fs::write(bundle.root().join("root/there"), "x").unwrap();
        std::fs::copy("/bin/true", bundle.root().join("tmp/run")).unwrap();
        for restricted in [false, true] {
            let spec = edit(&bundle.shell(SCRIPT), |spec| {
                spec["process"]["noNewPrivileges"] = json!(restricted);
            });
            let mut options = piped();
            options.landlock = Some(rules());
            let ran = try_run(&launcher, &spec, options).unwrap();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (WANT, ""));

            // What is executed is not better off.
            let mut options = CreateOptions::default();
            options.landlock = Some(rules());
            let sleeper = edit(&spec, |spec| {
                spec["process"]["args"] = json!(["sleep", "600"])
            });
            let container = launcher.create(&sleeper, options).unwrap();
            container.start().unwrap();
            let process = command(
                &sleeper,
                &["sh", "-c", "rm -r /tmp/d; \"$@\"", "", "sh", "-c", SCRIPT],
            );
            let (text, errors, _) = output(&launcher, &container, &process);
            assert_eq!((text.as_str(), errors.as_str()), (WANT, ""));
            container.kill(Signal::KILL).unwrap();
            container.wait().unwrap();
            std::fs::remove_dir_all(bundle.root().join("tmp/d")).unwrap();
        }
        // As any user, too, who may do less anyway.
        let mut spec = bundle.shell("cat /etc/passwd || echo kept");
        set_user(&mut spec, 1000, 1000);
        let mut options = piped();
        options.landlock = Some(rules());
        assert_eq!(try_run(&launcher, &spec, options).unwrap().stdout, "kept\n");
    });
}

#[test]
fn privileged_rules_are_about_the_files_of_the_container() {
    with_bundle!(|_, bundle| {
        if !is_there() {
            return;
        }
        let launcher = Launcher::new();
        make_directories(bundle);
        // Leads to the root of the container, not to that of the host.
        symlink("../../../../../root", bundle.root().join("out")).unwrap();
        let all = Access::READ | Access::EXECUTE;
        let mut options = piped();
        options.landlock = Some(rules().allow("/out", Access::READ | Access::WRITE));
        let spec = bundle.shell("echo x > /root/x && cat /root/x");
        assert_eq!(try_run(&launcher, &spec, options).unwrap().stdout, "x\n");
        let refused = |rules: Ruleset| {
            let mut options = piped();
            options.landlock = Some(rules);
            try_run(&launcher, &spec, options).unwrap_err()
        };
        let error = refused(Ruleset::default().allow("/no/such/file", all));
        assert!(error.report().contains("/no/such/file"), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = refused(Ruleset::default().allow("bin", all));
        assert_eq!(error.code(), "InvalidLandlockRule");
        let error = refused(rules().least_version(1000));
        assert_eq!(error.code(), "LandlockUnavailable");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.wanted(), Some("1000"));
        // The program itself may not be executed.
        let error = refused(Ruleset::default().allow("/", Access::READ));
        assert_eq!(error.code(), "CommandNotExecutable", "{error:?}");
    });
}
