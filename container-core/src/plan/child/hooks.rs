//! Runs hooks: in the walk, those inside the container, and in the monitor, those outside.
//!
//! As in the walk, nothing here allocates.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, SeekFrom};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{self, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::{At, Walk, Walker};
use crate::plan::Word;
use crate::plan::hook::{Hook, HookEnd, HookSet, MAX_OUTPUT, Stage};
use crate::plan::step::Call;
use crate::sys;
use crate::sys::exec::{Strings, execve};

/// A hook with what `execve` wants: arrays of pointers, made beforehand.
pub(crate) struct PreparedHook<'p> {
    hook: &'p Hook,
    arguments: Strings<'p>,
    environment: Strings<'p>,
}

impl<'p> PreparedHook<'p> {
    /// Those of a stage.
    pub(crate) fn all(set: &'p HookSet) -> Vec<Self> {
        set.hooks.iter().map(Self::new).collect()
    }

    fn new(hook: &'p Hook) -> Self {
        let strings = |list: &'p [CString]| Strings::new(list.iter().map(CString::as_c_str));
        Self {
            hook,
            arguments: strings(&hook.arguments),
            environment: strings(&hook.environment),
        }
    }
}

/// Where a hook runs.
pub(crate) struct Surroundings<'a> {
    /// The state of the container, complete.
    pub(crate) state: BorrowedFd<'a>,
    pub(crate) directory: Option<BorrowedFd<'a>>,
    /// What ends the hook when it becomes readable.
    pub(crate) leash: Option<[BorrowedFd<'a>; 2]>,
}

/// The beginning of what a hook wrote.
pub(crate) struct Output {
    bytes: [u8; MAX_OUTPUT],
    length: usize,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; MAX_OUTPUT],
            length: 0,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Reads once; `false` at the end. What goes beyond the bound is dropped, so that the hook is not
    /// held up.
    fn read(&mut self, from: BorrowedFd<'_>) -> bool {
        let mut rest = [0; MAX_OUTPUT];
        let count = match io::read(from, &mut rest) {
            Ok(count) => count,
            Err(errno) => return errno == Errno::INTR,
        };
        for byte in rest.iter().take(count) {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
        count > 0
    }
}

/// A file with the state of the container, whose first process is `pid` as that process or its monitor
/// numbers it; `None` where it has none, or the state says it already.
pub(crate) fn state_file(set: &HookSet, pid: Option<i32>) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC;
    let file = match rustix::fs::memfd_create(c"container-state", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => rustix::fs::memfd_create(c"container-state", flags)?,
        result => result?,
    };
    let mut digits = [0; 10];
    let pid = match pid {
        Some(pid) => decimal(pid.unsigned_abs(), &mut digits),
        None => &[],
    };
    let [head, tail] = &set.state;
    for part in [head.as_slice(), pid, tail.as_slice()] {
        let mut rest = part;
        while !rest.is_empty() {
            let count = io::write(&file, rest)?;
            rest = rest.get(count..).unwrap_or_default();
        }
    }
    Ok(file)
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut start = digits.len();
    for (at, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        start = at;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits.get(start..).unwrap_or_default()
}

/// Runs one hook to its end.
pub(crate) fn run(
    prepared: &PreparedHook<'_>,
    around: &Surroundings<'_>,
    output: &mut Output,
) -> Result<(), HookEnd> {
    let not_run = |errno: Errno| HookEnd::NotRun(errno.raw_os_error());
    rustix::fs::seek(around.state, SeekFrom::Start(0)).map_err(not_run)?;
    let (written, writes) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(not_run)?;
    let blocking = rustix::fs::OFlags::empty();
    rustix::fs::fcntl_setfl(&writes, blocking).map_err(not_run)?;
    let (fault, faults) = pipe_with(PipeFlags::CLOEXEC).map_err(not_run)?;
    let pid = sys::init::fork().map_err(not_run)?;
    if pid == 0 {
        let errno = become_hook(prepared, around, writes.as_fd());
        let _ = io::write(&faults, &errno.raw_os_error().to_ne_bytes());
        sys::exit_now(1);
    }
    drop((writes, faults));
    let pid = Pid::from_raw(pid).ok_or(HookEnd::Stopped)?;
    // As the child does: whoever is first.
    let _ = process::setpgid(Some(pid), Some(pid));
    let ended = follow(pid, prepared.hook.timeout, around, written.as_fd(), output);
    let mut errno = [0; size_of::<i32>()];
    match (io::read(&fault, &mut errno), ended) {
        (_, Err(end)) => Err(end),
        (Ok(4), Ok(_)) => Err(HookEnd::NotRun(i32::from_ne_bytes(errno))),
        (_, Ok((Some(0), _))) => Ok(()),
        (_, Ok((Some(code), _))) => Err(HookEnd::Code(code)),
        (_, Ok((None, signal))) => Err(HookEnd::Signal(signal.unwrap_or(0))),
    }
}

/// Turns the child into the hook; gives the reason why that could not be done.
fn become_hook(
    prepared: &PreparedHook<'_>,
    around: &Surroundings<'_>,
    output: BorrowedFd<'_>,
) -> Errno {
    let made = || {
        let _ = process::setpgid(None, None);
        process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(directory) = around.directory {
            process::fchdir(directory)?;
        }
        process::umask(Mode::from_bits_truncate(0o022));
        rustix::stdio::dup2_stdin(around.state)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(output)?;
        match sys::close_range_cloexec(3) {
            Err(Errno::NOSYS) => Ok(()),
            result => result,
        }
    };
    match made() {
        Err(errno) => errno,
        Ok(()) => execve(
            &prepared.hook.path,
            &prepared.arguments,
            &prepared.environment,
            None,
        ),
    }
}

/// Waits for the end of a hook, and ends it when its time is over; gives exit code or signal.
fn follow(
    pid: Pid,
    timeout: Option<u32>,
    around: &Surroundings<'_>,
    written: BorrowedFd<'_>,
    output: &mut Output,
) -> Result<(Option<i32>, Option<i32>), HookEnd> {
    let not_run = |errno: Errno| HookEnd::NotRun(errno.raw_os_error());
    // Until it is waited for, the number is its own.
    let pidfd = match process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(errno) => {
            kill(pid);
            return Err(not_run(errno));
        }
    };
    let deadline = timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let mut open = true;
    let end = loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            break Some(HookEnd::TimedOut);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let events = if open {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let other = around.leash.map_or([pidfd.as_fd(); 2], |leash| leash);
        let [first, second] = other.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let mut waits = [
            PollFd::new(&pidfd, PollFlags::IN),
            first,
            second,
            // With no event asked for, it only tells of its end, which is then known.
            PollFd::from_borrowed_fd(if open { written } else { pidfd.as_fd() }, events),
        ];
        match poll(&mut waits, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => break Some(not_run(errno)),
        }
        let [ended, first, second, said] = waits.map(|wait| !wait.revents().is_empty());
        if open && said {
            open = output.read(written);
        } else if ended {
            break None;
        } else if around.leash.is_some() && (first || second) {
            break Some(HookEnd::Stopped);
        }
    };
    if end.is_some() {
        kill(pid);
    }
    loop {
        match process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                let ended = (status.exit_status(), status.terminating_signal());
                return end.map_or(Ok(ended), Err);
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(not_run(errno)),
        }
    }
}

/// Ends a hook with what it started.
fn kill(pid: Pid) {
    let _ = process::kill_process_group(pid, Signal::KILL);
    // It may not have made its group yet.
    let _ = process::kill_process(pid, Signal::KILL);
}

impl Walker<'_> {
    /// Runs the hooks of `stage`, which belong into the container; one that fails is the end.
    pub(super) fn run_hooks(&self, stage: Stage) -> Walk {
        let sets = self.prepared.plan.hooks.iter().zip(&self.prepared.hooks);
        for (set, hooks) in sets.filter(|(set, _)| set.stage == stage) {
            let own = process::getpid().as_raw_nonzero().get();
            let state = state_file(set, Some(own)).at(Call::Write)?;
            let around = Surroundings {
                state: state.as_fd(),
                // Before the root is the root, hooks find it in their working directory.
                directory: match stage {
                    Stage::CreateContainer => self.root.as_ref().map(AsFd::as_fd),
                    _ => None,
                },
                leash: None,
            };
            for (at, hook) in (0..).zip(hooks) {
                let mut output = Output::new();
                if let Err(end) = run(hook, &around, &mut output) {
                    self.tell_with(Word::HookFailed { stage, at, end }, output.bytes())?;
                    sys::exit_now(1);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut digits = [0; 10];
            let text = decimal(number, &mut digits);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }
}
