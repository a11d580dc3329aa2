//! Log lines as engines read them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use serde_json::json;

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// Where lines go.
#[derive(Clone)]
pub(crate) struct Log {
    /// Standard error if there is none.
    file: Option<Arc<File>>,
    format: Format,
    debug: bool,
}

impl Log {
    pub(crate) fn open(path: Option<&Path>, format: Format, debug: bool) -> anyhow::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path);
        let file = match path.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some(open(path).with_context(|| format!("open the log {path:?}"))?),
            None => None,
        };
        Ok(Self {
            file: file.map(Arc::new),
            format,
            debug,
        })
    }

    /// Says why the program fails: in the log, and to whoever called it.
    pub(crate) fn error(&self, failure: &anyhow::Error) {
        let text = format!("{failure:#}");
        self.write("error", &text);
        if self.file.is_some() {
            say(&text);
        }
    }

    pub(crate) fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    pub(crate) fn debug(&self, text: &str) {
        if self.debug {
            self.write("debug", text);
        }
    }

    fn write(&self, level: &str, text: &str) {
        let time = jiff::Timestamp::now();
        let line = match self.format {
            Format::Json => {
                json!({ "level": level, "msg": text, "time": time.to_string() }).to_string()
            }
            Format::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
        };
        match &self.file {
            // In one piece, as other processes may write there, too.
            Some(file) => drop(file.as_ref().write_all(format!("{line}\n").as_bytes())),
            None => say(&line),
        }
    }
}

/// For what fails before there is a log.
pub(crate) fn complain(failure: &anyhow::Error) -> ExitCode {
    say(&format!("{failure:#}"));
    ExitCode::FAILURE
}

fn say(line: &str) {
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}
