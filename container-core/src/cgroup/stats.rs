//! What a group has used, and what it had to wait for.
//!
//! # References
//! Kernel `Documentation/admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,hugetlb,pids}.rst`,
//! `cgroup-v2.rst`, `Documentation/accounting/psi.rst`.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::file::{limit, numbers, read_if_there};
use super::layout::Version;
use super::{Cgroup, oom, tree};
use crate::{Error, Result};

/// What a group with all below it has used by a moment, the same for all versions.
///
/// A part is `None`, a number is 0 and a limit `None`, where the host does not count it or has no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// The moment, in nanoseconds since 1970.
    pub unix_time_ns: u64,
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Processes and threads.
    pub pids: Option<PidsStats>,
    /// Block devices, by `major:minor`; only those that were used.
    pub io: BTreeMap<String, IoStats>,
    /// Huge pages, by size as in `2MB`.
    pub huge_pages: BTreeMap<String, HugePageStats>,
    /// For what part of the time something had to wait.
    pub pressure: Pressures,
}

/// Processor time that was used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CpuStats {
    /// All of it, in nanoseconds.
    pub usage_ns: u64,
    /// What programs used themselves, in nanoseconds.
    pub user_ns: u64,
    /// What the kernel used for them, in nanoseconds.
    pub system_ns: u64,
    /// All of it, in nanoseconds, for each processor. Version 1 only.
    pub per_cpu_ns: Vec<u64>,
    /// How a quota made it wait.
    pub throttling: Throttling,
}

/// How a processor quota made a group wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Throttling {
    /// The periods in which the group wanted to run.
    pub periods: u64,
    /// Those of them in which its quota did not suffice.
    pub throttled_periods: u64,
    /// For how long it waited, in nanoseconds, summed over processors.
    pub throttled_ns: u64,
}

/// Memory that is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryStats {
    /// All that counts against the limit, in bytes.
    pub usage_bytes: u64,
    /// The most that `usage_bytes` has been. Version 2 counts it since Linux 5.19.
    pub peak_bytes: Option<u64>,
    /// The limit in bytes.
    pub limit_bytes: Option<u64>,
    /// Contents of files, in bytes.
    pub cache_bytes: u64,
    /// What belongs to no file, in bytes.
    pub rss_bytes: u64,
    /// Contents of files that were not used lately, in bytes. `usage_bytes` without it is what the
    /// kernel cannot easily take away, and what Docker calls usage.
    pub inactive_file_bytes: u64,
    /// What is swapped out, in bytes.
    pub swap_bytes: Option<u64>,
    /// The limit of swap alone in bytes.
    pub swap_limit_bytes: Option<u64>,
    /// What the kernel itself holds for the group, in bytes.
    pub kernel_bytes: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// How many processes were killed for want of memory.
    pub oom_kills: u64,
    /// All that `memory.stat` says, by the names that this kernel has there.
    pub details: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be.
    pub limit: Option<u64>,
    /// How many were refused.
    pub refused: u64,
}

/// What was read from and written to a block device, past the caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IoStats {
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Bytes that were given back to the device.
    pub discarded_bytes: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// Requests to give back.
    pub discards: u64,
}

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HugePageStats {
    /// What is used, in bytes.
    pub usage_bytes: u64,
    /// The most that has been used, in bytes. Version 1 only.
    pub peak_bytes: Option<u64>,
    /// The limit in bytes.
    pub limit_bytes: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: u64,
}

/// For what part of the time processes of a group had to wait, by what for.
///
/// `None` where the kernel does not measure it (Linux 4.20, not with `psi=0`) or there is no version 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pressures {
    /// For a processor.
    pub cpu: Option<Pressure>,
    /// For memory.
    pub memory: Option<Pressure>,
    /// For block devices.
    pub io: Option<Pressure>,
}

/// For what part of the time processes had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pressure {
    /// While at least one waited.
    pub some: PressureShare,
    /// While all waited that had something to do.
    pub full: PressureShare,
}

/// A part of the time, lately and in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PressureShare {
    /// Percent of the last ten seconds.
    pub last_10_s_percent: f64,
    /// Percent of the last minute.
    pub last_60_s_percent: f64,
    /// Percent of the last five minutes.
    pub last_300_s_percent: f64,
    /// In all, in microseconds.
    pub total_us: u64,
}

impl Cgroup {
    /// What the group with all below it has used by now.
    ///
    /// # Errors
    /// `NotFound` (`CgroupUnknown`) if the group is gone; `Os` if a file of it cannot be read.
    pub fn stats(&self) -> Result<Stats> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut stats = Stats {
            unix_time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..Stats::default()
        };
        for group in &self.groups {
            let files = Files(&group.directory);
            for controller in &group.controllers {
                match (group.version, controller.as_str()) {
                    (Version::V1, "cpu") => {
                        let cpu = stats.cpu.get_or_insert_default();
                        cpu.throttling = files.throttling("throttled_time", 1)?;
                    }
                    (Version::V1, "cpuacct") => {
                        files.usage_v1(stats.cpu.get_or_insert_default())?
                    }
                    (Version::V2, "cpu") => stats.cpu = files.cpu_v2()?,
                    (Version::V1, "memory") => stats.memory = files.memory_v1()?,
                    (Version::V2, "memory") => stats.memory = files.memory_v2()?,
                    (_, "pids") => stats.pids = files.pids()?,
                    (Version::V1, "blkio") => stats.io = files.io_v1()?,
                    (Version::V2, "io") => stats.io = files.io_v2()?,
                    (version, "hugetlb") => stats.huge_pages = files.huge_pages(version)?,
                    _ => {}
                }
            }
            if group.version == Version::V2 {
                stats.pressure = files.pressures()?;
            }
        }
        if self.groups.iter().any(|group| group.directory.is_dir()) {
            return Ok(stats);
        }
        let what = format!("read the statistics of cgroup {}", self.path());
        Err(Error::new(
            crate::ErrorKind::NotFound,
            "CgroupUnknown",
            what,
        ))
    }

    /// Statistics now and then every `interval`, until the group is gone. `next` blocks meanwhile.
    ///
    /// A reader who comes late gets the statistics of that moment, and none twice.
    #[must_use]
    pub fn stats_every(&self, interval: Duration) -> StatsIter {
        StatsIter {
            cgroup: self.clone(),
            interval,
            next: Instant::now(),
        }
    }
}

/// Statistics at an interval, see [`Cgroup::stats_every`].
#[derive(Clone, Debug)]
pub struct StatsIter {
    cgroup: Cgroup,
    interval: Duration,
    next: Instant,
}

impl Iterator for StatsIter {
    type Item = Result<Stats>;

    fn next(&mut self) -> Option<Self::Item> {
        thread::sleep(self.next.saturating_duration_since(Instant::now()));
        self.next = self.next.max(Instant::now()) + self.interval;
        match self.cgroup.stats() {
            Err(error) if error.code() == "CgroupUnknown" => None,
            stats => Some(stats),
        }
    }
}

/// The files of one group.
struct Files<'g>(&'g Path);

impl Files<'_> {
    fn read(&self, name: &str) -> Result<Option<String>> {
        read_if_there(&self.0.join(name))
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.read(name)?.and_then(|text| text.trim().parse().ok()))
    }

    fn limit(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.read(name)?.as_deref().and_then(limit))
    }

    fn throttling(&self, time: &str, unit_ns: u64) -> Result<Throttling> {
        let text = self.read("cpu.stat")?.unwrap_or_default();
        let stat = numbers(&text);
        let of = |name: &str| stat.get(name).copied().unwrap_or(0);
        Ok(Throttling {
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled_ns: of(time).saturating_mul(unit_ns),
        })
    }

    fn usage_v1(&self, cpu: &mut CpuStats) -> Result<()> {
        let text = self.read("cpuacct.stat")?.unwrap_or_default();
        let stat = numbers(&text);
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let of = |name: &str| {
            stat.get(name)
                .map_or(0, |ticks| ticks.saturating_mul(tick_ns))
        };
        let per_cpu = self.read("cpuacct.usage_percpu")?.unwrap_or_default();
        cpu.usage_ns = self.number("cpuacct.usage")?.unwrap_or(0);
        cpu.user_ns = of("user");
        cpu.system_ns = of("system");
        cpu.per_cpu_ns = per_cpu
            .split_whitespace()
            .filter_map(|it| it.parse().ok())
            .collect();
        Ok(())
    }

    fn cpu_v2(&self) -> Result<Option<CpuStats>> {
        let Some(text) = self.read("cpu.stat")? else {
            return Ok(None);
        };
        let stat = numbers(&text);
        let of = |name: &str| stat.get(name).map_or(0, |us| us.saturating_mul(1000));
        Ok(Some(CpuStats {
            usage_ns: of("usage_usec"),
            user_ns: of("user_usec"),
            system_ns: of("system_usec"),
            per_cpu_ns: Vec::new(),
            throttling: self.throttling("throttled_usec", 1000)?,
        }))
    }

    fn memory_v1(&self) -> Result<Option<MemoryStats>> {
        let Some(usage) = self.number("memory.usage_in_bytes")? else {
            return Ok(None);
        };
        let text = self.read("memory.stat")?.unwrap_or_default();
        let stat = numbers(&text);
        // With what groups below use, where the kernel says both.
        let of = |name: &str| {
            stat.get(format!("total_{name}").as_str())
                .or(stat.get(name))
                .copied()
        };
        let limit_bytes = self.limit("memory.limit_in_bytes")?;
        let with_swap = self.limit("memory.memsw.limit_in_bytes")?;
        Ok(Some(MemoryStats {
            usage_bytes: usage,
            peak_bytes: self.number("memory.max_usage_in_bytes")?,
            limit_bytes,
            cache_bytes: of("cache").unwrap_or(0),
            rss_bytes: of("rss").unwrap_or(0),
            inactive_file_bytes: of("inactive_file").unwrap_or(0),
            swap_bytes: of("swap"),
            swap_limit_bytes: with_swap.map(|all| all.saturating_sub(limit_bytes.unwrap_or(0))),
            kernel_bytes: self.number("memory.kmem.usage_in_bytes")?,
            limit_hits: self.number("memory.failcnt")?.unwrap_or(0),
            oom_kills: self.oom_kills(Version::V1),
            details: owned(&stat),
        }))
    }

    fn memory_v2(&self) -> Result<Option<MemoryStats>> {
        let Some(usage) = self.number("memory.current")? else {
            return Ok(None);
        };
        let text = self.read("memory.stat")?.unwrap_or_default();
        let stat = numbers(&text);
        let of = |name: &str| stat.get(name).copied();
        let events = self.read("memory.events")?.unwrap_or_default();
        Ok(Some(MemoryStats {
            usage_bytes: usage,
            peak_bytes: self.number("memory.peak")?,
            limit_bytes: self.limit("memory.max")?,
            cache_bytes: of("file").unwrap_or(0),
            rss_bytes: of("anon").unwrap_or(0),
            inactive_file_bytes: of("inactive_file").unwrap_or(0),
            swap_bytes: self.number("memory.swap.current")?,
            swap_limit_bytes: self.limit("memory.swap.max")?,
            kernel_bytes: of("kernel"),
            limit_hits: numbers(&events).get("max").copied().unwrap_or(0),
            oom_kills: self.oom_kills(Version::V2),
            details: owned(&stat),
        }))
    }

    fn oom_kills(&self, version: Version) -> u64 {
        oom::kills(version, &self.0.join(oom::file(version))).unwrap_or(0)
    }

    fn pids(&self) -> Result<Option<PidsStats>> {
        let Some(current) = self.number("pids.current")? else {
            return Ok(None);
        };
        let events = self.read("pids.events")?.unwrap_or_default();
        Ok(Some(PidsStats {
            current,
            limit: self.limit("pids.max")?,
            refused: numbers(&events).get("max").copied().unwrap_or(0),
        }))
    }

    /// Lines of device, word, number. The recursive files count groups below, too (Linux 4.18).
    ///
    /// Throttling counts all requests, but newer kernels only once it limits some; the scheduler counts
    /// what it schedules.
    fn io_v1(&self) -> Result<BTreeMap<String, IoStats>> {
        let mut devices: BTreeMap<String, IoStats> = BTreeMap::new();
        for (who, file, bytes) in [
            ("throttle", "io_service_bytes", true),
            ("throttle", "io_serviced", false),
            ("bfq", "io_service_bytes", true),
            ("bfq", "io_serviced", false),
        ] {
            let text = match self.read(&format!("blkio.{who}.{file}_recursive"))? {
                Some(text) => Some(text),
                None => self.read(&format!("blkio.{who}.{file}"))?,
            };
            for line in text.unwrap_or_default().lines() {
                let words: Vec<_> = line.split(' ').collect();
                let [device, what, number] = words[..] else {
                    continue;
                };
                let io = devices.entry(device.to_owned()).or_default();
                let field = match (what, bytes) {
                    ("Read", true) => &mut io.read_bytes,
                    ("Write", true) => &mut io.written_bytes,
                    ("Discard", true) => &mut io.discarded_bytes,
                    ("Read", false) => &mut io.reads,
                    ("Write", false) => &mut io.writes,
                    ("Discard", false) => &mut io.discards,
                    // Sums of the others.
                    _ => continue,
                };
                *field = number.parse().unwrap_or(0).max(*field);
            }
        }
        devices.retain(|_, io| *io != IoStats::default());
        Ok(devices)
    }

    /// Lines of a device and `name=number`s.
    fn io_v2(&self) -> Result<BTreeMap<String, IoStats>> {
        let text = self.read("io.stat")?.unwrap_or_default();
        let line = |line: &str| {
            let (device, rest) = line.split_once(' ')?;
            let values: BTreeMap<_, _> = rest
                .split(' ')
                .filter_map(|pair| pair.split_once('='))
                .collect();
            let of = |name: &str| values.get(name).and_then(|it| it.parse().ok()).unwrap_or(0);
            let io = IoStats {
                read_bytes: of("rbytes"),
                written_bytes: of("wbytes"),
                discarded_bytes: of("dbytes"),
                reads: of("rios"),
                writes: of("wios"),
                discards: of("dios"),
            };
            (io != IoStats::default()).then(|| (device.to_owned(), io))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    fn huge_pages(&self, version: Version) -> Result<BTreeMap<String, HugePageStats>> {
        let (usage, maximum) = match version {
            Version::V1 => ("usage_in_bytes", "limit_in_bytes"),
            Version::V2 => ("current", "max"),
        };
        let mut sizes = BTreeMap::new();
        for name in tree::files(self.0)? {
            let size = name
                .strip_prefix("hugetlb.")
                .and_then(|rest| rest.strip_suffix(usage));
            // Reserved pages have files of their own, with a further word in their names.
            let size = size.and_then(|rest| rest.strip_suffix('.'));
            let Some(size) = size.filter(|size| !size.contains('.')) else {
                continue;
            };
            let of = |what: &str| format!("hugetlb.{size}.{what}");
            let events = self.read(&of("events"))?.unwrap_or_default();
            let hits = match version {
                Version::V1 => self.number(&of("failcnt"))?,
                Version::V2 => numbers(&events).get("max").copied(),
            };
            let pages = HugePageStats {
                usage_bytes: self.number(&name)?.unwrap_or(0),
                peak_bytes: self.number(&of("max_usage_in_bytes"))?,
                limit_bytes: self.limit(&of(maximum))?,
                limit_hits: hits.unwrap_or(0),
            };
            sizes.insert(size.to_owned(), pages);
        }
        Ok(sizes)
    }

    fn pressures(&self) -> Result<Pressures> {
        let read = |name: &str| Ok(self.read(name)?.as_deref().map(pressure));
        Ok(Pressures {
            cpu: read("cpu.pressure")?,
            memory: read("memory.pressure")?,
            io: read("io.pressure")?,
        })
    }
}

/// Reads lines such as `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn pressure(text: &str) -> Pressure {
    let share = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let of = |name: &str| {
            let words = line.unwrap_or_default().split(' ');
            words
                .filter_map(|word| word.split_once('='))
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1)
        };
        let percent = |name: &str| of(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        PressureShare {
            last_10_s_percent: percent("avg10"),
            last_60_s_percent: percent("avg60"),
            last_300_s_percent: percent("avg300"),
            total_us: of("total").and_then(|text| text.parse().ok()).unwrap_or(0),
        }
    };
    Pressure {
        some: share("some "),
        full: share("full "),
    }
}

fn owned(stat: &BTreeMap<&str, u64>) -> BTreeMap<String, u64> {
    stat.iter()
        .map(|(name, number)| ((*name).to_owned(), *number))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory with these files.
    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn memory_of_version_1_counts_groups_below() {
        let group = group(&[
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.memsw.limit_in_bytes", "8192\n"),
            ("memory.failcnt", "3\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            (
                "memory.stat",
                "cache 1\nrss 2\ntotal_cache 10\ntotal_rss 20\ntotal_inactive_file 5\n",
            ),
        ]);
        fs::create_dir(group.path().join("below")).unwrap();
        fs::write(
            group.path().join("below/memory.oom_control"),
            "oom_kill 1\n",
        )
        .unwrap();
        let memory = Files(group.path()).memory_v1().unwrap().unwrap();
        assert_eq!((memory.usage_bytes, memory.limit_bytes), (4096, None));
        assert_eq!(
            (
                memory.cache_bytes,
                memory.rss_bytes,
                memory.inactive_file_bytes
            ),
            (10, 20, 5)
        );
        assert_eq!((memory.limit_hits, memory.oom_kills), (3, 3));
        assert_eq!(
            (memory.swap_limit_bytes, memory.peak_bytes),
            (Some(8192), None)
        );
        assert_eq!(memory.details["rss"], 2);
    }

    #[test]
    fn version_2_has_its_numbers_elsewhere() {
        let group = group(&[
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "0\n"),
            ("memory.events", "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\n"),
            (
                "memory.stat",
                "anon 100\nfile 200\nkernel 30\ninactive_file 40\n",
            ),
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 6\n",
            ),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("pids.events", "max 8\n"),
            (
                "io.stat",
                "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=0 wbytes=0\n7:0\n",
            ),
            (
                "memory.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=5\n",
            ),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.max", "4194304\n"),
            ("hugetlb.2MB.events", "max 1\n"),
            ("hugetlb.2MB.rsvd.current", "9\n"),
        ]);
        let files = Files(group.path());
        let memory = files.memory_v2().unwrap().unwrap();
        assert_eq!(
            (memory.rss_bytes, memory.cache_bytes, memory.kernel_bytes),
            (100, 200, Some(30))
        );
        assert_eq!(
            (memory.limit_bytes, memory.swap_limit_bytes),
            (None, Some(0))
        );
        assert_eq!((memory.limit_hits, memory.oom_kills), (7, 1));
        let cpu = files.cpu_v2().unwrap().unwrap();
        assert_eq!(
            (cpu.usage_ns, cpu.user_ns, cpu.system_ns),
            (5000, 3000, 2000)
        );
        assert_eq!(
            (
                cpu.throttling.throttled_periods,
                cpu.throttling.throttled_ns
            ),
            (4, 6000)
        );
        let pids = files.pids().unwrap().unwrap();
        assert_eq!((pids.current, pids.limit, pids.refused), (3, None, 8));
        let io = files.io_v2().unwrap();
        assert_eq!(io.len(), 1, "unused devices are left out");
        assert_eq!((io["8:0"].written_bytes, io["8:0"].discards), (2, 6));
        let pressure = files.pressures().unwrap().memory.unwrap();
        assert_eq!(
            (pressure.some.last_10_s_percent, pressure.full.total_us),
            (1.5, 5)
        );
        let pages = files.huge_pages(Version::V2).unwrap();
        assert_eq!(pages.keys().collect::<Vec<_>>(), ["2MB"]);
        assert_eq!(
            (pages["2MB"].limit_bytes, pages["2MB"].limit_hits),
            (Some(4 << 20), 1)
        );
    }

    #[test]
    fn io_of_version_1_is_summed_from_lines() {
        let group = group(&[
            (
                "blkio.throttle.io_service_bytes",
                "8:0 Read 512\n8:0 Write 1024\n8:0 Sync 5\n8:0 Total 1536\nTotal 1536\n",
            ),
            (
                "blkio.throttle.io_serviced",
                "8:0 Read 1\n8:0 Write 2\n7:0 Read 0\nTotal 3\n",
            ),
        ]);
        let io = Files(group.path()).io_v1().unwrap();
        assert_eq!(io.len(), 1);
        let want = IoStats {
            read_bytes: 512,
            written_bytes: 1024,
            reads: 1,
            writes: 2,
            ..IoStats::default()
        };
        assert_eq!(io["8:0"], want);
    }

    #[test]
    fn what_is_missing_is_not_counted() {
        let group = group(&[]);
        let files = Files(group.path());
        assert_eq!(files.memory_v1().unwrap(), None);
        assert_eq!(files.pids().unwrap(), None);
        assert_eq!(files.pressures().unwrap(), Pressures::default());
        let json = serde_json::to_string(&Stats::default()).unwrap();
        assert_eq!(
            serde_json::from_str::<Stats>(&json).unwrap(),
            Stats::default()
        );
    }
}
