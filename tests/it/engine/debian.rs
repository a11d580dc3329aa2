//! A real distribution, from a registry of others, and back to engines of others.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use container_engine::container_image::{Digest, ImageBuilder, Store};
use container_engine::{Image, PullStatus, RunBuilder};

use super::network::fetch;
use super::{open, open_at, serve_busybox, text};
use crate::support::fixtures::{Registry, debian_layout};
use crate::support::isolate::{Place, isolated};
use crate::support::peers;

/// Writes files, reads them back, and asks for a name that only `/etc/hosts` knows.
const PERL_FILES_AND_NAMES: &str = r#"
    use strict; use warnings; use Socket;
    mkdir "/srv/perl" or die "mkdir: $!";
    for my $number (1 .. 100) {
        open(my $file, ">", "/srv/perl/$number") or die "open: $!";
        print $file "line $number\n" x $number;
        close($file) or die "close: $!";
    }
    my $lines = 0;
    for my $path (glob "/srv/perl/*") {
        open(my $file, "<", $path) or die "open: $!";
        $lines++ while <$file>;
    }
    print "$lines lines\n";
    for my $name ("localhost", "db.example") {
        my $address = gethostbyname($name) or die "$name is unknown";
        print "$name ", inet_ntoa($address), "\n";
    }
"#;

/// Tells everybody who connects to port 80 from where they came.
const PERL_SERVER: &str = r#"
    use strict; use warnings; use IO::Socket::INET;
    my $server = IO::Socket::INET->new(LocalPort => 80, Listen => 5, ReuseAddr => 1) or die "listen: $@";
    while (my $client = $server->accept()) {
        print $client "perl on ", $client->sockhost, "\n";
        close($client);
    }
"#;

/// Takes memory until there is no more.
const PERL_HUNGER: &str = r#"my @all; push @all, "x" x (1 << 20) while 1;"#;

/// Leaves a `chroot` in the classic way, and says where it got to.
const PERL_ESCAPE: &str = r#"
    use strict; use warnings;
    mkdir "/cage"; mkdir "/cage/inner";
    chdir "/cage" or die "chdir: $!";
    chroot "inner" or die "chroot: $!";
    for (1 .. 100) { chdir ".." or die "chdir: $!"; }
    chroot "." or die "chroot: $!";
    print join(" ", map { -e "/$_" ? $_ : () } ("cage", @ARGV)), "\n";
    open(my $mounts, "<", "/proc/self/mountinfo") or die "open: $!";
    print scalar(grep { (split)[4] eq "/" } <$mounts>), "\n";
"#;

#[test]
fn privileged_debian_runs_from_a_registry_of_others() {
    let Some(layout) = debian_layout() else {
        return;
    };
    isolated(|place| {
        let Some(registry) = Registry::start(place.dir()) else {
            return;
        };
        let Some(name) = push_debian(&layout, &registry) else {
            return;
        };
        let engine = open(place);
        let image = engine.images().pull(&name).expect("pull");
        assert_eq!(image.pull_status(), Some(PullStatus::Downloaded));
        let run = |command: &[&str]| {
            let run = engine
                .containers()
                .run(&image)
                .network("bridge")
                .memory("200M");
            output(
                run.add_host("db.example", IpAddr::from([192, 0, 2, 7])),
                command,
            )
        };
        assert!(run(&["cat", "/etc/os-release"]).contains("VERSION_CODENAME=bookworm"));
        assert!(run(&["apt-get", "--version"]).starts_with("apt 2."));
        let perl = run(&["perl", "-e", PERL_FILES_AND_NAMES]);
        assert_eq!(
            perl,
            "5050 lines\nlocalhost 127.0.0.1\ndb.example 192.0.2.7"
        );

        // The first pull asked for config and layer once each; the second for neither.
        assert_eq!(blob_requests(&registry).len(), 2, "{}", registry.log());
        let again = engine.images().pull(&name).expect("pull again");
        assert_eq!(again.pull_status(), Some(PullStatus::UpToDate));
        assert_eq!((again.id(), again.digest()), (image.id(), image.digest()));
        assert_eq!(blob_requests(&registry).len(), 2, "{}", registry.log());
    });
}

#[test]
fn privileged_debian_serves_on_a_published_port() {
    let Some(layout) = debian_layout() else {
        return;
    };
    isolated(|place| {
        let Some(ip) = peers::find("ip") else { return };
        let Some((_registry, image)) = debian(place, &layout) else {
            return;
        };
        // An address of the host beside loopback and the bridge.
        let own = "192.0.2.1";
        let change = |verb| run(&ip, &["address", verb, &format!("{own}/32"), "dev", "lo"]);
        change("add");
        let engine = open(place);
        let server = engine
            .containers()
            .run(&image)
            .network("bridge")
            .publish("8080:80");
        let server = server
            .cmd(["perl", "-e", PERL_SERVER])
            .spawn()
            .expect("spawn");
        let address = server.address().expect("it is on a network");
        for host in ["127.0.0.1", own, "172.17.0.1"] {
            let answer = fetch(&format!("{host}:8080"));
            assert_eq!(answer, format!("perl on {address}\n"), "by {host}");
        }
        server.remove().expect("remove");
        change("delete");
    });
}

#[test]
fn privileged_debian_cannot_leave_its_root_by_chroot() {
    let Some(layout) = debian_layout() else {
        return;
    };
    isolated(|place| {
        let Some((_registry, image)) = debian(place, &layout) else {
            return;
        };
        // Outside there is a directory that the image does not have.
        let host = place.dir().strip_prefix("/").expect("absolute");
        let run = open(place).containers().run(&image).network("none");
        let host = host.to_str().expect("UTF-8");
        let escaped = output(run, &["perl", "-e", PERL_ESCAPE, host]);
        assert_eq!(
            escaped, "cage\n1",
            "out of the cage, but not out of the container"
        );
    });
}

#[test]
fn privileged_debian_over_its_memory_is_killed() {
    let Some(layout) = debian_layout() else {
        return;
    };
    isolated(|place| {
        let Some((_registry, image)) = debian(place, &layout) else {
            return;
        };
        let engine = open(place);
        let run = engine
            .containers()
            .run(&image)
            .network("none")
            .memory("64M")
            .memory_swap("64M");
        let status = run.cmd(["perl", "-e", PERL_HUNGER]).status().expect("run");
        assert_eq!((status.code(), status.oom_killed()), (137, true));
    });
}

#[test]
fn privileged_a_built_image_is_pushed_and_run_by_podman() {
    isolated(|place| {
        let (Some(registry), Some(busybox)) =
            (Registry::start(place.dir()), peers::find("busybox"))
        else {
            return;
        };
        let name = format!("{}/own/built:1", registry.address());
        let engine = open(place);
        let store = Store::open(place.dir().join("root/image")).expect("the engine's store");
        let built = ImageBuilder::new()
            .copy(busybox, "/bin/busybox")
            .file("etc/greeting", "built, pushed and run\n", 0o644)
            .entrypoint(["/bin/busybox"])
            .cmd(["cat", "/etc/greeting"])
            .name(name.parse().expect("a name"))
            .build(&store)
            .expect("build");
        assert_eq!(engine.images().push(&name).expect("push"), built.digest());
        let image = engine.images().get(&name).expect("get");
        let own = engine
            .containers()
            .run(&image)
            .network("none")
            .output()
            .expect("run");
        assert_eq!(text(&own.stdout), "built, pushed and run");
        assert_agrees(
            place,
            &registry,
            &image,
            &name,
            "built, pushed and run",
            &[],
        );
    });
}

#[test]
fn privileged_a_pulled_image_is_pushed_and_run_by_podman() {
    isolated(|place| {
        let (Some(registry), Some((server, source))) =
            (Registry::start(place.dir()), serve_busybox(place.dir()))
        else {
            return;
        };
        let engine = open(place);
        let pulled = engine.images().pull(&source).expect("pull");
        let name = format!("{}/mirror/busybox:latest", registry.address());
        let store = Store::open(place.dir().join("root/image")).expect("the engine's store");
        let stored = store
            .resolve(&source.parse().expect("a name"))
            .expect("the image");
        store
            .tag(&stored, &name.parse().expect("a name"))
            .expect("tag");
        assert_eq!(engine.images().push(&name).expect("push"), pulled.digest());
        let command = ["sh", "-c", "echo $((6 * 7))"];
        assert_agrees(place, &registry, &pulled, &name, "42", &command);
        drop(server);
    });
}

/// Pushes Debian with `skopeo` and gives its name in the registry.
fn push_debian(layout: &Path, registry: &Registry) -> Option<String> {
    let skopeo = peers::find("skopeo")?;
    let name = format!("{}/debian:bookworm", registry.address());
    let source = format!("oci:{}:latest", layout.display());
    let target = format!("docker://{name}");
    run(
        &skopeo,
        &[
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &source,
            &target,
        ],
    );
    Some(name)
}

/// Debian in the engine of `place`, with the registry that it came from.
fn debian(place: &Place, layout: &Path) -> Option<(Registry, Image)> {
    let registry = Registry::start(place.dir())?;
    let name = push_debian(layout, &registry)?;
    let image = open(place).images().pull(&name).expect("pull");
    Some((registry, image))
}

/// The blobs that were asked for, once for each time.
fn blob_requests(registry: &Registry) -> Vec<String> {
    let log = registry.log();
    let requests = log
        .lines()
        .filter_map(|line| line.split_once("\"GET /v2/"))
        .map(|(_, request)| request);
    requests
        .filter(|request| request.contains("/blobs/"))
        .map(str::to_owned)
        .collect()
}

/// Podman and skopeo see `image` under `name` as the engine does, and podman runs it.
fn assert_agrees(
    place: &Place,
    registry: &Registry,
    image: &Image,
    name: &str,
    want: &str,
    command: &[&str],
) {
    // An engine elsewhere gets the same.
    let elsewhere = open_at(&place.dir().join("elsewhere"), place.cgroup());
    let other = elsewhere.images().pull(name).expect("pull");
    assert_eq!((other.id(), other.digest()), (image.id(), image.digest()));
    drop(elsewhere);

    let (Some(skopeo), Some(podman)) = (peers::find("skopeo"), Podman::find(place)) else {
        return;
    };
    let remote = format!("docker://{name}");
    let inspect = |form: &str| run(&skopeo, &["inspect", "--tls-verify=false", form, &remote]);
    assert_eq!(inspect("--format={{.Digest}}"), image.digest().to_string());
    let config = Command::new(&skopeo)
        .args([
            "inspect",
            "--tls-verify=false",
            "--config",
            "--raw",
            &remote,
        ])
        .output()
        .expect("run skopeo");
    assert_eq!(Digest::of(&config.stdout), image.id());

    let policy = format!(
        "--signature-policy={}",
        podman.dir.join("policy.json").display()
    );
    let run = [
        "run",
        "--rm",
        "--cgroups=disabled",
        "--network=none",
        "--tls-verify=false",
        &policy,
        name,
    ];
    let ran = podman.run(&[&run, command].concat());
    assert_eq!(ran, want, "{}", registry.log());
    let id = podman.run(&[
        "image",
        "inspect",
        "--format=sha256:{{.Id}} {{.Digest}}",
        name,
    ]);
    assert_eq!(id, format!("{} {}", image.id(), image.digest()));
}

/// Podman with all that it keeps below the place of a test.
struct Podman {
    program: PathBuf,
    dir: PathBuf,
}

impl Podman {
    fn find(place: &Place) -> Option<Self> {
        let program = peers::find("podman")?;
        peers::find("crun")?;
        let dir = place.dir().join("podman");
        fs::create_dir(&dir).expect("make a directory");
        // The limits that podman would set are more than a confined root may.
        let settings = "[engine]\nruntime = \"crun\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
                        [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        for (file, content) in [
            ("containers.conf", settings),
            ("registries.conf", ""),
            ("policy.json", policy),
        ] {
            fs::write(dir.join(file), content).expect("write a setting");
        }
        Some(Self { program, dir })
    }

    /// Runs podman and gives what it says.
    ///
    /// Of control groups it sees version 2 alone: crun refuses a host with both, though it is to use none.
    fn run(&self, arguments: &[&str]) -> String {
        let view = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
        let path = |name: &str| self.dir.join(name);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation=private", "sh", "-c", view, "sh"])
            .arg(&self.program);
        for (flag, name) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(path(name));
        }
        let output = command
            .arg("--storage-driver=vfs")
            .args(arguments)
            .env("CONTAINERS_CONF", path("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", path("registries.conf"))
            .output()
            .expect("run podman");
        assert!(
            output.status.success(),
            "podman {arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}

/// Runs the container to its end and gives what it wrote.
fn output(run: RunBuilder, command: &[&str]) -> String {
    let output = run.cmd(command.iter().copied()).output().expect("run");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a program of the host and gives what it wrote.
fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("run");
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}
