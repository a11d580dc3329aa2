//! The functions that workers of this program can run, found by name.
//!
//! A worker is another process of the same program, in which nothing but the launcher's entry ever ran:
//! no table that `main` fills would be filled there. So the linker gathers the table, in a section of
//! its own.

use std::os::fd::{FromRawFd, OwnedFd};

use crate::worker::Job;

/// A function that a [`Worker`](crate::Worker) runs when it is asked for by name; made by [`role!`](crate::role!).
#[derive(Debug)]
#[repr(C)]
pub struct Role {
    name: &'static str,
    run: fn(Job) -> crate::Result<Job>,
}

impl Role {
    /// For [`role!`](crate::role!) only: elsewhere it would be found by no worker.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, run: fn(Job) -> crate::Result<Job>) -> Self {
        Self { name, run }
    }

    /// The name, one among all roles of a program.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs the function here.
    pub(crate) fn run(&self, job: Job) -> crate::Result<Job> {
        (self.run)(job)
    }
}

/// Declares a function that workers can run: `role! { pub static UNPACK: "unpack" = unpack; }`.
///
/// The function takes a [`Job`](crate::Job) and gives one back. The name has to be one of its own in the
/// program.
#[macro_export]
macro_rules! role {
    ($(#[$meta:meta])* $visibility:vis static $role:ident: $name:literal = $run:path;) => {
        $(#[$meta])*
        #[used]
        #[allow(unsafe_code)]
        #[unsafe(link_section = "ctr_roles")]
        $visibility static $role: $crate::Role = $crate::Role::new($name, $run);
    };
}

role! {
    // Without any the section would not exist, nor the symbols for its ends.
    static NONE: "" = Ok;
}

/// The socket of a worker, which is descriptor 3; closes all beyond.
pub(crate) fn take_socket() -> OwnedFd {
    let _ = super::close_from(4);
    // SAFETY: it was put there for this process, which owns no other descriptor any more and ends
    // without giving up what it had under other numbers.
    unsafe { OwnedFd::from_raw_fd(3) }
}

/// The role called `name`, if this program has it.
pub(crate) fn find(name: &str) -> Option<&'static Role> {
    unsafe extern "C" {
        #[link_name = "__start_ctr_roles"]
        static START: u8;
        #[link_name = "__stop_ctr_roles"]
        static STOP: u8;
    }
    std::hint::black_box(&NONE);
    // SAFETY: the linker puts the symbols at both ends of the section, in which there is nothing but
    // the statics that `role!` makes: values of one type, whose size is a multiple of their alignment.
    let roles = unsafe {
        let (start, stop) = (
            (&raw const START).cast::<Role>(),
            (&raw const STOP).cast::<Role>(),
        );
        std::slice::from_raw_parts(start, usize::try_from(stop.offset_from(start)).unwrap_or(0))
    };
    roles
        .iter()
        .find(|role| role.name == name && !name.is_empty())
}
