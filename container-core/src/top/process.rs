//! What `/proc` says about a process, and about the host.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::{Error, Result};

/// A process or thread as it was when it was looked at.
pub(super) struct Process {
    /// Its directory in `/proc`.
    pub(super) directory: PathBuf,
    pub(super) pid: i32,
    /// The number of the thread; that of the process unless threads were asked for.
    pub(super) thread: i32,
    pub(super) command: String,
    /// The fields of `stat` behind the command, from field 3 on.
    fields: Vec<String>,
    status: HashMap<String, String>,
}

/// What the columns depend on beside the process.
pub(super) struct Host {
    pub(super) users: HashMap<u32, String>,
    pub(super) groups: HashMap<u32, String>,
    pub(super) ticks: u64,
    pub(super) page: u64,
    /// In KiB.
    pub(super) memory: u64,
    /// In seconds.
    pub(super) uptime: u64,
    /// In seconds since the epoch.
    pub(super) booted: i64,
    pub(super) now: Timestamp,
    pub(super) zone: TimeZone,
}

impl Process {
    /// Nothing if it has ended meanwhile.
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::at(format!("/proc/{pid}").into(), pid, pid)
    }

    /// The threads of the process.
    pub(super) fn threads(pid: i32) -> Vec<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}/task"));
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut numbers: Vec<i32> = entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        numbers
            .into_iter()
            .filter_map(|thread| Self::at(directory.join(thread.to_string()), pid, thread))
            .collect()
    }

    fn at(directory: PathBuf, pid: i32, thread: i32) -> Option<Self> {
        // Names may hold any bytes.
        let read = |name: &str| {
            let bytes = fs::read(directory.join(name)).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let stat = read("stat")?;
        let (_, rest) = stat.split_once('(')?;
        let (command, rest) = rest.rsplit_once(')')?;
        let status = read("status")?;
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Some(Self {
            pid,
            thread,
            command: printable(command),
            fields: rest.split_whitespace().map(str::to_owned).collect(),
            status: status.lines().filter_map(line).collect(),
            directory,
        })
    }

    /// The field `number` of `stat`, as `proc(5)` numbers them.
    pub(super) fn field(&self, number: usize) -> &str {
        let field = number
            .checked_sub(3)
            .and_then(|index| self.fields.get(index));
        field.map_or("", String::as_str)
    }

    pub(super) fn number(&self, number: usize) -> i64 {
        self.field(number).parse().unwrap_or(0)
    }

    pub(super) fn count(&self, number: usize) -> u64 {
        self.field(number).parse().unwrap_or(0)
    }

    /// The words of the line `name` in `status`.
    pub(super) fn status(&self, name: &str) -> Vec<&str> {
        let line = self.status.get(name);
        line.map_or(Vec::new(), |line| line.split_whitespace().collect())
    }

    pub(super) fn parent(&self) -> i32 {
        self.field(4).parse().unwrap_or(0)
    }

    pub(super) fn is_zombie(&self) -> bool {
        self.field(3) == "Z"
    }

    /// The command line, or the name in brackets where there is none.
    pub(super) fn arguments(&self) -> String {
        let line = fs::read(self.directory.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\0').replace('\0', " ");
        match (line.is_empty(), self.is_zombie()) {
            (false, _) => printable(&line),
            (true, false) => format!("[{}]", self.command),
            (true, true) => format!("[{}] <defunct>", self.command),
        }
    }

    /// The processor time of the process in ticks.
    pub(super) fn ticks(&self) -> u64 {
        self.count(14) + self.count(15)
    }

    /// In seconds.
    pub(super) fn age(&self, host: &Host) -> u64 {
        host.uptime.saturating_sub(self.count(22) / host.ticks)
    }

    pub(super) fn started(&self, host: &Host) -> Timestamp {
        let since_boot = i64::try_from(self.count(22) / host.ticks).unwrap_or(0);
        Timestamp::from_second(host.booted.saturating_add(since_boot)).unwrap_or(host.now)
    }
}

impl Host {
    pub(super) fn look() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| Error::os(format!("read {path:?}"), error))
        };
        let word = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        };
        let uptime = read("/proc/uptime")?;
        let uptime = uptime
            .split('.')
            .next()
            .and_then(|seconds| seconds.parse().ok());
        let booted = word(&read("/proc/stat")?, "btime ").unwrap_or(0);
        Ok(Self {
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
            ticks: rustix::param::clock_ticks_per_second().max(1),
            page: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
            memory: word(&read("/proc/meminfo")?, "MemTotal:")
                .unwrap_or(0)
                .max(1),
            uptime: uptime.unwrap_or(0),
            booted: i64::try_from(booted).unwrap_or(0),
            now: Timestamp::now(),
            zone: TimeZone::system(),
        })
    }
}

/// Names by number, of a file whose lines are `NAME:…:NUMBER:…`; the first of several counts.
fn names(file: impl AsRef<Path>) -> HashMap<u32, String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(number))) = (fields.next(), fields.nth(1).map(str::parse)) {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// What a process calls itself may be meant for the terminal of whoever looks.
fn printable(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { '?' } else { letter };
    text.chars().map(shown).collect()
}
