//! `--mount` and `--device` of `RUN`.

use super::{Parsed, SyntaxError, Variables, with_suggestion};
use crate::Result;

/// What is mounted while a `RUN` lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// What it is.
    pub kind: MountKind,
    /// A stage, an image or a named context; empty for the context.
    pub from: String,
    /// What of it; empty for all.
    pub source: String,
    /// Where it is mounted; empty if not given.
    pub target: String,
    /// Whether it can only be read.
    pub read_only: bool,
    /// The size of a tmpfs in bytes; 0: no limit.
    pub size_bytes: u64,
    /// The name of a cache or secret; empty if not given.
    pub id: String,
    /// What several builds do with one cache.
    pub sharing: Option<Sharing>,
    /// Whether a secret or agent that is not there is an error.
    pub required: bool,
    /// The variable that holds the secret; empty for one of its own name.
    pub env: Option<String>,
    /// The mode of a cache, secret or socket.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

/// The kinds of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept between builds.
    Cache,
    /// Memory.
    Tmpfs,
    /// A file that gets into no layer.
    Secret,
    /// The socket of an agent.
    Ssh,
}

/// What several builds do with one cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Use it side by side.
    Shared,
    /// Have one each.
    Private,
    /// Wait for each other.
    Locked,
}

/// A device by its CDI name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// As CDI names it.
    pub name: String,
    /// Whether it is an error if there is none.
    pub required: bool,
}

const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];

const SHARINGS: [(&str, Sharing); 3] = [
    ("shared", Sharing::Shared),
    ("private", Sharing::Private),
    ("locked", Sharing::Locked),
];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

fn fail<T>(message: impl Into<String>) -> Parsed<T> {
    Err(SyntaxError::new(message))
}

impl Mount {
    /// Reads the value of a `--mount`, with its variables expanded.
    ///
    /// # Errors
    /// `InvalidInput` (`DockerfileSyntax`) for keys and values that do not exist or go together.
    pub fn parse(text: &str, variables: &Variables<'_>) -> Result<Self> {
        let mut mount = Self {
            kind: MountKind::Bind,
            from: String::new(),
            source: String::new(),
            target: String::new(),
            read_only: true,
            size_bytes: 0,
            id: String::new(),
            sharing: None,
            required: false,
            env: None,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut read_only = None;
        for field in fields(text)? {
            match field.split_once('=') {
                Some((key, value)) => {
                    let value = variables.expand(value)?;
                    mount.set(&field, &key.to_lowercase(), value, &mut read_only)?;
                }
                None => match field.to_lowercase().as_str() {
                    "readonly" | "ro" => read_only = Some(true),
                    "readwrite" | "rw" => read_only = Some(false),
                    "required" => mount.require(true)?,
                    _ => {
                        return Err(SyntaxError::new(format!(
                            "invalid field '{field}' must be a key=value pair"
                        ))
                        .into());
                    }
                },
            }
        }
        let writable = matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs);
        mount.read_only = read_only.unwrap_or(!writable);
        mount.check_combination()?;
        Ok(mount)
    }

    /// What can be said before variables have their values.
    pub(super) fn check(text: &str) -> Parsed<()> {
        for field in fields(text)? {
            let Some((key, value)) = field.split_once('=') else {
                continue;
            };
            let variable = value.find('$').is_some_and(|at| at + 1 != value.len());
            if key.eq_ignore_ascii_case("from") && variable {
                return fail(
                    "'from' doesn't support variable expansion, define alias stage instead",
                );
            }
        }
        Ok(())
    }

    fn set(
        &mut self,
        field: &str,
        key: &str,
        value: String,
        read_only: &mut Option<bool>,
    ) -> Parsed<()> {
        let invalid = || SyntaxError::new(format!("invalid value for {key}: {value}"));
        match key {
            "type" => {
                let known = KINDS
                    .iter()
                    .find(|(name, _)| value.eq_ignore_ascii_case(name));
                let Some((_, kind)) = known else {
                    let message = format!("unsupported mount type {value:?}");
                    return Err(with_suggestion(
                        message,
                        &value,
                        &KINDS.map(|(name, _)| name),
                    ));
                };
                self.kind = *kind;
            }
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => *read_only = Some(boolean(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => *read_only = Some(!boolean(&value).ok_or_else(invalid)?),
            "required" => self.require(boolean(&value).ok_or_else(invalid)?)?,
            "size" if self.kind == MountKind::Tmpfs => {
                self.size_bytes = bytes(&value).ok_or_else(invalid)?;
            }
            "size" => return fail(self.unexpected(key)),
            "id" => self.id = value,
            "sharing" => {
                let known = SHARINGS
                    .iter()
                    .find(|(name, _)| value.eq_ignore_ascii_case(name));
                let Some((_, sharing)) = known else {
                    let message = format!("unsupported sharing value {value:?}");
                    return Err(with_suggestion(
                        message,
                        &value,
                        &SHARINGS.map(|(name, _)| name),
                    ));
                };
                self.sharing = Some(*sharing);
            }
            "mode" => self.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| invalid())?),
            "uid" => self.uid = Some(value.parse().map_err(|_| invalid())?),
            "gid" => self.gid = Some(value.parse().map_err(|_| invalid())?),
            "env" => self.env = Some(value),
            _ => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(with_suggestion(message, key, &KEYS));
            }
        }
        Ok(())
    }

    fn require(&mut self, required: bool) -> Parsed<()> {
        if !matches!(self.kind, MountKind::Secret | MountKind::Ssh) {
            return fail(self.unexpected("required"));
        }
        self.required = required;
        Ok(())
    }

    fn unexpected(&self, key: &str) -> String {
        format!(
            "unexpected key '{key}' for mount type '{}'",
            self.kind_name()
        )
    }

    fn kind_name(&self) -> &'static str {
        let named = KINDS.iter().find(|(_, kind)| *kind == self.kind);
        named.map_or("", |(name, _)| name)
    }

    fn check_combination(&self) -> Parsed<()> {
        let owned = [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)];
        let may_be_owned = !matches!(self.kind, MountKind::Bind | MountKind::Tmpfs);
        if let Some((key, _)) = owned
            .iter()
            .find(|(_, value)| !may_be_owned && value.is_some())
        {
            let kind = self.kind_name();
            return fail(format!("{key} not allowed for {kind:?} type mounts"));
        }
        if self.kind == MountKind::Secret {
            if !self.from.is_empty() {
                return fail("secret mount should not have a from");
            }
            if self.sharing.is_some() {
                return fail("secret mount should not define sharing");
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return fail("invalid secret mount. one of source, target required");
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return fail("both source and id can't be set");
            }
        }
        if self.sharing.is_some() && self.kind != MountKind::Cache {
            return fail(format!(
                "invalid cache sharing set for {} mount",
                self.kind_name()
            ));
        }
        Ok(())
    }
}

impl Device {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        let mut device = Self::default();
        for field in fields(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.to_lowercase(), Some(value)),
                None => (field.to_lowercase(), None),
            };
            match (key.as_str(), value) {
                ("required", None) => device.required = true,
                ("required", Some(value)) => {
                    let invalid = || SyntaxError::new(format!("invalid value for {key}: {value}"));
                    device.required = boolean(value).ok_or_else(invalid)?;
                }
                ("name", Some(value)) if device.name.is_empty() => device.name = value.to_owned(),
                ("name", Some(_)) => {
                    return fail(format!("device name already set to {}", device.name));
                }
                _ if device.name.is_empty() => device.name = field,
                (_, None) => {
                    return fail(format!("invalid field '{field}' must be a key=value pair"));
                }
                (key, Some(_)) => {
                    let message = format!("unexpected key '{key}' in '{field}'");
                    return Err(with_suggestion(message, key, &["name", "required"]));
                }
            }
        }
        Ok(device)
    }
}

/// The fields of one line of comma-separated values (RFC 4180).
fn fields(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, more) = match rest.split_once(',') {
                Some((field, more)) => (field, Some(more)),
                None => (rest, None),
            };
            if field.contains('"') {
                return fail("failed to parse csv mounts: a quote within a field");
            }
            fields.push(field.to_owned());
            match more {
                Some(more) => rest = more,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut tail = quoted;
        loop {
            let Some((part, after)) = tail.split_once('"') else {
                return fail("failed to parse csv mounts: a quote without end");
            };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(after) => {
                    field.push('"');
                    tail = after;
                }
                None => {
                    tail = after;
                    break;
                }
            }
        }
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(more) => rest = more,
            None if tail.is_empty() => return Ok(fields),
            None => return fail("failed to parse csv mounts: text after a quoted field"),
        }
    }
}

/// The words that Go's `strconv.ParseBool` knows.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `64m`, `1.5GiB`: powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: &str = "kmgtp";
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.len() <= 1 => 0,
        letter if letter.len() == 1 => UNITS.find(letter)? + 1,
        _ => return None,
    };
    let factor = 1024_u64.checked_pow(u32::try_from(power).ok()?)?;
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor),
        Err(_) => {
            let bytes = number.parse::<f64>().ok()? * 1024_f64.powi(i32::try_from(power).ok()?);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked"
            )]
            (0.0..9e18).contains(&bytes).then_some(bytes as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let lookup = |name: &str| (name == "id").then(|| "npm".to_owned());
        let parse = |text: &str| Mount::parse(text, &Variables::new(&lookup));
        let cache = parse("type=cache,id=$id,target=/root/.npm,sharing=locked,mode=0700").unwrap();
        assert_eq!((cache.kind, cache.id.as_str()), (MountKind::Cache, "npm"));
        assert_eq!((cache.read_only, cache.mode), (false, Some(0o700)));
        let tmpfs = parse("type=tmpfs,\"target=/a,b\",size=1.5k").unwrap();
        assert_eq!((tmpfs.target.as_str(), tmpfs.size_bytes), ("/a,b", 1536));
        for (text, want) in [
            (
                "type=cashe",
                "unsupported mount type \"cashe\" (did you mean cache?)",
            ),
            (
                "targte=/x",
                "unexpected key 'targte' in 'targte=/x' (did you mean target?)",
            ),
            (
                "type=secret",
                "invalid secret mount. one of source, target required",
            ),
            ("size=1", "unexpected key 'size' for mount type 'bind'"),
            ("uid=1", "uid not allowed for \"bind\" type mounts"),
            (
                "\"type=bind",
                "failed to parse csv mounts: a quote without end",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), want);
        }
    }
}
