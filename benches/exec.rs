//! How long it takes to execute a static program that does nothing in a running container, and to
//! wait for its end.
//!
//! In one run, on the same ground, in the same kind of container: `nsenter` into all its namespaces,
//! which is the floor (it sets no account, limits, capabilities or filter, and enters no cgroup);
//! `container-core`, from the handle of the container's creator and from its records; `crun exec` and
//! `runc exec` where they are installed and run, each in a container of its own.
//!
//! Not measured: creating the containers, starting the launcher.
//!
//! ```text
//! sudo cargo bench --bench exec
//! ```

mod ground;
mod peers;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use container_engine::container_core::oci_spec::runtime::Spec;
use container_engine::container_core::{
    Container, CreateOptions, ExecOptions, Launcher, Signal, defaults,
};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use ground::{Ground, make_root};
use peers::{find, say};

/// What every candidate executes.
const PROGRAM: &str = "/bin/true";

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn main() -> Result<()> {
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
    let mut group = criterion.benchmark_group("exec");
    measure_core(&mut group, &ground, &root)?;
    for runtime in ["crun", "runc"] {
        measure_runtime(&mut group, &ground, &root, runtime)?;
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// `nsenter` and `container-core`, in one container.
fn measure_core(group: &mut Group<'_>, ground: &Ground, root: &Path) -> Result<()> {
    let spec = spec(root, &format!("{}/core", ground.parent()))?;
    let state = ground.scratch().join("state");
    fs::create_dir(&state)?;
    let launcher = Launcher::new();
    let mut options = CreateOptions::default();
    options.state = Some(state.clone());
    let container = launcher.create(&spec, options)?;
    container.start()?;
    if let Some(nsenter) = find("nsenter") {
        let mut command = Command::new(nsenter);
        let pid = container.pid().to_string();
        command.args(["--all", "--target", &pid, PROGRAM]);
        measure_command(group, "nsenter", command)?;
    }
    let mut process = spec.process().clone().context("it has a process")?;
    process.set_args(Some(vec![PROGRAM.to_owned()]));
    let run = |container: &Container| -> Result<()> {
        let process = launcher.exec(container, &process, ExecOptions::default())?;
        ensure!(process.wait()?.success(), "the program failed");
        Ok(())
    };
    group.bench_function("container-core", |bencher| {
        bencher.iter(|| run(&container).expect("execute"));
    });
    group.bench_function("container-core, opened", |bencher| {
        bencher.iter(|| {
            let opened = Container::open(&state, None).expect("open the container");
            run(&opened).expect("execute");
        });
    });
    container.kill(Signal::KILL)?;
    container.wait()?;
    Ok(())
}

/// `exec` of another runtime, in a container of its own.
fn measure_runtime(
    group: &mut Group<'_>,
    ground: &Ground,
    root: &Path,
    runtime: &str,
) -> Result<()> {
    let Some(program) = find(runtime) else {
        return Ok(());
    };
    let spec = spec(root, &format!("/{}/{runtime}", ground.parent()))?;
    let bundle = ground.scratch().join(runtime);
    fs::create_dir(&bundle)?;
    fs::write(bundle.join("config.json"), serde_json::to_vec(&spec)?)?;
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--root").arg(ground.scratch().join("runtime"));
        command.args(arguments).current_dir(&bundle);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    if !command(&["run", "--detach", "bench"]).status()?.success() {
        say(&format!("skipped: {runtime}, which does not run here"));
        return Ok(());
    }
    let measured = measure_command(group, runtime, command(&["exec", "bench", PROGRAM]));
    let deleted = command(&["delete", "--force", "bench"]).status()?;
    ensure!(deleted.success(), "{runtime} delete failed");
    measured
}

fn measure_command(group: &mut Group<'_>, name: &str, mut command: Command) -> Result<()> {
    let mut run = || -> Result<()> {
        ensure!(command.status()?.success(), "{name} failed");
        Ok(())
    };
    run()?;
    group.bench_function(name, |bencher| {
        bencher.iter(|| run().expect("it ran before"));
    });
    Ok(())
}

/// The default spec, with the default filter, for a container in `root` and the group `cgroup` that
/// stays.
fn spec(root: &Path, cgroup: &str) -> Result<Spec> {
    let mut spec = defaults::default_spec();
    let mut place = spec.root().clone().unwrap_or_default();
    place.set_path(root.to_owned());
    spec.set_root(Some(place));
    let mut process = spec.process().clone().unwrap_or_default();
    let args = ["/bin/busybox", "sleep", "600"];
    process.set_args(Some(args.map(str::to_owned).to_vec()));
    process.set_terminal(Some(false));
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().context("a spec for Linux")?;
    linux.set_cgroups_path(Some(cgroup.into()));
    spec.set_linux(Some(linux));
    Ok(spec)
}
