//! What a container runs and how: the caller's wishes, before they meet the image.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(u64);

impl Bytes {
    /// This many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// `200M`, `1.5g`, `4096`: binary units `b`, `k`, `m`, `g`, `t`, as Docker reads them.
impl std::str::FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            || Error::invalid("InvalidSize", format!("{text:?} is not a number of bytes"));
        let lower = text.trim().to_ascii_lowercase();
        let lower = lower
            .strip_suffix("ib")
            .or(lower.strip_suffix('b'))
            .unwrap_or(&lower);
        let (number, shift) = match lower.as_bytes().last() {
            Some(b'k') => (&lower[..lower.len() - 1], 10),
            Some(b'm') => (&lower[..lower.len() - 1], 20),
            Some(b'g') => (&lower[..lower.len() - 1], 30),
            Some(b't') => (&lower[..lower.len() - 1], 40),
            _ => (lower, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 {
            return Err(invalid());
        }
        let whole: u64 = whole.parse().map_err(|_| invalid())?;
        let bytes = whole.checked_mul(1 << shift).ok_or_else(invalid)?;
        if fraction.is_empty() {
            return Ok(Self(bytes));
        }
        let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
        let part: u64 = fraction.parse().map_err(|_| invalid())?;
        // At most 10^6 * 2^40, which fits.
        let part = (part << shift) / scale;
        bytes.checked_add(part).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut rest = self.0;
        while rest >= 1024 && rest.is_multiple_of(1024) && unit + 1 < UNITS.len() {
            rest /= 1024;
            unit += 1;
        }
        write!(f, "{rest} {}", UNITS[unit])
    }
}

/// A size as a number or as text; text that is none is reported by the verb that ends the builder.
pub trait IntoBytes {
    /// The number of bytes.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidSize`).
    fn into_bytes(self) -> Result<Bytes>;
}

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Result<Bytes> {
        Ok(self)
    }
}

impl IntoBytes for u64 {
    fn into_bytes(self) -> Result<Bytes> {
        Ok(Bytes(self))
    }
}

impl IntoBytes for &str {
    fn into_bytes(self) -> Result<Bytes> {
        self.parse()
    }
}

/// Thousandths of processors.
///
/// # Errors
/// `InvalidInput` (`InvalidCpus`) below 0.01, and for what is no number.
pub(crate) fn cpus_milli(cpus: f64) -> Result<u64> {
    let milli = (cpus * 1000.0).round();
    if !(10.0..=1e9).contains(&milli) {
        let what = format!("allow {cpus} processors: want at least 0.01");
        return Err(Error::invalid("InvalidCpus", what));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number in the range just checked"
    )]
    Ok(milli as u64)
}

/// A directory or file of the host in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BindMount {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Which filter of system calls a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Seccomp {
    /// The default filter; none if privileged.
    #[default]
    Default,
    Unconfined,
    /// A profile as JSON.
    Profile(String),
}

/// Whose namespace a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NamespaceMode {
    #[default]
    Private,
    Host,
    /// That of the container with this name or ID.
    Container(String),
}

/// `private`, `host` or `container:` with a name or ID.
impl std::str::FromStr for NamespaceMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "private" => Ok(Self::Private),
            None if text == "host" => Ok(Self::Host),
            Some(("container", other)) if !other.is_empty() => Ok(Self::Container(other.into())),
            _ => {
                let what = format!("{text:?} is not private, host or container:NAME");
                Err(Error::invalid("InvalidNamespace", what))
            }
        }
    }
}

/// The caller's wishes; what is `None` or empty comes from the image or is the default.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunConfig {
    pub(crate) command: Option<Vec<String>>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) environment: Vec<String>,
    pub(crate) working_directory: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) memory: Option<Bytes>,
    pub(crate) memory_swap: Option<Bytes>,
    /// In thousandths of a processor.
    pub(crate) cpus_milli: Option<u64>,
    pub(crate) cpu_shares: Option<u64>,
    pub(crate) pids: Option<i64>,
    pub(crate) network: Option<String>,
    /// As `-p` takes them.
    pub(crate) publish: Vec<String>,
    pub(crate) extra_hosts: Vec<(String, IpAddr)>,
    pub(crate) dns: Vec<IpAddr>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) mounts: Vec<BindMount>,
    pub(crate) read_only: bool,
    pub(crate) add_capabilities: Vec<String>,
    pub(crate) drop_capabilities: Vec<String>,
    pub(crate) privileged: bool,
    pub(crate) hardened: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) ipc: NamespaceMode,
    pub(crate) pid: NamespaceMode,
    pub(crate) uts: NamespaceMode,
    /// Name, soft and hard limit.
    pub(crate) limits: Vec<(String, u64, u64)>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) tty: bool,
    /// Below an init of our own.
    pub(crate) init: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10b", 10),
            ("200M", 200 << 20),
            ("64k", 64 << 10),
            ("1g", 1 << 30),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("512mb", 512 << 20),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().get(), bytes, "{text}");
        }
        for text in [
            "",
            "b",
            "-1",
            "1x",
            "1.2.3m",
            "0x10",
            "99999999999t",
            "1.1234567k",
            "m",
        ] {
            assert_eq!(
                text.parse::<Bytes>().unwrap_err().code(),
                "InvalidSize",
                "{text}"
            );
        }
    }

    #[test]
    fn namespaces_by_name() {
        let other = NamespaceMode::Container("web".into());
        for (text, want) in [
            ("private", NamespaceMode::Private),
            ("host", NamespaceMode::Host),
            ("container:web", other),
        ] {
            assert_eq!(text.parse::<NamespaceMode>().unwrap(), want);
        }
        for text in ["", "shareable", "container", "container:", "host:web"] {
            let error = text.parse::<NamespaceMode>().unwrap_err();
            assert_eq!(error.code(), "InvalidNamespace", "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_whole_unit() {
        assert_eq!(Bytes::new(200 << 20).to_string(), "200 MiB");
        assert_eq!(Bytes::new(1025).to_string(), "1025 B");
    }
}
