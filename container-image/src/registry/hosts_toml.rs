//! containerd's `hosts.toml`: the mirrors of a registry, and how to talk to each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::hosts::Need;
use super::tls::Trust;
use crate::{Error, Result};

/// What a `hosts.toml` says.
///
/// # References
/// containerd `docs/hosts.md`.
#[derive(Debug)]
pub(super) struct HostsFile {
    /// Where the registry itself is, if not where its name says.
    pub(super) server: Option<String>,
    pub(super) itself: HostSettings,
    /// The mirrors by address, in the order of the file.
    pub(super) hosts: Vec<(String, HostSettings)>,
}

/// How to talk to one host.
#[derive(Debug, Default)]
pub(super) struct HostSettings {
    /// What it may be asked for, if that is restricted.
    pub(super) capabilities: Option<Vec<Need>>,
    pub(super) trust: Option<Trust>,
    pub(super) headers: Vec<(String, String)>,
    /// Whether its address is that of the API itself, without `/v2/`.
    pub(super) override_path: bool,
    pub(super) dial_timeout: Option<Duration>,
}

impl HostsFile {
    /// Reads the file in `folder`, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("hosts.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::os(format!("read {}", path.display()), error)),
        };
        let failed = |error: Error| error.context(format!("read {}", path.display()));
        parse(&text, folder).map(Some).map_err(failed)
    }
}

/// Reads the text of a file in `folder`, which paths in it are relative to.
fn parse(text: &str, folder: &Path) -> Result<HostsFile> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error
            .span()
            .map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        invalid(&format!("line {line}: {}", error.message()))
    })?;
    let table = table.get_ref();
    let mut server = None;
    let mut hosts = Vec::new();
    if let Some(value) = table.get("server") {
        server = Some(text_of("server", value.get_ref())?.to_owned());
    }
    if let Some(value) = table.get("host") {
        let DeValue::Table(list) = value.get_ref() else {
            return Err(invalid("host is no table"));
        };
        for (address, value) in list {
            let DeValue::Table(settings) = value.get_ref() else {
                return Err(invalid("a host is no table"));
            };
            let settings = settings_of(settings, folder, &[])?;
            hosts.push((
                address.span().start,
                address.get_ref().to_string(),
                settings,
            ));
        }
    }
    hosts.sort_by_key(|(at, ..)| *at);
    Ok(HostsFile {
        server,
        itself: settings_of(table, folder, &["server", "host"])?,
        hosts: hosts
            .into_iter()
            .map(|(_, address, settings)| (address, settings))
            .collect(),
    })
}

/// Reads what is said of one host; `others` are keys that say something else.
fn settings_of(table: &DeTable<'_>, folder: &Path, others: &[&str]) -> Result<HostSettings> {
    let mut settings = HostSettings::default();
    let mut trust = Trust::default();
    let mut has_trust = false;
    for (key, value) in table {
        let (key, value) = (key.get_ref().as_ref(), value.get_ref());
        match key {
            "capabilities" => {
                let named = texts_of(key, value)?;
                let needs: Result<Vec<_>> = named.into_iter().map(capability).collect();
                settings.capabilities = Some(needs?);
            }
            "ca" => {
                let files = texts_of(key, value)?;
                trust
                    .authorities
                    .extend(files.into_iter().map(|file| folder.join(file)));
                has_trust = true;
            }
            "client" => {
                trust.identity = identity(value, folder)?;
                has_trust = true;
            }
            "skip_verify" => {
                trust.anybody = flag_of(key, value)?;
                has_trust = true;
            }
            "override_path" => settings.override_path = flag_of(key, value)?,
            "dial_timeout" => {
                let text = text_of(key, value)?;
                let span = text.parse::<jiff::SignedDuration>().ok();
                let span = span.and_then(|span| Duration::try_from(span).ok());
                settings.dial_timeout =
                    Some(span.ok_or_else(|| invalid("dial_timeout is no duration"))?);
            }
            "header" => {
                let DeValue::Table(headers) = value else {
                    return Err(invalid("header is no table"));
                };
                for (name, value) in headers {
                    for text in texts_of("header", value.get_ref())? {
                        let name = name.get_ref().to_string();
                        settings.headers.push((name, text.to_owned()));
                    }
                }
            }
            _ if others.contains(&key) => {}
            _ => return Err(invalid(&format!("{key} is not known"))),
        }
    }
    settings.trust = has_trust.then_some(trust);
    Ok(settings)
}

/// `client` is one file with certificate and key, or a pair of files, each perhaps in a list of which the
/// first counts.
fn identity(value: &DeValue<'_>, folder: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    let pair = match value {
        DeValue::Array(list) => match list.iter().next().map(|first| first.get_ref()) {
            Some(first @ DeValue::Array(_)) => texts_of("client", first)?,
            Some(first) => vec![text_of("client", first)?],
            None => return Ok(None),
        },
        value => vec![text_of("client", value)?],
    };
    match pair[..] {
        [one] | [one, ""] => Ok(Some((folder.join(one), folder.join(one)))),
        [certificate, key] => Ok(Some((folder.join(certificate), folder.join(key)))),
        _ => Err(invalid("client is neither a file nor a pair of files")),
    }
}

fn capability(text: &str) -> Result<Need> {
    match text {
        "resolve" => Ok(Need::Resolve),
        "pull" => Ok(Need::Pull),
        "push" => Ok(Need::Push),
        other => Err(invalid(&format!("the capability {other:?} is not known"))),
    }
}

fn texts_of<'a>(key: &str, value: &'a DeValue<'_>) -> Result<Vec<&'a str>> {
    match value {
        DeValue::Array(list) => list
            .iter()
            .map(|text| text_of(key, text.get_ref()))
            .collect(),
        value => Ok(vec![text_of(key, value)?]),
    }
}

fn text_of<'a>(key: &str, value: &'a DeValue<'_>) -> Result<&'a str> {
    match value {
        DeValue::String(text) => Ok(text),
        _ => Err(invalid(&format!("{key} is no text"))),
    }
}

fn flag_of(key: &str, value: &DeValue<'_>) -> Result<bool> {
    match value {
        DeValue::Boolean(flag) => Ok(*flag),
        _ => Err(invalid(&format!("{key} is neither true nor false"))),
    }
}

fn invalid(why: &str) -> Error {
    Error::invalid(
        "InvalidHosts",
        format!("read the hosts of a registry: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_who_is_asked_and_how() {
        let text = r#"
server = "https://registry-1.example.com"

[host."https://zulu.example.com"]
  capabilities = ["pull", "resolve"]
  ca = "zulu.crt"
  dial_timeout = "1m30s"
[host."http://alpha.example.com:5000/proxy"]
  capabilities = ["pull"]
  skip_verify = true
  override_path = true
  client = [["alpha.cert", "/etc/alpha.key"]]
  ca = ["one.crt", "/two.crt"]
  [host."http://alpha.example.com:5000/proxy".header]
    x-custom = ["1", "2"]
    authorization = "Basic x"
"#;
        let file = parse(text, Path::new("/certs")).unwrap();
        assert_eq!(
            file.server.as_deref(),
            Some("https://registry-1.example.com")
        );
        let [(first, zulu), (second, alpha)] = &file.hosts[..] else {
            panic!("two hosts");
        };
        assert_eq!(first, "https://zulu.example.com");
        assert_eq!(zulu.capabilities, Some(vec![Need::Pull, Need::Resolve]));
        assert_eq!(zulu.dial_timeout, Some(Duration::from_secs(90)));
        let trust = zulu.trust.as_ref().unwrap();
        assert_eq!(trust.authorities, [Path::new("/certs/zulu.crt")]);
        assert_eq!(second, "http://alpha.example.com:5000/proxy");
        assert!(alpha.override_path);
        let trust = alpha.trust.as_ref().unwrap();
        assert!(trust.anybody);
        let identity = ("/certs/alpha.cert".into(), "/etc/alpha.key".into());
        assert_eq!(trust.identity, Some(identity));
        assert_eq!(
            trust.authorities,
            [Path::new("/certs/one.crt"), Path::new("/two.crt")]
        );
        assert_eq!(alpha.headers.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("server = 1", "server is no text"),
            ("\n\nserver = ", "line 3"),
            ("[host.x]\ncapabilities = [\"fly\"]", "\"fly\""),
            ("[host.x]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host.x]\nno_such_key = 1", "no_such_key"),
            ("dial_timeout = \"soon\"", "dial_timeout"),
        ] {
            let error = parse(text, Path::new("/")).unwrap_err();
            assert_eq!(error.code(), "InvalidHosts");
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
