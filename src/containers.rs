//! Containers: run, create, list, get.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use container_core::{ExitStatus, Stdio};

use crate::config::{BindMount, IntoBytes, NamespaceMode, RunConfig, Seccomp, cpus_milli};
use crate::container::{self, Container};
use crate::launch;
use crate::output::{self, Output};
use crate::spec;
use crate::state::{self, Record};
use crate::{Engine, Error, ErrorKind, Image, Result};

/// The containers of an engine.
#[derive(Clone, Debug)]
pub struct Containers {
    engine: Engine,
}

/// A container to be: what runs in it, and within which bounds.
///
/// Setters never fail; the verb that ends the builder reports everything that is wrong.
#[must_use = "nothing happens before a verb such as `output`"]
pub struct RunBuilder {
    engine: Engine,
    image: Image,
    name: Option<String>,
    config: RunConfig,
    stdio: [Stdio; 3],
    problems: Vec<Error>,
}

impl Containers {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// A container from `image`.
    ///
    /// # Examples
    /// ```no_run
    /// # let engine = container_engine::Engine::open_default()?;
    /// let image = engine.images().pull("debian:bookworm")?;
    /// let output = engine
    ///     .containers()
    ///     .run(&image)
    ///     .cmd(["cat", "/etc/os-release"])
    ///     .memory("200M")
    ///     .network("bridge")
    ///     .output()?;
    /// assert!(output.status.success());
    /// # Ok::<(), container_engine::Error>(())
    /// ```
    pub fn run(&self, image: &Image) -> RunBuilder {
        RunBuilder {
            engine: self.engine.clone(),
            image: image.clone(),
            name: None,
            config: RunConfig::default(),
            stdio: [Stdio::Null, Stdio::Null, Stdio::Null],
            problems: Vec::new(),
        }
    }

    /// The containers that were created to stay, running or not, oldest first.
    ///
    /// # Errors
    /// `Os` if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Container>> {
        let directory = self.engine.kept_directory("");
        let mut containers = Vec::new();
        for path in state::entries(&directory)? {
            // A broken record must not hide the others; recovery sets it aside.
            if let Ok(Some(record)) = state::read::<Record>(&path.join(state::DOCUMENT)) {
                containers.push(Container::found(&self.engine, record));
            }
        }
        containers.sort_by(|a, b| a.created().cmp(b.created()));
        Ok(containers)
    }

    /// The container with this name, ID, or unambiguous beginning of an ID.
    ///
    /// # Errors
    /// `NotFound` (`ContainerUnknown`), `InvalidInput` (`AmbiguousId`).
    pub fn get(&self, name_or_id: &str) -> Result<Container> {
        let mut all = self.list()?;
        if let Some(index) = all
            .iter()
            .position(|container| container.name() == Some(name_or_id))
        {
            return Ok(all.swap_remove(index));
        }
        all.retain(|container| !name_or_id.is_empty() && container.id().starts_with(name_or_id));
        match all.len() {
            0 => {
                let what = format!("find container {name_or_id:?}");
                Err(Error::new(ErrorKind::NotFound, "ContainerUnknown", what))
            }
            1 => Ok(all.remove(0)),
            _ => {
                let ids: Vec<_> = all.iter().map(Container::id).collect();
                let what = format!("container {name_or_id:?} may be any of {}", ids.join(", "));
                Err(Error::invalid("AmbiguousId", what))
            }
        }
    }
}

impl RunBuilder {
    /// The command, in place of the image's; arguments for the entry point if there is one.
    pub fn cmd<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Self {
        self.config.command = Some(command.into_iter().map(Into::into).collect());
        self
    }

    /// The entry point, in place of the image's, whose command is then not used either.
    pub fn entrypoint<S: Into<String>>(mut self, entrypoint: impl IntoIterator<Item = S>) -> Self {
        self.config.entrypoint = Some(entrypoint.into_iter().map(Into::into).collect());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        match variable(name, value) {
            Ok(variable) => self.config.environment.push(variable),
            Err(error) => self.problems.push(error),
        }
        self
    }

    /// The working directory; made if missing.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.working_directory = Some(path.into());
        self
    }

    /// `USER[:GROUP]`, by name or number, as the image's own files know them.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.config.user = Some(user.into());
        self
    }

    /// The host name; the short ID unless set.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.config.hostname = Some(name.into());
        self
    }

    /// A name to find the container by; unless set, one that is created to stay gets a name at random,
    /// such as `keen_hopper`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The most memory that the container may use: a number of bytes, or text such as `200M`.
    pub fn memory(mut self, limit: impl IntoBytes) -> Self {
        self.config.memory = self.size(limit);
        self
    }

    /// The most memory and swap together; twice the memory unless set.
    pub fn memory_swap(mut self, limit: impl IntoBytes) -> Self {
        self.config.memory_swap = self.size(limit);
        self
    }

    /// How many processors' worth of time the container may use.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.config.cpus_milli = cpus_milli(cpus)
            .map_err(|error| self.problems.push(error))
            .ok();
        self
    }

    /// The container's weight when processors are short; 1024 unless set.
    pub fn cpu_shares(mut self, shares: u64) -> Self {
        self.config.cpu_shares = Some(shares);
        self
    }

    /// How many processes and threads there may be; -1 for any number.
    pub fn pids_limit(mut self, limit: i64) -> Self {
        self.config.pids = Some(limit);
        self
    }

    /// `none`, `host`, `bridge` or the name of a network; `bridge` unless set, for a plain user
    /// `none`.
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.config.network = Some(network.into());
        self
    }

    /// Publishes a port: `[[address:][host]:]container[/protocol]`, host and container a port or a
    /// range, as Docker's `-p`.
    pub fn publish(mut self, port: impl Into<String>) -> Self {
        self.config.publish.push(port.into());
        self
    }

    /// Adds a line to `/etc/hosts`.
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.config.extra_hosts.push((name.into(), address));
        self
    }

    /// A name server, in place of the host's.
    pub fn dns(mut self, server: IpAddr) -> Self {
        self.config.dns.push(server);
        self
    }

    /// A domain that short names are looked up in, in place of the host's.
    pub fn dns_search(mut self, domain: impl Into<String>) -> Self {
        self.config.dns_search.push(domain.into());
        self
    }

    /// Shows the file or directory `source` of the host at `target`, writable.
    pub fn bind(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.mount(source.into(), target.into(), false)
    }

    /// Shows the file or directory `source` of the host at `target`, with all that is mounted below
    /// it read-only.
    pub fn bind_read_only(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.mount(source.into(), target.into(), true)
    }

    /// Makes the root file system read-only.
    pub fn read_only(mut self) -> Self {
        self.config.read_only = true;
        self
    }

    /// Adds a capability, with or without `CAP_` in front; `ALL` for all that this program has.
    pub fn cap_add(mut self, capability: impl Into<String>) -> Self {
        self.config.add_capabilities.push(capability.into());
        self
    }

    /// Drops a capability; `ALL` for all.
    pub fn cap_drop(mut self, capability: impl Into<String>) -> Self {
        self.config.drop_capabilities.push(capability.into());
        self
    }

    /// Stricter than the default: no new privileges, no AUDIT_WRITE, MKNOD and NET_RAW.
    ///
    /// This breaks programs that gain privileges: sudo, su, a ping with file capabilities, sshd's
    /// login records, and debootstrap, which makes devices.
    pub fn hardened(mut self) -> Self {
        self.config.hardened = true;
        self
    }

    /// Gives all capabilities that this program has and the host's devices, makes `/sys` and the
    /// cgroups writable, and takes away the filter, the masks and the read-only paths: root in such a
    /// container can become root of the host. A plain user has no devices to give.
    pub fn privileged(mut self) -> Self {
        self.config.privileged = true;
        self
    }

    /// The filter of system calls in place of the default: JSON as Docker or the runtime spec have
    /// it, expanded for the capabilities of the container.
    ///
    /// The verb that ends the builder reports what cannot be read (`InvalidProfile`).
    pub fn seccomp_profile(mut self, json: impl Into<String>) -> Self {
        self.config.seccomp = Seccomp::Profile(json.into());
        self
    }

    /// Runs the container without a filter of system calls.
    pub fn seccomp_unconfined(mut self) -> Self {
        self.config.seccomp = Seccomp::Unconfined;
        self
    }

    /// Whose System V IPC and POSIX message queues the container uses: its own (`private`), the
    /// `host`'s with its `/dev/shm`, or those of another container that was created to stay and runs
    /// (`container:NAME`), whose `/dev/shm` is not shared. Those of every container may be joined, so
    /// that Docker's `shareable` is the same as `private`, which is the default.
    pub fn ipc(mut self, mode: &str) -> Self {
        let mode = if mode == "shareable" { "private" } else { mode };
        self.config.ipc = self.namespace(mode);
        self
    }

    /// Which processes the container sees: its own (`private`), those of the `host`, or those of
    /// another container that was created to stay and runs (`container:NAME`).
    pub fn pid(mut self, mode: &str) -> Self {
        self.config.pid = self.namespace(mode);
        self
    }

    /// Whose host name the container has: its own (`private`) or the `host`'s, which it could change.
    pub fn uts(mut self, mode: &str) -> Self {
        self.config.uts = self.namespace(mode);
        if matches!(self.config.uts, NamespaceMode::Container(_)) {
            let what = format!("use the host name of {mode:?}: want private or host");
            self.problems.push(Error::invalid("InvalidNamespace", what));
        }
        self
    }

    /// Sets a resource limit by name, such as `nofile`.
    pub fn ulimit(mut self, name: impl Into<String>, soft: u64, hard: u64) -> Self {
        self.config.limits.push((name.into(), soft, hard));
        self
    }

    /// How much sooner (up to 1000) or later (down to -1000) than others the kernel kills the
    /// container when memory is short.
    pub fn oom_score_adj(mut self, adjustment: i32) -> Self {
        self.config.oom_score_adj = Some(adjustment);
        self
    }

    /// Gives the program a terminal, for [`Container::take_terminal`], in place of the three streams.
    pub fn tty(mut self) -> Self {
        self.config.tty = true;
        self
    }

    /// Runs the program below an init of our own, which reaps what loses its parent and hands signals
    /// on.
    pub fn init(mut self) -> Self {
        self.config.init = true;
        self
    }

    /// Standard input; nothing unless set.
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Standard output; nothing unless set.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Standard error; nothing unless set.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// Runs the container to its end and gives its output; nothing of it stays.
    ///
    /// It dies with this program. Blocks.
    ///
    /// # Errors
    /// Everything wrong with the wishes (`InvalidInput`); `NotFound` (`CommandNotFound`),
    /// `PermissionDenied` (`CommandNotExecutable`), `Busy` (`PortTaken`), and the kinds of the
    /// operations below. `InvalidState` (`OutputTooLarge`) beyond 256 MiB of one stream.
    pub fn output(mut self) -> Result<Output> {
        self.stdio[1] = Stdio::Piped;
        self.stdio[2] = Stdio::Piped;
        let container = self.spawn()?;
        let streams = [container.take_stdout(), container.take_stderr()];
        output::collect(&container.running()?, streams)
    }

    /// Runs the container to its end; nothing of it stays. Blocks.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub fn status(self) -> Result<ExitStatus> {
        self.spawn()?.wait()
    }

    /// Starts the container; it dies with the last clone of the handle, and nothing of it stays.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub fn spawn(self) -> Result<Container> {
        let (engine, record, image, stdio) = self.finish(true)?;
        container::spawn(&engine, record, &image, stdio)
    }

    /// Creates the container, to be started any time, by any program. It stays until it is removed.
    ///
    /// # Errors
    /// As [`Self::output`]; `AlreadyExists` (`NameTaken`).
    pub fn create(self) -> Result<Container> {
        let (engine, record, image, _) = self.finish(false)?;
        container::create(&engine, record, &image)
    }

    /// Creates the container and starts it; it runs on when this program ends.
    ///
    /// # Errors
    /// As [`Self::create`]; the container stays if it was created but could not be started.
    pub fn detach(self) -> Result<Container> {
        let container = self.create()?;
        container.start()?;
        Ok(container)
    }

    fn mount(mut self, source: PathBuf, target: PathBuf, read_only: bool) -> Self {
        if !target.is_absolute() || !source.is_absolute() {
            let what = format!("bind {source:?} to {target:?}: want absolute paths");
            self.problems.push(Error::invalid("InvalidMount", what));
        }
        self.config.mounts.push(BindMount {
            source,
            target,
            read_only,
        });
        self
    }

    fn size(&mut self, limit: impl IntoBytes) -> Option<crate::Bytes> {
        limit
            .into_bytes()
            .map_err(|error| self.problems.push(error))
            .ok()
    }

    fn namespace(&mut self, mode: &str) -> NamespaceMode {
        mode.parse().unwrap_or_else(|error| {
            self.problems.push(error);
            NamespaceMode::default()
        })
    }

    /// Reports every problem at once, or gives what is needed to go on.
    fn finish(mut self, ephemeral: bool) -> Result<(Engine, Record, Image, [Stdio; 3])> {
        if let Some(name) = &self.name
            && !container::is_name(name)
        {
            let what = format!("name a container {name:?}: want letters, digits, _, . and -");
            self.problems.push(Error::invalid("InvalidName", what));
        }
        self.problems
            .extend(launch::check_ports(&self.config).err());
        self.problems.extend(spec::seccomp(&self.config).err());
        if self.config.tty && !ephemeral {
            let what = "give a container that stays a terminal, which nobody would hold";
            self.problems
                .push(Error::new(ErrorKind::Unsupported, "DetachedTerminal", what));
        }
        report(&self.problems, || {
            format!("run a container of {}", self.image)
        })?;
        let mut record = Record::new(state::new_id()?, self.config, ephemeral);
        record.name = self.name;
        record.image = self.image.digest().to_string();
        record.image_name = self.image.name();
        record.image_defaults = self.image.config().config.clone();
        record.layer = self.image.layer_name();
        Ok((self.engine, record, self.image, self.stdio))
    }
}

impl fmt::Debug for RunBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunBuilder")
            .field("image", &self.image)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// `NAME=value`, as the environment holds it.
///
/// # Errors
/// `InvalidInput` (`InvalidVariable`).
pub(crate) fn variable(name: &str, value: &str) -> Result<String> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        let what = format!("set the environment variable {name:?}");
        return Err(Error::invalid("InvalidVariable", what));
    }
    Ok(format!("{name}={value}"))
}

/// All that is wrong with the wishes of a builder, as one error with the kind and code of the first.
pub(crate) fn report(problems: &[Error], doing: impl FnOnce() -> String) -> Result<()> {
    let Some(first) = problems.first() else {
        return Ok(());
    };
    let all: Vec<_> = problems.iter().map(Error::report).collect();
    let what = format!("{}: {}", doing(), all.join("; "));
    Err(Error::new(first.kind(), first.code(), what))
}
