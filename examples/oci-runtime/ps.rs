//! `ps`.

use std::io::{self, Write};
use std::process::ExitCode;

use container_engine::container_core::top;

use crate::Context;
use crate::list::Format;

#[derive(clap::Args)]
pub(crate) struct Ps {
    /// A table, or the numbers of the processes
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// The container
    id: String,
    /// What to show, as `ps` has it [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

impl Ps {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let pids = context.runtime.processes(&self.id)?;
        let mut out = io::stdout().lock();
        if self.format == Format::Json {
            writeln!(out, "{}", serde_json::to_string(&pids)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        write!(out, "{}", top(&pids, &self.options)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
