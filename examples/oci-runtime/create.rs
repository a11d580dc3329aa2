//! `create` and `run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, bail};
use container_engine::container_core::oci_spec::runtime;
use container_engine::container_core::runtime::load_spec;
use container_engine::container_core::{Container, CreateOptions, Stdio, Supervision};

use crate::Context;
use crate::descriptors::{self, connect, preserved, send_pidfd};
use crate::notify::Notify;
use crate::supervise::{Foreground, exit_code, write_pid};

#[derive(clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    options: Options,
    /// What the container is to be called
    id: String,
}

#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    options: Options,
    /// Leave the container to itself
    #[arg(short, long)]
    detach: bool,
    /// Keep what is left of the container when it has ended
    #[arg(long)]
    keep: bool,
    /// Accepted for compatibility: nothing is reaped here
    #[arg(long)]
    no_subreaper: bool,
    /// What the container is to be called
    id: String,
}

#[derive(clap::Args)]
struct Options {
    /// The directory that `config.json` is in [default: the current one]
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// The socket that the container's terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// The socket that a descriptor of the first process is sent to
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// The file that the number of the first process is written to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Not supported: the root of the container has to be a mount that can be pivoted to
    #[arg(long)]
    no_pivot: bool,
    /// Leave the container in the session keyring of the caller
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors, from 3 on, the container gets beside its streams
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    preserve_fds: u32,
}

impl Create {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        let spec = self.options.spec(context)?;
        create(context, &self.id, spec, &self.options, true)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        // Its whole message begins so for those who know runc.
        self.run_inner(context).context("run failed")
    }

    fn run_inner(self, context: &Context) -> anyhow::Result<ExitCode> {
        let foreground = match self.detach {
            true => None,
            false => Some(Foreground::new()?),
        };
        let spec = self.options.spec(context)?;
        let (mut container, notify) = create(context, &self.id, spec, &self.options, self.detach)?;
        let supervised = run_created(context, &self.id, &mut container, notify, foreground);
        if supervised.is_err() || !(self.detach || self.keep) {
            let deleted = context.runtime.delete(&self.id, true);
            for warning in deleted.unwrap_or_else(|error| vec![error]) {
                context.log.warn(&warning.report());
            }
        }
        supervised
    }
}

fn run_created(
    context: &Context,
    id: &str,
    container: &mut Container,
    notify: Option<Notify>,
    foreground: Option<Foreground>,
) -> anyhow::Result<ExitCode> {
    let terminal = match foreground {
        Some(_) => container.take_terminal()?,
        None => None,
    };
    let listening = notify.map(Notify::listen).transpose()?;
    context.runtime.start(id)?;
    let pid = container.pid();
    match (foreground, listening) {
        (Some(foreground), listening) => {
            // It ends with this program, at the latest.
            listening.map(|it| thread::spawn(move || it.forward(pid)));
            foreground.follow(container, terminal).map(exit_code)
        }
        (None, Some(listening)) => listening.forward(pid).map(|()| ExitCode::SUCCESS),
        (None, None) => Ok(ExitCode::SUCCESS),
    }
}

/// Creates the container, and leaves nothing of it behind if something fails.
fn create(
    context: &Context,
    id: &str,
    mut spec: runtime::Spec,
    options: &Options,
    detach: bool,
) -> anyhow::Result<(Container, Option<Notify>)> {
    if options.no_pivot {
        bail!("--no-pivot is not supported");
    }
    let notify = Notify::prepare(&context.root, id, &mut spec)?;
    let sockets = descriptors::activation(&mut spec)?;
    let first = 3 + u32::try_from(sockets.len())?;
    let terminal = has_terminal(&spec);
    check_console(options.console_socket.as_deref(), terminal, detach)?;
    let mut create = CreateOptions::default();
    create.bundle = std::path::absolute(&options.bundle)?;
    create.descriptors = sockets;
    create
        .descriptors
        .extend(preserved(first, options.preserve_fds)?);
    create.console_socket = connect(options.console_socket.as_deref())?;
    create.new_keyring = !options.no_new_keyring;
    create.supervision = match detach {
        true => Supervision::Disowned,
        false => Supervision::Detached,
    };
    if !terminal {
        create.stdio = [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit];
    }
    let made = context.runtime.create(id, &spec, create);
    let container = made.inspect_err(|_| notify.iter().for_each(Notify::remove))?;
    let finished = (|| {
        if let Some(path) = &options.pid_file {
            write_pid(path, container.pid())?;
        }
        if let Some(path) = &options.pidfd_socket {
            send_pidfd(path, container.pid())?;
        }
        anyhow::Ok(())
    })();
    match finished {
        Ok(()) => Ok((container, notify)),
        Err(failure) => {
            let _ = context.runtime.delete(id, true);
            Err(failure)
        }
    }
}

impl Options {
    fn spec(&self, context: &Context) -> anyhow::Result<runtime::Spec> {
        let loaded = load_spec(&self.bundle.join("config.json"))?;
        loaded.warnings.iter().for_each(|it| context.log.warn(it));
        Ok(loaded.spec)
    }
}

pub(crate) fn has_terminal(spec: &runtime::Spec) -> bool {
    let process = spec.process().as_ref();
    process.is_some_and(|process| process.terminal() == Some(true))
}

/// A terminal of somebody who stays here is shown here; of somebody who does not, it is sent away.
pub(crate) fn check_console(
    socket: Option<&Path>,
    terminal: bool,
    detach: bool,
) -> anyhow::Result<()> {
    match (terminal && detach, socket) {
        (true, None) => {
            bail!("cannot allocate tty if the runtime will detach without setting console socket")
        }
        (false, Some(_)) => {
            bail!("cannot use console socket if the runtime will not detach or allocate tty")
        }
        _ => Ok(()),
    }
}
