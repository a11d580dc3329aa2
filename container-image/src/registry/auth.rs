//! Who asks: nobody, a user with a password, or the bearer of a token.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::base64;
use super::url::Url;
use crate::{Error, Result};

/// Who somebody is to one registry. What is secret in it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub(super) Secret);

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    Password {
        username: String,
        password: String,
    },
    /// What a token server gave in exchange for a password.
    IdentityToken {
        username: String,
        token: String,
    },
    /// What the registry itself takes.
    Bearer(String),
}

impl Credentials {
    /// The credentials of `username`.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self(Secret::Password {
            username: username.into(),
            password: password.into(),
        })
    }

    /// An identity token (refresh token), for which the token server of a registry gives access.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Self(Secret::IdentityToken {
            username: String::new(),
            token: token.into(),
        })
    }

    /// A token that the registry itself takes.
    pub fn bearer_token(token: impl Into<String>) -> Self {
        Self(Secret::Bearer(token.into()))
    }

    /// The value of an `Authorization` header for `Basic`, if they have a password.
    pub(super) fn basic(&self) -> Option<String> {
        match &self.0 {
            Secret::Password { username, password } => {
                let pair = format!("{username}:{password}");
                Some(format!("Basic {}", base64::encode(pair.as_bytes())))
            }
            Secret::IdentityToken { .. } | Secret::Bearer(_) => None,
        }
    }

    /// The name of the user, as far as it is known.
    pub(super) fn username(&self) -> &str {
        match &self.0 {
            Secret::Password { username, .. } | Secret::IdentityToken { username, .. } => username,
            Secret::Bearer(_) => "",
        }
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
    Bearer(Bearer),
}

/// The token that a registry wants, and where it is to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: Option<String>,
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
        let realm = realm?;
        Some(Self::Bearer(Bearer {
            realm,
            service,
            scope,
        }))
    }
}

/// Whether the credentials of the registry at `registry` may go to the token server at `realm`: only
/// to the same host, to the one that Docker Hub is known to use, or to the host that the caller
/// `named`; and never from TLS to plain HTTP.
pub(super) fn may_know_credentials(registry: &Url, realm: &Url, named: Option<&str>) -> bool {
    let same = registry.host() == realm.host();
    let hub = registry.host() == HUB_HOST && realm.host() == HUB_TOKEN_HOST;
    let named = named.is_some_and(|host| host.eq_ignore_ascii_case(realm.host()));
    (same || hub || named) && (realm.https || !registry.https)
}

/// What opens a host for a while.
pub(super) struct Authorization {
    /// The value of the header.
    pub(super) header: String,
    /// What to ask with the next time instead of a password, where the token server gives that.
    pub(super) identity_token: Option<String>,
    expires: Option<Instant>,
}

impl Authorization {
    /// One that holds for as long as the client.
    pub(super) fn lasting(header: String) -> Self {
        Self {
            header,
            identity_token: None,
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
        identity_token: answer.refresh_token,
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
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

/// For answers that do not tell; the least that a token server may give.
const DEFAULT_TOKEN_SECONDS: u64 = 60;
const TOKEN_MARGIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials::new("user", "pass");
        assert_eq!(credentials.basic().unwrap(), "Basic dXNlcjpwYXNz");
        for credentials in [
            Credentials::new("user", "secret"),
            Credentials::identity_token("secret"),
            Credentials::bearer_token("secret"),
        ] {
            assert!(!format!("{credentials:?}").contains("secret"));
        }
    }

    #[test]
    fn tokens_last_as_long_as_their_server_says() {
        for (answer, is_fresh) in [
            (r#"{"token":"t"}"#, true),
            (r#"{"access_token":"t","expires_in":3600}"#, true),
            (r#"{"token":"t","expires_in":18446744073709551615}"#, true),
            (r#"{"token":"t","expires_in":3}"#, false),
        ] {
            let token = read_token(answer.as_bytes()).unwrap();
            assert_eq!(
                (token.header.as_str(), token.is_fresh()),
                ("Bearer t", is_fresh)
            );
        }
        for answer in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\r\nb: c"}"#] {
            let error = read_token(answer.as_bytes()).err().unwrap();
            assert_eq!(error.code(), "InvalidToken", "{answer}");
        }
    }

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let (service, scope) = (service.map(Into::into), scope.map(Into::into));
            let realm = realm.into();
            Some(Challenge::Bearer(Bearer {
                realm,
                service,
                scope,
            }))
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
            &url("https://registry.example.com:8443/token"),
            None
        ));
        assert!(!may_know_credentials(
            &registry,
            &url("http://registry.example.com/token"),
            None
        ));
        assert!(!may_know_credentials(
            &registry,
            &url("https://evil.example.com/token"),
            None
        ));
        let named = Some("evil.example.com");
        assert!(may_know_credentials(
            &registry,
            &url("https://evil.example.com/token"),
            named
        ));
        assert!(!may_know_credentials(
            &registry,
            &url("http://evil.example.com/token"),
            named
        ));
        let hub = url("https://registry-1.docker.io/v2/");
        assert!(may_know_credentials(
            &hub,
            &url("https://auth.docker.io/token"),
            None
        ));
        assert!(!may_know_credentials(
            &hub,
            &url("https://auth.docker.io.evil.com/token"),
            None
        ));
    }
}
