//! `exec`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use container_engine::container_core::oci_spec::runtime::{Capability, Process};
use container_engine::container_core::runtime::parse_process;
use container_engine::container_core::{ExecOptions, Stdio, Supervision, capability};

use crate::Context;
use crate::create::check_console;
use crate::descriptors::{connect, preserved, send_pidfd};
use crate::supervise::{Foreground, exit_code, write_pid};

#[derive(clap::Args)]
pub(crate) struct Exec {
    /// The socket that the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// The socket that a descriptor of the process is sent to
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A variable of the environment
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,
    /// The user: a number, or a name that the container knows
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// A supplementary group
    #[arg(short = 'g', long, value_name = "GROUP")]
    additional_gids: Vec<u32>,
    /// The file that the process is described in, instead of here
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Leave the process to itself
    #[arg(short, long)]
    detach: bool,
    /// The file that the number of the process is written to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// The AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// The process gains no privileges by executing programs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_new_privs: Option<bool>,
    /// A capability that the process has beside those of the container
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,
    /// How many descriptors, from 3 on, the process gets beside its streams
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    preserve_fds: u32,
    /// A group below the container's own
    #[arg(long, value_name = "[CONTROLLER:]GROUP")]
    cgroup: Vec<String>,
    /// Execute in a paused container, too
    #[arg(long)]
    ignore_paused: bool,
    /// The container
    id: String,
    /// What to execute
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Tells failures of `exec` from exit codes of programs.
#[derive(Debug)]
pub(crate) struct ExecFailed;

impl std::fmt::Display for ExecFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("exec failed")
    }
}

impl Exec {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        self.execute(context).context(ExecFailed)
    }

    fn execute(self, context: &Context) -> anyhow::Result<ExitCode> {
        let foreground = match self.detach {
            true => None,
            false => Some(Foreground::new()?),
        };
        let mut options = ExecOptions::default();
        let process = self.described(context, &mut options)?;
        let terminal = process.terminal() == Some(true);
        check_console(self.console_socket.as_deref(), terminal, self.detach)?;
        if !terminal {
            options.stdio = [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit];
        }
        options.console_socket = connect(self.console_socket.as_deref())?;
        options.descriptors = preserved(3, self.preserve_fds)?;
        options.ignore_paused = self.ignore_paused;
        options.cgroup = self.group()?;
        options.supervision = match self.detach {
            true => Supervision::Disowned,
            false => Supervision::Attached,
        };
        let mut process = context.runtime.exec(&self.id, &process, options)?;
        if let Some(path) = &self.pid_file {
            write_pid(path, process.pid())?;
        }
        if let Some(path) = &self.pidfd_socket {
            send_pidfd(path, process.pid())?;
        }
        let Some(foreground) = foreground else {
            return Ok(ExitCode::SUCCESS);
        };
        let terminal = process.take_terminal()?;
        foreground.follow(&process, terminal).map(exit_code)
    }

    /// The process: that of a file, or the container's own with what is said here.
    fn described(&self, context: &Context, options: &mut ExecOptions) -> anyhow::Result<Process> {
        if let Some(path) = &self.process {
            let text = std::fs::read(path).with_context(|| format!("read {path:?}"))?;
            let (process, warnings) = parse_process(&text)?;
            warnings.iter().for_each(|it| context.log.warn(it));
            return Ok(process);
        }
        ensure!(!self.command.is_empty(), "exec args cannot be empty");
        let spec = context.runtime.spec(&self.id)?;
        let mut process = spec.process().clone().unwrap_or_default();
        process.set_args(Some(self.command.clone()));
        process.set_terminal(Some(self.tty));
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.clone());
        }
        if let Some(profile) = &self.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(label) = &self.process_label {
            process.set_selinux_label(Some(label.clone()));
        }
        if let Some(restricted) = self.no_new_privs {
            process.set_no_new_privileges(Some(restricted));
        }
        let mut environment = process.env().clone().unwrap_or_default();
        for variable in &self.env {
            // The last word on a name counts, whichever of two a program would take.
            let name = variable.split_inclusive('=').next().unwrap_or(variable);
            environment.retain(|other| !(name.ends_with('=') && other.starts_with(name)));
            environment.push(variable.clone());
        }
        process.set_env(Some(environment));
        self.set_user(&mut process, options)?;
        self.add_capabilities(&mut process)?;
        Ok(process)
    }

    fn set_user(&self, process: &mut Process, options: &mut ExecOptions) -> anyhow::Result<()> {
        let mut user = process.user().clone();
        if let Some(name) = &self.user {
            let (uid, gid) = name.split_once(':').unwrap_or((name, ""));
            match (uid.parse(), gid.parse()) {
                (Ok(uid), Ok(gid)) => {
                    user.set_uid(uid);
                    user.set_gid(gid);
                }
                (Ok(uid), Err(_)) if gid.is_empty() => {
                    user.set_uid(uid);
                }
                _ => options.user = Some(name.clone()),
            }
        }
        if !self.additional_gids.is_empty() {
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(&self.additional_gids);
            user.set_additional_gids(Some(groups));
        }
        process.set_user(user);
        Ok(())
    }

    fn add_capabilities(&self, process: &mut Process) -> anyhow::Result<()> {
        let more: Vec<Capability> = self
            .cap
            .iter()
            .map(|name| capability::parse(name))
            .collect::<Result<_, _>>()?;
        if more.is_empty() {
            return Ok(());
        }
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<_>| {
            let mut set: std::collections::HashSet<_> = set.clone().unwrap_or_default();
            set.extend(more.iter().copied());
            Some(set)
        };
        let (bounding, effective, permitted) = (
            with(sets.bounding()),
            with(sets.effective()),
            with(sets.permitted()),
        );
        // The kernel has none ambient that is not inheritable.
        let inherits = sets
            .inheritable()
            .as_ref()
            .is_some_and(|set| !set.is_empty());
        let ambient = match inherits {
            true => with(sets.ambient()),
            false => sets.ambient().clone(),
        };
        sets.set_bounding(bounding);
        sets.set_effective(effective);
        sets.set_permitted(permitted);
        sets.set_ambient(ambient);
        process.set_capabilities(Some(sets));
        Ok(())
    }

    fn group(&self) -> anyhow::Result<Option<String>> {
        match self.cgroup.as_slice() {
            [] => Ok(None),
            [group] if !group.contains(':') => Ok(Some(group.trim_matches('/').to_owned())),
            _ => bail!("--cgroup with a controller is not supported"),
        }
    }
}
