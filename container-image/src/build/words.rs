//! How instructions divide what follows their name.

use super::{Parsed, SyntaxError};

/// White space between words; other than between lines, not all that Unicode calls so.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Splits off the first word; the rest begins after all blanks.
pub(super) fn split_first(text: &str) -> (&str, Option<&str>) {
    match text.split_once(BLANKS) {
        Some((first, rest)) => (first, Some(rest.trim_start_matches(BLANKS))),
        None => (text, None),
    }
}

/// Words between blanks; blanks at the end make an empty last word.
pub(super) fn split_blanks(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = Some(text).filter(|text| !text.is_empty());
    while let Some(text) = rest {
        let (word, more) = split_first(text);
        words.push(word.to_owned());
        rest = more;
    }
    words
}

/// Takes the words that begin with `--` off the front; gives them unquoted, and what follows.
pub(super) fn take_flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (flag, after) = take_flag(rest, escape);
        if flag.as_deref() == Some("--") {
            // The end of flags, where something follows it.
            return (flags, after);
        }
        flags.extend(flag);
        rest = after.trim_start();
    }
    (flags, rest)
}

/// One flag without its quotes, and what follows it.
fn take_flag(text: &str, escape: char) -> (Option<String>, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut quoted = false;
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match quote {
            None if char.is_whitespace() => {
                return ((quoted || !word.is_empty()).then_some(word), &text[at..]);
            }
            None if char == '\'' || char == '"' => (quote, quoted) = (Some(char), true),
            Some(open) if char == open => quote = None,
            // One at the very end is dropped.
            _ if char == escape => word.extend(chars.next().map(|(_, char)| char)),
            _ => word.push(char),
        }
    }
    let is_flag = word != "--" && (quoted || !word.is_empty());
    (is_flag.then_some(word), "")
}

/// Words as a shell has them, but with their quotes and escapes.
pub(super) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if quote.is_none() && char.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match quote {
            None if char == '\'' || char == '"' => quote = Some(char),
            Some(open) if char == open => quote = None,
            _ => {}
        }
        // Nothing escapes in single quotes.
        if char == escape && quote != Some('\'') {
            match chars.next() {
                Some(next) => word.extend([char, next]),
                // One at the very end is dropped.
                None => break,
            }
            continue;
        }
        word.push(char);
    }
    words.extend(word.filter(|word| !word.is_empty()));
    words
}

/// `name=value …` or the old `name value`: three words each, the last the separator.
pub(super) fn split_pairs(text: &str, instruction: &str, escape: char) -> Parsed<Vec<String>> {
    let words = split_quoted(text, escape);
    let Some(first) = words.first() else {
        return Ok(Vec::new());
    };
    if !first.contains('=') {
        let (name, Some(value)) = split_first(text) else {
            return Err(SyntaxError::new(format!(
                "{instruction} must have two arguments"
            )));
        };
        return Ok(vec![name.to_owned(), value.to_owned(), String::new()]);
    }
    let mut pairs = Vec::with_capacity(words.len() * 3);
    for word in &words {
        let Some((name, value)) = word.split_once('=') else {
            return Err(SyntaxError::new(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            )));
        };
        pairs.extend([name.to_owned(), value.to_owned(), "=".to_owned()]);
    }
    Ok(pairs)
}

/// The strings of a JSON array; `None` if the text is not one.
pub(super) fn json_strings(text: &str) -> Parsed<Option<Vec<String>>> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else {
        return Ok(None);
    };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(SyntaxError::new(
            "when using JSON array syntax, arrays must be comprised of strings only",
        )),
    });
    strings.collect::<Parsed<_>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_end_at_the_first_other_word() {
        for (text, flags, rest) in [
            ("--a=1 --b x --c", vec!["--a=1", "--b"], "x --c"),
            (r#"--a="x y" z"#, vec!["--a=x y"], "z"),
            (r"--a=\ b c", vec!["--a= b"], "c"),
            ("-- --a", vec![], " --a"),
            ("--a", vec!["--a"], ""),
            ("-a", vec![], "-a"),
        ] {
            let (got, left) = take_flags(text, '\\');
            assert_eq!(
                (got.as_slice(), left),
                (flags.map_strings().as_slice(), rest),
                "{text}"
            );
        }
    }

    trait MapStrings {
        fn map_strings(self) -> Vec<String>;
    }

    impl MapStrings for Vec<&str> {
        fn map_strings(self) -> Vec<String> {
            self.into_iter().map(str::to_owned).collect()
        }
    }

    #[test]
    fn quotes_stay_in_words() {
        let words = split_quoted(r#"a="b c" 'd e'\ f "#, '\\');
        assert_eq!(words, [r#"a="b c""#, r"'d e'\ f"]);
    }
}
