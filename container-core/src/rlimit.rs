//! Resource limits: from the names of the runtime spec to the numbers of the kernel.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::process::Resource;

use crate::{Error, Result};

/// The number, soft and hard value of each limit, once they are found to be such that can be set.
///
/// # Errors
/// `InvalidLimit` where a soft limit is above the hard one, or a limit is there twice.
pub(crate) fn checked(limits: &[PosixRlimit]) -> Result<Vec<(i32, u64, u64)>> {
    let mut checked: Vec<(i32, u64, u64)> = Vec::with_capacity(limits.len());
    for limit in limits {
        let (soft, hard) = (limit.soft(), limit.hard());
        let invalid =
            |why: &str| Error::invalid("InvalidLimit", format!("limit {}: {why}", limit.typ()));
        if soft > hard {
            return Err(invalid(&format!(
                "soft limit {soft} is above hard limit {hard}"
            )));
        }
        let number = number(limit.typ());
        if checked.iter().any(|(known, ..)| *known == number) {
            return Err(invalid("it is set twice"));
        }
        checked.push((number, soft, hard));
    }
    Ok(checked)
}

/// The name of the limit `number`, as the kernel's headers write it.
pub(crate) fn name(number: i32) -> &'static str {
    LIMITS
        .iter()
        .find_map(|(_, resource, name)| (*resource as i32 == number).then_some(*name))
        .unwrap_or("an unknown resource")
}

fn number(kind: PosixRlimitType) -> i32 {
    LIMITS
        .iter()
        .find_map(|(known, resource, _)| (*known == kind).then_some(*resource as i32))
        .expect("the table holds every value of the enum")
}

const LIMITS: [(PosixRlimitType, Resource, &str); 16] = [
    (PosixRlimitType::RlimitCpu, Resource::Cpu, "RLIMIT_CPU"),
    (
        PosixRlimitType::RlimitFsize,
        Resource::Fsize,
        "RLIMIT_FSIZE",
    ),
    (PosixRlimitType::RlimitData, Resource::Data, "RLIMIT_DATA"),
    (
        PosixRlimitType::RlimitStack,
        Resource::Stack,
        "RLIMIT_STACK",
    ),
    (PosixRlimitType::RlimitCore, Resource::Core, "RLIMIT_CORE"),
    (PosixRlimitType::RlimitRss, Resource::Rss, "RLIMIT_RSS"),
    (
        PosixRlimitType::RlimitNproc,
        Resource::Nproc,
        "RLIMIT_NPROC",
    ),
    (
        PosixRlimitType::RlimitNofile,
        Resource::Nofile,
        "RLIMIT_NOFILE",
    ),
    (
        PosixRlimitType::RlimitMemlock,
        Resource::Memlock,
        "RLIMIT_MEMLOCK",
    ),
    (PosixRlimitType::RlimitAs, Resource::As, "RLIMIT_AS"),
    (
        PosixRlimitType::RlimitLocks,
        Resource::Locks,
        "RLIMIT_LOCKS",
    ),
    (
        PosixRlimitType::RlimitSigpending,
        Resource::Sigpending,
        "RLIMIT_SIGPENDING",
    ),
    (
        PosixRlimitType::RlimitMsgqueue,
        Resource::Msgqueue,
        "RLIMIT_MSGQUEUE",
    ),
    (PosixRlimitType::RlimitNice, Resource::Nice, "RLIMIT_NICE"),
    (
        PosixRlimitType::RlimitRtprio,
        Resource::Rtprio,
        "RLIMIT_RTPRIO",
    ),
    (
        PosixRlimitType::RlimitRttime,
        Resource::Rttime,
        "RLIMIT_RTTIME",
    ),
];

#[cfg(test)]
mod tests {
    use oci_spec::runtime::PosixRlimitBuilder;

    use super::*;

    fn limit(soft: u64, hard: u64) -> PosixRlimit {
        let limit = PosixRlimitBuilder::default().typ(PosixRlimitType::RlimitNofile);
        limit.soft(soft).hard(hard).build().unwrap()
    }

    #[test]
    fn numbers_and_names_belong_together() {
        for (kind, _, name) in LIMITS {
            assert_eq!(kind.to_string(), name);
            assert_eq!(super::name(number(kind)), name);
        }
        assert_eq!(number(PosixRlimitType::RlimitCpu), 0);
        assert_eq!(name(99), "an unknown resource");
    }

    #[test]
    fn limits_are_set_once_the_soft_one_below_the_hard_one() {
        let nofile = Resource::Nofile as i32;
        assert_eq!(checked(&[limit(10, 20)]).unwrap(), [(nofile, 10, 20)]);
        assert_eq!(
            checked(&[limit(u64::MAX, u64::MAX)]).unwrap(),
            [(nofile, u64::MAX, u64::MAX)]
        );
        for limits in [vec![limit(21, 20)], vec![limit(1, 2), limit(1, 2)]] {
            let error = checked(&limits).unwrap_err();
            assert_eq!(error.code(), "InvalidLimit");
            assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
        }
    }
}
