//! An OCI runtime with the command line of runc: `container_core::runtime` as a program.
//!
//! Podman, Docker, containerd and whatever else drives runc can be pointed at this executable. It is all
//! there is: the process that starts containers is this program itself, executed once more.
//!
//! ```sh
//! cargo build --release --example oci-runtime
//! podman --runtime "$PWD/target/release/examples/oci-runtime" run --rm busybox echo hello
//! ```

mod create;
mod delete;
mod descriptors;
mod events;
mod exec;
mod features;
mod freezer;
mod kill;
mod list;
mod log;
mod notify;
mod ps;
mod spec;
mod start;
mod state;
mod supervise;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use container_engine::container_core::runtime::Runtime;

use self::log::Log;

/// Runs containers from bundles, as the runtime specification of the OCI has it.
#[derive(Parser)]
#[command(name = "oci-runtime", version = VERSION, arg_required_else_help = true)]
#[command(disable_version_flag = true)]
struct CommandLine {
    /// Log what is done, not only what fails
    #[arg(long)]
    debug: bool,
    /// The file to log to [default: standard error]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: log::Format,
    /// The directory that containers are recorded in [default: /run/oci-runtime, or below
    /// $XDG_RUNTIME_DIR for a plain user]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Not supported: the groups are made without systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// Accepted for compatibility: whether groups are available is found out
    #[arg(long, value_name = "true|false|auto")]
    rootless: Option<String>,
    /// Show the version of this program and of the specification
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Create a container; its program waits for the start
    Create(create::Create),
    /// Create a container and start it
    Run(create::Run),
    /// Let the program of a created container run
    Start(start::Start),
    /// Show what a container is doing
    State(state::State),
    /// Send a signal to the first process of a container
    Kill(kill::Kill),
    /// Remove what is left of a container
    Delete(delete::Delete),
    /// Stop all processes of a container
    Pause(freezer::Pause),
    /// Let a paused container go on
    Resume(freezer::Resume),
    /// Execute a process in a container
    Exec(Box<exec::Exec>),
    /// List the processes of a container
    Ps(ps::Ps),
    /// Change the limits of a container
    Update(Box<update::Update>),
    /// Show what a container uses, and when it runs out of memory
    Events(events::Events),
    /// List containers
    List(list::List),
    /// Show what this runtime can do
    Features(features::Features),
    /// Write a spec to begin with
    Spec(spec::Spec),
    /// Not supported
    #[command(hide = true)]
    Checkpoint(Unsupported),
    /// Not supported
    #[command(hide = true)]
    Restore(Unsupported),
}

impl Verb {
    /// Whether it matters who makes groups; the others find them by what is recorded.
    fn makes_groups(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Run(_))
    }
}

#[derive(clap::Args)]
struct Unsupported {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _arguments: Vec<String>,
}

/// What the verbs work with.
struct Context {
    runtime: Runtime,
    root: PathBuf,
    /// The root was named on the command line.
    root_is_given: bool,
    log: Log,
}

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(problem) => {
            let failed = problem.use_stderr();
            // Nothing can be said if it cannot be printed.
            let _ = problem.print();
            return ExitCode::from(u8::from(failed));
        }
    };
    let log = match Log::open(line.log.as_deref(), line.log_format, line.debug) {
        Ok(log) => log,
        Err(problem) => return log::complain(&problem),
    };
    let outcome = dispatch(line, log.clone());
    outcome.unwrap_or_else(|failure| {
        log.error(&failure);
        ExitCode::from(match failure.is::<exec::ExecFailed>() {
            true => 255,
            false => 1,
        })
    })
}

fn dispatch(line: CommandLine, log: Log) -> anyhow::Result<ExitCode> {
    if line.systemd_cgroup && line.verb.makes_groups() {
        anyhow::bail!("--systemd-cgroup is not supported");
    }
    log.debug(&format!("called as {:?}", std::env::args_os()));
    let root_is_given = line.root.is_some();
    let root = std::path::absolute(line.root.unwrap_or_else(default_root))?;
    let context = Context {
        runtime: Runtime::open(&root)?,
        root,
        root_is_given,
        log,
    };
    match line.verb {
        Verb::Create(verb) => verb.run(&context),
        Verb::Run(verb) => verb.run(&context),
        Verb::Start(verb) => verb.run(&context),
        Verb::State(verb) => verb.run(&context),
        Verb::Kill(verb) => verb.run(&context),
        Verb::Delete(verb) => verb.run(&context),
        Verb::Pause(verb) => verb.run(&context),
        Verb::Resume(verb) => verb.run(&context),
        Verb::Exec(verb) => verb.run(&context),
        Verb::Ps(verb) => verb.run(&context),
        Verb::Update(verb) => verb.run(&context),
        Verb::Events(verb) => verb.run(&context),
        Verb::List(verb) => verb.run(&context),
        Verb::Features(verb) => verb.run(),
        Verb::Spec(verb) => verb.run(),
        Verb::Checkpoint(_) => anyhow::bail!("checkpoint is not supported"),
        Verb::Restore(_) => anyhow::bail!("restore is not supported"),
    }
}

fn default_root() -> PathBuf {
    let own = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
    PathBuf::from(own.unwrap_or_else(|| "/run".into())).join("oci-runtime")
}

/// In the lines that engines look for; `runtime::OCI_VERSION` is the second.
const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.1");
