//! The system calls of Landlock.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use super::check;

/// `struct landlock_path_beneath_attr` of `linux/landlock.h` (12 bytes).
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// The version of the kernel's Landlock (its ABI).
///
/// # References
/// `landlock_create_ruleset(2)` with `LANDLOCK_CREATE_RULESET_VERSION`; Linux 5.13.
pub(crate) fn version() -> Result<u32, Errno> {
    const VERSION: u32 = 1;
    // SAFETY: to ask for the version there are no attributes.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u64>(),
            0_usize,
            VERSION,
        )
    })?;
    u32::try_from(version).map_err(|_| Errno::OVERFLOW)
}

/// Makes a set of rules for what `handled` names.
///
/// # References
/// `landlock_create_ruleset(2)`; Linux 5.13.
pub(crate) fn create_ruleset(handled: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: the first field of struct landlock_ruleset_attr, which is all that version 1 has.
    let ruleset = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const handled,
            size_of::<u64>(),
            0,
        )
    })?;
    let ruleset = RawFd::try_from(ruleset).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel gave a new descriptor (close-on-exec), which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(ruleset) })
}

/// Allows something with `parent` and what is below it.
///
/// # References
/// `landlock_add_rule(2)` with `LANDLOCK_RULE_PATH_BENEATH`; Linux 5.13.
pub(crate) fn add_rule(
    ruleset: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    allowed: u64,
) -> Result<(), Errno> {
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath {
        allowed,
        parent: parent.as_raw_fd(),
    };
    // SAFETY: `rule` is laid out as the kernel reads it for this kind of rule.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            PATH_BENEATH,
            &raw const rule,
            0,
        )
    })
    .map(drop)
}

/// Restricts the calling thread and what it starts to the rules.
///
/// # References
/// `landlock_restrict_self(2)`; Linux 5.13. Needs `no_new_privs` or CAP_SYS_ADMIN.
pub(crate) fn restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes a descriptor and a number.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_size_that_the_kernel_knows() {
        assert_eq!(size_of::<PathBeneath>(), 12);
    }
}
