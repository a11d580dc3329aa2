//! Control groups of the host, made under a parent of each test's own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio, id};

use container_core::cgroup::{Cgroup, CgroupPath, Versions, version};
use container_core::oci_spec::runtime::LinuxResources;

use super::skip;

/// Whether groups can be made here; says why not.
pub(crate) fn privileged() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return false;
    }
    match version() {
        Ok(Versions::None) | Err(_) => {
            skip("no cgroups");
            false
        }
        Ok(_) => true,
    }
}

pub(crate) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("a group")
}

/// A name that no other test and no other run has.
pub(crate) fn name(test: &str) -> CgroupPath {
    CgroupPath::below(Some(&format!("core-test-{test}-{}", id())), "one").expect("a group")
}

pub(crate) fn create(test: &str, json: &str) -> Guard {
    Guard(Cgroup::create(&name(test), &resources(json)).expect("a group"))
}

/// Removes the group whatever happens to the test.
#[derive(Debug)]
pub(crate) struct Guard(pub(crate) Cgroup);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill_all();
        let _ = self.0.remove();
    }
}

impl Guard {
    pub(crate) fn directory(&self, controller: &str) -> Option<PathBuf> {
        self.0
            .directories()
            .get(controller)
            .map(|path| path.to_path_buf())
    }

    /// Whether version 1 has `controller`, and so its files.
    pub(crate) fn has_v1(&self, controller: &str) -> bool {
        let directory = self.directory(controller);
        directory.is_some_and(|path| path.join("tasks").exists())
    }

    pub(crate) fn read(&self, controller: &str, file: &str) -> String {
        let path = self.directory(controller).expect("a group").join(file);
        fs::read_to_string(&path)
            .expect("a group")
            .trim()
            .to_owned()
    }

    /// Starts a shell that is in the group before it runs `script`.
    pub(crate) fn shell(&self, script: &str) -> Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a shell");
        self.0.add(child.id()).expect("move the shell");
        // One that ended at once reads nothing.
        let _ = child.stdin.take().expect("it is piped").write_all(b"go\n");
        child
    }
}
