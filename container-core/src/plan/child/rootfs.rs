//! The steps that make up the root file system.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno};
use rustix::mount::{self, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{self, Gid, Uid};

use super::{At, Walk, Walker};
use crate::plan::place::{
    IN_ROOT, Make, PATH_MAX, UNMIXED, is_directory, open_or_make, open_or_make_plain, open_parent,
    resolve,
};
use crate::plan::step::{Attributes, Call, Device, Keep, MountSource, Place};
use crate::plan::tree::{
    CLONE, attach, attach_over, new_empty_directory, new_proc, open_source, set_attributes,
};
use crate::sys::{self, MountAttr};

impl Walker<'_> {
    pub(super) fn mount_root(&mut self, source: &MountSource, over: &CStr) -> Walk {
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

    pub(super) fn mount(
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
    pub(super) fn below(&self, place: &Place) -> Walk<(BorrowedFd<'_>, ResolveFlags)> {
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

    pub(super) fn make_device(&self, device: &Device) -> Walk {
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

    pub(super) fn make_symlink(&self, target: &CStr, path: &CStr) -> Walk {
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(self.root()?, path, &mut buffer)?;
        match fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => Ok(()),
            result => result.at(Call::Symlink),
        }
    }

    pub(super) fn write_sysctl(&mut self, name: &CStr, value: &CStr) -> Walk {
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

    pub(super) fn mask(&mut self, place: &Place) -> Walk {
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

    pub(super) fn make_read_only(&self, place: &Place) -> Walk {
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

    pub(super) fn pivot_root(&mut self) -> Walk {
        process::fchdir(self.root()?).at(Call::Chdir)?;
        // Puts the old root on top of the new one, from where it is detached.
        process::pivot_root(c".", c".").at(Call::PivotRoot)?;
        mount::unmount(c".", UnmountFlags::DETACH).at(Call::Umount)?;
        process::chdir(c"/").at(Call::Chdir)
    }
}
