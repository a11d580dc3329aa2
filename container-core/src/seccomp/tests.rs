//! What filters decide, asked of the machine that runs them.

use std::path::PathBuf;

use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::arch::{Machine, X32_BIT};
use super::compile::{ENOSYS, Instruction, KILL_PROCESS, RET_ERRNO, compile};
use super::interpreter::{Call, run};
use super::{Host, Profile, default_profile};
use crate::capability;

const ALLOW: u32 = 0x7fff_0000;
const DENIED: u32 = RET_ERRNO | 1;
const TOO_NEW: u32 = RET_ERRNO | ENOSYS;

/// A filter by the JSON of its rules.
fn filter(default: &str, rules: &str) -> LinuxSeccomp {
    let json = format!(
        r#"{{"defaultAction":"{default}","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86",
        "SCMP_ARCH_X32"],"syscalls":[{rules}]}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn program(default: &str, rules: &str) -> Vec<Instruction> {
    compile(&filter(default, rules))
        .unwrap()
        .instructions
        .to_vec()
}

fn error(default: &str, rules: &str) -> &'static str {
    compile(&filter(default, rules)).unwrap_err().code()
}

fn ask(program: &[Instruction], machine: Machine, name: &str, args: &[u64]) -> u32 {
    let number = machine.number(name).unwrap();
    ask_number(program, machine, number, args)
}

fn ask_number(program: &[Instruction], machine: Machine, number: u32, args: &[u64]) -> u32 {
    let mut call = Call {
        audit: machine.audit(),
        number,
        args: [0; 6],
    };
    call.args[..args.len()].copy_from_slice(args);
    run(program, &call)
}

#[cfg(target_arch = "x86_64")]
mod native {
    use super::*;

    fn default_filter(capabilities: u64) -> Vec<Instruction> {
        let filter = default_profile()
            .expand(&Host::current(capabilities))
            .unwrap();
        compile(&filter).unwrap().instructions.to_vec()
    }

    #[test]
    fn each_architecture_has_its_own_numbers() {
        let program = program(
            "SCMP_ACT_ERRNO",
            r#"{"names":["write","mmap2"],"action":"SCMP_ACT_ALLOW"}"#,
        );
        assert_eq!(ask(&program, Machine::X86_64, "write", &[]), ALLOW);
        assert_eq!(ask(&program, Machine::X86, "write", &[]), ALLOW);
        assert_eq!(ask(&program, Machine::X86, "mmap2", &[]), ALLOW);
        assert_eq!(ask(&program, Machine::X86, "link", &[]), DENIED);
        assert_eq!(
            ask_number(&program, Machine::X86_64, X32_BIT | 1, &[]),
            ALLOW
        );
        assert_eq!(ask_number(&program, Machine::X86_64, X32_BIT, &[]), DENIED);
        assert_eq!(
            ask_number(&program, Machine::Aarch64, 64, &[]),
            KILL_PROCESS
        );
    }

    #[test]
    fn an_abi_that_is_not_listed_kills() {
        let mut filter = filter("SCMP_ACT_ALLOW", "");
        filter.set_architectures(None);
        let program = compile(&filter).unwrap().instructions;
        assert_eq!(ask_number(&program, Machine::X86_64, 1, &[]), ALLOW);
        assert_eq!(
            ask_number(&program, Machine::X86_64, X32_BIT | 1, &[]),
            KILL_PROCESS
        );
        assert_eq!(ask_number(&program, Machine::X86_64, u32::MAX, &[]), ALLOW);
        assert_eq!(ask_number(&program, Machine::X86, 4, &[]), KILL_PROCESS);
    }

    #[test]
    fn operators_compare_all_64_bits() {
        const BIG: u64 = 0x1_0000_0005;
        type Case = (&'static str, u64, u64, &'static [u64], &'static [u64]);
        // Operator, value, second value, then arguments that pass and that do not.
        let cases: [Case; 11] = [
            ("EQ", 5, 0, &[5], &[4, 6, BIG]),
            ("EQ", BIG, 0, &[BIG], &[5, BIG + 1, BIG << 1]),
            ("NE", 5, 0, &[4, BIG, u64::MAX], &[5]),
            ("NE", BIG, 0, &[5, 0, u64::MAX], &[BIG]),
            (
                "LT",
                BIG,
                0,
                &[0, 5, BIG - 1, 0xffff_ffff],
                &[BIG, BIG + 1, u64::MAX],
            ),
            ("LE", BIG, 0, &[0, 5, BIG], &[BIG + 1, 0x2_0000_0000]),
            (
                "GT",
                BIG,
                0,
                &[BIG + 1, 0x2_0000_0000],
                &[0, 5, 0xffff_ffff, BIG],
            ),
            (
                "GE",
                BIG,
                0,
                &[BIG, 0x2_0000_0000],
                &[0, 0xffff_ffff, BIG - 1],
            ),
            (
                "MASKED_EQ",
                0xf0,
                0x10,
                &[0x1f, 0x110, BIG << 32 | 0x15],
                &[0x20, 0, 0xff],
            ),
            (
                "MASKED_EQ",
                0xf_0000_0000,
                0x1_0000_0000,
                &[BIG, 0x11_0000_0000],
                &[5, 0x2_0000_0000],
            ),
            (
                "MASKED_EQ",
                0x7e02_0000,
                0,
                &[0, 17],
                &[0x1000_0000, 0x0002_0000],
            ),
        ];
        for (operator, value, second, pass, fail) in cases {
            let rule = format!(
                r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":3,
                "value":{value},"valueTwo":{second},"op":"SCMP_CMP_{operator}"}}]}}"#
            );
            let program = program("SCMP_ACT_ERRNO", &rule);
            for (args, want) in [(pass, ALLOW), (fail, DENIED)] {
                for arg in args {
                    let got = ask(&program, Machine::X86_64, "read", &[0, 0, 0, *arg]);
                    assert_eq!(got, want, "{arg:#x} {operator} {value:#x} {second:#x}");
                }
            }
        }
    }

    #[test]
    fn conditions_of_a_rule_all_hold_and_rules_are_tried_in_turn() {
        let arg =
            |index, value| format!(r#"{{"index":{index},"value":{value},"op":"SCMP_CMP_EQ"}}"#);
        let rules = format!(
            r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{},{}]}},
               {{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":7,"args":[{}]}},
               {{"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{},{}]}}"#,
            arg(0, 1),
            arg(1, 2),
            arg(0, 3),
            arg(0, 1),
            arg(0, 2)
        );
        let program = program("SCMP_ACT_ERRNO", &rules);
        for (name, args, want) in [
            ("read", [1, 2], ALLOW),
            ("read", [1, 3], DENIED),
            ("read", [3, 9], RET_ERRNO | 7),
            ("read", [0, 2], DENIED),
            // Twice the same argument: either will do.
            ("write", [1, 0], ALLOW),
            ("write", [2, 0], ALLOW),
            ("write", [3, 0], DENIED),
        ] {
            assert_eq!(
                ask(&program, Machine::X86_64, name, &args),
                want,
                "{name} {args:?}"
            );
        }
    }

    #[test]
    fn a_rule_without_conditions_wins() {
        let condition = r#""args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]"#;
        let sometimes = format!(r#"{{"names":["read"],"action":"SCMP_ACT_TRAP",{condition}}}"#);
        let always = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
        for rules in [
            format!("{sometimes},{always}"),
            format!("{always},{sometimes}"),
        ] {
            let program = program("SCMP_ACT_ERRNO", &rules);
            assert_eq!(ask(&program, Machine::X86_64, "read", &[1]), ALLOW);
        }
    }

    #[test]
    fn actions_carry_their_error_number() {
        for (action, errno, want) in [
            ("KILL", "", 0),
            ("KILL_PROCESS", "", KILL_PROCESS),
            ("TRAP", "", 0x0003_0000),
            ("ERRNO", "", DENIED),
            ("ERRNO", r#","errnoRet":38"#, TOO_NEW),
            ("TRACE", r#","errnoRet":9"#, 0x7ff0_0009),
            ("LOG", "", 0x7ffc_0000),
        ] {
            let rule = format!(r#"{{"names":["read"],"action":"SCMP_ACT_{action}"{errno}}}"#);
            let program = program("SCMP_ACT_ALLOW", &rule);
            assert_eq!(
                ask(&program, Machine::X86_64, "read", &[]),
                want,
                "{action}"
            );
        }
    }

    #[test]
    fn filters_that_cannot_be_kept_are_refused() {
        for rule in [
            r#"{"names":["read"],"action":"SCMP_ACT_KILL","errnoRet":3}"#,
            r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":70000}"#,
            r#"{"names":["read","write"],"action":"SCMP_ACT_NOTIFY"}"#,
            r#"{"names":["read"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#,
        ] {
            assert_eq!(error("SCMP_ACT_ALLOW", rule), "InvalidFilter", "{rule}");
        }
        let many: Vec<_> = (0..2000)
            .map(|value| {
                format!(
                    r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO",
                    "args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#
                )
            })
            .collect();
        assert_eq!(error("SCMP_ACT_ALLOW", &many.join(",")), "InvalidFilter");
    }

    #[test]
    fn calls_left_to_somebody_need_a_listener() {
        let rule = r#"{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}"#;
        let mut filter = filter("SCMP_ACT_ALLOW", rule);
        filter.set_flags(Some(vec![
            oci_spec::runtime::LinuxSeccompFilterFlag::SeccompFilterFlagTsync,
        ]));
        let filter = compile(&filter).unwrap();
        assert_eq!(filter.flags, 8, "a listener, and no thread to synchronise");
        let got = ask(&filter.instructions, Machine::X86_64, "mkdir", &[]);
        assert_eq!(got, 0x7fc0_0000);
        assert_eq!(error("SCMP_ACT_NOTIFY", ""), "InvalidFilter");
    }

    #[test]
    fn far_jumps_reach_their_target() {
        // Every second call has a long chain, so that halves are further apart than eight bits.
        let table = Machine::X86_64.table();
        let rules: Vec<_> = table
            .iter()
            .filter(|(_, number)| number % 8 == 0)
            .map(|(name, number)| {
                format!(
                    r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO","errnoRet":{},"args":[
                    {{"index":0,"value":1,"op":"SCMP_CMP_GE"}},
                    {{"index":1,"value":1,"op":"SCMP_CMP_GE"}},
                    {{"index":2,"value":1,"op":"SCMP_CMP_LT"}}]}}"#,
                    number + 1
                )
            })
            .collect();
        let program = program("SCMP_ACT_ALLOW", &rules.join(","));
        assert!(program.len() > 1000, "{}", program.len());
        for (name, number) in table {
            let want = if number % 8 == 0 {
                RET_ERRNO | (number + 1)
            } else {
                ALLOW
            };
            assert_eq!(
                ask(&program, Machine::X86_64, name, &[1, 1, 0]),
                want,
                "{name}"
            );
            assert_eq!(
                ask(&program, Machine::X86_64, name, &[1, 1, 1]),
                ALLOW,
                "{name}"
            );
        }
    }

    #[test]
    fn unknown_names_are_passed_over_and_flags_kept() {
        let mut filter = filter(
            "SCMP_ACT_ERRNO",
            r#"{"names":["no_such_call","read"],"action":"SCMP_ACT_ALLOW"}"#,
        );
        filter.set_flags(Some(
            serde_json::from_str(r#"["SECCOMP_FILTER_FLAG_LOG"]"#).unwrap(),
        ));
        let compiled = compile(&filter).unwrap();
        assert_eq!(compiled.flags, 2);
        assert_eq!(
            ask(&compiled.instructions, Machine::X86_64, "read", &[]),
            ALLOW
        );
    }

    #[test]
    fn the_same_filter_again_is_the_same_program() {
        let filter = filter(
            "SCMP_ACT_ERRNO",
            r#"{"names":["getpid"],"action":"SCMP_ACT_ALLOW"}"#,
        );
        let (first, second) = (compile(&filter).unwrap(), compile(&filter).unwrap());
        assert!(std::sync::Arc::ptr_eq(
            &first.instructions,
            &second.instructions
        ));
    }

    #[test]
    fn the_default_denies_what_nobody_may_call() {
        // Whatever the capabilities.
        let program = default_filter(u64::MAX);
        for name in [
            "add_key",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "nfsservctl",
            "pivot_root",
            "request_key",
            "swapoff",
            "swapon",
            "userfaultfd",
        ] {
            assert_eq!(ask(&program, Machine::X86_64, name, &[]), DENIED, "{name}");
            if let Some(number) = Machine::x32_number(name) {
                assert_eq!(
                    ask_number(&program, Machine::X86_64, number, &[]),
                    DENIED,
                    "{name} of x32"
                );
            }
            if let Some(number) = Machine::X86.number(name) {
                assert_eq!(
                    ask_number(&program, Machine::X86, number, &[]),
                    DENIED,
                    "{name} of x86"
                );
            }
        }
    }

    #[test]
    fn the_default_allows_by_capability() {
        for (capabilities, names) in [
            (
                1 << 21,
                &[
                    "mount",
                    "umount2",
                    "fsopen",
                    "move_mount",
                    "setns",
                    "unshare",
                    "clone3",
                ][..],
            ),
            (1 << 2, &["open_by_handle_at"]),
            (1 << 16, &["init_module"]),
            (1 << 19, &["kcmp", "pidfd_getfd"]),
            (1 << 39, &["bpf"]),
            (1 << 38, &["perf_event_open"]),
        ] {
            let (with, without) = (default_filter(capabilities), default_filter(0));
            for name in names {
                assert_eq!(ask(&with, Machine::X86_64, name, &[]), ALLOW, "{name}");
                let want = if *name == "clone3" { TOO_NEW } else { DENIED };
                assert_eq!(ask(&without, Machine::X86_64, name, &[]), want, "{name}");
            }
        }
    }

    #[test]
    fn the_default_lets_nobody_type_into_a_terminal() {
        let program = default_filter(u64::MAX);
        for machine in [Machine::X86_64, Machine::X86] {
            for request in [0x5412, 0x541c, 0x1_0000_5412, 0xffff_ffff_0000_541c] {
                assert_eq!(
                    ask(&program, machine, "ioctl", &[0, request]),
                    DENIED,
                    "{request:#x}"
                );
            }
            for request in [0, 0x5401, 0x5411, 0x541d, 0x8901, 0xffff_ffff] {
                assert_eq!(
                    ask(&program, machine, "ioctl", &[0, request]),
                    ALLOW,
                    "{request:#x}"
                );
            }
            for request in 0x5413..0x541c {
                assert_eq!(
                    ask(&program, machine, "ioctl", &[0, request]),
                    ALLOW,
                    "{request:#x}"
                );
            }
        }
    }

    #[test]
    fn the_upper_half_of_an_int_does_not_slip_past_the_default() {
        let program = default_filter(capability::DEFAULT);
        for family in [38, 40] {
            for family in [family, family | 1 << 32, family | u64::from(u32::MAX) << 32] {
                assert_eq!(
                    ask(&program, Machine::X86_64, "socket", &[family]),
                    DENIED,
                    "{family:#x}"
                );
            }
        }
        assert_eq!(ask(&program, Machine::X86_64, "socket", &[2]), ALLOW);
        assert_eq!(ask(&program, Machine::X86_64, "socket", &[41]), ALLOW);
        let namespaces = [
            0x0002_0000,
            0x0200_0000,
            0x1000_0000,
            0x4000_0000,
            0x1_1000_0000,
        ];
        for flags in namespaces {
            assert_eq!(
                ask(&program, Machine::X86_64, "clone", &[flags]),
                DENIED,
                "{flags:#x}"
            );
        }
        assert_eq!(
            ask(&program, Machine::X86_64, "clone", &[0x0100_0011]),
            ALLOW
        );
    }

    #[test]
    fn calls_newer_than_the_profile_do_not_exist() {
        let program = default_filter(capability::DEFAULT);
        assert_eq!(ask(&program, Machine::X86_64, "file_getattr", &[]), TOO_NEW);
        assert_eq!(ask_number(&program, Machine::X86_64, 999, &[]), TOO_NEW);
        assert_eq!(ask_number(&program, Machine::X86, 999, &[]), TOO_NEW);
    }

    #[test]
    fn the_default_is_short() {
        let program = default_filter(capability::DEFAULT);
        assert!(program.len() <= 600, "{} instructions", program.len());
    }

    /// Decides as `expanded-*.json` of the folder that `CONFORMANCE_DIR` names, but for what the
    /// default profile says of itself.
    #[test]
    fn the_default_decides_as_the_published_profile() {
        let Some(folder) = std::env::var_os("CONFORMANCE_DIR") else {
            println!("skipped: CONFORMANCE_DIR is not set");
            return;
        };
        let mut sets = 0;
        for entry in std::fs::read_dir(PathBuf::from(folder).join("seccomp")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !name.starts_with("expanded-") {
                continue;
            }
            let json: serde_json::Value =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let mask = json["bounding"]
                .as_array()
                .unwrap()
                .iter()
                .fold(0, |mask, name| {
                    let capability = capability::parse(name.as_str().unwrap()).unwrap();
                    mask | 1 << capability::number(capability)
                });
            let theirs: LinuxSeccomp = serde_json::from_value(json["seccomp"].clone()).unwrap();
            let host = Host {
                capabilities: mask,
                arch: Arch::ScmpArchX86_64,
                kernel: (6, 18),
            };
            let ours = default_profile().expand(&host).unwrap();
            assert_eq!(ours.architectures(), theirs.architectures(), "{name}");
            compare(
                &name,
                &compile(&ours).unwrap().instructions,
                &compile(&theirs).unwrap().instructions,
            );
            sets += 1;
        }
        assert_eq!(sets, 11);
    }

    fn compare(set: &str, ours: &[Instruction], theirs: &[Instruction]) {
        let values = [
            0,
            1,
            8,
            37,
            38,
            39,
            40,
            41,
            0x5411,
            0x5413,
            0x541b,
            0x541d,
            0x2_0000,
            0x2_0008,
            0x1000_0000,
            0x7e02_0000,
            0xffff_ffff,
            1 << 40,
        ];
        for machine in [Machine::X86_64, Machine::X86] {
            let natives = machine.table().iter().map(|(_, number)| *number);
            let x32 = natives
                .clone()
                .map(|number| number | X32_BIT)
                .chain((512..548).map(|it| it | X32_BIT));
            let numbers: Vec<_> = natives
                .chain(x32.filter(|_| machine == Machine::X86_64))
                .collect();
            for number in numbers {
                for value in values {
                    for args in [[value, 0], [0, value]] {
                        let (ours, theirs) = (
                            ask_number(ours, machine, number, &args),
                            ask_number(theirs, machine, number, &args),
                        );
                        assert_eq!(ours, theirs, "{set}: {machine:?} {number} {args:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_name_of_the_default_is_known_somewhere() {
        use Machine::{Aarch64, Arm, Riscv64, X86, X86_64};
        for rule in &default_profile().syscalls {
            for name in &rule.names {
                let known = [X86_64, X86, Aarch64, Arm, Riscv64]
                    .iter()
                    .any(|it| it.number(name).is_some());
                assert!(known, "{name}");
            }
        }
    }

    #[test]
    fn custom_profiles_are_read_and_compiled() {
        let profile = Profile::parse(
            br#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64",
            "subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["chmod"],
            "action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_FOWNER"]}}]}"#,
        )
        .unwrap();
        for (capabilities, want) in [(0, DENIED), (1 << 3, ALLOW)] {
            let filter = profile.expand(&Host::current(capabilities)).unwrap();
            let program = compile(&filter).unwrap().instructions;
            assert_eq!(ask(&program, Machine::X86_64, "chmod", &[]), want);
            assert_eq!(ask(&program, Machine::X86, "chmod", &[]), want);
        }
    }
}
