//! The columns of `ps`, by name.

use std::collections::HashMap;
use std::fs;

use super::process::{Host, Process};

/// What a column shows of a process.
pub(super) type Show = fn(&Process, &Host) -> String;

/// The title and content of a column.
pub(super) fn find(name: &str) -> Option<(String, Show)> {
    COLUMNS.iter().find_map(|(names, show)| {
        let mut names = names
            .split(' ')
            .map(|entry| entry.split_once('=').unwrap_or((entry, "")));
        let (name, title) = names.find(|(it, _)| *it == name)?;
        let title = if title.is_empty() {
            name.to_ascii_uppercase()
        } else {
            title.into()
        };
        Some((title, *show))
    })
}

/// Names and content. The title is the name in capitals, where it does not follow the name. Names in
/// capitals are those of formats only, which have titles that no name gives.
const COLUMNS: &[(&str, Show)] = &[
    ("USER_ID=UID", |p, h| user(p, h, 1)),
    ("UID", |p, _| id(p, "Uid", 1)),
    ("COMMAND", |p, _| p.arguments()),
    ("%cpu pcpu=%CPU", |p, h| tenths(per_mille(p, h))),
    ("%mem pmem=%MEM", |p, h| {
        tenths((resident(p) * 1000 / h.memory).min(999))
    }),
    ("addr", |_, _| "-".into()),
    ("args=COMMAND cmd command", |p, _| p.arguments()),
    ("bsdstart=START", |p, h| {
        clock(p, h, if p.age(h) > DAY { "%b %e" } else { "%H:%M" })
    }),
    ("bsdtime=TIME", |p, h| {
        let seconds = p.ticks() / h.ticks;
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }),
    ("c", |p, h| (per_mille(p, h) / 10).min(99).to_string()),
    ("cgroup", |p, _| {
        let groups = fs::read_to_string(p.directory.join("cgroup")).unwrap_or_default();
        // The root of a hierarchy is no group of its own.
        let groups: Vec<_> = groups
            .lines()
            .filter(|line| !line.ends_with(":/"))
            .collect();
        match groups.is_empty() {
            true => "-".into(),
            false => groups.join(","),
        }
    }),
    ("cls class=CLS policy=POL", |p, _| {
        let class = match p.number(41) {
            0 => "TS",
            1 => "FF",
            2 => "RR",
            3 => "B",
            4 => "ISO",
            5 => "IDL",
            6 => "DLN",
            _ => "?",
        };
        class.into()
    }),
    ("comm=COMMAND ucmd=CMD ucomm=COMMAND", |p, _| {
        p.command.clone()
    }),
    ("egid gid", |p, _| id(p, "Gid", 1)),
    ("egroup group", |p, h| group(p, h, 1)),
    ("etime=ELAPSED", |p, h| elapsed(p.age(h))),
    ("etimes=ELAPSED", |p, h| p.age(h).to_string()),
    ("euid uid", |p, _| id(p, "Uid", 1)),
    ("euser uname=USER user", |p, h| user(p, h, 1)),
    ("f flag=F flags=F", |p, _| {
        format!("{:o}", p.count(9) >> 6 & 7)
    }),
    ("ipcns", |p, _| namespace(p, "ipc")),
    ("lstart=STARTED", |p, h| clock(p, h, "%a %b %e %H:%M:%S %Y")),
    ("lwp spid tid", |p, _| p.thread.to_string()),
    ("maj_flt=MAJFL majflt", |p, _| p.field(12).into()),
    ("min_flt=MINFL minflt", |p, _| p.field(10).into()),
    ("mntns", |p, _| namespace(p, "mnt")),
    ("netns", |p, _| namespace(p, "net")),
    ("ni nice=NI", |p, _| p.field(19).into()),
    ("nlwp thcount=THCNT", |p, _| p.field(20).into()),
    ("opri=PRI", |p, _| (p.number(18) + 60).to_string()),
    ("pgid pgrp", |p, _| p.field(5).into()),
    ("pid tgid", |p, _| p.pid.to_string()),
    ("pidns", |p, _| namespace(p, "pid")),
    ("ppid", |p, _| p.field(4).into()),
    ("pri", |p, _| (39 - p.number(18)).to_string()),
    ("priority=PRI", |p, _| p.field(18).into()),
    ("psr", |p, _| p.field(39).into()),
    ("rgid", |p, _| id(p, "Gid", 0)),
    ("rgroup", |p, h| group(p, h, 0)),
    ("rss rssize=RSS rsz", |p, _| resident(p).to_string()),
    ("rtprio", |p, _| match p.field(40) {
        "0" => "-".into(),
        priority => priority.into(),
    }),
    ("ruid", |p, _| id(p, "Uid", 0)),
    ("ruser", |p, h| user(p, h, 0)),
    ("s state=S", |p, _| p.field(3).into()),
    ("sess session=SESS sid", |p, _| p.field(6).into()),
    ("start=STARTED", |p, h| {
        clock(p, h, if p.age(h) > DAY { "%b %d" } else { "%H:%M:%S" })
    }),
    ("start_time=START", start),
    ("stat", |p, _| state(p)),
    ("stime", start),
    ("sz", |p, h| (p.count(23) / h.page).to_string()),
    ("cputime=TIME time", |p, h| {
        processor_time(p.ticks() / h.ticks)
    }),
    ("cputimes=TIME times=TIME", |p, h| {
        (p.ticks() / h.ticks).to_string()
    }),
    ("timens", |p, _| namespace(p, "time")),
    ("tpgid", |p, _| p.field(8).into()),
    ("tname=TTY tt tty=TT", |p, _| terminal(p.number(7))),
    ("userns", |p, _| namespace(p, "user")),
    ("utsns", |p, _| namespace(p, "uts")),
    ("vsize=VSZ vsz", |p, _| (p.count(23) / 1024).to_string()),
    ("wchan", |p, _| {
        let function = fs::read_to_string(p.directory.join("wchan")).unwrap_or_default();
        match function.trim_start_matches(['.', '_']) {
            "" | "0" => "-".into(),
            function => function.into(),
        }
    }),
];

const DAY: u64 = 24 * 60 * 60;

/// The real (0) or effective (1) id.
fn id(process: &Process, line: &str, which: usize) -> String {
    process
        .status(line)
        .get(which)
        .copied()
        .unwrap_or("?")
        .into()
}

fn user(process: &Process, host: &Host, which: usize) -> String {
    named(id(process, "Uid", which), &host.users)
}

fn group(process: &Process, host: &Host, which: usize) -> String {
    named(id(process, "Gid", which), &host.groups)
}

fn named(id: String, names: &HashMap<u32, String>) -> String {
    let name = id.parse().ok().and_then(|id: u32| names.get(&id));
    name.cloned().unwrap_or(id)
}

/// Processor time per time since the start.
fn per_mille(process: &Process, host: &Host) -> u64 {
    (process.ticks() * 1000 / host.ticks)
        .checked_div(process.age(host))
        .unwrap_or(0)
}

/// As `ps` writes a share: with a decimal, but for the largest.
fn tenths(per_mille: u64) -> String {
    match per_mille {
        0..1000 => format!("{}.{}", per_mille / 10, per_mille % 10),
        _ => (per_mille / 10).to_string(),
    }
}

/// In KiB; the number in `stat` is not exact.
fn resident(process: &Process) -> u64 {
    let kib = process.status("VmRSS");
    kib.first().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn processor_time(seconds: u64) -> String {
    let clock = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    );
    match seconds / DAY {
        0 => clock,
        days => format!("{days}-{clock}"),
    }
}

fn elapsed(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        _ => processor_time(seconds),
    }
}

/// The time of today, the day of this year, or the year.
fn start(process: &Process, host: &Host) -> String {
    let started = process.started(host).to_zoned(host.zone.clone()).date();
    let today = host.now.to_zoned(host.zone.clone()).date();
    let format = match (started.year() == today.year(), started == today) {
        (false, _) => "%Y",
        (true, false) => "%b%d",
        (true, true) => "%H:%M",
    };
    clock(process, host, format)
}

fn clock(process: &Process, host: &Host, format: &str) -> String {
    let started = process.started(host).to_zoned(host.zone.clone());
    started.strftime(format).to_string()
}

/// The state with the marks of BSD.
fn state(process: &Process) -> String {
    let mut state = process.field(3).to_owned();
    let nice = process.number(19);
    let locked = process
        .status("VmLck")
        .first()
        .is_some_and(|kib| *kib != "0");
    let leader = process.field(6) == process.pid.to_string();
    let foreground = process.field(5) == process.field(8);
    for (holds, mark) in [
        (nice < 0, '<'),
        (nice > 0, 'N'),
        (locked, 'L'),
        (leader, 's'),
        (process.number(20) > 1, 'l'),
        (foreground, '+'),
    ] {
        if holds {
            state.push(mark);
        }
    }
    state
}

/// The name of a terminal by its device number (kernel `Documentation/admin-guide/devices.txt`).
fn terminal(device: i64) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        5 if minor == 1 => "console".into(),
        _ => "?".into(),
    }
}

/// The number of a namespace, as far as this program may look.
fn namespace(process: &Process, kind: &str) -> String {
    let link = fs::read_link(process.directory.join("ns").join(kind)).unwrap_or_default();
    let link = link.to_string_lossy();
    match link.split_once('[') {
        Some((_, number)) => number.trim_end_matches(']').into(),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_ps_does() {
        assert_eq!(processor_time(59), "00:00:59");
        assert_eq!(processor_time(90_061), "1-01:01:01");
        assert_eq!(elapsed(59), "00:59");
        assert_eq!(elapsed(3600), "01:00:00");
        assert_eq!(elapsed(90_061), "1-01:01:01");
        assert_eq!(
            (tenths(0), tenths(123), tenths(1000)),
            ("0.0".into(), "12.3".into(), "100".into())
        );
    }

    #[test]
    fn terminals_by_number() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(136 << 8 | 5), "pts/5");
        assert_eq!(terminal(137 << 8 | 1), "pts/257");
        assert_eq!(terminal(4 << 8 | 1), "tty1");
        assert_eq!(terminal(4 << 8 | 64), "ttyS0");
    }

    #[test]
    fn no_name_is_taken_twice() {
        let mut names: Vec<_> = COLUMNS
            .iter()
            .flat_map(|(names, _)| names.split(' '))
            .map(|entry| entry.split('=').next())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
