//! Attributes of the calling process that no wrapper sets: scheduling, memory policy, personality,
//! keyrings.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::check;

/// `struct sched_attr` of `linux/sched/types.h` (version 1, 56 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchedAttr {
    pub(crate) size: u32,
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
    pub(crate) util_min: u32,
    pub(crate) util_max: u32,
}

/// Sets how the calling thread is scheduled.
///
/// # References
/// `sched_setattr(2)`.
pub(crate) fn sched_setattr(attr: &SchedAttr) -> Result<(), Errno> {
    // SAFETY: `attr` is a sched_attr that names its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(attr), 0) }).map(drop)
}

/// Lets the calling thread run on the processors whose bits are set in `mask`.
///
/// # References
/// `sched_setaffinity(2)`.
pub(crate) fn sched_setaffinity(mask: &[u64]) -> Result<(), Errno> {
    // SAFETY: pointer and length come from one slice.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(mask),
            mask.as_ptr(),
        )
    })
    .map(drop)
}

/// Sets class and priority of the calling thread's I/O, as `IOPRIO_PRIO_VALUE` joins them.
///
/// # References
/// `ioprio_set(2)`.
pub(crate) fn ioprio_set(priority: u32) -> Result<(), Errno> {
    const WHO_PROCESS: c_int = 1;
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) }).map(drop)
}

/// Sets the execution domain of the calling process.
///
/// # References
/// `personality(2)`.
pub(crate) fn personality(domain: u32) -> Result<(), Errno> {
    // SAFETY: the call takes a number only.
    check(unsafe { libc::syscall(libc::SYS_personality, domain) }).map(drop)
}

/// Sets the NUMA policy of the calling thread, `mode` with its flags, for the nodes in `nodes`.
///
/// # References
/// `set_mempolicy(2)`.
pub(crate) fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told.
    let (mask, bits) = match nodes {
        [] => (ptr::null(), 0),
        nodes => (nodes.as_ptr(), size_of_val(nodes) * 8 + 1),
    };
    // SAFETY: the mask has the bits that the kernel reads, or is null and has none.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

/// Gives the process a session keyring: a new, empty one, or the one called `name`, made if missing.
/// Gives its number.
///
/// # References
/// `keyctl(2)` with `KEYCTL_JOIN_SESSION_KEYRING`.
pub(crate) fn join_session_keyring(name: Option<&CStr>) -> Result<i32, Errno> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    let name = name.map_or(ptr::null::<c_char>(), CStr::as_ptr);
    // SAFETY: a null name asks for an anonymous keyring, another one is a C string.
    let number = check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name) })?;
    i32::try_from(number).map_err(|_| Errno::OVERFLOW)
}

/// Sets what possessor, user, group and others may do with a key.
///
/// # References
/// `keyctl(2)` with `KEYCTL_SETPERM`.
pub(crate) fn set_key_permissions(key: i32, permissions: u32) -> Result<(), Errno> {
    const SETPERM: c_int = 5;
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, key, permissions) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_that_the_kernel_knows() {
        assert_eq!(size_of::<SchedAttr>(), 56); // SCHED_ATTR_SIZE_VER1
    }
}
