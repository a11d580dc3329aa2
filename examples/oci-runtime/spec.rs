//! `spec`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use container_engine::container_core::runtime::{default_spec, rootless_spec};

#[derive(clap::Args)]
pub(crate) struct Spec {
    /// The directory to write `config.json` to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// For a plain user
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let spec = match self.rootless {
            true => rootless_spec(),
            false => default_spec(),
        };
        let path = self.bundle.join("config.json");
        let mut file = File::create_new(&path).with_context(|| format!("make {path:?}"))?;
        file.write_all(&serde_json::to_vec_pretty(&spec)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
