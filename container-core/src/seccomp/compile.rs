//! Filters of the runtime spec to instructions of the kernel's classic BPF.
//!
//! The kernel runs a filter once for every system call number when it is loaded and again at each
//! call, so a program is a binary search: for each architecture, over the runs of neighbouring numbers
//! that are treated alike.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};
use serde::{Deserialize, Serialize};

use super::arch::{Machine, X32_BIT};
use crate::sys::NEW_LISTENER;
use crate::{Error, ErrorKind, Result};

/// One instruction, laid out as `struct sock_filter` of `linux/filter.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions to skip if a comparison holds.
    pub jt: u8,
    /// How many instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A program, and how to load it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Filter {
    /// What the kernel runs at each system call.
    pub instructions: Arc<[Instruction]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Compiles a filter; the last few are remembered, so that the same one again costs a comparison.
///
/// - The native architecture is always covered. Calls of one that is not listed kill the process, as
///   do those of an architecture that this library knows no system calls of.
/// - A name that an architecture does not have is passed over there.
/// - Of several rules for one call an unconditional one wins, otherwise the first that holds; a rule
///   with the default action is passed over. All conditions of a rule must hold, unless two are on the
///   same argument: then each of them is a rule of its own, as in runc.
/// - Arguments that the kernel reads as 32 bits (the request of `ioctl`, say) are compared as 32 bits:
///   the upper half cannot be used to slip past a rule.
/// - Where the default is an error, a call newer than all that the filter names fails with `ENOSYS`, so
///   that programs fall back to an older one.
///
/// # Errors
/// `InvalidFilter` for an argument index above 5, an error number above 65535 or on an action without
/// one, more than 4096 instructions, or `SCMP_ACT_NOTIFY` as the default or for `write`, which a process
/// needs before anybody listens; `Unsupported` with the same code on an architecture without a table.
///
/// # References
/// `seccomp(2)`; runtime-spec `config-linux.md#seccomp`.
pub fn compile(filter: &LinuxSeccomp) -> Result<Filter> {
    static RECENT: Mutex<Vec<(LinuxSeccomp, Filter)>> = Mutex::new(Vec::new());
    // What is in there stays right whatever happened to a thread that held the lock.
    let lock = || RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, compiled)) = lock().iter().find(|(known, _)| known == filter) {
        return Ok(compiled.clone());
    }
    let compiled = Filter {
        instructions: program(filter)?.into(),
        flags: flags(filter)?,
    };
    let mut recent = lock();
    if recent.len() == REMEMBERED {
        recent.remove(0);
    }
    recent.push((filter.clone(), compiled.clone()));
    Ok(compiled)
}

fn program(filter: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let rules = Rules::read(filter)?;
    let mut program = vec![load(ARCH)];
    for machine in rules.machines() {
        let section = section(&rules, machine);
        let skip = u32::try_from(section.len()).map_err(|_| too_long())?;
        program.push(compare(BPF_JEQ, machine.audit(), 1, 0));
        program.push(jump(skip));
        program.extend(section);
    }
    program.push(give(KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(too_long());
    }
    Ok(program)
}

/// The instructions for the calls of one machine.
fn section(rules: &Rules, machine: Machine) -> Vec<Instruction> {
    let mut calls = BTreeMap::new();
    rules.collect(&mut calls, |name| machine.number(name));
    let mut runs = Runs::new(rules.default);
    runs.extend(calls, rules.beyond);
    if machine == Machine::X86_64 {
        if rules.x32 {
            let mut calls = BTreeMap::new();
            rules.collect(&mut calls, Machine::x32_number);
            runs.start(X32_BIT, Leaf::Give(rules.default));
            runs.extend(calls, rules.beyond);
        } else {
            runs.start(X32_BIT, Leaf::Give(KILL_PROCESS));
            // A tracer writes -1 to skip a call.
            runs.start(u32::MAX, Leaf::Give(rules.default));
        }
    }
    let mut section = vec![load(NUMBER)];
    section.extend(search(&runs.0));
    section
}

/// The rules, read and checked once for all machines.
struct Rules<'f> {
    archs: Vec<Arch>,
    x32: bool,
    /// What happens to a call without a rule.
    default: u32,
    /// What happens to a call above all that have a rule.
    beyond: u32,
    calls: Vec<(&'f str, Case)>,
}

/// What one rule says of a call.
#[derive(Clone)]
enum Case {
    Always(u32),
    If(Vec<Test>, u32),
}

impl<'f> Rules<'f> {
    fn read(filter: &'f LinuxSeccomp) -> Result<Self> {
        if Machine::NATIVE.is_none() {
            let what = "compile a seccomp filter: no system calls are known for this architecture";
            return Err(Error::new(ErrorKind::Unsupported, "InvalidFilter", what));
        }
        let archs = filter.architectures().clone().unwrap_or_default();
        let default = action(filter.default_action(), filter.default_errno_ret())?;
        let fails = filter.default_action() == Action::ScmpActErrno;
        let mut calls = Vec::new();
        for rule in filter.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            if action == default {
                continue;
            }
            for name in rule.names() {
                for case in cases(name, rule, action)? {
                    calls.push((name.as_str(), case));
                }
            }
        }
        Ok(Self {
            x32: archs.contains(&Arch::ScmpArchX32),
            archs,
            default,
            beyond: if fails { RET_ERRNO | ENOSYS } else { default },
            calls,
        })
    }

    /// The machines to cover, the native one first.
    fn machines(&self) -> Vec<Machine> {
        let listed = self.archs.iter().filter_map(|arch| Machine::of(*arch));
        let mut machines = Vec::new();
        for machine in Machine::NATIVE.into_iter().chain(listed) {
            if !machines.contains(&machine) {
                machines.push(machine);
            }
        }
        machines
    }

    /// Gathers what happens to each call that `number` knows.
    fn collect(&self, calls: &mut BTreeMap<u32, Leaf>, number: impl Fn(&str) -> Option<u32>) {
        for (name, case) in &self.calls {
            let Some(number) = number(name) else { continue };
            let leaf = calls
                .entry(number)
                .or_insert_with(|| Leaf::Choose(Vec::new(), self.default));
            match (leaf, case) {
                (Leaf::Give(_), _) => {}
                (leaf @ Leaf::Choose(..), Case::Always(action)) => *leaf = Leaf::Give(*action),
                (Leaf::Choose(cases, _), Case::If(tests, action)) => {
                    cases.push((tests.clone(), *action));
                }
            }
        }
    }
}

/// The cases of one rule for the call `name`.
fn cases(name: &str, rule: &LinuxSyscall, action: u32) -> Result<Vec<Case>> {
    let args = rule.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Ok(vec![Case::Always(action)]);
    }
    let tests: Vec<_> = args
        .iter()
        .map(|arg| Test::read(name, arg))
        .collect::<Result<_>>()?;
    let repeated = (1..tests.len()).any(|at| tests[..at].iter().any(|it| it.arg == tests[at].arg));
    if repeated {
        return Ok(tests
            .into_iter()
            .map(|test| Case::If(vec![test], action))
            .collect());
    }
    Ok(vec![Case::If(tests, action)])
}

/// A condition on one argument.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Test {
    arg: u32,
    /// The kernel looks at the lower half only.
    narrow: bool,
    operator: Operator,
    value: u64,
    /// What the masked argument is compared with.
    wanted: u64,
}

impl Test {
    fn read(name: &str, arg: &LinuxSeccompArg) -> Result<Self> {
        let index = u32::try_from(arg.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or_else(|| {
                let what = format!(
                    "compile a seccomp rule for {name}: argument {}",
                    arg.index()
                );
                Error::invalid("InvalidFilter", format!("{what} is not one of 0 to 5"))
            })?;
        let wanted = arg.value_two().unwrap_or(0);
        // A value that does not fit can only be meant for the whole argument.
        let fits = arg.value() <= u64::from(u32::MAX) && wanted <= u64::from(u32::MAX);
        Ok(Self {
            arg: index,
            narrow: fits && NARROW.contains(&(name, index)),
            operator: arg.op(),
            value: arg.value(),
            wanted,
        })
    }

    /// The instructions that fall through if the test holds and otherwise skip `rest` more.
    fn instructions(self, rest: u8) -> Vec<Instruction> {
        let low = load(ARGUMENTS + 8 * self.arg + LOW);
        let high = load(ARGUMENTS + 8 * self.arg + HIGH);
        let (vl, vh) = halves(self.value);
        if self.operator == Operator::ScmpCmpMaskedEq {
            let (wl, wh) = halves(self.wanted);
            let half =
                |load, mask, wanted, rest| [load, and(mask), compare(BPF_JEQ, wanted, 0, rest)];
            let mut code = Vec::with_capacity(6);
            if (vh, wh) != (0, 0) && !self.narrow {
                code.extend(half(high, vh, wh, rest + 3));
            }
            code.extend(half(low, vl, wl, rest));
            return code;
        }
        let last = match self.operator {
            Operator::ScmpCmpNe => compare(BPF_JEQ, vl, rest, 0),
            Operator::ScmpCmpEq => compare(BPF_JEQ, vl, 0, rest),
            Operator::ScmpCmpGt => compare(BPF_JGT, vl, 0, rest),
            Operator::ScmpCmpGe => compare(BPF_JGE, vl, 0, rest),
            Operator::ScmpCmpLt => compare(BPF_JGE, vl, rest, 0),
            Operator::ScmpCmpLe | Operator::ScmpCmpMaskedEq => compare(BPF_JGT, vl, rest, 0),
        };
        if self.narrow {
            return vec![low, last];
        }
        // Two instructions, those of the lower half, follow each of these.
        let upper = match self.operator {
            Operator::ScmpCmpNe => vec![compare(BPF_JEQ, vh, 0, 2)],
            Operator::ScmpCmpGt | Operator::ScmpCmpGe => {
                vec![
                    compare(BPF_JGT, vh, 3, 0),
                    compare(BPF_JEQ, vh, 0, rest + 2),
                ]
            }
            Operator::ScmpCmpLt | Operator::ScmpCmpLe => {
                vec![
                    compare(BPF_JGT, vh, rest + 3, 0),
                    compare(BPF_JEQ, vh, 0, 2),
                ]
            }
            Operator::ScmpCmpEq | Operator::ScmpCmpMaskedEq => {
                vec![compare(BPF_JEQ, vh, 0, rest + 2)]
            }
        };
        [vec![high], upper, vec![low, last]].concat()
    }
}

/// What happens to a call.
#[derive(Clone, PartialEq, Eq)]
enum Leaf {
    Give(u32),
    /// The action of the first case whose tests all hold, or the last one.
    Choose(Vec<(Vec<Test>, u32)>, u32),
}

impl Leaf {
    fn instructions(&self) -> Vec<Instruction> {
        let (cases, otherwise) = match self {
            Self::Give(action) => return vec![give(*action)],
            Self::Choose(cases, otherwise) => (cases, otherwise),
        };
        let mut code = Vec::new();
        for (tests, action) in cases {
            // Backwards, as each test must know how much follows it.
            let mut case = vec![give(*action)];
            for test in tests.iter().rev() {
                let rest = u8::try_from(case.len()).expect("six tests are at most 37 instructions");
                case.splice(0..0, test.instructions(rest));
            }
            code.extend(case);
        }
        code.push(give(*otherwise));
        code
    }
}

/// Where the treatment of calls changes: each entry holds up to the next one.
struct Runs(Vec<(u32, Leaf)>);

impl Runs {
    fn new(default: u32) -> Self {
        Self(vec![(0, Leaf::Give(default))])
    }

    /// Adds calls in ascending order; between them goes what ran before the first, after them `beyond`.
    fn extend(&mut self, calls: BTreeMap<u32, Leaf>, beyond: u32) {
        let between = self.0.last().expect("there is always a run").1.clone();
        let mut end = None;
        for (number, leaf) in calls {
            if let Some(end) = end.filter(|end| *end < number) {
                self.start(end, between.clone());
            }
            self.start(number, leaf);
            end = number.checked_add(1);
        }
        if let Some(end) = end {
            self.start(end, Leaf::Give(beyond));
        }
    }

    fn start(&mut self, number: u32, leaf: Leaf) {
        if self.0.last().is_some_and(|(start, _)| *start == number) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, last)| *last != leaf) {
            self.0.push((number, leaf));
        }
    }
}

/// A binary search for the run of the loaded number; each half is searched in turn.
fn search(runs: &[(u32, Leaf)]) -> Vec<Instruction> {
    if let [(_, leaf)] = runs {
        return leaf.instructions();
    }
    if let Some(actions) = plain(runs) {
        return Shared::plant(&actions);
    }
    let (below, above) = runs.split_at(runs.len() / 2);
    let left = search(below);
    let boundary = above[0].0;
    let mut code = match u8::try_from(left.len()) {
        Ok(skip) => vec![compare(BPF_JGE, boundary, skip, 0)],
        // Too far for a comparison, whose jumps have eight bits.
        Err(_) => {
            let skip = u32::try_from(left.len()).unwrap_or(u32::MAX);
            vec![compare(BPF_JGE, boundary, 0, 1), jump(skip)]
        }
    };
    code.extend(left);
    code.extend(search(above));
    code
}

/// The runs with their actions, if there are few and none has to choose.
fn plain(runs: &[(u32, Leaf)]) -> Option<Vec<(u32, u32)>> {
    let action = |(start, leaf): &(u32, Leaf)| match leaf {
        Leaf::Give(action) => Some((*start, *action)),
        Leaf::Choose(..) => None,
    };
    let few = runs.len() <= SHARED;
    few.then(|| runs.iter().map(action).collect()).flatten()
}

/// A part of the search that is near enough to its ends for them to stand there once each.
struct Shared {
    /// Comparisons: from this number on go there, below it go there.
    nodes: Vec<(u32, Target, Target)>,
    actions: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Target {
    Node(usize),
    Action(usize),
}

impl Shared {
    fn plant(runs: &[(u32, u32)]) -> Vec<Instruction> {
        let mut shared = Self {
            nodes: Vec::new(),
            actions: Vec::new(),
        };
        shared.grow(runs);
        let place = |target| match target {
            Target::Node(at) => at,
            Target::Action(at) => shared.nodes.len() + at,
        };
        let compares = shared
            .nodes
            .iter()
            .enumerate()
            .map(|(at, (boundary, above, below))| {
                let skip = |target| {
                    u8::try_from(place(target) - at - 1)
                        .expect("a part has at most 2 * SHARED places")
                };
                compare(BPF_JGE, *boundary, skip(*above), skip(*below))
            });
        compares
            .chain(shared.actions.iter().map(|action| give(*action)))
            .collect()
    }

    fn grow(&mut self, runs: &[(u32, u32)]) -> Target {
        if let [(_, action)] = runs {
            let known = self.actions.iter().position(|it| it == action);
            return Target::Action(known.unwrap_or_else(|| {
                self.actions.push(*action);
                self.actions.len() - 1
            }));
        }
        let (below, above) = runs.split_at(runs.len() / 2);
        let at = self.nodes.len();
        self.nodes
            .push((above[0].0, Target::Node(0), Target::Node(0)));
        let low = self.grow(below);
        let high = self.grow(above);
        self.nodes[at] = (above[0].0, high, low);
        Target::Node(at)
    }
}

/// The value that the kernel acts on, `SECCOMP_RET_*` with its data.
fn action(action: Action, errno: Option<u32>) -> Result<u32> {
    let takes_errno = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    match errno {
        Some(errno) if !takes_errno => {
            let what = format!("compile a seccomp filter: {action} with error number {errno}");
            Err(Error::invalid("InvalidFilter", what))
        }
        Some(errno) if errno > 0xffff => {
            let what = format!("compile a seccomp filter: error number {errno} is above 65535");
            Err(Error::invalid("InvalidFilter", what))
        }
        _ => Ok(action.as_u32(errno)),
    }
}

/// `SECCOMP_FILTER_FLAG_*`, with a listener if a rule needs one.
fn flags(filter: &LinuxSeccomp) -> Result<u32> {
    let flags = filter.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => TSYNC,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => 4,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 32,
            }
    });
    let rules = filter.syscalls().iter().flatten();
    let notifying = rules.filter(|rule| rule.action() == Action::ScmpActNotify);
    if filter.default_action() == Action::ScmpActNotify {
        let what = "compile a seccomp filter with SCMP_ACT_NOTIFY as its default";
        return Err(Error::invalid("InvalidFilter", what));
    }
    if notifying
        .clone()
        .any(|rule| rule.names().iter().any(|name| name == "write"))
    {
        let what = "compile a seccomp filter with SCMP_ACT_NOTIFY for write";
        return Err(Error::invalid("InvalidFilter", what));
    }
    Ok(match notifying.count() {
        0 => flags,
        // The kernel takes only one of the two, and the process has one thread.
        _ => flags & !TSYNC | NEW_LISTENER,
    })
}

fn too_long() -> Error {
    let what = format!("compile a seccomp filter: longer than {MAX_INSTRUCTIONS} instructions");
    Error::invalid("InvalidFilter", what)
}

/// The lower and the upper half.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

fn load(offset: u32) -> Instruction {
    instruction(BPF_LD_W_ABS, 0, 0, offset)
}

fn and(mask: u32) -> Instruction {
    instruction(BPF_AND_K, 0, 0, mask)
}

fn compare(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    instruction(code, jt, jf, k)
}

fn jump(skip: u32) -> Instruction {
    instruction(BPF_JA, 0, 0, skip)
}

fn give(action: u32) -> Instruction {
    instruction(BPF_RET_K, 0, 0, action)
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Thread synchronisation, for programs that filter themselves.
const TSYNC: u32 = 1;

/// The most runs that share their ends: jumps of comparisons have eight bits.
const SHARED: usize = 100;

/// How many compiled filters are remembered: a host runs few profiles.
const REMEMBERED: usize = 8;

/// The longest program that the kernel takes (`BPF_MAXINSNS` of `linux/bpf_common.h`).
const MAX_INSTRUCTIONS: usize = 4096;

/// Arguments of type `int` or `unsigned int`, whose upper half the kernel drops.
pub(super) const NARROW: [(&str, u32); 6] = [
    ("ioctl", 1),
    ("personality", 0),
    ("prctl", 0),
    ("socket", 0),
    ("socket", 1),
    ("socket", 2),
];

// Operations of `linux/bpf_common.h`, as sums of their class, size or source, and mode.
pub(super) const BPF_LD_W_ABS: u16 = 0x20;
pub(super) const BPF_JA: u16 = 0x05;
pub(super) const BPF_JEQ: u16 = 0x15;
pub(super) const BPF_JGT: u16 = 0x25;
pub(super) const BPF_JGE: u16 = 0x35;
pub(super) const BPF_AND_K: u16 = 0x54;
pub(super) const BPF_RET_K: u16 = 0x06;

// Offsets in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
const LOW: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
const HIGH: u32 = 4 - LOW;

// Return values of `linux/seccomp.h`.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const ENOSYS: u32 = 38;
