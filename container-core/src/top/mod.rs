//! The processes of a container, as `ps` shows them, read from the host's `/proc`.
//!
//! No `ps` is needed, neither on the host nor in the image.

mod columns;
mod format;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs;

use self::format::Format;
use self::process::{Host, Process};
use crate::{Container, Error, ErrorKind, Result};

/// A table of processes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Table {
    /// The titles of the columns.
    pub titles: Vec<String>,
    /// A row for each process, or thread, by number; as long as the titles.
    pub processes: Vec<Vec<String>>,
}

/// Tells about the processes `pids`, in the columns that these options of `ps` ask for; none: `-ef`.
///
/// Known are the formats `-f`, `-F`, `-l`, `-j`, `-L` and their combinations, the BSD forms `u`, `l`
/// and `j` (as in `aux`), and columns by name with `-o` or `o`. Options that select processes have no
/// effect: all of `pids` are shown, but for those that have ended. Numbers of processes are those of
/// the host. Names of users come from the host's `/etc/passwd` and are not cut off; words are not
/// either.
///
/// # Errors
/// `Unsupported` (`PsOption`) for another option, `InvalidInput` (`PsColumn`) for an unknown column;
/// `Os` if `/proc` cannot be read.
///
/// # References
/// `ps(1)`, `proc(5)`.
pub fn top(pids: &[i32], options: &[impl AsRef<str>]) -> Result<Table> {
    let words: Vec<&str> = options.iter().map(AsRef::as_ref).collect();
    let format = Format::parse(&words)?;
    let host = Host::look()?;
    let pids: BTreeSet<i32> = pids.iter().copied().collect();
    let mut processes = Vec::new();
    for pid in pids {
        let found = match format.threads {
            true => Process::threads(pid),
            false => Process::read(pid).into_iter().collect(),
        };
        let row = |process: &Process| {
            let columns = format.columns.iter();
            columns.map(|(_, show)| show(process, &host)).collect()
        };
        processes.extend(found.iter().map(row));
    }
    Ok(Table {
        titles: format.columns.into_iter().map(|(title, _)| title).collect(),
        processes,
    })
}

impl Container {
    /// Tells about the processes of the container; see [`top`].
    ///
    /// # Errors
    /// As [`top`] and [`Self::processes`].
    pub fn top(&self, options: &[impl AsRef<str>]) -> Result<Table> {
        top(&self.processes()?, options)
    }

    /// The processes of the container, as the host numbers them, in order.
    ///
    /// These are the processes in its PID namespace and their descendants, containers in the container
    /// included; of a container without a PID namespace of its own, those that descend from its first
    /// process.
    ///
    /// # Errors
    /// `InvalidState` (`NotRunning`) if the container has ended; `Os` if `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let all = parents()?;
        let own = namespace_of("self");
        let theirs =
            namespace_of(&self.pid().to_string()).filter(|theirs| Some(theirs) != own.as_ref());
        let mut found: BTreeSet<i32> = all
            .keys()
            .copied()
            .filter(|pid| {
                *pid == self.pid() || (theirs.is_some() && namespace_of(&pid.to_string()) == theirs)
            })
            .collect();
        // A parent may have a higher number than its child.
        loop {
            let more: Vec<i32> = all
                .iter()
                .filter(|(pid, parent)| !found.contains(pid) && found.contains(parent))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        if self.has_ended()? {
            let what = "list the processes of a container that has ended";
            return Err(Error::new(ErrorKind::InvalidState, "NotRunning", what));
        }
        Ok(found.into_iter().collect())
    }
}

/// As `docker top` prints it.
impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows = || std::iter::once(&self.titles).chain(&self.processes);
        let width = |column: usize| {
            let widths = rows().filter_map(|row| Some(row.get(column)?.chars().count() + GAP));
            widths.max().unwrap_or(0).max(MIN_WIDTH)
        };
        let widths: Vec<usize> = (0..self.titles.len()).map(width).collect();
        for row in rows() {
            for (column, cell) in row.iter().enumerate() {
                match widths.get(column) {
                    Some(width) if column + 1 < row.len() => write!(f, "{cell:width$}")?,
                    _ => f.write_str(cell)?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// The least width of a column but the last, and the space behind its longest cell.
const MIN_WIDTH: usize = 20;
const GAP: usize = 3;

/// All processes of the host that this program sees, with their parents.
fn parents() -> Result<BTreeMap<i32, i32>> {
    let failed = |error| Error::os("list \"/proc\"", error);
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(process) = Process::read(pid) {
            parents.insert(pid, process.parent());
        }
    }
    Ok(parents)
}

fn namespace_of(process: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}
