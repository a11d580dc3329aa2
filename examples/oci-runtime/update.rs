//! `update`.

use std::fs;
use std::io::{self, Read};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use container_engine::container_core::oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources,
};

use crate::Context;

#[derive(clap::Args)]
pub(crate) struct Update {
    /// The limits as in a spec, in a file or, with `-`, from standard input; nothing else counts then
    #[arg(short, long, value_name = "FILE")]
    resources: Option<String>,
    /// Share of block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Period of the processor quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// What may be saved up of the quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_burst: Option<u64>,
    /// Share of processor time
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,
    /// Period of the realtime quota, in microseconds
    #[arg(long, value_name = "TIME")]
    cpu_rt_period: Option<u64>,
    /// Realtime in each period, in microseconds
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors, as in 0-2,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// 1: runs only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,
    /// Limit of memory, in bytes or with a unit; -1: none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory that is left alone while there is enough
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Limit of memory and swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    kernel_memory: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true)]
    kernel_memory_tcp: Option<String>,
    /// How many processes and threads there may be
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Not supported
    #[arg(long, hide = true)]
    l3_cache_schema: Option<String>,
    /// Not supported
    #[arg(long, hide = true)]
    mem_bw_schema: Option<String>,
    /// The container
    id: String,
}

impl Update {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        for (option, value) in [
            ("--l3-cache-schema", &self.l3_cache_schema),
            ("--mem-bw-schema", &self.mem_bw_schema),
        ] {
            if value.is_some() {
                bail!("{option} is not supported");
            }
        }
        if self.kernel_memory.is_some() || self.kernel_memory_tcp.is_some() {
            context.log.warn("kernel memory settings are ignored");
        }
        let mut resources = match self.resources.as_deref() {
            Some(source) => read(source)?,
            None => self.described()?,
        };
        // Devices are given at creation, and perhaps changed by others since.
        resources.set_devices(None);
        context.runtime.update(&self.id, &resources)?;
        Ok(ExitCode::SUCCESS)
    }

    fn described(&self) -> anyhow::Result<LinuxResources> {
        let mut cpu = LinuxCpu::default();
        cpu.set_period(self.cpu_period);
        cpu.set_quota(self.cpu_quota);
        cpu.set_burst(self.cpu_burst);
        cpu.set_shares(self.cpu_share);
        cpu.set_realtime_period(self.cpu_rt_period);
        cpu.set_realtime_runtime(self.cpu_rt_runtime);
        cpu.set_cpus(self.cpuset_cpus.clone());
        cpu.set_mems(self.cpuset_mems.clone());
        cpu.set_idle(self.cpu_idle);
        let mut memory = LinuxMemory::default();
        memory.set_limit(size(self.memory.as_deref())?);
        memory.set_reservation(size(self.memory_reservation.as_deref())?);
        memory.set_swap(size(self.memory_swap.as_deref())?);
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources.set_cpu(Some(cpu));
        resources.set_memory(Some(memory));
        if self.blkio_weight.is_some() {
            let mut block = LinuxBlockIo::default();
            block.set_weight(self.blkio_weight);
            resources.set_block_io(Some(block));
        }
        if let Some(limit) = self.pids_limit {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        Ok(resources)
    }
}

fn read(source: &str) -> anyhow::Result<LinuxResources> {
    let mut text = Vec::new();
    if source == "-" {
        io::stdin().read_to_end(&mut text).context("read limits")?;
    } else {
        text = fs::read(source).with_context(|| format!("read {source:?}"))?;
    }
    serde_json::from_slice(&text).context("parse limits")
}

/// A number of bytes, with a unit of 1024 to some power behind it; or -1.
fn size(text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let shift = match lower[digits.len()..]
        .trim()
        .trim_end_matches("ib")
        .trim_end_matches('b')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => bail!("{text:?} is not a size"),
    };
    let number: i64 = digits
        .parse()
        .with_context(|| format!("{text:?} is not a size"))?;
    let bytes = number.checked_mul(1 << shift);
    bytes
        .with_context(|| format!("{text:?} is too large"))
        .map(Some)
}
