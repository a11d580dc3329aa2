//! `events`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use container_engine::container_core::cgroup::{Cgroup, IoStats, Pressure, PressureShare, Stats};
use container_engine::container_core::runtime::Status;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct Events {
    /// How often to show what is used, as in 5s or 500ms
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    interval: Duration,
    /// Show what is used once, and end
    #[arg(long)]
    stats: bool,
    /// The container
    id: String,
}

/// A line, with its parts in the order of runc's.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Events {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        ensure!(
            !self.interval.is_zero(),
            "--interval must be greater than 0"
        );
        let state = context.runtime.state(&self.id)?;
        if state.status == Status::Stopped {
            bail!("container {} is not running", self.id);
        }
        let cgroup = context.runtime.cgroup(&self.id)?;
        let cgroup = cgroup.with_context(|| format!("container {} has no cgroup", self.id))?;
        match self.stats {
            true => self.show("stats", Some(document(&cgroup.stats()?)))?,
            false => self.follow(&cgroup)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Shows events until the group is gone.
    fn follow(&self, cgroup: &Cgroup) -> anyhow::Result<()> {
        let mut kills = cgroup.oom_events()?;
        let mut next = Instant::now() + self.interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let Some(count) = kills.wait(Some(left))? else {
                return Ok(());
            };
            for _ in 0..count {
                self.show("oom", None)?;
            }
            if Instant::now() >= next {
                match cgroup.stats() {
                    Err(error) if error.code() == "CgroupUnknown" => return Ok(()),
                    stats => self.show("stats", Some(document(&stats?)))?,
                }
                next += self.interval;
            }
        }
    }

    fn show(&self, kind: &str, data: Option<Value>) -> anyhow::Result<()> {
        let event = serde_json::to_string(&Event {
            kind,
            id: &self.id,
            data,
        })?;
        let mut out = io::stdout().lock();
        writeln!(out, "{event}")?;
        Ok(out.flush()?)
    }
}

/// What a group uses, in the form of runc.
fn document(stats: &Stats) -> Value {
    let cpu = stats.cpu.clone().unwrap_or_default();
    let memory = stats.memory.clone().unwrap_or_default();
    let pids = stats.pids.unwrap_or_default();
    let io = |of: fn(&IoStats) -> [(&'static str, u64); 3]| -> Vec<Value> {
        let devices = stats.io.iter().filter_map(|(device, io)| {
            let (major, minor) = device.split_once(':')?;
            Some((
                major.parse::<u64>().ok()?,
                minor.parse::<u64>().ok()?,
                of(io),
            ))
        });
        devices
            .flat_map(|(major, minor, entries)| {
                entries.map(|(op, value)| {
                    json!({ "major": major, "minor": minor, "op": op, "value": value })
                })
            })
            .collect()
    };
    let huge_pages: serde_json::Map<_, _> = stats
        .huge_pages
        .iter()
        .map(|(size, pages)| {
            let used = json!({
                "usage": pages.usage_bytes,
                "max": pages.peak_bytes.unwrap_or(0),
                "failcnt": pages.limit_hits,
            });
            (size.clone(), used)
        })
        .collect();
    let mut document = json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_ns,
                "percpu": cpu.per_cpu_ns,
                "kernel": cpu.system_ns,
                "user": cpu.user_ns,
            },
            "throttling": {
                "periods": cpu.throttling.periods,
                "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_ns,
            },
        },
        "memory": {
            "cache": memory.cache_bytes,
            "usage": {
                "limit": memory.limit_bytes.unwrap_or(u64::MAX),
                "usage": memory.usage_bytes,
                "max": memory.peak_bytes.unwrap_or(0),
                "failcnt": memory.limit_hits,
            },
            "swap": {
                "limit": memory.swap_limit_bytes.unwrap_or(u64::MAX),
                "usage": memory.swap_bytes.unwrap_or(0),
                "failcnt": 0,
            },
            "kernel": { "limit": u64::MAX, "usage": memory.kernel_bytes.unwrap_or(0), "failcnt": 0 },
            "raw": memory.details,
        },
        "pids": { "current": pids.current, "limit": pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": io(|io| [
                ("Read", io.read_bytes),
                ("Write", io.written_bytes),
                ("Discard", io.discarded_bytes),
            ]),
            "ioServicedRecursive": io(|io| [
                ("Read", io.reads),
                ("Write", io.writes),
                ("Discard", io.discards),
            ]),
        },
        "hugetlb": huge_pages,
        "intel_rdt": {},
        "network_interfaces": null,
    });
    for (part, pressure) in [
        ("cpu", stats.pressure.cpu),
        ("memory", stats.pressure.memory),
        ("blkio", stats.pressure.io),
    ] {
        if let Some(pressure) = pressure {
            document[part]["psi"] = waiting(&pressure);
        }
    }
    document
}

fn waiting(pressure: &Pressure) -> Value {
    let share = |share: &PressureShare| {
        json!({
            "avg10": share.last_10_s_percent,
            "avg60": share.last_60_s_percent,
            "avg300": share.last_300_s_percent,
            "total": share.total_us,
        })
    };
    json!({ "some": share(&pressure.some), "full": share(&pressure.full) })
}

/// Reads `5s`, `500ms`, `1m30s` …
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (value, unit) = rest.split_at(number);
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        let value: f64 = value.parse().map_err(|_| invalid())?;
        sum += Duration::try_from_secs_f64(value * seconds).map_err(|_| invalid())?;
        rest = &unit[end..];
    }
    Ok(sum)
}
