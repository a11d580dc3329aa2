//! The engine from end to end, on real kernels, registries and images.

mod crash;
mod debian;
mod exec;
mod faults;
mod limits;
mod network;
mod pull;
mod quickstart;
mod rootless;
mod run;
mod security;
mod store;

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use container_engine::container_image::server::{Server, ServerOptions};
use container_engine::container_image::{Digest, PushOptions, Store, push};
use container_engine::container_storage::{self, DriverOptions, SnapshotKind};
use container_engine::{Engine, Image};

use crate::support::fixtures::busybox_layout;
use crate::support::isolate::Place;

/// Tells a test of this program that it is run as a program of its own, and what it is to do.
const ROLE: &str = "CONTAINER_ENGINE_TEST_ROLE";

/// A user, and the group of this number, who may do nothing special.
pub(crate) const PLAIN_USER: u32 = 65534;

/// An engine with a busybox image that came from a registry in this process.
pub(crate) struct Ground {
    pub(crate) engine: Engine,
    /// Serves until it is dropped.
    _server: Server,
    pub(crate) image: Image,
    pub(crate) name: String,
}

/// `None` where there is no busybox.
pub(crate) fn ground(place: &Place) -> Option<Ground> {
    let (server, name) = serve_busybox(place.dir())?;
    let engine = open(place);
    let image = engine.images().pull(&name).expect("pull");
    Some(Ground {
        engine,
        _server: server,
        image,
        name,
    })
}

/// A registry in this process that has a busybox image of this name.
pub(crate) fn serve_busybox(dir: &Path) -> Option<(Server, String)> {
    let layout = busybox_layout(&dir.join("layout"))?;
    Some(serve(&layout, "busybox"))
}

/// A registry in this process that has the image of `layout` as `repository:latest`.
pub(crate) fn serve(layout: &Path, repository: &str) -> (Server, String) {
    let server = Server::start(ServerOptions::default()).expect("serve");
    let name = format!("{}/{repository}:latest", server.address());
    let store = Store::open(layout).expect("open the layout");
    let stored = store.images().expect("list the layout").remove(0);
    let image = store.image(&stored).expect("open the image");
    push(
        &image,
        &name.parse().expect("a name"),
        &PushOptions::default(),
    )
    .expect("push");
    (server, name)
}

/// An example, which cargo builds along with the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program");
    let program = test
        .ancestors()
        .nth(2)
        .expect("two directories up")
        .join("examples")
        .join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --examples` with the profile of the tests",
        program.display()
    );
    program
}

/// The engine of this test.
pub(crate) fn open(place: &Place) -> Engine {
    open_at(place.dir(), place.cgroup())
}

/// An engine with its directories below `dir`.
pub(crate) fn open_at(dir: &Path, cgroup: &str) -> Engine {
    Engine::builder()
        .root(dir.join("root"))
        .run(dir.join("run"))
        .cgroup_parent(cgroup)
        .open()
        .expect("open the engine")
}

/// What a container wrote, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Sees that all in the directories of the engine of `place` is finished: no part of a blob, no
/// snapshot that is being filled, no container, and only blobs that are what they are called.
pub(crate) fn assert_nothing_half_done(place: &Place) {
    let names = |dir: &str| -> Vec<_> {
        let entries = std::fs::read_dir(place.dir().join(dir))
            .into_iter()
            .flatten();
        entries
            .map(|entry| {
                entry
                    .expect("list")
                    .file_name()
                    .into_string()
                    .expect("ASCII")
            })
            .collect()
    };
    for dir in [
        "root/containers",
        "run/containers",
        "root/image/ingest",
        "root/image/leases",
    ] {
        assert_eq!(names(dir), [""; 0], "in {dir}");
    }
    for hex in names("root/image/blobs/sha256") {
        let blob =
            std::fs::read(place.dir().join("root/image/blobs/sha256").join(&hex)).expect("read");
        assert_eq!(Digest::of(&blob).to_string(), format!("sha256:{hex}"));
    }
    let driver =
        container_storage::open(place.dir().join("root/storage"), &DriverOptions::default());
    let mut unfinished = Vec::new();
    let mut visit = |info: container_storage::Info| {
        if info.kind != SnapshotKind::Committed {
            unfinished.push(info.name);
        }
        Ok(())
    };
    driver
        .expect("open the storage")
        .list(&mut visit)
        .expect("list the snapshots");
    assert_eq!(unfinished, [""; 0]);
}

/// The parts of the role that this program was started for; `None` in an ordinary run of the tests.
pub(crate) fn role() -> Option<Vec<String>> {
    let role = std::env::var(ROLE).ok()?;
    Some(role.split('\n').map(str::to_owned).collect())
}

/// This program again, for the test function `test`, which finds its `role`.
pub(crate) fn again(test: &str, role: &[&str]) -> Command {
    // The path that it was built at may be closed to other users.
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role.join("\n"));
    command
}

/// As [`again`], as the plain user [`PLAIN_USER`], who has a home and directories below `place`.
pub(crate) fn again_as_plain_user(place: &Place, test: &str, role: &[&str]) -> Command {
    let mut command = again(test, role);
    be_plain_user(place, &mut command);
    command
}

/// Lets `command` run as the plain user [`PLAIN_USER`], who has a home and directories below `place`.
pub(crate) fn be_plain_user(place: &Place, command: &mut Command) {
    let home = place.dir().join("user");
    for dir in ["", "data", "run", "tmp"].map(|dir| home.join(dir)) {
        if !dir.exists() {
            std::fs::create_dir(&dir).expect("make a directory");
            chown(&dir, Some(PLAIN_USER), Some(PLAIN_USER)).expect("give it away");
        }
    }
    command
        .uid(PLAIN_USER)
        .gid(PLAIN_USER)
        .current_dir("/")
        .env("HOME", &home)
        .env("TMPDIR", home.join("tmp"))
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_RUNTIME_DIR", home.join("run"));
}
