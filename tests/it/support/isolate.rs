//! A place for one test, apart from the host and from all other tests.
//!
//! The test program is executed again for each isolated test, twice: as process 1 of new PID, mount and network
//! namespaces, which prepares them and reaps, and below it as the process in which the body of the test runs. So a
//! test has its own process (descriptors, threads, working directory, environment), loopback ports, mounts, and a
//! `/proc` that shows only what it started; and whatever it left running ends with it.

use std::any::type_name;
use std::cell::RefCell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

use super::host::{Host, SETTLE, other_processes, remove_cgroups};
use super::skip;

/// Names the stage of an isolated test to the program that is executed again.
const STAGE: &str = "CONTAINER_ENGINE_TEST_STAGE";
/// Carries the name of the test's control group from the first stage to the last.
const CGROUP: &str = "CONTAINER_ENGINE_TEST_CGROUP";

/// When a body that hangs is given up.
const BODY_LIMIT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(5);

/// A test's own ground; see [`isolated`].
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    cgroup: String,
    host: RefCell<Host>,
}

impl Place {
    /// An empty directory on a tmpfs of its own, with a short path (socket paths end at 107 bytes).
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of a control group that no other test uses, to be given as the parent of all groups that the test
    /// makes. It does not exist yet; it has to be gone at the end of the test.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Makes every file below `dir` that is not there yet count as left behind at the end.
    /// Those that are there have to stay.
    pub(crate) fn watch(&self, dir: &Path) {
        self.host.borrow_mut().watch(dir);
    }
}

/// Runs `body` in namespaces and a process of its own, and fails if it leaves anything behind.
///
/// To be called by a `#[test]` function, with a closure written there: the name of the test is taken from it. What
/// the function does before the call is done in every stage, the first of which has the host's network. `/run`,
/// `/tmp`, `/var/lib` and `/dev/shm` are empty in the body (those that hold the program or its sources excepted),
/// `HOME` and `TMPDIR` are below [`Place::dir`]. Without root the test is skipped.
///
/// # Panics
/// If the body does; or if it leaves a mount, link, route, table, control group, process or descriptor, a file with
/// a name of this project in `/run`, `/tmp` or `/dev/shm`, or any file in a directory given to [`Place::watch`].
pub(crate) fn isolated<F: FnOnce(&Place)>(body: F) {
    match std::env::var(STAGE).as_deref() {
        Ok("body") => run_body(body),
        Ok("init") => be_init(&test_name::<F>()),
        _ if !rustix::process::geteuid().is_root() => skip("needs root"),
        _ => start_init(&test_name::<F>()),
    }
}

/// Executes this program as process 1 of new namespaces, for the one test, and passes its result on.
fn start_init(test: &str) {
    let cgroup = unique_name();
    // A namespace belongs to the thread that asks for it, and this one ends with the call.
    let output = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)
                .expect("unshare");
            let mut init = again("init", test);
            init.env(CGROUP, &cgroup)
                .output()
                .expect("execute this program again")
        });
        thread.join().expect("the thread in new namespaces")
    });
    // A body that failed half-way: all else of it went with its namespaces.
    remove_cgroups(&cgroup);
    relay(&output);
    assert!(
        output.status.success(),
        "the isolated test failed: {}",
        output.status
    );
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(
        ran,
        "no test is called {test}: `isolated` has to be called by the test function itself"
    );
}

/// Prepares the namespaces, runs the body in a child, reaps, and fails if other processes remain.
fn be_init(test: &str) {
    prepare_mounts();
    set_loopback_up();
    let home = work_dir().join("home");
    let temporary = work_dir().join("tmp");
    fs::create_dir(&home).expect("make the home directory");
    fs::create_dir(&temporary).expect("make the directory for temporaries");
    let mut body = again("body", test);
    body.env("HOME", home)
        .env("TMPDIR", temporary)
        .env_remove("XDG_RUNTIME_DIR");
    let body = body
        .spawn()
        .expect("execute this program again")
        .id()
        .cast_signed();

    let end = Instant::now() + BODY_LIMIT;
    let status = loop {
        match reap() {
            Some((pid, status)) if pid == body => break status,
            Some(_) => {}
            None => assert!(
                Instant::now() < end,
                "the body takes longer than {BODY_LIMIT:?}"
            ),
        }
    };
    // What the body left to die gets as long as the check in it would have given.
    let end = Instant::now() + SETTLE;
    let mut others = other_processes();
    while !others.is_empty() && Instant::now() < end {
        reap();
        others = other_processes();
    }
    assert!(status.success(), "the body ended with {status}");
    assert!(
        others.is_empty(),
        "processes left behind:\n  {}",
        others.join("\n  ")
    );
}

fn run_body(body: impl FnOnce(&Place)) {
    let cgroup = std::env::var(CGROUP).expect("set by the first stage");
    let dir = work_dir().join("work");
    fs::create_dir(&dir).expect("make the working directory");
    let place = Place {
        dir,
        host: RefCell::new(Host::snapshot(&cgroup)),
        cgroup,
    };
    body(&place);
    place.host.borrow().assert_unchanged();
}

/// This program, to run the one test in the given stage.
fn again(stage: &str, test: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", test, "--nocapture"])
        .env(STAGE, stage);
    command
}

/// The full name of the test function in which the closure `F` was written.
fn test_name<F>() -> String {
    let closure = type_name::<F>();
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    function
        .split_once("::")
        .map_or(function, |(_crate, test)| test)
        .to_owned()
}

/// A name that is free on this host: process numbers are not reused while the process lives.
fn unique_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "container-engine-test-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Prints what a later stage printed, its skips uncaptured as they were there.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what the harness captures"
)]
fn relay(output: &Output) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let (skips, errors): (Vec<_>, Vec<_>) = errors
        .lines()
        .partition(|line| line.starts_with("skipped: "));
    for line in skips {
        let _ = writeln!(io::stderr(), "{line}");
    }
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprintln!("{}", errors.join("\n"));
}

fn prepare_mounts() {
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )
    .expect("make all mounts private");
    let hidden = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), hidden, nothing).expect("mount a proc file system");
    for dir in covered_dirs().chain([work_dir()]) {
        mount(
            Some("tmpfs"),
            &dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=1777"),
        )
        .expect("mount a tmpfs");
    }
}

/// Directories of the host that are empty in an isolated test.
fn covered_dirs() -> impl Iterator<Item = PathBuf> {
    ["/dev/shm", "/run", "/tmp", "/var/lib"]
        .into_iter()
        .map(PathBuf::from)
        .filter(|dir| may_be_covered(dir))
}

/// Where the tmpfs for the test's own files is mounted.
fn work_dir() -> PathBuf {
    let candidates = ["/srv", "/mnt", "/media"].into_iter().map(PathBuf::from);
    candidates
        .into_iter()
        .find(|dir| may_be_covered(dir))
        .expect("one of /srv, /mnt, /media")
}

/// True for a directory without anything in it that the tests themselves need.
fn may_be_covered(dir: &Path) -> bool {
    let conformance = std::env::var_os("CONFORMANCE_DIR").map(PathBuf::from);
    let program = std::env::current_exe().expect("the path of this program");
    let needed = [
        env!("CARGO_MANIFEST_DIR").into(),
        env!("CARGO_TARGET_TMPDIR").into(),
        program,
    ];
    // A symlink, as /var/run is one, would cover another directory than the one that was compared.
    let is_dir = dir
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir());
    is_dir
        && !needed
            .into_iter()
            .chain(conformance)
            .any(|path: PathBuf| path.starts_with(dir))
}

/// Sets the link `lo` of this network namespace up.
///
/// # References
/// `rtnetlink(7)`, `RTM_NEWLINK`
fn set_loopback_up() {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 5;
    const LOOPBACK_INDEX: i32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::new();
    message.extend(32_u32.to_ne_bytes()); // length of both headers
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port
    message.extend([0; 4]); // address family and link type: any
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // which flags to change

    // The protocol NETLINK_ROUTE is number 0, and so the default.
    let socket =
        rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).expect("netlink socket");
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)
        .expect("ask for lo to be set up");
    let mut answer = [0; 256];
    let (length, _) =
        rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).expect("read the answer");
    let errno = answer[..length]
        .get(16..20)
        .map(|bytes| i32::from_ne_bytes(bytes.try_into().expect("4 bytes")));
    assert_eq!(
        errno,
        Some(0),
        "set lo up: {:?}",
        errno.map(|errno| Errno::from_raw_os_error(-errno))
    );
}

/// Waits a moment for any child to end: its process number and status.
fn reap() -> Option<(i32, ExitStatus)> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw(), ExitStatus::from_raw(code << 8))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => {
            Some((pid.as_raw(), ExitStatus::from_raw(signal as i32)))
        }
        _ => {
            std::thread::sleep(POLL);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::support::host::{cgroup_mounts, cgroups};

    #[test]
    fn privileged_isolated_tests_have_their_own_ground() {
        isolated(|place| {
            let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            assert!(
                links
                    .lines()
                    .skip(2)
                    .all(|line| line.trim_start().starts_with("lo:")),
                "{links}"
            );
            let listener = TcpListener::bind("127.0.0.1:80").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(std::os::unix::process::parent_id(), 1);
            assert_eq!(other_processes(), [""; 0]);
            assert!(place.dir().read_dir().unwrap().next().is_none());
            assert!(
                fs::read_to_string("/proc/self/mountinfo")
                    .unwrap()
                    .lines()
                    .all(|line| !line.contains("shared:"))
            );
        });
    }

    #[test]
    fn privileged_isolated_test_fails_with_its_body() {
        let name = "container-engine-left-by-a-panic";
        let leak = || {
            isolated(|place| {
                for mount in cgroup_mounts() {
                    fs::create_dir_all(mount.join(place.cgroup()).join(name)).unwrap();
                }
                panic!("as it should");
            });
        };
        assert_fails(leak);
        if std::env::var(STAGE).is_err() {
            assert_eq!(cgroups(name), [""; 0].map(PathBuf::from));
        }
    }

    #[test]
    fn privileged_isolated_test_fails_when_something_is_left() {
        let leak =
            || isolated(|place| fs::write(format!("/run/{}", place.cgroup()), "left").unwrap());
        assert_fails(leak);
    }

    #[test]
    fn privileged_isolated_test_fails_when_a_file_is_left_in_a_watched_directory() {
        let leak = || {
            isolated(|place| {
                fs::write(place.dir().join("first"), "may stay").unwrap();
                place.watch(place.dir());
                fs::write(place.dir().join("second"), "may not").unwrap();
            });
        };
        assert_fails(leak);
    }

    #[test]
    fn privileged_isolated_test_fails_when_a_process_is_left() {
        // The shell ends at once; what it started belongs to process 1 from then on.
        let leak = || {
            isolated(|_| {
                let status = Command::new("sh")
                    .args(["-c", "setsid sleep 600 &"])
                    .status();
                assert!(status.unwrap().success());
            });
        };
        assert_fails(leak);
    }

    /// Sees `test` panic where it starts; in later stages it just runs.
    fn assert_fails(test: impl FnOnce()) {
        if std::env::var(STAGE).is_ok() || !rustix::process::geteuid().is_root() {
            return test();
        }
        assert!(catch_unwind(AssertUnwindSafe(test)).is_err(), "it passed");
    }
}
