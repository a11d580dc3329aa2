//! Other OCI runtimes, given the same spec.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use container_core::oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::isolate::Place;
use super::{host, peers};

/// A runtime with a place for what it keeps.
pub(crate) struct Peer<'p> {
    place: &'p Place,
    program: PathBuf,
    name: &'static str,
}

impl<'p> Peer<'p> {
    /// The runtime `name`, if it is installed and works on this host.
    pub(crate) fn find(place: &'p Place, name: &'static str) -> Option<Self> {
        let program = peers::find(name)?;
        if name == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
            super::skip("crun refuses hosts with both versions of cgroups");
            return None;
        }
        Some(Self {
            place,
            program,
            name,
        })
    }

    /// Where the bundle of the container `id` is.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        self.place.dir().join(format!("{}-{id}", self.name))
    }

    /// Runs `spec` as the container `id` to its end.
    pub(crate) fn run(&self, spec: &Spec, id: &str) -> Output {
        let mut spec = serde_json::to_value(spec).expect("to JSON");
        self.run_json(&mut spec, id)
    }

    /// As [`Self::run`], for what the types do not say.
    pub(crate) fn run_json(&self, spec: &mut Value, id: &str) -> Output {
        let bundle = self.bundle(id);
        fs::create_dir(&bundle).expect("make the bundle");
        spec["linux"]["cgroupsPath"] = json!(format!("/{}/{}", self.place.cgroup(), self.name));
        let json = serde_json::to_vec(spec).expect("to JSON");
        fs::write(bundle.join("config.json"), json).expect("write the spec");
        let output = Command::new(&self.program)
            .arg("--root")
            .arg(self.place.dir().join(self.name))
            .args(["run", "--bundle"])
            .arg(&bundle)
            .arg(id)
            .output()
            .expect("run a peer");
        host::remove_cgroups(self.place.cgroup());
        output
    }
}
