//! How long a container takes: create, start, wait, remove, of a static program that does nothing.
//!
//! In one run, on the same ground: the [floor](floor) (the bare system calls); `container-core` on a
//! directory as root file system; the engine on an image, which adds the layer, the records and the
//! three files in `/etc`, without network, on a bridge, and with a published port; `runc run` and
//! `crun run` where they are installed, with the same spec as `container-core`, and without its
//! seccomp filter; and `podman run`, with crun and no network.
//!
//! Everything happens in mount and network namespaces of the benchmark's own, with all files on a
//! tmpfs. Not measured: making the image and its layer, opening the engine, starting the launcher and
//! the floor's process (each starts once), the first container of a network (which makes the bridge).
//!
//! ```text
//! sudo cargo bench --bench run
//! ```

mod floor;
mod ground;
mod peers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use container_engine::container_core::oci_spec::runtime::Spec;
use container_engine::container_core::{CreateOptions, Launcher, defaults};
use container_engine::container_image::{ImageBuilder, Store};
use container_engine::{Engine, Image};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use floor::Floor;
use ground::{Ground, make_root};
use peers::{find, say};

/// What every candidate runs.
const PROGRAM: &str = "/bin/true";

fn main() -> Result<()> {
    if floor::serve()? {
        return Ok(());
    }
    let Some(ground) = Ground::enter()? else {
        return Ok(());
    };
    let root = ground.scratch().join("rootfs");
    if make_root(&root)?.is_none() {
        return Ok(());
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let mut group = criterion.benchmark_group("run");
    measure_floor(&mut group, &ground, &root)?;
    measure_core(&mut group, &ground, &root)?;
    measure_engine(&mut group, &ground, &root)?;
    for (runtime, filtered) in [
        ("crun", true),
        ("crun", false),
        ("runc", true),
        ("runc", false),
    ] {
        measure_runtime(&mut group, &ground, &root, runtime, filtered)?;
    }
    measure_podman(&mut group, &ground, &root)?;
    group.finish();
    criterion.final_summary();
    Ok(())
}

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn measure_floor(group: &mut Group<'_>, ground: &Ground, root: &Path) -> Result<()> {
    let mut floor = Floor::start(root, ground.parent())?;
    group.bench_function("floor", |bencher| {
        bencher.iter(|| floor.run().expect("run the floor"));
    });
    Ok(())
}

fn measure_core(group: &mut Group<'_>, ground: &Ground, root: &Path) -> Result<()> {
    let spec = spec(root, &format!("{}/core", ground.parent()))?;
    let launcher = Launcher::new();
    let run = || -> Result<()> {
        let container = launcher.create(&spec, CreateOptions::default())?;
        container.start()?;
        ensure!(container.wait()?.success(), "the container failed");
        Ok(())
    };
    group.bench_function("container-core", |bencher| {
        bencher.iter(|| run().expect("run a container"));
    });
    Ok(())
}

fn measure_engine(group: &mut Group<'_>, ground: &Ground, root: &Path) -> Result<()> {
    let engine_root = ground.scratch().join("engine");
    let engine = Engine::builder()
        .root(&engine_root)
        .run(ground.scratch().join("run"))
        .cgroup_parent(ground.parent())
        .open()?;
    let image = build_image(&engine, &engine_root, root)?;
    for (name, network, port) in [
        ("engine", "none", None),
        ("engine, bridge", "bridge", None),
        ("engine, bridge and port", "bridge", Some("8080:80")),
    ] {
        let run = || -> Result<()> {
            let mut run = engine.containers().run(&image).network(network);
            if let Some(port) = port {
                run = run.publish(port);
            }
            ensure!(run.status()?.success(), "the container failed");
            Ok(())
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| run().expect("run a container"));
        });
    }
    Ok(())
}

/// The files of `root` as an image of one layer.
fn build_image(engine: &Engine, engine_root: &Path, root: &Path) -> Result<Image> {
    let store = Store::open(engine_root.join("image"))?;
    ImageBuilder::new()
        .copy(root, "/")
        .cmd([PROGRAM])
        .name("true".parse()?)
        .build(&store)?;
    Ok(engine.images().get("true")?)
}

fn measure_runtime(
    group: &mut Group<'_>,
    ground: &Ground,
    root: &Path,
    runtime: &str,
    filtered: bool,
) -> Result<()> {
    let Some(program) = find(runtime) else {
        return Ok(());
    };
    let mut spec = spec(root, &format!("/{}/{runtime}", ground.parent()))?;
    let mut name = runtime.to_owned();
    if !filtered {
        let mut linux = spec.linux().clone().context("a spec for Linux")?;
        linux.set_seccomp(None);
        spec.set_linux(Some(linux));
        name += ", no seccomp";
    }
    let bundle: PathBuf = ground.scratch().join(&name);
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
    let state = ground.scratch().join("runtime");
    let mut command = Command::new(&program);
    command.arg("--root").arg(&state);
    command.args(["run", "--bundle"]).arg(&bundle).arg("bench");
    measure_command(group, &name, command)
}

/// `podman run` on the directory `root`, with crun and without network.
fn measure_podman(group: &mut Group<'_>, ground: &Ground, root: &Path) -> Result<()> {
    let Some(program) = find("podman") else {
        return Ok(());
    };
    let state = ground.scratch().join("podman");
    fs::create_dir(&state)?;
    // Its own defaults are limits that only a program with CAP_SYS_RESOURCE may set.
    let settings = state.join("containers.conf");
    let text = "[containers]\ndefault_ulimits = []\n[engine]\nruntime = \"crun\"\nevents_logger = \"none\"\n";
    fs::write(&settings, text)?;
    let mut command = Command::new(program);
    command.env("CONTAINERS_CONF", settings);
    for (option, directory) in [
        ("--root", "root"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
    ] {
        command.arg(option).arg(state.join(directory));
    }
    command.args([
        "--storage-driver",
        "overlay",
        "--cgroup-manager",
        "cgroupfs",
        "run",
        "--rm",
    ]);
    command.args(["--ulimit", "host", "--network", "none"]);
    command.arg(format!("--cgroup-parent=/{}", ground.parent()));
    command.arg("--rootfs").arg(root).arg(PROGRAM);
    measure_command(group, "podman", command)
}

/// A program of others, unless it does not run here.
fn measure_command(group: &mut Group<'_>, name: &str, mut command: Command) -> Result<()> {
    command.stdin(Stdio::null());
    let mut run = || -> Result<()> {
        let output = command.output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{name}: {error}");
        Ok(())
    };
    if let Err(error) = run() {
        say(&format!(
            "skipped: {name}, which does not run here: {error}"
        ));
        return Ok(());
    }
    group.bench_function(name, |bencher| {
        bencher.iter(|| run().expect("the container ran before"));
    });
    Ok(())
}

/// The default spec, with the default filter, for the program in `root` and the group `cgroup`.
fn spec(root: &Path, cgroup: &str) -> Result<Spec> {
    let mut spec = defaults::default_spec();
    let mut place = spec.root().clone().unwrap_or_default();
    place.set_path(root.to_owned());
    spec.set_root(Some(place));
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(vec![PROGRAM.to_owned()]));
    process.set_terminal(Some(false));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().context("a spec for Linux")?;
    linux.set_cgroups_path(Some(cgroup.into()));
    spec.set_linux(Some(linux));
    Ok(spec)
}
