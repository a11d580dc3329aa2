//! The part of a plan that makes the process what it is to be.

use oci_spec::runtime::Process;

use super::{Compiler, c_string};
use crate::plan::mounts::inside;
use crate::plan::step::{Account, Capabilities, Program, Slot, SlotKind, Step};
use crate::{Error, Result, capability, rlimit, seccomp};

/// The search path of a process that has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Compiler<'_> {
    /// What the process is, may do and starts: everything after the root file system is in place.
    pub(super) fn confine(&mut self, process: &Process, stdio: [Slot; 3]) -> Result<()> {
        if let Some(user) = &self.options.user {
            let user = c_string("user", user.as_str())?;
            let with_groups = self.may_set_groups();
            self.steps.push(Step::LookUpUser { user, with_groups });
        }
        if !process.cwd().is_absolute() {
            let what = format!("process.cwd {:?} is not absolute", process.cwd());
            return Err(Error::invalid("InvalidSpec", what));
        }
        // Without `..`, as the walk makes what is missing of it.
        let cwd = [b"/", inside(process.cwd())?.as_bytes()].concat();
        let cwd = c_string("process.cwd", cwd.as_slice())?;
        self.steps.push(Step::ChangeDirectory(cwd));
        if self
            .spec
            .root()
            .as_ref()
            .is_some_and(|root| root.readonly() == Some(true))
        {
            self.steps.push(Step::MakeRootReadOnly);
        }
        for limit in process.rlimits().iter().flatten() {
            let (resource, soft, hard) = rlimit::checked(limit)?;
            self.steps.push(Step::SetLimit {
                resource,
                soft,
                hard,
            });
        }
        let filter = self.filter()?;
        let restricted = process.no_new_privileges() == Some(true);
        let (early, late) = if restricted {
            (None, filter)
        } else {
            (filter, None)
        };
        if restricted {
            self.steps.push(Step::NoNewPrivileges);
        }
        self.steps.extend(early);
        self.drop_privileges(process, stdio)?;
        // A change of user clears it, so not earlier; whoever is orphaned before this finds the
        // pipe to the monitor broken at the next word.
        self.steps.push(Step::ParentDeathSignal);
        self.steps.push(Step::SetUmask(
            process.user().umask().unwrap_or(0o022) & 0o777,
        ));
        if self.options.wait_for_start {
            let start = self.slot(SlotKind::Start);
            self.steps.push(Step::AwaitStart { start });
        }
        self.steps.push(Step::SetStdio(stdio));
        self.steps.extend(late);
        self.steps.push(Step::Execute(self.program(process)?));
        Ok(())
    }

    fn drop_privileges(&mut self, process: &Process, stdio: [Slot; 3]) -> Result<()> {
        let user = process.user();
        let fixed = self.options.user.is_none().then(|| Account {
            uid: user.uid(),
            gid: user.gid(),
            groups: self
                .may_set_groups()
                .then(|| user.additional_gids().clone().unwrap_or_default()),
        });
        let sets = match process.capabilities() {
            Some(sets) => {
                let mask = |set: &Option<_>| set.as_ref().map_or(0, capability::mask);
                self.steps.push(Step::LimitCapabilities {
                    keep: mask(sets.bounding()),
                });
                Capabilities {
                    effective: mask(sets.effective()),
                    permitted: mask(sets.permitted()),
                    inheritable: mask(sets.inheritable()),
                    ambient: mask(sets.ambient()),
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

    fn may_set_groups(&self) -> bool {
        self.id_maps
            .as_ref()
            .is_none_or(|maps| !maps.deny_setgroups)
    }

    fn filter(&self) -> Result<Option<Step>> {
        let linux = self.spec.linux().as_ref();
        let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(None);
        };
        let filter = seccomp::compile(profile)?;
        Ok(Some(Step::LoadFilter {
            instructions: filter.instructions.to_vec(),
            flags: filter.flags,
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
        let candidates = if name.contains('/') {
            vec![c_string("process.args", name.as_str())?]
        } else {
            path.unwrap_or(DEFAULT_PATH)
                .split(':')
                .map(|directory| {
                    let directory = if directory.is_empty() { "." } else { directory };
                    c_string("process.args", format!("{directory}/{name}"))
                })
                .collect::<Result<_>>()?
        };
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
            add_home: self.options.user.is_some()
                && !environment.iter().any(|entry| entry.starts_with("HOME=")),
        })
    }
}
