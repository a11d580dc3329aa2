//! The profile of a container that asks for no other.

use oci_spec::runtime::{
    Arch, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Operator,
};

use super::profile::{ArchMap, Condition, Profile, Rule};

/// Gives the default profile: what is listed is allowed, everything else fails with `EPERM`.
///
/// It decides as Docker's does, but for three things: the requests by which a program types into its
/// terminal (`TIOCSTI`, `TIOCLINUX`) are denied, the upper half of 32-bit arguments is not looked at
/// (see [`compile`](super::compile)), and calls newer than all in the list fail with `ENOSYS`.
#[must_use]
pub fn default_profile() -> Profile {
    let mut syscalls = vec![allow(&ALWAYS.concat())];
    syscalls.extend(FAMILIES.map(|arg| allow_if("socket", arg)));
    syscalls.extend(
        PERSONALITIES.map(|value| allow_if("personality", (0, Operator::ScmpCmpEq, value, None))),
    );
    syscalls.extend(TERMINAL_REQUESTS.map(|arg| allow_if("ioctl", arg)));
    syscalls.extend(clone_rules());
    for (names, arches) in BY_ARCH {
        let mut rule = allow(names);
        rule.includes.arches = strings(arches);
        syscalls.push(rule);
    }
    let mut traced = allow(TRACING);
    traced.includes.min_kernel = Some("4.8".to_owned());
    syscalls.push(traced);
    for (capability, names) in BY_CAPABILITY {
        let mut rule = allow(names);
        rule.includes = with_capability(capability);
        syscalls.push(rule);
    }
    Profile {
        default_action: LinuxSeccompAction::ScmpActErrno,
        default_errno_ret: Some(EPERM),
        architectures: Vec::new(),
        arch_map: ARCHES
            .iter()
            .map(|(native, others)| ArchMap {
                architecture: *native,
                sub_architectures: others.to_vec(),
            })
            .collect(),
        flags: Vec::new(),
        syscalls,
    }
}

/// New namespaces are for those with `CAP_SYS_ADMIN`. A filter cannot see the flags of `clone3`,
/// which are in memory, so that it has to look as if the kernel were too old to have it.
fn clone_rules() -> [Rule; 2] {
    let no_namespaces = (0, Operator::ScmpCmpMaskedEq, NAMESPACE_FLAGS, Some(0));
    let mut clone = allow_if("clone", no_namespaces);
    let mut clone3 = Rule {
        action: LinuxSeccompAction::ScmpActErrno,
        errno_ret: Some(super::compile::ENOSYS),
        ..allow(&["clone3"])
    };
    for rule in [&mut clone, &mut clone3] {
        rule.excludes = with_capability("CAP_SYS_ADMIN");
    }
    [clone, clone3]
}

fn allow(names: &[&str]) -> Rule {
    Rule {
        names: strings(names),
        name: String::new(),
        action: LinuxSeccompAction::ScmpActAllow,
        errno_ret: None,
        args: Vec::new(),
        includes: Condition::default(),
        excludes: Condition::default(),
    }
}

fn allow_if(name: &str, arg: Arg) -> Rule {
    Rule {
        args: vec![argument(arg)],
        ..allow(&[name])
    }
}

fn with_capability(name: &str) -> Condition {
    Condition {
        caps: strings(&[name]),
        ..Condition::default()
    }
}

fn argument((index, op, value, value_two): Arg) -> LinuxSeccompArg {
    let mut argument = LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value);
    if let Some(value_two) = value_two {
        argument = argument.value_two(value_two);
    }
    argument.build().expect("every required field is set")
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// An argument's index, how it is compared, with what, and for a mask what must remain.
type Arg = (usize, Operator, u64, Option<u64>);

const EPERM: u32 = 1;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// Address families: all but `AF_ALG` (38), the kernel's cryptography, and `AF_VSOCK` (40), which
/// reaches the host of a virtual machine past all network namespaces.
const FAMILIES: [Arg; 3] = [
    (0, Operator::ScmpCmpLt, 38, None),
    (0, Operator::ScmpCmpEq, 39, None),
    (0, Operator::ScmpCmpGt, 40, None),
];

/// Linux, Linux with a 32-bit `uname`, both without address randomisation of old (`0x20000` is
/// `UNAME26`), and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Requests: all but `TIOCSTI` (0x5412) and `TIOCLINUX` (0x541c), in five ranges.
const TERMINAL_REQUESTS: [Arg; 5] = [
    (1, Operator::ScmpCmpLt, 0x5412, None),
    (1, Operator::ScmpCmpEq, 0x5413, None),
    (1, Operator::ScmpCmpMaskedEq, 0xffff_fffc, Some(0x5414)),
    (1, Operator::ScmpCmpMaskedEq, 0xffff_fffc, Some(0x5418)),
    (1, Operator::ScmpCmpGt, 0x541c, None),
];

/// Before Linux 4.8 a tracer could change a call after it had passed the filter.
const TRACING: &[&str] = &["process_vm_readv", "process_vm_writev", "ptrace"];

const ARCHES: [(Arch, &[Arch]); 3] = [
    (
        Arch::ScmpArchX86_64,
        &[Arch::ScmpArchX86, Arch::ScmpArchX32],
    ),
    (Arch::ScmpArchAarch64, &[Arch::ScmpArchArm]),
    (Arch::ScmpArchRiscv64, &[]),
];

const BY_ARCH: [(&[&str], &[&str]); 4] = [
    (&["arch_prctl"], &["amd64"]),
    (&["modify_ldt"], &["amd64", "x86"]),
    (
        &[
            "arm_fadvise64_64",
            "arm_sync_file_range",
            "breakpoint",
            "cacheflush",
            "set_tls",
            "sync_file_range2",
        ],
        &["arm", "arm64"],
    ),
    (&["riscv_flush_icache", "riscv_hwprobe"], &["riscv64"]),
];

const BY_CAPABILITY: [(&str, &[&str]); 14] = [
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    (
        "CAP_SYS_MODULE",
        &["delete_module", "finit_module", "init_module"],
    ),
    (
        "CAP_SYS_NICE",
        &[
            "get_mempolicy",
            "mbind",
            "set_mempolicy",
            "set_mempolicy_home_node",
        ],
    ),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
        ],
    ),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    (
        "CAP_SYS_TIME",
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// What every container may call, by subject.
const ALWAYS: [&[&str]; 9] = [
    // Processes, threads and their identity.
    &[
        "capget",
        "capset",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "get_robust_list",
        "get_thread_area",
        "getegid",
        "getegid32",
        "geteuid",
        "geteuid32",
        "getgid",
        "getgid32",
        "getgroups",
        "getgroups32",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getresgid",
        "getresgid32",
        "getresuid",
        "getresuid32",
        "getrusage",
        "getsid",
        "gettid",
        "getuid",
        "getuid32",
        "kill",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "membarrier",
        "pause",
        "pidfd_open",
        "pidfd_send_signal",
        "prctl",
        "process_mrelease",
        "restart_syscall",
        "rseq",
        "seccomp",
        "set_robust_list",
        "set_thread_area",
        "set_tid_address",
        "setfsgid",
        "setfsgid32",
        "setfsuid",
        "setfsuid32",
        "setgid",
        "setgid32",
        "setgroups",
        "setgroups32",
        "setpgid",
        "setregid",
        "setregid32",
        "setresgid",
        "setresgid32",
        "setresuid",
        "setresuid32",
        "setreuid",
        "setreuid32",
        "setsid",
        "setuid",
        "setuid32",
        "sysinfo",
        "tgkill",
        "times",
        "tkill",
        "umask",
        "uname",
        "uretprobe",
        "vfork",
        "wait4",
        "waitid",
        "waitpid",
    ],
    // Scheduling and limits.
    &[
        "getcpu",
        "getpriority",
        "getrlimit",
        "ioprio_get",
        "ioprio_set",
        "prlimit64",
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_rr_get_interval_time64",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
        "setpriority",
        "setrlimit",
        "ugetrlimit",
    ],
    // Signals.
    &[
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_sigtimedwait_time64",
        "rt_tgsigqueueinfo",
        "sigaltstack",
        "signalfd",
        "signalfd4",
        "sigprocmask",
        "sigreturn",
    ],
    // Memory.
    &[
        "brk",
        "madvise",
        "map_shadow_stack",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mmap2",
        "mprotect",
        "mremap",
        "mseal",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "remap_file_pages",
    ],
    // Time.
    &[
        "adjtimex",
        "alarm",
        "clock_adjtime",
        "clock_adjtime64",
        "clock_getres",
        "clock_getres_time64",
        "clock_gettime",
        "clock_gettime64",
        "clock_nanosleep",
        "clock_nanosleep_time64",
        "getitimer",
        "gettimeofday",
        "nanosleep",
        "setitimer",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_gettime64",
        "timer_settime",
        "timer_settime64",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_gettime64",
        "timerfd_settime",
        "timerfd_settime64",
    ],
    // Waiting and locking.
    &[
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "fanotify_mark",
        "flock",
        "futex",
        "futex_requeue",
        "futex_time64",
        "futex_wait",
        "futex_waitv",
        "futex_wake",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "_newselect",
        "poll",
        "ppoll",
        "ppoll_time64",
        "pselect6",
        "pselect6_time64",
        "select",
    ],
    // Sockets.
    &[
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "recv",
        "recvfrom",
        "recvmmsg",
        "recvmmsg_time64",
        "recvmsg",
        "send",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shutdown",
        "socketcall",
        "socketpair",
    ],
    // System V and POSIX inter-process communication.
    &[
        "ipc",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedreceive_time64",
        "mq_timedsend",
        "mq_timedsend_time64",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "semtimedop_time64",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
    ],
    // Files, directories, descriptors and file systems.
    &[
        "access",
        "cachestat",
        "chdir",
        "chmod",
        "chown",
        "chown32",
        "close",
        "close_range",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "faccessat",
        "faccessat2",
        "fadvise64",
        "fadvise64_64",
        "fallocate",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fchown",
        "fchown32",
        "fchownat",
        "fcntl",
        "fcntl64",
        "fdatasync",
        "fgetxattr",
        "flistxattr",
        "fremovexattr",
        "fsetxattr",
        "fstat",
        "fstat64",
        "fstatat64",
        "fstatfs",
        "fstatfs64",
        "fsync",
        "ftruncate",
        "ftruncate64",
        "futimesat",
        "getcwd",
        "getdents",
        "getdents64",
        "getrandom",
        "getxattr",
        "getxattrat",
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "io_pgetevents_time64",
        "io_setup",
        "io_submit",
        "lchown",
        "lchown32",
        "lgetxattr",
        "link",
        "linkat",
        "listmount",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "_llseek",
        "lremovexattr",
        "lseek",
        "lsetxattr",
        "lstat",
        "lstat64",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "name_to_handle_at",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "pipe",
        "pipe2",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readlink",
        "readlinkat",
        "readv",
        "removexattr",
        "removexattrat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "sendfile",
        "sendfile64",
        "setxattr",
        "setxattrat",
        "splice",
        "stat",
        "stat64",
        "statfs",
        "statfs64",
        "statmount",
        "statx",
        "symlink",
        "symlinkat",
        "sync",
        "sync_file_range",
        "syncfs",
        "tee",
        "truncate",
        "truncate64",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimensat_time64",
        "utimes",
        "vmsplice",
        "write",
        "writev",
    ],
];
