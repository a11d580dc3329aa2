//! What lies on the disk: layers, writable layers, records, and what a crash leaves of them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use container_engine::container_image::server::Server;
use container_engine::container_image::{
    Descriptor, Digest, ImageBuilder, ImageConfig, Manifest, MediaType, PushOptions, Store, push,
};
use container_engine::{Engine, Image, State};

use super::{again, assert_nothing_half_done, ground, open, open_at, role, serve_busybox, text};
use crate::support::host::{other_processes, remove_cgroups};
use crate::support::isolate::{Place, isolated};

/// How many programs and threads use one engine at once.
const PROGRAMS: usize = 4;
const THREADS: usize = 8;

/// How often a program is killed.
const KILLS: u32 = 20;

/// How many containers share an image.
const MANY: u64 = 100;

#[test]
fn privileged_engines_with_different_roots_do_not_meet() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let [first, second] =
            ["first", "second"].map(|dir| open_at(&place.dir().join(dir), place.cgroup()));
        let image = first.images().pull(&name).expect("pull");
        assert_eq!(second.images().list().expect("list").len(), 0);
        assert_eq!(
            second.images().get(&name).expect_err("not there").code(),
            "ImageUnknown"
        );
        let others = second.images().pull(&name).expect("pull");
        let start = |engine: &Engine, image: &Image, port: &str| {
            let run = engine
                .containers()
                .run(image)
                .name("same")
                .network("bridge")
                .publish(port);
            run.cmd(["sleep", "1000"]).detach().expect("start")
        };
        let own = start(&first, &image, "8081:80");
        let other = start(&second, &others, "8082:80");
        let [own_address, other_address] =
            [&own, &other].map(|container| container.address().expect("a network"));
        assert_ne!(own_address, other_address);
        assert_eq!(first.containers().list().expect("list").len(), 1);
        assert!(first.containers().get(other.id()).is_err());
        // Neither's clean-up touches what the other has.
        first.recover().expect("recover");
        second.recover().expect("recover");
        second.images().remove(&name).expect("remove");
        other.remove_force().expect("remove");
        assert_eq!(own.state().expect("state"), State::Running);
        assert_eq!(first.images().list().expect("list").len(), 1);
        own.remove_force().expect("remove");
    });
}

/// Not a test by itself: one of several programs that use an engine at once.
#[test]
fn one_of_many() {
    let Some(role) = role() else { return };
    let [dir, cgroup, name] = &role[..] else {
        panic!("want three parts, got {role:?}")
    };
    let engine = open_at(Path::new(dir), cgroup);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let image = engine.images().pull(name).expect("pull");
                for network in ["none", "bridge"] {
                    let run = engine.containers().run(&image).network(network);
                    let output = run.cmd(["echo", "hello"]).output().expect("run");
                    assert_eq!(text(&output.stdout), "hello");
                }
            });
        }
    });
}

#[test]
fn privileged_threads_and_programs_share_one_engine() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let dir = place.dir().to_string_lossy();
        let programs: Vec<Child> = (0..PROGRAMS)
            .map(|_| {
                let mut program =
                    again("engine::store::one_of_many", &[&dir, place.cgroup(), &name]);
                program
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("execute this program again")
            })
            .collect();
        for mut program in programs {
            assert!(program.wait().expect("wait").success());
        }
        let engine = open(place);
        assert_eq!(engine.images().list().expect("list").len(), 1);
        assert_nothing_half_done(place);
    });
}

/// Publishes an image that has a layer on top of those of the image `name`.
fn publish_on_top(place: &Place, server: &Server, name: &str, addition: &str) -> String {
    let store = Store::open(place.dir().join("derived")).expect("open a store");
    let pulled = container_engine::container_image::pull(
        &name.parse().expect("a name"),
        &store,
        &Default::default(),
        None,
    );
    let base = pulled.expect("pull").image;
    let lease = store.lease().expect("lease");
    let top = ImageBuilder::new()
        .file(format!("etc/{addition}"), addition, 0o644)
        .build(&store)
        .expect("build");
    let mut config = ImageConfig::parse(base.config_raw()).expect("a config");
    config
        .rootfs
        .diff_ids
        .extend(top.config().rootfs.diff_ids.iter().copied());
    let layers = base.layers().iter().chain(top.layers());
    let layers: Vec<Descriptor> = layers.map(|layer| layer.descriptor.clone()).collect();
    let config = lease
        .put(MediaType::CONFIG, &config.to_json())
        .expect("put the config");
    let manifest = Manifest::new(config, layers).expect("a manifest");
    let descriptor = lease
        .put(MediaType::MANIFEST, manifest.raw())
        .expect("put the manifest");
    let derived = format!("{}/{addition}:latest", server.address());
    let reference = derived.parse().expect("a name");
    let image = store.record(&descriptor, &reference).expect("record");
    push(&image, &reference, &PushOptions::default()).expect("push");
    derived
}

/// The blobs and the snapshots of the engine of `place`.
fn stored(place: &Place) -> [usize; 2] {
    ["root/image/blobs/sha256", "root/storage/overlay/records"]
        .map(|dir| fs::read_dir(place.dir().join(dir)).expect("list").count())
}

#[test]
fn privileged_images_share_layers_and_free_them_with_the_last_user() {
    isolated(|place| {
        let Some((server, base)) = serve_busybox(place.dir()) else {
            return;
        };
        let [one, two] =
            ["one", "two"].map(|addition| publish_on_top(place, &server, &base, addition));
        let engine = open(place);
        engine.images().pull(&one).expect("pull");
        // Manifest, config and two layers; a snapshot for each layer.
        assert_eq!(stored(place), [4, 2]);
        server.clear_log();
        let image = engine.images().pull(&two).expect("pull");
        assert_eq!(stored(place), [7, 3]);
        let requested = server
            .log()
            .iter()
            .filter(|access| access.target.contains("/blobs/"))
            .count();
        assert_eq!(requested, 2, "config and top layer: {:?}", server.log());

        engine.images().remove(&one).expect("remove");
        assert_eq!(stored(place), [4, 2]);
        let run = || engine.containers().run(&image).network("none");
        let output = run()
            .cmd(["cat", "/etc/two", "/etc/one"])
            .output()
            .expect("run");
        assert_eq!(text(&output.stdout), "two");

        // A container keeps the layers, not the image.
        let container = run().cmd(["cat", "/etc/two"]).create().expect("create");
        engine.images().remove(&two).expect("remove");
        assert_eq!(engine.images().list().expect("list").len(), 0);
        assert_eq!(stored(place), [0, 3]);
        container.start().expect("start");
        assert!(container.wait().expect("wait").success());
        container.remove().expect("remove");
        engine.images().remove(&two).expect("sweep");
        assert_eq!(stored(place), [0, 0]);
        assert_nothing_half_done(place);
    });
}

/// The bytes that a tree takes on its disk.
fn disk_usage(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("list").path());
    let sizes = entries.map(|path| {
        let metadata = path.symlink_metadata().expect("look");
        let below = if metadata.is_dir() {
            disk_usage(&path)
        } else {
            0
        };
        metadata.blocks() * 512 + below
    });
    sizes.sum()
}

#[test]
fn privileged_many_containers_on_one_image_take_next_to_nothing() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let before = disk_usage(&place.dir().join("root"));
        let containers: Vec<_> = (0..MANY)
            .map(|number| {
                let run = ground
                    .engine
                    .containers()
                    .run(&ground.image)
                    .network("none");
                let script = format!("echo {number} > /number");
                let container = run.cmd(["sh", "-c", &script]).detach().expect("start");
                assert!(container.wait().expect("wait").success());
                container
            })
            .collect();
        let growth = disk_usage(&place.dir().join("root")) - before;
        assert!(growth < MANY << 20, "{growth} bytes for {MANY} containers");
        for container in containers {
            container.remove().expect("remove");
        }
        assert_nothing_half_done(place);
    });
}

/// Every file below `dir` with what can be known of it.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().expect("look");
        let content = if metadata.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .expect("list")
                    .map(|entry| entry.expect("list").path()),
            );
            String::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)
                .expect("read")
                .to_string_lossy()
                .into_owned()
        } else if metadata.is_file() {
            Digest::of(fs::read(&path).expect("read")).to_string()
        } else {
            // A whiteout.
            format!("device {}", metadata.rdev())
        };
        let [mode, uid, gid] = [
            metadata.permissions().mode(),
            metadata.uid(),
            metadata.gid(),
        ];
        let (inode, time, nanos) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        let facts = format!("{mode:o} {uid}:{gid} {inode} {time}.{nanos} {content}");
        files.insert(path, facts);
    }
    files
}

#[test]
fn privileged_layers_stay_as_they_are_whatever_a_container_does() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let snapshots = place.dir().join("root/storage/overlay");
        let layers = || {
            let dirs = fs::read_dir(&snapshots)
                .expect("list")
                .map(|entry| entry.expect("list").path());
            dirs.filter(|dir| dir.join("fs").exists())
                .map(|dir| (dir.clone(), tree(&dir.join("fs"))))
                .collect::<Vec<_>>()
        };
        let before = layers();
        assert_eq!(before.len(), 1, "one layer");
        let script = "echo more >> /etc/passwd; chmod 700 /etc/group; chown 5:5 /bin/busybox; rm /bin/ls; \
                      rm -r /tmp; mkdir /tmp; mv /root /moved; ln /etc/passwd /linked; touch -d @1 /etc; \
                      : > /new; test ! -e /bin/ls";
        let run = ground
            .engine
            .containers()
            .run(&ground.image)
            .network("none");
        let container = run.cmd(["sh", "-ec", script]).detach().expect("start");
        assert!(container.wait().expect("wait").success());
        let after = layers();
        assert_eq!(after.len(), 2, "the layer, and the container's own");
        for (dir, files) in &before {
            let same = after
                .iter()
                .find(|(other, _)| other == dir)
                .expect("the layer is there");
            assert!(same.1 == *files, "the layer {} changed", dir.display());
        }
        container.remove().expect("remove");
        assert!(layers() == before, "only the layer is left, as it was");
    });
}

#[test]
fn privileged_containers_share_the_kernel_and_have_roots_of_their_own() {
    isolated(|place| {
        let Some((server, base)) = serve_busybox(place.dir()) else {
            return;
        };
        let engine = open(place);
        let kernel = rustix::system::uname();
        let field = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        let kernel = [
            field(kernel.release()),
            field(kernel.version()),
            field(kernel.machine()),
        ]
        .join(" ");
        for addition in ["one", "two"] {
            let image = engine
                .images()
                .pull(&publish_on_top(place, &server, &base, addition))
                .expect("pull");
            let run = engine.containers().run(&image).network("none").cmd([
                "sh",
                "-c",
                "uname -rvm; ls /etc",
            ]);
            let stdout = text(&run.output().expect("run").stdout);
            let (inside, names) = stdout.split_once('\n').expect("two answers");
            assert_eq!(inside, kernel);
            let names: Vec<_> = names
                .lines()
                .filter(|name| ["one", "two"].contains(name))
                .collect();
            assert_eq!(names, [addition]);
        }
    });
}

/// Not a test by itself: runs containers until it is killed.
#[test]
fn busy() {
    let Some(role) = role() else { return };
    let [dir, cgroup, name] = &role[..] else {
        panic!("want three parts, got {role:?}")
    };
    let engine = open_at(Path::new(dir), cgroup);
    say("busy");
    loop {
        let image = engine.images().pull(name).expect("pull");
        let run = || {
            engine
                .containers()
                .run(&image)
                .cmd(["sh", "-c", "echo 1 > /file"])
        };
        assert!(
            run()
                .network("bridge")
                .publish("8080:80")
                .status()
                .expect("run")
                .success()
        );
        let container = run().network("none").create().expect("create");
        container.start().expect("start");
        container.wait().expect("wait");
        container.remove().expect("remove");
        drop(image);
        engine.images().remove(name).expect("remove");
    }
}

#[expect(
    clippy::print_stdout,
    reason = "the program that started this one reads it"
)]
fn say(what: &str) {
    println!("{what}");
}

/// Starts the test function `test` of this program and waits until it said `word`.
fn start(place: &Place, test: &str, name: &str, word: &str) -> Child {
    let dir = place.dir().to_string_lossy();
    let mut child = again(test, &[&dir, place.cgroup(), name])
        .stdout(Stdio::piped())
        .spawn()
        .expect("execute this program again");
    let stdout = BufReader::new(child.stdout.take().expect("piped"));
    let said = stdout
        .lines()
        .map_while(Result::ok)
        .any(|line| line.ends_with(word));
    assert!(said, "{test} did not get to {word:?}");
    child
}

fn kill(child: &mut Child) {
    child.kill().expect("SIGKILL");
    child.wait().expect("wait");
}

/// A time up to `limit`, different at every call.
fn random_delay(limit: Duration) -> Duration {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let digest = Digest::of(now.as_nanos().to_string().as_bytes()).to_string();
    let number = u32::from_str_radix(&digest[7..15], 16).expect("hexadecimal");
    limit.mul_f64(f64::from(number) / f64::from(u32::MAX))
}

/// Waits until nobody of a killed program is alive any more.
fn wait_until_alone() {
    let end = Instant::now() + Duration::from_secs(10);
    while !other_processes().is_empty() {
        assert!(Instant::now() < end, "left: {:?}", other_processes());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn privileged_a_program_killed_at_any_time_leaves_nothing() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        for round in 0..KILLS {
            let mut child = start(place, "engine::store::busy", &name, "busy");
            let delay = random_delay(Duration::from_millis(400));
            std::thread::sleep(delay);
            kill(&mut child);
            wait_until_alone();
            let engine = open(place);
            // A container that was made to stay does so, until somebody removes it.
            for container in engine.containers().list().expect("list") {
                container.remove_force().expect("the first try removes it");
            }
            engine.images().remove(&name).expect("remove");
            let records = place.dir().join("root/storage/overlay/records");
            let snapshots: Vec<_> = fs::read_dir(records)
                .expect("list")
                .map(|entry| entry.expect("list").file_name())
                .collect();
            assert_eq!(
                snapshots, [""; 0],
                "in round {round}, killed after {delay:?}"
            );
            assert_nothing_half_done(place);
            let image = engine.images().pull(&name).expect("pull");
            let run = engine
                .containers()
                .run(&image)
                .network("bridge")
                .publish("8080:80")
                .cmd(["true"]);
            assert!(
                run.status().expect("run").success(),
                "in round {round}, killed after {delay:?}"
            );
        }
        // Whatever the last kill left, the parent of all groups too, goes with the next opening.
        drop(open(place));
    });
}

#[test]
fn privileged_a_damaged_record_is_set_aside() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        for length in [0, 40] {
            let run = |name: &str| {
                ground
                    .engine
                    .containers()
                    .run(&ground.image)
                    .name(name)
                    .cmd(["true"])
                    .create()
            };
            let [good, bad] = ["good", "bad"].map(|name| run(name).expect("create"));
            let record = place
                .dir()
                .join("root/containers")
                .join(bad.id())
                .join("container.json");
            OpenOptions::new()
                .write(true)
                .open(&record)
                .expect("open")
                .set_len(length)
                .expect("truncate");
            let engine = open(place);
            let names: Vec<_> = engine.containers().list().expect("list");
            assert_eq!(
                names
                    .iter()
                    .map(|container| container.id())
                    .collect::<Vec<_>>(),
                [good.id()]
            );
            let aside = place.dir().join("root/broken").join(bad.id());
            assert!(aside.join("container.json").exists());
            assert!(!record.exists());
            // Nothing of it takes room, and its name is free.
            engine.recover().expect("recover");
            let again = run("bad").expect("create");
            again.remove().expect("remove");
            good.remove().expect("remove");
            fs::remove_dir_all(aside).expect("remove");
            assert_nothing_half_done(place);
        }
    });
}

/// Not a test by itself: has a container of its own and one that stays.
#[test]
fn before_the_reboot() {
    let Some(role) = role() else { return };
    let [dir, cgroup, name] = &role[..] else {
        panic!("want three parts, got {role:?}")
    };
    let engine = open_at(Path::new(dir), cgroup);
    let image = engine.images().pull(name).expect("pull");
    let run = || {
        engine
            .containers()
            .run(&image)
            .network("none")
            .cmd(["sleep", "1000"])
    };
    let _own = run().spawn().expect("spawn");
    run().name("kept").create().expect("create");
    say("ready");
    loop {
        std::thread::park();
    }
}

#[test]
fn privileged_what_a_reboot_leaves_is_removed() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let mut child = start(place, "engine::store::before_the_reboot", &name, "ready");
        kill(&mut child);
        wait_until_alone();
        // What the kernel and the tmpfs forget.
        remove_cgroups(place.cgroup());
        fs::remove_dir_all(place.dir().join("run")).expect("remove");
        assert_eq!(stored(place)[1], 3, "a layer and two writable ones");
        let engine = open(place);
        assert_eq!(stored(place)[1], 2);
        let kept = engine.containers().get("kept").expect("it stays");
        assert_eq!(kept.state().expect("state"), State::Created);
        kept.remove().expect("remove");
        assert_nothing_half_done(place);
    });
}
