//! Just enough of URLs: an origin and a path.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// An absolute `http` or `https` URL without user information or fragment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) https: bool,
    /// Host and port, lower case.
    pub(super) authority: String,
    /// Path and query, from the first slash on.
    pub(super) target: String,
}

impl Url {
    pub(super) fn new(https: bool, authority: &str, target: impl Into<String>) -> Self {
        Self {
            https,
            authority: authority.to_ascii_lowercase(),
            target: target.into(),
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || Error::invalid("InvalidUrl", "read a URL that a registry sent");
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(invalid()),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let slash = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(slash);
        let legal = |c: char| c.is_ascii_graphic() && !"@\\\"<>^`{|}".contains(c);
        if authority.is_empty()
            || !authority.chars().all(legal)
            || !target.chars().all(legal_target)
        {
            return Err(invalid());
        }
        let target = if target.starts_with('/') {
            target.into()
        } else {
            format!("/{target}")
        };
        Ok(Self::new(https, authority, target))
    }

    /// Where a `Location` header that came with this URL leads to.
    pub(super) fn join(&self, location: &str) -> Result<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme()));
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{folder}{location}")
        };
        Self::parse(&format!("{}://{}{target}", self.scheme(), self.authority))
    }

    /// What is at `path` below this URL, which ends in a slash.
    pub(super) fn below(&self, path: &str) -> Self {
        let target = format!("{}{path}", self.target);
        Self {
            target,
            ..self.clone()
        }
    }

    /// These keys and values as a form, or as a query without its question mark.
    pub(super) fn form(pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(key, value)| format!("{key}={}", escape(value)))
            .collect();
        pairs.join("&")
    }

    /// The same URL with `key=value` added to its query.
    pub(super) fn with_query(&self, key: &str, value: &str) -> Self {
        let mark = if self.target.contains('?') { '&' } else { '?' };
        let target = format!("{}{mark}{key}={}", self.target, escape(value));
        Self {
            target,
            ..self.clone()
        }
    }

    pub(super) fn same_origin(&self, other: &Url) -> bool {
        let place = |url: &Self| (url.https, url.host().to_owned(), url.port());
        place(self) == place(other)
    }

    /// The host without its port and without brackets.
    pub(super) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// The port in the authority, or that of the protocol.
    pub(super) fn port(&self) -> u16 {
        let after_host = self.authority.rsplit(']').next().unwrap_or(&self.authority);
        let port = after_host
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(if self.https { 443 } else { 80 })
    }

    fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// The whole text, with secrets that the query may hold.
    pub(super) fn to_text(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.authority, self.target)
    }
}

/// Shows the URL without its query, which may hold signatures and tokens.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or("/");
        write!(f, "{}://{}{path}", self.scheme(), self.authority)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The host in `authority`, without port and brackets.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Whether `host` is this machine whatever the network says.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<Ipv4Addr>()
            .is_ok_and(|address| address.is_loopback())
        || host
            .parse::<Ipv6Addr>()
            .is_ok_and(|address| address.is_loopback())
}

fn legal_target(c: char) -> bool {
    c.is_ascii_graphic() && !"\\\"<>^`{|}".contains(c)
}

/// Writes `text` so that it can be the value of a query.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base = Url::parse("http://Host:5000/v2/a/blobs/uploads/?x=1").unwrap();
        let cases = [
            ("/v2/b?y=2", "http://host:5000/v2/b?y=2"),
            ("https://other/z", "https://other/z"),
            ("//other/z", "http://other/z"),
            ("?y", "http://host:5000/v2/a/blobs/uploads/?y"),
            ("id", "http://host:5000/v2/a/blobs/uploads/id"),
        ];
        for (location, url) in cases {
            assert_eq!(base.join(location).unwrap().to_text(), url);
        }
        assert_eq!(
            base.with_query("digest", "a b&c").target,
            format!("{}&digest=a%20b%26c", base.target)
        );
    }

    #[test]
    fn origins_are_the_same_with_or_without_the_usual_port() {
        let same = |one, two| {
            Url::parse(one)
                .unwrap()
                .same_origin(&Url::parse(two).unwrap())
        };
        assert!(same("https://host/a", "https://HOST:443/b"));
        assert!(same("http://[fc00::1]/", "http://[fc00::1]:80/"));
        for (one, two) in [
            ("https://host/", "http://host/"),
            ("https://host/", "https://host:80/"),
            ("https://host/", "https://host.example/"),
            ("http://host:5000/", "http://host:5001/"),
        ] {
            assert!(!same(one, two), "{one} {two}");
        }
    }

    #[test]
    fn hostile_urls_are_refused_and_secrets_not_shown() {
        for text in [
            "ftp://x/",
            "http://",
            "http://u:p@x/",
            "http://x/\r\nA: b",
            "http://x y/",
            "x",
        ] {
            assert!(Url::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            Url::parse("https://x/a?token=s").unwrap().to_string(),
            "https://x/a"
        );
    }

    #[test]
    fn loopback_is_told_by_address_not_by_prefix() {
        for (authority, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("127.9.9.9:1", true),
            ("[::1]:5000", true),
            ("127.0.0.1.example.com", false),
            ("localhost.example.com", false),
            ("[fc00::1]:1", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host_of(authority)), loopback, "{authority}");
        }
    }
}
