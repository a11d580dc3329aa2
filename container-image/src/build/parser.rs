//! From text to nodes, one for each instruction.

use std::fmt;

use super::expand::Variables;
use super::lines::{Lines, continued, is_comment, without_end};
use super::words::{
    json_strings, split_blanks, split_first, split_pairs, split_quoted, take_flags,
};
use super::{Parsed, SyntaxError};
use crate::Result;

/// The text of a Dockerfile, divided into instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    nodes: Vec<Node>,
    directives: Vec<Directive>,
    escape: char,
    warnings: Vec<Warning>,
}

/// An instruction with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Node {
    /// The name of the instruction as it was written.
    pub name: String,
    /// `--name` and `--name=value`, unquoted.
    pub flags: Vec<String>,
    /// What follows, divided as the instruction wants it; of `ENV` and `LABEL` name, value and `=` (or
    /// nothing, for the old form without it) in turn.
    pub args: Vec<String>,
    /// Whether the arguments were a JSON array.
    pub is_json: bool,
    /// The instruction after `ONBUILD`.
    pub trigger: Option<Box<Node>>,
    /// The here-documents that follow the line.
    pub heredocs: Vec<Heredoc>,
    /// The line with its continuations, without comments.
    pub original: String,
    /// The first line, counted from 1; 0 for a trigger.
    pub start_line: usize,
    /// The last line.
    pub end_line: usize,
    /// The comments directly above, without their mark.
    pub comments: Vec<String>,
}

/// Text given below an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether variables in it are expanded: its name was not quoted.
    pub expand: bool,
    /// Whether tabs in front of its lines are to be dropped (`<<-`).
    pub chomp: bool,
    /// The number before `<<`; 0 if there is none.
    pub descriptor: u64,
    /// The lines, as they were written.
    pub content: String,
}

/// `# name=value` on top of the file: `syntax`, `escape` or `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directive {
    /// In lower case.
    pub name: String,
    /// What follows the equals sign.
    pub value: String,
    /// Counted from 1.
    pub line: usize,
}

/// Something that works, but will not for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// What is the matter.
    pub message: String,
    /// Counted from 1.
    pub line: usize,
}

/// How an instruction divides its arguments.
#[derive(Clone, Copy)]
enum Form {
    /// The rest of the line.
    Text,
    /// Words between blanks.
    Blanks,
    /// Words with their quotes.
    Quoted,
    Pairs,
    /// A JSON array, or the rest of the line.
    JsonOrText,
    /// A JSON array, or words between blanks.
    JsonOrBlanks,
    /// A word and a command.
    Health,
    /// Another instruction.
    Trigger,
    /// Not an instruction: found out when it is looked at.
    Unknown,
}

impl Form {
    fn of(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "add" | "copy" | "volume" => Self::JsonOrBlanks,
            "arg" => Self::Quoted,
            "cmd" | "entrypoint" | "run" | "shell" => Self::JsonOrText,
            "env" | "label" => Self::Pairs,
            "expose" | "from" => Self::Blanks,
            "healthcheck" => Self::Health,
            "maintainer" | "stopsignal" | "user" | "workdir" => Self::Text,
            "onbuild" => Self::Trigger,
            _ => Self::Unknown,
        }
    }
}

impl Dockerfile {
    /// Divides a text into instructions.
    ///
    /// # Errors
    /// `InvalidInput` (`DockerfileSyntax`) with line and column, if the text holds no instruction, a
    /// directive that is no good, a here-document without end, or arguments that cannot be divided.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(Parser::new(text).parse()?)
    }

    /// The instructions in their order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The directives on top of the file.
    #[must_use]
    pub fn directives(&self) -> &[Directive] {
        &self.directives
    }

    /// What escapes, and continues lines: a backslash, unless the directive `escape` says otherwise.
    #[must_use]
    pub fn escape(&self) -> char {
        self.escape
    }

    /// What the parser has to complain of.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// The nodes as nested lists, as BuildKit's parser shows them.
impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}({node})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.to_lowercase())?;
        if !self.flags.is_empty() {
            let flags: Vec<_> = self.flags.iter().map(|flag| quoted(flag)).collect();
            write!(f, " [{}]", flags.join(" "))?;
        }
        if let Some(trigger) = &self.trigger {
            return write!(f, " ({trigger})");
        }
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// The text in double quotes, with the escapes of Go's `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\0'..' ' | '\u{7f}' => quoted.push_str(&format!("\\x{:02x}", u32::from(char))),
            '\u{80}'..='\u{a0}' | '\u{ad}' => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

struct Parser<'t> {
    lines: Lines<'t>,
    directives: Vec<Directive>,
    /// Whether a directive may still come.
    on_top: bool,
    escape: char,
    warnings: Vec<Warning>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self {
            lines: Lines::new(text),
            directives: Vec::new(),
            on_top: true,
            escape: '\\',
            warnings: Vec::new(),
        }
    }

    fn parse(mut self) -> Parsed<Dockerfile> {
        let mut nodes = Vec::new();
        let mut comments = Vec::new();
        while let Some(line) = self.lines.next()? {
            let line = without_end(&line).trim_start();
            if self.take_directive(line)? {
                continue;
            }
            if is_comment(line) {
                match line[1..].trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            if line.is_empty() {
                continue;
            }
            let start = self.lines.number;
            let original = self.join(line)?;
            let mut node = self
                .node(&original)
                .map_err(|error| error.at(start, column_of_arguments(&original)))?;
            node.heredocs = self.heredocs(&node).map_err(|error| error.at(start, 0))?;
            node.comments = std::mem::take(&mut comments);
            (node.start_line, node.end_line) = (start, self.lines.number);
            nodes.push(node);
        }
        if nodes.is_empty() {
            let error = SyntaxError::new("file with no instructions");
            return Err(error.at(self.lines.number.max(1), 0));
        }
        Ok(Dockerfile {
            nodes,
            directives: self.directives,
            escape: self.escape,
            warnings: self.warnings,
        })
    }

    /// Takes the line if it is a directive; they come before all else.
    fn take_directive(&mut self, line: &str) -> Parsed<bool> {
        let line_number = self.lines.number;
        let fail = |message: String| Err(SyntaxError::new(message).at(line_number, 0));
        let directive = line.strip_prefix('#').and_then(directive);
        let Some((name, value)) = directive.filter(|_| self.on_top) else {
            self.on_top = false;
            return Ok(false);
        };
        if self.directives.iter().any(|seen| seen.name == name) {
            return fail(format!("only one {name} parser directive can be used"));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                other => {
                    return fail(format!(
                        "invalid escape token '{other}' does not match ` or \\"
                    ));
                }
            };
        }
        self.directives.push(Directive {
            name,
            value: value.to_owned(),
            line: line_number,
        });
        Ok(true)
    }

    /// Adds the lines that continue `line`.
    fn join(&mut self, line: &str) -> Parsed<String> {
        let mut joined = String::new();
        let mut has_empty = false;
        let mut open = match continued(line, self.escape) {
            Some(part) => {
                joined.push_str(part);
                true
            }
            None => {
                joined.push_str(line);
                false
            }
        };
        while open {
            let Some(line) = self.lines.next()? else {
                break;
            };
            let line = without_end(&line);
            if is_comment(line) {
                continue;
            }
            if line.trim().is_empty() {
                has_empty = true;
                continue;
            }
            let part = continued(line, self.escape);
            open = part.is_some();
            joined.push_str(part.unwrap_or(line));
        }
        if has_empty {
            self.warnings.push(Warning {
                message: format!("Empty continuation line found in: {joined}"),
                line: self.lines.number,
            });
        }
        Ok(joined)
    }

    fn node(&self, original: &str) -> Parsed<Node> {
        let (name, rest) = split_first(original.trim());
        let (flags, rest) = take_flags(rest.unwrap_or_default(), self.escape);
        let mut node = Node {
            name: name.to_owned(),
            flags,
            original: original.to_owned(),
            ..Node::default()
        };
        let text = rest.trim();
        let one = |text: &str| match text {
            "" => Vec::new(),
            text => vec![text.to_owned()],
        };
        let form = Form::of(name);
        let (json, words) = match form {
            Form::Text => (None, one(text)),
            Form::Blanks => (None, split_blanks(text)),
            Form::Quoted => (None, split_quoted(text, self.escape)),
            Form::Pairs => (None, split_pairs(text, &name.to_uppercase(), self.escape)?),
            Form::JsonOrText => (json_strings(text)?, one(text)),
            Form::JsonOrBlanks => (json_strings(text)?, split_blanks(text)),
            Form::Health => {
                let (kind, command) = match text.split_once(char::is_whitespace) {
                    Some((kind, command)) => (kind, command.trim_start()),
                    None => (text, ""),
                };
                let json = json_strings(command)?;
                let prefixed = |words: Vec<String>| [one(kind), words].concat();
                (json.map(prefixed), prefixed(one(command)))
            }
            Form::Trigger if text.is_empty() => (None, Vec::new()),
            Form::Trigger => {
                let trigger = self.trigger(text)?;
                node.trigger = Some(Box::new(trigger));
                (None, Vec::new())
            }
            Form::Unknown => (None, vec![String::new()]),
        };
        node.is_json = json.is_some();
        node.args = json.unwrap_or(words);
        Ok(node)
    }

    /// The instruction after `ONBUILD`; a chain of those ends at the second, as none may follow.
    fn trigger(&self, text: &str) -> Parsed<Node> {
        let (name, _) = split_first(text);
        if matches!(Form::of(name), Form::Trigger) {
            return Ok(Node {
                name: name.to_owned(),
                original: text.to_owned(),
                ..Node::default()
            });
        }
        self.node(text)
    }

    /// Reads the here-documents that `node` announces.
    fn heredocs(&mut self, node: &Node) -> Parsed<Vec<Heredoc>> {
        let holder = node.trigger.as_deref().unwrap_or(node);
        let may = matches!(
            holder.name.to_ascii_lowercase().as_str(),
            "add" | "copy" | "run"
        );
        if !may || holder.is_json || !node.original.contains("<<") {
            return Ok(Vec::new());
        }
        let mut heredocs = announced(&node.original)?;
        for heredoc in &mut heredocs {
            loop {
                let Some(line) = self.lines.next()? else {
                    return Err(SyntaxError::new("unterminated heredoc"));
                };
                let text = without_end(&line);
                let text = match heredoc.chomp {
                    true => text.trim_start_matches('\t'),
                    false => text,
                };
                if text == heredoc.name {
                    break;
                }
                heredoc.content.push_str(&line);
            }
        }
        Ok(heredocs)
    }
}

/// Name and value, if a comment is a directive.
fn directive(comment: &str) -> Option<(String, &str)> {
    let (name, value) = comment.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    let value = value.trim();
    let is_known = matches!(name.as_str(), "syntax" | "escape" | "check");
    (is_known && !value.is_empty()).then_some((name, value))
}

/// The column of what follows the name of the instruction.
fn column_of_arguments(original: &str) -> usize {
    let (name, rest) = split_first(original);
    match rest {
        Some(rest) => original[..original.len() - rest.len()].chars().count() + 1,
        None => name.chars().count() + 1,
    }
}

/// The here-documents that a line announces, without their content.
fn announced(line: &str) -> Parsed<Vec<Heredoc>> {
    let words = Variables::raw(true).words(line).unwrap_or_default();
    let mut heredocs = Vec::new();
    for word in words {
        heredocs.extend(heredoc(&word)?);
    }
    Ok(heredocs)
}

/// What a word like `<<EOF`, `3<<-"EOF"` announces.
pub(super) fn heredoc(word: &str) -> Parsed<Option<Heredoc>> {
    let digits = word.len()
        - word
            .trim_start_matches(|char: char| char.is_ascii_digit())
            .len();
    let (descriptor, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else {
        return Ok(None);
    };
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if name.is_empty() || name.contains('<') {
        return Ok(None);
    }
    let plain = Variables::raw(false).without_raw_quotes().words(name)?;
    let [plain] = plain.as_slice() else {
        return Ok(None);
    };
    let raw = Variables::raw(false).words(name)?.concat();
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        name: plain.clone(),
        expand: quotes(plain) == quotes(&raw),
        chomp,
        descriptor: descriptor.parse().unwrap_or(0),
        content: String::new(),
    }))
}
