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
    refuse("memory.swappiness", memory.swappiness().is_some())?;
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
    let swap = |value| Setting::new("memory.swap.max", value);
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
    let mut settings = Vec::new();
    if let Some(weight) = v1::checked_weight(io)? {
        let weight = v1::scaled_weight(weight);
        let plain = Setting::new("io.weight", weight);
        settings.push(Setting::new("io.bfq.weight", weight).or(plain));
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
    let limits = resources.hugepage_limits().iter().flatten();
    limits
        .map(|it| {
            Ok(Setting::new(
                v1::page_file(it.page_size(), "max")?,
                or_max(it.limit()),
            ))
        })
        .collect()
}

/// Weights as the kernel's scheduler relates them: 100 is what 1024 shares are, so that ratios stay.
fn weight(shares: u64) -> u64 {
    (shares.saturating_mul(100) / 1024).clamp(1, 10_000)
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
            (r#"{"limit":-1}"#, "memory.max=max"),
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
    fn shares_keep_their_ratio_as_weights() {
        for (shares, want) in [
            (2, 1),
            (512, 50),
            (1024, 100),
            (2048, 200),
            (262_144, 10_000),
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
            (r#"{"shares":2048}"#, "cpu.weight=200"),
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
