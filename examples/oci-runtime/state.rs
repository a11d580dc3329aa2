//! `state`, and the form in which other verbs show states.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use container_engine::container_core::runtime;
use serde::Serialize;

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct State {
    /// The container
    id: String,
}

impl State {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let state = context.runtime.state(&self.id)?;
        let text = serde_json::to_string_pretty(&Document::of(&state))?;
        writeln!(io::stdout(), "{text}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The state as the runtime specification has it, with what runc adds; in runc's order, as scripts cut it
/// out with less than a parser.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// The specification asks for none of what has ended; engines expect a number.
    pid: i32,
    status: String,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    owner: String,
}

impl<'a> Document<'a> {
    pub(crate) fn of(state: &'a runtime::State) -> Self {
        Self {
            oci_version: &state.oci_version,
            id: &state.id,
            pid: state.pid.unwrap_or(0),
            status: state.status.to_string(),
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: created(state),
            annotations: &state.annotations,
            owner: owner(state),
        }
    }
}

/// When it was created, as RFC 3339 has it.
pub(crate) fn created(state: &runtime::State) -> String {
    jiff::Timestamp::try_from(state.created)
        .unwrap_or_default()
        .to_string()
}

/// The owner by name, or `#` and the number.
pub(crate) fn owner(state: &runtime::State) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == state.owner.to_string()).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{}", state.owner))
}
