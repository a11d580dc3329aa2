//! The monitor: the parent of one container's first process.
//!
//! It clones the process, tells how the start goes, holds the leash of an attached container, and in
//! the end reaps, counts, cleans up, records and reports, in this order: whoever hears of the end
//! finds everything cleaned up.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{self, Signal, WaitId, WaitIdOptions};

use crate::container::{ExitStatus, Supervision};
use crate::launcher::protocol::{Event, Job, tell};
use crate::plan::child::{Fault, Prepared};
use crate::plan::hook::{HookFailure, MAX_OUTPUT, Stage};
use crate::plan::step::{Slot, Step};
use crate::plan::tree::open_tree;
use crate::plan::{Birthplace, IdMaps, MappedTree, Plan, Word};
use crate::state::{self, Cause, ExitRecord, InitRecord};
use crate::sys::{self, Cloned, SingleThreaded};
use crate::userns;

mod hooks;

/// What a monitor starts with.
pub(crate) struct Monitor {
    /// It is a fork of the launcher, and starts no thread either.
    pub(crate) alone: SingleThreaded,
    /// Its side of the pair that the embedder holds the other side of.
    pub(crate) control: OwnedFd,
    /// The file that its [`Job`] is in.
    pub(crate) job: OwnedFd,
    /// The descriptors that the plan refers to.
    pub(crate) slots: Vec<OwnedFd>,
}

/// What failed while a container was started or watched.
struct Failure {
    doing: Cow<'static, str>,
    errno: Errno,
}

/// What there is to say when the monitor's work is done.
enum Outcome {
    /// The process has ended, or could not be started.
    Ended(Event),
    /// The process is left to whoever is above.
    Released(Event),
}

/// A process with the pipe that it reports over, and the one that it waits at.
struct Init {
    pid: i32,
    pidfd: OwnedFd,
    report: OwnedFd,
    gate: OwnedFd,
    /// The network namespace that was made with it.
    network: Option<OwnedFd>,
}

impl Init {
    fn let_go_on(&self) -> Result<(), Failure> {
        rustix::io::write(&self.gate, b"0")
            .map(drop)
            .doing("let the first process go on")
    }

    fn end(&self) {
        let _ = process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = wait(&self.pidfd);
    }
}

const NEW_PID: u32 = libc::CLONE_NEWPID.unsigned_abs();

trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, Failure>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            doing: what.into(),
            errno,
        })
    }
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            doing: what.into(),
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })
    }
}

impl Monitor {
    /// Runs the container to its end; gives the exit status of the monitor.
    pub(crate) fn run(self, embedder: BorrowedFd<'_>) -> i32 {
        let Self {
            alone,
            control,
            job,
            slots,
        } = self;
        // A session of its own: what is sent to the group of the launcher is not meant for it.
        let _ = process::setsid();
        let outcome = read_job(&job).and_then(|job| {
            if let Some(group) = &job.own_cgroup {
                group.enter().doing("leave the cgroup of the embedder")?;
            }
            if job.plan.steps.is_empty() {
                return Ok(hooks::run_alone(&job.plan, &control, embedder));
            }
            let ended = match supervise(alone, &job, slots, &control, embedder) {
                // Nothing is cleaned up, as nothing has ended.
                Ok(Outcome::Released(event)) => return Ok(event),
                Ok(Outcome::Ended(event)) => Ok(event),
                Err(failure) => Err(failure),
            };
            if let Some(group) = &job.own_cgroup {
                group.leave();
            }
            let cleaned = clean_up(&job);
            hooks::after_the_end(&job.plan, &control);
            if let Ok(Event::Exited(mut status)) = ended {
                // How it ended is recorded, even if something of it is left.
                status.oom_killed = *cleaned.as_ref().unwrap_or(&false);
                record_exit(&job, &status)?;
                cleaned?;
                return Ok(Event::Exited(status));
            }
            ended
        });
        let (event, code) = match outcome {
            Ok(event) => (event, 0),
            Err(Failure { doing, errno }) => {
                let (doing, errno) = (doing.into_owned(), errno.raw_os_error());
                (Event::Broken { doing, errno }, 1)
            }
        };
        tell(control.as_fd(), &event, &[]);
        code
    }
}

fn read_job(file: &OwnedFd) -> Result<Job, Failure> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let bytes = fs::read(path).doing("read the job")?;
    postcard::from_bytes(&bytes).map_err(|_| Failure {
        doing: "decode the job".into(),
        errno: Errno::PROTO,
    })
}

/// Starts the process and watches it until its end.
fn supervise(
    alone: SingleThreaded,
    job: &Job,
    slots: Vec<OwnedFd>,
    control: &OwnedFd,
    embedder: BorrowedFd<'_>,
) -> Result<Outcome, Failure> {
    let slots: Vec<_> = slots
        .into_iter()
        .map(|slot| moved(slot, &job.plan))
        .collect::<Result<_, _>>()?;
    let init = clone_init(alone, &job.plan, &slots)?;
    // The process has its copies; the ends of pipes must not stay open here.
    drop(slots);
    let result = announce(job, &init, control).and_then(|()| watch(job, &init, control, embedder));
    if result.is_err() {
        init.end();
    }
    result
}

/// Moves a descriptor beyond the numbers that the program is to have its own under.
fn moved(descriptor: OwnedFd, plan: &Plan) -> Result<OwnedFd, Failure> {
    match plan.highest_descriptor() {
        Some(highest) => rustix::io::fcntl_dupfd_cloexec(descriptor, highest + 1)
            .doing("move a descriptor out of the way"),
        None => Ok(descriptor),
    }
}

/// Clones the process, which walks the plan.
fn clone_init(alone: SingleThreaded, plan: &Plan, slots: &[OwnedFd]) -> Result<Init, Failure> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing("make a pipe");
    let (report, report_end) = pipe()?;
    let (gate_end, gate) = pipe()?;
    let (report_end, gate_end) = (moved(report_end, plan)?, moved(gate_end, plan)?);
    let at = |slot: Slot| slots.get(usize::from(slot.0)).map(AsFd::as_fd);
    let cgroup = plan.cgroup.and_then(at);
    if let Some(processors) = &plan.affinity {
        // Inherited by the process, until the cgroups that it enters have others.
        sys::sched_setaffinity(processors).doing("set the initial processors")?;
    }
    let mapped = plan.mapped.iter().map(|tree| map_tree(alone, tree));
    let mapped = mapped.collect::<Result<Vec<_>, _>>()?;
    let prepared = Prepared::new(plan, slots, &mapped);
    let cloned = match plan.born_in.as_slice() {
        [] => sys::clone3(alone, plan.flags, cgroup).doing("clone the process")?,
        [place] if place.namespaces == NEW_PID => {
            let namespace = at(place.of).ok_or(Errno::BADF);
            namespace
                .and_then(|namespace| clone_at(alone, plan, cgroup, namespace))
                .doing("clone the process in a PID namespace")?
        }
        places => clone_in(alone, plan, cgroup, || {
            let enter =
                |place: &Birthplace| sys::setns(at(place.of).ok_or(Errno::BADF)?, place.namespaces);
            // What a plain user may not enter yet he may from his user namespace.
            let mut late = Vec::new();
            for place in places {
                match enter(place) {
                    Err(Errno::PERM) => late.push(place),
                    result => result?,
                }
            }
            late.into_iter().try_for_each(enter)
        })?,
    };
    let Cloned::Parent { pid, pidfd } = cloned else {
        drop((report, gate));
        prepared.walk(report_end.as_fd(), gate_end.as_fd());
    };
    let mut init = Init {
        pid,
        pidfd,
        report,
        gate,
        network: None,
    };
    let opened = prepare_from_outside(plan, pid).and_then(|()| {
        // Once it has changed its user, a process can hide what it has.
        init.network = network_namespace(plan, pid)?;
        match plan.id_maps {
            Some(_) => init.let_go_on(),
            None => Ok(()),
        }
    });
    match opened {
        Ok(()) => Ok(init),
        Err(failure) => {
            // The process waits for the gate, or is on its way: it must not get any further.
            init.end();
            Err(failure)
        }
    }
}

/// The network namespace that was made with the process.
fn network_namespace(plan: &Plan, pid: i32) -> Result<Option<OwnedFd>, Failure> {
    if plan.flags & u64::from(libc::CLONE_NEWNET.unsigned_abs()) == 0 {
        return Ok(None);
    }
    let path = format!("/proc/{pid}/ns/net");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        // A process that waits for nothing may have ended by now, and has no namespace left.
        Err(Errno::NOENT) => Ok(None),
        result => result.doing("open the network namespace").map(Some),
    }
}

/// Clones the process in the PID namespace `namespace`, in which only children are.
fn clone_at(
    alone: SingleThreaded,
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    namespace: BorrowedFd<'_>,
) -> Result<Cloned, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::openat(CWD, c"/proc/self/ns/pid", flags, Mode::empty())?;
    // Inherited: see `clone_in`.
    process::set_dumpable_behavior(process::DumpableBehavior::NotDumpable)?;
    sys::setns(namespace, NEW_PID)?;
    let cloned = sys::clone3(alone, plan.flags, cgroup)?;
    if let Cloned::Parent { .. } = cloned {
        // Whatever else the monitor forks is not for the container.
        sys::setns(own.as_fd(), NEW_PID)?;
    }
    Ok(cloned)
}

/// Clones the process in the namespaces that `enter` enters.
///
/// A child does this and ends: there is no way back from a user namespace, and the monitor has no
/// business in a container. What the child clones is a child of the monitor.
fn clone_in(
    alone: SingleThreaded,
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    enter: impl FnOnce() -> Result<(), Errno>,
) -> Result<Cloned, Failure> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (read_end, write_end) = pipe.doing("make a pipe")?;
    // The group is inherited: in a user namespace nobody may enter it.
    let helper = match sys::clone3(alone, 0, cgroup).doing("fork")? {
        Cloned::Parent { pidfd, .. } => pidfd,
        Cloned::Child => {
            // Whoever is there already must not get at what this process still holds. The program
            // shows itself again when it is executed.
            let hidden = process::DumpableBehavior::NotDumpable;
            let cloned = adjust_oom_score(plan, "self")
                .and_then(|()| process::set_dumpable_behavior(hidden))
                .and_then(|()| enter())
                .and_then(|()| sys::clone3(alone, plan.flags | libc::CLONE_PARENT as u64, None));
            let answer = match cloned {
                Ok(Cloned::Child) => return Ok(Cloned::Child),
                Ok(Cloned::Parent { pid, .. }) => pid,
                Err(errno) => -errno.raw_os_error(),
            };
            let _ = rustix::io::write(&write_end, &answer.to_ne_bytes());
            sys::exit_now(0)
        }
    };
    drop(write_end);
    let mut answer = [0; size_of::<i32>()];
    let read = rustix::io::read(&read_end, &mut answer);
    wait(&helper)?;
    let pid = match (read, i32::from_ne_bytes(answer)) {
        (Ok(4), pid @ 1..) => pid,
        (Ok(4), errno) => {
            let errno = Errno::from_raw_os_error(-errno);
            return Err(errno).doing("clone the process in existing namespaces");
        }
        _ => return Err(Errno::PIPE).doing("clone the process in existing namespaces"),
    };
    // It is a child of ours: until it is waited for, the number is its own.
    let pidfd = process::Pid::from_raw(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| process::pidfd_open(pid, process::PidfdFlags::empty()))
        .doing("open the process")?;
    Ok(Cloned::Parent { pid, pidfd })
}

/// Sets the score of `process` where the plan says so; its children inherit it.
fn adjust_oom_score(plan: &Plan, process: &str) -> Result<(), Errno> {
    let Some(adjustment) = plan.oom_score_adj else {
        return Ok(());
    };
    fs::write(
        format!("/proc/{process}/oom_score_adj"),
        adjustment.to_string(),
    )
    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Opens a tree of the host and maps its ids.
///
/// The kernel takes the map from a user namespace. The only way to get one is a process that is born
/// into it: it ends at once, when the namespace is held.
fn map_tree(alone: SingleThreaded, mapped: &MappedTree) -> Result<OwnedFd, Failure> {
    let (pid, born) = match sys::clone3(alone, sys::CLONE_NEWUSER, None).doing("fork")? {
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
        Cloned::Child => loop {
            // Until it is killed.
            let _ = poll(&mut [], None);
        },
    };
    let opened = write_maps(pid, &mapped.maps).and_then(|()| {
        let path = format!("/proc/{pid}/ns/user");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).doing("open a user namespace")
    });
    let _ = process::pidfd_send_signal(&born, Signal::KILL);
    wait(&born)?;
    let namespace = opened?;
    let failed = |fault: Fault| Failure {
        doing: "open the source of a mount with mapped ids".into(),
        errno: fault.errno,
    };
    let tree = open_tree(&mapped.tree).map_err(failed)?;
    sys::map_ids(tree.as_fd(), mapped.recursive, namespace.as_fd())
        .doing("map the ids of a mount")?;
    Ok(tree)
}

/// What only the parent may do to the new process.
fn prepare_from_outside(plan: &Plan, pid: i32) -> Result<(), Failure> {
    if plan.born_in.iter().all(|place| place.namespaces == NEW_PID) {
        adjust_oom_score(plan, &pid.to_string()).doing("adjust the out-of-memory score")?;
    }
    match &plan.id_maps {
        Some(maps) => write_maps(pid, maps),
        None => Ok(()),
    }
}

fn write_maps(pid: i32, maps: &IdMaps) -> Result<(), Failure> {
    let write = |file: &str, content: &str| fs::write(format!("/proc/{pid}/{file}"), content);
    if maps.by_programs {
        for (program, map) in [("newuidmap", &maps.uid), ("newgidmap", &maps.gid)] {
            userns::write_by_program(program, pid, map).map_err(|said| Failure {
                doing: format!("map ids with {program}: {said}").into(),
                errno: Errno::PERM,
            })?;
        }
        return Ok(());
    }
    if maps.deny_setgroups {
        write("setgroups", "deny").doing("give up setgroups")?;
    }
    write("uid_map", &maps.uid).doing("map user ids")?;
    write("gid_map", &maps.gid).doing("map group ids")
}

/// Records the process and hands it to the embedder.
fn announce(job: &Job, init: &Init, control: &OwnedFd) -> Result<(), Failure> {
    if let Some(directory) = &job.state {
        let stays = job.supervision != Supervision::Disowned;
        let record =
            InitRecord::of(init.pid, stays).doing("read the start time of the first process")?;
        state::write(&directory.join(state::INIT), &record, false)
            .doing("record the first process")?;
    }
    let mut descriptors = vec![&init.pidfd];
    descriptors.extend(&init.network);
    tell(
        control.as_fd(),
        &Event::Cloned { pid: init.pid },
        &descriptors,
    );
    Ok(())
}

/// Passes on what the process reports, until it has ended.
fn watch(
    job: &Job,
    init: &Init,
    control: &OwnedFd,
    embedder: BorrowedFd<'_>,
) -> Result<Outcome, Failure> {
    let disowned = job.supervision == Supervision::Disowned;
    let mut report = Some(&init.report);
    let attached = job.supervision == Supervision::Attached;
    let mut leash = attached.then_some([control.as_fd(), embedder]);
    let mut ready = false;
    loop {
        let mut waits = vec![PollFd::new(&init.pidfd, PollFlags::IN)];
        waits.extend(report.map(|report| PollFd::new(report, PollFlags::IN)));
        for end in leash.iter().flatten() {
            waits.push(PollFd::from_borrowed_fd(*end, PollFlags::IN));
        }
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing("wait for the container"),
        }
        let fired: Vec<bool> = waits
            .iter()
            .map(|wait| !wait.revents().is_empty())
            .collect();
        let reported = report.is_some() && fired.get(1) == Some(&true);
        if reported {
            match read_word(&init.report)? {
                Some(Word::Waiting) if disowned => return Ok(Outcome::Released(Event::Created)),
                Some(Word::Waiting) => tell(control.as_fd(), &Event::Created, &[]),
                Some(Word::Ready) => ready = true,
                Some(Word::Failed { step, call, errno }) => {
                    wait(&init.pidfd)?;
                    note_failed_step(job, step, call, errno)?;
                    return Ok(Outcome::Ended(Event::Failed { step, call, errno }));
                }
                Some(Word::Listener { number }) => {
                    hand_on_listener(&job.plan, init, number)
                        .doing("send the seccomp listener to its agent")?;
                    init.let_go_on()?;
                }
                Some(Word::Hooks) => {
                    for stage in [Stage::Prestart, Stage::CreateRuntime] {
                        if let Err(failure) = hooks::run(&job.plan, stage, init.pid, leash) {
                            return give_up(job, init, failure);
                        }
                    }
                    init.let_go_on()?;
                }
                Some(Word::HookFailed { stage, at, end }) => {
                    let output = read_output(&init.report)?;
                    let failure = HookFailure {
                        stage,
                        at,
                        end,
                        output,
                    };
                    return give_up(job, init, failure);
                }
                None => {
                    report = None;
                    if ready {
                        if let Err(failure) =
                            hooks::run(&job.plan, Stage::Poststart, init.pid, leash)
                        {
                            return give_up(job, init, failure);
                        }
                        if disowned {
                            return Ok(Outcome::Released(Event::Running));
                        }
                        forget_start(job);
                        tell(control.as_fd(), &Event::Running, &[]);
                    }
                }
            }
            // What was said before the end comes before the end.
            continue;
        }
        if fired.first() == Some(&true) {
            return wait(&init.pidfd).map(|status| Outcome::Ended(Event::Exited(status)));
        }
        if leash.is_some() && fired.iter().rev().take(2).any(|fired| *fired) {
            // The embedder, or its handle of the container, is gone.
            leash = None;
            let _ = process::pidfd_send_signal(&init.pidfd, Signal::KILL);
        }
    }
}

/// Gives the agent the listener that the process has as descriptor `number`.
fn hand_on_listener(plan: &Plan, init: &Init, number: i32) -> Result<(), Errno> {
    let agent = plan.steps.iter().find_map(|step| match step {
        Step::LoadFilter { agent, .. } => agent.as_ref(),
        _ => None,
    });
    let agent = agent.ok_or(Errno::PROTO)?;
    let flags = process::PidfdGetfdFlags::empty();
    let listener = process::pidfd_getfd(&init.pidfd, number, flags)?;
    agent.send(init.pid, listener.as_fd())
}

/// Ends a container of which a hook failed.
fn give_up(job: &Job, init: &Init, failure: HookFailure) -> Result<Outcome, Failure> {
    init.end();
    let of = job.plan.hooks.iter().find(|set| set.stage == failure.stage);
    if let (Some(directory), Some(of)) = (&job.state, of) {
        let cause = Cause::Hook {
            of: of.clone(),
            failure: failure.clone(),
        };
        state::write_failure(directory, cause).doing("record the failure")?;
    }
    Ok(Outcome::Ended(Event::HookFailed(failure)))
}

/// Reads one word; `None` at the end of the file.
fn read_word(report: &OwnedFd) -> Result<Option<Word>, Failure> {
    // Words are shorter than what a pipe writes in one piece, so that none arrives in parts.
    let mut bytes = [0; Word::SIZE];
    match rustix::io::read(report, &mut bytes) {
        Ok(0) => Ok(None),
        Ok(Word::SIZE) => match Word::from_bytes(bytes) {
            Some(word) => Ok(Some(word)),
            None => Err(Errno::PROTO).doing("read the report of the first process"),
        },
        Ok(_) => Err(Errno::PROTO).doing("read the report of the first process"),
        Err(errno) => Err(errno).doing("read the report of the first process"),
    }
}

/// Reads what follows a word: it was written with it, in one piece.
fn read_output(report: &OwnedFd) -> Result<Vec<u8>, Failure> {
    let mut bytes = [0; MAX_OUTPUT];
    let length = rustix::io::read(report, &mut bytes).doing("read the output of a hook")?;
    Ok(bytes.get(..length).unwrap_or_default().to_vec())
}

/// Reaps the process.
fn wait(pidfd: &OwnedFd) -> Result<ExitStatus, Failure> {
    loop {
        match process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(ExitStatus {
                    code: status.exit_status(),
                    signal: status.terminating_signal(),
                    oom_killed: false,
                    finished_at: SystemTime::now(),
                });
            }
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing("wait for the first process"),
        }
    }
}

/// Removes what the container used; tells whether the kernel killed something in it for memory.
fn clean_up(job: &Job) -> Result<bool, Failure> {
    if let Some(directory) = &job.state {
        state::forget(directory);
    }
    let Some(cgroup) = &job.cgroup else {
        return Ok(false);
    };
    let killed = cgroup.oom_kill_count().unwrap_or(0) > 0;
    // With a PID namespace of its own everything in it died with its first process.
    let own = job.plan.flags & u64::from(libc::CLONE_NEWPID.unsigned_abs()) != 0;
    let removed = if own { Ok(()) } else { cgroup.kill_all() }.and_then(|()| cgroup.remove());
    removed
        .map(|()| killed)
        .map_err(|_| Errno::BUSY)
        .doing("remove the cgroup")
}

/// Records which step failed, for those who started the container without having created it.
fn note_failed_step(job: &Job, step: u16, call: u8, errno: i32) -> Result<(), Failure> {
    match (&job.state, job.plan.steps.get(usize::from(step))) {
        (Some(directory), Some(step)) => {
            let step = step.clone();
            state::write_failure(directory, Cause::Step { step, call, errno })
                .doing("record the failure")
        }
        _ => Ok(()),
    }
}

/// Removes the FIFO that the container waited at: who comes now comes too late.
fn forget_start(job: &Job) {
    if let Some(directory) = &job.state {
        let _ = state::forget_start(directory);
    }
}

fn record_exit(job: &Job, status: &ExitStatus) -> Result<(), Failure> {
    match &job.exit_record {
        Some(path) => {
            state::write(path, &ExitRecord::of(status), true).doing("record the exit status")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::hook::HookSet;
    use crate::plan::step::SlotKind;

    fn hooked_spec() -> oci_spec::runtime::Spec {
        let hooks = serde_json::json!({"ociVersion": "1.2.0", "hooks": {
            "poststop": [{"path": "/bin/true", "env": ["A=b"], "timeout": 3}]}});
        serde_json::from_value(hooks).unwrap()
    }

    #[test]
    fn a_job_survives_the_way_to_the_monitor() {
        let set = HookSet::of(
            &hooked_spec(),
            Stage::Poststop,
            Path::new("/bundle"),
            Some("web"),
        );
        let mut plan = Plan::of_hooks(set.unwrap().unwrap());
        plan.oom_score_adj = Some(-3);
        plan.slots = vec![SlotKind::Start];
        let job = Job {
            plan: plan.clone(),
            supervision: Supervision::Detached,
            state: Some("/run/x".into()),
            exit_record: None,
            cgroup: None,
            own_cgroup: None,
        };
        let bytes = postcard::to_stdvec(&job).unwrap();
        let back: Job = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(
            (back.plan, back.supervision, back.state),
            (plan, Supervision::Detached, job.state)
        );
    }
}
