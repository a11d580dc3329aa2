//! Records that let other processes find a container: small JSON documents, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::container::ExitStatus;

/// The record of a live container's first process, in its state directory.
pub(crate) const INIT: &str = "init.json";

/// The FIFO that a created container waits at, in its state directory.
pub(crate) const START: &str = "start";

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
    pub(crate) monitor: ProcessId,
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
    /// The record of the first process `pid`, made by its monitor.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        Ok(Self {
            version: VERSION,
            init: ProcessId::of(pid)?,
            monitor: ProcessId::of(own)?,
        })
    }
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
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(document)?)?;
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
