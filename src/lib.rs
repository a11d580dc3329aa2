//! A container engine as a library: pull images, run isolated and limited programs from them, and
//! connect those to each other and to the world. No daemon, no helper program.
//!
//! ```no_run
//! use container_engine::Engine;
//!
//! let engine = Engine::open_default()?;
//! let image = engine.images().pull("debian:bookworm")?;
//! let output = engine.containers().run(&image).cmd(["cat", "/etc/os-release"]).memory("200M").output()?;
//! println!("{}", String::from_utf8_lossy(&output.stdout));
//! # Ok::<(), container_engine::Error>(())
//! ```
//!
//! # Blocking
//!
//! Every verb that touches the disk, the network or a process blocks. In an async program call it
//! through `spawn_blocking`, or wait for [`Container::status_fd`] on your own reactor.
//!
//! # Trust
//!
//! Images, registries and what runs in containers are hostile; the kernel, this program and its
//! configuration are trusted. `THREATS.md` lists the attacks that must fail, each with its test.
//!
//! # Needs
//!
//! Linux 5.12 or newer. As root everything works; as a plain user containers run in a user namespace,
//! without bridges and, unless groups are delegated, without limits. [`Engine::info`] tells.
//!
//! # Lower crates
//!
//! [`container_core`], [`container_image`], [`container_storage`] and [`container_net`] are useful
//! alone, and never depend on each other.

mod config;
mod container;
mod containers;
mod control;
mod devices;
mod engine;
mod error;
mod exec;
mod images;
mod launch;
mod lower;
mod names;
mod output;
mod pull;
mod recover;
mod spec;
mod state;

pub use config::{Bytes, IntoBytes};
pub use container::{Container, State};
pub use container_core::{self, ExitStatus, Signal, Stdio, Terminal};
pub use container_image::{self, Digest, Event, Phase, Platform, Progress, PullStatus, Reference};
pub use container_net::{self, PublishedPort};
pub use container_storage;
pub use containers::{Containers, RunBuilder};
pub use control::UpdateBuilder;
pub use engine::{Engine, EngineBuilder, Info};
pub use error::{Error, ErrorKind, Result};
pub use exec::{ExecBuilder, Process};
pub use images::{Image, Images, PullBuilder, PushBuilder};
pub use oci_spec;
pub use output::Output;
pub use recover::Recovered;

/// The examples in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
