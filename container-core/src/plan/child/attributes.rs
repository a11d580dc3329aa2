//! The steps that set attributes of the process: keyring, security label.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::{self, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno};

use super::program::open_root;
use super::{At, Walk, Walker};
use crate::landlock::OF_FILES;
use crate::plan::place::{IN_ROOT, is_directory, resolve};
use crate::plan::step::{Call, Keep, SecurityModule};
use crate::plan::tree::new_proc;
use crate::sys;

/// Below a mount of our own, where the kernel's own link to the calling thread is followed.
const OWN_THREAD: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

pub(super) fn new_keyring(name: Option<&CStr>, permissions: u32) -> Walk {
    let keyring = match sys::join_session_keyring(name) {
        // A kernel without keys has none to keep away either.
        Err(Errno::NOSYS) => return Ok(()),
        result => result.at(Call::Keyctl)?,
    };
    match name {
        Some(_) => sys::set_key_permissions(keyring, permissions).at(Call::Keyctl),
        None => Ok(()),
    }
}

/// The root is that of the container by now; what is below a path is allowed wherever that leads.
pub(super) fn restrict_files(handled: u64, rules: &[(CString, u64)]) -> Walk {
    let root = open_root()?;
    let ruleset = sys::landlock::create_ruleset(handled).at(Call::LandlockCreateRuleset)?;
    for (path, allowed) in rules {
        let file = resolve(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, IN_ROOT)?;
        // The kernel refuses rights of directories for anything else.
        let allowed = match is_directory(file.as_fd())? {
            true => *allowed,
            false => allowed & OF_FILES,
        };
        // A rule that allows nothing is none.
        if allowed != 0 {
            sys::landlock::add_rule(ruleset.as_fd(), file.as_fd(), allowed)
                .at(Call::LandlockAddRule)?;
        }
    }
    sys::landlock::restrict_self(ruleset.as_fd()).at(Call::LandlockRestrictSelf)
}

impl Walker<'_> {
    /// Has the program start under `label`.
    pub(super) fn set_exec_label(&self, module: SecurityModule, label: &CStr) -> Walk {
        // Not through the container's `/proc`, which may be anything: a label that lands in a fake
        // file confines nothing.
        let made;
        let proc = match self.kept(Keep::PROC) {
            Ok(kept) => kept,
            Err(_) => {
                made = match new_proc() {
                    // Below a masked `/proc` a user namespace gets no new one.
                    Err(fault) if fault.errno == Errno::PERM => existing_proc()?,
                    result => result?,
                };
                made.as_fd()
            }
        };
        let open = |path| resolve(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, OWN_THREAD);
        let write = |path, parts: [&[u8]; 2]| {
            let mut text = [0; MAX_LABEL];
            let mut length = 0;
            for part in parts {
                let Some(place) = text.get_mut(length..length + part.len()) else {
                    return Err(Errno::NAMETOOLONG).at(Call::Write);
                };
                place.copy_from_slice(part);
                length += part.len();
            }
            io::write(open(path)?, &text[..length])
                .at(Call::Write)
                .map(drop)
        };
        match module {
            SecurityModule::AppArmor => {
                // Before Linux 5.8 the file of the only module there is.
                let own = c"thread-self/attr/apparmor/exec";
                let path = match open(own) {
                    Err(fault) if fault.errno == Errno::NOENT => c"thread-self/attr/exec",
                    _ => own,
                };
                write(path, [b"exec ", label.to_bytes()])
            }
            SecurityModule::Selinux => write(c"thread-self/attr/exec", [label.to_bytes(), b""]),
        }
    }
}

/// The `/proc` that is there, if it is one.
pub(super) fn existing_proc() -> Walk<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = fs::openat(CWD, c"/proc", flags, Mode::empty()).at(Call::Open)?;
    let found = fs::fstatfs(&proc).at(Call::Stat)?;
    if found.f_type == fs::PROC_SUPER_MAGIC {
        Ok(proc)
    } else {
        Err(Errno::INVAL).at(Call::Verify)
    }
}

/// The longest label: the kernel takes one page.
const MAX_LABEL: usize = 4096;
