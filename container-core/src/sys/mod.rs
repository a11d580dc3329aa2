//! The system calls that rustix and nix do not offer, one function each.
//!
//! Nothing here allocates, so that the child of a clone may call everything.

#![allow(unsafe_code)]

mod bpf;
pub(crate) mod exec;
pub(crate) mod init;
pub(crate) mod landlock;
pub(crate) mod notify;
pub(crate) mod role;

use std::ffi::{c_char, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

pub(crate) use self::bpf::{
    attach_device_program, detach_device_program, device_programs, load_device_program,
};
use crate::seccomp::Instruction;

mod attribute;

pub(crate) use attribute::{
    SchedAttr, ioprio_set, join_session_keyring, personality, sched_setaffinity, sched_setattr,
    set_key_permissions, set_mempolicy,
};

/// `CLONE_CLEAR_SIGHAND` of `linux/sched.h`, which libc gives in a type too small for it.
pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// `CLONE_NEWUSER` as a flag of `clone3`.
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;

/// `CLONE_INTO_CGROUP`, likewise.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` of `linux/seccomp.h`.
pub(crate) const NEW_LISTENER: u32 = 1 << 3;

/// What `clone3` gave to which side.
pub(crate) enum Cloned {
    /// We are the child.
    Child,
    /// We are the parent of this process.
    Parent {
        /// The process id, as the caller's PID namespace numbers it.
        pid: i32,
        /// A descriptor of the process.
        pidfd: OwnedFd,
    },
}

/// The knowledge that the calling process has one thread, and starts no other.
#[derive(Clone, Copy)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Looks; `None` if there are more threads, which a library can start before `main`.
    ///
    /// Whoever keeps the value starts none.
    pub(crate) fn check() -> Option<Self> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        (tasks.count() == 1).then_some(Self(()))
    }
}

/// `struct clone_args` of `linux/sched.h` (version 2, 88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct mount_attr` of `linux/mount.h` (version 0, 32 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttr {
    pub(crate) attr_set: u64,
    pub(crate) attr_clr: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// `struct sock_fprog` of `linux/filter.h`.
#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const Instruction,
}

/// Forks the calling process, with `flags` beside `CLONE_PIDFD`, into the cgroup `cgroup` if given.
///
/// The child starts with every signal at its default disposition where `flags` ask for that.
///
/// The child is a copy-on-write copy of its parent. Only a process of one thread may have one: the
/// locks of the allocator and of libc would be in whatever state other threads had them.
///
/// # References
/// `clone3(2)`; Linux 5.3, `CLONE_INTO_CGROUP` 5.7.
pub(crate) fn clone3(
    _alone: SingleThreaded,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // A sibling of its cloner has the signal of the cloner itself, and may not name another.
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: `args` is a valid clone_args of the given size; without CLONE_VM the child has its own
    // copy of this stack frame, and `_alone` shows that no other thread holds a lock in it.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// Changes the attributes of the mount (with all below it if `recursive`) that `mount` refers to.
///
/// # References
/// `mount_setattr(2)`; Linux 5.12.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    attr: &MountAttr,
) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and `attr` a valid mount_attr of the given size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Maps the ids of the mount (with all below it if `recursive`) that `mount` refers to, which is
/// attached nowhere yet, as the user namespace `namespace` does.
///
/// # References
/// `mount_setattr(2)` with `MOUNT_ATTR_IDMAP`; Linux 5.12.
pub(crate) fn map_ids(
    mount: BorrowedFd<'_>,
    recursive: bool,
    namespace: BorrowedFd<'_>,
) -> Result<(), Errno> {
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
        ..MountAttr::default()
    };
    mount_setattr(mount, recursive, &attr)
}

/// Marks every descriptor from `first` on as close-on-exec.
///
/// # References
/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`; Linux 5.11.
pub(crate) fn close_range_cloexec(first: u32) -> Result<(), Errno> {
    // SAFETY: only a flag of descriptors changes.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
    .map(drop)
}

/// Makes `number` another descriptor of `file`, not close-on-exec; what was there is closed.
///
/// # References
/// `dup3(2)`.
pub(crate) fn duplicate_to(file: BorrowedFd<'_>, number: u32) -> Result<(), Errno> {
    // SAFETY: the callers own no descriptor of that number.
    check(unsafe { libc::syscall(libc::SYS_dup3, file.as_raw_fd(), number, 0) }).map(drop)
}

/// Closes every descriptor from `first` on; for a process that owns none of them.
///
/// # References
/// `close_range(2)`; Linux 5.9.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: the caller, at the start of its program, has no owner of such a descriptor.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Loads a seccomp filter; gives its listener, close-on-exec, where `flags` ask for one.
///
/// # References
/// `seccomp(2)` with `SECCOMP_SET_MODE_FILTER`; `SECCOMP_FILTER_FLAG_NEW_LISTENER` Linux 5.0.
pub(crate) fn seccomp_filter(
    program: &[Instruction],
    flags: u32,
) -> Result<Option<OwnedFd>, Errno> {
    let program = SockFprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        filter: program.as_ptr(),
    };
    // SAFETY: `program` points at `len` instructions in the kernel's layout, which the kernel copies
    // and verifies.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let listener = RawFd::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel gave a new descriptor, which nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(listener) }))
}

/// Enters the namespace that `namespace` refers to, which must be of the kind `flag`.
///
/// # References
/// `setns(2)`.
pub(crate) fn setns(namespace: BorrowedFd<'_>, flag: u32) -> Result<(), Errno> {
    // SAFETY: the call takes a descriptor and a number. Only the calling thread changes, which is the
    // only one of its process, or was made for it.
    check(unsafe { libc::syscall(libc::SYS_setns, namespace.as_raw_fd(), flag) }).map(drop)
}

/// Leaves the namespaces named by `flags` for new ones.
///
/// # References
/// `unshare(2)`.
pub(crate) fn unshare(flags: c_int) -> Result<(), Errno> {
    // SAFETY: the flags used here (namespaces) leave memory and descriptors shared as they are.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Sets the soft and hard limit of `resource` (`RLIMIT_*`) for the calling process.
///
/// # References
/// `prlimit(2)`.
pub(crate) fn setrlimit(resource: i32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = [soft, hard];
    // SAFETY: `limit` has the layout of struct rlimit64; the old limit is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            limit.as_ptr(),
            std::ptr::null_mut::<c_void>(),
        )
    })
    .map(drop)
}

/// Whether the working directory can be reached from the root of the process.
///
/// # References
/// `getcwd(2)`, which gives a path that does not start with `/` if not.
pub(crate) fn cwd_is_below_root() -> Result<bool, Errno> {
    let mut path = [0_u8; 4096];
    // SAFETY: the kernel writes at most `len` bytes.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/')
}

/// Drops `capability` from the bounding set.
///
/// # References
/// `prctl(2)` with `PR_CAPBSET_DROP`.
pub(crate) fn drop_bounding(capability: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
        .map(drop)
}

/// Adds `capability` to the ambient set.
///
/// # References
/// `prctl(2)` with `PR_CAP_AMBIENT_RAISE`.
pub(crate) fn raise_ambient(capability: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE,
            capability,
            0,
            0,
        )
    })
    .map(drop)
}

/// Sets the three capability sets of the calling thread, given as bit masks.
///
/// # References
/// `capset(2)`, version 3 of its header.
pub(crate) fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low and the high half of each set go into fields of their own"
    )]
    let data: [u32; 6] = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: header and data have the layout that version 3 asks for.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Sets real, effective and saved user id of the calling thread.
///
/// # References
/// `setresuid(2)`, without glibc's broadcast to all threads.
pub(crate) fn setresuid(id: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }).map(drop)
}

/// Sets real, effective and saved group id of the calling thread.
///
/// # References
/// `setresgid(2)`, without glibc's broadcast to all threads.
pub(crate) fn setresgid(id: u32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) }).map(drop)
}

/// Sets the supplementary groups of the calling thread.
///
/// # References
/// `setgroups(2)`, without glibc's broadcast to all threads.
pub(crate) fn setgroups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: pointer and length come from one slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Brings up the interface `lo` of the calling thread's network namespace.
///
/// # References
/// `netdevice(7)`, `SIOCSIFFLAGS`.
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    let socket = check(unsafe {
        libc::syscall(
            libc::SYS_socket,
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )
    })?;
    let socket = RawFd::try_from(socket).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel gave a new descriptor, which nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an ifreq is plain data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Of a sign that differs between architectures.
    request.ifr_name[..2].copy_from_slice(&[b'l', b'o'].map(|byte| c_char::from_ne_bytes([byte])));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the flags of an interface are 16 bits"
    )]
    {
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    }
    // SAFETY: `request` is an ifreq with a name and flags.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    })
    .map(drop)
}

/// Sends the signal `number` to the process that `pidfd` refers to.
///
/// # References
/// `pidfd_send_signal(2)`; for real-time signals, which rustix does not send.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers; no siginfo is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            std::ptr::null::<c_void>(),
            0,
        )
    })
    .map(drop)
}

/// Ends the process at once: no destructor, no `atexit`, no flush.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no precondition.
    unsafe { libc::_exit(status) }
}

/// Puts every signal back to its default disposition and unblocks all.
pub(crate) fn reset_signals() {
    // `struct sigaction` of the kernel, all zeros: SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // Not through libc, which leaves out the signals that it uses itself.
        // SAFETY: SIG_DFL runs no code of ours; SIGKILL and SIGSTOP are refused without effect; the
        // kernel reads one structure, and the last argument is the size of a set of 64 signals.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<c_void>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: an all-zero sigset_t is a valid empty set.
    unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

/// Chooses whether children are reaped by the kernel (`true`) or wait for their parent.
pub(crate) fn auto_reap(on: bool) {
    // SAFETY: neither disposition runs code of ours.
    unsafe {
        libc::signal(
            libc::SIGCHLD,
            if on { libc::SIG_IGN } else { libc::SIG_DFL },
        )
    };
}

/// Whether the kernel runs this program with more privileges than its caller has (set-user-ID,
/// set-group-ID, file capabilities).
///
/// # References
/// `getauxval(3)` with `AT_SECURE`.
pub(crate) fn is_secure_execution() -> bool {
    // SAFETY: getauxval reads the auxiliary vector and has no precondition.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result < 0 {
        // SAFETY: errno is always readable; `syscall` set it just now.
        return Err(Errno::from_raw_os_error(unsafe {
            *libc::__errno_location()
        }));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_size_that_the_kernel_knows() {
        assert_eq!(size_of::<CloneArgs>(), 88); // CLONE_ARGS_SIZE_VER2
        assert_eq!(size_of::<MountAttr>(), 32); // MOUNT_ATTR_SIZE_VER0
        assert_eq!(size_of::<SockFprog>(), 16);
    }
}
