//! `features`.

use std::io::{self, Write};
use std::process::ExitCode;

use container_engine::container_core::runtime::features;

#[derive(clap::Args)]
pub(crate) struct Features {}

impl Features {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let text = serde_json::to_string_pretty(&features())?;
        writeln!(io::stdout(), "{text}")?;
        Ok(ExitCode::SUCCESS)
    }
}
