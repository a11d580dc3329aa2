//! A root file system with busybox in it, specs for it, and a way to run them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use container_core::oci_spec::runtime::{
    Capabilities, Linux, LinuxNamespace, LinuxNamespaceType, Mount, Process, Spec,
};
use container_core::{Container, CreateOptions, ExitStatus, Launcher, Result, Stdio, defaults};

use super::isolate::Place;
use super::peers;

/// When a wait for what must happen is given up.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A directory to be the root of containers.
#[derive(Debug)]
pub(crate) struct Bundle {
    root: PathBuf,
}

/// How a container ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bundle {
    /// Makes `root` in the test's directory, with all applets of busybox in `/bin`; nothing if there is no busybox.
    pub(crate) fn new(place: &Place) -> Option<Self> {
        let root = place.dir().join("root");
        let busybox = peers::find("busybox")?;
        for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir_all(root.join(dir)).expect("make a directory");
        }
        fs::copy(&busybox, root.join("bin/busybox")).expect("copy busybox");
        let applets = Command::new(&busybox).arg("--list").output();
        let applets = String::from_utf8(applets.expect("run busybox").stdout).expect("ASCII");
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
        }
        let users = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/home/web:/bin/sh\n";
        fs::write(root.join("etc/passwd"), users).expect("write the users");
        let groups = "root:x:0:\nweb:x:1000:\nlogs:x:2000:web\n";
        fs::write(root.join("etc/group"), groups).expect("write the groups");
        Some(Self { root })
    }

    /// The one that a test made before, for a role.
    pub(crate) fn existing(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The directory itself, as the host has it.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The default spec with this root and this command.
    pub(crate) fn spec(&self, args: &[&str]) -> Spec {
        let mut spec = defaults::default_spec();
        let mut root = spec.root().clone().unwrap_or_default();
        root.set_path(self.root.clone());
        root.set_readonly(Some(false));
        spec.set_root(Some(root));
        edit_process(&mut spec, |process| {
            process.set_args(Some(args.iter().map(ToString::to_string).collect()));
            process.set_env(Some(vec!["PATH=/bin".into()]));
        });
        spec
    }

    /// The default spec with a shell that runs `script`.
    pub(crate) fn shell(&self, script: &str) -> Spec {
        self.spec(&["sh", "-c", script])
    }

    /// Puts this test program with its libraries into the root, as `/probe`.
    pub(crate) fn add_probe(&self) {
        let program = std::env::current_exe().expect("the path of this program");
        fs::copy(program, self.root.join("probe")).expect("copy this program");
        let maps = fs::read_to_string("/proc/self/maps").expect("read the maps");
        let mut libraries: Vec<_> = maps
            .lines()
            .filter_map(|line| line.find('/').map(|start| &line[start..]))
            .filter(|path| path.contains(".so"))
            .collect();
        libraries.sort_unstable();
        libraries.dedup();
        for library in libraries {
            let name = Path::new(library).file_name().expect("a file");
            // Where the loader looks, and where the program says that the loader is.
            for dir in ["lib", "lib64", "usr/lib"] {
                let dir = self.root.join(dir);
                fs::create_dir_all(&dir).expect("make a directory");
                fs::copy(library, dir.join(name)).expect("copy a library");
            }
        }
    }
}

/// Changes the process of `spec`.
pub(crate) fn edit_process(spec: &mut Spec, edit: impl FnOnce(&mut Process)) {
    let mut process = spec.process().clone().expect("a default spec has one");
    edit(&mut process);
    spec.set_process(Some(process));
}

/// Changes the Linux part of `spec`.
pub(crate) fn edit_linux(spec: &mut Spec, edit: impl FnOnce(&mut Linux)) {
    let mut linux = spec.linux().clone().expect("a default spec has one");
    edit(&mut linux);
    spec.set_linux(Some(linux));
}

/// Makes the process of `spec` this user.
pub(crate) fn set_user(spec: &mut Spec, uid: u32, gid: u32) {
    edit_process(spec, |process| {
        let mut user = process.user().clone();
        user.set_uid(uid);
        user.set_gid(gid);
        process.set_user(user);
    });
}

/// Gives the process exactly these capabilities (permitted, effective and bounding).
pub(crate) fn set_capabilities(spec: &mut Spec, capabilities: &Capabilities) {
    edit_process(spec, |process| {
        let mut sets = process.capabilities().clone().unwrap_or_default();
        sets.set_bounding(Some(capabilities.clone()));
        sets.set_effective(Some(capabilities.clone()));
        sets.set_permitted(Some(capabilities.clone()));
        process.set_capabilities(Some(sets));
    });
}

/// Replaces the namespace of this kind by the one at `path`, or by that of the host.
pub(crate) fn set_namespace(spec: &mut Spec, kind: LinuxNamespaceType, path: Option<&str>) {
    edit_linux(spec, |linux| {
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != kind);
        if let Some(path) = path {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind);
            namespace.set_path(Some(path.into()));
            namespaces.push(namespace);
        }
        linux.set_namespaces(Some(namespaces));
        if kind == LinuxNamespaceType::Network {
            // They belong to a network namespace of the container's own.
            linux.set_sysctl(None);
        }
    });
}

/// Adds a bind mount.
pub(crate) fn add_bind(spec: &mut Spec, source: &Path, destination: &str, options: &[&str]) {
    let mut mount = Mount::default();
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(source.to_owned()));
    mount.set_destination(destination.into());
    let options = ["rbind"].iter().chain(options);
    mount.set_options(Some(options.map(ToString::to_string).collect()));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
}

/// Options with pipes for standard output and error.
pub(crate) fn piped() -> CreateOptions {
    let mut options = CreateOptions::default();
    options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Piped];
    options
}

/// Creates and starts a container, waits for its end and collects what it wrote.
pub(crate) fn try_run(launcher: &Launcher, spec: &Spec, options: CreateOptions) -> Result<Output> {
    let mut container = launcher.create(spec, options)?;
    container.start()?;
    Ok(finish(&mut container))
}

/// As [`try_run`], for what must work.
pub(crate) fn run(launcher: &Launcher, spec: &Spec) -> Output {
    try_run(launcher, spec, piped()).expect("run a container")
}

/// Runs what must succeed, and gives its standard output without the last line break.
pub(crate) fn stdout_of(launcher: &Launcher, spec: &Spec) -> String {
    let output = run(launcher, spec);
    assert!(output.status.success(), "{output:?}");
    output.stdout.trim_end().to_owned()
}

/// Collects what a running container writes, to its end.
pub(crate) fn finish(container: &mut Container) -> Output {
    let stdout = container.take_stdout();
    let stderr = container.take_stderr();
    let read = |stream: Option<fs::File>| {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).expect("read a stream");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = std::thread::scope(|scope| {
        let errors = scope.spawn(|| read(stderr));
        (read(stdout), errors.join().expect("read standard error"))
    });
    let status = container.wait_timeout(LIMIT).expect("wait");
    Output {
        status: status.expect("the container ends in time"),
        stdout,
        stderr,
    }
}

/// Reads from a container until it has written `word`.
pub(crate) fn read_until(stream: &mut fs::File, word: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(word.as_bytes()) {
        let count = stream.read(&mut byte).expect("read a stream");
        assert!(
            count == 1,
            "the stream ended after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs `body` with a root file system, isolated.
macro_rules! with_bundle {
    ($body:expr) => {
        $crate::support::isolate::isolated(|place| {
            if let Some(bundle) = $crate::support::bundle::Bundle::new(place) {
                let body: fn(&$crate::support::isolate::Place, &$crate::support::bundle::Bundle) =
                    $body;
                body(place, &bundle);
            }
        })
    };
}
pub(crate) use with_bundle;
