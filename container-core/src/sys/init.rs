//! The system calls of the built-in init.

use rustix::io::Errno;

use super::check;

/// The bytes of a signal set, as the kernel has it.
const SET_SIZE: usize = size_of::<u64>();

/// Forks the calling process, without what libc does beside that; gives 0 in the child.
///
/// Under the default filter `clone3` is not to be had, and this process may be under one.
///
/// # References
/// `clone(2)`.
pub(crate) fn fork() -> Result<i32, Errno> {
    // SAFETY: without CLONE_VM the child has its own copy of everything. The caller is a process of
    // one thread that walks a plan, so that nobody holds a lock, and does the same after the call.
    check(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })
        .and_then(|pid| i32::try_from(pid).map_err(|_| Errno::OVERFLOW))
}

/// Blocks all signals, or none.
///
/// # References
/// `rt_sigprocmask(2)`.
pub(crate) fn block_signals(all: bool) -> Result<(), Errno> {
    let set = if all { u64::MAX } else { 0 };
    // SAFETY: the set is of the given size; the old one is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const set,
            std::ptr::null_mut::<u64>(),
            SET_SIZE,
        )
    })
    .map(drop)
}

/// Waits for a blocked signal, of any kind; gives its number.
///
/// # References
/// `rt_sigtimedwait(2)`.
pub(crate) fn take_signal() -> Result<i32, Errno> {
    let all = u64::MAX;
    // SAFETY: the set is of the given size; neither details nor a limit are asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const all,
            std::ptr::null_mut::<libc::siginfo_t>(),
            std::ptr::null::<libc::timespec>(),
            SET_SIZE,
        )
    })
    .and_then(|number| i32::try_from(number).map_err(|_| Errno::INVAL))
}

/// Sends the signal `number` to the process `pid`.
///
/// # References
/// `kill(2)`; for real-time signals, which rustix does not send.
pub(crate) fn kill(pid: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, number) }).map(drop)
}
