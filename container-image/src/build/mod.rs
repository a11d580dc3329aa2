//! Dockerfiles: syntax, instructions, variables and ignore rules.
//!
//! ```
//! use container_image::build::{Dockerfile, Instruction};
//!
//! let file = Dockerfile::parse(b"FROM debian AS base\nRUN apt-get update\n")?;
//! let stages = file.stages()?;
//! assert_eq!(stages.list[0].name.as_deref(), Some("base"));
//! assert!(matches!(stages.list[0].steps[0].instruction, Instruction::Run(_)));
//! # Ok::<(), container_image::Error>(())
//! ```
//!
//! A text becomes [`Node`]s, one for each instruction ([`Dockerfile::parse`]); nodes become stages of
//! typed instructions ([`Dockerfile::stages`]). Values keep their variables, which [`Variables`]
//! expands when their values are known. Nothing here reads or writes a file.
//!
//! # Trust
//!
//! All of it is taken for hostile: lines have the length that BuildKit gives them, expansion is bounded
//! in size and depth, and patterns are matched in polynomial time.
//!
//! # References
//! Dockerfile reference (`docs.docker.com/reference/dockerfile`); where that is silent, BuildKit.

mod expand;
mod flags;
mod glob;
mod ignore;
mod instruction;
mod lines;
mod lint;
mod mount;
mod parser;
mod words;

pub use expand::Variables;
pub use ignore::IgnoreRules;
pub use instruction::{
    Add, Argument, CommandLine, Copy, Health, InlineFile, Instruction, Network, Pair, Run,
    Security, Stage, Stages, Step,
};
pub use lint::{Environment, Lint, LintContext, Rule};
pub use mount::{Device, Mount, MountKind, Sharing};
pub use parser::{Directive, Dockerfile, Heredoc, Node, Warning};

use crate::{Error, ErrorKind};

/// The words that are in error, with where they stand; made into an [`Error`] at the border.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong, with a suggestion where there is one.
    message: String,
    /// Counted from 1; 0 if the text as a whole is wrong.
    line: usize,
    /// Counted from 1, in characters; 0 if the line as a whole is wrong.
    column: usize,
}

impl SyntaxError {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            line: 0,
            column: 0,
        }
    }

    /// Places an error that has no place yet.
    fn at(mut self, line: usize, column: usize) -> Self {
        if self.line == 0 {
            (self.line, self.column) = (line, column);
        }
        self
    }

    /// The line of the Dockerfile, counted from 1; 0 if the text as a whole is wrong.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in that line, counted from 1 in characters; 0 if the line as a whole is wrong.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }
}

impl From<SyntaxError> for Error {
    /// `InvalidInput` (`DockerfileSyntax`); the [`SyntaxError`] is the source.
    fn from(error: SyntaxError) -> Self {
        let doing = match (error.line, error.column) {
            (0, _) => "parse the Dockerfile".to_owned(),
            (line, 0) => format!("parse line {line} of the Dockerfile"),
            (line, column) => format!("parse the Dockerfile at {line}:{column}"),
        };
        Self::new(ErrorKind::InvalidInput, "DockerfileSyntax", doing).with_source(error)
    }
}

type Parsed<T> = std::result::Result<T, SyntaxError>;

/// Adds the name among `options` that `word` was probably meant to be.
fn with_suggestion(message: String, word: &str, options: &[&str]) -> SyntaxError {
    /// Names that differ more are another word.
    const FAR: usize = 3;
    let lower = word.to_lowercase();
    let near = options
        .iter()
        .map(|option| (distance(&lower, &option.to_lowercase()), option))
        .filter(|(distance, _)| *distance < FAR)
        .min_by_key(|(distance, _)| *distance);
    match near {
        Some((1.., option)) => SyntaxError::new(format!("{message} (did you mean {option}?)")),
        _ => SyntaxError::new(message),
    }
}

/// How many characters have to be changed, added or removed (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (number, from) in left.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], number + 1);
        for (column, to) in right.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        let names = ["ARG", "ENTRYPOINT", "ENV"];
        for (word, want) in [
            ("FNTRYPOINT", "x (did you mean ENTRYPOINT?)"),
            ("AS", "x (did you mean ARG?)"),
            ("BADCMD", "x"),
            ("env", "x"),
        ] {
            let error = with_suggestion("x".into(), word, &names);
            assert_eq!(error.to_string(), want, "{word}");
        }
    }
}
