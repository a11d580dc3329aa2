//! The system calls of who listens for a seccomp filter.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::check;

/// `struct seccomp_notif` of `linux/seccomp.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    flags: u32,
    pub(crate) data: Data,
}

/// `struct seccomp_data`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Data {
    pub(crate) number: i32,
    pub(crate) architecture: u32,
    instruction: u64,
    pub(crate) arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl Response {
    pub(crate) fn goes_on(id: u64) -> Self {
        const CONTINUE: u32 = 1;
        Self {
            id,
            flags: CONTINUE,
            ..Self::default()
        }
    }

    pub(crate) fn gives(id: u64, value: i64) -> Self {
        Self {
            id,
            value,
            ..Self::default()
        }
    }

    pub(crate) fn fails(id: u64, errno: i32) -> Self {
        Self {
            id,
            error: -errno,
            ..Self::default()
        }
    }
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct AddFd {
    id: u64,
    flags: u32,
    from: u32,
    to: u32,
    to_flags: u32,
}

impl AddFd {
    /// A copy of `file` as the answer.
    pub(crate) fn answer(id: u64, file: BorrowedFd<'_>) -> Self {
        const SEND: u32 = 2;
        Self {
            id,
            flags: SEND,
            from: file.as_raw_fd().unsigned_abs(),
            to: 0,
            to_flags: libc::O_CLOEXEC.unsigned_abs(),
        }
    }
}

/// Receives the next call.
///
/// # References
/// `SECCOMP_IOCTL_NOTIF_RECV` of `seccomp_unotify(2)`; Linux 5.0.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    // The kernel wants it zeroed.
    let mut notification = Notification::default();
    // SAFETY: the kernel fills a structure of the size that is part of the request's number.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        )
    })?;
    Ok(notification)
}

/// Answers a call.
///
/// # References
/// `SECCOMP_IOCTL_NOTIF_SEND`; Linux 5.0, going on 5.5.
pub(crate) fn send(listener: BorrowedFd<'_>, response: &Response) -> Result<(), Errno> {
    // SAFETY: the kernel reads a structure of the size that is part of the request's number.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            std::ptr::from_ref(response),
        )
    })
    .map(drop)
}

/// Fails with `ENOENT` if nobody waits for the answer any more.
///
/// # References
/// `SECCOMP_IOCTL_NOTIF_ID_VALID`; Linux 5.0.
pub(crate) fn is_valid(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads a number of 64 bits.
    check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        )
    })
    .map(drop)
}

/// Answers with a descriptor; gives its number there.
///
/// # References
/// `SECCOMP_IOCTL_NOTIF_ADDFD` with `SECCOMP_ADDFD_FLAG_SEND`; Linux 5.14.
pub(crate) fn add_fd(listener: BorrowedFd<'_>, add: &AddFd) -> Result<i32, Errno> {
    // SAFETY: the kernel reads a structure of the size that is part of the request's number.
    let number = check(unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            std::ptr::from_ref(add),
        )
    })?;
    i32::try_from(number).map_err(|_| Errno::OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_size_that_the_kernel_knows() {
        assert_eq!(size_of::<Notification>(), size_of::<libc::seccomp_notif>());
        assert_eq!(size_of::<Response>(), size_of::<libc::seccomp_notif_resp>());
        assert_eq!(size_of::<AddFd>(), size_of::<libc::seccomp_notif_addfd>());
    }
}
