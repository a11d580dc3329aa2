//! The engine of a plain user.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use container_engine::{Engine, ErrorKind, State};

use super::{PLAIN_USER, again_as_plain_user, role, serve_busybox, text};
use crate::support::isolate::{Place, isolated};

/// Not a test by itself: what a plain user does with the image that is called as its role says.
#[test]
fn plain_user() {
    let Some(role) = role() else { return };
    let [image, what] = &role[..] else {
        panic!("want two parts, got {role:?}")
    };
    let engine = Engine::open_default().expect("open");
    let home = |variable: &str| PathBuf::from(std::env::var_os(variable).expect("set"));
    let info = engine.info().expect("info");
    assert!(info.rootless);
    assert!(
        info.no_networks
            .expect("a reason")
            .contains("CAP_NET_ADMIN")
    );
    assert_eq!(info.root, home("XDG_DATA_HOME").join("container-engine"));
    assert_eq!(info.run, home("XDG_RUNTIME_DIR").join("container-engine"));
    match what.as_str() {
        "run" => run(&engine, image),
        "lack" => lack(&engine, image),
        "stay" => stay(&engine, image),
        _ => show(&engine, image),
    }
}

fn run(engine: &Engine, image: &str) {
    let image = engine.images().pull(image).expect("pull");
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; hostname; ip -o link | wc -l
        echo written > /etc/new && cat /etc/new && stat -c %u:%g /etc/new; rm /etc/passwd && ls /etc
        grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; echo err >&2; exit 3";
    let run = engine.containers().run(&image).hostname("box");
    let output = run.cmd(["sh", "-c", script]).output().expect("run");
    assert_eq!(output.status.code(), 3, "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "err");
    let stdout = text(&output.stdout);
    let words: Vec<_> = stdout.split_whitespace().collect();
    let user = PLAIN_USER.to_string();
    let map = ["0", &user, "1"];
    assert_eq!(words[..7], [&["0"][..], &map, &map].concat(), "{stdout}");
    assert_eq!(
        words[7..12],
        ["box", "1", "written", "0:0", "group"],
        "{stdout}"
    );
    assert!(!words.contains(&"passwd"), "{stdout}");
    assert!(stdout.contains("Seccomp:\t2"), "{stdout}");
    // The next one sees nothing of that.
    let next = engine.containers().run(&image).cmd([
        "sh",
        "-c",
        "test -e /etc/passwd && ! test -e /etc/new",
    ]);
    assert!(next.status().expect("run").success());
    let shared = PathBuf::from(std::env::var_os("HOME").expect("set")).join("shared");
    fs::create_dir(&shared).expect("make a directory");
    let bound = engine.containers().run(&image).bind(&shared, "/data").cmd([
        "sh",
        "-c",
        "echo 1 > /data/file",
    ]);
    assert!(bound.status().expect("run").success());
    assert_eq!(
        fs::read_to_string(shared.join("file")).expect("read"),
        "1\n"
    );
    let owner = fs::metadata(shared.join("file")).expect("look").uid();
    assert_eq!(owner, PLAIN_USER, "root inside is the user outside");
}

fn lack(engine: &Engine, image: &str) {
    let image = engine.images().pull(image).expect("pull");
    let run = || engine.containers().run(&image).cmd(["true"]);
    for (run, named) in [
        (run().network("bridge"), "CAP_NET_ADMIN"),
        (run().publish("8080:80"), "CAP_NET_ADMIN"),
        (run().memory("64M"), "memory"),
        (run().cpus(0.5), "cpu"),
        (run().pids_limit(10), "pids"),
    ] {
        let wish = format!("{run:?}");
        let Err(error) = run.status() else {
            panic!("a plain user got {wish}")
        };
        assert_eq!(
            error.kind(),
            ErrorKind::PermissionDenied,
            "{}",
            error.report()
        );
        assert!(
            error.report().contains(named),
            "{named}: {}",
            error.report()
        );
    }
    assert!(run().status().expect("run").success());
}

fn stay(engine: &Engine, image: &str) {
    let image = engine.images().pull(image).expect("pull");
    let run = engine
        .containers()
        .run(&image)
        .name("lasting")
        .cmd(["sleep", "1000"]);
    let container = run.detach().expect("start");
    assert_eq!(container.state().expect("state"), State::Running);
    let other = Engine::open_default()
        .expect("open")
        .containers()
        .get("lasting")
        .expect("found");
    other.remove_force().expect("remove");
    assert_eq!(engine.containers().list().expect("list").len(), 0);
}

/// Runs a container for as long as standard input is open.
#[expect(
    clippy::print_stdout,
    reason = "the program that started this one reads it"
)]
fn show(engine: &Engine, image: &str) {
    let image = engine.images().pull(image).expect("pull");
    let container = engine
        .containers()
        .run(&image)
        .cmd(["sleep", "1000"])
        .spawn()
        .expect("spawn");
    println!("container {}", container.pid().expect("it runs"));
    std::io::stdin().read_to_end(&mut Vec::new()).expect("wait");
}

/// Lets a plain user do the part of [`plain_user`] that is called `what`.
fn start(place: &Place, image: &str, what: &str) -> Child {
    let mut command = again_as_plain_user(place, "engine::rootless::plain_user", &[image, what]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("execute this program again")
}

fn succeeds(place: &Place, what: &str) {
    let Some((server, image)) = serve_busybox(place.dir()) else {
        return;
    };
    let mut child = start(place, &image, what);
    let status = child.wait().expect("wait");
    let mut said = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut said)
        .expect("read");
    assert!(status.success(), "{said}");
    drop(server);
    assert_nothing_runs(place);
}

/// The user's engine has no container, in its documents or alive.
fn assert_nothing_runs(place: &Place) {
    for dir in [
        "data/container-engine/containers",
        "run/container-engine/containers",
    ] {
        let entries = fs::read_dir(place.dir().join("user").join(dir)).expect("list");
        assert_eq!(entries.count(), 0, "in {dir}");
    }
}

#[test]
fn privileged_a_plain_user_runs_containers() {
    isolated(|place| succeeds(place, "run"));
}

#[test]
fn privileged_what_a_plain_user_lacks_is_named() {
    isolated(|place| succeeds(place, "lack"));
}

#[test]
fn privileged_containers_of_a_plain_user_can_stay() {
    isolated(|place| succeeds(place, "stay"));
}

#[test]
fn privileged_containers_of_a_plain_user_are_the_users() {
    isolated(|place| {
        let Some((server, image)) = serve_busybox(place.dir()) else {
            return;
        };
        let mut child = start(place, &image, "show");
        let pid = container_of(&mut child);
        let process = Path::new("/proc").join(pid.to_string());
        let status = fs::read_to_string(process.join("status")).expect("it runs");
        let user = PLAIN_USER.to_string();
        let uids = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .expect("users");
        assert!(uids.split_whitespace().all(|uid| uid == user), "{uids}");
        for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            let own =
                |pid: &Path| fs::read_link(pid.join("ns").join(namespace)).expect("a namespace");
            assert_ne!(own(&process), own(Path::new("/proc/self")), "{namespace}");
        }
        // A plain user may not clone mounts: what starts the container is a sealed copy in memory.
        let parent = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .expect("a parent");
        let program =
            fs::read_link(Path::new("/proc").join(parent.trim()).join("exe")).expect("a program");
        assert!(
            program.starts_with("/memfd:") || program.to_string_lossy().contains("memfd:"),
            "{program:?}"
        );
        drop(child.stdin.take());
        assert!(child.wait().expect("wait").success());
        drop(server);
        assert_nothing_runs(place);
    });
}

/// The process of the container that `child` started.
fn container_of(child: &mut Child) -> i32 {
    let stdout = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.split_once("container ").map(|(_, pid)| pid.to_owned()));
    // The rest has to be read, or the program would wait for room in the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    line.expect("the container did not start")
        .parse()
        .expect("a process")
}
