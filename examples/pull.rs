//! Pulls an image and says so in the words of `docker pull`.
//!
//! ```text
//! cargo run --example pull -- debian:bookworm
//! cargo run --example pull -- --root /tmp/engine 127.0.0.1:5000/debian
//! ```
//!
//! Without `--root` the image goes where the engine keeps its files by default.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use container_engine::{Digest, Engine, Event, Phase, Progress, PullStatus, Reference};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (engine, name) = match &arguments[..] {
        [name] => (Engine::open_default()?, name),
        [option, root, name] if option == "--root" => {
            let root = Path::new(root);
            let engine = Engine::builder()
                .root(root.join("root"))
                .run(root.join("run"))
                .open()?;
            (engine, name)
        }
        _ => bail!("usage: pull [--root DIRECTORY] IMAGE"),
    };
    let reference: Reference = name.parse()?;
    let tag = reference.tag().map(str::to_owned);
    let tag = tag.or_else(|| reference.digest().map(|digest| digest.to_string()));
    println!(
        "{}: Pulling from {}",
        tag.unwrap_or_else(|| "latest".into()),
        reference.repository()
    );

    let image = engine.images().pull_with(name).progress(lines()).run()?;
    // What the name stands for in the registry.
    println!("Digest: {}", image.index_digest().unwrap_or(image.digest()));
    match image.pull_status() {
        Some(PullStatus::UpToDate) => println!("Status: Image is up to date for {image}"),
        _ => println!("Status: Downloaded newer image for {image}"),
    }
    Ok(())
}

/// A line for each thing that happens to a layer, once.
fn lines() -> Progress {
    let last: Mutex<HashMap<Digest, Phase>> = Mutex::default();
    Arc::new(move |event: Event| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let id = event.id.short();
        let before = match event.phase {
            Phase::Waiting => return,
            phase => last.insert(event.id, phase),
        };
        match (before, event.phase) {
            // A layer that was here is complete without a word.
            (Some(Phase::Exists), Phase::Complete) => return,
            (Some(before), phase) if before == phase => return,
            (None, Phase::Downloading | Phase::Extracting) => println!("{id}: Pulling fs layer"),
            _ => {}
        }
        println!("{id}: {}", event.phase);
    })
}
