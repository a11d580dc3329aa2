//! Walks a plan in the child of a clone: raw system calls only.
//!
//! From here to `execve` nothing allocates, locks, logs or panics. The child is a copy of the
//! single-threaded launcher, so that this is not needed for soundness, but it keeps the walk short,
//! and a container must not depend on the state of the heap that it was cloned from.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::mount::{self, MountPropagationFlags};
use rustix::process::{self, Signal};
use rustix::{system, thread};

use self::attributes::{new_keyring, restrict_files};
use self::hooks::PreparedHook;
use self::program::{Found, change_directory, check_program, limit_capabilities};
use super::hook::MAX_OUTPUT;
use super::place::PATH_MAX;
use super::step::{Call, Slot, Step};
use super::tree::set_read_only;
use super::{Plan, Word};
use crate::sys;
use crate::sys::exec::Strings;
use crate::{user, worker};

mod attributes;
mod copy;
pub(crate) mod hooks;
mod init;
mod program;
mod rootfs;
mod terminal;

/// A plan with what `execve` wants: arrays of pointers, made before the clone.
pub(crate) struct Prepared<'a> {
    plan: &'a Plan,
    descriptors: &'a [OwnedFd],
    /// The trees that the monitor mapped the ids of.
    mapped: &'a [OwnedFd],
    /// Room for the mounts that steps refer to.
    kept: Vec<Option<OwnedFd>>,
    arguments: Strings<'a>,
    environment: Strings<'a>,
    home: Vec<u8>,
    /// As the sets of the plan.
    hooks: Vec<Vec<PreparedHook<'a>>>,
    /// What the user database files are read into; memory is only used once it is written to.
    files: [Vec<u8>; 2],
}

/// Why a step failed.
pub(crate) struct Fault {
    pub(crate) call: Call,
    pub(crate) errno: Errno,
}

pub(crate) type Walk<T = ()> = Result<T, Fault>;

/// Names the call that an error number came from.
pub(super) trait At<T> {
    fn at(self, call: Call) -> Walk<T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, call: Call) -> Walk<T> {
        self.map_err(|errno| Fault { call, errno })
    }
}

impl<'a> Prepared<'a> {
    /// Allocates all that the walk needs.
    ///
    /// `mapped` are the plan's mapped trees, in their order.
    pub(crate) fn new(plan: &'a Plan, descriptors: &'a [OwnedFd], mapped: &'a [OwnedFd]) -> Self {
        let program = match plan.steps.last() {
            Some(Step::Execute(program)) => Some(program),
            _ => None,
        };
        let strings = |list: &'a [CString]| Strings::new(list.iter().map(CString::as_c_str));
        let mut prepared = Self {
            plan,
            descriptors,
            mapped,
            kept: Vec::new(),
            arguments: strings(program.map_or(&[], |program| &program.arguments)),
            environment: strings(program.map_or(&[], |program| &program.environment)),
            home: b"HOME=".to_vec(),
            hooks: plan.hooks.iter().map(PreparedHook::all).collect(),
            files: [Vec::new(), Vec::new()],
        };
        if plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::LookUpUser { .. }))
        {
            prepared.files = [vec![0; user::MAX_FILE], vec![0; user::MAX_FILE]];
        }
        prepared.kept.resize_with(usize::from(plan.kept), || None);
        prepared.home.resize(PATH_MAX + 8, 0);
        prepared
    }

    /// Walks the plan and never returns.
    ///
    /// `report` takes the [`Word`]s of the walk, `gate` gives one byte when the id maps are written.
    pub(crate) fn walk(self, report: BorrowedFd<'_>, gate: BorrowedFd<'_>) -> ! {
        process::umask(Mode::empty());
        let mut walker = Walker {
            prepared: self,
            report,
            gate,
            root: None,
            empty: None,
            account: None,
            terminal: None,
            released: false,
        };
        for (number, step) in walker.prepared.plan.steps.iter().enumerate() {
            if let Err(fault) = walker.take(step) {
                // Nobody is left to hear of a failure here.
                let _ = walker.tell(Word::Failed {
                    step: u16::try_from(number).unwrap_or(u16::MAX),
                    call: fault.call as u8,
                    errno: fault.errno.raw_os_error(),
                });
                break;
            }
        }
        sys::exit_now(1)
    }

    fn descriptor(&self, slot: Slot) -> Walk<BorrowedFd<'a>> {
        match self.descriptors.get(usize::from(slot.0)) {
            Some(descriptor) => Ok(descriptor.as_fd()),
            None => Err(Errno::BADF).at(Call::Verify),
        }
    }
}

struct Walker<'a> {
    prepared: Prepared<'a>,
    report: BorrowedFd<'a>,
    gate: BorrowedFd<'a>,
    root: Option<OwnedFd>,
    /// The empty read-only directory that masks directories; made at its first use.
    empty: Option<OwnedFd>,
    account: Option<Found>,
    /// The inner side of the terminal, in place of the standard streams.
    terminal: Option<OwnedFd>,
    /// The monitor is gone, as it should.
    released: bool,
}

impl Walker<'_> {
    /// Fails if the monitor is gone; the first process of a PID namespace gets no SIGPIPE.
    fn tell(&self, word: Word) -> Walk {
        self.tell_with(word, &[])
    }

    /// As [`Self::tell`], with something to the word: in one piece, so that it is read as one.
    fn tell_with(&self, word: Word, more: &[u8]) -> Walk {
        if self.released {
            return Ok(());
        }
        let mut message = [0; Word::SIZE + MAX_OUTPUT];
        let (head, tail) = message.split_at_mut(Word::SIZE);
        head.copy_from_slice(&word.to_bytes());
        for (place, byte) in tail.iter_mut().zip(more) {
            *place = *byte;
        }
        let length = Word::SIZE + more.len().min(MAX_OUTPUT);
        let message = message.get(..length).unwrap_or_default();
        io::write(self.report, message).at(Call::Write).map(drop)
    }

    fn take(&mut self, step: &Step) -> Walk {
        match step {
            Step::AwaitIdMaps => self.await_id_maps(),
            Step::BecomeRoot => become_root(),
            Step::NewTimeNamespace { offsets } => new_time_namespace(offsets),
            Step::ParentDeathSignal => {
                process::set_parent_process_death_signal(Some(Signal::KILL)).at(Call::Prctl)
            }
            Step::NewSession => process::setsid().at(Call::Setsid).map(drop),
            Step::JoinCgroup { group } => io::write(self.prepared.descriptor(*group)?, b"0")
                .at(Call::Write)
                .map(drop),
            Step::JoinNamespace { namespace, flag } => {
                sys::setns(self.prepared.descriptor(*namespace)?, *flag).at(Call::Setns)
            }
            Step::NewCgroupNamespace => sys::unshare(libc::CLONE_NEWCGROUP).at(Call::Unshare),
            Step::NewKeyring { name, permissions } => new_keyring(name.as_deref(), *permissions),
            Step::RaiseLoopback => sys::raise_loopback().at(Call::Ioctl),
            Step::SetHostname(name) => system::sethostname(name.to_bytes()).at(Call::Sethostname),
            Step::SetDomainname(name) => {
                system::setdomainname(name.to_bytes()).at(Call::Sethostname)
            }
            Step::Detach => {
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount::mount_change(c"/", private).at(Call::Mount)
            }
            Step::ChangeRoot(directory) => {
                let directory = self.prepared.descriptor(*directory)?;
                process::fchdir(directory).at(Call::Chdir)?;
                process::chroot(c".").at(Call::Chroot)
            }
            Step::EnterDirectory(directory) => {
                process::fchdir(self.prepared.descriptor(*directory)?).at(Call::Chdir)
            }
            Step::SetIds {
                uid,
                gid,
                drop_groups,
            } => set_ids(*uid, *gid, *drop_groups),
            Step::ChangeHostDirectory(path) => process::chdir(path.as_c_str()).at(Call::Chdir),
            Step::OpenTree { tree, keep } => self.open_tree(tree, *keep),
            Step::MountRoot {
                source,
                over,
                attributes,
            } => self.mount_root(source, over, attributes),
            Step::Mount {
                source,
                target,
                attributes,
                keep,
                refused,
            } => self.mount(source, target, attributes, *keep, refused),
            Step::Remount {
                target,
                parameters,
                attributes,
            } => self.remount(target, parameters.as_deref(), attributes),
            Step::MountCgroups {
                target,
                parameters,
                attributes,
                views,
                refused,
            } => self.mount_cgroups(target, parameters, *attributes, views, refused),
            Step::Finish { mount } => self.finish(*mount),
            Step::MakeDevice(device) => self.make_device(device),
            Step::MakeSymlink { target, place } => self.make_symlink(target, place),
            Step::WriteSysctl { name, value } => self.write_sysctl(name, value),
            Step::Mask(place) => self.mask(place),
            Step::MakeReadOnly(place) => self.make_read_only(place),
            Step::LookUpUser { user, with_groups } => self.look_up_user(user, *with_groups),
            Step::AwaitHooks => {
                self.tell(Word::Hooks)?;
                await_byte(self.gate)
            }
            Step::RunHooks(stage) => self.run_hooks(*stage),
            Step::PivotRoot => self.pivot_root(),
            Step::SetRootPropagation(propagation) => self.set_root_propagation(*propagation),
            Step::MakeRootReadOnly => set_read_only(self.root()?, false),
            Step::SetLimit {
                resource,
                soft,
                hard,
            } => sys::setrlimit(*resource, *soft, *hard).at(Call::Setrlimit),
            Step::SetAffinity(processors) => {
                sys::sched_setaffinity(processors).at(Call::SchedSetaffinity)
            }
            Step::SetScheduler(attr) => sys::sched_setattr(attr).at(Call::SchedSetattr),
            Step::SetIoPriority(priority) => sys::ioprio_set(*priority).at(Call::IoprioSet),
            Step::SetPersonality(domain) => sys::personality(*domain).at(Call::Personality),
            Step::SetMemoryPolicy { mode, nodes } => {
                sys::set_mempolicy(*mode, nodes).at(Call::SetMempolicy)
            }
            Step::SetExecLabel { module, label } => self.set_exec_label(*module, label),
            Step::ChangeDirectory { path, make } => change_directory(path, *make),
            Step::NoNewPrivileges => thread::set_no_new_privs(true).at(Call::Prctl),
            Step::RestrictFiles { handled, rules } => restrict_files(*handled, rules),
            Step::LoadFilter {
                instructions,
                flags,
                ..
            } => match sys::seccomp_filter(instructions, *flags).at(Call::Seccomp)? {
                // Before anything waits for an answer somebody has to be there to give it.
                Some(listener) => {
                    let number = listener.as_raw_fd();
                    self.tell(Word::Listener { number })?;
                    await_byte(self.gate)
                }
                None => Ok(()),
            },
            Step::LimitCapabilities { keep } => limit_capabilities(*keep),
            Step::OpenTerminal {
                socket,
                size,
                console,
            } => self.open_terminal(*socket, *size, console.as_ref()),
            Step::SetAccount { fixed, stdio } => self.set_account(fixed.as_ref(), *stdio),
            Step::SetCapabilities(sets) => {
                sys::capset(sets.effective, sets.permitted, sets.inheritable).at(Call::Capset)?;
                for capability in bits(sets.ambient) {
                    sys::raise_ambient(capability).at(Call::Prctl)?;
                }
                Ok(())
            }
            Step::SetUmask(mask) => {
                process::umask(Mode::from_bits_truncate(*mask));
                Ok(())
            }
            Step::CheckProgram(candidates) => check_program(candidates),
            Step::AwaitStart { start, released } => {
                let start = self.prepared.descriptor(*start)?;
                self.tell(Word::Waiting)?;
                self.released = *released;
                await_byte(start)
            }
            Step::SetStdio(slots) => self.set_stdio(*slots),
            Step::PassDescriptor { from, number } => {
                sys::duplicate_to(self.prepared.descriptor(*from)?, *number).at(Call::Dup)
            }
            Step::Linger => {
                self.tell(Word::Ready)?;
                init::linger()
            }
            Step::Serve => {
                self.tell(Word::Ready)?;
                sys::exit_now(worker::serve(&sys::role::take_socket()))
            }
            Step::BecomeInit { visible } => init::become_init(*visible),
            Step::Execute(program) => self.execute(program),
        }
    }

    fn await_id_maps(&mut self) -> Walk {
        await_byte(self.gate)?;
        become_root()
    }

    fn root(&self) -> Walk<BorrowedFd<'_>> {
        match &self.root {
            Some(root) => Ok(root.as_fd()),
            None => Err(Errno::BADF).at(Call::Verify),
        }
    }
}

fn become_root() -> Walk {
    sys::setresgid(0).at(Call::Setgid)?;
    sys::setresuid(0).at(Call::Setuid)
}

fn set_ids(uid: Option<u32>, gid: Option<u32>, drop_groups: bool) -> Walk {
    if drop_groups {
        sys::setgroups(&[]).at(Call::Setgroups)?;
    }
    if let Some(gid) = gid {
        sys::setresgid(gid).at(Call::Setgid)?;
    }
    match uid {
        Some(uid) => sys::setresuid(uid).at(Call::Setuid),
        None => Ok(()),
    }
}

fn new_time_namespace(offsets: &CStr) -> Walk {
    // Only what is born later is in it, unless it is entered.
    sys::unshare(libc::CLONE_NEWTIME).at(Call::Unshare)?;
    if !offsets.is_empty() {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = fs::openat(CWD, c"/proc/self/timens_offsets", flags, Mode::empty());
        io::write(file.at(Call::Open)?, offsets.to_bytes()).at(Call::Write)?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let made = fs::openat(
        CWD,
        c"/proc/self/ns/time_for_children",
        flags,
        Mode::empty(),
    );
    let flag = libc::CLONE_NEWTIME.unsigned_abs();
    sys::setns(made.at(Call::Open)?.as_fd(), flag).at(Call::Setns)
}

/// Blocks until `gate` gives a byte; its end means that whoever holds it has gone.
fn await_byte(gate: BorrowedFd<'_>) -> Walk {
    let mut byte = [0];
    loop {
        match io::read(gate, &mut byte) {
            Ok(0) => return Err(Errno::PIPE).at(Call::Read),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).at(Call::Read),
        }
    }
}

/// The numbers of the bits that are set in `set`.
fn bits(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| set >> bit & 1 == 1)
}
