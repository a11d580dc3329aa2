//! Descriptors that go into a container, and sockets that others go to.

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, ensure};
use container_engine::container_core::oci_spec::runtime::Spec;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// `O_CLOEXEC` as `proc_pid_fdinfo(5)` shows it.
const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// As many descriptors go into a container at most.
const MAX_DESCRIPTOR: u32 = 253;

/// Those of `count` descriptors from `first` on that this program was started with, with their numbers.
pub(crate) fn preserved(first: u32, count: u32) -> anyhow::Result<Vec<(OwnedFd, u32)>> {
    let end = first.saturating_add(count).min(MAX_DESCRIPTOR);
    let found = (first..end).filter_map(|number| Some((inherited(number).transpose()?, number)));
    found
        .map(|(descriptor, number)| Ok((descriptor?, number)))
        .collect()
}

/// The sockets of systemd's socket activation, if they are for this process; the container is told of
/// them as its own.
pub(crate) fn activation(spec: &mut Spec) -> anyhow::Result<Vec<(OwnedFd, u32)>> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(pid), Some(count)) = (number("LISTEN_PID"), number("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    if pid != std::process::id() || count == 0 {
        return Ok(Vec::new());
    }
    let sockets = preserved(3, count)?;
    add_environment(
        spec,
        [format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()],
    );
    Ok(sockets)
}

/// Adds variables to the environment of the program.
pub(crate) fn add_environment(spec: &mut Spec, variables: impl IntoIterator<Item = String>) {
    let mut process = spec.process().clone().unwrap_or_default();
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(variables);
    process.set_env(Some(environment));
    spec.set_process(Some(process));
}

/// Connects to the socket at `path`.
pub(crate) fn connect(path: Option<&Path>) -> anyhow::Result<Option<OwnedFd>> {
    let connect = |path| UnixStream::connect(path).with_context(|| format!("connect to {path:?}"));
    Ok(path.map(connect).transpose()?.map(OwnedFd::from))
}

/// Sends a descriptor of the process `pid` to the socket at `path`.
pub(crate) fn send_pidfd(path: &Path, pid: i32) -> anyhow::Result<()> {
    let socket = UnixStream::connect(path).with_context(|| format!("connect to {path:?}"))?;
    let pid = Pid::from_raw(pid).context("name a process")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("open a process")?;
    let descriptors = [pidfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let name = IoSlice::new(b"pidfd");
    sendmsg(&socket, &[name], &mut control, SendFlags::NOSIGNAL)
        .with_context(|| format!("send a descriptor to {path:?}"))?;
    Ok(())
}

/// A descriptor that this program was started with; `None` if there was none of that number.
fn inherited(number: u32) -> anyhow::Result<Option<OwnedFd>> {
    let doing = || format!("take the descriptor {number}");
    let Ok(info) = fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
        return Ok(None);
    };
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.unwrap_or_default().trim(), 8).with_context(doing)?;
    // What this program opened itself is closed when another one is executed.
    if flags & CLOSE_ON_EXEC != 0 {
        return Ok(None);
    }
    let own = pidfd_open(getpid(), PidfdFlags::empty()).with_context(doing)?;
    let number = i32::try_from(number).with_context(doing)?;
    let descriptor = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).with_context(doing)?;
    Ok(Some(descriptor))
}
