//! From nodes to stages of typed instructions.

use std::time::Duration;

use super::parser::{Dockerfile, Heredoc, Node, heredoc};
use super::{Device, Mount, Parsed, SyntaxError, flags, with_suggestion};
use crate::Result;

/// The names of all instructions.
const INSTRUCTIONS: [&str; 18] = [
    "ARG",
    "ADD",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What a Dockerfile builds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stages {
    /// The `ARG`s before the first `FROM`.
    pub arguments: Vec<Argument>,
    /// In the order of the file.
    pub list: Vec<Stage>,
}

/// `FROM` with the instructions up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stage {
    /// What it starts from: an image, another stage, `scratch`; may hold variables.
    pub base: String,
    /// The name after `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`; may hold variables.
    pub platform: String,
    /// The line of `FROM`, counted from 1.
    pub line: usize,
    /// What is done in it.
    pub steps: Vec<Step>,
}

/// An instruction of a stage, with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// What is to be done.
    pub instruction: Instruction,
    /// Its text, as history shows it.
    pub original: String,
    /// Counted from 1.
    pub line: usize,
}

/// An instruction other than `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "the names are those of the Dockerfile reference"
)]
pub enum Instruction {
    Add(Add),
    Arg(Vec<Argument>),
    Cmd(CommandLine),
    Copy(Copy),
    Entrypoint(CommandLine),
    Env(Vec<Pair>),
    Expose(Vec<String>),
    Healthcheck(Health),
    Label(Vec<Pair>),
    Maintainer(String),
    /// The instruction to be carried out in images built from this one.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A build argument, with its default.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its default, with quotes and variables.
    pub default: Option<String>,
    /// What a comment above that begins with its name says of it.
    pub description: Option<String>,
}

/// A name and a value, with quotes and variables.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pair {
    /// Before the equals sign.
    pub name: String,
    /// Behind it.
    pub value: String,
    /// `name value`, the old form, in which the value is the rest of the line.
    pub is_legacy: bool,
}

/// The command of `RUN`, `CMD`, `ENTRYPOINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandLine {
    /// The program with its arguments, or one text for the shell.
    pub words: Vec<String>,
    /// Whether it is a text for the shell.
    pub is_shell: bool,
    /// Here-documents: one without a command is the script itself.
    pub files: Vec<Heredoc>,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// What is run.
    pub command: CommandLine,
    /// `--mount`s as they were written, for [`Mount::parse`] when variables have their values.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`s.
    pub devices: Vec<Device>,
}

/// The network of a `RUN`.
#[derive(Clone, std::marker::Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// That of the build.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The host's.
    Host,
}

/// How a `RUN` is confined.
#[derive(Clone, std::marker::Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// As every container.
    #[default]
    Sandbox,
    /// With all privileges, if the build allows it.
    Insecure,
}

/// A file whose content stands in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its content, with the tabs of `<<-` dropped.
    pub content: String,
    /// Whether variables in the content are expanded.
    pub expand: bool,
}

/// `COPY`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copy {
    /// Paths in the context or in `from`.
    pub sources: Vec<String>,
    /// Files given in place.
    pub files: Vec<InlineFile>,
    /// Where to.
    pub destination: String,
    /// A stage, an image or a named context; empty for the context.
    pub from: String,
    /// `--chown`; empty if not given.
    pub owner: String,
    /// `--chmod`; empty if not given.
    pub mode: String,
    /// `--link`: a layer that does not depend on those below.
    pub link: bool,
    /// `--parents`: with the directories of each source.
    pub parents: bool,
    /// `--exclude`s.
    pub exclude: Vec<String>,
}

/// `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Add {
    /// Paths in the context, URLs, repositories.
    pub sources: Vec<String>,
    /// Files given in place.
    pub files: Vec<InlineFile>,
    /// Where to.
    pub destination: String,
    /// `--chown`; empty if not given.
    pub owner: String,
    /// `--chmod`; empty if not given.
    pub mode: String,
    /// `--link`: a layer that does not depend on those below.
    pub link: bool,
    /// `--checksum` of a URL; empty if not given.
    pub checksum: String,
    /// `--exclude`s.
    pub exclude: Vec<String>,
    /// `--unpack`; archives of the context are unpacked unless it says no, downloads if it says yes.
    pub unpack: Option<bool>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// `NONE`, `CMD` with a program, or `CMD-SHELL` with a text.
    pub test: Vec<String>,
    /// Between two checks; zero: not given.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// In which failures do not count.
    pub start_period: Duration,
    /// Between two checks in that time.
    pub start_interval: Duration,
    /// Failures until it counts as unhealthy.
    pub retries: u32,
}

impl Dockerfile {
    /// Divides the instructions into stages, each with its typed instructions.
    ///
    /// # Errors
    /// `InvalidInput` (`DockerfileSyntax`) with the line: an instruction that does not exist, flags and
    /// arguments that it does not take, a step before the first `FROM`.
    pub fn stages(&self) -> Result<Stages> {
        let mut stages = Stages {
            arguments: Vec::new(),
            list: Vec::new(),
        };
        for node in self.nodes() {
            stages
                .add(node)
                .map_err(|error| error.at(node.start_line, 0))?;
        }
        Ok(stages)
    }
}

impl Stages {
    fn add(&mut self, node: &Node) -> Parsed<()> {
        if node.name.eq_ignore_ascii_case("from") {
            self.list.push(from(node)?);
            return Ok(());
        }
        let instruction = Instruction::of(node)?;
        match (self.list.last_mut(), instruction) {
            (Some(stage), instruction) => stage.steps.push(Step {
                instruction,
                original: node.original.trim().to_owned(),
                line: node.start_line,
            }),
            (None, Instruction::Arg(arguments)) => self.arguments.extend(arguments),
            (None, _) => return fail("no build stage in current context"),
        }
        Ok(())
    }
}

fn fail<T>(message: impl Into<String>) -> Parsed<T> {
    Err(SyntaxError::new(message))
}

fn from(node: &Node) -> Parsed<Stage> {
    let (base, name) = match node.args.as_slice() {
        [base] => (base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            let lower = name.to_lowercase();
            if !is_stage_name(&lower) {
                return fail(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain \
                     symbols"
                ));
            }
            (base, Some(lower))
        }
        _ => return fail("FROM requires either one or three arguments"),
    };
    let [platform] = flags::parse(&node.flags, [flags::text("platform")])?;
    Ok(Stage {
        base: base.clone(),
        name,
        platform: platform.into_text(),
        line: node.start_line,
        steps: Vec::new(),
    })
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|char: char| char.is_ascii_lowercase())
        && name.chars().all(|char| {
            char.is_ascii_lowercase() || char.is_ascii_digit() || matches!(char, '-' | '_' | '.')
        })
}

impl Instruction {
    fn of(node: &Node) -> Parsed<Self> {
        let name = node.name.to_ascii_uppercase();
        let no_flags = || flags::parse(&node.flags, []).map(|[]| ());
        match name.as_str() {
            "ADD" => add(node).map(Self::Add),
            "ARG" => arguments(node).map(Self::Arg),
            "CMD" => no_flags().map(|()| Self::Cmd(CommandLine::of(node))),
            "COPY" => copy(node).map(Self::Copy),
            "ENTRYPOINT" => no_flags().map(|()| Self::Entrypoint(CommandLine::of(node))),
            "ENV" => no_flags().and_then(|()| pairs(node, &name)).map(Self::Env),
            "EXPOSE" => {
                at_least_one(node, &name)?;
                no_flags()?;
                let mut ports = node.args.clone();
                ports.sort();
                Ok(Self::Expose(ports))
            }
            "HEALTHCHECK" => health(node).map(Self::Healthcheck),
            "LABEL" => no_flags()
                .and_then(|()| pairs(node, &name))
                .map(Self::Label),
            "MAINTAINER" => {
                let text = exactly_one(node, &name)?;
                no_flags().map(|()| Self::Maintainer(text))
            }
            "ONBUILD" => {
                let expression = trigger(node)?;
                no_flags().map(|()| Self::Onbuild(expression))
            }
            "RUN" => run(node).map(Self::Run),
            "SHELL" => {
                no_flags()?;
                at_least_one(node, &name)?;
                match node.is_json {
                    true => Ok(Self::Shell(node.args.clone())),
                    false => fail(not_json(&name, &node.original)),
                }
            }
            "STOPSIGNAL" => exactly_one(node, &name).map(Self::StopSignal),
            "USER" => {
                let user = exactly_one(node, &name)?;
                no_flags().map(|()| Self::User(user))
            }
            "VOLUME" => {
                at_least_one(node, &name)?;
                no_flags()?;
                let volumes: Vec<_> = node
                    .args
                    .iter()
                    .map(|path| path.trim().to_owned())
                    .collect();
                if volumes.contains(&String::new()) {
                    return fail("VOLUME specified can not be an empty string");
                }
                Ok(Self::Volume(volumes))
            }
            "WORKDIR" => {
                let path = exactly_one(node, &name)?;
                no_flags().map(|()| Self::Workdir(path))
            }
            _ => {
                let message = format!("unknown instruction: {}", node.name);
                Err(with_suggestion(message, &node.name, &INSTRUCTIONS))
            }
        }
    }
}

impl CommandLine {
    fn of(node: &Node) -> Self {
        Self {
            words: command_words(&node.args, node.is_json),
            is_shell: !node.is_json,
            files: node.heredocs.clone(),
        }
    }
}

fn command_words(args: &[String], is_json: bool) -> Vec<String> {
    match args {
        [] => Vec::new(),
        args if is_json => args.to_vec(),
        args => vec![args.join(" ")],
    }
}

fn at_least_one(node: &Node, name: &str) -> Parsed<()> {
    if node.args.is_empty() {
        return fail(format!("{name} requires at least one argument"));
    }
    Ok(())
}

fn exactly_one(node: &Node, name: &str) -> Parsed<String> {
    match node.args.as_slice() {
        [argument] => Ok(argument.clone()),
        _ => fail(format!("{name} requires exactly one argument")),
    }
}

fn not_json(name: &str, original: &str) -> String {
    // What looks like an array was probably meant to be one.
    let rest = original.trim().get(name.len()..).unwrap_or_default().trim();
    if rest.starts_with('[') {
        return format!("{name} requires the arguments to be in JSON form");
    }
    format!("{name} requires the arguments to be in JSON form, as in {name} [\"/bin/sh\", \"-c\"]")
}

fn pairs(node: &Node, name: &str) -> Parsed<Vec<Pair>> {
    at_least_one(node, name)?;
    let pair = |words: &[String]| match words {
        [name, value, separator] if !name.is_empty() => Ok(Pair {
            name: name.clone(),
            value: value.clone(),
            is_legacy: separator.is_empty(),
        }),
        _ => fail(format!("{name} names can not be blank")),
    };
    node.args.chunks(3).map(pair).collect()
}

fn arguments(node: &Node) -> Parsed<Vec<Argument>> {
    at_least_one(node, "ARG")?;
    let argument = |word: &String| {
        let (name, default) = match word.split_once('=') {
            Some(("", _)) => return fail("ARG names can not be blank"),
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (word.as_str(), None),
        };
        let mut comments = node.comments.iter();
        let description = comments.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(Argument {
            name: name.to_owned(),
            default,
            description: description.map(str::to_owned),
        })
    };
    node.args.iter().map(argument).collect()
}

/// Sources, files given in place, and the destination.
fn sources(node: &Node, name: &str) -> Parsed<(Vec<String>, Vec<InlineFile>, String)> {
    let Some((destination, sources @ [_, ..])) = node.args.split_last() else {
        return fail(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not \
             be determined"
        ));
    };
    let document = |word: &str| heredoc(word).ok().flatten();
    if document(destination).is_some() {
        return fail(format!("{name} cannot accept a heredoc as a destination"));
    }
    let (mut paths, mut files) = (Vec::new(), Vec::new());
    for source in sources {
        let Some(announced) = document(source) else {
            paths.push(source.clone());
            continue;
        };
        let mut read = node.heredocs.iter().rev();
        let read = read.find(|read| read.name == announced.name);
        let content = read.map_or("", |read| read.content.as_str());
        files.push(InlineFile {
            content: match announced.chomp {
                true => without_tabs(content),
                false => content.to_owned(),
            },
            name: announced.name,
            expand: announced.expand,
        });
    }
    Ok((paths, files, destination.clone()))
}

/// The lines without the tabs in front.
fn without_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

fn add(node: &Node) -> Parsed<Add> {
    let (sources, files, destination) = sources(node, "ADD")?;
    let known = [
        flags::text("chown"),
        flags::text("chmod"),
        flags::switch("link"),
        flags::switch("keep-git-dir"),
        flags::text("checksum"),
        flags::switch("unpack"),
        flags::texts("exclude"),
    ];
    let [owner, mode, link, keep_git_dir, checksum, unpack, exclude] =
        flags::parse(&node.flags, known)?;
    Ok(Add {
        sources,
        files,
        destination,
        owner: owner.into_text(),
        mode: mode.into_text(),
        link: link.is_on(),
        checksum: checksum.into_text(),
        exclude: exclude.into_texts(),
        unpack: unpack.value(),
        keep_git_dir: keep_git_dir.value(),
    })
}

fn copy(node: &Node) -> Parsed<Copy> {
    let (sources, files, destination) = sources(node, "COPY")?;
    let known = [
        flags::text("chown"),
        flags::text("from"),
        flags::text("chmod"),
        flags::switch("link"),
        flags::texts("exclude"),
        flags::switch("parents"),
    ];
    let [owner, from, mode, link, exclude, parents] = flags::parse(&node.flags, known)?;
    Ok(Copy {
        sources,
        files,
        destination,
        from: from.into_text(),
        owner: owner.into_text(),
        mode: mode.into_text(),
        link: link.is_on(),
        parents: parents.is_on(),
        exclude: exclude.into_texts(),
    })
}

fn run(node: &Node) -> Parsed<Run> {
    let known = [
        flags::texts("mount"),
        flags::text("network"),
        flags::text("security"),
        flags::texts("device"),
    ];
    let [mounts, network, security, devices] = flags::parse(&node.flags, known)?;
    let mounts = mounts.into_texts();
    for mount in &mounts {
        Mount::check(mount)?;
    }
    let network = match network.value_or("default") {
        "default" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => return fail(format!("invalid network mode {other:?}")),
    };
    let security = match security.value_or("sandbox") {
        "sandbox" => Security::Sandbox,
        "insecure" => Security::Insecure,
        other => return fail(format!("security {other:?} is not valid")),
    };
    let devices = devices.into_texts();
    Ok(Run {
        command: CommandLine::of(node),
        mounts,
        network,
        security,
        devices: devices
            .iter()
            .map(|text| Device::parse(text))
            .collect::<Parsed<_>>()?,
    })
}

/// The text of the instruction after `ONBUILD`, with its here-documents.
fn trigger(node: &Node) -> Parsed<String> {
    let Some(trigger) = &node.trigger else {
        return fail("ONBUILD requires at least one argument");
    };
    match trigger.name.to_ascii_uppercase().as_str() {
        "ONBUILD" => return fail("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        name @ ("MAINTAINER" | "FROM") => {
            return fail(format!("{name} isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    let original = node.original.trim_start();
    let mut text = original[node.name.len()..].trim_start().to_owned();
    for heredoc in &node.heredocs {
        text = format!("{text}\n{}{}", heredoc.content, heredoc.name);
    }
    Ok(text)
}

fn health(node: &Node) -> Parsed<Health> {
    let Some((kind, command)) = node.args.split_first() else {
        return fail("HEALTHCHECK requires at least one argument");
    };
    let kind = kind.to_uppercase();
    if kind == "NONE" {
        if !command.is_empty() {
            return fail("HEALTHCHECK NONE takes no arguments");
        }
        return Ok(Health {
            test: vec![kind],
            ..Health::default()
        });
    }
    let names = [
        "interval",
        "timeout",
        "start-period",
        "start-interval",
        "retries",
    ];
    let [interval, timeout, start_period, start_interval, retries] =
        flags::parse(&node.flags, names.map(flags::text))?;
    if kind != "CMD" {
        return fail(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"));
    }
    let words = command_words(command, node.is_json);
    if words.is_empty() {
        return fail("Missing command after HEALTHCHECK CMD");
    }
    let kind = if node.is_json { "CMD" } else { "CMD-SHELL" };
    let retries = retries.into_text();
    Ok(Health {
        test: [vec![kind.to_owned()], words].concat(),
        interval: duration("interval", &interval.into_text())?,
        timeout: duration("timeout", &timeout.into_text())?,
        start_period: duration("start-period", &start_period.into_text())?,
        start_interval: duration("start-interval", &start_interval.into_text())?,
        retries: match retries.as_str() {
            "" => 0,
            text => match text.parse::<i32>().map(u32::try_from) {
                Ok(Ok(retries)) => retries,
                Ok(Err(_)) => return fail(format!("--retries cannot be negative ({text})")),
                Err(_) => return fail(format!("--retries is not a number: {text:?}")),
            },
        },
    })
}

/// A length of time as Go writes it: `1h30m`, `1.5s`; none is zero.
fn duration(flag: &str, text: &str) -> Parsed<Duration> {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("μs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let invalid = || SyntaxError::new(format!("--{flag} is not a duration: {text:?}"));
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if text.is_empty() || unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0.0, unsigned);
    while !rest.is_empty() || unsigned.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.');
        let (number, more) = rest.split_at(digits.ok_or_else(invalid)?);
        let end = more.find(|char: char| char.is_ascii_digit() || char == '.');
        let (unit, more) = more.split_at(end.unwrap_or(more.len()));
        let unit = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(invalid)?;
        seconds += number.parse::<f64>().map_err(|_| invalid())? * unit.1;
        rest = more;
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
    let too_short = duration < Duration::from_millis(1) && !duration.is_zero();
    if too_short || (text.starts_with('-') && !duration.is_zero()) {
        return fail(format!("Interval {flag:?} cannot be less than 1ms"));
    }
    Ok(duration)
}
