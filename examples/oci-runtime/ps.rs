//! `ps`.

use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::Context;
use crate::list::Format;

#[derive(clap::Args)]
pub(crate) struct Ps {
    /// A table, or the numbers of the processes
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// The container
    id: String,
    /// What `ps` is to show [default: -ef]
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
        let options = match self.options.as_slice() {
            [] => &["-ef".to_owned()][..],
            options => options,
        };
        let output = Command::new("ps")
            .args(options)
            .output()
            .context("run ps")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ps failed: {}", errors.trim());
        let table = String::from_utf8_lossy(&output.stdout);
        let mut lines = table.lines();
        let titles = lines.next().unwrap_or_default();
        let column = titles.split_whitespace().position(|title| title == "PID");
        let column = column.context("find the column PID in what ps shows")?;
        writeln!(out, "{titles}")?;
        for line in lines {
            let pid = line
                .split_whitespace()
                .nth(column)
                .and_then(|pid| pid.parse().ok());
            if pid.is_some_and(|pid| pids.contains(&pid)) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
