//! The steps that make the process what it is to be: account, streams, program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Access, CWD, FileType, Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::process::{self, Uid};
use rustix::thread;

use super::{At, Prepared, Walk, Walker};
use crate::plan::Word;
use crate::plan::place::{IN_ROOT, Make, open_or_make, resolve};
use crate::plan::step::{Account, Call, Program, Slot};
use crate::sys::exec::execve;
use crate::{sys, user};

/// An account from the image's files, with a bounded list of groups.
pub(super) struct Found {
    uid: u32,
    gid: u32,
    groups: [u32; MAX_GROUPS],
    /// How many of them there are; `None` where this process may not set any.
    count: Option<usize>,
}

/// More supplementary groups than any account has; the kernel's own limit is 65536.
const MAX_GROUPS: usize = 1024;

impl Walker<'_> {
    /// Reads the account from the root file system's own files, which may be anything.
    pub(super) fn look_up_user(&mut self, user: &CStr, with_groups: bool) -> Walk {
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

    pub(super) fn set_account(&self, fixed: Option<&Account>, stdio: [Slot; 3]) -> Walk {
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
            let stream = self.stream(slot)?;
            let status = fs::fstat(stream).at(Call::Stat)?;
            let is_pipe = FileType::from_raw_mode(status.st_mode) == FileType::Fifo;
            if is_pipe || self.terminal.is_some() {
                // Refused for a pipe of somebody else's; the stream itself works all the same.
                let _ = fs::fchown(stream, Some(Uid::from_raw(uid)), None);
            }
        }
        Ok(())
    }

    /// The standard stream in `slot`, or the terminal that takes the place of all three.
    fn stream(&self, slot: Slot) -> Walk<BorrowedFd<'_>> {
        match &self.terminal {
            Some(terminal) => Ok(terminal.as_fd()),
            None => self.prepared.descriptor(slot),
        }
    }

    pub(super) fn set_stdio(&self, slots: [Slot; 3]) -> Walk {
        for (number, slot) in (0..).zip(slots) {
            let stream = self.stream(slot)?;
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

    pub(super) fn execute(&self, program: &Program) -> Walk {
        let mut outcome = Errno::NOENT;
        self.tell(Word::Ready)?;
        let Prepared {
            arguments,
            environment,
            home,
            ..
        } = &self.prepared;
        let home = CStr::from_bytes_until_nul(home).ok();
        let home = home.filter(|_| program.add_home);
        for candidate in &program.candidates {
            let errno = execve(candidate, arguments, environment, home);
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

/// Looks whether one of `candidates` is a program that this process may execute.
pub(super) fn check_program(candidates: &[CString]) -> Walk {
    let mut outcome = Errno::NOENT;
    for candidate in candidates {
        let found =
            fs::stat(candidate.as_c_str()).and_then(|status| {
                match FileType::from_raw_mode(status.st_mode) {
                    FileType::RegularFile => fs::access(candidate.as_c_str(), Access::EXEC_OK),
                    _ => Err(Errno::ACCESS),
                }
            });
        match found {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => outcome = errno,
        }
    }
    Err(outcome).at(Call::Access)
}

/// Enters `path`, made if missing where `make` says so, and makes sure that it lies inside the root.
pub(super) fn change_directory(path: &CStr, make: bool) -> Walk {
    match process::chdir(path) {
        Err(Errno::NOENT) if make => {
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

pub(super) fn open_root() -> Walk<OwnedFd> {
    fs::openat(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(Call::Open)
}

/// `path` without the slash in front.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let rest = bytes.strip_prefix(b"/").unwrap_or(bytes);
    CStr::from_bytes_with_nul(rest).unwrap_or(path)
}

pub(super) fn limit_capabilities(keep: u64) -> Walk {
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
