//! The process of a worker: made as that of a container is, but for what it runs.

use std::os::fd::OwnedFd;

use rustix::net::SocketType;

use super::create::{Descriptors, open_streams, socket_pair};
use super::exec::Process;
use crate::cgroup::Join;
use crate::launcher::protocol::Job;
use crate::plan::Plan;
use crate::plan::step::{Slot, SlotKind, Step};
use crate::worker::WorkerOptions;
use crate::{Launcher, Result, Supervision, sys};

/// The number that the worker's socket has there.
const SOCKET: u32 = 3;

/// Starts the process; gives the socket to ask it over.
pub(crate) fn start(launcher: &Launcher, options: &WorkerOptions) -> Result<(Process, OwnedFd)> {
    let maps = options.users.maps();
    maps.check()?;
    let mut flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    if options.network {
        flags |= libc::CLONE_NEWNET;
    }
    let stdio = [Slot(0), Slot(1), Slot(2)];
    let mut steps = vec![
        Step::AwaitIdMaps,
        Step::NewSession,
        // What it mounts must not show up outside.
        Step::Detach,
        Step::ParentDeathSignal,
        Step::SetUmask(0o022),
        Step::SetStdio(stdio),
        Step::PassDescriptor {
            from: Slot(3),
            number: SOCKET,
        },
        Step::Serve,
    ];
    if options.network {
        steps.insert(1, Step::RaiseLoopback);
    }
    let plan = Plan {
        flags: sys::CLONE_CLEAR_SIGHAND | u64::from(flags.unsigned_abs()),
        id_maps: Some(maps),
        slots: vec![
            SlotKind::Stdio(0),
            SlotKind::Stdio(1),
            SlotKind::Stdio(2),
            SlotKind::Extra(SOCKET),
        ],
        steps,
        ..Plan::default()
    };
    let (ours, theirs) = socket_pair(SocketType::SEQPACKET)?;
    let streams = open_streams(&plan, Default::default())?;
    let job = Job {
        plan,
        supervision: Supervision::Attached,
        state: None,
        exit_record: None,
        cgroup: None,
        own_cgroup: None,
    };
    let descriptors = Descriptors {
        streams: streams.theirs.map(Some),
        start: None,
        join: Join::default(),
        console: None,
        extra: vec![(theirs, SOCKET)],
        target: None,
    };
    let (handle, _) = launcher.hand_over(job, descriptors)?;
    handle.wait_running()?;
    Ok((Process(handle), ours))
}
