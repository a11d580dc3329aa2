//! `.dockerignore`.

use super::glob::{Token, matches};
use crate::{Error, Result};

/// The longest text of rules.
const MAX_SIZE: usize = 10 * 1024 * 1024;

/// Which files of a context are left out.
///
/// ```
/// use container_image::build::IgnoreRules;
///
/// let rules = IgnoreRules::parse(b"*.log\n!keep.log\n# a comment\ntarget\n")?;
/// assert!(rules.ignores("build.log"));
/// assert!(!rules.ignores("keep.log"));
/// assert!(rules.ignores("target/debug/x"));
/// # Ok::<(), container_image::Error>(())
/// ```
///
/// The last rule that says something of a file or of a directory above it counts.
///
/// # References
/// Dockerfile reference, ".dockerignore file"; where that is silent, `moby/patternmatcher`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    text: String,
    pattern: Pattern,
    /// What it matches is kept.
    keeps: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
    /// `**` and what follows, which may also be all.
    Suffix(String),
    Tokens(Vec<Token>),
}

impl IgnoreRules {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidPattern`) for patterns that cannot match and for more than 10 MiB.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > MAX_SIZE {
            let what = format!("the ignore rules are longer than {MAX_SIZE} bytes");
            return Err(Error::invalid("InvalidPattern", what));
        }
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        Self::new(lines(&String::from_utf8_lossy(text)))
    }

    /// Rules from patterns, one each.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidPattern`) for one that cannot match.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let text = pattern.as_ref().trim();
            if text.is_empty() {
                continue;
            }
            let clean = clean(text);
            let (pattern, keeps) = match clean.strip_prefix('!') {
                Some("") => return Err(invalid(text, "keeps nothing")),
                Some(pattern) => (pattern, true),
                None => (clean.as_str(), false),
            };
            check(pattern).map_err(|why| invalid(text, why))?;
            rules.push(Rule {
                pattern: Pattern::of(pattern),
                text: clean.clone(),
                keeps,
            });
        }
        Ok(Self { rules })
    }

    /// Whether the file at `path`, relative to the context, is left out.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let path = clean(path);
        if path == "." {
            return false;
        }
        let mut ignored = false;
        for rule in &self.rules {
            // It could not change anything.
            if rule.keeps == ignored && rule.matches_or_above(&path) {
                ignored = !rule.keeps;
            }
        }
        ignored
    }

    /// Whether a file below `directory` may be kept although the directory is left out, so that it has
    /// to be looked into.
    #[must_use]
    pub fn may_keep_below(&self, directory: &str) -> bool {
        let directory = clean(directory);
        self.rules
            .iter()
            .filter(|rule| rule.keeps)
            .any(|rule| match &rule.pattern {
                Pattern::Exact(path) => path.starts_with(&format!("{directory}/")),
                _ => true,
            })
    }

    /// The patterns as they are applied.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }
}

/// The patterns of a file: without comments, blanks, and slashes in front.
fn lines(text: &str) -> Vec<String> {
    let mut patterns = Vec::new();
    for line in text.lines() {
        let line = match line.starts_with('#') {
            true => continue,
            false => line.trim(),
        };
        if line.is_empty() {
            continue;
        }
        let (mark, pattern) = match line.strip_prefix('!') {
            Some(pattern) => ("!", pattern.trim()),
            None => ("", line),
        };
        let pattern = match pattern {
            "" => String::new(),
            pattern => clean(pattern),
        };
        let pattern = match pattern.strip_prefix('/') {
            Some(rest) if !rest.is_empty() => rest.to_owned(),
            _ => pattern,
        };
        patterns.push(format!("{mark}{pattern}"));
    }
    patterns
}

/// The shortest path that means the same, by its text alone.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.as_str()) {
        (true, _) => format!("/{joined}"),
        (false, "") => ".".to_owned(),
        (false, _) => joined,
    }
}

fn invalid(pattern: &str, why: &str) -> Error {
    Error::invalid("InvalidPattern", format!("the pattern {pattern:?} {why}"))
}

/// Classes have an end and no empty range; no escape ends the pattern.
fn check(pattern: &str) -> Result<(), &'static str> {
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' if chars.next().is_none() => return Err("ends with an escape"),
            '[' => drop(class(&mut chars)?),
            _ => {}
        }
    }
    Ok(())
}

/// What follows `[`.
fn class(chars: &mut std::str::Chars<'_>) -> Result<Token, &'static str> {
    const OPEN: &str = "has a class without end";
    let mut rest = chars.as_str();
    let negated = rest.starts_with('^');
    rest = rest.strip_prefix('^').unwrap_or(rest);
    let mut ranges = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(']').filter(|_| !ranges.is_empty()) {
            *chars = after.chars();
            return Ok(Token::Class { ranges, negated });
        }
        let low = one_of_class(&mut rest).ok_or(OPEN)?;
        let mut high = low;
        if let Some(after) = rest.strip_prefix('-') {
            rest = after;
            high = one_of_class(&mut rest).ok_or(OPEN)?;
        }
        if high < low {
            return Err("has a range that ends before it begins");
        }
        ranges.push((low, high));
    }
}

fn one_of_class(rest: &mut &str) -> Option<char> {
    let mut chars = rest.chars();
    let char = match chars.next()? {
        '-' | ']' => return None,
        '\\' => chars.next()?,
        char => char,
    };
    *rest = chars.as_str();
    // Something must follow, if only the end of the class.
    (!rest.is_empty()).then_some(char)
}

impl Pattern {
    fn of(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        let mut is_plain = true;
        while let Some(char) = chars.next() {
            let rest = chars.as_str();
            match char {
                '*' if rest.starts_with('*') => {
                    let after = rest[1..].strip_prefix('/').unwrap_or(&rest[1..]);
                    let at_start = rest.len() + 1 == pattern.len();
                    let is_literal = !after.contains(['*', '?', '[', ']', '\\']);
                    match after {
                        "" if at_start => return Self::Suffix(String::new()),
                        "" if is_plain => {
                            let end = pattern.len() - rest.len() - 1;
                            return Self::Prefix(pattern[..end].to_owned());
                        }
                        "" => tokens.push(Token::Many { but: '\n' }),
                        _ if at_start && is_literal => {
                            return Self::Suffix(pattern[2..].to_owned());
                        }
                        _ => tokens.extend([Token::Directories, Token::Inside]),
                    }
                    is_plain = false;
                    chars = after.chars();
                }
                '*' => (is_plain, _) = (false, tokens.push(Token::Many { but: '/' })),
                '?' => (is_plain, _) = (false, tokens.push(Token::One { but: '/' })),
                '\\' => {
                    is_plain = false;
                    tokens.push(Token::Literal(chars.next().unwrap_or('\\')));
                }
                '[' => {
                    is_plain = false;
                    tokens.push(class(&mut chars).unwrap_or(Token::Literal('[')));
                }
                char => tokens.push(Token::Literal(char)),
            }
        }
        match is_plain {
            true => Self::Exact(pattern.to_owned()),
            false => Self::Tokens(tokens),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Self::Tokens(tokens) => {
                let path: Vec<char> = path.chars().collect();
                matches(tokens, &path)
            }
        }
    }
}

impl Rule {
    fn matches_or_above(&self, path: &str) -> bool {
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        self.pattern.matches(path) || above.into_iter().any(|above| self.pattern.matches(above))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_dockers() {
        for (pattern, path, want) in [
            ("**", "file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dirx", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("a[b-d]e", "ace", true),
            ("a[^b-d]e", "ace", false),
            ("a[\\-x]", "a-", true),
            ("a\\*b", "a*b", true),
            ("*.go", "dir/a.go", false),
            ("abc.def", "abcdef", false),
            ("dir", "dir/a/b", true),
        ] {
            let rules = IgnoreRules::new([pattern]).unwrap();
            assert_eq!(rules.ignores(path), want, "{pattern} {path}");
        }
        for pattern in ["[", "[]a]", "[-]", "a[", "[^]", "!", "a[z-a]"] {
            let error = IgnoreRules::new([pattern]).unwrap_err();
            assert_eq!(error.code(), "InvalidPattern", "{pattern}");
        }
    }

    #[test]
    fn the_last_word_counts() {
        let rules = IgnoreRules::parse(b"/docs\n!docs/README.md\n  \n# x\ndocs/*.tmp\n").unwrap();
        assert!(rules.ignores("docs/a"));
        assert!(!rules.ignores("docs/README.md"));
        assert!(rules.may_keep_below("docs") && !rules.may_keep_below("other"));
    }
}
