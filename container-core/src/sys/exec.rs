//! `execve`, from memory that was made ready beforehand.

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::marker::PhantomData;
use std::ptr;

use rustix::io::Errno;

use super::check;

/// Arguments or environment of a program: pointers to strings, with the null pointer that ends them.
pub(crate) struct Strings<'a> {
    /// Two null pointers end them, so that there is room for one more string.
    pointers: Vec<Cell<*const c_char>>,
    strings: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    pub(crate) fn new(strings: impl IntoIterator<Item = &'a CStr>) -> Self {
        let pointers = strings.into_iter().map(CStr::as_ptr);
        Self {
            pointers: pointers
                .chain([ptr::null(), ptr::null()])
                .map(Cell::new)
                .collect(),
            strings: PhantomData,
        }
    }
}

/// Executes the program at `path`, with `last` behind the environment; returns only if that fails, with
/// the reason. Allocates nothing.
///
/// # References
/// `execve(2)`.
pub(crate) fn execve(
    path: &CStr,
    arguments: &Strings<'_>,
    environment: &Strings<'_>,
    last: Option<&CStr>,
) -> Errno {
    let room = &environment.pointers[environment.pointers.len() - 2];
    room.set(last.map_or(ptr::null(), CStr::as_ptr));
    let (argv, envp) = (arguments.pointers.as_ptr(), environment.pointers.as_ptr());
    // SAFETY: all strings are borrowed for the length of the call, and both arrays end with a null
    // pointer: `Strings::new` puts two there, of which at most one was replaced. A cell is laid out as
    // what it holds.
    let result = check(unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv, envp) });
    // It was borrowed for this call only.
    room.set(ptr::null());
    match result {
        Err(errno) => errno,
        // It does not return when it succeeds.
        Ok(_) => Errno::INVAL,
    }
}
