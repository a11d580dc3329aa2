//! The lines of a Dockerfile: comments, continuations, directives.

use super::{Parsed, SyntaxError};

/// The longest line with its end, as BuildKit has it.
const MAX_LINE: usize = 64 * 1024 - 1;

/// The lines of a text with their ends, counted.
pub(super) struct Lines<'t> {
    rest: &'t [u8],
    /// How many lines were taken.
    pub(super) number: usize,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self {
            rest: text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text),
            number: 0,
        }
    }

    /// The next line, with its end.
    pub(super) fn next(&mut self) -> Parsed<Option<String>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (line, rest) = self
            .rest
            .split_at(end.map_or(self.rest.len(), |end| end + 1));
        self.rest = rest;
        self.number += 1;
        if line.len() > MAX_LINE {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE}");
            return Err(SyntaxError::new(message).at(self.number, 0));
        }
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line.to_owned())),
            // A comment may be in any encoding; all else is handed on as it is.
            Err(_) if line.trim_ascii_start().starts_with(b"#") => {
                Ok(Some(String::from_utf8_lossy(line).into_owned()))
            }
            Err(error) => {
                let before = String::from_utf8_lossy(&line[..error.valid_up_to()]);
                let column = before.chars().count() + 1;
                Err(SyntaxError::new("text is not valid UTF-8").at(self.number, column))
            }
        }
    }
}

pub(super) fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

pub(super) fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without the escape at its end, if it goes on in the next one.
///
/// An escape that is itself escaped does not continue a line.
pub(super) fn continued(line: &str, escape: char) -> Option<&str> {
    let rest = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!rest.ends_with(escape)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_at_the_end_continues() {
        for (line, want) in [
            ("RUN a \\", Some("RUN a ")),
            ("RUN a \\ \t", Some("RUN a ")),
            ("\\", Some("")),
            ("RUN a \\\\", None),
            ("RUN a", None),
            ("RUN a \\ b", None),
        ] {
            assert_eq!(continued(line, '\\'), want, "{line}");
        }
    }
}
