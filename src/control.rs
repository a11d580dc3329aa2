//! What is done to a container while it runs: pause, statistics, other limits.

use container_core::cgroup::Stats;
use oci_spec::runtime::LinuxResources;

use crate::config::{IntoBytes, RunConfig, cpus_milli};
use crate::container::{Container, State};
use crate::containers::report;
use crate::lower::Doing;
use crate::{Error, ErrorKind, Result, spec};

/// Other limits for a container; those that are not set stay.
#[must_use = "nothing happens before `apply`"]
#[derive(Debug)]
pub struct UpdateBuilder {
    container: Container,
    config: RunConfig,
    problems: Vec<Error>,
}

impl Container {
    /// Stops all processes of the container until it is [resumed](Self::resume).
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`, `AlreadyPaused`); `Unsupported` where the host has no freezer, or
    /// gives this user none.
    pub fn pause(&self) -> Result<()> {
        self.expect(State::Running, "pause", ("AlreadyPaused", "is paused"))?;
        let doing = || format!("pause container {}", self.id());
        self.cgroup()?.freeze().doing(doing)
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`, `NotPaused`).
    pub fn resume(&self) -> Result<()> {
        self.expect(State::Paused, "resume", ("NotPaused", "is not paused"))?;
        let doing = || format!("resume container {}", self.id());
        self.cgroup()?.thaw().doing(doing)
    }

    /// What the container uses, and has used since it was started.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`); `NotFound` (`CgroupUnknown`) for a plain user's container
    /// without a group.
    pub fn stats(&self) -> Result<Stats> {
        self.pid()?;
        let doing = || format!("read what container {} uses", self.id());
        self.cgroup()?.stats().doing(doing)
    }

    /// Changes the limits of a running container. One that is started later has its old ones.
    pub fn update(&self) -> UpdateBuilder {
        UpdateBuilder {
            container: self.clone(),
            config: RunConfig::default(),
            problems: Vec::new(),
        }
    }

    /// Fails unless the container runs and is in `state`; `otherwise` is the code and what to say.
    fn expect(&self, state: State, doing: &str, otherwise: (&'static str, &str)) -> Result<()> {
        let (code, what) = match self.state()? {
            now if now == state => return Ok(()),
            State::Running | State::Paused => otherwise,
            _ => ("NotRunning", "does not run"),
        };
        let what = format!("{doing} container {}, which {what}", self.id());
        Err(Error::new(ErrorKind::InvalidState, code, what))
    }
}

impl UpdateBuilder {
    /// As [`RunBuilder::memory`](crate::RunBuilder::memory).
    pub fn memory(mut self, limit: impl IntoBytes) -> Self {
        self.config.memory = limit
            .into_bytes()
            .map_err(|error| self.problems.push(error))
            .ok();
        self
    }

    /// As [`RunBuilder::memory_swap`](crate::RunBuilder::memory_swap).
    pub fn memory_swap(mut self, limit: impl IntoBytes) -> Self {
        self.config.memory_swap = limit
            .into_bytes()
            .map_err(|error| self.problems.push(error))
            .ok();
        self
    }

    /// As [`RunBuilder::cpus`](crate::RunBuilder::cpus).
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.config.cpus_milli = cpus_milli(cpus)
            .map_err(|error| self.problems.push(error))
            .ok();
        self
    }

    /// As [`RunBuilder::cpu_shares`](crate::RunBuilder::cpu_shares).
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.config.cpu_shares = Some(shares);
        self
    }

    /// As [`RunBuilder::pids_limit`](crate::RunBuilder::pids_limit).
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.config.pids = Some(limit);
        self
    }

    /// Sets the limits.
    ///
    /// # Errors
    /// `InvalidInput` for limits that are none; `InvalidState` (`NotRunning`); `Busy` if the container
    /// uses more already. Some limits may be set then and others not.
    pub fn apply(self) -> Result<()> {
        let id = self.container.id();
        let doing = || format!("change the limits of container {id}");
        report(&self.problems, doing)?;
        self.container.pid()?;
        let resources = spec::limits(LinuxResources::default(), &self.config);
        self.container.cgroup()?.update(&resources).doing(doing)
    }
}
