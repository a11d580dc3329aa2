//! `delete`.

use std::process::ExitCode;

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct Delete {
    /// End the container if it runs; be content if there is none
    #[arg(short, long)]
    force: bool,
    /// The container
    id: String,
}

impl Delete {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        for warning in context.runtime.delete(&self.id, self.force)? {
            context.log.warn(&warning.report());
        }
        Ok(ExitCode::SUCCESS)
    }
}
