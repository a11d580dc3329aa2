//! Containers by id, over their whole life.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use container_core::oci_spec::runtime::Process;
use container_core::runtime::{self, Runtime, Status};
use container_core::{CreateOptions, ErrorKind, ExecOptions, Signal, Stdio, Supervision};

use crate::support::bundle::{Bundle, LIMIT, edit_linux, with_bundle};
use crate::support::isolate::Place;
use crate::support::role::wait_until;

/// A runtime whose groups are the test's own.
fn open(place: &Place) -> Runtime {
    Runtime::open(place.dir().join("state")).expect("open a runtime")
}

/// Options for a container that is left to itself.
fn disowned() -> CreateOptions {
    let mut options = CreateOptions::default();
    options.supervision = Supervision::Disowned;
    options
}

fn create(place: &Place, bundle: &Bundle, runtime: &Runtime, id: &str, args: &[&str]) {
    let mut spec = bundle.spec(args);
    let group = PathBuf::from(format!("/{}/{id}", place.cgroup()));
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(group));
    });
    let created = runtime.create(id, &spec, disowned());
    created.expect("create a container");
}

fn status(runtime: &Runtime, id: &str) -> Status {
    runtime.state(id).expect("a container").status
}

fn await_status(runtime: &Runtime, id: &str, want: Status) {
    wait_until(&format!("{id} {want}"), || status(runtime, id) == want);
}

#[test]
fn privileged_a_container_lives_through_all_states() {
    with_bundle!(|place, bundle| {
        // Each verb as if it was another process: all that is known is on disk.
        let runtime = open(place);
        create(place, bundle, &runtime, "web", &["sleep", "600"]);
        let state = open(place).state("web").expect("a state");
        assert_eq!((state.id.as_str(), state.status), ("web", Status::Created));
        assert_eq!(state.rootfs, bundle.root());
        let pid = state.pid.expect("it lives");
        assert!(state.start_time.is_some());
        assert_eq!(state.to_oci().pid(), &Some(pid));

        fn code<T: std::fmt::Debug>(result: container_core::Result<T>) -> &'static str {
            result.unwrap_err().code()
        }
        assert_eq!(code(open(place).resume("web")), "NotPaused");
        open(place).start("web").expect("start");
        assert_eq!(status(&runtime, "web"), Status::Running);
        assert_eq!(code(open(place).start("web")), "AlreadyStarted");
        assert_eq!(code(open(place).delete("web", false)), "NotStopped");

        open(place).pause("web").expect("pause");
        assert_eq!(status(&runtime, "web"), Status::Paused);
        assert_eq!(code(open(place).pause("web")), "AlreadyPaused");
        open(place).resume("web").expect("resume");
        assert_eq!(status(&runtime, "web"), Status::Running);

        open(place).kill("web", Signal::KILL).expect("kill");
        await_status(&runtime, "web", Status::Stopped);
        assert_eq!(runtime.state("web").expect("a state").pid, None);
        for result in [
            open(place).kill("web", Signal::TERM),
            open(place).start("web"),
            open(place).pause("web"),
        ] {
            let error = result.unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::InvalidState, "NotRunning")
            );
        }
        assert!(open(place).processes("web").expect("none").is_empty());
        open(place).delete("web", false).expect("delete");
        assert_eq!(code(open(place).delete("web", false)), "ContainerUnknown");
        open(place)
            .delete("web", true)
            .expect("delete what is gone");
        assert_eq!(
            fs::read_dir(place.dir().join("state"))
                .expect("a directory")
                .count(),
            0
        );
    });
}

#[test]
fn privileged_processes_are_executed_and_listed_by_id() {
    with_bundle!(|place, bundle| {
        let runtime = open(place);
        create(place, bundle, &runtime, "web", &["sleep", "600"]);
        runtime.start("web").expect("start");
        let mut process: Process = runtime
            .spec("web")
            .expect("its spec")
            .process()
            .clone()
            .expect("one");
        // Nobody says where the user is at home, but the container.
        process.set_args(Some(
            ["sh", "-c", "test $HOME = /root"].map(str::to_owned).into(),
        ));
        let at_home = open(place).exec("web", &process, ExecOptions::default());
        let status = at_home.expect("execute").wait().expect("wait");
        assert!(status.success(), "{status}");
        process.set_args(Some(["sh", "-c", "cat; exit 5"].map(str::to_owned).into()));
        let mut options = ExecOptions::default();
        options.stdio = [Stdio::Piped, Stdio::Null, Stdio::Null];
        let mut executed = open(place).exec("web", &process, options).expect("execute");
        let mut listed = runtime.processes("web").expect("processes");
        listed.retain(|pid| *pid != executed.pid());
        assert!(
            listed.contains(&runtime.state("web").unwrap().pid.unwrap()),
            "{listed:?}"
        );
        drop(executed.take_stdin());
        let status = executed
            .wait_timeout(LIMIT)
            .expect("wait")
            .expect("it ends");
        assert_eq!(status.code(), 5);

        runtime.pause("web").expect("pause");
        let refused = runtime.exec("web", &process, ExecOptions::default());
        assert_eq!(refused.unwrap_err().code(), "Paused");
        // A paused container can be killed and deleted.
        runtime.delete("web", true).expect("delete");
    });
}

#[test]
fn privileged_ids_that_lead_elsewhere_have_no_effect() {
    with_bundle!(|place, bundle| {
        let runtime = open(place);
        let outside = place.dir().join("outside");
        fs::create_dir(&outside).expect("make a directory");
        let long = "x".repeat(300);
        for id in ["..", ".", "a/b", "../outside", "", "a\0b", "~1-1", &long] {
            let spec = bundle.spec(&["true"]);
            for result in [
                runtime.create(id, &spec, disowned()).map(drop),
                runtime.start(id),
                runtime.state(id).map(drop),
                runtime.kill(id, Signal::KILL),
                runtime.delete(id, true).map(drop),
                runtime.pause(id),
                runtime.spec(id).map(drop),
                runtime
                    .exec(id, &Process::default(), ExecOptions::default())
                    .map(drop),
            ] {
                let error = result.unwrap_err();
                assert_eq!(
                    (error.kind(), error.code()),
                    (ErrorKind::InvalidInput, "InvalidName")
                );
            }
        }
        assert!(outside.is_dir());
        assert!(!place.dir().join("state").exists());
    });
}

#[test]
fn privileged_what_a_failed_creation_made_is_gone() {
    with_bundle!(|place, bundle| {
        let runtime = open(place);
        create(place, bundle, &runtime, "taken", &["sleep", "600"]);
        let spec = bundle.spec(&["true"]);
        let error = runtime.create("taken", &spec, disowned()).unwrap_err();
        assert_eq!(error.code(), "ContainerExists");
        assert_eq!(status(&runtime, "taken"), Status::Created);

        for args in [&["/no/such/program"][..], &[]] {
            let mut spec = bundle.spec(args);
            edit_linux(&mut spec, |linux| {
                linux.set_cgroups_path(Some(format!("/{}/failed", place.cgroup()).into()));
            });
            assert!(runtime.create("failed", &spec, disowned()).is_err());
            assert_eq!(
                runtime.state("failed").unwrap_err().kind(),
                ErrorKind::NotFound
            );
        }
        for version in ["", "2.0.0", "1.0", "one"] {
            let mut spec = spec.clone();
            spec.set_version(version.to_owned());
            let error = runtime.create("failed", &spec, disowned()).unwrap_err();
            assert_eq!(error.code(), "UnknownVersion", "{version}");
        }
        // One that was created and not started is ended by the deletion.
        runtime.delete("taken", false).expect("delete");
        let left: Vec<_> = fs::read_dir(place.dir().join("state"))
            .expect("a directory")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn privileged_what_dead_processes_left_is_listed_and_deleted() {
    with_bundle!(|place, bundle| {
        let runtime = open(place);
        create(place, bundle, &runtime, "old", &["sleep", "600"]);
        runtime.kill("old", Signal::KILL).expect("kill");
        await_status(&runtime, "old", Status::Stopped);
        let state = place.dir().join("state");
        // As after a reboot: start times count from another boot.
        let document = state.join("old/state.json");
        let text = fs::read_to_string(&document).expect("a document");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot's id");
        assert!(text.contains(boot.trim()));
        fs::write(&document, text.replace(boot.trim(), "of yesterday")).expect("write");
        // Half a document, and none.
        for (id, content) in [("half", &text[..text.len() / 2]), ("empty", "")] {
            let directory = state.join(id);
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .expect("make a directory");
            if !content.is_empty() {
                fs::write(directory.join("state.json"), content).expect("write");
            }
        }
        let listed = runtime.list().expect("list");
        let ids: Vec<_> = listed
            .iter()
            .map(|it| (it.id.as_str(), it.status))
            .collect();
        let stopped = ["empty", "half", "old"].map(|id| (id, Status::Stopped));
        assert_eq!(ids, stopped);
        assert_eq!(runtime.start("half").unwrap_err().code(), "RecordBroken");
        for id in ["empty", "half", "old"] {
            runtime.delete(id, false).expect("delete");
        }
        assert!(runtime.list().expect("list").is_empty());
    });
}

#[test]
fn privileged_two_who_create_one_container_do_not_meet() {
    with_bundle!(|place, bundle| {
        let runtime = open(place);
        let mut spec = bundle.spec(&["sleep", "600"]);
        edit_linux(&mut spec, |linux| {
            linux.set_cgroups_path(None);
        });
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|number| {
                    let (runtime, mut spec) = (runtime.clone(), spec.clone());
                    let group = format!("/{}/{number}", place.cgroup());
                    edit_linux(&mut spec, |linux| {
                        linux.set_cgroups_path(Some(group.into()));
                    });
                    scope.spawn(move || runtime.create("one", &spec, disowned()).map(drop))
                })
                .collect();
            threads
                .into_iter()
                .map(|it| it.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        let failed: Vec<_> = made.into_iter().filter_map(Result::err).collect();
        assert_eq!(failed.len(), 7);
        assert!(failed.iter().all(|error| error.code() == "ContainerExists"));
        runtime.delete("one", true).expect("delete");
    });
}

#[test]
fn a_spec_to_begin_with_has_all_that_is_required() {
    for (spec, rootless) in [
        (runtime::default_spec(), false),
        (runtime::rootless_spec(), true),
    ] {
        let text = serde_json::to_string(&spec).expect("JSON");
        assert_eq!(text.contains("uidMappings"), rootless);
        assert_eq!(spec.version(), runtime::OCI_VERSION);
        assert!(spec.process().is_some() && spec.root().is_some());
    }
}
