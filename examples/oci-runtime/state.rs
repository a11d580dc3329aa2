//! `state`, and the form in which other verbs show states.

use std::io::{self, Write};
use std::process::ExitCode;

use container_engine::container_core::runtime;
use serde_json::{Value, json};

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct State {
    /// The container
    id: String,
}

impl State {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let state = context.runtime.state(&self.id)?;
        let text = serde_json::to_string_pretty(&document(&state))?;
        writeln!(io::stdout(), "{text}")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The state as the runtime specification has it, with what runc adds.
pub(crate) fn document(state: &runtime::State) -> Value {
    let mut document = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        // The specification asks for none then; engines expect a number.
        "pid": state.pid.unwrap_or(0),
        "status": state.status.to_string(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": created(state),
        "owner": owner(state),
    });
    if !state.annotations.is_empty() {
        document["annotations"] = json!(state.annotations);
    }
    document
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
