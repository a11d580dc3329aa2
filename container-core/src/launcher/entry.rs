//! The launcher's entry: before `main`, in every program that links this crate.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

use super::protocol::MARKER;
use super::serve::{self, Greeting};
use crate::sys;

/// Runs before `main`. [`super::Launcher`] refers to it, so that no linker drops it.
#[used]
#[unsafe(link_section = ".init_array")]
pub(super) static ENTRY: extern "C" fn(c_int, *const *const c_char) = enter;

/// Becomes the launcher if that is what this process was started as; otherwise does nothing.
///
/// A process that the kernel gave privileges to never becomes one. Once the marker and the greeting
/// are right, this does not return, so that the host's `main` never runs a second time: not even if
/// the embedder was killed meanwhile.
extern "C" fn enter(argc: c_int, argv: *const *const c_char) {
    if !is_marked(argc, argv) || sys::is_secure_execution() {
        return;
    }
    match serve::greeting() {
        Some(Greeting::Parent) => sys::exit_now(serve::run()),
        Some(Greeting::Other) => sys::exit_now(1),
        None => {}
    }
}

#[cfg(target_env = "gnu")]
fn is_marked(argc: c_int, argv: *const *const c_char) -> bool {
    if argc < 1 || argv.is_null() {
        return false;
    }
    // SAFETY: glibc passes `main`'s arguments to the functions of `.init_array`: `argc` pointers to
    // C strings, of which there is at least one.
    let name = unsafe { *argv };
    // SAFETY: as above; the pointer is checked all the same.
    !name.is_null() && unsafe { CStr::from_ptr(name) }.to_bytes() == MARKER
}

/// Other C libraries pass nothing.
#[cfg(not(target_env = "gnu"))]
fn is_marked(_argc: c_int, _argv: *const *const c_char) -> bool {
    std::fs::read("/proc/self/cmdline")
        .is_ok_and(|line| line.split(|byte| *byte == 0).next() == Some(MARKER))
}
