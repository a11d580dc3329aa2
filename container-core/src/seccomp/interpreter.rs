//! A classic BPF machine that runs filters as the kernel does, to test what they decide.

use super::compile::{
    BPF_AND_K, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_LD_W_ABS, BPF_RET_K, Instruction,
};

/// Which only other compilers emit.
const BPF_JSET: u16 = 0x45;

/// A call as the kernel shows it to a filter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) audit: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

/// What `program` returns for `call`.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut data = Vec::with_capacity(64);
    data.extend(call.number.to_ne_bytes());
    data.extend(call.audit.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    data.extend(call.args.iter().flat_map(|arg| arg.to_ne_bytes()));
    let (mut at, mut value) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            BPF_LD_W_ABS => {
                let at = usize::try_from(k).unwrap();
                value = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            BPF_AND_K => value &= k,
            BPF_JA => at += usize::try_from(k).unwrap(),
            BPF_JEQ => at += branch(value == k),
            BPF_JGT => at += branch(value > k),
            BPF_JSET => at += branch(value & k != 0),
            BPF_JGE => at += branch(value >= k),
            BPF_RET_K => return k,
            _ => panic!("instruction {code:#x} is none that the compiler emits"),
        }
    }
}
