//! `start`.

use std::process::ExitCode;

use crate::Context;
use crate::notify::Notify;

#[derive(clap::Args)]
pub(crate) struct Start {
    /// The container
    id: String,
}

impl Start {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let notify = Notify::of(&context.root, &self.id)
            .map(Notify::listen)
            .transpose()?;
        context.runtime.start(&self.id)?;
        if let Some(listening) = notify {
            let pid = context.runtime.state(&self.id)?.pid;
            pid.map_or(Ok(()), |pid| listening.forward(pid))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
