//! The launcher's side: a process of one thread that forks a monitor for each container.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvFlags, SocketType, sockopt};
use rustix::process::{self, PidfdFlags};
use rustix::stdio;

use super::protocol::{self, Event, HELLO, Message, START, START_IN, tell};
use crate::monitor::Monitor;
use crate::sys::{self, Cloned, SingleThreaded};

/// Who greeted this process as a launcher.
pub(super) enum Greeting {
    /// The process that started it.
    Parent,
    /// Another one, or one that has ended since.
    Other,
}

/// Looks whether standard input is the socket of a launcher, with our greeting in it.
pub(super) fn greeting() -> Option<Greeting> {
    let socket = stdio::stdin();
    let Ok(SocketType::SEQPACKET) = sockopt::socket_type(socket) else {
        return None;
    };
    let peer = sockopt::socket_peercred(socket).ok()?;
    if peer.uid != process::geteuid() {
        return None;
    }
    match protocol::receive(socket, RecvFlags::DONTWAIT) {
        Ok(Some(message)) if message.bytes == HELLO => {}
        _ => return None,
    }
    Some(match process::getppid() {
        Some(parent) if parent == peer.pid => Greeting::Parent,
        _ => Greeting::Other,
    })
}

/// Serves until the embedder closes its end; gives the exit status of the process.
pub(super) fn run() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn serve() -> Result<(), Errno> {
    // Ignored signals, the mask and descriptors survive an exec, and the embedder's are not ours.
    sys::reset_signals();
    sys::close_from(3)?;
    // Fails only for a process that leads a session already.
    let _ = process::setsid();
    process::chdir(c"/")?;
    process::umask(Mode::from_raw_mode(0o022));
    let _ = rustix::thread::set_name(c"ctr-launcher");
    let socket = move_socket()?;
    let embedder = process::getppid().ok_or(Errno::SRCH)?;
    let leash = process::pidfd_open(embedder, PidfdFlags::empty())?;
    let alone = SingleThreaded::check().ok_or(Errno::PERM)?;
    if process::getppid() != Some(embedder) {
        return Err(Errno::PERM);
    }
    // Nobody asks how a monitor ended; what matters it has written down.
    sys::auto_reap(true);
    while let Some(message) = protocol::receive(socket.as_fd(), RecvFlags::empty())? {
        if let Some(monitor) = fork_monitor(message, alone) {
            drop(socket);
            sys::exit_now(monitor.run(leash.as_fd()));
        }
    }
    Ok(())
}

/// Moves the socket off standard input, and puts nothing in place of the standard streams.
fn move_socket() -> Result<OwnedFd, Errno> {
    let socket = fcntl_dupfd_cloexec(stdio::stdin(), 3)?;
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR, Mode::empty())?;
    stdio::dup2_stdin(&null)?;
    stdio::dup2_stdout(&null)?;
    stdio::dup2_stderr(&null)?;
    fcntl_setfd(&null, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Forks a monitor for the container that `message` asks for; gives it in the new process.
fn fork_monitor(message: Message, alone: SingleThreaded) -> Option<Monitor> {
    let in_group = match message.bytes.as_slice() {
        START => false,
        START_IN => true,
        _ => return None,
    };
    let mut descriptors = message.descriptors.into_iter();
    let (control, job) = (descriptors.next()?, descriptors.next()?);
    let group = if in_group {
        Some(descriptors.next()?)
    } else {
        None
    };
    let monitor = Monitor {
        alone,
        control,
        job,
        slots: descriptors.collect(),
    };
    match sys::clone3(alone, 0, group.as_ref().map(AsFd::as_fd)) {
        Ok(Cloned::Child) => {
            sys::auto_reap(false);
            let _ = rustix::thread::set_name(c"ctr-monitor");
            return Some(monitor);
        }
        Ok(Cloned::Parent { .. }) => {}
        Err(errno) => tell(
            monitor.control.as_fd(),
            &Event::Broken {
                doing: "fork a monitor".into(),
                errno: errno.raw_os_error(),
            },
            &[],
        ),
    }
    None
}
