//! `list`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use container_engine::container_core::runtime::State;

use crate::{Context, state};

#[derive(clap::Args)]
pub(crate) struct List {
    /// How the list looks
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
}

/// How a list looks.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

const TITLES: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];

impl List {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        ensure!(
            !context.root_is_given || context.root.is_dir(),
            "open {:?}: no such file or directory",
            context.root
        );
        let states = context.runtime.list().context("list containers")?;
        let mut out = io::stdout().lock();
        if self.quiet {
            for state in &states {
                writeln!(out, "{}", state.id)?;
            }
        } else if self.format == Format::Json {
            let list: Vec<_> = states.iter().map(state::Document::of).collect();
            writeln!(out, "{}", serde_json::to_string(&list)?)?;
        } else {
            write_table(&mut out, &states)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write_table(out: &mut impl Write, states: &[State]) -> io::Result<()> {
    let row = |state: &State| {
        [
            state.id.clone(),
            state.pid.unwrap_or(0).to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state::created(state),
            state::owner(state),
        ]
    };
    let mut rows = vec![TITLES.map(str::to_owned)];
    rows.extend(states.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..TITLES.len())
        .map(|column| width(column).max(9))
        .collect();
    for row in &rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}   "))
            .collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
