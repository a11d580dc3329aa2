//! Variables, quotes and escapes, as in the words of a shell.

use std::fmt;

use super::glob::{Token, ends};
use super::{Parsed, SyntaxError};
use crate::Result;

/// More than any path, port or environment needs: values that double at each line stop here.
const MAX_SIZE: usize = 1024 * 1024;

/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 64;

/// The longest value that a pattern is applied to, in characters.
const MAX_MATCHED: usize = 8 * 1024;

/// What variables stand for.
type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands variables: `$name`, `${name}`, and with `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`,
/// `%%`, `/` and `//`.
///
/// ```
/// use container_image::build::Variables;
///
/// let lookup = |name: &str| (name == "version").then(|| "1.25.3".to_owned());
/// let variables = Variables::new(&lookup);
/// assert_eq!(variables.expand("nginx-${version%.*}")?, "nginx-1.25");
/// assert_eq!(variables.expand("${port:-80}")?, "80");
/// # Ok::<(), container_image::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Variables<'a> {
    lookup: &'a Lookup<'a>,
    escape: char,
    raw_quotes: bool,
    raw_escapes: bool,
    plain_quotes: bool,
    keep_unset: bool,
}

impl fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables")
            .field("escape", &self.escape)
            .field("raw_quotes", &self.raw_quotes)
            .field("keep_unset", &self.keep_unset)
            .finish_non_exhaustive()
    }
}

impl<'a> Variables<'a> {
    /// Variables with the values that `lookup` gives; `None` is unset, and expands to nothing.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            escape: '\\',
            raw_quotes: false,
            raw_escapes: false,
            plain_quotes: false,
            keep_unset: false,
        }
    }

    /// The character that takes the next one as it is: that of the Dockerfile.
    #[must_use]
    pub fn escape(mut self, escape: char) -> Self {
        self.escape = escape;
        self
    }

    /// Keeps quotes and escapes as they are, as in the content of here-documents.
    #[must_use]
    pub fn raw_text(mut self) -> Self {
        (self.plain_quotes, self.raw_escapes) = (true, false);
        self
    }

    /// Leaves words alone, with their quotes, and with or without their escapes.
    pub(super) fn raw(escapes: bool) -> Variables<'static> {
        Variables {
            raw_quotes: true,
            raw_escapes: escapes,
            keep_unset: true,
            ..Variables::new(&|_| None)
        }
    }

    pub(super) fn without_raw_quotes(mut self) -> Self {
        self.raw_quotes = false;
        self
    }

    /// Expands a word, and takes its quotes and escapes away.
    ///
    /// # Errors
    /// `InvalidInput` (`DockerfileSyntax`) for quotes and braces without end, modifiers that do not
    /// exist, a variable that `?` demands, and for what gets too long.
    pub fn expand(&self, word: &str) -> Result<String> {
        Ok(self.process(word)?.0)
    }

    /// As [`Self::expand`], divided at the blanks that are not quoted.
    ///
    /// # Errors
    /// As [`Self::expand`].
    pub fn expand_words(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.words(text)?)
    }

    pub(super) fn words(&self, text: &str) -> Parsed<Vec<String>> {
        Ok(self.process(text)?.1)
    }

    fn process(&self, text: &str) -> Parsed<(String, Vec<String>)> {
        let mut reader = Reader {
            variables: self,
            chars: text.chars().collect(),
            at: 0,
            raw_escapes: self.raw_escapes,
            depth: 0,
        };
        reader
            .until(None, self.raw_escapes)
            .map_err(|error| SyntaxError::new(format!("failed to process {text:?}: {error}")))
    }
}

struct Reader<'v> {
    variables: &'v Variables<'v>,
    chars: Vec<char>,
    at: usize,
    raw_escapes: bool,
    depth: usize,
}

/// What was read, as one text and as words.
#[derive(Default)]
struct Read {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Read {
    /// Adds what is not quoted.
    fn add(&mut self, char: char) {
        self.text.push(char);
        if !char.is_whitespace() {
            self.word.push(char);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    /// Adds what is quoted.
    fn add_raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn finish(mut self) -> (String, Vec<String>) {
        self.words
            .extend(Some(self.word).filter(|word| !word.is_empty()));
        (self.text, self.words)
    }
}

fn fail<T>(message: impl Into<String>) -> Parsed<T> {
    Err(SyntaxError::new(message))
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    /// Reads up to `stop`, which is taken too, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Parsed<(String, Vec<String>)> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        let read = self.read(stop);
        self.depth -= 1;
        self.raw_escapes = outer;
        read
    }

    fn read(&mut self, stop: Option<char>) -> Parsed<(String, Vec<String>)> {
        if self.depth > MAX_DEPTH {
            return fail("variables are nested too deep");
        }
        let mut read = Read::default();
        let quotes = !self.variables.plain_quotes;
        while let Some(char) = self.peek() {
            if Some(char) == stop {
                self.at += 1;
                return Ok(read.finish());
            }
            match char {
                '$' => self.dollar()?.chars().for_each(|char| read.add(char)),
                '<' => read.add_raw(&self.angle()),
                '\'' if quotes => read.add_raw(&self.single_quotes()?),
                '"' if quotes => read.add_raw(&self.double_quotes()?),
                _ => {
                    self.at += 1;
                    if char != self.variables.escape {
                        read.add(char);
                        continue;
                    }
                    if self.raw_escapes {
                        read.add_raw(&char.to_string());
                    }
                    let Some(escaped) = self.next() else { break };
                    read.add_raw(&escaped.to_string());
                }
            }
            if read.text.len() > MAX_SIZE {
                return fail(format!("expands to more than {MAX_SIZE} bytes"));
            }
        }
        match stop {
            Some(stop) => fail(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(read.finish()),
        }
    }

    /// A here-document may have blanks before its name, which do not divide words.
    fn angle(&mut self) -> String {
        self.at += 1;
        let mut text = String::from('<');
        if self.peek() != Some('<') {
            return text;
        }
        text.extend(self.next());
        while let Some('\t' | '\r' | ' ') = self.peek() {
            text.extend(self.next());
        }
        text
    }

    /// All is taken as it is.
    fn single_quotes(&mut self) -> Parsed<String> {
        let raw = self.variables.raw_quotes;
        let open = self.next();
        let mut text: String = open.filter(|_| raw).into_iter().collect();
        loop {
            match self.next() {
                None => {
                    return fail(
                        "unexpected end of statement while looking for matching single-quote",
                    );
                }
                Some('\'') => {
                    text.extend(raw.then_some('\''));
                    return Ok(text);
                }
                Some(char) => text.push(char),
            }
        }
    }

    /// Variables are expanded; quotes, dollars and escapes can be escaped.
    fn double_quotes(&mut self) -> Parsed<String> {
        let raw = self.variables.raw_quotes;
        let escape = self.variables.escape;
        let open = self.next();
        let mut text: String = open.filter(|_| raw).into_iter().collect();
        loop {
            match self.peek() {
                None => {
                    return fail(
                        "unexpected end of statement while looking for matching double-quote",
                    );
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some('"') => {
                    self.at += 1;
                    text.extend(raw.then_some('"'));
                    return Ok(text);
                }
                Some(char) => {
                    self.at += 1;
                    if char != escape {
                        text.push(char);
                        continue;
                    }
                    if self.raw_escapes {
                        text.push(char);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == escape => {
                            text.extend(self.next());
                        }
                        Some(_) => text.push(char),
                    }
                }
            }
            if text.len() > MAX_SIZE {
                return fail(format!("expands to more than {MAX_SIZE} bytes"));
            }
        }
    }

    fn dollar(&mut self) -> Parsed<String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match (self.variables.lookup)(&name) {
                Some(value) => value,
                None if self.variables.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return fail("syntax error: missing '}'"),
            Some('{' | '}' | ':') => return fail("syntax error: bad substitution"),
            Some(_) => {}
        }
        let name = self.name();
        let value = (self.variables.lookup)(&name);
        let kept = value.is_none() && self.variables.keep_unset;
        match self.next() {
            Some('}') if kept => Ok(format!("${{{name}}}")),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(modifier @ (':' | '+' | '-' | '?' | '#' | '%')) => {
                let (colon, modifier) = match modifier {
                    ':' => (":", self.next()),
                    other => ("", Some(other)),
                };
                let modifier = modifier.ok_or_else(missing_brace)?;
                let is_pattern = matches!(modifier, '#' | '%');
                if is_pattern && !colon.is_empty() {
                    return fail(unsupported(&format!(":{modifier}")));
                }
                let word = self.until_or('}', is_pattern, missing_brace)?;
                if kept {
                    return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
                }
                modify(&name, value, !colon.is_empty(), modifier, word)
            }
            Some('/') => {
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let missing = || SyntaxError::new("syntax error: missing '/' in ${}");
                let pattern = self.until_or('/', true, missing)?;
                let replacement = self.until_or('}', true, missing_brace)?;
                match value {
                    None if kept => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
                    value => replace(&pattern, &replacement, &value.unwrap_or_default(), all),
                }
            }
            Some(other) => fail(unsupported(&other.to_string())),
            None => Err(missing_brace()),
        }
    }

    /// As [`Self::until`]; `missing` if the text ends before `stop`.
    fn until_or(
        &mut self,
        stop: char,
        raw_escapes: bool,
        missing: fn() -> SyntaxError,
    ) -> Parsed<String> {
        match self.until(Some(stop), raw_escapes) {
            Ok((text, _)) => Ok(text),
            Err(_) if self.peek().is_none() => Err(missing()),
            Err(error) => Err(error),
        }
    }

    /// A name, a number, or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(char) if char.is_numeric() => {
                while let Some(char) = self.peek().filter(|char| char.is_numeric()) {
                    name.push(char);
                    self.at += 1;
                }
                return name;
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.extend(self.next());
                return name;
            }
            _ => {}
        }
        while let Some(char) = self
            .peek()
            .filter(|char| char.is_alphanumeric() || *char == '_')
        {
            name.push(char);
            self.at += 1;
        }
        name
    }
}

fn missing_brace() -> SyntaxError {
    SyntaxError::new("syntax error: missing '}'")
}

fn unsupported(modifier: &str) -> String {
    format!("unsupported modifier ({modifier}) in substitution")
}

/// The value of `${name…}`; `colon`: an empty value counts as unset.
fn modify(
    name: &str,
    value: Option<String>,
    colon: bool,
    modifier: char,
    word: String,
) -> Parsed<String> {
    let given = value.clone().filter(|value| !colon || !value.is_empty());
    match (modifier, given) {
        ('-', given) => Ok(given.unwrap_or(word)),
        ('+', Some(_)) => Ok(word),
        ('+', None) => Ok(String::new()),
        ('?', Some(value)) => Ok(value),
        ('?', None) => {
            let message = match (word.as_str(), value) {
                ("", None) => "is not allowed to be unset",
                ("", Some(_)) => "is not allowed to be empty",
                (word, _) => word,
            };
            fail(format!("{name}: {message}"))
        }
        ('#' | '%', _) => {
            let (greedy, pattern) = match word.strip_prefix(modifier) {
                Some(pattern) => (true, pattern),
                None => (false, word.as_str()),
            };
            trim(pattern, &value.unwrap_or_default(), modifier == '%', greedy)
        }
        (modifier, _) => {
            let colon = if colon { ":" } else { "" };
            fail(unsupported(&format!("{colon}{modifier}")))
        }
    }
}

/// Cuts what the pattern matches off the front or the end of a value.
fn trim(pattern: &str, value: &str, at_end: bool, greedy: bool) -> Parsed<String> {
    let mut tokens = tokens(pattern)?;
    let mut chars = bounded(value)?;
    if at_end {
        tokens.reverse();
        chars.reverse();
    }
    let cut = match ends(&tokens, &chars) {
        Some(ends) if greedy => ends.last,
        Some(ends) => ends.first,
        None => 0,
    };
    let mut rest = chars.split_off(cut);
    if at_end {
        rest.reverse();
    }
    Ok(rest.into_iter().collect())
}

/// Replaces the first or each longest match of the pattern.
fn replace(pattern: &str, replacement: &str, value: &str, all: bool) -> Parsed<String> {
    let tokens = tokens(pattern)?;
    let chars = bounded(value)?;
    let mut result = String::new();
    let (mut at, mut matched_at) = (0, None);
    while at <= chars.len() {
        let end = ends(&tokens, &chars[at..]).map(|ends| at + ends.last);
        // Nothing between two matches is not a match.
        if let Some(end) = end.filter(|end| *end > at || matched_at != Some(at)) {
            result.push_str(replacement);
            if !all {
                result.extend(&chars[end..]);
                return Ok(result);
            }
            matched_at = Some(end);
            if end > at {
                at = end;
                continue;
            }
        }
        result.extend(chars.get(at));
        at += 1;
        if result.len() > MAX_SIZE {
            return fail(format!("expands to more than {MAX_SIZE} bytes"));
        }
    }
    Ok(result)
}

fn bounded(value: &str) -> Parsed<Vec<char>> {
    let chars: Vec<char> = value.chars().take(MAX_MATCHED + 1).collect();
    if chars.len() > MAX_MATCHED {
        return fail(format!(
            "a pattern is applied to more than {MAX_MATCHED} characters"
        ));
    }
    Ok(chars)
}

/// `*` and `?` match within a line; a backslash takes their meaning away.
fn tokens(pattern: &str) -> Parsed<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Many { but: '\n' },
            '?' => Token::One { but: '\n' },
            '\\' => match chars.next() {
                // These end parts of the substitution, and are escaped for that only.
                Some(char @ ('}' | '/' | '*' | '?' | '\\')) => Token::Literal(char),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return fail(format!(
                        "invalid pattern ({pattern}) in substitution: invalid escape '\\{other}'"
                    ));
                }
            },
            char => Token::Literal(char),
        });
    }
    if tokens.len() > MAX_MATCHED / 8 {
        return fail("a pattern is too long");
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "PATH" => "/usr/bin:/bin",
            "FILE" => "a.tar.gz",
            "EMPTY" => "",
            "SPACE" => "a  b",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn variables_expand() {
        let variables = Variables::new(&lookup);
        for (word, want) in [
            ("$PATH!", "/usr/bin:/bin!"),
            ("${FILE%.*}", "a.tar"),
            ("${FILE%%.*}", "a"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE/a/b}", "b.tbr.gz".replacen("tbr", "tar", 1).as_str()),
            ("${FILE//a/b}", "b.tbr.gz"),
            ("${EMPTY:-x}${EMPTY-y}", "x"),
            ("${NONE:-${FILE}}", "a.tar.gz"),
            (r"\$PATH '$PATH' \'", "$PATH $PATH '"),
        ] {
            assert_eq!(variables.expand(word).unwrap(), want, "{word}");
        }
        assert_eq!(
            variables.expand_words("x$SPACE\"$SPACE\"").unwrap(),
            ["xa", "ba  b"]
        );
    }

    #[test]
    fn bombs_are_refused() {
        let big = "x".repeat(700_000);
        let lookup = |_: &str| Some(big.clone());
        let variables = Variables::new(&lookup);
        assert!(variables.expand("$a").is_ok());
        for word in ["$a$a".to_owned(), "${a//x/y}".into(), "${b+".repeat(100)] {
            assert_eq!(
                variables.expand(&word).unwrap_err().code(),
                "DockerfileSyntax"
            );
        }
    }
}
