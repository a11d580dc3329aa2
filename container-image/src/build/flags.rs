//! The flags of an instruction.

use super::{Parsed, SyntaxError, with_suggestion};

/// A flag that an instruction knows, and what it was given.
pub(super) struct Flag {
    name: &'static str,
    kind: Kind,
    values: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Text,
    Texts,
}

pub(super) fn switch(name: &'static str) -> Flag {
    flag(name, Kind::Bool)
}

pub(super) fn text(name: &'static str) -> Flag {
    flag(name, Kind::Text)
}

/// May be given more than once.
pub(super) fn texts(name: &'static str) -> Flag {
    flag(name, Kind::Texts)
}

fn flag(name: &'static str, kind: Kind) -> Flag {
    Flag {
        name,
        kind,
        values: Vec::new(),
    }
}

impl Flag {
    pub(super) fn into_text(self) -> String {
        self.values.into_iter().next().unwrap_or_default()
    }

    pub(super) fn into_texts(self) -> Vec<String> {
        self.values
    }

    pub(super) fn is_on(&self) -> bool {
        self.value() == Some(true)
    }

    pub(super) fn value_or<'f>(&'f self, default: &'f str) -> &'f str {
        self.values.first().map_or(default, String::as_str)
    }

    /// `None` if it was not given.
    pub(super) fn value(&self) -> Option<bool> {
        self.values.first().map(|value| value == "true")
    }
}

/// Gives the flags of an instruction to those that it knows.
pub(super) fn parse<const N: usize>(given: &[String], mut known: [Flag; N]) -> Parsed<[Flag; N]> {
    for text in given {
        if text == "--" {
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        let fail = |what: String| Err(SyntaxError::new(what));
        let bare = name.trim_start_matches("--");
        let names: Vec<_> = known.iter().map(|flag| flag.name).collect();
        let Some(flag) = known.iter_mut().find(|flag| flag.name == bare) else {
            return Err(with_suggestion(
                format!("unknown flag: {name}"),
                bare,
                &names,
            ));
        };
        if flag.kind != Kind::Texts && !flag.values.is_empty() {
            return fail(format!("duplicate flag specified: {name}"));
        }
        let missing = format!("missing a value on flag: {name}");
        let value = match (flag.kind, value) {
            (Kind::Bool, Some("")) | (Kind::Text | Kind::Texts, None) => return fail(missing),
            (Kind::Bool, value) => match value.unwrap_or("true").to_lowercase().as_str() {
                value @ ("true" | "false") => value.to_owned(),
                _ => {
                    let value = value.unwrap_or_default();
                    return fail(format!(
                        "expecting boolean value for flag {name}, not: {value}"
                    ));
                }
            },
            (_, Some(value)) => value.to_owned(),
        };
        flag.values.push(value);
    }
    Ok(known)
}
