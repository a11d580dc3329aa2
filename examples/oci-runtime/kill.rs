//! `kill`.

use std::process::ExitCode;

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
        let signal: Signal = self.signal.parse()?;
        match self.all {
            true => context.runtime.kill_all(&self.id, signal)?,
            false => context.runtime.kill(&self.id, signal)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
