//! Capabilities: names, numbers, and sets of them as bit masks.
//!
//! In a mask bit *n* stands for capability number *n* of `linux/capability.h`.

use std::fmt;
use std::fs;
use std::sync::OnceLock;

use oci_spec::runtime::{Capabilities, Capability};

use crate::{Error, ErrorKind, Result};

/// The capabilities that a container has unless asked otherwise: Docker's fourteen.
///
/// # References
/// `capabilities(7)`; Docker's list is in its documentation of `docker run`, "Runtime privilege and
/// Linux capabilities".
pub const DEFAULT: u64 = bit(0) // CHOWN
    | bit(1) // DAC_OVERRIDE
    | bit(3) // FOWNER
    | bit(4) // FSETID
    | bit(5) // KILL
    | bit(6) // SETGID
    | bit(7) // SETUID
    | bit(8) // SETPCAP
    | bit(10) // NET_BIND_SERVICE
    | bit(13) // NET_RAW
    | bit(18) // SYS_CHROOT
    | bit(27) // MKNOD
    | bit(29) // AUDIT_WRITE
    | bit(31); // SETFCAP

/// Gives the number of a capability.
#[must_use]
pub fn number(capability: Capability) -> u32 {
    (0..)
        .zip(BY_NUMBER)
        .find_map(|(number, known)| (known == capability).then_some(number))
        .expect("the table holds every value of the enum")
}

/// Gives the mask of a set.
#[must_use]
pub fn mask(set: &Capabilities) -> u64 {
    set.iter()
        .fold(0, |mask, capability| mask | bit(number(*capability)))
}

/// Gives the set of a mask; bits without a name are left out.
#[must_use]
pub fn from_mask(mask: u64) -> Capabilities {
    in_mask(mask).collect()
}

/// Reads a name in any case, with or without `CAP_`.
///
/// # Errors
/// `UnknownCapability`.
pub fn parse(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    BY_NUMBER
        .into_iter()
        .find(|capability| capability.to_string() == short)
        .ok_or_else(|| Error::invalid("UnknownCapability", format!("read capability {name:?}")))
}

/// Gives the mask of the capabilities that the running kernel knows.
#[must_use]
pub fn known() -> u64 {
    static KNOWN: OnceLock<u64> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
        let last = last.ok().and_then(|text| text.trim().parse::<u32>().ok());
        up_to(last.unwrap_or(LAST_NAMED))
    })
}

/// Changes `base` as Docker's `CapAdd` and `CapDrop` do.
///
/// Without `ALL` in either list, what `drop` names goes and what `add` names comes, in this order.
/// `ALL` in `add` means everything that the kernel knows but what `drop` names; otherwise `ALL` in
/// `drop` means nothing but what `add` names.
///
/// # Errors
/// `UnknownCapability`: `InvalidInput` for a name that no kernel has, `Unsupported` for one that this
/// kernel lacks.
pub fn adjust(base: u64, add: &[impl AsRef<str>], drop: &[impl AsRef<str>]) -> Result<u64> {
    adjust_on(known(), base, add, drop)
}

/// Shows a mask as names; bits without a name as their number.
pub fn display(mask: u64) -> impl fmt::Display {
    Display(mask)
}

fn adjust_on(
    known: u64,
    base: u64,
    add: &[impl AsRef<str>],
    drop: &[impl AsRef<str>],
) -> Result<u64> {
    let (add_all, add) = read_list(known, add)?;
    let (drop_all, drop) = read_list(known, drop)?;
    Ok(match (add_all, drop_all) {
        (true, _) => known & !drop,
        (false, true) => add,
        (false, false) => base & !drop | add,
    })
}

/// Whether `ALL` is in the list, and the mask of the rest.
fn read_list(known: u64, names: &[impl AsRef<str>]) -> Result<(bool, u64)> {
    let (mut all, mut mask) = (false, 0);
    for name in names {
        let name = name.as_ref();
        if name.eq_ignore_ascii_case("ALL") {
            all = true;
            continue;
        }
        let bit = bit(number(parse(name)?));
        if known & bit == 0 {
            let what = format!("use capability {name:?}, which this kernel does not have");
            return Err(Error::new(
                ErrorKind::Unsupported,
                "UnknownCapability",
                what,
            ));
        }
        mask |= bit;
    }
    Ok((all, mask))
}

const fn bit(number: u32) -> u64 {
    1 << number
}

/// The mask of the capabilities 0 to `last`.
fn up_to(last: u32) -> u64 {
    u64::MAX >> 63_u32.saturating_sub(last)
}

fn in_mask(mask: u64) -> impl Iterator<Item = Capability> {
    (0..)
        .zip(BY_NUMBER)
        .filter(move |(number, _)| mask & bit(*number) != 0)
        .map(|(_, it)| it)
}

struct Display(u64);

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        let mut separator = "";
        for capability in in_mask(self.0) {
            write!(f, "{separator}{capability}")?;
            separator = " ";
        }
        for number in LAST_NAMED + 1..u64::BITS {
            if self.0 & bit(number) != 0 {
                write!(f, "{separator}{number}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

/// The number of the last entry of [`BY_NUMBER`].
const LAST_NAMED: u32 = 40;

/// Every capability at the index that is its number.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn numbers_are_those_of_the_kernel_header() {
        for (capability, want) in [
            (Capability::Chown, 0),
            (Capability::NetBindService, 10),
            (Capability::SysAdmin, 21),
            (Capability::Setfcap, 31),
            (Capability::Syslog, 34),
            (Capability::CheckpointRestore, 40),
        ] {
            assert_eq!(number(capability), want, "{capability}");
        }
        assert_eq!(from_mask(u64::MAX).len(), BY_NUMBER.len());
        assert_eq!(mask(&from_mask(u64::MAX)), up_to(LAST_NAMED));
    }

    #[test]
    fn the_default_set_is_dockers_effective_mask() {
        // `CapEff` in /proc/self/status of `docker run debian`.
        assert_eq!(DEFAULT, 0x0000_0000_a804_25fb);
        assert_eq!(from_mask(DEFAULT).len(), 14);
    }

    #[test]
    fn names_are_read_in_any_case_with_or_without_prefix() {
        for name in ["NET_ADMIN", "net_admin", "CAP_NET_ADMIN", "cap_Net_Admin"] {
            assert_eq!(parse(name).unwrap(), Capability::NetAdmin, "{name}");
        }
        for name in ["", "ALL", "CAP_", "NETADMIN", "CAP_CAP_CHOWN", "chown "] {
            assert_eq!(
                parse(name).unwrap_err().code(),
                "UnknownCapability",
                "{name}"
            );
        }
    }

    #[test]
    fn add_and_drop_follow_docker() {
        let known = up_to(LAST_NAMED);
        let admin = bit(12);
        let chown = bit(0);
        let cases: [(&[&str], &[&str], u64); 9] = [
            (&[], &[], DEFAULT),
            (&["NET_ADMIN"], &[], DEFAULT | admin),
            (&[], &["cap_chown"], DEFAULT & !chown),
            (&["CHOWN"], &["CHOWN"], DEFAULT),
            (&["all"], &[], known),
            (&["ALL"], &["CHOWN"], known & !chown),
            (&[], &["ALL"], 0),
            (&["NET_ADMIN"], &["All"], admin),
            (&["ALL"], &["ALL"], known),
        ];
        for (add, drop, want) in cases {
            let got = adjust_on(known, DEFAULT, add, drop).unwrap();
            assert_eq!(got, want, "add {add:?} drop {drop:?}");
        }
    }

    #[test]
    fn unknown_names_and_those_the_kernel_lacks_are_errors() {
        let error = adjust_on(u64::MAX, DEFAULT, &["FLY"], &NONE).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::InvalidInput, "UnknownCapability")
        );
        assert!(adjust_on(u64::MAX, DEFAULT, &NONE, &["FLY"]).is_err());
        let error = adjust_on(up_to(37), DEFAULT, &["BPF"], &NONE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            adjust_on(up_to(37), DEFAULT, &["ALL"], &NONE).unwrap(),
            up_to(37)
        );
    }

    #[test]
    fn masks_show_as_names() {
        assert_eq!(display(0).to_string(), "none");
        assert_eq!(
            display(bit(0) | bit(21) | bit(60)).to_string(),
            "CHOWN SYS_ADMIN 60"
        );
    }

    #[test]
    fn the_running_kernel_knows_at_least_the_default_set() {
        assert_eq!(known() & DEFAULT, DEFAULT);
        assert_eq!(up_to(63), u64::MAX);
    }
}
