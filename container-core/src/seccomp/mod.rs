//! System call filters: from a profile to the program that the kernel runs.
//!
//! A [`Profile`] is what Docker reads: rules with conditions on capabilities, architecture and kernel
//! version. For one container it [expands](Profile::expand) to the filter of the runtime spec, and
//! [`compile`] makes that the instructions that are loaded.

mod agent;
mod arch;
mod compile;
mod default;
#[cfg(test)]
mod interpreter;
mod listener;
#[cfg(test)]
mod oracle;
mod profile;
#[cfg(test)]
mod tests;

pub(crate) use self::agent::Agent;
pub use self::compile::{Filter, Instruction, compile};
pub use self::default::default_profile;
pub use self::listener::{Listener, Request};
pub use self::profile::{ArchMap, Condition, Host, Profile, Rule};
