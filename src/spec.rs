//! Image config and the caller's wishes become an OCI runtime spec: a pure function.

use std::path::{Path, PathBuf};

use container_core::seccomp::{Host, Profile};
use container_core::{capability, defaults};
use container_image::RunConfig as ImageDefaults;
use oci_spec::runtime::{
    LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxIdMapping,
    LinuxIdMappingBuilder, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType, Process, Spec,
};

use crate::config::{NamespaceMode, RunConfig, Seccomp};
use crate::lower::Doing;
use crate::{Error, ErrorKind, Result};

/// The search path of images that have none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The period that a share of processors is counted in, in microseconds, as Docker has it.
const CPU_PERIOD: u64 = 100_000;

/// What a spec depends on beside the image and the wishes.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) hostname: &'a str,
    /// The directory that the root file system is mounted over.
    pub(crate) root: PathBuf,
    /// Where `hostname`, `hosts` and `resolv.conf` lie.
    pub(crate) files: &'a Path,
    pub(crate) cgroup: String,
    /// Whether the container shares the host's network.
    pub(crate) host_network: bool,
    /// The mask of the capabilities that this program has.
    pub(crate) capabilities: u64,
    /// What a privileged container gets.
    pub(crate) devices: Vec<LinuxDevice>,
    /// The files of the namespaces of other containers that it is to join.
    pub(crate) joined: Vec<(LinuxNamespaceType, PathBuf)>,
    /// The user and group to map as root, for a plain user.
    pub(crate) map_root_to: Option<(u32, u32)>,
}

/// The spec of a container.
///
/// # Errors
/// `InvalidInput` for wishes that break their rules or contradict each other.
pub(crate) fn spec(
    image: &ImageDefaults,
    config: &RunConfig,
    surroundings: &Surroundings<'_>,
) -> Result<Spec> {
    let mut spec = defaults::default_spec();
    // Whoever names a container that has the host's name is to hear of it.
    let own_name = config.uts == NamespaceMode::Private || config.hostname.is_some();
    spec.set_hostname(own_name.then(|| surroundings.hostname.to_owned()));
    set_root(&mut spec, config, surroundings);
    set_process(&mut spec, image, config, surroundings.hostname)?;
    set_mounts(&mut spec, config, surroundings);
    set_linux(&mut spec, config, surroundings)?;
    set_capabilities(&mut spec, config, surroundings.capabilities)?;
    if config.hardened {
        defaults::hardened(&mut spec);
    }
    set_seccomp(&mut spec, config)?;
    Ok(spec)
}

/// The filter that the caller wants, if it is one of the caller's own.
///
/// # Errors
/// `InvalidInput` (`InvalidProfile`).
pub(crate) fn seccomp(config: &RunConfig) -> Result<Option<Profile>> {
    match &config.seccomp {
        Seccomp::Profile(json) => Profile::parse(json.as_bytes())
            .map(Some)
            .doing(|| "read the seccomp profile".into()),
        Seccomp::Default | Seccomp::Unconfined => Ok(None),
    }
}

/// A program that is executed beside the container's own, with what that one has.
///
/// # Errors
/// As [`spec`].
pub(crate) fn exec_process(
    image: &ImageDefaults,
    config: &RunConfig,
    hostname: &str,
    capabilities: u64,
) -> Result<Process> {
    let mut spec = defaults::default_spec();
    set_process(&mut spec, image, config, hostname)?;
    set_capabilities(&mut spec, config, capabilities)?;
    if config.hardened {
        defaults::hardened(&mut spec);
    }
    Ok(spec.process().clone().unwrap_or_default())
}

/// What is executed: the entry point with the command as its arguments.
///
/// # Errors
/// `InvalidInput` (`NoCommand`) if image and caller name none.
pub(crate) fn arguments(image: &ImageDefaults, config: &RunConfig) -> Result<Vec<String>> {
    let entrypoint = config.entrypoint.as_ref().or(image.entrypoint.as_ref());
    // The image's command is made for the image's entry point.
    let inherited = image.cmd.as_ref().filter(|_| config.entrypoint.is_none());
    let command = config.command.as_ref().or(inherited);
    let arguments: Vec<_> = entrypoint
        .into_iter()
        .chain(command)
        .flatten()
        .cloned()
        .collect();
    if arguments.is_empty() {
        let what = "find a command: neither the image nor the caller names one";
        return Err(Error::invalid("NoCommand", what));
    }
    Ok(arguments)
}

/// The environment: the image's, overridden by the caller's, with a search path and the host name.
fn environment(image: &ImageDefaults, config: &RunConfig, hostname: &str) -> Vec<String> {
    let mut environment = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    for entry in image.env.iter().chain(&config.environment) {
        let name = entry.split('=').next().unwrap_or(entry);
        let same = |other: &String| other.split('=').next() == Some(name);
        match environment.iter_mut().find(|other| same(other)) {
            Some(old) => old.clone_from(entry),
            None => environment.push(entry.clone()),
        }
    }
    environment
}

fn set_root(spec: &mut Spec, config: &RunConfig, surroundings: &Surroundings<'_>) {
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(surroundings.root.clone());
    root.set_readonly(Some(config.read_only));
    spec.set_root(Some(root));
}

fn set_process(
    spec: &mut Spec,
    image: &ImageDefaults,
    config: &RunConfig,
    hostname: &str,
) -> Result<()> {
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(arguments(image, config)?));
    process.set_env(Some(environment(image, config, hostname)));
    let inherited = Some(&image.working_dir)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let cwd = config.working_directory.clone().or(inherited);
    process.set_cwd(Path::new("/").join(cwd.unwrap_or_default()));
    process.set_oom_score_adj(config.oom_score_adj);
    process.set_terminal(Some(config.tty));
    let mut limits = Vec::new();
    for (name, soft, hard) in &config.limits {
        let limit = PosixRlimitBuilder::default()
            .typ(limit_type(name)?)
            .soft(*soft)
            .hard(*hard)
            .build();
        limits.push(limit.map_err(|error| incomplete(&error))?);
    }
    process.set_rlimits((!limits.is_empty()).then_some(limits));
    spec.set_process(Some(process));
    Ok(())
}

/// The limit with this name, as `ulimit` or the runtime spec write it.
fn limit_type(name: &str) -> Result<PosixRlimitType> {
    let upper = name.to_ascii_uppercase();
    let full = format!("RLIMIT_{}", upper.strip_prefix("RLIMIT_").unwrap_or(&upper));
    serde_json::from_value(full.into())
        .map_err(|_| Error::invalid("InvalidLimit", format!("set the limit {name:?}")))
}

fn set_mounts(spec: &mut Spec, config: &RunConfig, surroundings: &Surroundings<'_>) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if config.ipc == NamespaceMode::Host {
        // POSIX shared memory and semaphores are files there.
        let shm = Path::new("/dev/shm");
        mounts.retain(|mount| mount.destination() != shm);
        mounts.push(bind(shm, shm, &["rw", "nosuid", "nodev", "noexec"]));
    }
    if config.privileged {
        for options in mounts
            .iter_mut()
            .filter_map(|mount| mount.options_mut().as_mut())
        {
            options.retain(|option| option != "ro");
        }
    }
    for file in ["hostname", "hosts", "resolv.conf"] {
        let target = Path::new("/etc").join(file);
        // The caller's own file wins.
        if !config.mounts.iter().any(|mount| mount.target == target) {
            mounts.push(bind(
                &surroundings.files.join(file),
                &target,
                &["rw", "nosuid", "nodev", "noexec"],
            ));
        }
    }
    for mount in &config.mounts {
        // Read-only is for all that is mounted below, too.
        let access = if mount.read_only { "rro" } else { "rw" };
        mounts.push(bind(&mount.source, &mount.target, &[access]));
    }
    spec.set_mounts(Some(mounts));
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(source.to_owned()));
    mount.set_destination(target.to_owned());
    let all = ["rbind", "rprivate"].iter().chain(options);
    mount.set_options(Some(all.map(ToString::to_string).collect()));
    mount
}

fn set_linux(spec: &mut Spec, config: &RunConfig, surroundings: &Surroundings<'_>) -> Result<()> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_cgroups_path(Some(surroundings.cgroup.clone().into()));
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    if surroundings.host_network {
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
        // These belong to the network namespace, which is the host's.
        linux.set_sysctl(None);
    }
    if let Some((uid, gid)) = surroundings.map_root_to {
        let mut user = LinuxNamespace::default();
        user.set_typ(LinuxNamespaceType::User);
        user.set_path(None);
        namespaces.push(user);
        linux.set_uid_mappings(Some(map_root(uid)?));
        linux.set_gid_mappings(Some(map_root(gid)?));
        if let Some(range) = linux
            .sysctl_mut()
            .as_mut()
            .and_then(|sysctl| sysctl.get_mut("net.ipv4.ping_group_range"))
        {
            // The kernel refuses groups that are not mapped.
            *range = "0 0".into();
        }
    }
    for (kind, mode) in [
        (LinuxNamespaceType::Ipc, &config.ipc),
        (LinuxNamespaceType::Pid, &config.pid),
        (LinuxNamespaceType::Uts, &config.uts),
    ] {
        if *mode == NamespaceMode::Host {
            namespaces.retain(|namespace| namespace.typ() != kind);
        }
    }
    for (kind, path) in &surroundings.joined {
        for namespace in namespaces.iter_mut().filter(|other| other.typ() == *kind) {
            namespace.set_path(Some(path.clone()));
        }
    }
    linux.set_namespaces(Some(namespaces));
    let limits = linux.resources().clone().unwrap_or_default();
    linux.set_resources(Some(resources(limits, config, surroundings)));
    if config.privileged {
        linux.set_masked_paths(None);
        linux.set_readonly_paths(None);
        linux.set_devices(Some(surroundings.devices.clone()));
    }
    spec.set_linux(Some(linux));
    Ok(())
}

/// Root of the container is `host` outside, and there is nobody else.
fn map_root(host: u32) -> Result<Vec<LinuxIdMapping>> {
    let map = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(host)
        .size(1_u32)
        .build();
    Ok(vec![map.map_err(|error| incomplete(&error))?])
}

/// What the builders of the spec say where a field is missing.
fn incomplete(error: &oci_spec::OciSpecError) -> Error {
    Error::new(
        ErrorKind::Internal,
        "IncompleteSpec",
        format!("build the spec: {error}"),
    )
}

/// The limits that the caller wants, added to `resources`.
pub(crate) fn limits(mut resources: LinuxResources, config: &RunConfig) -> LinuxResources {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if config.memory.is_some() || config.memory_swap.is_some() {
        let mut memory = LinuxMemory::default();
        memory.set_limit(config.memory.map(|bytes| number(bytes.get())));
        memory.set_swap(config.memory_swap.map(|bytes| number(bytes.get())));
        resources.set_memory(Some(memory));
    }
    if config.cpus_milli.is_some() || config.cpu_shares.is_some() {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(config.cpu_shares);
        if let Some(milli) = config.cpus_milli {
            cpu.set_period(Some(CPU_PERIOD));
            cpu.set_quota(Some(number(milli.saturating_mul(CPU_PERIOD / 1000))));
        }
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = config.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources
}

fn resources(
    defaults: LinuxResources,
    config: &RunConfig,
    surroundings: &Surroundings<'_>,
) -> LinuxResources {
    let mut resources = limits(defaults, config);
    if config.pids.is_none() && surroundings.map_root_to.is_some() {
        // A plain user has no group to enforce the default in; whoever asks for a limit gets an
        // error instead.
        resources.set_pids(None);
    }
    if surroundings.map_root_to.is_some() {
        resources.set_devices(None);
    } else if config.privileged {
        let mut all = LinuxDeviceCgroup::default();
        all.set_allow(true);
        all.set_typ(Some(LinuxDeviceType::A));
        all.set_access(Some("rwm".into()));
        resources.set_devices(Some(vec![all]));
    }
    resources
}

/// `own`: the mask of the capabilities that this program has.
fn set_capabilities(spec: &mut Spec, config: &RunConfig, own: u64) -> Result<()> {
    let all = config.privileged.then(|| "ALL".to_owned());
    let add: Vec<_> = config.add_capabilities.iter().cloned().chain(all).collect();
    if add.is_empty() && config.drop_capabilities.is_empty() {
        return Ok(());
    }
    let mask = capability::adjust(capability::DEFAULT, &add, &config.drop_capabilities)
        .doing(|| "choose capabilities".into())?;
    // What this program lacks itself it cannot give, and `ALL` means all that it can.
    defaults::set_capabilities(spec, mask & own);
    Ok(())
}

/// Puts another filter in the place of the default, which the spec has.
fn set_seccomp(spec: &mut Spec, config: &RunConfig) -> Result<()> {
    let filter = match (seccomp(config)?, &config.seccomp) {
        (Some(profile), _) => {
            let process = spec.process().as_ref();
            let sets = process.and_then(|process| process.capabilities().as_ref());
            let bounding = sets.and_then(|sets| sets.bounding().as_ref());
            let host = Host::current(bounding.map_or(0, capability::mask));
            let filter = profile.expand(&host);
            Some(filter.doing(|| "expand the seccomp profile".into())?)
        }
        (None, Seccomp::Default) if !config.privileged => return Ok(()),
        (None, _) => None,
    };
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_seccomp(filter);
    spec.set_linux(Some(linux));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        (!text.is_empty()).then(|| text.split(' ').map(str::to_owned).collect())
    }

    /// Docker's matrix: image entry point and command, the caller's, and what is executed.
    #[test]
    fn arguments_of_image_and_caller() {
        for (image_entrypoint, image_cmd, entrypoint, cmd, executed) in [
            ("", "sh", "", "", "sh"),
            ("", "sh", "", "ls -l", "ls -l"),
            ("top", "-b", "", "", "top -b"),
            ("top", "-b", "", "-H", "top -H"),
            ("top", "-b", "ps", "", "ps"),
            ("top", "-b", "ps", "aux", "ps aux"),
            ("", "", "ps", "aux", "ps aux"),
        ] {
            let image = ImageDefaults {
                entrypoint: words(image_entrypoint),
                cmd: words(image_cmd),
                ..ImageDefaults::default()
            };
            let config = RunConfig {
                entrypoint: words(entrypoint),
                command: words(cmd),
                ..RunConfig::default()
            };
            assert_eq!(arguments(&image, &config).unwrap().join(" "), executed);
        }
        let nothing = arguments(&ImageDefaults::default(), &RunConfig::default());
        assert_eq!(nothing.unwrap_err().code(), "NoCommand");
    }

    #[test]
    fn the_callers_variables_win() {
        let image = ImageDefaults {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            ..ImageDefaults::default()
        };
        let config = RunConfig {
            environment: vec!["A=2".into(), "B=x=y".into()],
            ..RunConfig::default()
        };
        let merged = environment(&image, &config, "box");
        assert_eq!(merged, ["PATH=/bin", "HOSTNAME=box", "A=2", "B=x=y"]);
    }

    #[test]
    fn limits_by_name() {
        assert_eq!(limit_type("nofile").unwrap(), PosixRlimitType::RlimitNofile);
        assert_eq!(
            limit_type("RLIMIT_CORE").unwrap(),
            PosixRlimitType::RlimitCore
        );
        assert_eq!(limit_type("nosuch").unwrap_err().code(), "InvalidLimit");
    }
}
