//! Work in a user namespace of a plain user's own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use container_core::userns::IdMap;
use container_core::{Error, ErrorKind, Job, Launcher, Result, Worker, WorkerOptions, role};
use nix::mount::{MsFlags, mount};

use crate::rootless::{Settled, as_plain_user, playing};
use crate::support::bundle::with_bundle;
use crate::support::{peers, role as roles};

role! {
    /// Makes a file of each of these owners in the directory.
    static FILL: "test-fill" = fill;
}

role! {
    /// Removes all in the directory.
    static CLEAR: "test-clear" = clear;
}

role! {
    static MOUNT: "test-mount" = mount_and_list;
}

role! {
    static FAIL: "test-fail" = fail;
}

fn directory(job: &Job) -> String {
    format!("/proc/self/fd/{}", job.descriptors[0].as_raw_fd())
}

fn failed(error: io::Error) -> Error {
    // A role of another crate has errors of its own; this one has none to make.
    panic!("{error}")
}

fn fill(job: Job) -> Result<Job> {
    for owner in &job.bytes {
        let path = format!("{}/of-{owner}", directory(&job));
        fs::write(&path, "text").map_err(failed)?;
        let owner = Some(u32::from(*owner));
        chown(&path, owner, owner).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).map_err(failed)?;
    }
    let made = File::open(format!("{}/of-{}", directory(&job), job.bytes[0])).map_err(failed)?;
    Ok(Job {
        bytes: vec![7; 1 << 20],
        descriptors: vec![made.into()],
    })
}

fn clear(job: Job) -> Result<Job> {
    for entry in fs::read_dir(directory(&job)).map_err(failed)? {
        fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(Job::default())
}

fn mount_and_list(_: Job) -> Result<Job> {
    mount(
        Some("tmpfs"),
        "/mnt",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|errno| failed(errno.into()))?;
    fs::write("/mnt/seen", "").map_err(failed)?;
    let links = fs::read_to_string("/proc/self/net/dev").map_err(failed)?;
    Ok(links.into_bytes().into())
}

fn fail(job: Job) -> Result<Job> {
    assert!(job.bytes.is_empty(), "as it should");
    Err(container_core::top(&[], &["--what"]).expect_err("there is no such option"))
}

#[test]
fn role_works() {
    let Some(bundle) = playing("worker::role_works") else {
        return;
    };
    let launcher = Launcher::new();
    let map = IdMap::subordinate().expect("there are some");
    let mut options = WorkerOptions::new(map);
    options.network = true;
    let start = || -> Worker { launcher.worker(&options).expect("start a worker") };
    let worker = start();
    let dir = bundle.root().join("tmp/work");
    fs::create_dir(&dir).expect("make a directory");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("close it");
    let open = File::open(&dir).expect("open it");
    let answer = worker
        .run(&FILL, &[3, 0, 200], &[open.as_fd()])
        .expect("fill");
    assert_eq!(answer.bytes.len(), 1 << 20);
    // What this user could not open the worker can hand out.
    let file = answer.descriptors.into_iter().next().expect("a file");
    assert_eq!(io::read_to_string(File::from(file)).expect("read"), "text");
    let owner = |name: &str| fs::metadata(dir.join(name)).expect("a file").uid();
    assert_eq!(
        [owner("of-0"), owner("of-3"), owner("of-200")],
        [4242, 100_002, 100_199]
    );
    assert!(File::open(dir.join("of-3")).is_err());
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777)).expect("as /tmp");
    worker.run(&CLEAR, &[], &[open.as_fd()]).expect("clear");
    fs::remove_dir(&dir).expect("it is empty");
    let links = worker.run(&MOUNT, &[], &[]).expect("mount");
    let links = String::from_utf8(links.bytes).expect("ASCII");
    assert_eq!(links.lines().count(), 3, "only lo: {links}");
    assert!(fs::metadata("/mnt/seen").is_err(), "mounts stay there");
    let error = worker.run(&FAIL, &[], &[]).expect_err("it fails");
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unsupported, "WorkerFailed")
    );
    assert!(error.report().contains("--what"), "{}", error.report());
    // A role that panics takes the worker along, but nobody else.
    let error = worker.run(&FAIL, &[1], &[]).expect_err("it panics");
    assert_eq!(error.code(), "WorkerLost");
    assert_eq!(
        worker.run(&MOUNT, &[], &[]).expect_err("gone").code(),
        "WorkerLost"
    );
    assert!(start().run(&MOUNT, &[], &[]).is_ok());
    roles::say("done");
}

#[test]
fn privileged_worker_of_a_plain_user_makes_and_removes_files_of_several_ids() {
    with_bundle!(|place, bundle| {
        if peers::find("newuidmap").is_none() {
            return;
        }
        let _settled = Settled::new(place, bundle, "container-test:100000:65536\n");
        let output = as_plain_user(place, "worker::role_works");
        assert!(String::from_utf8_lossy(&output.stdout).contains("says: done"));
    });
}
