//! Resources as values for the files of cgroup version 2.
//!
//! # References
//! Kernel `Documentation/admin-guide/cgroup-v2.rst`.

use oci_spec::runtime::{LinuxResources, LinuxThrottleDevice};

use super::setting::Setting;
use super::v1::{self, Swap};
use crate::{Error, ErrorKind, Result};

pub(super) fn memory(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(memory) = resources.memory() else {
        return Ok(Vec::new());
    };
    refuse("memory.kernel", memory.kernel().is_some_and(|it| it != 0))?;
    refuse(
        "memory.kernelTCP",
        memory.kernel_tcp().is_some_and(|it| it != 0),
    )?;
    refuse(
        "memory.swappiness",
        memory.swappiness().is_some_and(|it| it != v1::UNSET),
    )?;
    refuse(
        "memory.disableOOMKiller",
        memory.disable_oom_killer() == Some(true),
    )?;
    let mut settings = Vec::new();
    let limit = memory.limit().unwrap_or(0);
    if limit != 0 {
        settings.push(Setting::new("memory.max", or_max(limit)));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        settings.push(Setting::new("memory.low", or_max(low)));
    }
    let swap = |value| Setting::new(v1::SWAP_MAX, value);
    match v1::swap(memory)? {
        Some(Swap::Twice(total)) => settings.push(swap((total - limit).to_string()).or_skip()),
        Some(Swap::Total(total)) => settings.push(swap((total - limit).to_string())),
        Some(Swap::Unlimited) => settings.push(swap("max".to_owned()).or_skip()),
        None => {}
    }
    Ok(settings)
}

pub(super) fn cpu(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    let realtime = (cpu.realtime_period(), cpu.realtime_runtime());
    refuse("cpu.realtimePeriod", realtime.0.is_some_and(|it| it != 0))?;
    refuse("cpu.realtimeRuntime", realtime.1.is_some_and(|it| it != 0))?;
    let mut settings = Vec::new();
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        settings.push(Setting::new("cpu.weight", weight(shares)));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = or_max(quota.unwrap_or(-1));
        let value = period.map_or(quota.clone(), |period| format!("{quota} {period}"));
        settings.push(Setting::new("cpu.max", value));
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0) {
        settings.push(Setting::new("cpu.max.burst", burst));
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        settings.push(Setting::new("cpu.idle", idle));
    }
    Ok(settings)
}

pub(super) fn block_io(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(io) = resources.block_io() else {
        return Ok(Vec::new());
    };
    let weights = v1::Weights::of(io)?;
    let leaf = weights.leaf.is_some() || !weights.leaf_devices.is_empty();
    refuse("blockIO.leafWeight", leaf)?;
    let of_all = weights.all.map(|weight| (String::new(), weight));
    let of_devices = weights
        .devices
        .into_iter()
        .map(|(device, weight)| (device + " ", weight));
    let mut settings = Vec::new();
    for (device, weight) in of_all.into_iter().chain(of_devices) {
        let value = format!("{device}{}", v1::scaled_weight(weight));
        let plain = Setting::new("io.weight", &value);
        settings.push(Setting::new("io.bfq.weight", value).or(plain));
    }
    for (key, limits) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        let line = |it: &LinuxThrottleDevice| {
            Setting::new(
                "io.max",
                format_args!("{}:{} {key}={}", it.major(), it.minor(), it.rate()),
            )
        };
        settings.extend(limits.iter().flatten().map(line));
    }
    Ok(settings)
}

pub(super) fn huge_pages(resources: &LinuxResources) -> Result<Vec<Setting>> {
    v1::page_limits(resources, "max", or_max)
}

/// The weight for shares, on a curve through the least, default and greatest values of both: 2 and 1,
/// 1024 and 100, 262144 and 10000.
///
/// It is what runc since 1.3.2, crun and youki compute. Before, the line through both ends was usual,
/// which made the default of one a third of the default of the other. A line through the defaults would
/// keep every ratio, but gives containers of several runtimes on one host different weights.
fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        // The logarithm is at most 18, so the power is at most 10000.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "from 1 to 10000"
        )]
        3..262_144 => {
            let log = (shares as f64).log2();
            10_f64
                .powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0)
                .ceil() as u64
        }
        _ => 10_000,
    }
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn refuse(field: &str, asked: bool) -> Result<()> {
    if asked {
        let what = format!("limit linux.resources.{field}, which cgroup version 2 does not have");
        return Err(Error::new(
            ErrorKind::Unsupported,
            "ControllerUnavailable",
            what,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(part: fn(&LinuxResources) -> Result<Vec<Setting>>, resources: &str) -> String {
        let settings = part(&serde_json::from_str(resources).unwrap()).unwrap();
        let lines = settings
            .iter()
            .map(|it| format!("{}={}", it.file, it.value));
        lines.collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn swap_is_counted_without_memory() {
        for (json, want) in [
            (r#"{"limit":200}"#, "memory.max=200; memory.swap.max=200"),
            (
                r#"{"limit":200,"swap":300}"#,
                "memory.max=200; memory.swap.max=100",
            ),
            (
                r#"{"limit":200,"swap":200}"#,
                "memory.max=200; memory.swap.max=0",
            ),
            (
                r#"{"limit":200,"swap":-1}"#,
                "memory.max=200; memory.swap.max=max",
            ),
            (r#"{"limit":-1}"#, "memory.max=max; memory.swap.max=max"),
            (r#"{"reservation":100}"#, "memory.low=100"),
        ] {
            assert_eq!(
                lines(memory, &format!(r#"{{"memory":{json}}}"#)),
                want,
                "{json}"
            );
        }
    }

    #[test]
    fn shares_become_weights_as_runc_computes_them() {
        for (shares, want) in [
            (1, 1),
            (2, 1),
            (100, 17),
            (512, 59),
            (1024, 100),
            (2000, 170),
            (2048, 174),
            (22_000, 1204),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), want, "{shares}");
        }
    }

    #[test]
    fn quota_and_period_share_a_file() {
        for (json, want) in [
            (r#"{"quota":50000,"period":100000}"#, "cpu.max=50000 100000"),
            (r#"{"quota":50000}"#, "cpu.max=50000"),
            (r#"{"period":50000}"#, "cpu.max=max 50000"),
            (r#"{"quota":-1,"period":50000}"#, "cpu.max=max 50000"),
            (r#"{"shares":2048}"#, "cpu.weight=174"),
        ] {
            assert_eq!(lines(cpu, &format!(r#"{{"cpu":{json}}}"#)), want, "{json}");
        }
    }

    #[test]
    fn block_io_is_weighed_and_throttled() {
        let json = r#"{"blockIO":{"weight":500,
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":10}]}}"#;
        assert_eq!(
            lines(block_io, json),
            "io.bfq.weight=100; io.max=8:0 wiops=10"
        );
    }

    #[test]
    fn what_version_2_lacks_is_refused_by_name() {
        type Part = fn(&LinuxResources) -> Result<Vec<Setting>>;
        let parts: [(Part, &str, &str); 3] = [
            (
                memory,
                r#"{"memory":{"swappiness":3}}"#,
                "memory.swappiness",
            ),
            (
                memory,
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "memory.disableOOMKiller",
            ),
            (
                cpu,
                r#"{"cpu":{"realtimeRuntime":3}}"#,
                "cpu.realtimeRuntime",
            ),
        ];
        for (part, json, field) in parts {
            let error = part(&serde_json::from_str(json).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
