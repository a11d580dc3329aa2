//! Device rules for cgroup version 2, which has no file for them: a program that the kernel asks.
//!
//! # References
//! Kernel `Documentation/admin-guide/cgroup-v2.rst`, "Device controller"; `bpf(2)`; `struct
//! bpf_cgroup_dev_ctx` of `linux/bpf.h`.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::io::Errno;

use crate::{Error, Result, sys};

/// Has the kernel ask `rules` for every device that a process of `group` opens or makes, and no longer
/// what it was told to ask before.
pub(super) fn attach(group: BorrowedFd<'_>, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let program = program(rules)?;
    replace(group, &program)
        .map_err(|errno| Error::os("load the device rules of a cgroup into the kernel", errno))
}

fn replace(group: BorrowedFd<'_>, program: &[Instruction]) -> Result<(), Errno> {
    let program = sys::load_device_program(program)?;
    let old = sys::device_programs(group)?.collect::<Result<Vec<_>, _>>()?;
    if let [replaced] = old.as_slice() {
        match sys::attach_device_program(group, &program, Some(replaced)) {
            // Linux before 5.6: for a moment both are asked, and both must allow.
            Err(Errno::INVAL) => {}
            outcome => return outcome,
        }
    }
    sys::attach_device_program(group, &program, None)?;
    old.iter()
        .try_for_each(|old| sys::detach_device_program(group, old))
}

/// One instruction (`struct bpf_insn`): opcode, destination and source register, offset, constant.
pub(crate) type Instruction = u64;

/// Registers: what the program gives, and the parts of the question.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Free once the parts are loaded.
const SCRATCH: u8 = CONTEXT;

// Opcodes of `linux/bpf.h`, for 64-bit registers and constants.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// `BPF_DEVCG_DEV_*`
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// `BPF_DEVCG_ACC_*`
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// The rules as a program. The last rule that covers a question answers it, as in version 1; what no
/// rule covers is allowed.
fn program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    let mut program = vec![
        encode(LOAD_WORD, KIND, CONTEXT, 0, 0),
        encode(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        encode(AND, KIND, 0, 0, 0xffff),
        encode(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        encode(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        encode(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let section = section(rule)?;
        let covers_all = section.len() == answer(true).len();
        program.extend(section);
        if covers_all {
            // The kernel refuses a program with instructions that are never reached.
            return Ok(program);
        }
    }
    program.extend(answer(true));
    Ok(program)
}

/// Answers if `rule` covers the question, and goes on behind the section if not.
fn section(rule: &LinuxDeviceCgroup) -> Result<Vec<Instruction>> {
    let mut tests: Vec<Test> = Vec::new();
    match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => {}
        LinuxDeviceType::B => tests.push(Test::Is(KIND, BLOCK)),
        LinuxDeviceType::C | LinuxDeviceType::U => tests.push(Test::Is(KIND, CHARACTER)),
        LinuxDeviceType::P => return Err(invalid(rule)),
    }
    let access = access(rule)?;
    if access != ALL {
        // All that is asked for has to be allowed; to deny one of it is to deny it.
        tests.push(if rule.allow() {
            Test::Without(!access & ALL)
        } else {
            Test::With(access)
        });
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.filter(|number| *number >= 0) {
            let number = i32::try_from(number).map_err(|_| invalid(rule))?;
            tests.push(Test::Is(register, number));
        }
    }
    let mut section = Vec::new();
    // From the last to the first, each skipping what is behind it.
    section.extend(answer(rule.allow()));
    for test in tests.iter().rev() {
        let skip = i16::try_from(section.len()).map_err(|_| invalid(rule))?;
        let mut with = test.instructions(skip);
        with.append(&mut section);
        section = with;
    }
    Ok(section)
}

/// A condition of a rule.
enum Test {
    /// The register holds this number.
    Is(u8, i32),
    /// None of these accesses is asked for.
    Without(i32),
    /// One of these accesses is asked for.
    With(i32),
}

impl Test {
    /// Skips `skip` instructions unless the condition holds.
    fn instructions(&self, skip: i16) -> Vec<Instruction> {
        let masked = |mask: i32, jump: u8| {
            vec![
                encode(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0),
                encode(AND, SCRATCH, 0, 0, mask),
                encode(jump, SCRATCH, 0, skip, 0),
            ]
        };
        match *self {
            Self::Is(register, number) => {
                vec![encode(JUMP_IF_NOT_EQUAL, register, 0, skip, number)]
            }
            Self::Without(mask) => masked(mask, JUMP_IF_NOT_EQUAL),
            Self::With(mask) => masked(mask, JUMP_IF_EQUAL),
        }
    }
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        encode(MOVE, ANSWER, 0, 0, i32::from(allow)),
        encode(EXIT, 0, 0, 0, 0),
    ]
}

fn access(rule: &LinuxDeviceCgroup) -> Result<i32> {
    let text = rule.access().as_deref().filter(|text| !text.is_empty());
    let mut mask = 0;
    for letter in text.unwrap_or("rwm").chars() {
        mask |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => return Err(invalid(rule)),
        };
    }
    Ok(mask)
}

fn invalid(rule: &LinuxDeviceCgroup) -> Error {
    Error::invalid("InvalidDeviceRule", format!("set the device rule {rule:?}"))
}

/// Lays an instruction out as the kernel reads it, in the byte order of the machine.
fn encode(opcode: u8, target: u8, source: u8, offset: i16, constant: i32) -> Instruction {
    let [o0, o1] = offset.to_ne_bytes();
    let [c0, c1, c2, c3] = constant.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        source << 4 | target
    } else {
        target << 4 | source
    };
    u64::from_ne_bytes([opcode, registers, o0, o1, c0, c1, c2, c3])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::defaults::default_spec;

    fn default_rules() -> Vec<LinuxDeviceCgroup> {
        let spec = default_spec();
        let linux = spec.linux().as_ref().unwrap();
        linux
            .resources()
            .as_ref()
            .unwrap()
            .devices()
            .clone()
            .unwrap()
    }

    #[test]
    fn every_rule_ends_in_its_answer() {
        let rules = default_rules();
        let program = program(&rules).unwrap();
        let answers = program.iter().filter(|it| **it == encode(EXIT, 0, 0, 0, 0));
        assert_eq!(answers.count(), rules.len());
        let one = super::program(&rules[1..2]).unwrap();
        let answers = one.iter().filter(|it| **it == encode(EXIT, 0, 0, 0, 0));
        assert_eq!(answers.count(), 2);
    }

    /// Where this host has the unified hierarchy.
    fn unified() -> Option<&'static Path> {
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .map(Path::new)
            .into_iter()
            .find(|path| path.join("cgroup.controllers").exists())
    }

    #[test]
    fn privileged_the_kernel_asks_the_program() {
        let Some(unified) = unified().filter(|_| rustix::process::geteuid().is_root()) else {
            eprintln!("skipped: needs root and a unified hierarchy");
            return;
        };
        let group = unified.join(format!("container-engine-device-{}", std::process::id()));
        fs::create_dir(&group).unwrap();
        let directory = fs::File::open(&group).unwrap();
        attach(directory.as_fd(), &default_rules()).unwrap();
        attach(directory.as_fd(), &default_rules()).unwrap();
        assert_eq!(sys::device_programs(directory.as_fd()).unwrap().count(), 1);
        // Null may be opened, the loop control device (10:237) and memory (1:1) may not.
        let script = format!(
            "echo $$ > {}/cgroup.procs; cat /dev/null && echo null; mknod $1/mem c 1 1 && echo made; \
             head -c 1 $1/mem > $1/out 2>/dev/null || echo no memory",
            group.display()
        );
        let scratch = tempfile::tempdir().unwrap();
        let output = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(scratch.path())
            .output()
            .unwrap();
        fs::remove_dir(&group).unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "null\nmade\nno memory\n", "{:?}", output.stderr);
    }
}
