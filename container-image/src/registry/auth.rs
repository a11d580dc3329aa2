//! Who asks: nobody, a user with a password, or the bearer of a token.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::url::Url;
use crate::{Error, Result};

/// A user's name and password for one registry. They are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// The credentials of `username`.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
        }
    }

    /// The value of an `Authorization` header.
    pub(super) fn basic(&self) -> String {
        format!(
            "Basic {}",
            base64(format!("{}:{}", self.username, self.password).as_bytes())
        )
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What a registry wants to see, from a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads one header; `None` if it asks for something unknown.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        while let Some((name, value)) = rest.split_once('=') {
            let value = value.trim_start();
            let (text, after) = match value.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => value.split_at(value.find(',').unwrap_or(value.len())),
            };
            let field = match name.trim().to_ascii_lowercase().as_str() {
                "realm" => Some(&mut realm),
                "service" => Some(&mut service),
                "scope" => Some(&mut scope),
                _ => None,
            };
            if let Some(field) = field {
                *field = Some(text.trim().to_owned());
            }
            rest = after
                .trim_start()
                .strip_prefix(',')
                .unwrap_or("")
                .trim_start();
        }
        Some(Self::Bearer {
            realm: realm?,
            service,
            scope,
        })
    }
}

/// Whether the credentials of the registry at `registry` may go to the token server at `realm`: only
/// to the same host, or to the one that Docker Hub is known to use, and never from TLS to plain HTTP.
pub(super) fn may_know_credentials(registry: &Url, realm: &Url) -> bool {
    let same = registry.host() == realm.host();
    let hub = registry.host() == HUB_HOST && realm.host() == HUB_TOKEN_HOST;
    (same || hub) && (realm.https || !registry.https)
}

/// What opens a host for a while.
pub(super) struct Authorization {
    /// The value of the header.
    pub(super) header: String,
    expires: Option<Instant>,
}

impl Authorization {
    /// One that holds for as long as the client.
    pub(super) fn lasting(header: String) -> Self {
        Self {
            header,
            expires: None,
        }
    }

    /// Whether it still holds long enough for a request.
    pub(super) fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|end| Instant::now() < end)
    }
}

/// Reads the answer of a token server.
pub(super) fn read_token(body: &[u8]) -> Result<Authorization> {
    let invalid = || Error::invalid("InvalidToken", "read the answer of a token server");
    let answer: Token = serde_json::from_slice(body).map_err(|_| invalid())?;
    let token = answer.token.or(answer.access_token).ok_or_else(invalid)?;
    let legal = |b: u8| b.is_ascii_graphic();
    if token.is_empty() || !token.bytes().all(legal) {
        return Err(invalid());
    }
    let seconds = answer.expires_in.unwrap_or(DEFAULT_TOKEN_SECONDS);
    // Somewhat earlier, so that it does not end on the way. A day is as good as for ever.
    let lasts = Duration::from_secs(seconds.min(86_400)).saturating_sub(TOKEN_MARGIN);
    Ok(Authorization {
        header: format!("Bearer {token}"),
        expires: Some(Instant::now() + lasts),
    })
}

/// The host behind `docker.io`.
pub(super) const HUB_HOST: &str = "registry-1.docker.io";
const HUB_TOKEN_HOST: &str = "auth.docker.io";

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// For answers that do not tell; the least that a token server may give.
const DEFAULT_TOKEN_SECONDS: u64 = 60;
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| usize::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let used = digit <= chunk.len();
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if used { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (text, encoded) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj")] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(
            Credentials::new("user", "pass").basic(),
            "Basic dXNlcjpwYXNz"
        );
        assert!(!format!("{:?}", Credentials::new("user", "secret")).contains("secret"));
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(Into::into), scope.map(Into::into));
            Some(Challenge::Bearer {
                realm: realm.into(),
                service,
                scope,
            })
        };
        let cases = [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            (
                "bearer  realm=https://a/t , error=\"x\"",
                bearer("https://a/t", None, None),
            ),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
            ("", None),
        ];
        for (header, challenge) in cases {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }

    #[test]
    fn credentials_go_to_no_other_host_and_not_in_the_clear() {
        let url = |text| Url::parse(text).unwrap();
        let registry = url("https://registry.example.com/v2/");
        assert!(may_know_credentials(
            &registry,
            &url("https://registry.example.com:8443/token")
        ));
        assert!(!may_know_credentials(
            &registry,
            &url("http://registry.example.com/token")
        ));
        assert!(!may_know_credentials(
            &registry,
            &url("https://evil.example.com/token")
        ));
        let hub = url("https://registry-1.docker.io/v2/");
        assert!(may_know_credentials(
            &hub,
            &url("https://auth.docker.io/token")
        ));
        assert!(!may_know_credentials(
            &hub,
            &url("https://auth.docker.io.evil.com/token")
        ));
    }
}
