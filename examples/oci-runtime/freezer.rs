//! `pause` and `resume`.

use std::process::ExitCode;

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct Pause {
    /// The container
    id: String,
}

#[derive(clap::Args)]
pub(crate) struct Resume {
    /// The container
    id: String,
}

impl Pause {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        context.runtime.pause(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Resume {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        context.runtime.resume(&self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}
