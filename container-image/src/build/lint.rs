//! What is legal in a Dockerfile, and not advisable.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::instruction::{Instruction, Pair, Stage, Stages, Step};
use super::parser::{Dockerfile, Node};
use super::{IgnoreRules, Variables};
use crate::{Reference, Result};

/// What a file is looked at for. The names are BuildKit's where BuildKit has the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "`Rule::advice` says what each is for")]
pub enum Rule {
    ConsistentInstructionCasing,
    CopyIgnoredFile,
    DuplicateStageName,
    ExposeInvalidFormat,
    ExposeProtoCasing,
    FromAsCasing,
    FromPlatformFlagConstDisallowed,
    InvalidDefaultArgInFrom,
    JSONArgsRecommended,
    LegacyKeyValueFormat,
    MaintainerDeprecated,
    MultipleInstructionsDisallowed,
    NoEmptyContinuation,
    RedundantTargetPlatform,
    ReservedStageName,
    SecretsUsedInArgOrEnv,
    StageNameCasing,
    UndefinedArgInFrom,
    UndefinedVar,
    WorkdirRelativePath,
    BaseNotPinned,
    CopyBeforeInstall,
    HostPathVolume,
    LargeBase,
    ManyLayers,
    PackageCacheKept,
    SeveralServices,
    SingleQuotedArray,
    UpgradeInBuild,
}

/// Each rule with its name and its reason.
const RULES: [(Rule, &str, &str); 29] = [
    (
        Rule::ConsistentInstructionCasing,
        "ConsistentInstructionCasing",
        "mixed case is hard to read",
    ),
    (
        Rule::CopyIgnoredFile,
        "CopyIgnoredFile",
        "the file is not in the context",
    ),
    (
        Rule::DuplicateStageName,
        "DuplicateStageName",
        "the later stage hides the earlier one",
    ),
    (
        Rule::ExposeInvalidFormat,
        "ExposeInvalidFormat",
        "where a port is published is for whoever runs the image to say",
    ),
    (
        Rule::ExposeProtoCasing,
        "ExposeProtoCasing",
        "protocols are written in lower case",
    ),
    (
        Rule::FromAsCasing,
        "FromAsCasing",
        "mixed case is hard to read",
    ),
    (
        Rule::FromPlatformFlagConstDisallowed,
        "FromPlatformFlagConstDisallowed",
        "the image can be built for one platform only",
    ),
    (
        Rule::InvalidDefaultArgInFrom,
        "InvalidDefaultArgInFrom",
        "the build fails unless the argument is given",
    ),
    (
        Rule::JSONArgsRecommended,
        "JSONArgsRecommended",
        "a shell does not pass signals on",
    ),
    (
        Rule::LegacyKeyValueFormat,
        "LegacyKeyValueFormat",
        "the value is the whole rest of the line",
    ),
    (
        Rule::MaintainerDeprecated,
        "MaintainerDeprecated",
        "labels tell more",
    ),
    (
        Rule::MultipleInstructionsDisallowed,
        "MultipleInstructionsDisallowed",
        "all but the last do nothing",
    ),
    (
        Rule::NoEmptyContinuation,
        "NoEmptyContinuation",
        "empty lines within an instruction will be errors",
    ),
    (
        Rule::RedundantTargetPlatform,
        "RedundantTargetPlatform",
        "it is the default",
    ),
    (
        Rule::ReservedStageName,
        "ReservedStageName",
        "the name means something else",
    ),
    (
        Rule::SecretsUsedInArgOrEnv,
        "SecretsUsedInArgOrEnv",
        "whoever has the image can read them; use RUN --mount=type=secret",
    ),
    (
        Rule::StageNameCasing,
        "StageNameCasing",
        "names of stages are written in lower case",
    ),
    (
        Rule::UndefinedArgInFrom,
        "UndefinedArgInFrom",
        "only arguments before the first FROM count there",
    ),
    (Rule::UndefinedVar, "UndefinedVar", "it expands to nothing"),
    (
        Rule::WorkdirRelativePath,
        "WorkdirRelativePath",
        "it depends on the base image",
    ),
    (
        Rule::BaseNotPinned,
        "BaseNotPinned",
        "another day it is another image",
    ),
    (
        Rule::CopyBeforeInstall,
        "CopyBeforeInstall",
        "each change of the sources installs everything anew; what changes often comes last",
    ),
    (
        Rule::HostPathVolume,
        "HostPathVolume",
        "an image knows no paths of a host",
    ),
    (
        Rule::LargeBase,
        "LargeBase",
        "less in an image is less to transfer and to attack; use a small variant",
    ),
    (
        Rule::ManyLayers,
        "ManyLayers",
        "what one step adds and another removes is in the image all the same; join them",
    ),
    (
        Rule::PackageCacheKept,
        "PackageCacheKept",
        "what was downloaded stays in the layer; remove it in the same step, or use RUN --mount=type=cache",
    ),
    (
        Rule::SeveralServices,
        "SeveralServices",
        "one container, one service: each has its own limits, logs and restarts",
    ),
    (
        Rule::SingleQuotedArray,
        "SingleQuotedArray",
        "it is no JSON, so it is taken as a text for the shell; use double quotes",
    ),
    (
        Rule::UpgradeInBuild,
        "UpgradeInBuild",
        "the result depends on the day; take a newer base image",
    ),
];

impl Rule {
    /// The name, as `# check=skip=…` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        RULES
            .iter()
            .find(|(rule, ..)| *rule == self)
            .map_or("", |(_, name, _)| name)
    }

    /// Why what it finds is not advisable.
    #[must_use]
    pub fn advice(self) -> &'static str {
        RULES
            .iter()
            .find(|(rule, ..)| *rule == self)
            .map_or("", |(.., advice)| advice)
    }
}

/// Something that a rule has found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lint {
    /// The rule.
    pub rule: Rule,
    /// Counted from 1.
    pub line: usize,
    /// What was found.
    pub message: String,
}

/// `3: StageNameCasing: Stage name 'Base' should be lowercase`
impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.line, self.rule.name(), self.message)
    }
}

/// The variables of an image, as `NAME=value`; `None` if they are not known.
pub type Environment<'a> = dyn Fn(&str) -> Option<Vec<String>> + 'a;

/// What is known beside the text.
#[derive(Clone, Copy, Default)]
pub struct LintContext<'a> {
    /// The rules that keep files out of the context.
    pub ignore: Option<&'a IgnoreRules>,
    /// The variables of a base image, if they are known; without them nothing is said of variables
    /// that may be its.
    pub environment: Option<&'a Environment<'a>>,
}

impl fmt::Debug for LintContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LintContext")
            .field("ignore", &self.ignore)
            .finish_non_exhaustive()
    }
}

impl Dockerfile {
    /// What is legal and not advisable, in the order of lines.
    ///
    /// `# check=skip=NAME,…` on top of the file leaves rules out, `# check=skip=all` all of them.
    ///
    /// # Errors
    /// As [`Dockerfile::stages`].
    pub fn lint(&self, context: &LintContext<'_>) -> Result<Vec<Lint>> {
        let stages = self.stages()?;
        let mut linter = Linter {
            file: self,
            stages: &stages,
            context,
            found: Vec::new(),
        };
        linter.look_at_text();
        linter.look_at_stages();
        let mut found = linter.found;
        let check = self
            .directives()
            .iter()
            .find(|directive| directive.name == "check");
        let options = check.map_or("", |directive| &directive.value).split(';');
        let skipped: Vec<_> = options
            .filter_map(|option| option.trim().strip_prefix("skip="))
            .flat_map(|names| names.split(',').map(str::trim))
            .collect();
        found.retain(|lint| {
            !skipped
                .iter()
                .any(|name| *name == "all" || *name == lint.rule.name())
        });
        found.sort_by_key(|lint| (lint.line, lint.rule));
        found.dedup();
        Ok(found)
    }
}

/// Arguments that every build has.
const PREDEFINED: [&str; 19] = [
    "ALL_PROXY",
    "BUILDARCH",
    "BUILDOS",
    "BUILDPLATFORM",
    "BUILDVARIANT",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
    "TARGETARCH",
    "TARGETOS",
    "TARGETPLATFORM",
    "TARGETSTAGE",
    "TARGETVARIANT",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

struct Linter<'a> {
    file: &'a Dockerfile,
    stages: &'a Stages,
    context: &'a LintContext<'a>,
    found: Vec<Lint>,
}

impl Linter<'_> {
    fn add(&mut self, rule: Rule, line: usize, message: impl Into<String>) {
        let message = message.into();
        self.found.push(Lint {
            rule,
            line,
            message,
        });
    }

    fn look_at_text(&mut self) {
        for warning in self.file.warnings() {
            self.add(
                Rule::NoEmptyContinuation,
                warning.line,
                "Empty continuation line",
            );
        }
        self.look_at_case();
        for node in self.file.nodes() {
            let name = node.name.to_ascii_uppercase();
            match name.as_str() {
                "FROM" => self.look_at_from(node),
                "MAINTAINER" => {
                    let message = "Maintainer instruction is deprecated in favor of using label";
                    self.add(Rule::MaintainerDeprecated, node.start_line, message);
                }
                "CMD" | "ENTRYPOINT" | "RUN" | "VOLUME" | "SHELL" | "COPY" | "ADD" => {
                    let text = node.args.join(" ");
                    let quoted = text.starts_with("['") || text.starts_with("[ '");
                    if quoted && !node.is_json {
                        let message = format!("{name} {text} is not a JSON array");
                        self.add(Rule::SingleQuotedArray, node.start_line, message);
                    }
                }
                _ => {}
            }
        }
    }

    /// All names in one case, or, where they are mixed, in that of most.
    fn look_at_case(&mut self) {
        let nodes = self.file.nodes();
        let is = |node: &Node, case: fn(&str) -> String| node.name == case(&node.name);
        let lower = nodes
            .iter()
            .filter(|node| is(node, str::to_lowercase))
            .count();
        let upper = nodes
            .iter()
            .filter(|node| is(node, str::to_uppercase))
            .count();
        let (case, word): (fn(&str) -> String, _) = match lower > upper {
            true => (str::to_lowercase, "lowercase"),
            false => (str::to_uppercase, "uppercase"),
        };
        for node in nodes.iter().filter(|node| !is(node, case)) {
            let message = format!(
                "Command '{}' should match the case of the command majority ({word})",
                node.name
            );
            self.add(Rule::ConsistentInstructionCasing, node.start_line, message);
        }
    }

    fn look_at_from(&mut self, node: &Node) {
        let [_, keyword, name] = node.args.as_slice() else {
            return;
        };
        let upper = node.name == node.name.to_uppercase();
        let lower = node.name == node.name.to_lowercase();
        let differs = match (upper, lower) {
            (true, _) => *keyword != keyword.to_uppercase(),
            (_, true) => *keyword != keyword.to_lowercase(),
            _ => false,
        };
        if differs {
            let message = format!(
                "'{keyword}' and '{}' keywords' casing do not match",
                node.name
            );
            self.add(Rule::FromAsCasing, node.start_line, message);
        }
        if *name != name.to_lowercase() {
            let message = format!("Stage name '{name}' should be lowercase");
            self.add(Rule::StageNameCasing, node.start_line, message);
        }
    }

    fn look_at_stages(&mut self) {
        let stages = self.stages;
        let mut seen = BTreeSet::new();
        let mut scopes: BTreeMap<&str, Option<BTreeSet<String>>> = BTreeMap::new();
        for stage in &stages.list {
            self.look_at_base(stage);
            if let Some(name) = stage.name.as_deref() {
                if matches!(name, "scratch" | "context") {
                    let message = format!(
                        "Stage name should not use the same name as reserved stage {name:?}"
                    );
                    self.add(Rule::ReservedStageName, stage.line, message);
                }
                if !seen.insert(name) {
                    let message =
                        format!("Duplicate stage name {name:?}, stage names should be unique");
                    self.add(Rule::DuplicateStageName, stage.line, message);
                }
            }
            // A stage has the variables of what it is based on, if anybody knows them.
            let inherited = match scopes.get(stage.base.to_lowercase().as_str()) {
                Some(scope) => scope.clone(),
                None if stage.base == "scratch" => Some(BTreeSet::new()),
                None => self.environment_of(&stage.base),
            };
            let scope = self.look_at_steps(stage, inherited);
            if let Some(name) = stage.name.as_deref() {
                scopes.insert(name, scope);
            }
        }
        self.look_at_last_stage();
    }

    fn environment_of(&self, image: &str) -> Option<BTreeSet<String>> {
        let environment = self.context.environment?(image)?;
        let name = |pair: &String| pair.split('=').next().unwrap_or_default().to_owned();
        Some(environment.iter().map(name).collect())
    }

    fn is_stage(&self, name: &str) -> bool {
        let mut names = self
            .stages
            .list
            .iter()
            .filter_map(|stage| stage.name.as_deref());
        names.any(|stage| stage.eq_ignore_ascii_case(name))
    }

    fn look_at_base(&mut self, stage: &Stage) {
        let arguments = &self.stages.arguments;
        let default = |name: &str| {
            let mut named = arguments
                .iter()
                .rev()
                .filter(|argument| argument.name == name);
            named.find_map(|argument| argument.default.clone())
        };
        let declared = |name: &str| {
            PREDEFINED.contains(&name) || arguments.iter().any(|argument| argument.name == name)
        };
        for text in [&stage.base, &stage.platform] {
            for name in unset(text, self.file.escape(), &declared) {
                let message = format!("FROM argument '{name}' is not declared");
                self.add(Rule::UndefinedArgInFrom, stage.line, message);
            }
        }
        let lookup = |name: &str| match PREDEFINED.contains(&name) {
            true => Some("amd64".to_owned()),
            false => default(name),
        };
        let variables = Variables::new(&lookup).escape(self.file.escape());
        let base = variables.expand(&stage.base).unwrap_or_default();
        let is_image = base != "scratch" && !self.is_stage(&base);
        let reference = base.parse::<Reference>();
        if is_image && reference.is_err() && stage.base.contains('$') {
            let message = format!(
                "Default value for ARG {} results in empty or invalid base image name",
                stage.base
            );
            self.add(Rule::InvalidDefaultArgInFrom, stage.line, message);
        }
        if let Some(reference) = reference.ok().filter(|_| is_image) {
            let untagged = !base.contains('@') && reference.tag().is_none_or(|tag| tag == "latest");
            if untagged {
                let message = format!("Base image {base:?} is whatever the tag latest is");
                self.add(Rule::BaseNotPinned, stage.line, message);
            }
        }
        match stage.platform.as_str() {
            "$TARGETPLATFORM" | "${TARGETPLATFORM}" => {
                let message = format!(
                    "Setting platform to predefined {} in FROM is redundant as this is the default \
                     behavior",
                    stage.platform
                );
                self.add(Rule::RedundantTargetPlatform, stage.line, message);
            }
            platform if !platform.is_empty() && !platform.contains('$') => {
                let message =
                    format!("FROM --platform flag should not use constant value {platform:?}");
                self.add(Rule::FromPlatformFlagConstDisallowed, stage.line, message);
            }
            _ => {}
        }
    }

    /// Looks at the steps of a stage; `scope`: its variables, if all are known.
    fn look_at_steps(
        &mut self,
        stage: &Stage,
        mut scope: Option<BTreeSet<String>>,
    ) -> Option<BTreeSet<String>> {
        let mut workdir_known = stage.base == "scratch";
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shell_set = false;
        let mut copied_all: Option<usize> = None;
        for step in &stage.steps {
            self.look_at_variables(step, scope.as_ref());
            match &step.instruction {
                Instruction::Arg(arguments) => {
                    let names = arguments.iter().map(|argument| argument.name.clone());
                    self.look_at_secrets(step, "ARG", names.clone());
                    scope
                        .iter_mut()
                        .for_each(|scope| scope.extend(names.clone()));
                }
                Instruction::Env(pairs) => {
                    let names = pairs.iter().map(|pair| pair.name.clone());
                    self.look_at_secrets(step, "ENV", names.clone());
                    self.look_at_form(step, "ENV", pairs);
                    scope
                        .iter_mut()
                        .for_each(|scope| scope.extend(names.clone()));
                }
                Instruction::Label(pairs) => self.look_at_form(step, "LABEL", pairs),
                Instruction::Shell(_) => shell_set = true,
                Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
                    let name = match step.instruction {
                        Instruction::Cmd(_) => "CMD",
                        _ => "ENTRYPOINT",
                    };
                    if command.is_shell && !shell_set {
                        let message = format!(
                            "JSON arguments recommended for {name} to prevent unintended behavior \
                             related to OS signals"
                        );
                        self.add(Rule::JSONArgsRecommended, step.line, message);
                    }
                    self.look_at_earlier(&mut seen, name, step.line);
                    self.look_at_services(step, &command.words);
                }
                Instruction::Healthcheck(_) => {
                    self.look_at_earlier(&mut seen, "HEALTHCHECK", step.line);
                }
                Instruction::Workdir(path) => {
                    let absolute = path.starts_with(['/', '$', '"', '\'']);
                    if !absolute && !workdir_known {
                        let message = format!(
                            "Relative workdir {path:?} can have unexpected results if the base image \
                             changes"
                        );
                        self.add(Rule::WorkdirRelativePath, step.line, message);
                    }
                    workdir_known |= absolute;
                }
                Instruction::Expose(ports) => self.look_at_ports(step, ports),
                Instruction::Volume(paths) => {
                    for path in paths.iter().filter(|path| path.contains(':')) {
                        let message = format!("VOLUME {path:?} names a path of a host");
                        self.add(Rule::HostPathVolume, step.line, message);
                    }
                }
                Instruction::Copy(copy) if copy.from.is_empty() => {
                    self.look_at_sources(step, "Copy", &copy.sources);
                    let all = copy
                        .sources
                        .iter()
                        .any(|source| matches!(source.as_str(), "." | "./" | "/"));
                    copied_all = copied_all.or(all.then_some(step.line));
                }
                Instruction::Add(add) => self.look_at_sources(step, "Add", &add.sources),
                Instruction::Run(run) => {
                    let script = run.command.words.join(" ");
                    let text = run
                        .command
                        .files
                        .iter()
                        .fold(script, |text, file| format!("{text}\n{}", file.content));
                    let cached = run.mounts.iter().any(|mount| mount.contains("type=cache"));
                    self.look_at_packages(step, &text, cached);
                    if let Some(line) = copied_all.filter(|_| installs(&text)) {
                        let message = "Everything is copied before packages are installed";
                        self.add(Rule::CopyBeforeInstall, line, message);
                        copied_all = None;
                    }
                }
                _ => {}
            }
        }
        scope
    }

    fn look_at_variables(&mut self, step: &Step, scope: Option<&BTreeSet<String>>) {
        let Some(scope) = scope else {
            return;
        };
        let known =
            |name: &str| scope.contains(name) || PREDEFINED.contains(&name) || name == "PATH";
        let pairs = |pairs: &[Pair]| -> Vec<String> {
            pairs
                .iter()
                .flat_map(|pair| [pair.name.clone(), pair.value.clone()])
                .collect()
        };
        let texts: Vec<String> = match &step.instruction {
            Instruction::Env(list) | Instruction::Label(list) => pairs(list),
            Instruction::Arg(list) => list.iter().filter_map(|it| it.default.clone()).collect(),
            Instruction::Copy(copy) => {
                let places = [&copy.destination, &copy.owner, &copy.mode];
                copy.sources.iter().chain(places).cloned().collect()
            }
            Instruction::Add(add) => {
                let places = [&add.destination, &add.owner, &add.mode];
                add.sources.iter().chain(places).cloned().collect()
            }
            Instruction::Expose(texts) | Instruction::Volume(texts) => texts.clone(),
            Instruction::User(text)
            | Instruction::Workdir(text)
            | Instruction::StopSignal(text) => {
                vec![text.clone()]
            }
            _ => return,
        };
        for name in texts
            .iter()
            .flat_map(|text| unset(text, self.file.escape(), &known))
        {
            let message = format!("Usage of undefined variable '${name}'");
            self.add(Rule::UndefinedVar, step.line, message);
        }
    }

    fn look_at_secrets(&mut self, step: &Step, name: &str, keys: impl Iterator<Item = String>) {
        const SECRET: [&str; 9] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
        ];
        for key in keys {
            let lower = key.to_lowercase();
            let words: Vec<_> = lower.split(['_', '-']).collect();
            let secret = words
                .iter()
                .any(|word| SECRET.contains(word) || *word == "token");
            if secret && !words.iter().any(|word| matches!(*word, "public" | "file")) {
                let message = format!(
                    "Do not use ARG or ENV instructions for sensitive data ({name} {key:?})"
                );
                self.add(Rule::SecretsUsedInArgOrEnv, step.line, message);
            }
        }
    }

    fn look_at_form(&mut self, step: &Step, name: &str, pairs: &[Pair]) {
        if pairs.iter().any(|pair| pair.is_legacy) {
            let message = format!(
                "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.add(Rule::LegacyKeyValueFormat, step.line, message);
        }
    }

    /// Of several, the earlier ones do nothing.
    fn look_at_earlier(
        &mut self,
        seen: &mut BTreeMap<&'static str, usize>,
        name: &'static str,
        line: usize,
    ) {
        if let Some(earlier) = seen.insert(name, line) {
            let message = format!(
                "Multiple {name} instructions should not be used in the same stage because only the \
                 last one will be used"
            );
            self.add(Rule::MultipleInstructionsDisallowed, earlier, message);
        }
    }

    fn look_at_ports(&mut self, step: &Step, ports: &[String]) {
        for port in ports {
            let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
            if protocol != protocol.to_lowercase() {
                let message =
                    format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                self.add(Rule::ExposeProtoCasing, step.line, message);
            }
            if number.contains(':') && !number.contains('$') {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found \
                     '{port}'"
                );
                self.add(Rule::ExposeInvalidFormat, step.line, message);
            }
        }
    }

    fn look_at_sources(&mut self, step: &Step, verb: &str, sources: &[String]) {
        let Some(ignore) = self.context.ignore else {
            return;
        };
        for source in sources {
            let plain = source.trim_start_matches('/');
            let is_path = !source.contains("://") && !source.contains(['*', '?', '[', '$']);
            if is_path && ignore.ignores(plain) && !ignore.may_keep_below(plain) {
                let message = format!(
                    "Attempting to {verb} file {source:?} that is excluded by .dockerignore"
                );
                self.add(Rule::CopyIgnoredFile, step.line, message);
            }
        }
    }

    fn look_at_packages(&mut self, step: &Step, text: &str, cached: bool) {
        const UPGRADES: [&str; 8] = [
            "apt-get upgrade",
            "apt-get dist-upgrade",
            "apt upgrade",
            "apt-get -y upgrade",
            "yum update",
            "yum -y update",
            "dnf upgrade",
            "apk upgrade",
        ];
        for upgrade in UPGRADES.iter().filter(|upgrade| text.contains(**upgrade)) {
            let message = format!("\"{upgrade}\" in a build");
            self.add(Rule::UpgradeInBuild, step.line, message);
        }
        const CLEANED: [(&str, &[&str]); 5] = [
            ("apt-get install", &["/var/lib/apt/lists", "apt-get clean"]),
            ("apt install", &["/var/lib/apt/lists", "apt clean"]),
            ("yum install", &["yum clean", "/var/cache/yum"]),
            ("dnf install", &["dnf clean", "/var/cache/dnf"]),
            ("apk add", &["--no-cache", "/var/cache/apk"]),
        ];
        let words: String = text
            .split_whitespace()
            .filter(|word| !matches!(*word, "-y" | "-qy" | "-q" | "--yes"))
            .collect::<Vec<_>>()
            .join(" ");
        for (install, cleaned) in CLEANED {
            if !cached && words.contains(install) && !cleaned.iter().any(|it| text.contains(it)) {
                let message = format!("\"{install}\" keeps what it downloads");
                self.add(Rule::PackageCacheKept, step.line, message);
            }
        }
    }

    fn look_at_services(&mut self, step: &Step, words: &[String]) {
        let text = words.join(" ");
        let background = text.matches(" & ").count();
        let supervised = ["supervisord", "runsvdir", "s6-svscan"];
        if background > 0 || supervised.iter().any(|program| text.contains(program)) {
            let message = "The command starts more than one service";
            self.add(Rule::SeveralServices, step.line, message);
        }
    }

    /// Only what the last stage has is in the image.
    fn look_at_last_stage(&mut self) {
        /// More than most images need for packages, sources and settings.
        const MANY: usize = 8;
        let Some(stage) = self.stages.list.last() else {
            return;
        };
        let is_run = |step: &&Step| matches!(step.instruction, Instruction::Run(_));
        let runs: Vec<_> = stage.steps.iter().filter(is_run).collect();
        if let Some(step) = runs.get(MANY) {
            let message = format!("{} RUN instructions in one stage", runs.len());
            self.add(Rule::ManyLayers, step.line, message);
        }
        const LARGE: [&str; 6] = ["ubuntu", "centos", "fedora", "node", "python", "golang"];
        let (name, tag) = stage.base.rsplit_once(':').unwrap_or((&stage.base, ""));
        let small = ["slim", "alpine", "minimal", "distroless"];
        if LARGE.contains(&name) && !small.iter().any(|it| tag.contains(it)) && !self.is_stage(name)
        {
            let message = format!(
                "Base image {:?} holds more than most programs need",
                stage.base
            );
            self.add(Rule::LargeBase, stage.line, message);
        }
    }
}

/// Whether a script installs the packages of a language, which depend on few files of the context.
fn installs(text: &str) -> bool {
    const INSTALLS: [&str; 9] = [
        "npm install",
        "npm ci",
        "yarn install",
        "pip install",
        "bundle install",
        "composer install",
        "go mod download",
        "apt-get install",
        "apk add",
    ];
    INSTALLS.iter().any(|install| text.contains(install))
}

/// The variables that `text` uses and that are not `known`.
fn unset(text: &str, escape: char, known: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
    let missing = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        if !known(name) {
            missing.borrow_mut().insert(name.to_owned());
        }
        // A value, so that what is behind `:?` is no error here.
        Some("x".to_owned())
    };
    // With `:-` and `:+` a variable may be unset on purpose.
    let tolerant =
        text.contains(":-") || text.contains(":+") || text.contains("${") && text.contains('-');
    let _ = Variables::new(&lookup).escape(escape).expand(text);
    match tolerant {
        true => BTreeSet::new(),
        false => missing.into_inner(),
    }
}
