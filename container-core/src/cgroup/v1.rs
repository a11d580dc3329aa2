//! Resources as values for the files of cgroup version 1.
//!
//! # References
//! Kernel `Documentation/admin-guide/cgroup-v1/`, `Documentation/scheduler/sched-bwc.rst`.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxInterfacePriority, LinuxMemory,
    LinuxResources, LinuxThrottleDevice,
};

use super::setting::Setting;
use crate::{Error, Result};

pub(super) const MEMORY_AND_SWAP: &str = "memory.memsw.limit_in_bytes";

/// The file of version 2 that limits swap alone.
pub(super) const SWAP_MAX: &str = "memory.swap.max";

/// What memory and swap together are limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swap {
    /// Nobody asked: twice the memory, where swap is accounted.
    Twice(i64),
    Unlimited,
    Total(i64),
}

/// The limit of memory with swap; `None` where nothing is to be set.
///
/// # Errors
/// `SwapBelowMemory`; `InvalidLimit` for swap without memory.
pub(super) fn swap(memory: &LinuxMemory) -> Result<Option<Swap>> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    match (limit, memory.swap().filter(|swap| *swap != 0)) {
        (Some(limit), None) if limit > 0 => Ok(Some(Swap::Twice(limit.saturating_mul(2)))),
        // All memory without swap would be less than it seems.
        (Some(_), None) => Ok(Some(Swap::Unlimited)),
        (None, None) => Ok(None),
        (_, Some(swap)) if swap < 0 => Ok(Some(Swap::Unlimited)),
        (Some(limit), Some(swap)) if limit > swap => {
            let what =
                format!("limit memory to {limit} and memory with swap to {swap}, which is less");
            Err(Error::invalid("SwapBelowMemory", what))
        }
        (Some(limit), Some(swap)) if limit > 0 => Ok(Some(Swap::Total(swap))),
        (_, Some(swap)) => {
            let what = format!("limit memory with swap to {swap} without a limit of memory");
            Err(Error::invalid("InvalidLimit", what))
        }
    }
}

pub(super) fn memory(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(memory) = resources.memory() else {
        return Ok(Vec::new());
    };
    let mut settings = Vec::new();
    let mut set = |file: &str, value: Option<i64>| {
        settings.extend(
            value
                .filter(|value| *value != 0)
                .map(|value| Setting::new(file, value)),
        );
    };
    // Memory before memory with swap, which may never be the lower one.
    set("memory.limit_in_bytes", memory.limit());
    set("memory.soft_limit_in_bytes", memory.reservation());
    set("memory.kmem.limit_in_bytes", memory.kernel());
    set("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp());
    let with_swap = |value| Setting::new(MEMORY_AND_SWAP, value);
    match swap(memory)? {
        Some(Swap::Twice(total)) => settings.push(with_swap(total).or_skip()),
        Some(Swap::Total(total)) => settings.push(with_swap(total)),
        // Without the file nothing limits it.
        Some(Swap::Unlimited) => settings.push(with_swap(-1).or_skip()),
        None => {}
    }
    let swappiness = memory.swappiness().filter(|value| *value != UNSET);
    settings.extend(swappiness.map(|value| Setting::new("memory.swappiness", value)));
    if memory.disable_oom_killer() == Some(true) {
        settings.push(Setting::new("memory.oom_control", 1));
    }
    if memory.use_hierarchy() == Some(true) {
        settings.push(Setting::new("memory.use_hierarchy", 1));
    }
    Ok(settings)
}

pub(super) fn cpu(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    let mut settings = Vec::new();
    let mut set = |file: &str, value: Option<i128>| {
        settings.extend(
            value
                .filter(|value| *value != 0)
                .map(|value| Setting::new(file, value)),
        );
    };
    set("cpu.shares", cpu.shares().map(i128::from));
    // The quota is checked against the period, the burst against the quota.
    set("cpu.cfs_period_us", cpu.period().map(i128::from));
    set("cpu.cfs_quota_us", cpu.quota().map(i128::from));
    set("cpu.cfs_burst_us", cpu.burst().map(i128::from));
    set("cpu.rt_period_us", cpu.realtime_period().map(i128::from));
    set("cpu.rt_runtime_us", cpu.realtime_runtime().map(i128::from));
    set("cpu.idle", cpu.idle().map(i128::from));
    Ok(settings)
}

/// The same in both versions.
pub(super) fn cpuset(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    let lists = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
    let mut settings = Vec::new();
    for (file, list) in lists {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else {
            continue;
        };
        if !is_list(list) {
            let what = format!("limit {file} to {list:?}, which is no list such as 0-2,7");
            return Err(Error::invalid("InvalidLimit", what));
        }
        settings.push(Setting::new(file, list));
    }
    Ok(settings)
}

/// The same in both versions.
pub(super) fn pids(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let limit = resources.pids().map_or(0, |pids| pids.limit());
    Ok(match limit {
        0 => Vec::new(),
        1.. => vec![Setting::new("pids.max", limit)],
        _ => vec![Setting::new("pids.max", "max")],
    })
}

pub(super) fn block_io(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let Some(io) = resources.block_io() else {
        return Ok(Vec::new());
    };
    let weights = Weights::of(io)?;
    let mut settings = Vec::new();
    if let Some(weight) = weights.all {
        let bfq = Setting::new("blkio.bfq.weight", scaled_weight(weight));
        settings.push(Setting::new("blkio.weight", weight).or(bfq));
    }
    for (device, weight) in weights.devices {
        let bfq = format!("{device} {}", scaled_weight(weight));
        let bfq = Setting::new("blkio.bfq.weight_device", bfq);
        settings.push(Setting::new("blkio.weight_device", format!("{device} {weight}")).or(bfq));
    }
    // Only schedulers before Linux 5.0 weigh a group against the groups in it.
    settings.extend(
        weights
            .leaf
            .map(|weight| Setting::new("blkio.leaf_weight", weight)),
    );
    for (device, weight) in weights.leaf_devices {
        settings.push(Setting::new(
            "blkio.leaf_weight_device",
            format!("{device} {weight}"),
        ));
    }
    for (file, limits) in [
        (
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ] {
        let line = |it: &LinuxThrottleDevice| {
            Setting::new(
                file,
                format_args!("{}:{} {}", it.major(), it.minor(), it.rate()),
            )
        };
        settings.extend(limits.iter().flatten().map(line));
    }
    Ok(settings)
}

/// The weights that are asked for, from 10 to 1000; devices as `major:minor`.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pub(super) all: Option<u16>,
    pub(super) devices: Vec<(String, u16)>,
    pub(super) leaf: Option<u16>,
    pub(super) leaf_devices: Vec<(String, u16)>,
}

impl Weights {
    /// # Errors
    /// `InvalidLimit` outside of 10 to 1000.
    pub(super) fn of(io: &LinuxBlockIo) -> Result<Self> {
        let checked = |weight: Option<u16>| match weight {
            None | Some(0) => Ok(None),
            Some(weight @ 10..=1000) => Ok(Some(weight)),
            Some(weight) => {
                let what =
                    format!("give block I/O the weight {weight}, which is not in 10 to 1000");
                Err(Error::invalid("InvalidLimit", what))
            }
        };
        let mut weights = Self {
            all: checked(io.weight())?,
            leaf: checked(io.leaf_weight())?,
            ..Self::default()
        };
        for it in io.weight_device().iter().flatten() {
            let device = || format!("{}:{}", it.major(), it.minor());
            weights
                .devices
                .extend(checked(it.weight())?.map(|weight| (device(), weight)));
            weights
                .leaf_devices
                .extend(checked(it.leaf_weight())?.map(|weight| (device(), weight)));
        }
        Ok(weights)
    }
}

/// A weight on the scale whose default is 100, from one on the scale whose default is 500.
pub(super) fn scaled_weight(weight: u16) -> u16 {
    (weight / 5).max(1)
}

pub(super) fn huge_pages(resources: &LinuxResources) -> Result<Vec<Setting>> {
    page_limits(resources, "limit_in_bytes", |limit| limit.to_string())
}

/// The limits of pages that are used, and of those that are reserved where the kernel limits them (5.7).
pub(super) fn page_limits(
    resources: &LinuxResources,
    file: &str,
    value: fn(i64) -> String,
) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for it in resources.hugepage_limits().iter().flatten() {
        let value = value(it.limit());
        settings.push(Setting::new(page_file(it.page_size(), file)?, &value));
        let reserved = page_file(it.page_size(), &format!("rsvd.{file}"))?;
        settings.push(Setting::new(reserved, &value).or_skip());
    }
    Ok(settings)
}

/// The file of one page size, such as `hugetlb.2MB.max`.
pub(super) fn page_file(size: &str, what: &str) -> Result<String> {
    let number = size
        .trim_end_matches("KB")
        .trim_end_matches("MB")
        .trim_end_matches("GB");
    let plain = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || number.len() == size.len() {
        let what = format!("limit huge pages of size {size:?}");
        return Err(Error::invalid("InvalidLimit", what));
    }
    Ok(format!("hugetlb.{size}.{what}"))
}

pub(super) fn network_class(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let class = resources
        .network()
        .as_ref()
        .and_then(|network| network.class_id());
    Ok(class
        .map(|class| Setting::new("net_cls.classid", class))
        .into_iter()
        .collect())
}

pub(super) fn network_priorities(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let priorities = resources
        .network()
        .as_ref()
        .and_then(|network| network.priorities().as_ref());
    let line = |it: &LinuxInterfacePriority| {
        Setting::new(
            "net_prio.ifpriomap",
            format_args!("{} {}", it.name(), it.priority()),
        )
    };
    Ok(priorities.into_iter().flatten().map(line).collect())
}

/// The same in both versions.
pub(super) fn rdma(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let devices: BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    let mut settings = Vec::new();
    for (device, limits) in devices {
        if device.is_empty() || device.contains(char::is_whitespace) {
            let what = format!("limit device {device:?} of linux.resources.rdma");
            return Err(Error::invalid("InvalidLimit", what));
        }
        let handles = limits
            .hca_handles()
            .map(|number| format!(" hca_handle={number}"));
        let objects = limits
            .hca_objects()
            .map(|number| format!(" hca_object={number}"));
        let asked: String = handles.into_iter().chain(objects).collect();
        if !asked.is_empty() {
            settings.push(Setting::new("rdma.max", format_args!("{device}{asked}")));
        }
    }
    Ok(settings)
}

pub(super) fn devices(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Setting>> {
    let setting = |rule: &LinuxDeviceCgroup| Ok(device_setting(rule.allow(), device_rule(rule)?));
    rules.iter().map(setting).collect()
}

/// What leads from the rules in `devices.list` to `rules`, so that what both allow is never denied.
pub(super) fn device_changes(rules: &[LinuxDeviceCgroup], list: &str) -> Result<Vec<Setting>> {
    let wanted = devices(rules)?;
    let all = |allow| device_setting(allow, ALL_DEVICES.to_owned());
    let is_all = |it: &Setting| *it == all(true) || *it == all(false);
    let start = wanted.iter().rposition(is_all);
    let (first, exceptions) = match start {
        Some(start) => (wanted[start].clone(), &wanted[start + 1..]),
        None => (all(true), wanted.as_slice()),
    };
    let only_allows = first == all(false) && exceptions.iter().all(|it| it.file == ALLOW);
    if !only_allows || list.lines().any(|line| line == ALL_DEVICES) {
        return Ok([first]
            .into_iter()
            .chain(exceptions.iter().cloned())
            .collect());
    }
    // Both are lists of what is allowed: add to the old one first, then take away.
    let mut stay: BTreeMap<&str, String> = BTreeMap::new();
    for rule in exceptions {
        if let Some((device, access)) = rule.value.rsplit_once(' ') {
            stay.entry(device).or_default().push_str(access);
        }
    }
    let mut changes = exceptions.to_vec();
    for (device, access) in list.lines().filter_map(|line| line.rsplit_once(' ')) {
        let stays = stay.get(device).map_or("", String::as_str);
        let goes: String = access.chars().filter(|it| !stays.contains(*it)).collect();
        if !goes.is_empty() {
            changes.push(device_setting(false, format!("{device} {goes}")));
        }
    }
    Ok(changes)
}

fn device_setting(allow: bool, rule: String) -> Setting {
    Setting::new(if allow { ALLOW } else { DENY }, rule)
}

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";
const ALL_DEVICES: &str = "a *:* rwm";

/// A rule as the files take it: kind, numbers, access.
fn device_rule(rule: &LinuxDeviceCgroup) -> Result<String> {
    let access = rule
        .access()
        .as_deref()
        .filter(|access| !access.is_empty())
        .unwrap_or("rwm");
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => "a",
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
        LinuxDeviceType::P => "p",
    };
    let number = |number: Option<i64>| match number {
        Some(number @ 0..) => number.to_string(),
        _ => "*".to_owned(),
    };
    let (major, minor) = (number(rule.major()), number(rule.minor()));
    let partial = kind == "a" && (major.as_str(), minor.as_str(), access.len()) != ("*", "*", 3);
    if kind == "p" || partial || !access.chars().all(|it| "rwm".contains(it)) {
        let what = format!("set device rule \"{kind} {major}:{minor} {access}\"");
        return Err(Error::invalid("InvalidDeviceRule", what));
    }
    Ok(format!("{kind} {major}:{minor} {access}"))
}

/// How Docker's and Podman's specs say that nothing is asked: -1.
pub(super) const UNSET: u64 = u64::MAX;

/// Whether `list` looks like `0-2,7`.
fn is_list(list: &str) -> bool {
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|_| !text.starts_with('+'));
    list.split(',').all(|range| match range.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(range),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings of `part` for resources in the form of the runtime spec.
    fn lines(
        part: fn(&LinuxResources) -> Result<Vec<Setting>>,
        resources: &str,
    ) -> Result<Vec<String>> {
        let settings = part(&serde_json::from_str(resources).unwrap())?;
        Ok(settings
            .iter()
            .map(|it| format!("{}={}", it.file, it.value))
            .collect())
    }

    fn code(part: fn(&LinuxResources) -> Result<Vec<Setting>>, resources: &str) -> &'static str {
        lines(part, resources).unwrap_err().code()
    }

    #[test]
    fn memory_and_swap_follow_docker() {
        let limit = "memory.limit_in_bytes";
        let total = "memory.memsw.limit_in_bytes";
        for (json, want) in [
            ("{}", vec![]),
            (r#"{"limit":0,"swap":0}"#, vec![]),
            (
                r#"{"limit":200}"#,
                vec![format!("{limit}=200"), format!("{total}=400")],
            ),
            (
                r#"{"limit":200,"swap":300}"#,
                vec![format!("{limit}=200"), format!("{total}=300")],
            ),
            (
                r#"{"limit":200,"swap":200}"#,
                vec![format!("{limit}=200"), format!("{total}=200")],
            ),
            (
                r#"{"limit":200,"swap":-1}"#,
                vec![format!("{limit}=200"), format!("{total}=-1")],
            ),
            (
                r#"{"limit":-1}"#,
                vec![format!("{limit}=-1"), format!("{total}=-1")],
            ),
            (
                r#"{"reservation":100}"#,
                vec!["memory.soft_limit_in_bytes=100".to_owned()],
            ),
            (
                r#"{"kernel":100}"#,
                vec!["memory.kmem.limit_in_bytes=100".to_owned()],
            ),
            (
                r#"{"disableOOMKiller":true}"#,
                vec!["memory.oom_control=1".to_owned()],
            ),
            (r#"{"disableOOMKiller":false}"#, vec![]),
            (
                r#"{"swappiness":0}"#,
                vec!["memory.swappiness=0".to_owned()],
            ),
            (r#"{"swappiness":18446744073709551615}"#, vec![]),
        ] {
            let got = lines(memory, &format!(r#"{{"memory":{json}}}"#)).unwrap();
            assert_eq!(got, want, "{json}");
        }
        assert_eq!(
            code(memory, r#"{"memory":{"limit":200,"swap":199}}"#),
            "SwapBelowMemory"
        );
        assert_eq!(code(memory, r#"{"memory":{"swap":199}}"#), "InvalidLimit");
        assert_eq!(
            code(memory, r#"{"memory":{"limit":-1,"swap":199}}"#),
            "InvalidLimit"
        );
    }

    #[test]
    fn only_asked_swap_needs_swap_accounting() {
        use super::super::setting::Absent;
        for (json, absent) in [
            (r#"{"memory":{"limit":200}}"#, Absent::Skip),
            (r#"{"memory":{"limit":200,"swap":-1}}"#, Absent::Skip),
            (r#"{"memory":{"limit":200,"swap":300}}"#, Absent::Fail),
        ] {
            let settings = memory(&serde_json::from_str(json).unwrap()).unwrap();
            assert_eq!(settings.last().unwrap().absent, absent, "{json}");
        }
    }

    #[test]
    fn processors_are_shared_limited_and_chosen() {
        let json =
            r#"{"cpu":{"shares":2048,"quota":50000,"period":100000,"cpus":"0-1,3","mems":"0"}}"#;
        let want = [
            "cpu.shares=2048",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
        ];
        assert_eq!(lines(cpu, json).unwrap(), want);
        assert_eq!(
            lines(cpuset, json).unwrap(),
            ["cpuset.cpus=0-1,3", "cpuset.mems=0"]
        );
        assert!(
            lines(cpu, r#"{"cpu":{"shares":0,"cpus":""}}"#)
                .unwrap()
                .is_empty()
        );
        for list in ["a", "0-", "-1", "0,,1", "+1", "0 1", "1-2-3", "99999999999"] {
            let json = format!(r#"{{"cpu":{{"cpus":"{list}"}}}}"#);
            assert_eq!(code(cpuset, &json), "InvalidLimit", "{list}");
        }
    }

    #[test]
    fn processes_are_counted() {
        for (limit, want) in [(0, ""), (64, "pids.max=64"), (-1, "pids.max=max")] {
            let got = lines(pids, &format!(r#"{{"pids":{{"limit":{limit}}}}}"#)).unwrap();
            assert_eq!(got.join(""), want);
        }
    }

    #[test]
    fn block_weights_are_from_10_to_1000() {
        let weight = |weight| format!(r#"{{"blockIO":{{"weight":{weight}}}}}"#);
        assert_eq!(lines(block_io, &weight(600)).unwrap(), ["blkio.weight=600"]);
        assert!(lines(block_io, &weight(0)).unwrap().is_empty());
        for wrong in [9, 1001] {
            assert_eq!(code(block_io, &weight(wrong)), "InvalidLimit");
        }
        for (asked, want) in [(10, 2), (300, 60), (500, 100), (600, 120), (1000, 200)] {
            assert_eq!(scaled_weight(asked), want);
        }
        let json = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":1024}]}}"#;
        assert_eq!(
            lines(block_io, json).unwrap(),
            ["blkio.throttle.read_bps_device=8:16 1024"]
        );
    }

    /// The rules of `resources`, as other limits have them.
    fn listed_devices(resources: &LinuxResources) -> Result<Vec<Setting>> {
        devices(resources.devices().as_ref().unwrap())
    }

    #[test]
    fn changed_device_rules_never_deny_what_stays() {
        let changes = |json: &str, list: &str| {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            let changes = device_changes(resources.devices().as_ref().unwrap(), list).unwrap();
            let lines = changes.iter().map(|it| format!("{}={}", it.file, it.value));
            lines.collect::<Vec<_>>()
        };
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"r"},
            {"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"}]}"#;
        let want = [
            "devices.allow=c 1:3 r",
            "devices.allow=c 1:5 rwm",
            "devices.deny=c 1:3 wm",
            "devices.deny=b 8:0 r",
        ];
        assert_eq!(changes(json, "c 1:3 rwm\nb 8:0 r\nc 1:5 rwm\n"), want);
        assert_eq!(changes(json, "a *:* rwm\n")[0], "devices.deny=a *:* rwm");
        let json = r#"{"devices":[{"allow":false,"type":"c","major":1,"minor":3}]}"#;
        let want = ["devices.allow=a *:* rwm", "devices.deny=c 1:3 rwm"];
        assert_eq!(changes(json, "c 1:3 rwm\n"), want);
    }

    #[test]
    fn device_rules_are_allowed_and_denied_in_order() {
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
            {"allow":true,"type":"c","major":136,"access":"rwm"},
            {"allow":true,"type":"b","major":-1,"minor":-1,"access":"m"}]}"#;
        let want = [
            "devices.deny=a *:* rwm",
            "devices.allow=c 1:3 rw",
            "devices.allow=c 136:* rwm",
            "devices.allow=b *:* m",
        ];
        assert_eq!(lines(listed_devices, json).unwrap(), want);
        for rule in [
            r#"{"allow":true,"type":"c","access":"rx"}"#,
            r#"{"allow":true,"type":"p"}"#,
            r#"{"allow":true,"type":"a","major":1}"#,
            r#"{"allow":false,"type":"a","access":"m"}"#,
        ] {
            assert_eq!(
                code(listed_devices, &format!(r#"{{"devices":[{rule}]}}"#)),
                "InvalidDeviceRule"
            );
        }
    }

    #[test]
    fn huge_pages_are_named_by_their_size() {
        let json =
            |size: &str| format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":9}}]}}"#);
        assert_eq!(
            lines(huge_pages, &json("2MB")).unwrap(),
            [
                "hugetlb.2MB.limit_in_bytes=9",
                "hugetlb.2MB.rsvd.limit_in_bytes=9"
            ]
        );
        for size in ["", "2", "MB", "../2MB", "2 MB", "2MBKB/"] {
            assert_eq!(code(huge_pages, &json(size)), "InvalidLimit", "{size}");
        }
    }
}
