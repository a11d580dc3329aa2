//! Run isolated processes on Linux: namespaces, cgroups, capabilities, seccomp, root file systems.
//!
//! ```no_run
//! use container_core::oci_spec::runtime::Spec;
//! use container_core::{CreateOptions, Launcher, Stdio};
//! use std::io::Read;
//!
//! let mut spec: Spec = container_core::defaults::default_spec();
//! // … set root, process.args and what else differs …
//! let launcher = Launcher::new();
//! let mut options = CreateOptions::default();
//! options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Inherit];
//! let mut container = launcher.create(&spec, options)?;
//! container.start()?;
//! let mut text = String::new();
//! container.take_stdout().expect("it is piped").read_to_string(&mut text)?;
//! println!("{text}{}", container.wait()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a process starts
//!
//! This program never forks: it may have threads. A [`Launcher`] runs it once more, from a sealed
//! descriptor and caught before `main`, as a small process of one thread. That forks a *monitor* for
//! each container, which clones the first process, *init*; init walks a [`Plan`] that was compiled
//! beforehand from an OCI spec, and executes the program. A step that fails is named in words.
//!
//! # Trust
//!
//! What is in the root file system, and what runs there, is hostile. The spec, this program and the
//! host are trusted. No path below the root is resolved by anybody but the kernel, inside the root.
//!
//! # Needs
//!
//! Linux 5.12 (`mount_setattr`); cgroup v1, v2 or both; root, or user namespaces for a plain user.
//!
//! # Terms
//!
//! *spec*: the runtime config of the OCI. *plan*: the kernel operations of one start. *launcher*,
//! *monitor*, *init*: see above. *attached*: dies with the program that created it.

mod container;
mod error;
mod feature;
mod launcher;
mod monitor;
mod netns;
mod plan;
mod signal;
mod state;
mod sys;
mod terminal;
mod top;
mod worker;

pub mod capability;
pub mod cdi;
pub mod cgroup;
pub mod defaults;
pub mod landlock;
pub mod rlimit;
pub mod runtime;
pub mod seccomp;
pub mod user;
pub mod userns;

pub use container::{
    Container, CreateOptions, ExecOptions, ExitStatus, Nsenter, Pod, PodOptions, Process, Stdio,
    Supervision,
};
pub use error::{Error, ErrorKind, Result};
pub use feature::Features;
pub use launcher::Launcher;
pub use netns::in_netns;
pub use oci_spec;
pub use plan::{CgroupEntry, Hierarchy, Plan, PlanOptions};
pub use signal::Signal;
pub use sys::role::Role;
pub use terminal::{Size, Terminal};
pub use top::{Table, top};
pub use worker::{Job, Worker, WorkerOptions};
