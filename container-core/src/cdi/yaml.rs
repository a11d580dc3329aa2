//! The part of YAML that CDI files are written in, as JSON values.
//!
//! Collections in block form, and in flow form on one line; scalars of one line, plain or quoted. What
//! else YAML has (anchors, tags, block text, complex keys, several documents) is an error, so that
//! nothing is understood in another way than it was meant.

use serde_json::{Map, Number, Value};

use super::file::invalid;
use crate::Result;

/// How deep collections may lie in each other.
const MAX_DEPTH: usize = 64;

/// A line with something in it.
#[derive(Clone, Copy)]
struct Line<'t> {
    number: usize,
    indent: usize,
    text: &'t str,
}

struct Parser<'t> {
    lines: Vec<Line<'t>>,
    next: usize,
}

pub(super) fn parse(text: &str) -> Result<Value> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let content = line.trim_start_matches(' ');
        let indent = line.len() - content.len();
        let content = content.trim_end();
        match content {
            "---" if indent == 0 && lines.is_empty() => continue,
            "---" | "..." if indent == 0 => return Err(at(number, "only one document is read")),
            _ if content.is_empty() || content.starts_with('#') => continue,
            _ if content.starts_with('\t') => return Err(at(number, "a tab is no indentation")),
            _ if content.starts_with('%') => return Err(at(number, "directives are not read")),
            _ => {}
        }
        lines.push(Line {
            number,
            indent,
            text: content,
        });
    }
    let mut parser = Parser { lines, next: 0 };
    let Some(first) = parser.peek() else {
        return Err(invalid("it is empty"));
    };
    let value = parser.block(first.indent, MAX_DEPTH)?;
    match parser.peek() {
        Some(line) => Err(at(
            line.number,
            "this line is indented in another way than those before",
        )),
        None => Ok(value),
    }
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<Line<'t>> {
        self.lines.get(self.next).copied()
    }

    /// The collection, or single scalar, whose lines begin at `indent`.
    fn block(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let Some(line) = self.peek() else {
            return Ok(Value::Null);
        };
        let Some(depth) = depth.checked_sub(1) else {
            return Err(at(line.number, "it is nested too deeply"));
        };
        if item(line.text).is_some() {
            return self.sequence(indent, depth);
        }
        match split_key(line)? {
            Some(_) => self.mapping(indent, depth),
            None => {
                self.next += 1;
                scalar(line.text, line.number)
            }
        }
    }

    fn sequence(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut values = Vec::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            let Some(rest) = item(line.text) else { break };
            if rest.is_empty() {
                self.next += 1;
                values.push(self.nested(indent + 1, depth)?);
                continue;
            }
            // What follows the dash is a line of its own, which begins where it stands.
            let inner = indent + line.text.len() - rest.len();
            self.lines[self.next] = Line {
                indent: inner,
                text: rest,
                ..line
            };
            values.push(self.block(inner, depth)?);
        }
        Ok(Value::Array(values))
    }

    fn mapping(&mut self, indent: usize, depth: usize) -> Result<Value> {
        let mut map = Map::new();
        while let Some(line) = self.peek().filter(|line| line.indent == indent) {
            let Some((key, rest)) = split_key(line)? else {
                return Err(at(line.number, "there is no key"));
            };
            self.next += 1;
            let value = if !rest.is_empty() {
                scalar(rest, line.number)?
            } else if self
                .peek()
                .is_some_and(|next| next.indent == indent && item(next.text).is_some())
            {
                // A list may stand as far left as its key.
                self.block(indent, depth)?
            } else {
                self.nested(indent + 1, depth)?
            };
            if map.insert(key.clone(), value).is_some() {
                return Err(at(line.number, &format!("{key:?} is there twice")));
            }
        }
        Ok(Value::Object(map))
    }

    /// What is indented by at least `indent`; nothing is null.
    fn nested(&mut self, indent: usize, depth: usize) -> Result<Value> {
        match self.peek().filter(|line| line.indent >= indent) {
            Some(line) => self.block(line.indent, depth),
            None => Ok(Value::Null),
        }
    }
}

/// What follows the dash of an item of a list.
fn item(text: &str) -> Option<&str> {
    let rest = text.strip_prefix('-')?;
    if rest.is_empty() || rest.starts_with(' ') {
        let rest = rest.trim_start();
        return Some(if rest.starts_with('#') { "" } else { rest });
    }
    None
}

/// Splits `key: rest`.
fn split_key(line: Line<'_>) -> Result<Option<(String, &str)>> {
    let text = line.text;
    let (key, rest) = if text.starts_with(['"', '\'']) {
        let (key, rest) = quoted(text, line.number)?;
        match rest.trim_start().strip_prefix(':') {
            Some(rest) if rest.is_empty() || rest.starts_with(' ') => (key, rest),
            _ => return Ok(None),
        }
    } else if text.starts_with(['[', '{']) {
        return Ok(None);
    } else {
        let end = text
            .match_indices(':')
            .find(|(at, _)| matches!(text.as_bytes().get(at + 1), None | Some(b' ')));
        let Some((end, _)) = end else { return Ok(None) };
        let Value::String(key) = plain(&text[..end], line.number)? else {
            return Err(at(line.number, "a key has to be text"));
        };
        (key, &text[end + 1..])
    };
    let rest = rest.trim_start();
    Ok(Some((key, if rest.starts_with('#') { "" } else { rest })))
}

/// The value that is the rest of a line.
fn scalar(text: &str, number: usize) -> Result<Value> {
    let (value, rest) = if text.starts_with(['[', '{', '"', '\'']) {
        flow(text, number, MAX_DEPTH)?
    } else {
        let end = text.find(" #").unwrap_or(text.len());
        (plain(&text[..end], number)?, "")
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(value);
    }
    Err(at(
        number,
        &format!("{rest:?} follows the end of the value"),
    ))
}

/// A value in flow form, and what comes after it.
fn flow(text: &str, number: usize, depth: usize) -> Result<(Value, &str)> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(at(number, "it is nested too deeply"));
    };
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('[') {
        let mut values = Vec::new();
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix(']') {
                return Ok((Value::Array(values), rest));
            }
            let (value, after) = flow(rest, number, depth)?;
            values.push(value);
            rest = next_of_flow(after, ']', number)?;
        }
    }
    if let Some(mut rest) = text.strip_prefix('{') {
        let mut map = Map::new();
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return Ok((Value::Object(map), rest));
            }
            let (Value::String(key), after) = flow(rest, number, depth)? else {
                return Err(at(number, "a key has to be text"));
            };
            let Some(after) = after.trim_start().strip_prefix(':') else {
                return Err(at(number, &format!("{key:?} has no value")));
            };
            let (value, after) = flow(after, number, depth)?;
            if map.insert(key.clone(), value).is_some() {
                return Err(at(number, &format!("{key:?} is there twice")));
            }
            rest = next_of_flow(after, '}', number)?;
        }
    }
    if text.starts_with(['"', '\'']) {
        let (text, rest) = quoted(text, number)?;
        return Ok((Value::String(text), rest));
    }
    let ends = |(at, letter): &(usize, char)| match letter {
        ',' | '[' | ']' | '{' | '}' => true,
        ':' => matches!(text.as_bytes().get(at + 1), None | Some(b' ')),
        _ => false,
    };
    let end = text
        .char_indices()
        .find(ends)
        .map_or(text.len(), |(at, _)| at);
    Ok((plain(&text[..end], number)?, &text[end..]))
}

/// Goes past the comma between two parts of a collection, or to its end.
fn next_of_flow(text: &str, end: char, number: usize) -> Result<&str> {
    let text = text.trim_start();
    match text.strip_prefix(',') {
        Some(rest) => Ok(rest),
        None if text.starts_with(end) => Ok(text),
        None => Err(at(number, &format!("{end:?} is missing"))),
    }
}

/// A quoted text, and what comes after it.
fn quoted(text: &str, number: usize) -> Result<(String, &str)> {
    if let Some(inner) = text.strip_prefix('\'') {
        let mut value = String::new();
        let mut rest = inner;
        while let Some((before, after)) = rest.split_once('\'') {
            value.push_str(before);
            match after.strip_prefix('\'') {
                Some(after) => {
                    value.push('\'');
                    rest = after;
                }
                None => return Ok((value, after)),
            }
        }
        return Err(at(number, "a quote has no end"));
    }
    // With double quotes it is as in JSON, but for some escapes that are errors here.
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match strings.next() {
        Some(Ok(value)) => Ok((value, &text[strings.byte_offset()..])),
        _ => Err(at(number, "a quoted text is malformed")),
    }
}

/// A plain scalar: a number, a truth value, nothing, or text.
fn plain(text: &str, number: usize) -> Result<Value> {
    let text = text.trim();
    if text.starts_with(['&', '*', '!', '|', '>', '%', '@', '`', '?', ',', ']', '}']) {
        return Err(at(
            number,
            &format!("{text:?} is of a form that is not read"),
        ));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => integer(text).map_or_else(|| Value::String(text.into()), Value::Number),
    })
}

/// Modes are written in octal: with a leading 0, as YAML 1.1 has it, or 0o.
fn integer(text: &str) -> Option<Number> {
    let digits = |text: &str, radix| {
        let plain = text.starts_with(|it: char| it.is_ascii_hexdigit());
        plain.then(|| i64::from_str_radix(text, radix).ok())?
    };
    let value = match text.as_bytes() {
        [b'0', b'x', ..] => digits(&text[2..], 16),
        [b'0', b'o', ..] => digits(&text[2..], 8),
        [b'0', _, ..] => digits(&text[1..], 8),
        [b'-', ..] => digits(&text[1..], 10).map(|value| -value),
        _ => digits(text, 10),
    };
    value.map(Number::from)
}

fn at(line: usize, what: &str) -> crate::Error {
    invalid(format!("line {line}: {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cdi_files_have_is_read() {
        for (text, want) in [
            (
                "---\na: 1\n# note\nb: two words # note\n",
                json!({"a": 1, "b": "two words"}),
            ),
            (
                "- a\n- - b\n  - c\n-\n  d: e\n",
                json!(["a", ["b", "c"], {"d": "e"}]),
            ),
            (
                "list:\n- name: \"0\"\n  edits:\n    env:\n    - A=b c\n    - 'it''s'\n- name: x\nend: ~\n",
                json!({"list": [{"name": "0", "edits": {"env": ["A=b c", "it's"]}}, {"name": "x"}],
                    "end": null}),
            ),
            (
                "a: [1, two, \"3\", [], {b: c, 'd': -4}]\ne: {}\nf:\n",
                json!({"a": [1, "two", "3", [], {"b": "c", "d": -4}], "e": {}, "f": null}),
            ),
            (
                "mode: 0666\nother: 0o20\nhex: 0x10\nversion: 0.5.0\nurl: http://x/y#z\nt: true\n",
                json!({"mode": 0o666, "other": 16, "hex": 16, "version": "0.5.0",
                    "url": "http://x/y#z", "t": true}),
            ),
            ("\"quoted key\": \"a\\tb\"\n", json!({"quoted key": "a\tb"})),
            (
                "a:\n  b:\n    - c\n  d: e\n",
                json!({"a": {"b": ["c"], "d": "e"}}),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "",
            "a: &x 1\n",
            "a: *x\n",
            "a: !!str 1\n",
            "a: |\n  text\n",
            "a: >\n  text\n",
            "a: 1\na: 2\n",
            "a: 1\n  b: 2\n",
            "a:\n\tb: 1\n",
            "a: [1, 2\n",
            "a: {b: 1\n",
            "a: \"x\n",
            "a: 'x\n",
            "a: 'x' y\n",
            "a: 1\n---\nb: 2\n",
            "a: 1\nplain\n",
            "%YAML 1.2\n",
            "? a\n",
            "1: a\n",
        ] {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
        let deep = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).is_err());
        let deep: String = (0..1000)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        assert!(parse(&deep).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
    }

    #[test]
    fn bytes_without_sense_do_no_harm() {
        let alphabet: Vec<char> = "ab: -[]{}'\"#\n,&\\0é".chars().collect();
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..24 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push(alphabet[(state >> 16) as usize % alphabet.len()]);
            }
            let _ = parse(&text);
        }
    }
}
