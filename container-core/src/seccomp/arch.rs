//! Architectures: how the kernel tells them apart, and their system calls by name.

use std::sync::OnceLock;

use oci_spec::runtime::Arch;
use syscalls::{aarch64, arm, riscv64, x86, x86_64};

/// An architecture as `seccomp_data.arch` tells it; x32 is told by a bit of the number instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    X86,
    Aarch64,
    Arm,
    Riscv64,
}

/// The bit that marks a system call of the x32 ABI (`__X32_SYSCALL_BIT` of `asm/unistd.h`).
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Machine {
    /// What this library was built for, if there is a table for it.
    pub(super) const NATIVE: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "x86") {
        Some(Self::X86)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else if cfg!(target_arch = "arm") {
        Some(Self::Arm)
    } else if cfg!(target_arch = "riscv64") {
        Some(Self::Riscv64)
    } else {
        None
    };

    /// The machine of an architecture of the runtime spec, if there is a table for it.
    pub(super) fn of(arch: Arch) -> Option<Self> {
        match arch {
            Arch::ScmpArchNative => Self::NATIVE,
            Arch::ScmpArchX86_64 | Arch::ScmpArchX32 => Some(Self::X86_64),
            Arch::ScmpArchX86 => Some(Self::X86),
            Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            Arch::ScmpArchArm => Some(Self::Arm),
            Arch::ScmpArchRiscv64 => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// The value of `AUDIT_ARCH_*` in `linux/audit.h`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
        }
    }

    /// The number of a system call.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let table = self.table();
        let found = table.binary_search_by_key(&name, |(name, _)| name).ok()?;
        Some(table[found].1)
    }

    /// The number of a system call of the x32 ABI.
    pub(super) fn x32_number(name: &str) -> Option<u32> {
        if X32_LACKS.contains(&name) {
            return None;
        }
        let own = X32_OWN
            .iter()
            .find_map(|(own, number)| (*own == name).then_some(*number));
        own.or_else(|| Self::X86_64.number(name))
            .map(|number| number | X32_BIT)
    }

    /// All system calls, sorted by name.
    pub(super) fn table(self) -> &'static [(&'static str, u32)] {
        static TABLES: [OnceLock<Vec<(&str, u32)>>; 5] = [const { OnceLock::new() }; 5];
        TABLES[self as usize].get_or_init(|| {
            let mut table = match self {
                Self::X86_64 => numbers(x86_64::Sysno::iter().map(|it| (it.name(), it.id()))),
                Self::X86 => numbers(x86::Sysno::iter().map(|it| (it.name(), it.id()))),
                Self::Aarch64 => {
                    let own = AARCH64_OWN.iter().copied();
                    numbers(
                        aarch64::Sysno::iter()
                            .map(|it| (it.name(), it.id()))
                            .chain(own),
                    )
                }
                Self::Arm => {
                    let own = ARM_OWN.iter().copied();
                    numbers(arm::Sysno::iter().map(|it| (it.name(), it.id())).chain(own))
                }
                Self::Riscv64 => numbers(riscv64::Sysno::iter().map(|it| (it.name(), it.id()))),
            };
            table.sort_unstable();
            table
        })
    }
}

fn numbers(calls: impl Iterator<Item = (&'static str, i32)>) -> Vec<(&'static str, u32)> {
    calls
        .map(|(name, number)| (name, number.unsigned_abs()))
        .collect()
}

/// What profiles call `fstatat` of the table.
const AARCH64_OWN: [(&str, i32); 1] = [("newfstatat", 79)];

/// The calls of ARM that are outside of its table (`__ARM_NR_*` of `asm/unistd.h`), and what profiles
/// call `arm_sync_file_range` as well.
const ARM_OWN: [(&str, i32); 6] = [
    ("sync_file_range2", 341),
    ("breakpoint", 0xf_0001),
    ("cacheflush", 0xf_0002),
    ("usr26", 0xf_0003),
    ("usr32", 0xf_0004),
    ("set_tls", 0xf_0005),
];

/// The calls that the x32 ABI has not (`64` without a counterpart in that table).
const X32_LACKS: [&str; 10] = [
    "_sysctl",
    "create_module",
    "epoll_ctl_old",
    "epoll_wait_old",
    "get_kernel_syms",
    "get_thread_area",
    "nfsservctl",
    "query_module",
    "set_thread_area",
    "uselib",
];

/// The calls with a number of their own in the x32 ABI (`syscall_64.tbl` of the kernel, from 512).
const X32_OWN: [(&str, u32); 36] = [
    ("rt_sigaction", 512),
    ("rt_sigreturn", 513),
    ("ioctl", 514),
    ("readv", 515),
    ("writev", 516),
    ("recvfrom", 517),
    ("sendmsg", 518),
    ("recvmsg", 519),
    ("execve", 520),
    ("ptrace", 521),
    ("rt_sigpending", 522),
    ("rt_sigtimedwait", 523),
    ("rt_sigqueueinfo", 524),
    ("sigaltstack", 525),
    ("timer_create", 526),
    ("mq_notify", 527),
    ("kexec_load", 528),
    ("waitid", 529),
    ("set_robust_list", 530),
    ("get_robust_list", 531),
    ("vmsplice", 532),
    ("move_pages", 533),
    ("preadv", 534),
    ("pwritev", 535),
    ("rt_tgsigqueueinfo", 536),
    ("recvmmsg", 537),
    ("sendmmsg", 538),
    ("process_vm_readv", 539),
    ("process_vm_writev", 540),
    ("setsockopt", 541),
    ("getsockopt", 542),
    ("io_setup", 543),
    ("io_submit", 544),
    ("execveat", 545),
    ("preadv2", 546),
    ("pwritev2", 547),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_each_machine() {
        for (machine, name, want) in [
            (Machine::X86_64, "read", Some(0)),
            (Machine::X86_64, "clone3", Some(435)),
            (Machine::X86_64, "socketcall", None),
            (Machine::X86, "socketcall", Some(102)),
            (Machine::X86, "exit", Some(1)),
            (Machine::Aarch64, "openat", Some(56)),
            (Machine::Aarch64, "open", None),
            (Machine::Aarch64, "newfstatat", Some(79)),
            (Machine::Arm, "open", Some(5)),
            (Machine::Arm, "set_tls", Some(0xf_0005)),
            (Machine::Riscv64, "riscv_flush_icache", Some(259)),
        ] {
            assert_eq!(machine.number(name), want, "{machine:?} {name}");
        }
    }

    #[test]
    fn x32_calls_have_the_bit_and_sometimes_a_number_of_their_own() {
        assert_eq!(Machine::x32_number("read"), Some(0x4000_0000));
        assert_eq!(Machine::x32_number("ioctl"), Some(0x4000_0000 + 514));
        assert_eq!(Machine::x32_number("socketcall"), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_native_table_is_that_of_the_c_library() {
        assert_eq!(Machine::NATIVE, Some(Machine::X86_64));
        for (name, number) in [
            ("mount", libc::SYS_mount),
            ("keyctl", libc::SYS_keyctl),
            ("openat2", libc::SYS_openat2),
        ] {
            let want = u32::try_from(number).unwrap();
            assert_eq!(Machine::X86_64.number(name), Some(want), "{name}");
        }
    }
}
