//! What a container is doing.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use oci_spec::runtime::ContainerState;

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Somebody is creating it.
    Creating,
    /// Everything is set up; the program waits for the start.
    Created,
    /// The program runs.
    Running,
    /// All its processes are stopped by the freezer.
    Paused,
    /// It has ended, or was never completed.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// A container as it is now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct State {
    /// The version of the runtime specification that its spec names.
    pub oci_version: String,
    /// Its name.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// Its first process as this PID namespace numbers it; `None` once that has ended.
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start_time: Option<u64>,
    /// The directory that relative paths of its spec are below.
    pub bundle: PathBuf,
    /// The directory of its root file system.
    pub rootfs: PathBuf,
    /// When it was created.
    pub created: SystemTime,
    /// The user who created it.
    pub owner: u32,
    /// The annotations of its spec.
    pub annotations: HashMap<String, String>,
}

impl State {
    /// The state as the runtime specification has it, which knows no paused containers: these run.
    #[must_use]
    pub fn to_oci(&self) -> oci_spec::runtime::State {
        let mut state = oci_spec::runtime::State::default();
        state.set_version(self.oci_version.clone());
        state.set_id(self.id.clone());
        state.set_status(match self.status {
            Status::Creating => ContainerState::Creating,
            Status::Created => ContainerState::Created,
            Status::Running | Status::Paused => ContainerState::Running,
            Status::Stopped => ContainerState::Stopped,
        });
        state.set_pid(self.pid);
        state.set_bundle(self.bundle.clone());
        state.set_annotations(Some(self.annotations.clone()).filter(|map| !map.is_empty()));
        state
    }
}
