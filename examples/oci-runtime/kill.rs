//! `kill`.

use std::process::ExitCode;

use anyhow::ensure;
use container_engine::container_core::Signal;

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct Kill {
    /// Send the signal to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// The container
    id: String,
    /// The signal, by name or number
    #[arg(default_value = "SIGTERM")]
    signal: String,
}

impl Kill {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        if self.signal == "0" {
            // No signal: the question whether there is somebody to send one to.
            let state = context.runtime.state(&self.id)?;
            ensure!(self.all || state.pid.is_some(), "container not running");
            return Ok(ExitCode::SUCCESS);
        }
        let signal: Signal = self.signal.parse()?;
        match self.all {
            true => context.runtime.kill_all(&self.id, signal)?,
            false => context.runtime.kill(&self.id, signal)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
