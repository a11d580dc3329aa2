//! Attributes of the first process, as the host and other runtimes see them.

use std::fs;
use std::process::Command;

use container_core::oci_spec::runtime::Spec;
use container_core::{CreateOptions, ErrorKind, ExecOptions, Launcher, Signal};
use serde_json::{Value, json};

use crate::exec::{command, output};
use crate::support::bundle::{Bundle, piped, run, stdout_of, try_run, with_bundle};
use crate::support::runtime::Peer;
use crate::support::{peers, skip};

/// Changes a spec as JSON.
pub(crate) fn edit(spec: &Spec, change: impl FnOnce(&mut Value)) -> Spec {
    let mut value = serde_json::to_value(spec).expect("to JSON");
    change(&mut value);
    serde_json::from_value(value).expect("from JSON")
}

/// What `read` finds of a process that was started with this change to its spec.
fn look<T>(bundle: &Bundle, change: impl FnOnce(&mut Value), read: impl Fn(i32) -> T) -> T {
    let spec = edit(&bundle.spec(&["sleep", "600"]), change);
    let container = Launcher::new()
        .create(&spec, CreateOptions::default())
        .expect("create");
    container.start().expect("start");
    let found = read(container.pid());
    container.kill(Signal::KILL).expect("kill");
    container.wait().expect("wait");
    found
}

/// What another program says of a process.
fn ask(program: &str, pid: i32) -> Option<String> {
    let output = Command::new(peers::find(program)?)
        .args(["-p", &pid.to_string()])
        .output()
        .expect("run a program");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn privileged_processes_are_scheduled_as_asked() {
    with_bundle!(|_, bundle| {
        for (scheduler, want) in [
            (json!({"policy": "SCHED_OTHER", "nice": 5}), "SCHED_OTHER"),
            (json!({"policy": "SCHED_BATCH"}), "SCHED_BATCH"),
            (json!({"policy": "SCHED_IDLE"}), "SCHED_IDLE"),
            (
                json!({"policy": "SCHED_RR", "priority": 3, "flags": ["SCHED_RESET_ON_FORK"]}),
                "SCHED_RR|SCHED_RESET_ON_FORK",
            ),
        ] {
            let priority = scheduler["priority"].as_i64().unwrap_or(0);
            let nice = scheduler["nice"].as_i64().unwrap_or(0);
            let (said, stat) = look(
                bundle,
                |spec| spec["process"]["scheduler"] = scheduler,
                |pid| {
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
                    (ask("chrt", pid), stat)
                },
            );
            let Some(said) = said else { return };
            assert!(said.contains(&format!("policy: {want}\n")), "{said}");
            assert!(
                said.contains(&format!("priority: {priority}\n")),
                "{want}: {said}"
            );
            let found = stat.split_whitespace().nth(18).unwrap();
            assert_eq!(found, nice.to_string(), "{want}: {stat}");
        }
        // What the kernel refuses is no plan that could be made.
        let spec = edit(&bundle.spec(&["true"]), |spec| {
            spec["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 100});
        });
        let error = try_run(&Launcher::new(), &spec, piped()).unwrap_err();
        assert!(error.report().contains("sched_setattr"), "{error:?}");
    });
}

#[test]
fn privileged_io_priority_is_that_of_the_spec() {
    with_bundle!(|_, bundle| {
        for (class, priority, want) in [
            ("IOPRIO_CLASS_RT", 0, "realtime: prio 0"),
            ("IOPRIO_CLASS_BE", 7, "best-effort: prio 7"),
            ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ] {
            let said = look(
                bundle,
                |spec| {
                    spec["process"]["ioPriority"] = json!({"class": class, "priority": priority});
                },
                |pid| ask("ionice", pid),
            );
            let Some(said) = said else { return };
            assert_eq!(said.trim_end(), want);
        }
    });
}

#[test]
fn privileged_personality_and_memory_policy_are_inherited_by_the_program() {
    with_bundle!(|_, bundle| {
        for (domain, want, machine) in [
            ("LINUX", "00000000", std::env::consts::ARCH),
            ("LINUX32", "00000008", "i686"),
        ] {
            let change =
                |spec: &mut Value| spec["linux"]["personality"] = json!({"domain": domain});
            let found = look(bundle, change, |pid| {
                fs::read_to_string(format!("/proc/{pid}/personality")).unwrap()
            });
            assert_eq!(found.trim_end(), want, "{domain}");
            let uname = edit(&bundle.spec(&["uname", "-m"]), change);
            let said = stdout_of(&Launcher::new(), &uname);
            if cfg!(target_arch = "x86_64") {
                assert_eq!(said, machine, "{domain}");
            }
        }
        for (policy, want) in [
            (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
            (
                json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
                "interleave=static:0",
            ),
            (json!({"mode": "MPOL_LOCAL"}), "local"),
        ] {
            let maps = look(
                bundle,
                |spec| spec["linux"]["memoryPolicy"] = policy,
                |pid| fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap(),
            );
            let found = maps.split_whitespace().nth(1);
            assert_eq!(found, Some(want), "{maps}");
        }
    });
}

/// What a process is told of itself by `/proc`, as far as two runs of it agree.
pub(crate) const PROBE: &str = "grep -E '^(Uid|Gid|Groups|Umask|NoNewPrivs|Seccomp|Cap...|SigBlk)' \
    /proc/self/status | tr '\\t' ' '; cat /proc/self/limits /proc/self/oom_score_adj \
    /proc/self/personality; hostname; ulimit -n; pwd; env | sort";

#[test]
fn privileged_processes_are_what_they_are_under_other_runtimes() {
    with_bundle!(|place, bundle| {
        let base = edit(&bundle.shell(PROBE), |spec| {
            spec["process"]["env"] = json!(["PATH=/bin", "A=b", "HOME=/root", "PWD=/"]);
        });
        let all = json!(["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]);
        let specs = [
            ("plain", base.clone()),
            (
                "account",
                edit(&base, |spec| {
                    spec["process"]["user"] = json!({
                        "uid": 1000, "gid": 1000, "umask": 0o027, "additionalGids": [5, 2000],
                    });
                    spec["process"]["oomScoreAdj"] = json!(300);
                    spec["process"]["noNewPrivileges"] = json!(true);
                    spec["process"]["rlimits"] = json!([
                        {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
                        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                    ]);
                }),
            ),
            (
                "ambient",
                edit(&base, |spec| {
                    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                    spec["process"]["capabilities"] = json!({
                        "bounding": all, "permitted": all, "effective": ["CAP_KILL"],
                        "inheritable": all, "ambient": ["CAP_CHOWN"],
                    });
                }),
            ),
            (
                "nothing",
                edit(&base, |spec| {
                    spec["process"]["capabilities"] = Value::Null;
                    spec["linux"]["seccomp"] = Value::Null;
                }),
            ),
        ];
        for (name, spec) in specs {
            let ours = run(&Launcher::new(), &spec);
            assert!(ours.status.success(), "{name}: {ours:?}");
            for runtime in ["runc", "crun"] {
                let Some(peer) = Peer::find(place, runtime) else {
                    continue;
                };
                let theirs = peer.run(&spec, name);
                let text = String::from_utf8_lossy(&theirs.stdout);
                assert!(theirs.status.success(), "{name} {runtime}: {theirs:?}");
                assert_eq!(ours.stdout, text, "{name} {runtime}");
            }
        }
    });
}

#[test]
fn privileged_the_out_of_memory_score_stays_unless_set() {
    with_bundle!(|_, bundle| {
        let launcher = Launcher::new();
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let spec = edit(&bundle.spec(&["cat", "/proc/self/oom_score_adj"]), |spec| {
            spec["process"]["oomScoreAdj"] = Value::Null;
        });
        assert_eq!(stdout_of(&launcher, &spec), own.trim_end());
        let spec = edit(&spec, |spec| {
            spec["process"]["oomScoreAdj"] = json!(1000);
        });
        assert_eq!(stdout_of(&launcher, &spec), "1000");
        let error = edit(&spec, |spec| {
            spec["process"]["oomScoreAdj"] = json!(1001);
        });
        let error = try_run(&launcher, &error, piped()).unwrap_err();
        assert!(error.report().contains("out-of-memory score"), "{error:?}");
    });
}

#[test]
fn privileged_session_keyrings_are_named_and_apart() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let keys = |new: bool, id: Option<&str>| {
            // Without the mask, so that it can be read.
            let spec = edit(&bundle.spec(&["cat", "/proc/keys"]), |spec| {
                spec["linux"]["maskedPaths"] = json!([]);
            });
            let mut options = piped();
            options.id = id.map(Into::into);
            options.new_keyring = new;
            let output = try_run(&launcher, &spec, options).unwrap();
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let id = format!("{}-keys", place.cgroup());
        let named = keys(true, Some(&id));
        let line = named
            .lines()
            .find(|line| line.contains(&format!("_ses.{id}")));
        let line = line.unwrap_or_else(|| panic!("{named}"));
        assert!(line.contains(" 3f1b0000 "), "{line}");
        let other = format!("{}-none", place.cgroup());
        assert!(!keys(false, Some(&other)).contains(&other));
        assert!(keys(true, None).contains(" _ses: "));
        let Some(peer) = Peer::find(place, "runc") else {
            return;
        };
        let spec = edit(&bundle.spec(&["cat", "/proc/keys"]), |spec| {
            spec["linux"]["maskedPaths"] = json!([]);
        });
        let id = format!("{}-runc", place.cgroup());
        let theirs = peer.run(&spec, &id);
        let text = String::from_utf8_lossy(&theirs.stdout);
        let line = text
            .lines()
            .find(|line| line.contains(&format!("_ses.{id}")));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(" 3f1b0000 "), "{line}");
    });
}

#[test]
fn privileged_what_is_executed_has_attributes_and_the_keyring_too() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let id = format!("{}-exec", place.cgroup());
        let spec = edit(&bundle.spec(&["sleep", "600"]), |spec| {
            spec["linux"]["maskedPaths"] = json!([]);
            spec["linux"]["personality"] = json!({"domain": "LINUX32"});
        });
        let mut options = CreateOptions::default();
        options.id = Some(id.clone());
        let container = launcher.create(&spec, options).unwrap();
        container.start().unwrap();
        let script = "grep Cpus_allowed_list /proc/self/status; cat /proc/keys; \
            cat /proc/self/personality";
        let process = edit(&spec, |spec| {
            spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
            spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
        });
        let shell = command(&process, &["sh", "-c", script]);
        let (said, errors, code) = output(&launcher, &container, &shell);
        assert_eq!((errors.as_str(), code), ("", 0));
        assert!(said.contains("Cpus_allowed_list:\t0\n"), "{said}");
        let rings = said.lines().filter(|line| line.contains(&id)).count();
        assert_eq!(rings, 1, "{said}");
        assert!(said.ends_with("00000008\n"), "PER_LINUX32: {said}");
        let shell = command(
            &process,
            &["cut", "-d", " ", "-f", "19,41", "/proc/self/stat"],
        );
        let (said, _, _) = output(&launcher, &container, &shell);
        assert_eq!(said, "3 3\n", "nice 3, SCHED_BATCH");
        let process = edit(&spec, |spec| {
            spec["process"]["execCPUAffinity"] = json!({"final": "8191"});
        });
        let error = launcher
            .exec(
                &container,
                &command(&process, &["true"]),
                ExecOptions::default(),
            )
            .unwrap_err();
        assert!(error.report().contains("sched_setaffinity"), "{error:?}");
        container.kill(Signal::KILL).unwrap();
        container.wait().unwrap();
    });
}

#[test]
fn privileged_labels_need_their_module() {
    with_bundle!(|_, bundle| {
        let features = container_core::Features::host();
        for (field, label, there) in [
            ("apparmorProfile", "no-such-profile", features.apparmor),
            ("selinuxLabel", "no:such:label", features.selinux),
        ] {
            let spec = edit(&bundle.spec(&["true"]), |spec| {
                spec["process"][field] = json!(label);
            });
            let error = try_run(&Launcher::new(), &spec, piped()).unwrap_err();
            match there {
                false => {
                    assert_eq!(error.code(), "SecurityModuleUnavailable", "{error:?}");
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                }
                true => assert!(error.report().contains(label), "{error:?}"),
            }
        }
    });
}

/// Where AppArmor is on: `tests/v2.sh` boots such a kernel.
#[test]
fn privileged_an_apparmor_profile_confines() {
    with_bundle!(|place, bundle| {
        if !container_core::Features::host().apparmor {
            return skip("AppArmor is not enabled");
        }
        let Some(parser) = peers::find("apparmor_parser") else {
            return;
        };
        let profile = place.cgroup();
        let text = format!(
            "profile {profile} flags=(attach_disconnected) {{ file, capability, signal, \
             deny /etc/passwd r, }}"
        );
        let file = place.dir().join("profile");
        fs::write(&file, text).unwrap();
        let parse = |how: &str| {
            let status = Command::new(&parser).arg(how).arg(&file).status();
            assert!(status.unwrap().success(), "{how}");
        };
        parse("-a");
        let launcher = Launcher::new();
        let script =
            "cat /proc/self/attr/apparmor/current; cat /etc/group > /dev/null && cat /etc/passwd";
        for restricted in [false, true] {
            let spec = edit(&bundle.shell(script), |spec| {
                spec["process"]["apparmorProfile"] = json!(profile);
                spec["process"]["noNewPrivileges"] = json!(restricted);
            });
            let output = run(&launcher, &spec);
            assert_eq!(output.stdout, format!("{profile} (enforce)\n"));
            assert!(output.stderr.contains("Permission denied"), "{output:?}");
        }
        let spec = edit(&bundle.spec(&["true"]), |spec| {
            spec["process"]["apparmorProfile"] = json!("no-such-profile");
        });
        let error = try_run(&launcher, &spec, piped()).unwrap_err();
        parse("-R");
        assert_eq!(error.code(), "AppArmorProfileNotFound", "{error:?}");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}
