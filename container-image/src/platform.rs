//! Platforms: for which machine an image is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Descriptor, Error, ErrorKind, Result};

/// An operating system and processor, in the words of Go (`linux`, `amd64`, `arm` with `v7`).
///
/// # Examples
///
/// ```
/// use container_image::Platform;
///
/// let platform: Platform = "Linux/x86_64".parse()?;
/// assert_eq!(platform.to_string(), "linux/amd64");
/// # Ok::<(), container_image::Error>(())
/// ```
///
/// # References
/// image-spec `image-index.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// The processor architecture.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The variant of the architecture, such as `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// All other fields, as they came (`os.version`, `os.features`).
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl Platform {
    /// The platform of `os` and `architecture`, normalised.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = normal_architecture(architecture, variant.unwrap_or(""));
        Self {
            architecture,
            os: normal_os(os),
            variant: Some(variant).filter(|variant| !variant.is_empty()),
            extra: BTreeMap::new(),
        }
    }

    /// The platform that this library was built for.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// The same platform in its usual spelling: `x86_64` is `amd64`, `aarch64` is `arm64`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let extra = self.extra.clone();
        Self {
            extra,
            ..Self::new(&self.os, &self.architecture, self.variant.as_deref())
        }
    }

    /// How well an image for `offered` runs on this platform: 0 is best, `None` not at all.
    ///
    /// A newer variant runs what is made for older ones, `arm64` runs `arm`, `amd64` runs `386`.
    #[must_use]
    pub fn rank(&self, offered: &Platform) -> Option<usize> {
        let (wanted, offered) = (self.normalised(), offered.normalised());
        let variant = offered.variant.as_deref().unwrap_or("");
        let names = runnable(
            &wanted.architecture,
            wanted.variant.as_deref().unwrap_or(""),
        );
        let rank = names.iter().position(|(name, able)| {
            *name == offered.architecture && able == default_variant(name, variant)
        });
        rank.filter(|_| wanted.os == offered.os)
    }

    /// The best of `offered` for this platform.
    ///
    /// A descriptor that names no platform is taken only if nothing else is there.
    ///
    /// # Errors
    /// `PlatformNotFound` (kind `NotFound`); the message lists what is there.
    pub fn choose<'a>(&self, offered: &'a [Descriptor]) -> Result<&'a Descriptor> {
        let ranked = offered.iter().filter_map(|descriptor| {
            let platform = descriptor.platform.as_ref()?;
            Some((self.rank(platform)?, descriptor))
        });
        if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(best);
        }
        if let [only] = offered
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let there: Vec<_> = offered.iter().filter_map(|d| d.platform.as_ref()).collect();
        let there: Vec<_> = there.iter().map(ToString::to_string).collect();
        let doing = format!(
            "choose an image for {self}: there is only [{}]",
            there.join(", ")
        );
        Err(Error::new(ErrorKind::NotFound, "PlatformNotFound", doing))
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid("InvalidPlatform", format!("read platform {text:?}"));
        let parts: Vec<_> = text.split('/').collect();
        let host = Self::host();
        let valid = |part: &&str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            !part.is_empty() && part.chars().all(legal)
        };
        if text.len() > MAX_TEXT || !parts.iter().all(valid) {
            return Err(invalid());
        }
        match parts[..] {
            [os] if KNOWN_OS.contains(&normal_os(os).as_str()) => {
                Ok(Self::new(os, &host.architecture, host.variant.as_deref()))
            }
            [architecture] if is_known_architecture(architecture) => {
                Ok(Self::new(&host.os, architecture, None))
            }
            [os, architecture] => {
                let mut platform = Self::new(os, architecture, None);
                if platform.architecture == "arm" && platform.variant.as_deref() == Some("v7") {
                    platform.variant = None;
                }
                Ok(platform)
            }
            [os, architecture, variant] => {
                let mut platform = Self::new(os, architecture, Some(variant));
                if platform.architecture == "arm64" && platform.variant.is_none() {
                    platform.variant = Some("v8".into());
                }
                Ok(platform)
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// Longer text cannot name a platform.
const MAX_TEXT: usize = 256;

const KNOWN_OS: [&str; 6] = ["darwin", "freebsd", "illumos", "linux", "netbsd", "windows"];

const KNOWN_ARCHITECTURES: [&str; 13] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x",
];

fn is_known_architecture(name: &str) -> bool {
    KNOWN_ARCHITECTURES.contains(&normal_architecture(name, "").0.as_str())
}

fn normal_os(os: &str) -> String {
    match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".into(),
        os => os.into(),
    }
}

/// The usual spelling of an architecture and its variant; an empty variant is the default one.
fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "i486" | "i586" | "i686" | "x86" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "8.0" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.into(), variant.into())
}

/// The name under which [`runnable`] lists a normalised variant.
fn default_variant<'a>(architecture: &str, variant: &'a str) -> &'a str {
    match (architecture, variant) {
        ("arm64", "") => "v8",
        _ => variant,
    }
}

/// What a normalised platform can run, best first.
fn runnable(architecture: &str, variant: &str) -> Vec<(&'static str, String)> {
    let arm32 = |newest: u32| (5..=newest).rev().map(|n| ("arm", format!("v{n}")));
    let number = |text: &str| text.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
    match architecture {
        "amd64" => {
            let newest = number(variant).unwrap_or(1);
            let older = (2..=newest.min(MAX_VARIANT))
                .rev()
                .map(|n| ("amd64", format!("v{n}")));
            let base = [("amd64", String::new()), ("386", String::new())];
            older.chain(base).collect()
        }
        "arm" => match number(variant) {
            Some(newest) if newest > 5 => arm32(newest.min(MAX_VARIANT)).collect(),
            _ => vec![("arm", variant.into())],
        },
        "arm64" => {
            let mut all: Vec<_> = arm64_variants(default_variant("arm64", variant))
                .map(|v| ("arm64", v))
                .collect();
            all.extend(arm32(8));
            all
        }
        known => {
            let known = KNOWN_ARCHITECTURES.iter().find(|name| **name == known);
            known
                .map(|name| (*name, variant.to_owned()))
                .into_iter()
                .collect()
        }
    }
}

/// The variants of 64-bit Arm that `variant` can run, itself first: 9.x has what 8.(x + 5) has.
fn arm64_variants(variant: &str) -> impl Iterator<Item = String> {
    let number = variant.trim_start_matches('v');
    let parts = number.split_once('.').unwrap_or((number, "0"));
    let (major, minor) = (
        parts.0.parse().unwrap_or(8),
        parts.1.parse().unwrap_or(0_u32),
    );
    let (nines, eights) = match major {
        9_u32 => (
            Some(minor.min(MAX_VARIANT)),
            (minor.min(MAX_VARIANT) + 5).min(9),
        ),
        _ => (None, minor.min(9)),
    };
    let name = |major: u32, minor: u32| match minor {
        0 => format!("v{major}"),
        _ => format!("v{major}.{minor}"),
    };
    let nines = nines.into_iter().flat_map(|minor| (0..=minor).rev());
    nines
        .map(move |minor| name(9, minor))
        .chain((0..=eights).rev().map(move |minor| name(8, minor)))
}

/// No variant number beyond this is known; it bounds the list of what runs.
const MAX_VARIANT: u32 = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, MediaType};

    fn offer(platform: &str) -> Descriptor {
        let mut descriptor = Descriptor::of(MediaType::MANIFEST, platform.as_bytes());
        descriptor.platform = Some(platform.parse().unwrap());
        descriptor
    }

    #[test]
    fn the_best_platform_is_chosen_and_misses_list_what_is_there() {
        let offered = [
            offer("linux/386"),
            offer("linux/arm/v6"),
            offer("linux/amd64"),
        ];
        let chosen = |text: &str| {
            text.parse::<Platform>()
                .unwrap()
                .choose(&offered)
                .map(|d| d.digest)
        };
        assert_eq!(chosen("linux/amd64").unwrap(), Digest::of("linux/amd64"));
        assert_eq!(chosen("linux/arm64").unwrap(), Digest::of("linux/arm/v6"));
        let error = chosen("linux/s390x").unwrap_err();
        assert_eq!(error.code(), "PlatformNotFound");
        assert!(
            error
                .to_string()
                .contains("linux/386, linux/arm/v6, linux/amd64")
        );
    }

    #[test]
    fn odd_platforms_do_not_panic() {
        for text in [
            "linux/arm64/v",
            "linux/arm64/x",
            "linux/arm64/v9.99999999999",
            "linux/a",
        ] {
            let platform: Platform = text.parse().unwrap();
            let _ = platform.rank(&platform);
        }
        let empty = Platform::new("linux", "arm64", Some(""));
        assert_eq!(empty.rank(&empty), Some(0));
    }
}
