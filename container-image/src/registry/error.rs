//! What a registry said when it said no.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;

use super::transport::Response;
use super::url::Url;
use crate::{Error, ErrorKind};

/// The answer of a registry that refused or failed, as the [source](std::error::Error::source) of
/// an [`Error`].
///
/// # References
/// distribution-spec `spec.md#error-codes`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegistryError {
    /// The HTTP status.
    pub status: u16,
    /// The codes of the registry, such as `MANIFEST_UNKNOWN`.
    pub codes: Vec<String>,
    /// What was asked, without its query.
    pub url: String,
    /// The messages of the registry, or the start of a body that is not in the usual form.
    pub message: String,
    /// After what time the registry wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl RegistryError {
    /// The answer of the registry that caused `error`, if there was one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(answer) = cause.downcast_ref() {
                return Some(answer);
            }
            next = cause.source();
        }
        None
    }

    /// Reads the answer of a request of `method` to `url` as an error.
    pub(super) fn read(method: &str, url: &Url, mut response: Response) -> Error {
        let retry_after = response
            .header("retry-after")
            .and_then(|text| seconds_until(text.trim()));
        let mut body = Vec::new();
        // A body that cannot be read says nothing; the status does.
        let _ = response
            .body
            .by_ref()
            .take(MAX_BODY_BYTES)
            .read_to_end(&mut body);
        let (codes, message) = match serde_json::from_slice::<Answer>(&body) {
            Ok(answer) => {
                let messages: Vec<_> = answer
                    .errors
                    .iter()
                    .map(|entry| entry.message.as_str())
                    .collect();
                let messages = messages.join("; ");
                (
                    answer.errors.into_iter().map(|entry| entry.code).collect(),
                    messages,
                )
            }
            Err(_) => (Vec::new(), String::from_utf8_lossy(&body).into_owned()),
        };
        let legal = |c: &char| !c.is_control();
        let message = message
            .chars()
            .filter(legal)
            .take(MAX_MESSAGE_CHARS)
            .collect();
        let status = response.status;
        let answer = Self {
            status,
            codes,
            url: url.to_string(),
            message,
            retry_after: retry_after.map(Duration::from_secs),
        };
        let (kind, code) = answer.meaning();
        let error = Error::new(kind, code, format!("{method} {url}")).with_source(answer);
        if matches!(status, 408 | 429 | 500 | 502..=504) {
            error.with_retry()
        } else {
            error
        }
    }

    fn meaning(&self) -> (ErrorKind, &'static str) {
        let said = |code: &str| self.codes.iter().any(|said| said == code);
        match self.status {
            401 => (ErrorKind::Unauthorized, "Unauthorized"),
            403 => (ErrorKind::PermissionDenied, "Denied"),
            404 if said("NAME_UNKNOWN") => (ErrorKind::NotFound, "NameUnknown"),
            404 if said("BLOB_UNKNOWN") || self.url.contains("/blobs/") => {
                (ErrorKind::NotFound, "BlobUnknown")
            }
            404 if said("MANIFEST_UNKNOWN") || self.url.contains("/manifests/") => {
                (ErrorKind::NotFound, "ManifestUnknown")
            }
            404 => (ErrorKind::NotFound, "NotFound"),
            405 | 501 => (ErrorKind::Unsupported, "UnsupportedByRegistry"),
            429 => (ErrorKind::Busy, "TooManyRequests"),
            400..=499 => (ErrorKind::InvalidInput, "RefusedByRegistry"),
            500..=599 => (ErrorKind::Network, "RegistryUnavailable"),
            _ => (ErrorKind::Network, "BadResponse"),
        }
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the registry answered {}", self.status)?;
        for part in [&self.codes.join(", "), &self.message] {
            if !part.is_empty() {
                write!(f, ", {part}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for RegistryError {}

/// The seconds that a `Retry-After` header asks for, by their number or by the time at its end.
fn seconds_until(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let end = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let left = end.as_second() - jiff::Timestamp::now().as_second();
    Some(u64::try_from(left).unwrap_or(0))
}

#[derive(Deserialize)]
struct Answer {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    code: String,
    #[serde(default)]
    message: String,
}

const MAX_BODY_BYTES: u64 = 64 << 10;
const MAX_MESSAGE_CHARS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_or_a_time() {
        assert_eq!(seconds_until("120"), Some(120));
        assert_eq!(seconds_until("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        let later = seconds_until("Tue, 31 Dec 2199 23:59:59 GMT");
        assert!(later.is_some_and(|seconds| seconds > 1_000_000_000));
        for text in ["", "soon", "-5", "1.5"] {
            assert_eq!(seconds_until(text), None, "{text}");
        }
    }
}
