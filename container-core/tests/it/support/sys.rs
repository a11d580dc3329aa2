//! What the tests need of the kernel and can have no safer way.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// An allocator that ends the process if something allocates between the clone of a container's first process and its
/// program.
///
/// Such a process is recognised by two things: the name that it still has from its monitor, and that it has no parent
/// in its own PID namespace.
#[derive(Debug)]
pub(crate) struct Watched;

/// The exit code of a process that allocated where it must not.
pub(crate) const ALLOCATED: i32 = 99;

// SAFETY: everything is passed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        watch();
        // SAFETY: the caller's promises are those that the callee asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        watch();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn watch() {
    // SAFETY: neither call has a precondition; the buffer has the 16 bytes that PR_GET_NAME writes.
    unsafe {
        if libc::getppid() != 0 {
            return;
        }
        let mut name = [0_u8; 16];
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        if name.starts_with(b"ctr-monitor\0") {
            libc::_exit(ALLOCATED);
        }
    }
}

/// Allocates in a process like those that must not; gives its exit code.
pub(crate) fn allocate_in_a_fresh_clone() -> i32 {
    // SAFETY: the child is the first process of a PID namespace, which allocates (the point of it) and ends; a lock
    // of the allocator that another thread holds would make it hang, so there must be none.
    let parent = match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _ = rustix::thread::set_name(c"ctr-monitor");
            drop(std::hint::black_box(Box::new(1)));
            // SAFETY: it ends the process.
            unsafe { libc::_exit(0) }
        }
    };
    match waitpid(parent, None).expect("wait") {
        WaitStatus::Exited(_, code) => code,
        other => panic!("ended with {other:?}"),
    }
}

/// Ignores every signal that can be.
pub(crate) fn ignore_signals() {
    for number in Signal::iterator() {
        // SAFETY: SIG_IGN runs no code of ours; SIGKILL and SIGSTOP are refused without effect.
        let _ = unsafe { signal(number, SigHandler::SigIgn) };
    }
}

/// Takes over a descriptor that the kernel gave to this process just now.
pub(crate) fn own(descriptor: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the caller received it, and nobody else knows of it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor) }
}

/// Closes the three standard streams.
pub(crate) fn close_streams() {
    for number in 0..3 {
        // SAFETY: nothing in this process uses them from now on.
        unsafe { libc::close(number) };
    }
}

/// Makes a system call with four arguments; gives its result or the number of its error.
pub(crate) fn call(number: i64, arguments: [u64; 4]) -> Result<i64, i32> {
    let [a, b, c, d] = arguments;
    // SAFETY: callers pass numbers and pointers to what lives as long as the call, or calls that are refused.
    let result = unsafe { libc::syscall(number, a, b, c, d) };
    match result {
        -1 => Err(nix::errno::Errno::last_raw()),
        result => Ok(result),
    }
}

/// Counts the nanoseconds that processes of the group `cgroup` run on the processor `cpu`, from now on.
pub(crate) fn count_run_time(cgroup: &OwnedFd, cpu: u32) -> Result<OwnedFd, i32> {
    /// `PERF_TYPE_SOFTWARE`
    const SOFTWARE: u32 = 1;
    /// `PERF_COUNT_SW_CPU_CLOCK`
    const CPU_CLOCK: u64 = 0;
    /// `PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC`
    const FLAGS: u64 = 4 | 8;
    /// The first version of `struct perf_event_attr`.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 6],
    }
    let attributes = Attributes {
        kind: SOFTWARE,
        size: 64,
        config: CPU_CLOCK,
        rest: [0; 6],
    };
    // SAFETY: the attributes are valid for the size that they name.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            cgroup.as_raw_fd(),
            cpu,
            -1,
            FLAGS,
        )
    };
    match i32::try_from(result) {
        Ok(-1) | Err(_) => Err(nix::errno::Errno::last_raw()),
        // SAFETY: the kernel gave a new descriptor, which nobody else owns.
        Ok(descriptor) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
    }
}
