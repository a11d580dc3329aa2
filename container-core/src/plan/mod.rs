//! Plans: what happens between the clone and the program, compiled beforehand.
//!
//! [`Plan::compile`] turns an OCI [`Spec`](oci_spec::runtime::Spec) into a flat list of kernel
//! operations with all strings ready. The child of the clone walks it with raw system calls. A plan
//! prints as text, one step a line: a dry run.

pub(crate) mod child;
mod compile;
mod display;
pub(crate) mod hook;
pub(crate) mod mounts;
mod namespaces;
mod place;
pub(crate) mod step;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Process, Spec};
use serde::{Deserialize, Serialize};

pub(crate) use self::compile::process::candidates;
use self::hook::{HookEnd, HookFailure, HookSet, Stage};
use self::step::{Call, SecurityModule, SlotKind, Step, Tree};
use crate::feature::Features;
use crate::landlock::Ruleset;
use crate::state::Confinement;
use crate::{Error, ErrorKind, Result};

/// A start, ready to be made: the kernel operations in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The `CLONE_*` flags of the new process.
    pub(crate) flags: u64,
    /// Existing namespaces that the process is born into, in the order in which they are entered.
    pub(crate) born_in: Vec<Birthplace>,
    /// The cgroup v2 group that the process is born into.
    pub(crate) cgroup: Option<step::Slot>,
    pub(crate) id_maps: Option<IdMaps>,
    /// The processors that the process has until it is in its cgroups, as bits.
    pub(crate) affinity: Option<Vec<u64>>,
    pub(crate) oom_score_adj: Option<i32>,
    /// The descriptors that travel with the plan.
    pub(crate) slots: Vec<SlotKind>,
    /// The trees that the monitor opens, as only it may map their ids.
    pub(crate) mapped: Vec<MappedTree>,
    /// How many mounts steps refer to by number.
    pub(crate) kept: u16,
    pub(crate) steps: Vec<Step>,
    /// The hooks of each stage that has some.
    pub(crate) hooks: Vec<HookSet>,
}

/// Namespaces that only a child can be in, or that own those which are made with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Birthplace {
    /// A namespace, or a process for those that it is in.
    pub(crate) of: step::Slot,
    /// `CLONE_NEW*`.
    pub(crate) namespaces: u32,
}

/// The contents of `/proc/PID/{uid_map,gid_map}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMaps {
    pub(crate) uid: String,
    pub(crate) gid: String,
    /// An unprivileged process may write a group map only after giving up `setgroups`.
    pub(crate) deny_setgroups: bool,
    /// They are written by `newuidmap` and `newgidmap`.
    pub(crate) by_programs: bool,
}

/// A tree of the host whose ids are mapped before it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MappedTree {
    pub(crate) tree: Tree,
    pub(crate) maps: IdMaps,
    /// Of all mounts below, too.
    pub(crate) recursive: bool,
}

/// What a plan depends on beside the [`Spec`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The mounts that make up the root file system, before those of the spec; empty: the directory
    /// `root.path` of the spec itself. The first is the root, the destinations of all others are below
    /// it. Overlay mounts name each lower directory by an option `lowerdir+=`, topmost first.
    pub root_mounts: Vec<Mount>,
    /// `USER[:GROUP]` by name or number, looked up in the root file system's `/etc/passwd` and
    /// `/etc/group`; wins over `process.user` of the spec.
    pub user: Option<String>,
    /// The name of the container: hooks are told it, and its session keyring is called by it.
    pub id: Option<String>,
    /// Whether the process gets a session keyring of its own, so that it sees no keys of this program.
    pub new_keyring: bool,
    /// Whether a process whose environment has no `HOME` gets that of its account in the root file
    /// system's `/etc/passwd`; with [`user`](Self::user) it always does.
    pub find_home: bool,
    /// The files that the process may do something with, beside all other limits; `None`: any.
    pub landlock: Option<Ruleset>,
    /// Whether the process waits for the word to start once everything else is done.
    pub wait_for_start: bool,
    /// Whether the process outlives its parent, which leaves it to a subreaper. That its program can be
    /// executed is then checked before the wait.
    pub disowned: bool,
    /// The numbers of the descriptors that the program gets beside its standard streams.
    pub descriptors: Vec<u32>,
    /// Whether the program runs below an init, as [`CreateOptions::init`](crate::CreateOptions::init).
    pub init: bool,
    /// Whether the process reaps instead of executing a program.
    pub(crate) lingers: bool,
    /// The cgroup hierarchies of the host, and which of them the process enters.
    pub cgroups: CgroupEntry,
    /// What this kernel has; [`Features::host`] unless another host is planned for.
    pub features: Features,
}

/// How a process gets into its cgroup, and which hierarchies it sees mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CgroupEntry {
    /// Enters this many cgroup v1 groups by writing to a file of each.
    pub joins: usize,
    /// Is born into a cgroup v2 group.
    pub into: bool,
    /// The hierarchies that a mount of type `cgroup` consists of.
    pub hierarchies: Vec<Hierarchy>,
    /// The directories of the groups that the process enters, by controller; the unified hierarchy's by
    /// the empty name. Without a cgroup namespace a mount of type `cgroup` consists of these.
    pub own: BTreeMap<String, PathBuf>,
}

/// One cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// The unified one.
    V2,
    /// A version 1 hierarchy: its directory below `/sys/fs/cgroup`, and its mount options.
    V1 {
        /// The directory's name.
        directory: String,
        /// Options such as `cpu` or `name=systemd`.
        options: Vec<String>,
    },
}

impl Default for PlanOptions {
    /// No extra mounts, user, name, waiting or cgroup, a new keyring, on this host.
    fn default() -> Self {
        Self {
            root_mounts: Vec::new(),
            user: None,
            id: None,
            new_keyring: true,
            find_home: false,
            landlock: None,
            wait_for_start: false,
            disowned: false,
            descriptors: Vec::new(),
            init: false,
            lingers: false,
            cgroups: CgroupEntry::default(),
            features: Features::host(),
        }
    }
}

impl Plan {
    /// Compiles `spec`, whose relative paths are below `bundle`.
    ///
    /// Nothing is done to the kernel, and no file is opened.
    ///
    /// Each namespace that the spec lists is new or, with a path, joined; one that it does not list is
    /// the host's. Only a new mount namespace gets a root file system and mounts. A mount that binds a
    /// file shows that file, and not another one that later gets its name by a rename.
    ///
    /// # Errors
    /// `InvalidInput` for a value that breaks its rules, `Unsupported` naming a field that is set and
    /// cannot be honoured.
    ///
    /// # References
    /// runtime-spec `config.md`, `config-linux.md`.
    pub fn compile(spec: &Spec, bundle: &Path, options: &PlanOptions) -> Result<Self> {
        compile::Compiler::new(spec, bundle, options).compile()
    }

    /// Compiles a process that is executed in a container: in these `namespaces` of its first process,
    /// bound by `confinement`.
    pub(crate) fn compile_exec(
        process: &Process,
        confinement: &Confinement,
        namespaces: u32,
        options: &PlanOptions,
    ) -> Result<Self> {
        let mut spec = Spec::default();
        spec.set_root(None);
        spec.set_linux(None);
        spec.set_process(Some(process.clone()));
        compile::Compiler::new(&spec, Path::new("/"), options).compile_exec(confinement, namespaces)
    }

    /// The highest number of a descriptor that is passed to the program.
    pub(crate) fn highest_descriptor(&self) -> Option<i32> {
        let numbers = self.slots.iter().filter_map(|slot| match slot {
            SlotKind::Extra(number) => i32::try_from(*number).ok(),
            _ => None,
        });
        numbers.max()
    }

    /// Whether the process has a terminal for its standard streams.
    pub(crate) fn has_terminal(&self) -> bool {
        self.slots.contains(&SlotKind::Console)
    }
}

/// What the child of the clone says to its monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Everything is set up but the program itself.
    Waiting,
    /// The next call is `execve`; the end of the file after this word means that it succeeded.
    Ready,
    /// A step failed, and the child is gone.
    Failed { step: u16, call: u8, errno: i32 },
    /// This is its descriptor of a seccomp listener; the child waits.
    Listener { number: i32 },
    /// The hooks outside of the container are to run; the child waits.
    Hooks,
    /// A hook failed, and the child is gone. The beginning of its output follows, to the end.
    HookFailed { stage: Stage, at: u16, end: HookEnd },
}

impl Word {
    pub(crate) const SIZE: usize = 8;

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let (kind, call, step, errno) = match self {
            Self::Waiting => (1, 0, 0, 0),
            Self::Ready => (2, 0, 0, 0),
            Self::Failed { step, call, errno } => (3, call, step, errno),
            Self::Hooks => (4, 0, 0, 0),
            Self::Listener { number } => (6, 0, 0, number),
            Self::HookFailed { stage, at, end } => (5, stage as u8, at, end.to_number()),
        };
        let ([s0, s1], [e0, e1, e2, e3]) = (step.to_ne_bytes(), errno.to_ne_bytes());
        [kind, call, s0, s1, e0, e1, e2, e3]
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::SIZE]) -> Option<Self> {
        let [kind, call, s0, s1, e0, e1, e2, e3] = bytes;
        match kind {
            1 => Some(Self::Waiting),
            2 => Some(Self::Ready),
            3 => Some(Self::Failed {
                step: u16::from_ne_bytes([s0, s1]),
                call,
                errno: i32::from_ne_bytes([e0, e1, e2, e3]),
            }),
            4 => Some(Self::Hooks),
            6 => Some(Self::Listener {
                number: i32::from_ne_bytes([e0, e1, e2, e3]),
            }),
            5 => Some(Self::HookFailed {
                stage: Stage::from_number(call)?,
                at: u16::from_ne_bytes([s0, s1]),
                end: HookEnd::from_number(i32::from_ne_bytes([e0, e1, e2, e3]))?,
            }),
            _ => None,
        }
    }
}

impl Plan {
    /// A plan that runs hooks and nothing else.
    pub(crate) fn of_hooks(hooks: HookSet) -> Self {
        Self {
            flags: 0,
            born_in: Vec::new(),
            cgroup: None,
            id_maps: None,
            affinity: None,
            oom_score_adj: None,
            slots: Vec::new(),
            mapped: Vec::new(),
            kept: 0,
            steps: Vec::new(),
            hooks: vec![hooks],
        }
    }

    /// The error for a hook that failed.
    pub(crate) fn hook_failure(&self, failure: &HookFailure) -> Error {
        match self.hooks.iter().find(|set| set.stage == failure.stage) {
            Some(set) => set.failure(failure),
            None => Error::invalid("HookFailed", format!("run a {} hook", failure.stage)),
        }
    }

    /// The error for a step that failed, in words.
    pub(crate) fn failure(&self, step: u16, call: u8, errno: i32) -> Error {
        match self.steps.get(usize::from(step)) {
            Some(failed) => failed.failure(call, errno),
            None => {
                let source = io::Error::from_raw_os_error(errno);
                Error::os(Call::name_of(call), source).context(format!("step {step}"))
            }
        }
    }
}

impl Step {
    /// The error for a failure of this step, in words.
    pub(crate) fn failure(&self, call: u8, errno: i32) -> Error {
        let source = io::Error::from_raw_os_error(errno);
        let error = Error::os(Call::name_of(call), source).context(self.to_string());
        match self {
            Self::Mount { .. } | Self::OpenTree { .. } | Self::MountRoot { .. }
                if call == Call::OpenTree as u8 && errno == libc::ENOENT =>
            {
                error.with_code("MountSourceNotFound")
            }
            Self::Mount { keep: Some(_), .. } if matches!(errno, libc::ELOOP | libc::ENOTDIR) => {
                error.context("what masks rely on must be mounted on ordinary directory")
            }
            Self::Execute(_) | Self::CheckProgram(_) if errno == libc::ENOENT => {
                error.with_code("CommandNotFound")
            }
            Self::Execute(_) | Self::CheckProgram(_) if errno == libc::EACCES => {
                error.with_code("CommandNotExecutable")
            }
            Self::SetExecLabel {
                module: SecurityModule::AppArmor,
                ..
            } if errno == libc::ENOENT => error.with_code("AppArmorProfileNotFound"),
            Self::LookUpUser { user, .. } if call == Call::UserLookup as u8 => {
                // Without files only numbers are found, so that what is malformed shows.
                match crate::user::resolve(&user.to_string_lossy(), &[], &[]) {
                    Err(found) if found.kind() == ErrorKind::InvalidInput => found,
                    _ => error
                        .with_kind(ErrorKind::NotFound)
                        .with_code("UserNotFound"),
                }
            }
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_pipe() {
        let failed = Word::Failed {
            step: 513,
            call: 7,
            errno: -2,
        };
        let hook = |end| Word::HookFailed {
            stage: Stage::StartContainer,
            at: 259,
            end,
        };
        let words = [
            Word::Waiting,
            Word::Ready,
            failed,
            Word::Hooks,
            Word::Listener { number: 300 },
            hook(HookEnd::Code(255)),
            hook(HookEnd::Signal(9)),
            hook(HookEnd::TimedOut),
            hook(HookEnd::NotRun(133)),
        ];
        for word in words {
            assert_eq!(Word::from_bytes(word.to_bytes()), Some(word));
        }
        assert_eq!(Word::from_bytes([0; Word::SIZE]), None);
    }
}
