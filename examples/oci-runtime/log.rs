//! Log lines as engines read them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use container_engine::container_core::Error;
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
        let text = words(failure);
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

/// A failure with its causes, as engines expect it: all in lower case, which is how they tell a program
/// that is missing (`no such file or directory`) from one that may not be executed.
fn words(failure: &anyhow::Error) -> String {
    let lower = |cause: &(dyn std::error::Error + 'static)| {
        let text = cause.to_string();
        let mut letters = text.chars();
        let first = letters.next().map(|letter| letter.to_ascii_lowercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    let mut words: Vec<_> = failure.chain().map(lower).collect();
    let error = failure
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>());
    if error.is_some_and(|error| error.code() == "CommandNotFound") {
        words.push("executable file not found".to_owned());
    }
    words.join(": ")
}

/// For what fails before there is a log.
pub(crate) fn complain(failure: &anyhow::Error) -> ExitCode {
    say(&words(failure));
    ExitCode::FAILURE
}

fn say(line: &str) {
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}
