//! The hooks that run outside of the container, as children of its monitor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::launcher::protocol::{Event, tell};
use crate::plan::Plan;
use crate::plan::child::hooks::{Output, PreparedHook, Surroundings, run as run_one, state_file};
use crate::plan::hook::{HookEnd, HookFailure, HookSet, Stage};

/// Runs the hooks of `stage` in their order, up to the first that fails.
///
/// What `leash` refers to ends them when it becomes readable.
pub(super) fn run(
    plan: &Plan,
    stage: Stage,
    pid: i32,
    leash: Option<[BorrowedFd<'_>; 2]>,
) -> Result<(), HookFailure> {
    match plan.hooks.iter().find(|set| set.stage == stage) {
        Some(set) => run_set(set, Some(pid), leash, Err),
        None => Ok(()),
    }
}

/// Runs all hooks of a container that has ended; those that fail are reported.
pub(super) fn after_the_end(plan: &Plan, control: &OwnedFd) {
    for set in plan.hooks.iter().filter(|set| set.stage == Stage::Poststop) {
        let _ = run_set(set, None, None, |failure| {
            tell(control.as_fd(), &Event::HookWarning(failure), &[]);
            Ok(())
        });
    }
}

/// Runs the hooks of a plan that has nothing else, for a container without a monitor of its own.
pub(super) fn run_alone(plan: &Plan, control: &OwnedFd, embedder: BorrowedFd<'_>) -> Event {
    let leash = Some([control.as_fd(), embedder]);
    for set in &plan.hooks {
        let ran = run_set(set, None, leash, |failure| match set.stage {
            Stage::Poststop => {
                tell(control.as_fd(), &Event::HookWarning(failure), &[]);
                Ok(())
            }
            _ => Err(failure),
        });
        if let Err(failure) = ran {
            return Event::HookFailed(failure);
        }
    }
    Event::HooksDone
}

/// Runs the hooks of one stage; `failed` says whether the others follow one that fails.
fn run_set(
    set: &HookSet,
    pid: Option<i32>,
    leash: Option<[BorrowedFd<'_>; 2]>,
    failed: impl Fn(HookFailure) -> Result<(), HookFailure>,
) -> Result<(), HookFailure> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let bundle = rustix::fs::openat(CWD, set.bundle.as_c_str(), flags, Mode::empty())?;
        Ok((state_file(set, pid)?, bundle))
    };
    let opened: Result<_, Errno> = open();
    for (at, hook) in (0..).zip(PreparedHook::all(set)) {
        let mut output = Output::new();
        let ended = match &opened {
            Err(errno) => Err(HookEnd::NotRun(errno.raw_os_error())),
            Ok((state, bundle)) => {
                let around = Surroundings {
                    state: state.as_fd(),
                    directory: Some(bundle.as_fd()),
                    leash,
                };
                run_one(&hook, &around, &mut output)
            }
        };
        if let Err(end) = ended {
            failed(HookFailure {
                stage: set.stage,
                at,
                end,
                output: output.bytes().to_vec(),
            })?;
        }
    }
    Ok(())
}
