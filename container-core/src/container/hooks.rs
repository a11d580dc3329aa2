//! The hooks of containers that have no monitor of their own to run them.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::net::RecvFlags;

use super::create::memory_file;
use super::handle::decode;
use crate::launcher::protocol::{self, Event, Job};
use crate::plan::Plan;
use crate::plan::hook::{HookSet, Stage};
use crate::{Error, ErrorKind, Launcher, Result, Supervision};

impl Launcher {
    /// Runs the `poststart` hooks of `spec` for the disowned container `id`, after its start; blocks until
    /// they have ended. Containers with a monitor need no such call.
    ///
    /// # Errors
    /// The first hook that fails (`HookFailed`, `HookTimedOut`), after which no other is run. The
    /// container is then to be killed.
    ///
    /// # References
    /// runtime-spec `config.md#poststart`.
    pub fn run_poststart_hooks(
        &self,
        spec: &Spec,
        bundle: &Path,
        id: &str,
        pid: i32,
    ) -> Result<()> {
        let set = HookSet::of(spec, Stage::Poststart, bundle, Some(id))?;
        self.run_hooks(set.map(|set| set.with_pid(pid)))
    }

    /// Runs the `poststop` hooks of `spec` for the disowned container `id`, once it is deleted; blocks
    /// until they have ended. Containers with a monitor need no such call.
    ///
    /// # Errors
    /// The hooks that fail (`HookFailed`, `HookTimedOut`), the first with the others attached as
    /// [clean-up errors](Error::cleanup_errors): a warning, as all were run, and the container is gone.
    ///
    /// # References
    /// runtime-spec `config.md#poststop`.
    pub fn run_poststop_hooks(&self, spec: &Spec, bundle: &Path, id: &str) -> Result<()> {
        self.run_hooks(HookSet::of(spec, Stage::Poststop, bundle, Some(id))?)
    }

    fn run_hooks(&self, set: Option<HookSet>) -> Result<()> {
        let Some(set) = set else { return Ok(()) };
        let job = Job {
            plan: Plan::of_hooks(set),
            supervision: Supervision::Attached,
            state: None,
            exit_record: None,
            cgroup: None,
            own_cgroup: None,
        };
        let (control, mut message) = self.ask(memory_file(&job)?.as_fd(), None, &[])?;
        let mut errors = Vec::new();
        while let Some(said) = message {
            match decode(&said.bytes)? {
                Event::HooksDone => {
                    let mut errors = errors.into_iter();
                    return match errors.next() {
                        None => Ok(()),
                        Some(first) => Err(Error::with_cleanup(first, errors)),
                    };
                }
                Event::HookWarning(failure) => errors.push(job.plan.hook_failure(&failure)),
                Event::HookFailed(failure) => return Err(job.plan.hook_failure(&failure)),
                Event::Broken { doing, errno } => {
                    return Err(Error::os(doing, std::io::Error::from_raw_os_error(errno)));
                }
                _ => break,
            }
            message = protocol::receive(control.as_fd(), RecvFlags::empty())
                .map_err(|errno| Error::os("hear from the monitor", errno))?;
        }
        let what = "run hooks: their monitor was killed";
        Err(Error::new(ErrorKind::InvalidState, "MonitorLost", what))
    }
}
