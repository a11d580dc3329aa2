//! Filters compared with those of libseccomp, which other runtimes have theirs from.

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg,
    LinuxSeccompOperator as Operator,
};

use super::arch::{Machine, X32_BIT};
use super::compile::{Instruction, NARROW, compile};
use super::interpreter::{Call, run};
use super::{Host, Profile, default_profile};
use crate::capability;

/// The program that compiles with libseccomp, in a directory of its own.
struct Oracle(tempfile::TempDir);

impl Oracle {
    /// `None` where there is no C compiler or no libseccomp to link with.
    fn build() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/seccomp/oracle.c"
        );
        let built = Command::new("cc")
            .arg("-o")
            .arg(dir.path().join("oracle"))
            .args([source, "-lseccomp"])
            .output();
        if built.is_ok_and(|built| built.status.success()) {
            return Some(Self(dir));
        }
        let required = std::env::var_os("REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "libseccomp is not installed");
        println!("skipped: libseccomp is not installed");
        None
    }

    /// The instructions, and the names that it does not know, behind the token of the architecture.
    fn compile(&self, filter: &LinuxSeccomp) -> (Vec<Instruction>, HashSet<String>) {
        let default = filter.default_action().as_u32(filter.default_errno_ret());
        let mut lines = format!("d {default}\n");
        for arch in filter.architectures().iter().flatten() {
            lines += &format!("a {}\n", token(*arch));
        }
        for rule in filter.syscalls().iter().flatten() {
            let action = rule.action().as_u32(rule.errno_ret());
            if action == default {
                continue;
            }
            let args = rule.args().as_deref().unwrap_or_default();
            let twice = (1..args.len())
                .any(|at| args[..at].iter().any(|it| it.index() == args[at].index()));
            for name in rule.names() {
                // As runc has it, tests of one argument are rules of their own.
                let cases = if twice {
                    args.chunks(1).collect()
                } else {
                    vec![args]
                };
                for case in cases {
                    lines += &format!("r {action} {name} {}", case.len());
                    for arg in case {
                        lines += &format!(
                            " {} {} {} {}",
                            arg.index(),
                            operator(arg.op()),
                            arg.value(),
                            arg.value_two().unwrap_or(0)
                        );
                    }
                    lines += "\n";
                }
            }
        }
        let mut child = Command::new(self.0.path().join("oracle"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Its output comes when its input has ended.
        let mut input = child.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let unknown = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{unknown}");
        let half = |bytes: &[u8]| u16::from_ne_bytes(bytes.try_into().unwrap());
        let instruction = |bytes: &[u8]| Instruction {
            code: half(&bytes[..2]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes(bytes[4..].try_into().unwrap()),
        };
        let instructions = output.stdout.chunks(8).map(instruction).collect();
        (instructions, unknown.lines().map(str::to_owned).collect())
    }
}

/// `SCMP_ARCH_*`, which are those of the kernel's audit but for x32.
fn token(arch: Arch) -> u32 {
    match arch {
        Arch::ScmpArchX32 => 0x4000_003e,
        arch => Machine::of(arch).unwrap().audit(),
    }
}

/// `SCMP_CMP_*` of `seccomp.h`.
fn operator(operator: Operator) -> u32 {
    match operator {
        Operator::ScmpCmpNe => 1,
        Operator::ScmpCmpLt => 2,
        Operator::ScmpCmpLe => 3,
        Operator::ScmpCmpEq => 4,
        Operator::ScmpCmpGe => 5,
        Operator::ScmpCmpGt => 6,
        Operator::ScmpCmpMaskedEq => 7,
    }
}

/// Arguments at which a test could turn out either way.
fn edges(name: &str, arg: &LinuxSeccompArg) -> Vec<u64> {
    let mut edges = Vec::new();
    for value in [arg.value(), arg.value_two().unwrap_or(0), 0, u64::MAX >> 1] {
        edges.extend([value, value.wrapping_add(1), value.wrapping_sub(1), !value]);
        edges.extend([value ^ 1 << 32, value | 1 << 63, value & 0xffff_ffff]);
    }
    // Only ours reads them as the kernel does, so that the upper half hides nothing.
    let narrow = NARROW
        .iter()
        .any(|it| it.0 == name && it.1 == u32::try_from(arg.index()).unwrap());
    edges.retain(|edge| !narrow || *edge <= u64::from(u32::MAX));
    edges
}

/// Asks both programs for every call of every architecture, up to the last that the filter names.
fn compare(what: &str, filter: &LinuxSeccomp, oracle: &Oracle) -> usize {
    let (theirs, unknown) = oracle.compile(filter);
    let ours = compile(filter).unwrap().instructions;
    let rules = || filter.syscalls().iter().flatten();
    let mut asked = 0;
    for arch in filter.architectures().iter().flatten() {
        let machine = Machine::of(*arch).unwrap();
        let x32 = *arch == Arch::ScmpArchX32;
        // libseccomp looks at the lower half of their registers only. The upper one is zero, but in
        // the x32 ABI, where ours is the stricter one.
        let short = x32 || matches!(machine, Machine::X86 | Machine::Arm);
        let beyond = |value: u64| short && value > u64::from(u32::MAX);
        let mut values = rules().flat_map(|rule| rule.args().iter().flatten());
        if values.any(|arg| beyond(arg.value())) {
            continue;
        }
        let number = |name: &str| match x32 {
            true => Machine::x32_number(name),
            false => machine.number(name),
        };
        let names = rules().flat_map(|rule| rule.names());
        let last = names.filter_map(|name| number(name)).max().unwrap_or(0);
        let first = if x32 { X32_BIT } else { 0 };
        let of_arch = format!("{} ", token(*arch));
        let unknown = unknown
            .iter()
            .filter_map(|line| line.strip_prefix(&of_arch));
        let skipped: HashSet<_> = unknown.filter_map(number).collect();
        for number_asked in (first..=last).filter(|number| number - first < 2000) {
            if skipped.contains(&number_asked) {
                continue;
            }
            let mut calls = vec![[0; 6], [u64::MAX >> 33; 6]];
            for rule in rules() {
                let args = rule.args().as_deref().unwrap_or_default();
                let names = rule.names().iter();
                for name in names.filter(|name| number(name) == Some(number_asked)) {
                    // All that the rule wants, then off it in one.
                    let mut base = [0; 6];
                    for arg in args {
                        base[arg.index()] = match arg.op() {
                            Operator::ScmpCmpMaskedEq => arg.value_two().unwrap_or(0),
                            _ => arg.value(),
                        };
                    }
                    for arg in args {
                        for edge in edges(name, arg).into_iter().filter(|it| !beyond(*it)) {
                            let mut call = base;
                            call[arg.index()] = edge;
                            calls.push(call);
                        }
                    }
                }
            }
            for args in calls {
                let call = Call {
                    audit: machine.audit(),
                    number: number_asked,
                    args,
                };
                let (ours, theirs) = (run(&ours, &call), run(&theirs, &call));
                assert_eq!(ours, theirs, "{what}: {arch} {number_asked} {args:x?}");
                asked += 1;
            }
        }
    }
    asked
}

const ARCHS: [Arch; 6] = [
    Arch::ScmpArchX86_64,
    Arch::ScmpArchX86,
    Arch::ScmpArchX32,
    Arch::ScmpArchAarch64,
    Arch::ScmpArchArm,
    Arch::ScmpArchRiscv64,
];

#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_decides_as_through_libseccomp() {
    let Some(oracle) = Oracle::build() else {
        return;
    };
    for capabilities in [capability::DEFAULT, 0, u64::MAX] {
        let host = Host {
            capabilities,
            arch: Arch::ScmpArchX86_64,
            kernel: (6, 18),
        };
        let filter = default_profile().expand(&host).unwrap();
        let asked = compare(&format!("{capabilities:x}"), &filter, &oracle);
        assert!(asked > 2000, "{asked}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_operator_and_action_decides_as_through_libseccomp() {
    let Some(oracle) = Oracle::build() else {
        return;
    };
    const BIG: u64 = 0x1_8000_0005;
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    for default in [
        Action::ScmpActErrno,
        Action::ScmpActAllow,
        Action::ScmpActLog,
    ] {
        for operator in operators {
            for value in [0, 5, 0xffff_ffff, BIG, u64::MAX] {
                let arg = |index: u32, value: u64| {
                    let second = value & 0x1_0000_0004;
                    format!(
                        r#"{{"index":{index},"value":{value},"valueTwo":{second},
                        "op":"SCMP_CMP_{operator}"}}"#
                    )
                };
                let json = format!(
                    r#"{{"defaultAction":"{default}","defaultErrnoRet":{},"syscalls":[
                    {{"names":["read","openat","no_such_call"],"action":"SCMP_ACT_TRAP",
                      "args":[{}]}},
                    {{"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS","args":[{},{}]}},
                    {{"names":["fcntl"],"action":"SCMP_ACT_ERRNO","errnoRet":99,"args":[{},{}]}},
                    {{"names":["mkdirat"],"action":"SCMP_ACT_KILL_THREAD"}},
                    {{"names":["unlinkat"],"action":"SCMP_ACT_TRACE","errnoRet":7}},
                    {{"names":["dup"],"action":"SCMP_ACT_KILL"}},
                    {{"names":["renameat"],"action":"SCMP_ACT_NOTIFY"}},
                    {{"names":["close"],"action":"{default}"}}]}}"#,
                    if default == Action::ScmpActErrno {
                        "42"
                    } else {
                        "null"
                    },
                    arg(2, value),
                    arg(0, value),
                    arg(1, value / 2),
                    // Of longer values on one argument libseccomp 2.5.4 loses some.
                    arg(1, value & 0xffff),
                    arg(1, (value & 0xffff) / 3),
                );
                let mut filter: LinuxSeccomp = serde_json::from_str(&json).unwrap();
                filter.set_architectures(Some(ARCHS.to_vec()));
                compare(&format!("{default} {operator} {value:x}"), &filter, &oracle);
            }
        }
    }
}

/// Whatever else the folder that `CONFORMANCE_DIR` names has: the default profile as it is published,
/// and profiles in other forms.
#[cfg(target_arch = "x86_64")]
#[test]
fn published_profiles_decide_as_through_libseccomp() {
    let Some(folder) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return;
    };
    let Some(oracle) = Oracle::build() else {
        return;
    };
    let mut profiles = 0;
    for entry in std::fs::read_dir(std::path::Path::new(&folder).join("seccomp")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let mut filter: LinuxSeccomp = if name.starts_with("expanded-") {
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            serde_json::from_value(json["seccomp"].clone()).unwrap()
        } else {
            let host = Host {
                capabilities: capability::DEFAULT,
                arch: Arch::ScmpArchX86_64,
                kernel: (6, 18),
            };
            Profile::parse(&bytes).unwrap().expand(&host).unwrap()
        };
        if filter.architectures().as_ref().is_none_or(Vec::is_empty) {
            filter.set_architectures(Some(vec![Arch::ScmpArchX86_64]));
        }
        // The kernel makes the highest error number of more than that; libseccomp refuses it.
        let mut rules = filter.syscalls().iter().flatten();
        if rules.any(|rule| rule.errno_ret().is_some_and(|errno| errno > 4095)) {
            compile(&filter).unwrap();
            continue;
        }
        compare(&name, &filter, &oracle);
        profiles += 1;
    }
    assert!(profiles >= 14, "{profiles}");
}
