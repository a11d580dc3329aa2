//! How a process ended.

use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::state::{self, ExitRecord};
use crate::{Error, Result, Signal};

/// How the first process of a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    pub(crate) finished_at: SystemTime,
}

impl ExitStatus {
    /// Reads the record that [`CreateOptions::exit_record`](crate::CreateOptions::exit_record) names; `None` if there is none yet.
    ///
    /// # Errors
    /// `Os` if the file cannot be read or is no such record.
    pub fn read(exit_record: &Path) -> Result<Option<Self>> {
        let record: Option<ExitRecord> = state::read(exit_record)
            .map_err(|error| Error::os(format!("read {exit_record:?}"), error))?;
        Ok(record.map(|record| record.status()))
    }

    /// Whether the process ended by itself with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The exit code as shells and Docker count: 128 and the number for a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => 255,
        }
    }

    /// The number of the signal that ended the process, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.signal
    }

    /// Whether the kernel killed a process of the container because its memory limit was reached.
    #[must_use]
    pub fn oom_killed(&self) -> bool {
        self.oom_killed
    }

    /// When the process was found to have ended.
    #[must_use]
    pub fn finished_at(&self) -> SystemTime {
        self.finished_at
    }
}

/// `exit code 3`, `signal SIGKILL` …
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self
            .signal
            .and_then(|number| Signal::from_number(number).ok())
        {
            Some(signal) => write!(f, "{signal}")?,
            None => write!(f, "exit code {}", self.code())?,
        }
        if self.oom_killed {
            f.write_str(" (out of memory)")?;
        }
        Ok(())
    }
}
