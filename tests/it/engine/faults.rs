//! Everything that goes wrong is a typed error, and leaves nothing behind.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use container_engine::container_image::Store;
use container_engine::container_image::server::{Fault, Server};
use container_engine::{Engine, Error, ErrorKind, Signal};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::io::Errno;

use super::{again_as_plain_user, assert_nothing_half_done, ground, open, role, serve_busybox};
use crate::support::isolate::{Place, isolated};

/// A fault that stays.
const ALWAYS: usize = 1000;

/// Makes `fail` go wrong on an engine that has nothing, sees that nothing half done is left, and that
/// the same engine works once `mend` was called.
fn fails(
    place: &Place,
    name: &str,
    fail: impl FnOnce(&Engine) -> Error,
    mend: impl FnOnce(),
) -> Error {
    let engine = open(place);
    let error = fail(&engine);
    assert_eq!(engine.images().list().expect("list").len(), 0);
    assert_nothing_half_done(place);
    mend();
    works(&engine, name);
    engine.images().remove(name).expect("remove");
    assert_nothing_half_done(place);
    error
}

/// Pulls `name` and runs it.
fn works(engine: &Engine, name: &str) {
    let image = engine.images().pull(name).expect("pull");
    let status = engine.containers().run(&image).cmd(["true"]).status();
    assert!(status.expect("run").success());
}

fn kind_and_code(error: &Error) -> (ErrorKind, &'static str) {
    (error.kind(), error.code())
}

/// The part of a request that names the layer of the busybox image.
fn layer_path(place: &Place) -> String {
    let store = Store::open(place.dir().join("layout/busybox")).expect("open the layout");
    let stored = store.images().expect("list the layout").remove(0);
    let image = store.image(&stored).expect("open the image");
    format!("/blobs/{}", image.layers()[0].descriptor.digest)
}

fn wait_for_request(server: &Server, part: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while !server
        .log()
        .iter()
        .any(|access| access.target.contains(part))
    {
        assert!(Instant::now() < end, "nobody asked for {part}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn privileged_a_registry_that_lies_is_found_out() {
    isolated(|place| {
        let Some((server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        for (fault, kind, code) in [
            (Fault::Alter, ErrorKind::Integrity, "DigestMismatch"),
            (Fault::Short, ErrorKind::Integrity, "SizeMismatch"),
            (Fault::Long, ErrorKind::Integrity, "SizeMismatch"),
            (Fault::Cut(0), ErrorKind::Network, "ConnectionLost"),
        ] {
            server.inject("GET", &layer_path(place), ALWAYS, fault.clone());
            let pull = |engine: &Engine| engine.images().pull(&name).expect_err("a lie");
            let error = fails(place, &name, pull, || server.clear_faults());
            assert_eq!(
                kind_and_code(&error),
                (kind, code),
                "{fault:?}: {}",
                error.report()
            );
            let difference = error.wanted().is_some() && error.found().is_some();
            assert_eq!(difference, kind == ErrorKind::Integrity, "{fault:?}");
        }
    });
}

#[test]
fn privileged_a_cut_transfer_goes_on_where_it_was_cut() {
    isolated(|place| {
        let Some((server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let layer = layer_path(place);
        server.inject("GET", &layer, 1, Fault::Cut(100_000));
        works(&open(place), &name);
        let ranges: Vec<_> = server
            .log()
            .into_iter()
            .filter_map(|access| access.range)
            .collect();
        assert_eq!(ranges, ["bytes=100000-"]);
    });
}

#[test]
fn privileged_what_a_registry_does_not_have_is_not_found() {
    isolated(|place| {
        let Some((server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let address = server.address();
        for (unknown, codes) in [
            (
                format!("{address}/nobody/nothing"),
                ["NameUnknown", "ManifestUnknown"],
            ),
            (
                format!("{address}/busybox:no-such-tag"),
                ["ManifestUnknown"; 2],
            ),
        ] {
            let pull = |engine: &Engine| engine.images().pull(&unknown).expect_err("unknown");
            let error = fails(place, &name, pull, || ());
            assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
            assert!(codes.contains(&error.code()), "{}", error.report());
            assert!(error.report().contains(&unknown), "{}", error.report());
        }
    });
}

#[test]
fn privileged_a_registry_that_is_down_or_silent() {
    isolated(|place| {
        let Some((server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let nobody = format!("{}/busybox", listener.local_addr().expect("an address"));
        drop(listener);
        let pull = |engine: &Engine| engine.images().pull(&nobody).expect_err("nobody is there");
        let error = fails(place, &name, pull, || ());
        assert_eq!(
            kind_and_code(&error),
            (ErrorKind::Network, "ConnectionRefused")
        );

        for silence in [Fault::Silence, Fault::Stall(50_000)] {
            server.clear_log();
            server.inject("GET", &layer_path(place), ALWAYS, silence);
            let cancelled = |engine: &Engine| {
                let cancel = Arc::new(AtomicBool::new(false));
                let pull = engine.images().pull_with(&name).cancel(Arc::clone(&cancel));
                let pulling = std::thread::spawn(|| pull.run());
                wait_for_request(&server, &layer_path(place));
                cancel.store(true, Ordering::Relaxed);
                pulling.join().expect("no panic").expect_err("cancelled")
            };
            let error = fails(place, &name, cancelled, || server.clear_faults());
            assert_eq!(kind_and_code(&error), (ErrorKind::Cancelled, "Cancelled"));
        }
    });
}

#[test]
fn privileged_a_port_of_another_program_is_named_with_it() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let containers = ground.engine.containers();
        // A program of the host's network, though it runs in a container.
        let holder = containers
            .run(&ground.image)
            .network("host")
            .cmd(["nc", "-l", "-p", "8080"]);
        let holder = holder.spawn().expect("spawn");
        let end = Instant::now() + Duration::from_secs(10);
        while TcpListener::bind("0.0.0.0:8080").is_ok() {
            assert!(Instant::now() < end, "nobody listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        let run = || {
            containers
                .run(&ground.image)
                .publish("8080:80")
                .cmd(["true"])
                .status()
        };
        let error = run().expect_err("the port is taken");
        assert_eq!(kind_and_code(&error), (ErrorKind::Busy, "PortTaken"));
        let pid = holder.pid().expect("it runs");
        assert!(
            error.report().contains(&format!("process {pid} (")),
            "{}",
            error.report()
        );
        holder.kill(Signal::KILL).expect("kill");
        holder.wait().expect("wait");
        assert!(run().expect("the port is free").success());
        drop(holder);
        assert_nothing_half_done(place);
    });
}

#[test]
fn privileged_what_cannot_be_run_is_named() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let containers = ground.engine.containers();
        for network in ["none", "bridge"] {
            let run = || containers.run(&ground.image).network(network);
            for (run, kind, code, named) in [
                (
                    run().cmd(["no-such-program"]),
                    ErrorKind::NotFound,
                    "CommandNotFound",
                    "no-such-program",
                ),
                (
                    run().cmd(["/no/such"]),
                    ErrorKind::NotFound,
                    "CommandNotFound",
                    "/no/such",
                ),
                (
                    run().cmd(["/etc/passwd"]),
                    ErrorKind::PermissionDenied,
                    "CommandNotExecutable",
                    "/etc/passwd",
                ),
                (
                    run().cmd(["/etc"]),
                    ErrorKind::PermissionDenied,
                    "CommandNotExecutable",
                    "/etc",
                ),
                (
                    run().cmd(["true"]).user("nosuchuser"),
                    ErrorKind::NotFound,
                    "UserNotFound",
                    "nosuchuser",
                ),
                (
                    run().entrypoint([""; 0]).cmd([""; 0]),
                    ErrorKind::InvalidInput,
                    "NoCommand",
                    "",
                ),
            ] {
                let error = run.status().expect_err("it cannot run");
                assert_eq!(kind_and_code(&error), (kind, code), "{}", error.report());
                assert!(error.report().contains(named), "{}", error.report());
                assert_nothing_half_done(place);
            }
        }
        works(&ground.engine, &ground.name);
    });
}

/// Not a test by itself: opens an engine where this user may not write.
#[test]
fn plain_user_without_permission() {
    let Some(role) = role() else { return };
    let error = Engine::builder()
        .root(&role[0])
        .open()
        .expect_err("not ours");
    assert_eq!(
        error.kind(),
        ErrorKind::PermissionDenied,
        "{}",
        error.report()
    );
    assert!(error.report().contains(&role[0]), "{}", error.report());
}

#[test]
fn privileged_a_directory_of_somebody_else_is_refused() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let sealed = place.dir().join("sealed");
        fs::create_dir(&sealed).expect("make a directory");
        fs::set_permissions(&sealed, fs::Permissions::from_mode(0o755)).expect("change the mode");
        for root in [sealed.join("engine"), place.dir().join("root")] {
            let root = root.to_str().expect("UTF-8");
            let test = "engine::faults::plain_user_without_permission";
            let status = again_as_plain_user(place, test, &[root]).status();
            assert!(status.expect("execute this program again").success());
        }
        assert_eq!(fs::read_dir(sealed).expect("list").count(), 0);
        works(&ground.engine, &ground.name);
    });
}

/// A small file system of its own, and what fills it.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).expect("make a directory");
        mount(
            Some("tmpfs"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=16m,mode=755"),
        )
        .expect("mount a tmpfs");
        Self(at)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves `free` bytes.
    fn fill(&self, free: u64) {
        let mut file = File::create(self.filler()).expect("create");
        let mut length = 0;
        while file.write_all(&[0; 4096]).is_ok() {
            length += 4096;
        }
        file.set_len(length - free).expect("shorten");
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).expect("remove");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::empty()) {
            assert!(
                std::thread::panicking(),
                "unmount {}: {error}",
                self.0.display()
            );
        }
    }
}

fn assert_full(error: &Error) {
    let full = ErrorKind::Os(Errno::NOSPC.raw_os_error());
    assert_eq!(error.kind(), full, "{}", error.report());
    assert_eq!(error.cleanup_errors().len(), 0, "{}", error.report());
}

#[test]
fn privileged_a_disk_that_is_full_during_a_pull() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let disk = SmallDisk::mount(place.dir().join("root"));
        for free in [0, 64 << 10, 1 << 20] {
            let full = |engine: &Engine| {
                disk.fill(free);
                let error = engine.images().pull(&name).expect_err("the disk is full");
                engine
                    .images()
                    .remove(&name)
                    .expect("remove what is not there");
                assert_eq!(engine.recover().expect("recover").removed, [""; 0]);
                error
            };
            assert_full(&fails(place, &name, full, || disk.empty()));
        }
    });
}

#[test]
fn privileged_a_disk_that_is_full_during_create() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let disk = SmallDisk::mount(place.dir().join("root"));
        let engine = open(place);
        let image = engine.images().pull(&name).expect("pull");
        let create = || {
            engine
                .containers()
                .run(&image)
                .network("none")
                .cmd(["true"])
                .create()
        };
        let kept = create().expect("create");
        disk.fill(0);
        assert_full(&create().expect_err("the disk is full"));
        let spawned = engine.containers().run(&image).cmd(["true"]).status();
        assert_full(&spawned.expect_err("the disk is full"));
        let writing = engine.containers().list().expect("list");
        assert_eq!(
            writing
                .iter()
                .map(|container| container.id())
                .collect::<Vec<_>>(),
            [kept.id()]
        );
        engine.recover().expect("recover");
        kept.remove().expect("remove");
        assert_nothing_half_done(place);
        engine.images().remove(&name).expect("remove");
        assert_eq!(engine.images().list().expect("list").len(), 0);
        assert_nothing_half_done(place);
        disk.empty();
        works(&engine, &name);
        drop((engine, image, kept, writing));
    });
}
