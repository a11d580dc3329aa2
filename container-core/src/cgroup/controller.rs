//! The controllers by name.

use std::fmt;

use super::Versions;
use super::layout::{Layout, Version};
use crate::{Error, ErrorKind, Result};

/// What can be limited or counted of a group: a *controller*, or *subsystem* as version 1 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Controller {
    /// Block devices: `blkio`, `io` in version 2.
    BlockIo,
    /// Shares and quotas of processor time.
    Cpu,
    /// Counts processor time. Part of `cpu` in version 2.
    CpuAccounting,
    /// Which processors and memory nodes are used.
    CpuSet,
    /// Which devices may be opened. In version 2 a program that the kernel asks.
    Devices,
    /// Stops and continues processes. Part of every group in version 2.
    Freezer,
    /// Huge pages.
    HugePages,
    /// Memory, swap and kernel memory.
    Memory,
    /// Countable resources of the hardware, such as keys for encrypted memory.
    Misc,
    /// Marks packets by class: `net_cls`, version 1 only.
    NetClass,
    /// Priority of packets by interface: `net_prio`, version 1 only.
    NetPriority,
    /// Gave a group to each new namespace. No kernel since Linux 3.0 has it.
    Ns,
    /// Performance counters of a group, see [`Cgroup::perf_event_group`](super::Cgroup::perf_event_group).
    PerfEvent,
    /// How many processes there may be.
    Pids,
    /// Remote direct memory access.
    Rdma,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::BlockIo,
        Self::Cpu,
        Self::CpuAccounting,
        Self::CpuSet,
        Self::Devices,
        Self::Freezer,
        Self::HugePages,
        Self::Memory,
        Self::Misc,
        Self::NetClass,
        Self::NetPriority,
        Self::Ns,
        Self::PerfEvent,
        Self::Pids,
        Self::Rdma,
    ];

    /// Its name in version 1.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BlockIo => "blkio",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::HugePages => "hugetlb",
            Self::Memory => "memory",
            Self::Misc => "misc",
            Self::NetClass => "net_cls",
            Self::NetPriority => "net_prio",
            Self::Ns => "ns",
            Self::PerfEvent => "perf_event",
            Self::Pids => "pids",
            Self::Rdma => "rdma",
        }
    }

    /// The version in which this host has it: [`Versions::V1`] or [`Versions::V2`].
    ///
    /// # Errors
    /// `Unsupported` (`ControllerUnavailable`) with the reason if it has it in neither; `Os` if
    /// `/proc` cannot be read.
    pub fn version(self) -> Result<Versions> {
        let layout = Layout::host()?;
        if layout.with(Version::V1, self.name()).is_some() {
            return Ok(Versions::V1);
        }
        let there = match self {
            // Version 2 has these in every group, and lists them nowhere.
            Self::CpuAccounting | Self::Devices | Self::Freezer | Self::PerfEvent => {
                layout.has(Version::V2)
            }
            Self::BlockIo => layout.with(Version::V2, "io").is_some(),
            _ => layout.with(Version::V2, self.name()).is_some(),
        };
        if there {
            return Ok(Versions::V2);
        }
        let why = match self {
            Self::Ns => "Linux has had none since 3.0, use namespaces of the cgroup kind",
            Self::NetClass | Self::NetPriority if layout.has(Version::V2) => {
                "version 2 has none, match the group in nftables (socket cgroupv2)"
            }
            _ => "it is not mounted, or not in this kernel",
        };
        let what = format!("use cgroup controller {self}: {why}");
        Err(Error::new(
            ErrorKind::Unsupported,
            "ControllerUnavailable",
            what,
        ))
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
