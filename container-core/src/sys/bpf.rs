//! `bpf(2)`, for the program that decides about the devices of a version 2 group.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::check;

/// Loads a program that answers for devices, as `struct bpf_insn` of 8 bytes each.
///
/// # References
/// `bpf(2)` with `BPF_PROG_LOAD`; Linux 4.15.
pub(crate) fn load_device_program(program: &[u64]) -> Result<OwnedFd, Errno> {
    const PROG_LOAD: c_int = 5;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    /// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        rest: [u64; 3],
    }
    let mut load = Load {
        prog_type: TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        rest: [0; 3],
    };
    // SAFETY: the attributes name the instructions and the licence, which live as long as the call.
    let program = unsafe { bpf(PROG_LOAD, &raw mut load) }?;
    owned(program)
}

/// Has the kernel ask `program` for the devices of the version 2 group `cgroup`, in the place of
/// `replaced` if that is given.
///
/// # References
/// `bpf(2)` with `BPF_PROG_ATTACH`; Linux 4.15; `BPF_F_REPLACE`: 5.6.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: &OwnedFd,
    replaced: Option<&OwnedFd>,
) -> Result<(), Errno> {
    const PROG_ATTACH: c_int = 8;
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    let flags = if replaced.is_some() {
        ALLOW_MULTI | REPLACE
    } else {
        ALLOW_MULTI
    };
    // `union bpf_attr` for `BPF_PROG_ATTACH`: group, program, kind, flags, old program.
    let mut attach: [u32; 5] = [
        number(&cgroup),
        number(program),
        CGROUP_DEVICE,
        flags,
        replaced.map_or(0, number),
    ];
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(PROG_ATTACH, &raw mut attach) }.map(drop)
}

/// Has the kernel no longer ask `program` for the devices of `cgroup`.
///
/// # References
/// `bpf(2)` with `BPF_PROG_DETACH`; Linux 4.15.
pub(crate) fn detach_device_program(
    cgroup: BorrowedFd<'_>,
    program: &OwnedFd,
) -> Result<(), Errno> {
    const PROG_DETACH: c_int = 9;
    let mut detach: [u32; 3] = [number(&cgroup), number(program), CGROUP_DEVICE];
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(PROG_DETACH, &raw mut detach) }.map(drop)
}

/// The programs that the kernel asks for the devices of `cgroup` itself, not of those above it.
///
/// # References
/// `bpf(2)` with `BPF_PROG_QUERY` (4.15) and `BPF_PROG_GET_FD_BY_ID` (4.13).
pub(crate) fn device_programs(
    cgroup: BorrowedFd<'_>,
) -> Result<impl Iterator<Item = Result<OwnedFd, Errno>>, Errno> {
    const PROG_QUERY: c_int = 16;
    const PROG_GET_FD_BY_ID: c_int = 13;
    /// The first fields of `union bpf_attr` for `BPF_PROG_QUERY`.
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        rest: u32,
    }
    let mut ids = [0_u32; MOST_PROGRAMS as usize];
    let mut query = Query {
        target_fd: number(&cgroup),
        attach_type: CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS,
        rest: 0,
    };
    // SAFETY: the attributes point at an array of `prog_cnt` numbers, which outlives the call.
    unsafe { bpf(PROG_QUERY, &raw mut query) }?;
    Ok(ids.into_iter().take(query.prog_cnt as usize).map(|id| {
        let mut get: [u32; 3] = [id, 0, 0];
        // SAFETY: the attributes hold no pointers.
        unsafe { bpf(PROG_GET_FD_BY_ID, &raw mut get) }.and_then(owned)
    }))
}

/// `bpf(2)`.
///
/// # Safety
/// `attributes` is valid for reading and writing, as is what it points at in the sense of `command`.
unsafe fn bpf<T>(command: c_int, attributes: *mut T) -> Result<c_long, Errno> {
    // SAFETY: the attributes are valid for their size, as the caller promises.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) })
}

fn owned(descriptor: c_long) -> Result<OwnedFd, Errno> {
    let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel gave a new descriptor (close-on-exec), which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn number(descriptor: &impl AsRawFd) -> u32 {
    descriptor.as_raw_fd().unsigned_abs()
}

/// `BPF_CGROUP_DEVICE`
const CGROUP_DEVICE: u32 = 6;

/// `BPF_CGROUP_MAX_PROGS`: the kernel attaches no more to one group.
const MOST_PROGRAMS: u32 = 64;
