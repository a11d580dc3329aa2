//! Filters that leave calls to somebody outside.

use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use container_core::oci_spec::runtime::{ContainerProcessState, Spec};
use container_core::seccomp::{Listener, Request};
use container_core::{CreateOptions, ExecOptions, Launcher, Signal};
use serde_json::json;

use crate::attributes::edit;
use crate::exec::output;
use crate::rows::set_role;
use crate::support::bundle::{Bundle, piped, try_run, with_bundle};
use crate::support::isolate::Place;
use crate::support::role;

/// Does what the agent below has answers for, and says what came of it.
#[test]
fn role_asker() {
    if !role::plays("seccomp::role_asker") {
        return;
    }
    let made = |path: &str| nix::unistd::mkdir(path, nix::sys::stat::Mode::S_IRWXU).err();
    role::say(format!(
        "through {:?} {}",
        made("/tmp/a"),
        fs::metadata("/tmp/a").is_ok()
    ));
    role::say(format!("refused {:?}", made("/tmp/b")));
    role::say(format!(
        "pretended {:?} {}",
        made("/tmp/c"),
        fs::metadata("/tmp/c").is_ok()
    ));
    let flags = rustix::fs::MemfdFlags::empty();
    let mut file = fs::File::from(rustix::fs::memfd_create("x", flags).expect("a descriptor"));
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    role::say(format!("given {text:?}"));
}

/// A container that asks, in front of a socket to send its listener to.
fn asker(place: &Place, bundle: &Bundle) -> Spec {
    bundle.add_probe();
    let mut spec = bundle.spec(&[]);
    set_role(&mut spec, "seccomp::role_asker", &[]);
    edit(&spec, |spec| {
        spec["annotations"] = json!({"org.example": "1"});
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
            "listenerPath": place.dir().join("agent"),
            "listenerMetadata": "mine",
            "syscalls": [{"names": ["mkdir", "memfd_create"], "action": "SCMP_ACT_NOTIFY"}],
        });
    })
}

/// Takes one listener at the socket and answers until nobody asks any more.
fn agent(place: &Place) -> JoinHandle<(ContainerProcessState, Vec<Request>)> {
    let path = place.dir().join("agent");
    let _ = fs::remove_file(&path);
    let socket = UnixListener::bind(&path).expect("bind");
    thread::spawn(move || {
        let (connection, _) = socket.accept().expect("a connection");
        let (state, listener) = Listener::accept(&connection).expect("a listener");
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"from outside").expect("write");
        file.rewind().expect("rewind");
        let mut requests = Vec::new();
        while let Some(request) = listener.receive().expect("a call") {
            assert!(listener.is_waiting(&request).expect("look"));
            match (request.number == 83, requests.len() % 4) {
                (true, 0) => listener.let_through(&request).expect("answer"),
                (true, 1) => listener.fail(&request, libc::ENOSPC).expect("answer"),
                (true, _) => listener.give(&request, 0).expect("answer"),
                (false, _) => {
                    listener.give_file(&request, &file).expect("answer");
                }
            }
            assert!(listener.fail(&request, 1).is_err(), "it has its answer");
            assert!(listener.fail(&request, 0).is_err(), "that is no error");
            requests.push(request);
        }
        (state, requests)
    })
}

const SAID: [&str; 4] = [
    "through None true",
    "refused Some(ENOSPC)",
    "pretended None false",
    "given \"from outside\"",
];

#[cfg(target_arch = "x86_64")]
#[test]
fn privileged_an_agent_answers_for_the_calls_left_to_it() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        for restricted in [false, true] {
            let spec = edit(&asker(place, bundle), |spec| {
                spec["process"]["noNewPrivileges"] = json!(restricted);
            });
            let agent = agent(place);
            let mut options = piped();
            options.id = Some("web".into());
            options.bundle = bundle.root().to_owned();
            let mut container = launcher.create(&spec, options).unwrap();
            container.start().unwrap();
            let mut text = String::new();
            container
                .take_stdout()
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert!(container.wait().unwrap().success(), "{text}");
            assert_eq!(role::said(&text), SAID);
            let (state, requests) = agent.join().unwrap();
            let want = json!({
                "ociVersion": spec.version(), "fds": ["seccompFd"], "pid": container.pid(),
                "metadata": "mine",
                "state": {
                    "ociVersion": spec.version(), "id": "web", "status": "creating",
                    "pid": container.pid(), "bundle": bundle.root(),
                    "annotations": {"org.example": "1"},
                },
            });
            assert_eq!(serde_json::to_value(&state).unwrap(), want);
            assert_eq!(requests.len(), 4);
            for request in &requests {
                // A thread of the container's program.
                assert_ne!(request.pid, 0);
                assert_eq!(request.architecture, 0xc000_003e);
            }
            fs::remove_dir(bundle.root().join("tmp/a")).unwrap();
        }
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn privileged_what_is_executed_has_an_agent_too() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let spec = asker(place, bundle);
        let first = agent(place);
        let sleeper = edit(&spec, |spec| {
            spec["process"]["args"] = json!(["/bin/sleep", "600"])
        });
        let mut options = CreateOptions::default();
        options.id = Some("web".into());
        let container = launcher.create(&sleeper, options).unwrap();
        container.start().unwrap();
        let second = agent(place);
        let process = spec.process().clone().unwrap();
        let (text, errors, code) = output(&launcher, &container, &process);
        assert_eq!((errors.as_str(), code), ("", 0), "{text}");
        assert_eq!(role::said(&text), SAID);
        let (state, requests) = second.join().unwrap();
        assert_eq!(requests.len(), 4);
        assert_ne!(*state.pid(), container.pid());
        assert_eq!(*state.state().pid(), Some(container.pid()));
        assert_eq!(state.state().status().to_string(), "running");
        // Nobody at the socket.
        fs::remove_file(place.dir().join("agent")).unwrap();
        let error = launcher
            .exec(&container, &process, ExecOptions::default())
            .unwrap_err();
        assert!(error.report().contains("agent"), "{error:?}");
        container.kill(Signal::KILL).unwrap();
        container.wait().unwrap();
        first.join().unwrap();
    });
}

#[test]
fn privileged_without_an_agent_nothing_starts() {
    with_bundle!(|place, bundle| {
        let launcher = Launcher::new();
        let spec = asker(place, bundle);
        let mut options = piped();
        options.id = Some("web".into());
        let error = try_run(&launcher, &spec, options).unwrap_err();
        assert!(error.report().contains("agent"), "{error:?}");
        let error = try_run(&launcher, &spec, piped()).unwrap_err();
        assert_eq!(error.code(), "NoId", "{error:?}");
        let spec = edit(&spec, |spec| {
            spec["linux"]["seccomp"]["listenerPath"] = json!("agent");
        });
        let error = try_run(&launcher, &spec, piped()).unwrap_err();
        assert_eq!(error.code(), "NoListener", "{error:?}");
    });
}

#[test]
fn messages_that_bring_no_listener_are_refused() {
    let two = || std::os::unix::net::UnixStream::pair().expect("a pair");
    let long = vec![b' '; 2 << 20];
    for message in [&b""[..], b"{}", b"[", br#"{"fds":["seccompFd"]}"#, &long] {
        let (ours, mut theirs) = two();
        let message = message.to_vec();
        let sender = thread::spawn(move || {
            // The other side may have had enough.
            let _ = theirs.write_all(&message);
        });
        let error = Listener::accept(&ours).unwrap_err();
        assert_eq!(error.code(), "InvalidProcessState", "{error:?}");
        drop(ours);
        sender.join().unwrap();
    }
}
