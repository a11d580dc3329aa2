//! Attributes of the process that neither its account nor its files make: scheduling, personality,
//! memory policy, security labels.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality,
    LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType,
    MemoryPolicyModeType, Process, Scheduler,
};

use super::{Compiler, c_string, unsupported};
use crate::plan::step::{SecurityModule, Step};
use crate::sys::SchedAttr;
use crate::{Error, ErrorKind, Result, rlimit};

impl Compiler<'_> {
    /// What has to be set while the process is still privileged.
    pub(super) fn set_attributes(&mut self, process: &Process) -> Result<()> {
        for limit in rlimit::checked(process.rlimits().as_deref().unwrap_or_default())? {
            let (resource, soft, hard) = limit;
            self.steps.push(Step::SetLimit {
                resource,
                soft,
                hard,
            });
        }
        if let Some(scheduler) = process.scheduler() {
            self.steps.push(Step::SetScheduler(schedule(scheduler)?));
        }
        if let Some(priority) = process.io_priority() {
            self.steps.push(Step::SetIoPriority(io_priority(priority)?));
        }
        self.label(process)
    }

    /// What concerns the first process of a container only: it is inherited from there.
    pub(super) fn set_execution_domain(&mut self, linux: &Linux) -> Result<()> {
        if let Some(personality) = linux.personality() {
            self.steps
                .push(Step::SetPersonality(execution_domain(personality)?));
        }
        if let Some(policy) = linux.memory_policy() {
            self.steps.push(memory_policy(policy)?);
        }
        Ok(())
    }

    fn label(&mut self, process: &Process) -> Result<()> {
        let features = self.options.features;
        for (field, module, there, label) in [
            (
                "process.apparmorProfile",
                SecurityModule::AppArmor,
                features.apparmor,
                process.apparmor_profile(),
            ),
            (
                "process.selinuxLabel",
                SecurityModule::Selinux,
                features.selinux,
                process.selinux_label(),
            ),
        ] {
            let Some(label) = label.as_deref().filter(|label| !label.is_empty()) else {
                continue;
            };
            if !there {
                let what =
                    format!("{field} is {label:?}, but {module} is not enabled on this host");
                let code = "SecurityModuleUnavailable";
                return Err(Error::new(ErrorKind::Unsupported, code, what));
            }
            let label = c_string(field, label)?;
            self.steps.push(Step::SetExecLabel { module, label });
        }
        Ok(())
    }
}

/// The processors of a process that joins a container: those before it is in the container's cgroups,
/// and those from then on.
pub(super) fn affinity(process: &Process) -> Result<[Option<Vec<u64>>; 2]> {
    let Some(affinity) = process.exec_cpu_affinity() else {
        return Ok([None, None]);
    };
    let read = |field, list: &Option<String>| {
        let list = list.as_deref().filter(|list| !list.is_empty());
        list.map(|list| number_set(field, list)).transpose()
    };
    Ok([
        read("process.execCPUAffinity.initial", affinity.initial())?,
        read(
            "process.execCPUAffinity.final",
            affinity.cpu_affinity_final(),
        )?,
    ])
}

fn schedule(scheduler: &Scheduler) -> Result<SchedAttr> {
    // `SCHED_*` of `linux/sched.h`.
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        // Reserved by the kernel and never built.
        LinuxSchedulerPolicy::SchedIso => {
            return Err(unsupported("process.scheduler.policy SCHED_ISO"));
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let priority = scheduler.priority().unwrap_or(0);
    let priority = u32::try_from(priority).map_err(|_| {
        let what = format!("process.scheduler.priority {priority} is negative");
        Error::invalid("InvalidSpec", what)
    })?;
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        let what = format!("process.scheduler.nice {nice} is not one of -20 to 19");
        return Err(Error::invalid("InvalidSpec", what));
    }
    Ok(SchedAttr {
        size: 56,
        policy,
        flags: scheduler.flags().iter().flatten().map(flag).sum(),
        nice,
        priority,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        util_min: 0,
        util_max: 0,
    })
}

/// Class and priority as `IOPRIO_PRIO_VALUE` of `linux/ioprio.h` joins them.
fn io_priority(priority: &LinuxIOPriority) -> Result<u32> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority()).ok();
    let level = level.filter(|level| *level < 8).ok_or_else(|| {
        let what = format!(
            "process.ioPriority.priority {} is not one of 0 to 7",
            priority.priority()
        );
        Error::invalid("InvalidSpec", what)
    })?;
    Ok(class << 13 | level)
}

/// `PER_*` of `linux/personality.h`.
fn execution_domain(personality: &LinuxPersonality) -> Result<u32> {
    let flags = personality.flags().as_deref().unwrap_or_default();
    if !flags.is_empty() {
        return Err(unsupported(&format!("linux.personality.flags {flags:?}")));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// `MPOL_*` of `linux/mempolicy.h`.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Step> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1_u32 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags: Vec<_> = policy.flags().iter().flatten().map(flag).collect();
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    Ok(Step::SetMemoryPolicy {
        mode: flags.into_iter().fold(mode, |mode, flag| mode | flag),
        nodes: number_set("linux.memoryPolicy.nodes", nodes)?,
    })
}

/// The numbers of a list such as `0-3,7`, as bits of words.
pub(super) fn number_set(field: &str, list: &str) -> Result<Vec<u64>> {
    let invalid = |part: &str| {
        let what = format!("{field}: {part:?} is no number or range below {MAX_NUMBERS}");
        Error::invalid("InvalidSpec", what)
    };
    let mut words = Vec::new();
    for part in list.split(',').map(str::trim) {
        if part.is_empty() && list.trim().is_empty() {
            break;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let (Some(first), Some(last)) = (number(first), number(last)) else {
            return Err(invalid(part));
        };
        if first > last || last >= MAX_NUMBERS {
            return Err(invalid(part));
        }
        if words.len() <= last / 64 {
            words.resize(last / 64 + 1, 0);
        }
        for number in first..=last {
            words[number / 64] |= 1 << (number % 64);
        }
    }
    Ok(words)
}

/// More processors or nodes than any kernel is built for.
const MAX_NUMBERS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read_as_bits() {
        for (list, want) in [
            ("", vec![]),
            ("0", vec![1]),
            ("0-3,7", vec![0x8f]),
            (" 1 , 64-65", vec![2, 3]),
            ("63", vec![1 << 63]),
        ] {
            assert_eq!(number_set("nodes", list).unwrap(), want, "{list:?}");
        }
        for list in [",", "1,", "a", "3-1", "-1", "1-", "8192", "0-99999999999"] {
            assert_eq!(
                number_set("nodes", list).unwrap_err().code(),
                "InvalidSpec",
                "{list:?}"
            );
        }
    }
}
