//! The built-in init: a first process that starts the program, hands signals on, and reaps.
//!
//! It is the process that walked the plan, confined as the program is. It never executes anything,
//! so that what runs is the launcher's program, which nobody can write to.

use rustix::io::Errno;
use rustix::process::{self, DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::termios;
use rustix::thread;

use super::{At, Walk};
use crate::plan::step::Call;
use crate::sys;

/// What shells add to the number of the signal that ended a process.
const BY_SIGNAL: i32 = 128;

/// Goes on in a child, which is to execute the program; the caller itself becomes the init of what
/// follows, and never returns.
///
/// `visible`: processes that may look into the program's process may look into this one.
pub(super) fn become_init(visible: bool) -> Walk {
    // From here on signals wait until they are taken: none is lost, and none ends this process.
    sys::init::block_signals(true).at(Call::Sigprocmask)?;
    // Without a PID namespace of its own, orphans would go to somebody else.
    process::set_child_subreaper(Some(process::getpid())).at(Call::Prctl)?;
    match sys::init::fork().at(Call::Clone)? {
        0 => begin_child(),
        child => serve(child, visible),
    }
}

/// Makes the child what the first process would have been.
fn begin_child() -> Walk {
    process::set_parent_process_death_signal(Some(Signal::KILL)).at(Call::Prctl)?;
    // A group of its own, in the foreground of the terminal if there is one: what is typed there
    // reaches the program, and not its init too, which would hand it on a second time.
    process::setpgid(None, None).at(Call::Setpgid)?;
    let _ = termios::tcsetpgrp(rustix::stdio::stdin(), process::getpid());
    sys::init::block_signals(false).at(Call::Sigprocmask)
}

/// Becomes a first process below which others are born, by other parents; never returns.
pub(super) fn linger() -> ! {
    let _ = sys::init::block_signals(true);
    serve(0, false)
}

fn serve(child: i32, visible: bool) -> ! {
    let _ = thread::set_name(c"ctr-init");
    // Somebody who looks into this process sees the plan, and the launcher's program. Who has a
    // user namespace of his own needs that to enter the container.
    let _ = process::set_dumpable_behavior(match visible {
        true => DumpableBehavior::Dumpable,
        false => DumpableBehavior::NotDumpable,
    });
    // The pipe to the monitor says by its end that the program runs, and streams end when the program
    // closes them.
    let _ = sys::close_from(0);
    loop {
        match sys::init::take_signal() {
            Ok(libc::SIGCHLD) => reap(child),
            // It may have ended just now, or belong to another user.
            Ok(number) if child > 0 => drop(sys::init::kill(child, number)),
            Ok(_) => {}
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => sys::exit_now(1),
        }
    }
}

/// Reaps everybody who has ended; ends as the program did, if that is one of them.
fn reap(child: i32) {
    while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
        if Some(pid) != Pid::from_raw(child) {
            continue;
        }
        let by_signal = || status.terminating_signal().map(|signal| BY_SIGNAL + signal);
        if let Some(code) = status.exit_status().or_else(by_signal) {
            sys::exit_now(code);
        }
    }
}
