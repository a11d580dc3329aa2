//! Hooks: when and where they run, what they are given, and what becomes of the container if they fail.

use std::fs;
use std::path::Path;

use container_core::oci_spec::runtime::Spec;
use container_core::{Container, CreateOptions, Error, ErrorKind, Launcher, Supervision};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::attributes::edit;
use crate::support::bundle::{Bundle, LIMIT, piped, with_bundle};
use crate::support::role;
use crate::support::runtime::Peer;

const STAGES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that runs `script` with `$record` as the file that is `record` in the root.
fn hook(bundle: &Bundle, stage: &str, script: &str) -> Value {
    let root = match stage {
        "startContainer" => String::new(),
        _ => bundle.root().to_str().expect("UTF-8").to_owned(),
    };
    let script = format!("record={root}/record; {script}");
    json!({
        "path": format!("{root}/bin/busybox"),
        "args": ["sh", "-c", script],
        "env": [format!("PATH={root}/bin"), format!("STAGE={stage}")],
    })
}

fn with_hooks(bundle: &Bundle, args: &[&str], hooks: Value) -> Spec {
    edit(&bundle.spec(args), |spec| spec["hooks"] = hooks)
}

fn options(bundle: &Bundle) -> CreateOptions {
    let mut options = piped();
    options.bundle = bundle.root().to_owned();
    options.id = Some("web".into());
    options
}

fn start(launcher: &Launcher, spec: &Spec, options: CreateOptions) -> Result<Container, Error> {
    let container = launcher.create(spec, options)?;
    container.start()?;
    Ok(container)
}

fn record(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.root().join("record")).unwrap_or_default()
}

#[test]
fn privileged_hooks_run_in_order_where_they_belong_with_what_they_are_given() {
    with_bundle!(|_, bundle| {
        // The environment as it was executed with, the namespaces, the directory, and the state.
        let script = "tr '\\0' ' ' < /proc/self/environ; echo; readlink /proc/self/ns/mnt; \
            readlink /proc/self/ns/pid; pwd; cat; echo";
        let mut hooks = json!({});
        for stage in STAGES {
            hooks[stage] = json!([hook(bundle, stage, &format!("({script}) >> $record"))]);
        }
        let mut spec = with_hooks(
            bundle,
            &[
                "sh",
                "-c",
                "echo program >> /record; readlink /proc/self/ns/mnt",
            ],
            hooks,
        );
        spec.set_annotations(Some([("org.example".into(), "say \"hi\"\n".into())].into()));
        let mut container = Launcher::new().create(&spec, options(bundle)).unwrap();
        container.wait_created().unwrap();
        assert!(!record(bundle).contains("startContainer"));
        container.start().unwrap();
        assert!(container.wait().unwrap().success());
        let mut own = String::new();
        std::io::Read::read_to_string(&mut container.take_stdout().unwrap(), &mut own).unwrap();
        let text = record(bundle);
        let lines: Vec<_> = text.lines().filter(|line| *line != "program").collect();
        let of = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let hosts = [of("mnt"), of("pid")].map(|link| link.to_str().unwrap().to_owned());
        assert_eq!(lines.len(), STAGES.len() * 5, "{text}");
        for (stage, said) in STAGES.iter().zip(lines.chunks(5)) {
            let inside = matches!(*stage, "createContainer" | "startContainer");
            let root = match *stage {
                "startContainer" => "",
                _ => bundle.root().to_str().unwrap(),
            };
            let [environment, mount, pid, directory, state] = said else {
                panic!("{text}")
            };
            assert_eq!(*environment, format!("PATH={root}/bin STAGE={stage} "));
            assert_eq!(*mount == hosts[0], !inside, "{stage}");
            assert_eq!(*pid == hosts[1], !inside, "{stage}");
            if inside {
                assert_eq!(*mount, own.trim_end(), "{stage}");
            }
            let want = if root.is_empty() { "/" } else { root };
            assert_eq!(*directory, want, "{stage}");
            let status = match *stage {
                "startContainer" => "created",
                "poststart" => "running",
                "poststop" => "stopped",
                _ => "creating",
            };
            let mut want = json!({
                "ociVersion": spec.version(), "id": "web", "status": status,
                "bundle": bundle.root(), "annotations": {"org.example": "say \"hi\"\n"},
            });
            match *stage {
                "poststop" => {}
                _ if inside => want["pid"] = json!(1),
                _ => want["pid"] = json!(container.pid()),
            }
            assert_eq!(
                serde_json::from_str::<Value>(state).unwrap(),
                want,
                "{stage}"
            );
        }
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word}: {text}"));
        assert!(at("STAGE=startContainer") < at("\nprogram"), "{text}");
    });
}

#[test]
fn privileged_hooks_are_told_the_same_as_by_runc() {
    with_bundle!(|place, bundle| {
        let Some(peer) = Peer::find(place, "runc") else {
            return;
        };
        let mut hooks = json!({});
        for stage in STAGES {
            hooks[stage] = json!([hook(bundle, stage, "(echo $STAGE; cat; echo) >> $record")]);
        }
        let mut spec = with_hooks(bundle, &["true"], hooks);
        spec.set_annotations(Some([("org.example".into(), "1".into())].into()));
        let told = || {
            let text = record(bundle);
            fs::remove_file(bundle.root().join("record")).unwrap();
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let mut told: Vec<_> = lines
                .chunks(2)
                .map(|said| {
                    let mut state: Value = serde_json::from_str(&said[1]).unwrap();
                    assert!(state["bundle"].is_string());
                    state["bundle"].take();
                    if state["pid"].as_i64() > Some(1) {
                        state["pid"] = json!("as the host has it");
                    }
                    (said[0].clone(), state)
                })
                .collect();
            // Where poststart belongs runc has changed its mind about.
            told.sort_by_key(|(stage, _)| STAGES.iter().position(|it| it == stage));
            told
        };
        let container = start(&Launcher::new(), &spec, options(bundle)).unwrap();
        assert!(container.wait().unwrap().success());
        let ours = told();
        let output = peer.run(&spec, "web");
        assert!(output.status.success(), "{output:?}");
        let mut theirs = told();
        for (stage, state) in &mut theirs {
            // It writes the version that it is of, not the one of the spec.
            state["ociVersion"] = json!(spec.version());
            // The program of its time was not running yet.
            if stage == "poststart" && state["status"] == "created" {
                state["status"] = json!("running");
            }
        }
        assert_eq!(ours, theirs);
    });
}

#[test]
fn privileged_a_hook_that_fails_ends_the_container_and_says_why() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for stage in &STAGES[..5] {
            let mut hooks = json!({
                "poststop": [hook(bundle, "poststop", "echo gone >> $record")],
            });
            hooks[*stage] = json!([
                hook(bundle, stage, "true"),
                hook(bundle, stage, "echo said; echo why >&2; exit 3"),
                hook(bundle, stage, "echo not reached >> $record"),
            ]);
            let spec = with_hooks(bundle, &["sleep", "600"], hooks);
            let error = start(&launcher, &spec, options(bundle)).unwrap_err();
            assert_eq!(error.code(), "HookFailed", "{error:?}");
            let text = error.to_string();
            for part in [stage, "busybox", "exit code 3", "said", "why"] {
                assert!(text.contains(part), "{part}: {text}");
            }
            role::wait_until("the poststop hook", || record(bundle) == "gone\n");
            fs::remove_file(bundle.root().join("record")).unwrap();
        }
        let mut none = hook(bundle, "prestart", "true");
        none["path"] = json!("/no/such/hook");
        let spec = with_hooks(bundle, &["true"], json!({"prestart": [none]}));
        let error = start(&launcher, &spec, options(bundle)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert_eq!(error.code(), "HookFailed");
        let hooks = json!({"createContainer": [hook(bundle, "createContainer", "kill -9 $$")]});
        let spec = with_hooks(bundle, &["true"], hooks);
        let error = start(&launcher, &spec, options(bundle)).unwrap_err();
        assert!(error.to_string().contains("signal 9"), "{error:?}");
    });
}

#[test]
fn privileged_poststop_hooks_that_fail_are_a_warning() {
    with_bundle!(|_, bundle| {
        let hooks = json!({"poststop": [
            hook(bundle, "poststop", "echo first; exit 1"),
            hook(bundle, "poststop", "echo second >> $record"),
        ]});
        let spec = with_hooks(bundle, &["sh", "-c", "exit 7"], hooks);
        let container = start(&Launcher::new(), &spec, options(bundle)).unwrap();
        assert_eq!(container.wait().unwrap().code(), 7);
        assert_eq!(record(bundle), "second\n");
        let warnings = container.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code(), "HookFailed");
        assert!(warnings[0].to_string().contains("first"), "{warnings:?}");
    });
}

#[test]
fn privileged_hooks_end_at_their_time_limit() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for stage in STAGES {
            // With a child of its own, which must not be left behind.
            let mut slow = hook(bundle, stage, "echo begun; sleep 600; true");
            slow["timeout"] = json!(1);
            let mut hooks = json!({});
            hooks[stage] = json!([slow]);
            let spec = with_hooks(bundle, &["true"], hooks);
            let error = match start(&launcher, &spec, options(bundle)) {
                Err(error) => error,
                Ok(container) => {
                    assert_eq!(stage, "poststop");
                    assert!(container.wait().unwrap().success());
                    container.warnings().remove(0)
                }
            };
            assert_eq!(error.code(), "HookTimedOut", "{error:?}");
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            for part in [stage, "begun"] {
                assert!(error.to_string().contains(part), "{error:?}");
            }
        }
    });
}

#[test]
fn privileged_output_of_hooks_is_bounded_and_nobody_waits_for_it() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let loud = "dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' x; exit 1";
        for stage in ["createRuntime", "createContainer"] {
            let mut hooks = json!({});
            hooks[stage] = json!([hook(bundle, stage, loud)]);
            let spec = with_hooks(bundle, &["true"], hooks);
            let error = start(&launcher, &spec, options(bundle)).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("xxx") && text.len() < 2000, "{}", text.len());
        }
        // Somebody else has the stream when the hook has ended.
        let hooks = json!({"createRuntime": [
            hook(bundle, "createRuntime", "sleep 600 & echo $! >> $record"),
        ]});
        let spec = with_hooks(bundle, &["true"], hooks);
        let container = start(&launcher, &spec, options(bundle)).unwrap();
        assert!(container.wait().unwrap().success());
        let sleeper = record(bundle).trim_end().parse().unwrap();
        kill(Pid::from_raw(sleeper), Signal::SIGKILL).unwrap();
    });
}

#[test]
fn privileged_hooks_end_with_whom_the_container_belongs_to() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        for stage in ["createRuntime", "createContainer"] {
            let mut hooks = json!({});
            hooks[stage] = json!([hook(bundle, stage, "echo begun > $record; exec sleep 600")]);
            let spec = with_hooks(bundle, &["true"], hooks);
            let container = launcher.create(&spec, options(bundle)).unwrap();
            role::wait_until("the hook", || record(bundle) == "begun\n");
            drop(container);
            fs::remove_file(bundle.root().join("record")).unwrap();
        }
    });
}

#[test]
fn privileged_a_hook_sees_no_descriptor_and_no_signal_of_ours() {
    with_bundle!(|_, bundle| {
        let script = "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status; umask";
        let mut hooks = json!({});
        for stage in ["createRuntime", "createContainer", "startContainer"] {
            hooks[stage] = json!([hook(bundle, stage, &format!("({script}) >> $record"))]);
        }
        let spec = with_hooks(bundle, &["true"], hooks);
        let container = start(&Launcher::new(), &spec, options(bundle)).unwrap();
        assert!(container.wait().unwrap().success());
        // Three streams, and what lists them.
        let one = "4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0022\n";
        assert_eq!(record(bundle), one.repeat(3));
    });
}

#[test]
fn privileged_hooks_of_disowned_containers_are_run_on_request() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let tell = |stage| hook(bundle, stage, "(echo $STAGE; cat) >> $record");
        let hooks = json!({
            "createRuntime": [tell("createRuntime")],
            "poststart": [tell("poststart"), hook(bundle, "poststart", "exit 1")],
            "poststop": [hook(bundle, "poststop", "exit 2"), tell("poststop"),
                hook(bundle, "poststop", "exit 4")],
        });
        let spec = with_hooks(bundle, &["true"], hooks);
        let told = |part: &str| assert!(record(bundle).contains(part), "{}", record(bundle));
        let bundle_path: &Path = bundle.root();
        let error = launcher
            .run_poststart_hooks(&spec, bundle_path, "web", 77)
            .unwrap_err();
        assert!(error.to_string().contains("exit code 1"), "{error:?}");
        told(r#""status":"running","pid":77,"#);
        let error = launcher
            .run_poststop_hooks(&spec, bundle_path, "web")
            .unwrap_err();
        assert!(error.to_string().contains("exit code 2"), "{error:?}");
        assert_eq!(error.cleanup_errors().len(), 1);
        told(r#""status":"stopped","bundle""#);
        let none = bundle.spec(&["true"]);
        launcher
            .run_poststop_hooks(&none, bundle_path, "web")
            .unwrap();
    });
}

#[test]
fn privileged_whoever_starts_a_detached_container_hears_of_its_hooks() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        for stage in ["startContainer", "poststart"] {
            let mut hooks = json!({});
            hooks[stage] = json!([hook(bundle, stage, "exit 5")]);
            let spec = with_hooks(bundle, &["sleep", "600"], hooks);
            let state = place.dir().join(stage);
            fs::create_dir(&state).unwrap();
            let mut options = options(bundle);
            options.supervision = Supervision::Detached;
            options.state = Some(state.clone());
            let creator = launcher.create(&spec, options).unwrap();
            creator.wait_created().unwrap();
            let other = Container::open(&state, None).unwrap();
            let error = other.start().unwrap_err();
            assert_eq!(error.code(), "HookFailed", "{error:?}");
            assert!(error.to_string().contains(stage), "{error:?}");
            let error = creator.wait_timeout(LIMIT).unwrap_err();
            assert_eq!(error.code(), "HookFailed", "{error:?}");
        }
    });
}

#[test]
fn privileged_hooks_of_the_start_have_the_programs_environment_unless_they_have_one() {
    with_bundle!(|_, bundle| {
        let print = |file: &str| json!(["sh", "-c", format!("env > /{file}")]);
        let path = "/bin/busybox";
        let hooks = json!({"startContainer": [
            {"path": path, "args": print("inherited")},
            {"path": path, "args": print("own"), "env": ["OWN=1"]},
        ]});
        let spec = edit(&with_hooks(bundle, &["true"], hooks), |spec| {
            spec["process"]["env"] = json!(["PATH=/bin", "PROGRAM=1"]);
        });
        let container = start(&Launcher::new(), &spec, options(bundle)).unwrap();
        assert!(container.wait().unwrap().success());
        let read = |file: &str| fs::read_to_string(bundle.root().join(file)).unwrap();
        assert!(read("inherited").contains("PROGRAM=1"));
        let own = read("own");
        assert!(own.contains("OWN=1") && !own.contains("PROGRAM"), "{own}");
    });
}
