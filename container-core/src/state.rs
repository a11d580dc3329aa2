//! Records that let other processes find a container: small JSON documents, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::container::ExitStatus;
use crate::plan::Plan;
use crate::plan::hook::{HookFailure, HookSet};
use crate::plan::step::Step;
use crate::seccomp::Agent;
use crate::{Error, ErrorKind, Result};

/// The record of a live container's first process, in its state directory.
pub(crate) const INIT: &str = "init.json";

/// The FIFO that a created container waits at, in its state directory.
pub(crate) const START: &str = "start";

/// What binds all processes of a container, in its state directory.
const CONFINEMENT: &str = "confinement";

/// Why a container could not be started, in its state directory.
const FAILURE: &str = "failure";

/// The form that records of this version have.
const VERSION: u32 = 1;

/// A process that cannot be mistaken for another one that got its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// In clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub(crate) start_time: u64,
}

/// Who runs a container.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct InitRecord {
    version: u32,
    pub(crate) init: ProcessId,
    /// `None`: disowned.
    pub(crate) monitor: Option<ProcessId>,
}

/// What binds whatever is executed in a container, beside what the process itself asks for.
///
/// In `postcard`, as the parts of plans that it consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Confinement {
    version: u32,
    pub(crate) cgroup: Option<Cgroup>,
    /// The step that takes a session keyring.
    pub(crate) keyring: Option<Step>,
    /// The step that sets what kind of system it sees.
    pub(crate) personality: Option<Step>,
    /// The step that restricts it to some files.
    pub(crate) restriction: Option<Step>,
    /// The step that loads the seccomp filter.
    pub(crate) filter: Option<Step>,
    /// The user namespace has a group map of a plain user's.
    pub(crate) deny_setgroups: bool,
}

/// Why a container could not be started, of whose plan only its creator knows.
#[derive(Serialize, Deserialize)]
struct Failure {
    version: u32,
    cause: Cause,
}

/// What failed, with what is needed to say so in words.
#[derive(Serialize, Deserialize)]
pub(crate) enum Cause {
    Step { step: Step, call: u8, errno: i32 },
    Hook { of: HookSet, failure: HookFailure },
}

/// How a container ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    version: u32,
    code: Option<i32>,
    signal: Option<i32>,
    oom_killed: bool,
    /// Since the epoch.
    finished_at: Duration,
}

impl ProcessId {
    /// Reads the start time of `pid`, which must exist.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The command, in parentheses, may hold anything; the state after it is field 3.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
        let field = rest.and_then(|rest| rest.split_whitespace().nth(22 - 3));
        let start_time = field.and_then(|field| field.parse().ok());
        let start_time = start_time.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_time })
    }
}

impl InitRecord {
    /// The record of the first process `pid`, made by its monitor, which stays or leaves it alone.
    pub(crate) fn of(pid: i32, stays: bool) -> io::Result<Self> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Self {
            version: VERSION,
            init: ProcessId::of(pid)?,
            monitor: stays.then(|| ProcessId::of(own)).transpose()?,
        })
    }
}

impl Confinement {
    pub(crate) fn of(plan: &Plan, cgroup: Option<Cgroup>) -> Self {
        let find = |is_meant: fn(&&Step) -> bool| plan.steps.iter().find(is_meant).cloned();
        Self {
            version: VERSION,
            cgroup,
            keyring: find(|step| matches!(step, Step::NewKeyring { .. })),
            personality: find(|step| matches!(step, Step::SetPersonality(_))),
            restriction: find(|step| matches!(step, Step::RestrictFiles { .. })),
            filter: find(|step| matches!(step, Step::LoadFilter { .. })),
            deny_setgroups: plan
                .id_maps
                .as_ref()
                .is_some_and(|maps| maps.deny_setgroups),
        }
    }

    /// Who listens for the calls that the filter leaves to him.
    pub(crate) fn agent(&mut self) -> Option<&mut Agent> {
        match &mut self.filter {
            Some(Step::LoadFilter { agent, .. }) => agent.as_deref_mut(),
            _ => None,
        }
    }

    /// Records it; what an earlier container left of its own is forgotten.
    pub(crate) fn write(&self, state: &Path) -> Result<()> {
        let failed = |error| Error::os(format!("record a container in {state:?}"), error);
        remove(&state.join(FAILURE)).map_err(failed)?;
        write_plan(&state.join(CONFINEMENT), self).map_err(failed)
    }

    pub(crate) fn read(state: &Path) -> Result<Self> {
        let path = state.join(CONFINEMENT);
        let bytes = fs::read(&path).map_err(|error| Error::os(format!("read {path:?}"), error))?;
        let read: Self = postcard::from_bytes(&bytes).map_err(|_| damaged(&path))?;
        if read.version == VERSION {
            Ok(read)
        } else {
            Err(damaged(&path))
        }
    }
}

/// Records why the container could not be started.
pub(crate) fn write_failure(state: &Path, cause: Cause) -> io::Result<()> {
    let failure = Failure {
        version: VERSION,
        cause,
    };
    write_plan(&state.join(FAILURE), &failure)
}

/// Why the container could not be started, if that is what happened.
pub(crate) fn read_failure(state: &Path) -> Result<Option<Error>> {
    let path = state.join(FAILURE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::os(format!("read {path:?}"), error)),
    };
    let failure: Failure = postcard::from_bytes(&bytes).map_err(|_| damaged(&path))?;
    if failure.version != VERSION {
        return Err(damaged(&path));
    }
    Ok(Some(match failure.cause {
        Cause::Step { step, call, errno } => step.failure(call, errno),
        Cause::Hook { of, failure } => of.failure(&failure),
    }))
}

/// Removes the records of a container that lives no more, all but why it could not be started.
pub(crate) fn forget(state: &Path) {
    for name in [INIT, CONFINEMENT, START] {
        let _ = remove(&state.join(name));
    }
}

/// Takes note of the start: who comes now comes too late.
pub(crate) fn forget_start(state: &Path) -> Result<()> {
    let path = state.join(START);
    remove(&path).map_err(|error| Error::os(format!("remove {path:?}"), error))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write_plan<T: Serialize>(path: &Path, part: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(part).map_err(|_| io::ErrorKind::InvalidData)?;
    replace(path, &bytes, false)
}

fn damaged(path: &Path) -> Error {
    let what = format!("read {path:?}, which is damaged or of another version");
    Error::new(ErrorKind::Integrity, "RecordDamaged", what)
}

impl ExitRecord {
    pub(crate) fn of(status: &ExitStatus) -> Self {
        Self {
            version: VERSION,
            code: status.code,
            signal: status.signal,
            oom_killed: status.oom_killed,
            finished_at: status
                .finished_at
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    pub(crate) fn status(&self) -> ExitStatus {
        ExitStatus {
            code: self.code,
            signal: self.signal,
            oom_killed: self.oom_killed,
            finished_at: SystemTime::UNIX_EPOCH + self.finished_at,
        }
    }
}

/// Replaces the document at `path`; `durable`: it survives a power cut.
pub(crate) fn write<T: Serialize>(path: &Path, document: &T, durable: bool) -> io::Result<()> {
    replace(path, &serde_json::to_vec(document)?, durable)
}

fn replace(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(directory) if durable => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads the document at `path`; `None` if there is none.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
