//! The part of a plan that makes the process what it is to be.

use std::ffi::CString;

use oci_spec::runtime::{Linux, LinuxIdMapping, Process, User};

use super::{Compiler, c_string, is_mapped};
use crate::plan::hook::Stage;
use crate::plan::mounts::inside;
use crate::plan::step::{Account, Capabilities, Place, Program, Slot, SlotKind, Step};
use crate::seccomp::{self, Agent};
use crate::{Error, Result, capability, sys};

/// The search path of a process that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The highest number of a descriptor that is passed on; a message carries fewer.
const MAX_DESCRIPTOR: u32 = 512;

impl Compiler<'_> {
    /// What the process is, may do and starts: everything after the root file system is in place.
    pub(super) fn confine(
        &mut self,
        process: &Process,
        stdio: [Slot; 3],
        filter: Option<Step>,
        restriction: Option<Step>,
    ) -> Result<()> {
        if let Some(user) = &self.options.user {
            let user = c_string("user", user.as_str())?;
            let with_groups = !self.deny_setgroups;
            self.steps.push(Step::LookUpUser { user, with_groups });
        } else if self.finds_home(process) {
            // Only its home counts: the ids are fixed.
            let user = c_string("user", process.user().uid().to_string())?;
            let with_groups = false;
            self.steps.push(Step::LookUpUser { user, with_groups });
        }
        if !process.cwd().is_absolute() {
            let what = format!("process.cwd {:?} is not absolute", process.cwd());
            return Err(Error::invalid("InvalidSpec", what));
        }
        // Without `..`, as the walk makes what is missing of it.
        let path = [b"/", inside(process.cwd())?.as_bytes()].concat();
        self.steps.push(Step::ChangeDirectory {
            path: c_string("process.cwd", path.as_slice())?,
            make: !self.joins_container,
        });
        if self
            .spec
            .root()
            .as_ref()
            .is_some_and(|root| root.readonly() == Some(true))
        {
            self.steps.push(Step::MakeRootReadOnly);
        }
        self.set_attributes(process)?;
        // Before the filter, which need not allow what this takes; whatever is opened from here on is
        // closed by the kernel when the program is executed.
        self.steps.push(Step::SetStdio(stdio));
        let restricted = process.no_new_privileges() == Some(true);
        let listens = matches!(&filter, Some(Step::LoadFilter { agent: Some(_), .. }));
        let (early, waiting, late) = match (restricted, listens) {
            (false, _) => (filter, None, None),
            // Its agent is to be there when the container is created, and who hands the listener on
            // may be gone later.
            (true, true) => (None, filter, None),
            (true, false) => (None, None, filter),
        };
        if restricted {
            self.steps.push(Step::NoNewPrivileges);
        }
        self.steps.extend(restriction);
        self.steps.extend(early);
        self.drop_privileges(process, stdio)?;
        if !self.options.disowned {
            // A change of user clears it, so not earlier; whoever is orphaned before this finds the
            // pipe to the monitor broken at the next word.
            self.steps.push(Step::ParentDeathSignal);
        }
        self.steps.push(Step::SetUmask(
            process.user().umask().unwrap_or(0o022) & 0o777,
        ));
        let program = self.program(process)?;
        if self.options.disowned {
            let candidates = program.candidates.clone();
            self.steps.push(Step::CheckProgram(candidates));
        }
        self.steps.extend(waiting);
        if self.options.wait_for_start {
            let start = self.slot(SlotKind::Start);
            self.steps.push(Step::AwaitStart {
                start,
                released: self.options.disowned,
            });
        }
        self.run_hooks(Stage::StartContainer);
        self.pass_descriptors()?;
        self.steps.extend(late);
        if self.options.init {
            let visible = self.has_user_namespace();
            self.steps.push(Step::BecomeInit { visible });
        }
        self.steps.push(match self.options.lingers {
            true => Step::Linger,
            false => Step::Execute(program),
        });
        Ok(())
    }

    /// The terminal, if the process has one.
    pub(super) fn open_terminal(
        &mut self,
        process: &Process,
        console: Option<Place>,
    ) -> Result<()> {
        if process.terminal() != Some(true) {
            return Ok(());
        }
        let side = |length: u64| {
            u16::try_from(length).map_err(|_| {
                let what = format!("process.consoleSize has a side of {length}");
                Error::invalid("InvalidSpec", what)
            })
        };
        let size = match process.console_size() {
            Some(size) => Some((side(size.width())?, side(size.height())?)),
            None => None,
        };
        let socket = self.slot(SlotKind::Console);
        self.steps.push(Step::OpenTerminal {
            socket,
            size,
            console,
        });
        Ok(())
    }

    /// Whether the home of an account that is given by number is looked up.
    fn finds_home(&self, process: &Process) -> bool {
        let mut environment = process.env().iter().flatten();
        self.options.find_home
            && process.user().uid() <= i32::MAX.unsigned_abs()
            && !environment.any(|entry| entry.starts_with("HOME="))
    }

    fn pass_descriptors(&mut self) -> Result<()> {
        let options = self.options;
        for (at, number) in options.descriptors.iter().enumerate() {
            let twice = options.descriptors[..at].contains(number);
            if *number < 3 || *number > MAX_DESCRIPTOR || twice {
                let what = format!("pass a descriptor as number {number}");
                return Err(Error::invalid("InvalidDescriptor", what));
            }
            let from = self.slot(SlotKind::Extra(*number));
            self.steps.push(Step::PassDescriptor {
                from,
                number: *number,
            });
        }
        Ok(())
    }

    fn drop_privileges(&mut self, process: &Process, stdio: [Slot; 3]) -> Result<()> {
        let user = process.user();
        self.check_ids(user)?;
        let fixed = self.options.user.is_none().then(|| Account {
            uid: user.uid(),
            gid: user.gid(),
            groups: (!self.deny_setgroups)
                .then(|| user.additional_gids().clone().unwrap_or_default()),
        });
        let sets = match process.capabilities() {
            Some(sets) => {
                // What this kernel does not know nobody can have: left out, as runc does.
                let known = self.options.features.capabilities;
                let mask = |set: &Option<_>| set.as_ref().map_or(0, capability::mask) & known;
                self.steps.push(Step::LimitCapabilities {
                    keep: mask(sets.bounding()),
                });
                let (permitted, inheritable) = (mask(sets.permitted()), mask(sets.inheritable()));
                Capabilities {
                    effective: mask(sets.effective()),
                    permitted,
                    inheritable,
                    // The kernel raises no others. Specs ask for them all the same, as those that runc
                    // writes, and get what they would get there.
                    ambient: mask(sets.ambient()) & permitted & inheritable,
                }
            }
            None => {
                self.steps.push(Step::LimitCapabilities { keep: 0 });
                Capabilities::default()
            }
        };
        self.steps.push(Step::SetAccount { fixed, stdio });
        self.steps.push(Step::SetCapabilities(sets));
        Ok(())
    }

    /// Refuses ids that are not what they seem: the kernel takes the highest number for "no change",
    /// which would leave the process root, and one without a place in the user namespace has none.
    fn check_ids(&self, user: &User) -> Result<()> {
        let linux = self.spec.linux().as_ref();
        let maps = |ids: fn(&Linux) -> &Option<Vec<LinuxIdMapping>>| {
            let maps = linux.filter(|_| self.id_maps.is_some()).map(ids);
            maps.and_then(|maps| maps.as_deref())
        };
        let groups = user.additional_gids().iter().flatten();
        let groups = [user.gid()].into_iter().chain(groups.copied());
        let ids = [("uid", user.uid(), maps(Linux::uid_mappings))]
            .into_iter()
            .chain(groups.map(|gid| ("gid", gid, maps(Linux::gid_mappings))));
        for (kind, id, maps) in ids {
            let why = if id == u32::MAX {
                "no id"
            } else if maps.is_some_and(|maps| !is_mapped(maps, id)) {
                "not mapped into the user namespace"
            } else {
                continue;
            };
            let what = format!("process.user: {kind} {id} is {why}");
            return Err(Error::invalid("InvalidUser", what));
        }
        Ok(())
    }

    /// The step that restricts the process to some files, if it is to be.
    pub(super) fn restriction(&self) -> Result<Option<Step>> {
        let Some(ruleset) = &self.options.landlock else {
            return Ok(None);
        };
        let (handled, rules) = ruleset.for_version(self.options.features.landlock)?;
        let rules = rules.into_iter().map(|(path, allowed)| {
            if !path.is_absolute() {
                let what = format!("allow something with {path:?}, which is not absolute");
                return Err(Error::invalid("InvalidLandlockRule", what));
            }
            Ok((
                c_string("a Landlock rule", path.as_os_str().to_owned())?,
                allowed,
            ))
        });
        let rules = rules.collect::<Result<_>>()?;
        Ok(Some(Step::RestrictFiles { handled, rules }))
    }

    pub(super) fn filter(&self) -> Result<Option<Step>> {
        let linux = self.spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(None);
        };
        let filter = seccomp::compile(profile)?;
        let agent = match filter.flags & sys::NEW_LISTENER {
            0 => None,
            _ => {
                let id = self.options.id.as_deref();
                Some(Box::new(Agent::of(self.spec, profile, self.bundle, id)?))
            }
        };
        Ok(Some(Step::LoadFilter {
            instructions: filter.instructions.to_vec(),
            flags: filter.flags,
            agent,
        }))
    }

    fn program(&self, process: &Process) -> Result<Program> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            let what = "process.args names no command";
            return Err(Error::invalid("NoCommand", what));
        };
        let environment = process.env().as_deref().unwrap_or_default();
        let path = environment
            .iter()
            .rev()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let candidates = candidates(name.as_bytes(), path.map(str::as_bytes))?;
        let strings = |what: &str, texts: &[String]| {
            texts
                .iter()
                .map(|text| c_string(what, text.as_str()))
                .collect::<Result<Vec<_>>>()
        };
        Ok(Program {
            candidates,
            arguments: strings("process.args", arguments)?,
            environment: strings("process.env", environment)?,
            add_home: (self.options.user.is_some() || self.finds_home(process))
                && !environment.iter().any(|entry| entry.starts_with("HOME=")),
        })
    }
}

/// The paths at which the program `name` is looked for, in their order.
pub(crate) fn candidates(name: &[u8], path: Option<&[u8]>) -> Result<Vec<CString>> {
    if name.contains(&b'/') {
        return Ok(vec![c_string("process.args", name)?]);
    }
    let directories = path
        .unwrap_or(DEFAULT_PATH.as_bytes())
        .split(|byte| *byte == b':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() {
                b"."
            } else {
                directory
            };
            c_string("process.args", [directory, b"/", name].concat().as_slice())
        })
        .collect()
}
