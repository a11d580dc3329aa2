//! Walks a plan in the child of a clone: raw system calls only.
//!
//! From here to `execve` nothing allocates, locks, logs or panics. The child is a copy of the
//! single-threaded launcher, so that this is not needed for soundness, but it keeps the walk short,
//! and a container must not depend on the state of the heap that it was cloned from.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno};
use rustix::mount::{
    self, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::process::{self, Gid, Signal, Uid};
use rustix::{system, thread};

use super::place::{
    IN_ROOT, Make, PATH_MAX, UNMIXED, is_directory, open_or_make, open_or_make_plain, open_parent,
    resolve,
};
use super::step::{
    Account, Attributes, Call, Device, Keep, MountSource, Place, Program, Slot, Step,
};
use super::tree::{
    CLONE, attach, attach_over, new_empty_directory, new_proc, open_source, set_attributes,
};
use super::{Plan, Word};
use crate::sys::{self, MountAttr};
use crate::user;

/// A plan with what `execve` wants: arrays of pointers, made before the clone.
pub(crate) struct Prepared<'a> {
    plan: &'a Plan,
    descriptors: &'a [OwnedFd],
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    home: Vec<u8>,
    /// What the user database files are read into; memory is only used once it is written to.
    files: [Vec<u8>; 2],
}

/// Why a step failed.
pub(super) struct Fault {
    pub(super) call: Call,
    pub(super) errno: Errno,
}

pub(super) type Walk<T = ()> = Result<T, Fault>;

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
    pub(crate) fn new(plan: &'a Plan, descriptors: &'a [OwnedFd]) -> Self {
        let mut prepared = Self {
            plan,
            descriptors,
            argv: Vec::new(),
            envp: Vec::new(),
            home: b"HOME=".to_vec(),
            files: [Vec::new(), Vec::new()],
        };
        if plan
            .steps
            .iter()
            .any(|step| matches!(step, Step::LookUpUser { .. }))
        {
            prepared.files = [vec![0; user::MAX_FILE], vec![0; user::MAX_FILE]];
        }
        prepared.home.resize(PATH_MAX + 8, 0);
        if let Some(Step::Execute(program)) = plan.steps.last() {
            prepared.argv = program.arguments.iter().map(|text| text.as_ptr()).collect();
            prepared.envp = program
                .environment
                .iter()
                .map(|text| text.as_ptr())
                .collect();
            if program.add_home {
                prepared.envp.push(prepared.home.as_ptr().cast());
            }
        }
        prepared.argv.push(std::ptr::null());
        prepared.envp.push(std::ptr::null());
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
            proc: None,
            sys: None,
            dev: None,
            empty: None,
            account: None,
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

/// An account from the image's files, with a bounded list of groups.
struct Found {
    uid: u32,
    gid: u32,
    groups: [u32; MAX_GROUPS],
    /// How many of them there are; `None` where this process may not set any.
    count: Option<usize>,
}

/// More supplementary groups than any account has; the kernel's own limit is 65536.
const MAX_GROUPS: usize = 1024;

struct Walker<'a> {
    prepared: Prepared<'a>,
    report: BorrowedFd<'a>,
    gate: BorrowedFd<'a>,
    root: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    /// The empty read-only directory that masks directories; made at its first use.
    empty: Option<OwnedFd>,
    account: Option<Found>,
}

impl Walker<'_> {
    /// Fails if the monitor is gone; the first process of a PID namespace gets no SIGPIPE.
    fn tell(&self, word: Word) -> Walk {
        io::write(self.report, &word.to_bytes())
            .at(Call::Write)
            .map(drop)
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
            Step::NewKeyring => match sys::join_session_keyring() {
                Err(Errno::NOSYS) => Ok(()),
                result => result.at(Call::Keyctl),
            },
            Step::RaiseLoopback => sys::raise_loopback().at(Call::Ioctl),
            Step::SetHostname(name) => system::sethostname(name.to_bytes()).at(Call::Sethostname),
            Step::SetDomainname(name) => {
                system::setdomainname(name.to_bytes()).at(Call::Sethostname)
            }
            Step::Detach { slave } => {
                let kind = if *slave {
                    MountPropagationFlags::DOWNSTREAM
                } else {
                    MountPropagationFlags::PRIVATE
                };
                mount::mount_change(c"/", kind | MountPropagationFlags::REC).at(Call::Mount)
            }
            Step::ChangeHostDirectory(path) => process::chdir(path.as_c_str()).at(Call::Chdir),
            Step::MountRoot { source, over } => self.mount_root(source, over),
            Step::Mount {
                source,
                target,
                attributes,
                keep,
                optional,
            } => match self.mount(source, target, attributes, *keep) {
                Err(fault) if *optional && may_lack(fault.errno) => Ok(()),
                result => result,
            },
            Step::MakeDevice(device) => self.make_device(device),
            Step::MakeSymlink { target, path } => self.make_symlink(target, path),
            Step::WriteSysctl { name, value } => self.write_sysctl(name, value),
            Step::Mask(place) => self.mask(place),
            Step::MakeReadOnly(place) => self.make_read_only(place),
            Step::LookUpUser { user, with_groups } => self.look_up_user(user, *with_groups),
            Step::PivotRoot => self.pivot_root(),
            Step::MakeRootReadOnly => {
                let attr = MountAttr {
                    attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
                    ..MountAttr::default()
                };
                sys::mount_setattr(self.root()?, false, &attr).at(Call::MountSetattr)
            }
            Step::SetLimit {
                resource,
                soft,
                hard,
            } => sys::setrlimit(*resource, *soft, *hard).at(Call::Setrlimit),
            Step::ChangeDirectory(path) => change_directory(path),
            Step::NoNewPrivileges => thread::set_no_new_privs(true).at(Call::Prctl),
            Step::LoadFilter {
                instructions,
                flags,
            } => sys::seccomp_filter(instructions, *flags).at(Call::Seccomp),
            Step::LimitCapabilities { keep } => limit_capabilities(*keep),
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
            Step::AwaitStart { start } => {
                let start = self.prepared.descriptor(*start)?;
                self.tell(Word::Waiting)?;
                await_byte(start)
            }
            Step::SetStdio(slots) => self.set_stdio(*slots),
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

    fn mount_root(&mut self, source: &MountSource, over: &CStr) -> Walk {
        const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
        self.root = Some(match source {
            MountSource::Classic {
                kind,
                data,
                read_only,
            } => {
                let flags = if *read_only {
                    MountFlags::RDONLY
                } else {
                    MountFlags::empty()
                };
                mount::mount(c"none", over, kind.as_c_str(), flags, data.as_c_str())
                    .at(Call::Mount)?;
                fs::openat(CWD, over, DIRECTORY, Mode::empty()).at(Call::Open)?
            }
            _ => {
                let tree = open_source(source)?;
                attach_over(tree.as_fd(), over)?;
                tree
            }
        });
        // The parent of the new root must not be shared, or pivot_root is refused; and nothing that
        // happens in the container's tree may reach another one.
        let private = MountAttr {
            propagation: libc::MS_PRIVATE,
            ..MountAttr::default()
        };
        sys::mount_setattr(self.root()?, true, &private).at(Call::MountSetattr)
    }

    fn mount(
        &mut self,
        source: &MountSource,
        target: &CStr,
        attributes: &Attributes,
        keep: Option<Keep>,
    ) -> Walk {
        let tree = open_source(source)?;
        set_attributes(tree.as_fd(), attributes)?;
        let root = self.root()?;
        let at = if keep.is_some() {
            // Masks, labels and kernel parameters rely on these: no link may lead them elsewhere.
            open_or_make_plain(root, target)?
        } else if is_directory(tree.as_fd())? {
            open_or_make(root, target, Make::Directory)?
        } else {
            open_or_make(root, target, Make::File)?
        };
        attach(tree.as_fd(), at.as_fd())?;
        match keep {
            Some(Keep::Proc) => self.proc = Some(tree),
            Some(Keep::Sys) => self.sys = Some(tree),
            Some(Keep::Dev) => self.dev = Some(tree),
            None => {}
        }
        Ok(())
    }

    /// The directory that `place` is relative to, and how strictly it is resolved there.
    fn below(&self, place: &Place) -> Walk<(BorrowedFd<'_>, ResolveFlags)> {
        let kept = match place.below {
            Some(Keep::Proc) => &self.proc,
            Some(Keep::Sys) => &self.sys,
            Some(Keep::Dev) => &self.dev,
            None => return Ok((self.root()?, IN_ROOT)),
        };
        match kept {
            Some(mount) => Ok((mount.as_fd(), UNMIXED)),
            None => Err(Errno::BADF).at(Call::Verify),
        }
    }

    fn make_device(&self, device: &Device) -> Walk {
        let (base, _) = self.below(&device.place)?;
        let path = device.place.path.as_c_str();
        if let Some(host) = &device.bind {
            let node = mount::open_tree(CWD, host.as_c_str(), CLONE).at(Call::OpenTree)?;
            let at = open_or_make(base, path, Make::File)?;
            return attach(node.as_fd(), at.as_fd());
        }
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(base, path, &mut buffer)?;
        let kind = FileType::from_raw_mode(device.kind);
        let number = fs::makedev(device.major, device.minor);
        let mode = Mode::from_bits_truncate(device.mode);
        match fs::mknodat(&parent, name, kind, mode, number) {
            Err(Errno::EXIST) => {
                let there = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).at(Call::Stat)?;
                if FileType::from_raw_mode(there.st_mode) != kind || there.st_rdev != number {
                    return Err(Errno::EXIST).at(Call::Mknod);
                }
                Ok(())
            }
            result => {
                result.at(Call::Mknod)?;
                if device.uid == 0 && device.gid == 0 {
                    return Ok(());
                }
                let owner = Some(Uid::from_raw(device.uid));
                let group = Some(Gid::from_raw(device.gid));
                fs::chownat(&parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).at(Call::Mknod)
            }
        }
    }

    fn make_symlink(&self, target: &CStr, path: &CStr) -> Walk {
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(self.root()?, path, &mut buffer)?;
        match fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => Ok(()),
            result => result.at(Call::Symlink),
        }
    }

    fn write_sysctl(&mut self, name: &CStr, value: &CStr) -> Walk {
        if self.proc.is_none() {
            self.proc = Some(new_proc()?);
        }
        let Some(proc) = &self.proc else {
            return Err(Errno::BADF).at(Call::Verify);
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = resolve(proc.as_fd(), name, flags, UNMIXED)?;
        io::write(&file, value.to_bytes()).at(Call::Write).map(drop)
    }

    fn mask(&mut self, place: &Place) -> Walk {
        let Some(at) = self.open_existing(place)? else {
            return Ok(());
        };
        if !is_directory(at.as_fd())? {
            // From the host's tree, which is still there: the image's own could be anything.
            let null = mount::open_tree(CWD, c"/dev/null", CLONE).at(Call::OpenTree)?;
            return attach(null.as_fd(), at.as_fd());
        }
        match &self.empty {
            Some(empty) => {
                let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH;
                let copy = mount::open_tree(empty, c"", flags).at(Call::OpenTree)?;
                attach(copy.as_fd(), at.as_fd())
            }
            None => {
                let empty = new_empty_directory()?;
                attach(empty.as_fd(), at.as_fd())?;
                self.empty = Some(empty);
                Ok(())
            }
        }
    }

    fn make_read_only(&self, place: &Place) -> Walk {
        let Some(at) = self.open_existing(place)? else {
            return Ok(());
        };
        let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
        let copy = mount::open_tree(&at, c"", flags).at(Call::OpenTree)?;
        let attr = MountAttr {
            attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
            ..MountAttr::default()
        };
        sys::mount_setattr(copy.as_fd(), true, &attr).at(Call::MountSetattr)?;
        attach(copy.as_fd(), at.as_fd())
    }

    /// Opens what is at `place`; `None` if this kernel does not have it.
    fn open_existing(&self, place: &Place) -> Walk<Option<OwnedFd>> {
        let (base, how) = self.below(place)?;
        match resolve(base, &place.path, OFlags::PATH | OFlags::CLOEXEC, how) {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.errno == Errno::NOENT || fault.errno == Errno::NOTDIR => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn pivot_root(&mut self) -> Walk {
        process::fchdir(self.root()?).at(Call::Chdir)?;
        // Puts the old root on top of the new one, from where it is detached.
        process::pivot_root(c".", c".").at(Call::PivotRoot)?;
        mount::unmount(c".", UnmountFlags::DETACH).at(Call::Umount)?;
        process::chdir(c"/").at(Call::Chdir)
    }

    /// Reads the account from the root file system's own files, which may be anything.
    fn look_up_user(&mut self, user: &CStr, with_groups: bool) -> Walk {
        let [passwd, group] = &mut self.prepared.files;
        // In another one's mount namespace no root was mounted: it is the one that is there.
        let there;
        let root = match &self.root {
            Some(root) => root.as_fd(),
            None => {
                there = open_root()?;
                there.as_fd()
            }
        };
        let passwd = read_file(root, c"etc/passwd", passwd)?;
        let group = read_file(root, c"etc/group", group)?;
        let mut found = Found {
            uid: 0,
            gid: 0,
            groups: [0; MAX_GROUPS],
            count: None,
        };
        let account = user::look_up(user.to_bytes(), passwd, group, &mut found.groups);
        let Some(account) = account else {
            return Err(Errno::NOENT).at(Call::UserLookup);
        };
        found.uid = account.uid;
        found.gid = account.gid;
        found.count = with_groups.then_some(account.groups);
        // `HOME=`, the path and a NUL; what is longer is no path.
        if let Some(home) = self.prepared.home.get_mut(5..5 + account.home.len()) {
            home.copy_from_slice(account.home);
        }
        self.account = Some(found);
        Ok(())
    }

    fn set_account(&self, fixed: Option<&Account>, stdio: [Slot; 3]) -> Walk {
        let (uid, gid, groups) = match (fixed, &self.account) {
            (Some(account), _) => (account.uid, account.gid, account.groups.as_deref()),
            (None, Some(found)) => {
                let groups = found.count.and_then(|count| found.groups.get(..count));
                (found.uid, found.gid, groups)
            }
            (None, None) => return Err(Errno::INVAL).at(Call::UserLookup),
        };
        if uid != 0 {
            self.give_pipes(stdio, uid)?;
        }
        // Keeps the permitted set over the change of user, so that `SetCapabilities` can choose.
        thread::set_keep_capabilities(true).at(Call::Prctl)?;
        if let Some(groups) = groups {
            sys::setgroups(groups).at(Call::Setgroups)?;
        }
        sys::setresgid(gid).at(Call::Setgid)?;
        sys::setresuid(uid).at(Call::Setuid)?;
        thread::set_keep_capabilities(false).at(Call::Prctl)
    }

    fn give_pipes(&self, stdio: [Slot; 3], uid: u32) -> Walk {
        for slot in stdio {
            let stream = self.prepared.descriptor(slot)?;
            let status = fs::fstat(stream).at(Call::Stat)?;
            if FileType::from_raw_mode(status.st_mode) == FileType::Fifo {
                // Refused for a pipe of somebody else's; the stream itself works all the same.
                let _ = fs::fchown(stream, Some(Uid::from_raw(uid)), None);
            }
        }
        Ok(())
    }

    fn set_stdio(&self, slots: [Slot; 3]) -> Walk {
        for (number, slot) in (0..).zip(slots) {
            let stream = self.prepared.descriptor(slot)?;
            let result = match number {
                0 => rustix::stdio::dup2_stdin(stream),
                1 => rustix::stdio::dup2_stdout(stream),
                _ => rustix::stdio::dup2_stderr(stream),
            };
            result.at(Call::Dup)?;
        }
        match sys::close_range_cloexec(3) {
            // All our descriptors are close-on-exec anyway; this is for those that are not ours.
            Err(Errno::NOSYS) => Ok(()),
            result => result.at(Call::CloseRange),
        }
    }

    fn execute(&self, program: &Program) -> Walk {
        let mut outcome = Errno::NOENT;
        self.tell(Word::Ready)?;
        for candidate in &program.candidates {
            // SAFETY: both arrays were built in `Prepared::new` from C strings of the plan, which
            // lives as long as this process, and end with a null pointer.
            let errno = unsafe {
                sys::execve(
                    candidate,
                    self.prepared.argv.as_ptr(),
                    self.prepared.envp.as_ptr(),
                )
            };
            match errno {
                Errno::NOENT | Errno::NOTDIR => {}
                // A later directory may hold one that can be run; if none does, this is why.
                Errno::ACCESS => outcome = errno,
                _ => return Err(errno).at(Call::Execve),
            }
        }
        Err(outcome).at(Call::Execve)
    }
}

fn become_root() -> Walk {
    sys::setresgid(0).at(Call::Setgid)?;
    sys::setresuid(0).at(Call::Setuid)
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

/// Reads the regular file at `path` into `buffer`; nothing if there is none.
fn read_file<'b>(root: BorrowedFd<'_>, path: &CStr, buffer: &'b mut [u8]) -> Walk<&'b [u8]> {
    // To open a device can be to use it, so what it is is looked at before and after: it may be
    // replaced meanwhile. Not blocking, as for a FIFO that nobody writes to.
    let looks = OFlags::PATH | OFlags::CLOEXEC;
    let reads = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match resolve(root, path, looks, IN_ROOT) {
        Err(fault) if fault.errno == Errno::NOENT => return Ok(&[]),
        result => check_regular(&result?)?,
    }
    let file = resolve(root, path, reads, IN_ROOT)?;
    check_regular(&file)?;
    let mut length = 0;
    while let Some(rest @ [_, ..]) = buffer.get_mut(length..) {
        match io::read(&file, rest).at(Call::Read)? {
            0 => return Ok(&buffer[..length]),
            count => length += count,
        }
    }
    Err(Errno::FBIG).at(Call::Read)
}

fn check_regular(file: &OwnedFd) -> Walk {
    let status = fs::fstat(file).at(Call::Stat)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Errno::INVAL).at(Call::Verify),
    }
}

/// Enters `path`, made if missing, and makes sure that it lies inside the root.
fn change_directory(path: &CStr) -> Walk {
    match process::chdir(path) {
        Err(Errno::NOENT) => {
            let made = open_or_make(open_root()?.as_fd(), relative(path), Make::Directory)?;
            process::fchdir(&made).at(Call::Chdir)?;
        }
        result => result.at(Call::Chdir)?,
    }
    // A directory that a leaked descriptor leads to is outside of every root: "(unreachable)/…".
    if sys::cwd_is_below_root().at(Call::Getcwd)? {
        Ok(())
    } else {
        Err(Errno::NOENT).at(Call::Getcwd)
    }
}

fn open_root() -> Walk<OwnedFd> {
    fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(Call::Open)
}

/// `path` without the slash in front.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let rest = bytes.strip_prefix(b"/").unwrap_or(bytes);
    CStr::from_bytes_with_nul(rest).unwrap_or(path)
}

fn limit_capabilities(keep: u64) -> Walk {
    for capability in 0..64 {
        if keep >> capability & 1 == 1 {
            continue;
        }
        match sys::drop_bounding(capability) {
            // The first number that the kernel does not know: there are no more.
            Err(Errno::INVAL) => return Ok(()),
            result => result.at(Call::Prctl)?,
        }
    }
    Ok(())
}

/// The numbers of the bits that are set in `set`.
fn bits(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| set >> bit & 1 == 1)
}

/// Whether an error says that this host has no such thing, or does not give it to us.
fn may_lack(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NODEV
            | Errno::PERM
            | Errno::ACCESS
            | Errno::NOENT
            | Errno::NOSYS
            | Errno::INVAL
            | Errno::BUSY
    )
}
