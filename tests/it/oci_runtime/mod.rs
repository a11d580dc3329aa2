//! The example `oci-runtime`: beside other runtimes, and below engines.

mod command_line;
mod containerd;
mod docker;
mod podman;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::isolate::Place;
use crate::support::peers;

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Said {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("run a program");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Said {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// Runs what must succeed; gives what it wrote.
pub(crate) fn said_by(command: &mut Command) -> String {
    let said = run(command);
    assert_eq!(said.code, Some(0), "{command:?}: {said:?}");
    said.stdout
}

/// Makes a directory with all applets of busybox; nothing if there is no busybox.
pub(crate) fn rootfs(dir: &Path) -> Option<PathBuf> {
    let busybox = peers::find("busybox")?;
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(dir.join(name)).expect("make a directory");
    }
    fs::copy(&busybox, dir.join("bin/busybox")).expect("copy busybox");
    for applet in said_by(Command::new(&busybox).arg("--list")).lines() {
        if applet != "busybox" {
            symlink("busybox", dir.join("bin").join(applet)).expect("link an applet");
        }
    }
    fs::write(dir.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("write the users");
    Some(dir.to_owned())
}

/// The same as an archive, for engines that import one.
pub(crate) fn rootfs_archive(place: &Place) -> Option<PathBuf> {
    let rootfs = rootfs(&place.dir().join("rootfs"))?;
    Some(pack(&rootfs, &place.dir().join("rootfs.tar")))
}

/// Packs what is in `dir`.
pub(crate) fn pack(dir: &Path, archive: &Path) -> PathBuf {
    let file = fs::File::create(archive).expect("make a file");
    let mut builder = tar::Builder::new(file);
    builder.follow_symlinks(false);
    builder.append_dir_all(".", dir).expect("pack");
    builder.finish().expect("pack");
    archive.to_owned()
}

/// A bundle whose spec the runtime wrote itself, without a terminal.
pub(crate) fn bundle(place: &Place, program: &Path, name: &str) -> Option<PathBuf> {
    let bundle = place.dir().join(name);
    rootfs(&bundle.join("rootfs"))?;
    said_by(
        Command::new(program)
            .arg("spec")
            .arg("--bundle")
            .arg(&bundle),
    );
    edit(&bundle, |spec| {
        spec["process"]["terminal"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{name}", place.cgroup()));
    });
    Some(bundle)
}

/// Changes the spec of a bundle.
pub(crate) fn edit(bundle: &Path, change: impl FnOnce(&mut Value)) {
    let path = bundle.join("config.json");
    let text = fs::read(&path).expect("read the spec");
    let mut spec = serde_json::from_slice(&text).expect("parse the spec");
    change(&mut spec);
    fs::write(&path, serde_json::to_vec(&spec).expect("JSON")).expect("write the spec");
}
