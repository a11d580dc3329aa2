//! The whole way on a fresh machine, with no network, no image and no tool at hand: packs an image
//! from this very program, pushes it to a registry that it serves itself, pulls it back, runs it in a
//! container, and shows what host and container see of each other.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! As root the container has a memory limit, a bridge network and everything else; as a plain user it
//! has what a plain user can have, and the program says which.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use container_engine::container_image::server::{Server, ServerOptions};
use container_engine::container_image::{ImageBuilder, PushOptions, Store, push};
use container_engine::{Digest, Engine, Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nix::ifaddrs::getifaddrs;

/// What a process finds out about itself, in the order of the table.
const FACTS: [&str; 9] = [
    "process id",
    "processes it can see",
    "user id",
    "host name",
    "addresses",
    "root file system",
    "mounts",
    "memory limit",
    "capabilities",
];

/// How much memory the container may use.
const MEMORY: &str = "64M";

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("look") {
        for (fact, value) in FACTS.iter().zip(look()?) {
            println!("{fact}\t{value}");
        }
        return Ok(());
    }
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let mut clock = Clock::start();

    let engine = Engine::builder()
        .root(scratch.path().join("engine"))
        .run(scratch.path().join("run"))
        .open()?;
    clock.lap("open the engine");

    let registry = Server::start(ServerOptions::default())?;
    let name = format!("{}/quickstart:latest", registry.address());
    let layout = Store::open(scratch.path().join("packed"))?;
    let mut builder = ImageBuilder::new();
    for file in own_files()? {
        // A link in the path, such as that of the loader, is a plain file in the image.
        builder = builder.copy(fs::canonicalize(&file)?, &file);
    }
    let program = std::env::current_exe()?;
    let program = program
        .to_str()
        .context("the path of this program is not UTF-8")?;
    let image = builder.entrypoint([program]).cmd(["look"]).build(&layout)?;
    clock.lap("pack an image from this program");

    let reference = name.parse()?;
    let mut options = PushOptions::default();
    options.progress = Some(bars());
    push(&image, &reference, &options)?;
    clock.lap("push it to a registry on loopback");

    let image = engine.images().pull_with(&name).progress(bars()).run()?;
    clock.lap("pull it back, verify and unpack it");

    let info = engine.info()?;
    let run = engine.containers().run(&image).hostname("quickstart");
    let run = if info.rootless {
        run
    } else {
        run.memory(MEMORY).network("bridge")
    };
    let output = run.output()?;
    clock.lap("run it, from creation to removal");
    anyhow::ensure!(
        output.status.success(),
        "the container ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );

    let inside = String::from_utf8(output.stdout)?;
    let inside = inside.lines().filter_map(|line| line.split_once('\t'));
    println!("\n{:<22}{:<34}container", "", "host");
    for ((fact, host), (_, container)) in FACTS.iter().zip(look()?).zip(inside) {
        println!("{fact:<22}{host:<34}{container}");
    }
    println!();
    clock.report();
    println!(
        "\nstorage driver {}, cgroup {}, kernel {}",
        info.storage_driver, info.cgroup_version, info.kernel
    );
    if info.rootless {
        println!("as a plain user: a user namespace, but no memory limit and no bridge network");
    }
    engine.images().remove(&name)?;
    Ok(())
}

/// This program and the libraries that it loads.
fn own_files() -> Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps").context("read the own memory map")?;
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]));
    let mut files: BTreeSet<PathBuf> = mapped
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect();
    // The loader is asked for by the name in the program, which is a link on most systems.
    let loader = PathBuf::from("/lib64/ld-linux-x86-64.so.2");
    files.extend(loader.is_file().then_some(loader));
    Ok(files)
}

/// The facts about this process.
fn look() -> Result<[String; FACTS.len()]> {
    let processes = fs::read_dir("/proc")?.flatten().filter(|entry| {
        entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|byte| byte.is_ascii_digit())
    });
    let addresses: BTreeSet<String> = getifaddrs()?
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip().to_string()))
        .collect();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut root = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next() == Some("/")).then(|| fields.next().unwrap_or("?").to_owned())
    });
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let known: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?
        .trim()
        .parse()?;
    let effective = u64::from_str_radix(effective.unwrap_or("0").trim(), 16)?;
    Ok([
        std::process::id().to_string(),
        processes.count().to_string(),
        nix::unistd::geteuid().to_string(),
        nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        addresses.into_iter().collect::<Vec<_>>().join(" "),
        root.next_back().unwrap_or_else(|| "?".into()),
        mounts.lines().count().to_string(),
        memory_limit(),
        format!("{} of {}", effective.count_ones(), known + 1),
    ])
}

/// The limit of the own cgroup, of either version.
fn memory_limit() -> String {
    let files = [
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
    ];
    let limit = files.iter().find_map(|file| fs::read_to_string(file).ok());
    let bytes: Option<u64> = limit.and_then(|limit| limit.trim().parse().ok());
    // Version 1 writes "none" as a number close to 2^63.
    match bytes.filter(|bytes| *bytes < 1 << 60) {
        Some(bytes) => format!("{} MiB", bytes >> 20),
        None => "none".into(),
    }
}

/// A progress bar for each blob; plain silence where there is no terminal.
fn bars() -> Progress {
    let bars = MultiProgress::new();
    let known: Mutex<Vec<(Digest, ProgressBar)>> = Mutex::default();
    Arc::new(move |event: Event| {
        let mut known = known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let index = known
            .iter()
            .position(|(id, _)| *id == event.id)
            .unwrap_or_else(|| {
                known.push((event.id, bars.add(new_bar(&event))));
                known.len() - 1
            });
        let (_, bar) = &known[index];
        if let Some(total) = event.total {
            bar.set_length(total);
        }
        bar.set_position(event.done);
        bar.set_message(event.phase.to_string());
        if event.total == Some(event.done) {
            bar.finish();
        }
    })
}

fn new_bar(event: &Event) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let id = event.id.to_string();
    let id = id
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .chars()
        .take(12)
        .collect::<String>();
    ProgressBar::new(event.total.unwrap_or(0))
        .with_style(style)
        .with_prefix(id)
}

/// How long each stage took.
struct Clock {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self {
            last: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, stage: &'static str) {
        self.laps.push((stage, self.last.elapsed()));
        self.last = Instant::now();
    }

    fn report(&self) {
        for (stage, time) in &self.laps {
            print_line(stage, format!("{:>9.1} ms", time.as_secs_f64() * 1000.0));
        }
    }
}

fn print_line(stage: &str, value: impl Display) {
    println!("{stage:<56}{value}");
}
