//! Profiles in Docker's format, and what they come to for one container on one host.

use std::fs;
use std::sync::OnceLock;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscallBuilder,
};
use serde::Deserialize;

use crate::{Error, Result, capability};

/// A seccomp profile: rules that apply under conditions.
///
/// A filter of the runtime spec is a profile too, one without conditions.
///
/// # References
/// Docker's documentation, "Seccomp security profiles for Docker"; runtime-spec
/// `config-linux.md#seccomp`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Profile {
    /// What happens to a call without a rule.
    pub default_action: LinuxSeccompAction,
    /// The error number of the default action; `EPERM` if unset.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// The architectures to filter, whatever the host's. Not together with `arch_map`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architectures: Vec<Arch>,
    /// The architectures to filter on each native one.
    #[serde(default, deserialize_with = "null_as_default")]
    pub arch_map: Vec<ArchMap>,
    /// How the filter is loaded.
    #[serde(default, deserialize_with = "null_as_default")]
    pub flags: Vec<LinuxSeccompFilterFlag>,
    /// The rules.
    #[serde(default, deserialize_with = "null_as_default")]
    pub syscalls: Vec<Rule>,
}

/// A native architecture and those that its kernel runs beside it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ArchMap {
    /// The native one.
    pub architecture: Arch,
    /// The others.
    #[serde(default, deserialize_with = "null_as_default")]
    pub sub_architectures: Vec<Arch>,
}

/// What happens to some calls, under conditions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rule {
    /// The calls.
    #[serde(default, deserialize_with = "null_as_default")]
    pub names: Vec<String>,
    /// One call, in the older format.
    #[serde(default)]
    pub name: String,
    /// What happens.
    pub action: LinuxSeccompAction,
    /// The error number of the action; `EPERM` if unset.
    #[serde(default)]
    pub errno_ret: Option<u32>,
    /// What must hold for the arguments of a call.
    #[serde(default, deserialize_with = "null_as_default")]
    pub args: Vec<LinuxSeccompArg>,
    /// The rule needs all of this.
    #[serde(default, deserialize_with = "null_as_default")]
    pub includes: Condition,
    /// The rule is dropped for any of this.
    #[serde(default, deserialize_with = "null_as_default")]
    pub excludes: Condition,
}

/// Facts about a container and its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Condition {
    /// Capabilities in the bounding set: all of them to include, any to exclude.
    #[serde(default, deserialize_with = "null_as_default")]
    pub caps: Vec<String>,
    /// The native architecture is one of these, by Go's names (`amd64`, `arm64`…).
    #[serde(default, deserialize_with = "null_as_default")]
    pub arches: Vec<String>,
    /// The kernel is at least this one, as `major.minor`.
    #[serde(default)]
    pub min_kernel: Option<String>,
}

/// What a profile is expanded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The container's bounding set, a mask as in [`capability`].
    pub capabilities: u64,
    /// The native architecture.
    pub arch: Arch,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
}

impl Host {
    /// The running host, for a container with the bounding set `capabilities`.
    #[must_use]
    pub fn current(capabilities: u64) -> Self {
        static KERNEL: OnceLock<(u32, u32)> = OnceLock::new();
        let kernel = *KERNEL.get_or_init(|| {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            read_version(&release).unwrap_or_default()
        });
        Self {
            capabilities,
            arch: NATIVE,
            kernel,
        }
    }
}

impl Profile {
    /// Reads a profile from JSON, Docker's or that of the runtime spec.
    ///
    /// # Errors
    /// `InvalidProfile`.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let invalid = |what: &str| Err(Error::invalid("InvalidProfile", what));
        let profile: Self = serde_json::from_slice(json).map_err(|error| {
            Error::invalid("InvalidProfile", "parse seccomp profile").with_source(error)
        })?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return invalid("parse seccomp profile: it has both architectures and archMap");
        }
        for rule in &profile.syscalls {
            if !rule.name.is_empty() && !rule.names.is_empty() {
                return invalid("parse seccomp profile: a rule has both name and names");
            }
            for condition in [&rule.includes, &rule.excludes] {
                condition.check()?;
            }
        }
        Ok(profile)
    }

    /// Gives the filter for a container on `host`.
    ///
    /// # Errors
    /// `InvalidProfile` for a kernel version or capability that cannot be read.
    pub fn expand(&self, host: &Host) -> Result<LinuxSeccomp> {
        let mut syscalls = Vec::new();
        for rule in &self.syscalls {
            if !rule.includes.includes(host)? || rule.excludes.excludes(host)? {
                continue;
            }
            let mut names = rule.names.clone();
            if !rule.name.is_empty() {
                names.push(rule.name.clone());
            }
            let mut call = LinuxSyscallBuilder::default()
                .names(names)
                .action(rule.action);
            if let Some(errno) = rule.errno_ret {
                call = call.errno_ret(errno);
            }
            if !rule.args.is_empty() {
                call = call.args(rule.args.clone());
            }
            syscalls.push(call.build().expect("every required field is set"));
        }
        let mut filter = LinuxSeccompBuilder::default()
            .default_action(self.default_action)
            .architectures(self.architectures(host.arch))
            .syscalls(syscalls);
        if let Some(errno) = self.default_errno_ret {
            filter = filter.default_errno_ret(errno);
        }
        if !self.flags.is_empty() {
            filter = filter.flags(self.flags.clone());
        }
        Ok(filter.build().expect("every required field is set"))
    }

    fn architectures(&self, native: Arch) -> Vec<Arch> {
        let Some(map) = self.arch_map.iter().find(|map| map.architecture == native) else {
            return self.architectures.clone();
        };
        [&[native], map.sub_architectures.as_slice()].concat()
    }
}

impl Condition {
    fn check(&self) -> Result<()> {
        self.capabilities()?;
        self.kernel().map(drop)
    }

    /// Whether all of it holds, or there is nothing to hold.
    fn includes(&self, host: &Host) -> Result<bool> {
        let capabilities = self
            .capabilities()?
            .into_iter()
            .all(|bit| host.capabilities & bit != 0);
        let kernel = self.kernel()?.is_none_or(|least| host.kernel >= least);
        Ok(capabilities && kernel && (self.arches.is_empty() || self.names_arch(host)))
    }

    /// Whether any of it holds.
    fn excludes(&self, host: &Host) -> Result<bool> {
        let capabilities = self
            .capabilities()?
            .into_iter()
            .any(|bit| host.capabilities & bit != 0);
        let kernel = self.kernel()?.is_some_and(|least| host.kernel >= least);
        Ok(capabilities || kernel || self.names_arch(host))
    }

    fn names_arch(&self, host: &Host) -> bool {
        let known = GO_ARCHES.iter().filter(|(_, arch)| *arch == host.arch);
        known
            .into_iter()
            .any(|(name, _)| self.arches.iter().any(|wanted| wanted == name))
    }

    fn capabilities(&self) -> Result<Vec<u64>> {
        let bit = |name: &String| {
            let capability = capability::parse(name).map_err(|error| {
                Error::invalid("InvalidProfile", "read a condition of a seccomp profile")
                    .with_source(error)
            })?;
            Ok(1 << capability::number(capability))
        };
        self.caps.iter().map(bit).collect()
    }

    fn kernel(&self) -> Result<Option<(u32, u32)>> {
        let Some(version) = self
            .min_kernel
            .as_deref()
            .filter(|version| !version.is_empty())
        else {
            return Ok(None);
        };
        read_version(version).map(Some).ok_or_else(|| {
            let what = format!("read minKernel {version:?} of a seccomp profile");
            Error::invalid("InvalidProfile", what)
        })
    }
}

/// Major and minor version at the start of `text`.
fn read_version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..digits].parse().ok()?))
}

/// Reads `null`, which Go writes for what is empty.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What this library was built for.
const NATIVE: Arch = if cfg!(target_arch = "x86_64") {
    Arch::ScmpArchX86_64
} else if cfg!(target_arch = "x86") {
    Arch::ScmpArchX86
} else if cfg!(target_arch = "aarch64") {
    Arch::ScmpArchAarch64
} else if cfg!(target_arch = "arm") {
    Arch::ScmpArchArm
} else if cfg!(target_arch = "riscv64") {
    Arch::ScmpArchRiscv64
} else {
    Arch::ScmpArchNative
};

/// The names that profiles have for architectures.
const GO_ARCHES: [(&str, Arch); 8] = [
    ("amd64", Arch::ScmpArchX86_64),
    ("386", Arch::ScmpArchX86),
    ("x86", Arch::ScmpArchX86),
    ("arm64", Arch::ScmpArchAarch64),
    ("arm", Arch::ScmpArchArm),
    ("riscv64", Arch::ScmpArchRiscv64),
    ("s390x", Arch::ScmpArchS390x),
    ("ppc64le", Arch::ScmpArchPpc64le),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn host(capabilities: u64) -> Host {
        Host {
            capabilities,
            arch: Arch::ScmpArchX86_64,
            kernel: (6, 1),
        }
    }

    fn names(rule: &str, host: &Host) -> Vec<String> {
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{rule}]}}"#);
        let filter = Profile::parse(json.as_bytes())
            .unwrap()
            .expand(host)
            .unwrap();
        filter
            .syscalls()
            .iter()
            .flatten()
            .flat_map(|call| call.names().clone())
            .collect()
    }

    #[test]
    fn conditions_choose_the_rules() {
        let admin = 1 << 21;
        for (condition, capabilities, applies) in [
            (r#""includes":{}"#, 0, true),
            (r#""includes":null,"excludes":{"caps":null}"#, 0, true),
            (r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#, 0, false),
            (r#""includes":{"caps":["CAP_SYS_ADMIN"]}"#, admin, true),
            (
                r#""includes":{"caps":["CAP_SYS_ADMIN","CAP_CHOWN"]}"#,
                admin,
                false,
            ),
            (
                r#""excludes":{"caps":["CAP_SYS_ADMIN","CAP_CHOWN"]}"#,
                admin,
                false,
            ),
            (r#""excludes":{"caps":["CAP_SYS_ADMIN"]}"#, 0, true),
            (r#""includes":{"arches":["arm64","amd64"]}"#, 0, true),
            (r#""includes":{"arches":["arm64"]}"#, 0, false),
            (r#""excludes":{"arches":["amd64"]}"#, 0, false),
            (r#""includes":{"minKernel":"4.8"}"#, 0, true),
            (r#""includes":{"minKernel":"6.1"}"#, 0, true),
            (r#""includes":{"minKernel":"6.10"}"#, 0, false),
        ] {
            let rule = format!(r#"{{"names":["ptrace"],"action":"SCMP_ACT_ALLOW",{condition}}}"#);
            let got = names(&rule, &host(capabilities));
            assert_eq!(
                !got.is_empty(),
                applies,
                "{condition} with {capabilities:x}"
            );
        }
    }

    #[test]
    fn the_older_format_names_one_call_a_rule() {
        let rule = r#"{"name":"open","action":"SCMP_ACT_ALLOW","args":[]}"#;
        assert_eq!(names(rule, &host(0)), ["open"]);
    }

    #[test]
    fn architectures_follow_the_native_one() {
        let json = br#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
            {"architecture":"SCMP_ARCH_RISCV64","subArchitectures":null}]}"#;
        let profile = Profile::parse(json).unwrap();
        for (arch, want) in [
            (
                Arch::ScmpArchX86_64,
                vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
            ),
            (Arch::ScmpArchRiscv64, vec![Arch::ScmpArchRiscv64]),
            (Arch::ScmpArchArm, vec![]),
        ] {
            let filter = profile.expand(&Host { arch, ..host(0) }).unwrap();
            assert_eq!(filter.architectures(), &Some(want), "{arch}");
        }
    }

    #[test]
    fn broken_profiles_are_refused() {
        for json in [
            "",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_MAYBE"}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
                "archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["b"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["FLY"]}}]}"#,
        ] {
            let error = Profile::parse(json.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "InvalidProfile", "{json}");
        }
    }

    #[test]
    fn versions_are_read_from_release_names() {
        assert_eq!(read_version("6.18.5-amd64"), Some((6, 18)));
        assert_eq!(read_version("4.8"), Some((4, 8)));
        assert_eq!(read_version("6"), None);
        assert_eq!(read_version("x.y"), None);
    }
}
