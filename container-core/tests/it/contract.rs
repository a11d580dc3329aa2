//! What a start of a container does to the program that asks for it, which is: nothing; and what of that program gets
//! into the container, which is: nothing, too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use container_core::{CreateOptions, Launcher, Signal};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::support::bundle::{Bundle, LIMIT, piped, run, stdout_of, try_run};
use crate::support::isolate::isolated;
use crate::support::{role, sys};

const DIRECTORY: &str = "CONTAINER_CORE_TEST_DIRECTORY";

/// How many containers are started from among busy threads; 200 unless this variable says otherwise.
const STARTS: &str = "CONTAINER_CORE_TEST_STARTS";

/// The processes of this name.
fn processes(name: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    })
    .collect()
}

/// Those fields of `/proc/PID/status`.
fn status(process: &str, fields: &[&str]) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("read the status");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| fields.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn count(dir: &str) -> usize {
    fs::read_dir(dir).expect("list a directory").count()
}

/// What belongs to the embedder and no library may change.
fn embedder() -> Vec<String> {
    let fields = [
        "Umask",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Uid",
        "Gid",
        "Groups",
        "CapEff",
        "CapInh",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "NSpid",
    ];
    let mut seen = vec![
        format!("{:?}", status("thread-self", &fields)),
        format!("{:?}", std::env::current_dir().expect("a directory")),
        format!("{:?}", std::env::vars_os().collect::<Vec<_>>()),
        fs::read_to_string("/proc/self/limits").expect("read the limits"),
        fs::read_to_string("/proc/self/oom_score_adj").expect("read the score"),
        fs::read_to_string("/proc/self/cgroup").expect("read the groups"),
        format!("{:?}", rustix::process::dumpable_behavior()),
        format!("{:?}", rustix::process::child_subreaper()),
        format!("{:?}", rustix::process::parent_process_death_signal()),
        format!("{:?}", nix::unistd::getsid(None)),
        format!("threads {}", count("/proc/self/task")),
    ];
    for namespace in fs::read_dir("/proc/thread-self/ns").expect("list namespaces") {
        let path = namespace.expect("an entry").path();
        seen.push(format!("{path:?} {:?}", fs::read_link(&path)));
    }
    seen
}

#[test]
fn privileged_embedder_stays_as_it_is() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        let before = embedder();
        let launcher = Launcher::new();
        assert!(run(&launcher, &bundle.spec(&["true"])).status.success());
        assert!(!run(&launcher, &bundle.spec(&["false"])).status.success());
        try_run(&launcher, &bundle.spec(&["nosuchcommand"]), piped()).unwrap_err();
        assert_eq!(embedder(), before, "with the launcher");
        drop(launcher);
        assert_eq!(embedder(), before, "without it");
    });
}

#[test]
fn privileged_signals_of_the_embedder_stay_outside() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        sys::ignore_signals();
        SigSet::all().thread_block().unwrap();
        let launcher = Launcher::new();
        let pattern = "^Sig(Blk|Ign|Cgt)|^ShdPnd";
        let spec = bundle.spec(&["grep", "-E", pattern, "/proc/self/status"]);
        let seen = stdout_of(&launcher, &spec);
        let zero = "0000000000000000";
        assert_eq!(
            seen,
            format!("ShdPnd:\t{zero}\nSigBlk:\t{zero}\nSigIgn:\t{zero}\nSigCgt:\t{zero}")
        );
        // SIGCHLD is ignored: the kernel reaps the embedder's children, and nothing is lost.
        assert_eq!(run(&launcher, &bundle.shell("exit 42")).status.code(), 42);
        let container = launcher
            .create(&bundle.spec(&["sleep", "600"]), CreateOptions::default())
            .unwrap();
        container.start().unwrap();
        container.kill(Signal::KILL).unwrap();
        assert_eq!(container.wait().unwrap().signal(), Some(9));
    });
}

#[test]
fn privileged_descriptors_of_the_embedder_stay_outside() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        let open = || rustix::fs::openat(CWD, place.dir(), OFlags::RDONLY, Mode::empty());
        let inheritable: Vec<OwnedFd> = (0..300).map(|_| open().unwrap()).collect();
        let launcher = Launcher::new();
        // 3 is the directory that ls reads.
        let seen = stdout_of(&launcher, &bundle.spec(&["ls", "/proc/self/fd"]));
        assert_eq!(seen, "0\n1\n2\n3");
        let [launcher_pid] = &processes("ctr-launcher")[..] else {
            panic!("there is one launcher");
        };
        for entry in fs::read_dir(format!("/proc/{launcher_pid}/fd")).unwrap() {
            let target = fs::read_link(entry.unwrap().path()).unwrap();
            assert!(
                !target.starts_with(place.dir()),
                "the launcher holds {target:?}"
            );
        }
        drop(inheritable);
    });
}

#[test]
fn privileged_environment_of_the_embedder_stays_outside() {
    const SECRET: &str = "isolated-test-secret";
    const ROLE: &str = "contract::role_embedder_with_a_secret";
    isolated(|place| {
        if Bundle::new(place).is_none() {
            return;
        }
        let mut embedder = role::command(ROLE)
            .env("SECRET", SECRET)
            .env(DIRECTORY, place.dir())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = role::hear(&mut embedder);
        let environ = |pid: &str| {
            let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
            String::from_utf8_lossy(&bytes).replace('\0', "\n")
        };
        assert!(
            environ(&embedder.id().to_string()).contains(SECRET),
            "control"
        );
        assert_eq!(environ(&pid), "PATH=/bin\n");
        for name in ["ctr-launcher", "ctr-monitor"] {
            let [process] = &processes(name)[..] else {
                panic!("there is one {name}");
            };
            let environ = environ(process);
            let foreign = environ
                .lines()
                .find(|line| !line.starts_with("LD_LIBRARY_PATH="));
            assert_eq!(foreign, None, "{name}");
        }
        drop(embedder.stdin.take());
        assert!(embedder.wait().unwrap().success());
    });
}

/// An embedder with a running container, until its standard input ends.
#[test]
fn role_embedder_with_a_secret() {
    if !role::plays("contract::role_embedder_with_a_secret") {
        return;
    }
    let bundle = Bundle::existing(&directory().join("root"));
    let launcher = Launcher::new();
    let container = launcher
        .create(&bundle.spec(&["sleep", "600"]), CreateOptions::default())
        .unwrap();
    container.start().unwrap();
    role::say(container.pid());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    container.kill(Signal::KILL).unwrap();
    container.wait().unwrap();
}

fn directory() -> PathBuf {
    PathBuf::from(std::env::var(DIRECTORY).expect("given"))
}

#[test]
fn privileged_container_of_a_thread_that_ends_lives_on() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        let spec = bundle.shell("read line; echo got $line");
        let thread = std::thread::spawn(move || {
            let mut options = piped();
            options.stdio[0] = container_core::Stdio::Piped;
            let container = Launcher::new().create(&spec, options).unwrap();
            container.start().unwrap();
            container
        });
        let mut container = thread.join().unwrap();
        role::wait_until("the end of the thread", || {
            count("/proc/self/task") == embedder_threads()
        });
        let mut input = container.take_stdin().unwrap();
        writeln!(input, "it").unwrap();
        let output = crate::support::bundle::finish(&mut container);
        assert_eq!(output.stdout, "got it\n");
    });
}

/// How many threads the test harness and the calling test have.
fn embedder_threads() -> usize {
    // The harness waits on the main thread, or runs the one test on it.
    if rustix::thread::gettid() == rustix::process::getpid() {
        1
    } else {
        2
    }
}

#[test]
fn privileged_busy_threads_and_a_runtime_do_not_disturb_starts() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        let starts = std::env::var(STARTS).map_or(200, |number| number.parse().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap();
        let stop = AtomicBool::new(false);
        let launcher = Launcher::new();
        let spec = bundle.spec(&["true"]);
        assert!(run(&launcher, &spec).status.success());
        let held = || {
            let launchers = processes("ctr-launcher");
            (
                count("/proc/self/fd"),
                count(&format!("/proc/{}/fd", launchers[0])),
            )
        };
        std::thread::scope(|scope| {
            for size in 1..=64_u8 {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        drop(std::hint::black_box(vec![size; usize::from(size) * 100]));
                    }
                });
            }
            runtime.spawn(async {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    drop(std::hint::black_box(vec![0_u8; 1000]));
                }
            });
            let before = (held(), count("/proc/self/task"));
            let mut handles: Vec<_> = (0..4)
                .map(|_| {
                    let (launcher, spec) = (launcher.clone(), spec.clone());
                    runtime.spawn_blocking(move || {
                        for _ in 0..starts / 4 {
                            let container = launcher.create(&spec, CreateOptions::default())?;
                            container.start()?;
                            let status = container.wait_timeout(LIMIT)?;
                            assert!(status.is_some_and(|status| status.success()));
                        }
                        Ok::<(), container_core::Error>(())
                    })
                })
                .collect();
            let results: Vec<_> = handles
                .iter_mut()
                .map(|handle| runtime.block_on(handle))
                .collect();
            let after = held();
            stop.store(true, Ordering::Relaxed);
            for result in results {
                result.unwrap().unwrap();
            }
            assert_eq!(after, before.0, "descriptors here and in the launcher");
        });
        drop(runtime);
        // A thread is gone a moment after it has been waited for.
        role::wait_until("the end of all threads", || {
            count("/proc/self/task") == embedder_threads()
        });
    });
}

#[test]
fn privileged_nothing_allocates_between_clone_and_program() {
    isolated(|place| {
        let Some(bundle) = Bundle::new(place) else {
            return;
        };
        let launcher = Launcher::new();
        // A name to look up, a sysctl, devices, masks: every kind of step but those of other namespaces.
        let mut options = piped();
        options.user = Some("web:logs".into());
        let output = try_run(&launcher, &bundle.spec(&["id", "-u"]), options).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_str()),
            (0, "1000\n")
        );
        // A step that fails, too.
        let error = try_run(&launcher, &bundle.spec(&["nosuchcommand"]), piped()).unwrap_err();
        assert_eq!(error.code(), "CommandNotFound");

        // The alarm works: on a thread of its own, as its children are in another PID namespace.
        let code = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            sys::allocate_in_a_fresh_clone()
        });
        assert_eq!(code.join().unwrap(), sys::ALLOCATED);
    });
}

#[test]
fn privileged_embedder_without_standard_streams_starts_containers() {
    const ROLE: &str = "contract::role_embedder_without_standard_streams";
    isolated(|place| {
        if Bundle::new(place).is_none() {
            return;
        }
        let status = role::command(ROLE)
            .env(DIRECTORY, place.dir())
            .status()
            .unwrap();
        let told = fs::read_to_string(place.dir().join("told")).unwrap_or_default();
        assert_eq!(told, "Ok(\"0\\n1\\n2\\n3\\n\")", "{status}");
    });
}

/// An embedder that closed its standard streams; tells in a file what the container saw.
#[test]
fn role_embedder_without_standard_streams() {
    if !role::plays("contract::role_embedder_without_standard_streams") {
        return;
    }
    let bundle = Bundle::existing(&directory().join("root"));
    sys::close_streams();
    let spec = bundle.spec(&["ls", "/proc/self/fd"]);
    let output = try_run(&Launcher::new(), &spec, piped()).map(|output| output.stdout);
    fs::write(directory().join("told"), format!("{output:?}")).unwrap();
}

/// Why `path` cannot be opened for writing.
fn write_error(path: &Path) -> Option<Errno> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn privileged_launcher_runs_from_a_read_only_mount() {
    isolated(|_| {
        let launcher = Launcher::new();
        launcher.start().unwrap();
        let pid = wait_for_launcher();
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let own = fs::metadata("/proc/self/exe").unwrap();
        let its = fs::metadata(&exe).unwrap();
        assert_eq!((own.dev(), own.ino()), (its.dev(), its.ino()));
        // Busy as long as it runs; and then it is on a read-only mount, whoever still holds it.
        assert!(matches!(
            write_error(&exe),
            Some(Errno::ROFS | Errno::TXTBSY)
        ));
        let held = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&exe)
            .unwrap();
        drop(launcher);
        let flags = rustix::fs::fstatvfs(&held).unwrap().f_flag;
        assert!(flags.contains(StatVfsMountFlags::RDONLY), "{flags:?}");
    });
}

fn wait_for_launcher() -> String {
    let mut found = Vec::new();
    role::wait_until("the launcher", || {
        found = processes("ctr-launcher");
        !found.is_empty()
    });
    found.remove(0)
}

#[test]
fn privileged_launcher_of_a_plain_user_runs_from_a_sealed_copy() {
    const ROLE: &str = "contract::role_embedder_with_a_launcher";
    isolated(|_| {
        let mut embedder = role::command(ROLE)
            .uid(65534)
            .gid(65534)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        role::hear(&mut embedder);
        let pid = wait_for_launcher();
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let target = fs::read_link(&exe).unwrap();
        let target = target.to_string_lossy();
        assert!(target.starts_with("/memfd:container-core"), "{target}");
        assert_eq!(write_error(&exe), Some(Errno::TXTBSY));
        let held = fs::File::open(&exe).unwrap();
        drop(embedder.stdin.take());
        assert!(embedder.wait().unwrap().success());
        role::wait_until("the end of the launcher", || {
            processes("ctr-launcher").is_empty()
        });
        let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        let written = fs::OpenOptions::new()
            .write(true)
            .open(again)
            .and_then(|mut file| file.write_all(b"#"));
        let errno = Errno::from_io_error(&written.unwrap_err());
        assert_eq!(errno, Some(Errno::PERM));
    });
}

/// An embedder with a launcher, until its standard input ends.
#[test]
fn role_embedder_with_a_launcher() {
    if !role::plays("contract::role_embedder_with_a_launcher") {
        return;
    }
    let launcher = Launcher::new();
    launcher.start().unwrap();
    role::say("started");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn program_that_merely_has_the_name_of_a_launcher_is_none() {
    // The marker without the socket of a parent: `main` runs as ever.
    let output = Command::new("/proc/self/exe")
        .arg0("container-core-launcher")
        .args([
            "--list",
            "--exact",
            "contract::role_embedder_with_a_launcher",
        ])
        .output()
        .unwrap();
    let list = String::from_utf8_lossy(&output.stdout);
    assert!(list.contains("1 test"), "{output:?}");
}

/// Its embedder may be killed between the start of a launcher and its first look around.
#[test]
fn a_launcher_without_its_program_does_not_run_the_program_again() {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let hello = concat!("container-core ", env!("CARGO_PKG_VERSION"), " protocol 1");
    rustix::io::write(&ours, hello.as_bytes()).unwrap();
    let output = std::process::Command::new("bash")
        // Not the process that greets: a child of another one.
        .args([
            "-c",
            "(exec -a container-core-launcher \"$0\" --list); echo $?",
        ])
        .arg(std::env::current_exe().unwrap())
        .stdin(theirs)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
}
