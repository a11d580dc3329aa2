//! References: the names under which people and registries know images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, Error, Result};

/// Names an image: `registry/repository:tag@digest`, always in its full form.
///
/// What people leave out is filled in as Docker does: `ubuntu` is
/// `docker.io/library/ubuntu:latest`. A name with a digest but without a tag gets no tag. The tag
/// `latest` is only the default, nothing else is special about it.
///
/// # Examples
///
/// ```
/// use container_image::Reference;
///
/// let reference: Reference = "localhost:5000/team/app@sha256:\
///     e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse()?;
/// assert_eq!((reference.registry(), reference.repository()), ("localhost:5000", "team/app"));
/// assert_eq!(reference.tag(), None);
///
/// let reference: Reference = "ubuntu".parse()?;
/// assert_eq!(reference.to_string(), "docker.io/library/ubuntu:latest");
/// assert_eq!(reference.familiar(), "ubuntu:latest");
/// # Ok::<(), container_image::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The host of the registry, with its port if one was given.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository within its registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The registry and the repository, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag; `None` only if there is a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index. With one, the tag is only a remark.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The short form that people write: without `docker.io` and `library`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        match short.strip_prefix("library/") {
            Some(official) if full.len() != short.len() && !self.repository[8..].contains('/') => {
                official.into()
            }
            _ => short.into(),
        }
    }

    /// The image of the same repository that has `tag`.
    ///
    /// # Errors
    /// `InvalidReference` if `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !Self::is_tag(tag) {
            return Err(invalid(
                tag,
                "a tag has up to 128 letters, digits, '_', '.' and '-'",
            ));
        }
        Ok(Self {
            tag: Some(tag.into()),
            digest: None,
            ..self.clone()
        })
    }

    /// The image of the same repository that has `digest`, without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// Whether `text` is a whole repository path.
    pub(crate) fn is_repository(text: &str) -> bool {
        text.len() <= MAX_REPOSITORY && text.split('/').all(is_component)
    }

    /// Whether `text` is a tag.
    pub(crate) fn is_tag(text: &str) -> bool {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = text.bytes();
        text.len() <= MAX_TAG
            && bytes.next().is_some_and(is_word)
            && bytes.all(|b| is_word(b) || b == b'.' || b == b'-')
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Reads the short or the full form.
    ///
    /// # Errors
    /// `InvalidReference`, or `InvalidDigest` for what follows an `@`.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_TEXT {
            return Err(invalid(
                &text.chars().take(80).collect::<String>(),
                "it is too long",
            ));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let after_slash = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[after_slash..].find(':') {
            Some(colon) => {
                let colon = after_slash + colon;
                (&name[..colon], Some(&name[colon + 1..]))
            }
            None => (name, None),
        };
        if tag.is_some_and(|tag| !Self::is_tag(tag)) {
            return Err(invalid(
                text,
                "a tag has up to 128 letters, digits, '_', '.' and '-'",
            ));
        }
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid(
                text,
                "64 hexadecimal digits are an image id, not a name",
            ));
        }
        let (registry, repository) = split_registry(name);
        if repository != repository.to_lowercase() {
            let advice = format!("names are lower case, try {:?}", text.to_lowercase());
            return Err(invalid(text, &advice));
        }
        if !is_registry(registry) {
            return Err(invalid(text, "the registry is no host name"));
        }
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = match official {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        if !Self::is_repository(&repository) {
            return Err(invalid(text, "want [registry/]repository[:tag][@digest]"));
        }
        Ok(Self {
            registry: registry.into(),
            repository,
            tag: match (tag, digest) {
                (None, None) => Some(DEFAULT_TAG.into()),
                (tag, _) => tag.map(Into::into),
            },
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The registry of names that give none.
pub(crate) const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// The old name of the default registry.
const LEGACY_REGISTRY: &str = "index.docker.io";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
/// Host, repository, tag and digest at their longest are below this.
const MAX_TEXT: usize = 1024;

fn invalid(text: &str, why: &str) -> Error {
    Error::invalid(
        "InvalidReference",
        format!("read image reference {text:?}: {why}"),
    )
}

/// Tells a registry from the first component of a repository: it has a dot, a colon or upper-case
/// letters, or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first != first.to_lowercase() =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    if registry == LEGACY_REGISTRY {
        (DEFAULT_REGISTRY, repository)
    } else {
        (registry, repository)
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let legal = |b: u8| b.is_ascii_hexdigit() || b == b':';
                if address.is_empty() || !address.bytes().all(legal) {
                    return false;
                }
                (
                    None,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':'))
                    },
                )
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(Some(port))),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_port = |port: Option<&str>| {
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
    };
    host.is_none_or(|host| host.split('.').all(is_label)) && port.is_none_or(is_port)
}

/// Whether `text` is one part of a repository: words of `a-z0-9` joined by `.`, `_`, `__` or `-`s.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|b| is_word(**b)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|b| !is_word(**b)).count();
        match &rest[..separator] {
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|b| *b == b'-') => {}
            _ => return false,
        }
        rest = &rest[separator..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_full_forms_round_trip() {
        let cases = [
            ("ubuntu", "docker.io/library/ubuntu:latest", "ubuntu:latest"),
            ("library/ubuntu:1", "docker.io/library/ubuntu:1", "ubuntu:1"),
            ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            (
                "registry.abc.net/org/img:tag",
                "registry.abc.net/org/img:tag",
                "",
            ),
            (
                "docker.io/oracle/mysql:v5.7.1",
                "docker.io/oracle/mysql:v5.7.1",
                "oracle/mysql:v5.7.1",
            ),
            ("k8s.gcr.io/x:v1", "k8s.gcr.io/x:v1", ""),
            (
                "172.18.8.104/rancher/x",
                "172.18.8.104/rancher/x:latest",
                "",
            ),
            ("host:85/x", "host:85/x:latest", ""),
            ("localhost/library/x", "localhost/library/x:latest", ""),
            ("[fc00::1]:5000/x", "[fc00::1]:5000/x:latest", ""),
        ];
        for (text, full, familiar) in cases {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            let familiar = if familiar.is_empty() { full } else { familiar };
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(
                reference.familiar().parse::<Reference>().unwrap(),
                reference
            );
            assert_eq!(full.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn upper_case_is_refused_with_advice() {
        let error = "Ubuntu:latest".parse::<Reference>().unwrap_err();
        assert_eq!(error.code(), "InvalidReference");
        assert!(
            error.to_string().contains("try \"ubuntu:latest\""),
            "{error}"
        );
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = format!("a/{}", "b".repeat(260));
        for text in [
            "", "..", "a/../b", "/a", "a/", "a:b:c", "a@b", "a b", "a\0", "ä", &long, "a:",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_in_full_is_none() {
        assert!("a".repeat(247).parse::<Reference>().is_ok());
        let error = "a".repeat(248).parse::<Reference>().unwrap_err();
        assert_eq!(error.code(), "InvalidReference");
    }
}
