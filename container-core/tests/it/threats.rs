//! Attacks from inside a container, or by the author of its image, that must fail.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use container_core::oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};
use container_core::{CreateOptions, ErrorKind, Launcher, Signal, Stdio, capability, defaults};
use syscalls::Sysno;

use crate::exec;
use crate::support::bundle::{
    Bundle, add_bind, edit_linux, edit_process, finish, piped, read_until, run, set_namespace,
    set_user, stdout_of, try_run, with_bundle,
};
use crate::support::isolate::Place;
use crate::support::{host, role, sys};

/// The default spec with this command, limited to the devices of the default, in a group of the test's own.
fn in_group(place: &Place, mut spec: Spec) -> Spec {
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(Some(format!("{}/one", place.cgroup()).into()));
    });
    spec
}

fn with_cwd(mut spec: Spec, cwd: &str) -> Spec {
    edit_process(&mut spec, |process| {
        process.set_cwd(cwd.into());
    });
    spec
}

/// A script as the entry of the image.
fn add_script(bundle: &Bundle, name: &str, text: &str) {
    let path = bundle.root().join(name);
    fs::write(&path, text).expect("write a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("make it executable");
}

#[test]
fn privileged_working_directory_never_lies_outside() {
    with_bundle!(|place, bundle| {
        // A directory that the embedder has open, and hands down by mistake.
        let outside = place.dir().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        let open = |_| {
            use rustix::fs::{CWD, Mode, OFlags, openat};
            openat(CWD, &outside, OFlags::RDONLY, Mode::empty()).unwrap()
        };
        let held: Vec<_> = (0..20).map(open).collect();
        symlink("/proc/self/fd", bundle.root().join("fds")).unwrap();
        let launcher = Launcher::new();
        for number in 0..40 {
            let link = format!("link{number}");
            symlink(format!("/proc/self/fd/{number}"), bundle.root().join(&link)).unwrap();
            for cwd in [
                format!("/proc/self/fd/{number}"),
                format!("/proc/self/fd/{number}/.."),
                format!("/proc/1/fd/{number}/../.."),
                format!("/fds/{number}"),
                format!("/{link}"),
            ] {
                let script = "pwd; ls -a . .. | grep -x secret";
                let spec = with_cwd(bundle.shell(script), &cwd);
                // Refused, or inside.
                if let Ok(output) = try_run(&launcher, &spec, piped()) {
                    assert!(output.stdout.starts_with('/'), "{cwd}: {output:?}");
                    assert!(!output.stdout.contains("secret"), "{cwd}: {output:?}");
                }
            }
        }
        drop(held);
    });
}

/// Stays a while, inside of a container that has this very program as its first process.
#[test]
fn role_lingerer() {
    if role::plays("threats::role_lingerer") {
        fs::write("/tmp/here", "").expect("tell the test");
        std::thread::sleep(crate::support::bundle::LIMIT);
    }
}

#[test]
fn privileged_host_program_survives_an_image_that_executes_it() {
    with_bundle!(|_, bundle| {
        let own = || {
            let own = fs::metadata("/proc/self/exe").unwrap();
            (own.mtime(), own.mtime_nsec(), own.size(), own.ino())
        };
        let before = own();
        bundle.add_probe();
        // Until the first program of the container is there, `/proc/self/exe` is the host's. An image can have it
        // executed as the interpreter of a script, or (its name has room for that) of a program.
        add_script(
            bundle,
            "script",
            "#!/proc/self/exe threats::role_lingerer\n",
        );
        let mut program = fs::read(bundle.root().join("probe")).unwrap();
        let loader = b"/lib64/ld-linux-x86-64.so.2\0";
        if let Some(at) = program
            .windows(loader.len())
            .position(|bytes| bytes == loader)
        {
            program[at..at + 15].copy_from_slice(b"/proc/self/exe\0");
        }
        fs::write(bundle.root().join("program"), program).unwrap();
        fs::set_permissions(
            bundle.root().join("program"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();

        let launcher = Launcher::new();
        let (_, variable) = role::arguments("threats::role_lingerer");
        let spec = |command: &str| {
            let mut spec = bundle.spec(&[command]);
            edit_process(&mut spec, |process| {
                process.set_env(Some(vec![variable.clone()]));
            });
            spec
        };
        let hunt = "for turn in 1 2 3; do for exe in /proc/[0-9]*/exe; do \
            case $(readlink $exe) in */busybox) ;; *) \
              (exec 3< $exe && echo found; (echo x >> $exe) && echo wrote; \
               (echo x >> /proc/self/fd/3) && echo wrote);; \
            esac; done; done; echo done";
        let first = launcher.create(&spec("/script"), piped()).unwrap();
        first.start().unwrap();
        role::wait_until("the lingerer", || bundle.root().join("tmp/here").exists());
        let mut hunter = bundle.shell(hunt);
        set_namespace(
            &mut hunter,
            LinuxNamespaceType::Pid,
            Some(&format!("/proc/{}/ns/pid", first.pid())),
        );
        assert_eq!(stdout_of(&launcher, &hunter), "found\nfound\nfound\ndone");
        first.kill(Signal::KILL).unwrap();
        first.wait().unwrap();

        // Whatever becomes of that one.
        let program = launcher
            .create(&spec("/program"), CreateOptions::default())
            .unwrap();
        if program.start().is_ok() {
            let _ = program.kill(Signal::KILL);
            program.wait().unwrap();
        }

        // Among the processes of the host, where the launcher and the embedder are.
        let mut hunter = bundle.shell(hunt);
        set_namespace(&mut hunter, LinuxNamespaceType::Pid, None);
        let seen = stdout_of(&launcher, &hunter);
        assert!(!seen.contains("wrote"), "{seen}");
        assert_eq!(own(), before);
    });
}

#[test]
fn privileged_masks_do_not_rely_on_the_image() {
    with_bundle!(|place, bundle| {
        let victim = place.dir().join("victim");
        fs::write(&victim, "intact").unwrap();
        let _ = fs::remove_dir(bundle.root().join("dev"));
        fs::create_dir(bundle.root().join("dev")).unwrap();
        symlink(
            "/proc/sys/kernel/core_pattern",
            bundle.root().join("dev/null"),
        )
        .unwrap();
        let mut spec = bundle.shell(
            "cat /proc/kcore | wc -c; cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
             echo x > /proc/sys/kernel/core_pattern || echo refused",
        );
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let launcher = Launcher::new();
        assert_eq!(stdout_of(&launcher, &spec), "0\n0\n0\nrefused");
        // In the image's own /dev what stands in for a device is refused.
        let mut mounts = spec.mounts().clone().unwrap();
        mounts.retain(|mount| !mount.destination().starts_with("/dev"));
        spec.set_mounts(Some(mounts));
        let report = try_run(&launcher, &spec, piped()).unwrap_err().report();
        assert!(report.contains("make device /dev/null"), "{report}");
        let after = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        assert_eq!(after, pattern);
    });
}

#[test]
fn privileged_linked_kernel_directories_are_refused() {
    with_bundle!(|_, bundle| {
        for (name, target) in [
            ("proc", "/tmp"),
            ("proc", "tmp"),
            ("sys", "/etc"),
            ("dev", "/tmp"),
            ("proc", "/../../../../tmp"),
        ] {
            let dir = bundle.root().join(name);
            let _ = fs::remove_dir(&dir);
            symlink(target, &dir).unwrap();
            let result = try_run(&Launcher::new(), &bundle.spec(&["true"]), piped());
            let report = result.unwrap_err().report();
            assert!(report.contains(&format!("on /{name}")), "{report}");
            fs::remove_file(&dir).unwrap();
            fs::create_dir(&dir).unwrap();
        }
        // A file there is no better.
        fs::remove_dir(bundle.root().join("proc")).unwrap();
        fs::write(bundle.root().join("proc"), "").unwrap();
        try_run(&Launcher::new(), &bundle.spec(&["true"]), piped()).unwrap_err();
    });
}

#[test]
fn privileged_mount_targets_stay_inside() {
    with_bundle!(|place, bundle| {
        let source = place.dir().join("source");
        let outside = place.dir().join("outside");
        for dir in [&source, &outside] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(source.join("file"), "content").unwrap();
        fs::write(outside.join("hosts"), "host's").unwrap();
        place.watch(&outside);
        let root = bundle.root();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../../../../..", root.join("up")).unwrap();
        symlink(outside.join("hosts"), root.join("etc/hosts")).unwrap();
        symlink("../run/nothing/resolv.conf", root.join("etc/resolv.conf")).unwrap();
        symlink("/tmp", root.join("inner")).unwrap();
        let launcher = Launcher::new();
        let file = source.join("file");
        let run = |source: &Path, target: &str, read: &str| {
            let mut spec = bundle.spec(&["cat", read]);
            add_bind(&mut spec, source, target, &["ro"]);
            try_run(&launcher, &spec, piped())
        };
        for (source, target, read) in [
            (&source, "/inner/new", "/tmp/new/file"),
            (&source, "/up/etc/deep/er", "/etc/deep/er/file"),
            (&file, "/etc/hosts", "/srv/work/outside/hosts"),
            (&file, "/etc/resolv.conf", "/run/nothing/resolv.conf"),
        ] {
            let output = run(source, target, read).unwrap();
            assert_eq!(output.stdout, "content", "{target}: {output:?}");
            assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "host's");
        }
        // Through a link that leads to nothing, and over the root itself.
        for target in ["/absolute/new", "/up"] {
            let content = run(&source, target, "/file").map(|output| output.stdout);
            assert!(content.is_err() || content.unwrap().is_empty(), "{target}");
            assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "host's");
        }
    });
}

#[test]
fn privileged_inheritable_and_ambient_capabilities_are_none() {
    with_bundle!(|_, bundle| {
        let spec = |uid| {
            let mut spec = bundle.spec(&["grep", "^Cap", "/proc/self/status"]);
            set_user(&mut spec, uid, uid);
            spec
        };
        let zero = "0000000000000000";
        let default = format!("{:016x}", capability::DEFAULT);
        let launcher = Launcher::new();
        assert_eq!(
            stdout_of(&launcher, &spec(0)),
            format!(
                "CapInh:\t{zero}\nCapPrm:\t{default}\nCapEff:\t{default}\nCapBnd:\t{default}\nCapAmb:\t{zero}"
            )
        );
        assert_eq!(
            stdout_of(&launcher, &spec(1000)),
            format!(
                "CapInh:\t{zero}\nCapPrm:\t{zero}\nCapEff:\t{zero}\nCapBnd:\t{default}\nCapAmb:\t{zero}"
            )
        );
    });
}

#[test]
fn privileged_hardened_container_gains_no_privileges() {
    with_bundle!(|_, bundle| {
        let busybox = bundle.root().join("setuid/grep");
        fs::create_dir(bundle.root().join("setuid")).unwrap();
        fs::copy(bundle.root().join("bin/busybox"), &busybox).unwrap();
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o4755)).unwrap();
        let launcher = Launcher::new();
        let command = [
            "/setuid/grep",
            "-E",
            "^(Uid|NoNewPrivs|CapEff)",
            "/proc/self/status",
        ];
        let mut spec = bundle.spec(&command);
        set_user(&mut spec, 1000, 1000);
        defaults::hardened(&mut spec);
        assert_eq!(
            stdout_of(&launcher, &spec),
            "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1"
        );
    });
}

#[test]
fn privileged_control_groups_are_read_only_and_mounts_denied() {
    with_bundle!(|_, bundle| {
        let output = run(
            &Launcher::new(),
            &bundle.shell(
                "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                   (echo x > $d/release_agent) 2>/dev/null && echo wrote $d; \
                   (echo 1 > $d/notify_on_release) 2>/dev/null && echo wrote $d; \
                   (echo 0 > $d/cgroup.procs) 2>/dev/null && echo joined $d; \
                   mkdir $d/mine 2>/dev/null && echo made $d/mine; done; \
                 unshare -m true && echo unshared; \
                 unshare -U true && echo unshared; \
                 unshare -rm true && echo unshared; \
                 mount -t tmpfs none /tmp && echo mounted; \
                 mount -t cgroup -o memory none /tmp && echo mounted; \
                 mount -o remount,rw /sys && echo remounted; \
                 mount -o remount,rw,bind /proc/sys && echo remounted; \
                 umount /proc/sys && echo unmounted; \
                 umount -l /sys/firmware && echo unmounted; \
                 echo end",
            ),
        );
        assert_eq!(output.stdout, "end\n", "{output:?}");
    });
}

#[test]
fn privileged_kernel_files_cannot_be_written_or_read_where_masked() {
    with_bundle!(|_, bundle| {
        // Root may open for writing what has no way to be written to, so only a write shows it.
        let script = "find /proc /sys -xdev -type f 2>/dev/null | \
            grep -vE '^/proc/[0-9]+/|^/proc/(self|thread-self)/' | \
            while read f; do (echo x >> $f) 2>/dev/null && echo $f; done; echo end";
        let seen = run(&Launcher::new(), &bundle.shell(script)).stdout;
        let writable: Vec<_> = seen.lines().collect();
        assert_eq!(writable, ["end"]);

        let script = "cd /proc/self; for f in *; do [ -f $f ] && (echo x >> $f) 2>/dev/null && echo $f; done; echo end";
        let seen = run(&Launcher::new(), &bundle.shell(script)).stdout;
        for file in seen.lines().filter(|line| *line != "end") {
            let known = [
                "autogroup",
                "clear_refs",
                "comm",
                "coredump_filter",
                "gid_map",
                "mem",
                "oom_adj",
                "oom_score_adj",
                "projid_map",
                "sched",
                "setgroups",
                "timerslack_ns",
                "uid_map",
                "loginuid",
                "make-it-fail",
                "fail-nth",
                "timens_offsets",
                "latency",
                "ksm_stat",
                "arch_status",
                "seccomp_cache",
            ];
            assert!(known.contains(&file), "/proc/self/{file} can be written to");
        }

        let masked = defaults::default_spec().linux().clone().unwrap();
        for path in masked.masked_paths().iter().flatten() {
            let script = format!("[ -d {path} ] && ls -A {path} || cat {path} 2>/dev/null; true");
            assert_eq!(
                stdout_of(&Launcher::new(), &bundle.shell(&script)),
                "",
                "{path}"
            );
        }
    });
}

#[test]
fn privileged_foreign_devices_cannot_be_opened() {
    with_bundle!(|place, bundle| {
        let script = "for d in b:8:0 c:1:1 c:10:229 b:7:0 c:10:200 b:254:0; do \
               IFS=: read kind major minor <<X\n$d\nX\n\
               mknod /tmp/d $kind $major $minor || echo not made; \
               (: < /tmp/d) 2>&1 | grep -q 'not permitted' && echo denied; \
               rm -f /tmp/d; done; \
             for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
             head -c 1 /dev/urandom >/dev/null && echo fine";
        let spec = in_group(place, bundle.shell(script));
        let output = run(&Launcher::new(), &spec);
        assert_eq!(
            output.stdout,
            format!("{}fine\n", "denied\n".repeat(6)),
            "{output:?}"
        );
        host::remove_cgroups(place.cgroup());
    });
}

/// Makes system calls inside a container and tells what came of them.
#[test]
fn role_prober() {
    if !role::plays("threats::role_prober") {
        return;
    }
    // Arguments that are refused without the filter, too, but in another way: nothing is to happen where it lacks.
    const BAD: u64 = u64::MAX;
    for name in DENIED {
        let number: Sysno = name.parse().expect("a system call");
        let arguments = match *name {
            // With namespaces; without, they are allowed.
            "unshare" | "clone" => [libc::CLONE_NEWUSER.unsigned_abs().into(), 0, 0, 0],
            _ => [BAD; 4],
        };
        let result = sys::call(i64::from(number.id()), arguments);
        role::say(format!(
            "{name} {}",
            result.map_or_else(|errno| errno, |_| 0)
        ));
    }
    for (what, request) in [("TIOCSTI", libc::TIOCSTI), ("TIOCLINUX", libc::TIOCLINUX)] {
        let result = sys::call(libc::SYS_ioctl, [0, request, 0, 0]);
        role::say(format!(
            "{what} {}",
            result.map_or_else(|errno| errno, |_| 0)
        ));
    }
    let socket = |family: libc::c_int| sys::call(libc::SYS_socket, [family as u64, 5, 0, 0]);
    let result = socket(libc::AF_VSOCK);
    role::say(format!(
        "AF_VSOCK {}",
        result.map_or_else(|errno| errno, |_| 0)
    ));
    let result = sys::call(libc::SYS_getpid, [0; 4]);
    role::say(format!(
        "getpid {}",
        result.map_or_else(|errno| -errno, |_| 0)
    ));
}

/// What no container of the default may call.
const DENIED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "clone",
    "clone3",
    "create_module",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "query_module",
    "quotactl",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "umount2",
    "unshare",
    "uselib",
    "userfaultfd",
    "vhangup",
];

#[test]
fn privileged_denied_system_calls_are_denied() {
    with_bundle!(|_, bundle| {
        bundle.add_probe();
        let (arguments, variable) = role::arguments("threats::role_prober");
        let mut command = vec!["/probe"];
        command.extend(arguments.iter().map(String::as_str));
        for (uid, hardened) in [(0, false), (0, true), (1000, false)] {
            let mut spec = bundle.spec(&command);
            edit_process(&mut spec, |process| {
                process.set_env(Some(vec![variable.clone()]));
            });
            set_user(&mut spec, uid, uid);
            if hardened {
                defaults::hardened(&mut spec);
            }
            let launcher = Launcher::new();
            let first = run(&launcher, &spec);
            let mut sleeper = spec.clone();
            edit_process(&mut sleeper, |process| {
                process.set_args(Some(vec!["/bin/sleep".into(), "600".into()]));
            });
            let container = launcher.create(&sleeper, CreateOptions::default()).unwrap();
            container.start().unwrap();
            let process = spec.process().as_ref().unwrap();
            let (executed, _, _) = exec::output(&launcher, &container, process);
            container.kill(Signal::KILL).unwrap();
            container.wait().unwrap();
            for output in [first.stdout, executed] {
                let said = role::said(&output);
                assert_eq!(said.len(), DENIED.len() + 4, "{output:?}");
                let (allowed, denied): (Vec<_>, Vec<_>) = said
                    .iter()
                    .map(|line| line.split_once(' ').expect("a name and a number"))
                    .partition(|(name, _)| *name == "getpid");
                assert_eq!(allowed, [("getpid", "0")]);
                let open: Vec<_> = denied
                    .iter()
                    .filter(|(_, errno)| {
                        let errno: i32 = errno.parse().expect("a number");
                        !matches!(errno, libc::EPERM | libc::ENOSYS | libc::EAFNOSUPPORT)
                    })
                    .collect();
                assert!(open.is_empty(), "uid {uid}, hardened {hardened}: {open:?}");
            }
        }
    });
}

#[test]
fn privileged_container_on_the_hosts_network_finds_no_socket_of_ours() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.shell("grep @ /proc/net/unix; echo end");
        set_namespace(&mut spec, LinuxNamespaceType::Network, None);
        assert_eq!(stdout_of(&Launcher::new(), &spec), "end");
    });
}

#[test]
fn privileged_odd_users_are_errors_and_never_root() {
    with_bundle!(|_, bundle| {
        let mut passwd = String::new();
        let odd = [
            "4294967296",
            "4294967295",
            "2147483648",
            "-1",
            "+0",
            " 0",
            "0 ",
            "-0",
            "",
        ];
        for name in odd {
            passwd += &format!("{name}:x:0:0:trap:/root:/bin/sh\n");
        }
        fs::write(bundle.root().join("etc/passwd"), passwd).unwrap();
        let launcher = Launcher::new();
        for user in odd
            .iter()
            .filter(|user| !user.is_empty())
            .chain(&["nobody", "0:-1", "0:none", ":0"])
        {
            let mut options = piped();
            options.user = Some((*user).into());
            let result = try_run(&launcher, &bundle.spec(&["id", "-u"]), options);
            let error = result.expect_err(user);
            assert!(
                matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound),
                "{user}: {error:?}"
            );
        }
    });
}

#[test]
fn privileged_hostile_user_files_are_read_inside_or_refused() {
    with_bundle!(|place, bundle| {
        let passwd = bundle.root().join("etc/passwd");
        let user = |name: &str| {
            let mut options = piped();
            options.user = Some(name.into());
            try_run(&Launcher::new(), &bundle.spec(&["id", "-u"]), options)
                .map(|output| output.stdout.trim().to_owned())
        };
        let outside = place.dir().join("passwd");
        fs::write(&outside, "trap:x:4242:4242::/:/bin/sh\n").unwrap();
        for target in [
            outside.to_str().unwrap(),
            "../../../../../../srv/work/passwd",
        ] {
            fs::remove_file(&passwd).unwrap();
            symlink(target, &passwd).unwrap();
            assert!(user("trap").is_err(), "{target}");
            assert_eq!(user("7").unwrap(), "7", "{target}");
        }
        // A link inside is fine.
        fs::remove_file(&passwd).unwrap();
        fs::write(bundle.root().join("users"), "inner:x:77:77::/:/bin/sh\n").unwrap();
        symlink("/users", &passwd).unwrap();
        assert_eq!(user("inner").unwrap(), "77");

        fs::remove_file(&passwd).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&passwd).status();
        assert!(made.unwrap().success() && passwd.metadata().unwrap().file_type().is_fifo());
        assert!(user("inner").is_err());
        fs::remove_file(&passwd).unwrap();
        let line = "trap:x:4242:4242::/:/bin/sh\n";
        fs::write(&passwd, line.repeat((20 << 20) / line.len())).unwrap();
        assert!(user("trap").is_err());
        fs::remove_file(&passwd).unwrap();
        fs::create_dir(&passwd).unwrap();
        assert!(user("inner").is_err());
    });
}

#[test]
fn privileged_hostile_group_names_have_no_effect() {
    with_bundle!(|_, bundle| {
        let long = "x".repeat(300);
        for path in [
            "..", "../..", "a/../b", "", "/", "a//b", ".", "a/.", "a\0b", "a\nb", &long,
        ] {
            let mut spec = bundle.spec(&["true"]);
            edit_linux(&mut spec, |linux| {
                linux.set_cgroups_path(Some(path.into()));
            });
            let error = Launcher::new()
                .create(&spec, CreateOptions::default())
                .unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::InvalidInput, "InvalidName"),
                "{path:?}"
            );
        }
    });
}

#[test]
fn privileged_mounts_stay_apart_from_the_hosts() {
    with_bundle!(|place, bundle| {
        let shared = place.dir().join("shared");
        fs::create_dir(&shared).unwrap();
        let mount = |arguments: &[&str]| {
            let status = std::process::Command::new("mount").args(arguments).status();
            assert!(status.unwrap().success(), "mount {arguments:?}");
        };
        let path = shared.to_str().unwrap();
        mount(&["-t", "tmpfs", "none", path]);
        mount(&["--make-shared", path]);
        fs::create_dir(shared.join("sub")).unwrap();
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut spec = bundle.shell("cat /proc/self/mountinfo; echo ready; read x; ls /data/sub; cat /proc/mounts | grep -c /data/sub");
        add_bind(&mut spec, &shared, "/data", &["rprivate"]);
        let mut options = piped();
        options.stdio[0] = Stdio::Piped;
        let mut container = Launcher::new().create(&spec, options).unwrap();
        container.start().unwrap();
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        let mut stdout = container.take_stdout().unwrap();
        let inside = read_until(&mut stdout, "ready\n");
        // Of the host's tree there is only what was asked for, and nothing is shared.
        assert!(!inside.contains("shared:"), "{inside}");
        assert!(!inside.contains("/srv/work/shared /srv"), "{inside}");
        // What the host mounts now is not seen inside.
        mount(&["-t", "tmpfs", "none", &format!("{path}/sub")]);
        fs::write(shared.join("sub/new"), "").unwrap();
        drop(container.take_stdin());
        assert_eq!(read_until(&mut stdout, "\n"), "0\n");
        finish(&mut container);
        for path in [format!("{path}/sub"), path.to_owned()] {
            assert!(
                std::process::Command::new("umount")
                    .arg(path)
                    .status()
                    .unwrap()
                    .success()
            );
        }
    });
}

#[test]
fn privileged_read_only_mounts_stay_so() {
    with_bundle!(|place, bundle| {
        let volume = place.dir().join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        let sub = volume.join("sub");
        let mount = |verb: &str, arguments: &[&str]| {
            let status = std::process::Command::new(verb).args(arguments).status();
            assert!(status.unwrap().success());
        };
        mount("mount", &["-t", "tmpfs", "none", sub.to_str().unwrap()]);
        let script = "touch /data/a && echo wrote; touch /data/sub/a && echo wrote below; \
            mount -o remount,rw /data && echo remounted; mount -o remount,bind,rw /data && echo remounted; \
            mount -o remount,bind,rw /data/sub && echo remounted; umount /data/sub && echo unmounted; \
            touch /outside && echo fine";
        let mut spec = bundle.shell(script);
        add_bind(&mut spec, &volume, "/data", &["rro", "rprivate"]);
        // Even with the capability that the filter and the default leave out, only the kernel's lock is left: none.
        let output = run(&Launcher::new(), &spec);
        assert_eq!(output.stdout, "fine\n", "{output:?}");

        let mut spec = bundle.shell(
            "touch /outside && echo wrote; mount -o remount,rw / && echo remounted; echo end",
        );
        let mut root = spec.root().clone().unwrap();
        root.set_readonly(Some(true));
        spec.set_root(Some(root));
        assert_eq!(stdout_of(&Launcher::new(), &spec), "end");
        mount("umount", &[sub.to_str().unwrap()]);
    });
}

#[test]
fn privileged_bounding_set_cannot_be_regained() {
    with_bundle!(|_, bundle| {
        let mut spec = bundle.spec(&["grep", "^CapBnd", "/proc/self/status"]);
        let none = [Capability::Chown].into_iter().collect();
        crate::support::bundle::set_capabilities(&mut spec, &none);
        assert_eq!(
            stdout_of(&Launcher::new(), &spec),
            "CapBnd:\t0000000000000001"
        );
    });
}
