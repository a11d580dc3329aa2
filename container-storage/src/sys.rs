//! The system call that rustix and nix do not offer.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `struct mount_attr` of `linux/mount.h` (version 0, 32 bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttr {
    pub(crate) attr_set: u64,
    pub(crate) attr_clr: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// Changes the flags of the mount whose root `tree` is, and of that alone.
///
/// # References
/// `mount_setattr(2)` with `AT_EMPTY_PATH`; Linux 5.12.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, attributes: &MountAttr) -> Result<(), Errno> {
    // SAFETY: the path is a terminated string, the structure is of the size that is given, and
    // both outlive the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(size_of::<MountAttr>(), 32);
    }
}
