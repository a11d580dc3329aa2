//! How long the pull of an image of one gzip layer of some 100 MB takes, from a registry on loopback
//! to files that can be run, in bytes of the uncompressed layer a second.
//!
//! In one run: the floor, `gzip -dc | tar -x` of a file (no registry, no digests, no store); the
//! engine, from its own registry server and from Docker's; `skopeo copy` from the same registry with
//! `umoci unpack`. The layer is made of what this host has in `/usr/share` and `/usr/lib`: small texts
//! and libraries, some 10,000 files.
//!
//! All stores and files are on a tmpfs. Every pull is cold: the image and its snapshots are removed
//! between pulls, which is not measured, nor is making the image and starting the registries. A
//! registry takes processor time from who pulls, so that few processors make all pulls slower.
//!
//! ```text
//! sudo cargo bench --bench pull
//! ```

mod peers;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use container_engine::container_image::server::{Server, ServerOptions};
use container_engine::container_image::{Image, ImageBuilder, PushOptions, Store, push};
use container_engine::{Engine, Reference};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tempfile::TempDir;

use peers::{find, say};

/// How many bytes of files are taken from each of [`SOURCES`]; they compress to some 100 MB.
const BYTES_OF_EACH: u64 = 125_000_000;

/// Where every host has files like those of images.
const SOURCES: [&str; 2] = ["/usr/share", "/usr/lib"];

/// How long `docker-registry` may take to answer.
const REGISTRY_START: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        say("skipped: needs root");
        return Ok(());
    }
    // Not on a disk: the benchmark would measure that.
    let scratch = TempDir::new_in("/dev/shm").context("make a directory on a tmpfs")?;
    let scratch = scratch.path();
    let store = Store::open(scratch.join("layout"))?;
    let (image, bytes) = build_image(&store)?;
    let layer = store.blob_path(image.layers()[0].descriptor.digest);
    say(&format!(
        "a layer of {bytes} bytes, {} compressed",
        fs::metadata(&layer)?.len()
    ));

    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(10))
        .configure_from_args();
    let mut group = criterion.benchmark_group("pull");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(bytes));
    measure_floor(&mut group, &layer, &scratch.join("floor"));

    let server = Server::start(ServerOptions::default())?;
    let engine = Engine::builder()
        .root(scratch.join("engine"))
        .run(scratch.join("run"))
        .open()?;
    let mut name = serve(&image, &server.address().to_string())?;
    measure_engine(&mut group, "engine, own registry", &engine, &name);
    let registry = Registry::start(&scratch.join("registry"))?;
    if let Some(registry) = &registry {
        name = serve(&image, &registry.address)?;
        measure_engine(&mut group, "engine", &engine, &name);
    }
    measure_skopeo(&mut group, &name, &scratch.join("peers"));
    group.finish();
    criterion.final_summary();
    Ok(())
}

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn measure_floor(group: &mut Group<'_>, layer: &Path, directory: &Path) {
    let prepare = || Ok(fs::create_dir(directory)?);
    let unpack = || {
        run(Command::new("sh")
            .args(["-c", "gzip -dc < \"$0\" | tar -x -C \"$1\""])
            .args([layer, directory]))
    };
    measure(group, "gzip -dc | tar -x", prepare, unpack, || {
        Ok(fs::remove_dir_all(directory)?)
    });
}

fn measure_engine(group: &mut Group<'_>, title: &str, engine: &Engine, name: &str) {
    let pull = || Ok(engine.images().pull(name).map(drop)?);
    measure(
        group,
        title,
        || Ok(()),
        pull,
        || Ok(engine.images().remove(name)?),
    );
}

fn measure_skopeo(group: &mut Group<'_>, name: &str, directory: &Path) {
    let (Some(skopeo), Some(umoci)) = (find("skopeo"), find("umoci")) else {
        return;
    };
    let layout = format!("{}:latest", directory.join("layout").display());
    let pull = || {
        run(Command::new(&skopeo)
            .args(["--insecure-policy", "copy", "--src-tls-verify=false"])
            .args([format!("docker://{name}"), format!("oci:{layout}")]))?;
        run(Command::new(&umoci)
            .args(["unpack", "--image", &layout])
            .arg(directory.join("bundle")))
    };
    let prepare = || Ok(fs::create_dir(directory)?);
    let clean_up = || Ok(fs::remove_dir_all(directory)?);
    measure(group, "skopeo copy, umoci unpack", prepare, pull, clean_up);
}

/// Measures `operation` alone, each time between `prepare` and `clean_up`.
fn measure(
    group: &mut Group<'_>,
    title: &str,
    prepare: impl Fn() -> Result<()>,
    operation: impl Fn() -> Result<()>,
    clean_up: impl Fn() -> Result<()>,
) {
    let once = || -> Result<Duration> {
        prepare()?;
        let start = Instant::now();
        operation()?;
        let elapsed = start.elapsed();
        clean_up()?;
        Ok(elapsed)
    };
    group.bench_function(title, |bencher| {
        bencher.iter_custom(|times| {
            let all = (0..times).map(|_| once());
            all.sum::<Result<Duration>>()
                .expect("what is measured works")
        });
    });
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    Ok(())
}

/// An image of one layer, and the size of that without compression.
fn build_image(store: &Store) -> Result<(Image, u64)> {
    let mut builder = ImageBuilder::new();
    let mut bytes = 0;
    for source in SOURCES {
        let mut left = BYTES_OF_EACH;
        let mut pending = vec![PathBuf::from(source)];
        while let Some(path) = pending.pop() {
            let kind = fs::symlink_metadata(&path)?;
            if kind.is_dir() {
                let entries = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path()));
                let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
                entries.sort_unstable_by(|a, b| b.cmp(a));
                pending.extend(entries);
            } else if kind.is_file() {
                if kind.len() > left {
                    break;
                }
                left -= kind.len();
                builder = builder.copy(&path, path.strip_prefix("/")?);
            }
        }
        bytes += BYTES_OF_EACH - left;
    }
    Ok((builder.cmd(["true"]).build(store)?, bytes))
}

/// Pushes the image to the registry at `address`, and gives its name there.
fn serve(image: &Image, address: &str) -> Result<String> {
    let name = format!("{address}/bench:latest");
    let reference: Reference = name.parse()?;
    push(image, &reference, &PushOptions::default())?;
    Ok(name)
}

/// Docker's registry; ends when dropped.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    /// Starts it with its files in `directory`; `None` where it is not installed.
    fn start(directory: &Path) -> Result<Option<Self>> {
        let Some(program) = find("docker-registry") else {
            return Ok(None);
        };
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        fs::create_dir(directory)?;
        let config = directory.join("config.yml");
        // JSON is YAML, too.
        let text = serde_json::json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": directory}},
            "http": {"addr": address},
        });
        fs::write(&config, text.to_string())?;
        let process = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let registry = Self { process, address };
        let end = Instant::now() + REGISTRY_START;
        while std::net::TcpStream::connect(&registry.address).is_err() {
            ensure!(Instant::now() < end, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(registry))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
