//! The steps that make up the root file system.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno};
use rustix::mount::{self, FsPickFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::{self, Gid, Uid};

use super::attributes::existing_proc;
use super::copy::copy_up;
use super::{At, Walk, Walker};
use crate::plan::place::{
    DIRECTORY, IN_ROOT, Make, PATH_MAX, UNMIXED, is_directory, open_or_make, open_or_make_plain,
    open_parent, resolve,
};
use crate::plan::step::{
    Attributes, Call, CgroupSource, CgroupView, Device, Keep, MountSource, Parameter, Place,
    Propagation, Refused, Tree, Under,
};
use crate::plan::tree::{
    CLONE, attach, attach_at, configure, new_empty_directory, new_instance, new_proc, open_tree,
    set_attributes, set_propagation, set_read_only,
};

/// The number of the root of a proc or sysfs.
const KERNEL_ROOT: u64 = 1;

impl Walker<'_> {
    pub(super) fn open_tree(&mut self, tree: &Tree, keep: Keep) -> Walk {
        let tree = open_tree(tree)?;
        self.keep(keep, tree)
    }

    pub(super) fn mount_root(
        &mut self,
        source: &MountSource,
        over: &CStr,
        attributes: &Attributes,
    ) -> Walk {
        if let MountSource::Classic {
            kind,
            source,
            data,
            flags,
        } = source
        {
            let flags = MountFlags::from_bits_retain(*flags);
            mount::mount(source, over, kind, flags, data.as_c_str()).at(Call::Mount)?;
        }
        let at = fs::openat(CWD, over, DIRECTORY, Mode::empty()).at(Call::Open)?;
        let root = match source {
            MountSource::Classic { .. } => at,
            _ => {
                let tree = self.open_source(source, None)?;
                attach(tree.as_fd(), at.as_fd())?;
                tree
            }
        };
        set_attributes(root.as_fd(), attributes)?;
        self.root = Some(root);
        Ok(())
    }

    pub(super) fn mount(
        &mut self,
        source: &MountSource,
        target: &CStr,
        attributes: &Attributes,
        keep: Option<Keep>,
        refused: &Refused,
    ) -> Walk {
        match (self.mount_source(source, target, attributes, keep), refused) {
            (Err(fault), Refused::Skip) if may_lack(fault.errno) => Ok(()),
            (Err(fault), Refused::Bind(tree)) if fault.errno == Errno::PERM => {
                let tree = open_tree(tree)?;
                // A new instance has these from its start.
                if let MountSource::New {
                    attributes: set, ..
                } = source
                {
                    let attributes = Attributes {
                        set: u64::from(*set),
                        ..Attributes::default()
                    };
                    set_attributes(tree.as_fd(), &attributes)?;
                }
                self.attach_tree(tree, target, attributes, keep)
            }
            (result, _) => result,
        }
    }

    fn mount_source(
        &mut self,
        source: &MountSource,
        target: &CStr,
        attributes: &Attributes,
        keep: Option<Keep>,
    ) -> Walk {
        let root = self.root()?;
        let tree = match source {
            MountSource::Bind(tree) if tree.copy_link && self.copy_link(&tree.path, target)? => {
                return Ok(());
            }
            MountSource::Bind(_) | MountSource::Kept(_) | MountSource::Mapped(_) => {
                let tree = self.open_source(source, None)?;
                return self.attach_tree(tree, target, attributes, keep);
            }
            MountSource::New { under, .. } => {
                // What is not there yet has no permissions to take over.
                let there =
                    *under == Under::Mode && resolve(root, target, DIRECTORY, IN_ROOT).is_ok();
                let at = open_target(root, target, keep, Make::Directory)?;
                let like = Some(at.as_fd()).filter(|_| there);
                let tree = self.open_source(source, like)?;
                if *under == Under::Content {
                    copy_up(at.as_fd(), tree.as_fd())?;
                }
                set_attributes(tree.as_fd(), attributes)?;
                attach(tree.as_fd(), at.as_fd())?;
                tree
            }
            MountSource::Classic {
                kind,
                source,
                data,
                flags,
            } => {
                let at = open_target(root, target, keep, Make::Directory)?;
                // `mount(2)` takes a path: that of the directory as it was found.
                process::fchdir(&at).at(Call::Chdir)?;
                let flags = MountFlags::from_bits_retain(*flags);
                mount::mount(source, c".", kind, flags, data.as_c_str()).at(Call::Mount)?;
                let tree = resolve(root, target, DIRECTORY, IN_ROOT)?;
                set_attributes(tree.as_fd(), attributes)?;
                tree
            }
        };
        self.keep_if(keep, tree)
    }

    /// Attaches a tree where it belongs: a directory on a directory, a file on a file.
    fn attach_tree(
        &mut self,
        tree: OwnedFd,
        target: &CStr,
        attributes: &Attributes,
        keep: Option<Keep>,
    ) -> Walk {
        set_attributes(tree.as_fd(), attributes)?;
        if let Some(keep) = keep {
            verify_kernel_tree(tree.as_fd(), keep)?;
        }
        let make = match is_directory(tree.as_fd())? {
            true => Make::Directory,
            false => Make::File,
        };
        let at = open_target(self.root()?, target, keep, make)?;
        attach(tree.as_fd(), at.as_fd())?;
        self.keep_if(keep, tree)
    }

    /// Makes or copies the mount that `source` describes; a new one takes over the permissions of
    /// `like`.
    fn open_source(&self, source: &MountSource, like: Option<BorrowedFd<'_>>) -> Walk<OwnedFd> {
        match source {
            MountSource::New {
                kind,
                parameters,
                attributes,
                ..
            } => new_instance(kind, parameters, *attributes, like),
            MountSource::Bind(tree) => open_tree(tree),
            MountSource::Kept(keep) => duplicate(self.kept(*keep)?),
            MountSource::Mapped(number) => duplicate(self.mapped(*number)?),
            // Mounted in place.
            MountSource::Classic { .. } => Err(Errno::INVAL).at(Call::Mount),
        }
    }

    /// Makes the link that `source` is; `false` if it is none.
    fn copy_link(&self, source: &CStr, target: &CStr) -> Walk<bool> {
        let mut buffer = [MaybeUninit::uninit(); PATH_MAX];
        let text = match fs::readlinkat_raw(CWD, source, &mut buffer) {
            Err(Errno::INVAL) => return Ok(false),
            result => result.at(Call::Open)?.0,
        };
        let mut link = [0; PATH_MAX];
        let Some(copy) = link.get_mut(..text.len()).filter(|_| text.len() < PATH_MAX) else {
            return Err(Errno::NAMETOOLONG).at(Call::Symlink);
        };
        copy.copy_from_slice(text);
        let link = CStr::from_bytes_until_nul(&link).unwrap_or_default();
        self.link_at(self.root()?, link, target)?;
        Ok(true)
    }

    pub(super) fn remount(
        &self,
        target: &CStr,
        parameters: Option<&[Parameter]>,
        attributes: &Attributes,
    ) -> Walk {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let at = resolve(self.root()?, target, flags, IN_ROOT)?;
        if let Some(parameters) = parameters {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = mount::fspick(&at, c"", flags).at(Call::Fspick)?;
            configure(&context, parameters)?;
            mount::fsconfig_reconfigure(&context).at(Call::Fsconfig)?;
        }
        set_attributes(at.as_fd(), attributes)
    }

    pub(super) fn mount_cgroups(
        &self,
        target: &CStr,
        parameters: &[Parameter],
        attributes: u32,
        views: &[CgroupView],
        refused: &Refused,
    ) -> Walk {
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        let writable = attributes.difference(MountAttrFlags::MOUNT_ATTR_RDONLY);
        let directory = new_instance(c"tmpfs", parameters, writable.bits(), None)?;
        let at = open_or_make(self.root()?, target, Make::Directory)?;
        attach(directory.as_fd(), at.as_fd())?;
        // For names in it: it is new, and nobody else has it yet.
        process::fchdir(&directory).at(Call::Chdir)?;
        for view in views {
            let name = view.name.as_c_str();
            fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)).at(Call::Mkdir)?;
            match (view.mount(directory.as_fd(), attributes), refused) {
                (Err(fault), Refused::Skip) if may_lack(fault.errno) => {}
                (result, _) => result?,
            }
            for link in &view.links {
                fs::symlinkat(name, &directory, link.as_c_str()).at(Call::Symlink)?;
            }
        }
        match attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
            true => set_read_only(directory.as_fd(), false),
            false => Ok(()),
        }
    }

    pub(super) fn finish(&self, mount: Keep) -> Walk {
        set_read_only(self.kept(mount)?, false)
    }

    pub(super) fn set_root_propagation(&self, propagation: Propagation) -> Walk {
        set_propagation(self.root()?, propagation)
    }

    fn mapped(&self, number: u16) -> Walk<BorrowedFd<'_>> {
        match self.prepared.mapped.get(usize::from(number)) {
            Some(tree) => Ok(tree.as_fd()),
            None => Err(Errno::BADF).at(Call::Verify),
        }
    }

    pub(super) fn kept(&self, keep: Keep) -> Walk<BorrowedFd<'_>> {
        match self.prepared.kept.get(usize::from(keep.0)) {
            Some(Some(mount)) => Ok(mount.as_fd()),
            _ => Err(Errno::BADF).at(Call::Verify),
        }
    }

    fn keep_if(&mut self, keep: Option<Keep>, mount: OwnedFd) -> Walk {
        keep.map_or(Ok(()), |keep| self.keep(keep, mount))
    }

    fn keep(&mut self, keep: Keep, mount: OwnedFd) -> Walk {
        match self.prepared.kept.get_mut(usize::from(keep.0)) {
            Some(place) => {
                *place = Some(mount);
                Ok(())
            }
            None => Err(Errno::BADF).at(Call::Verify),
        }
    }

    /// The directory that `place` is relative to, and how strictly it is resolved there.
    pub(super) fn below(&self, place: &Place) -> Walk<(BorrowedFd<'_>, ResolveFlags)> {
        match place.below {
            Some(keep) => Ok((self.kept(keep)?, UNMIXED)),
            None => Ok((self.root()?, IN_ROOT)),
        }
    }

    pub(super) fn make_device(&self, device: &Device) -> Walk {
        let (base, _) = self.below(&device.place)?;
        let path = device.place.path.as_c_str();
        let kind = FileType::from_raw_mode(device.kind);
        let number = fs::makedev(device.major, device.minor);
        let is_meant = |there: fs::Stat| {
            FileType::from_raw_mode(there.st_mode) == kind && there.st_rdev == number
        };
        if let Some(host) = &device.bind {
            let node = mount::open_tree(CWD, host.as_c_str(), CLONE).at(Call::OpenTree)?;
            if !is_meant(fs::fstat(&node).at(Call::Stat)?) {
                return Err(Errno::NXIO).at(Call::Verify);
            }
            let at = open_or_make(base, path, Make::File)?;
            return attach(node.as_fd(), at.as_fd());
        }
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(base, path, &mut buffer)?;
        let parent = parent.as_fd();
        let mode = Mode::from_bits_truncate(device.mode);
        match fs::mknodat(parent, name, kind, mode, number) {
            Err(Errno::EXIST) => {
                let there = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).at(Call::Stat)?;
                match is_meant(there) {
                    true => Ok(()),
                    false => Err(Errno::EXIST).at(Call::Mknod),
                }
            }
            result => {
                result.at(Call::Mknod)?;
                if device.uid == 0 && device.gid == 0 {
                    return Ok(());
                }
                let owner = Some(Uid::from_raw(device.uid));
                let group = Some(Gid::from_raw(device.gid));
                fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).at(Call::Chown)
            }
        }
    }

    pub(super) fn make_symlink(&self, target: &CStr, place: &Place) -> Walk {
        let (base, _) = self.below(place)?;
        self.link_at(base, target, &place.path)
    }

    /// Links `path` below `base` to `target`, unless there is something of that name.
    fn link_at(&self, base: BorrowedFd<'_>, target: &CStr, path: &CStr) -> Walk {
        let mut buffer = [0; PATH_MAX];
        let (parent, name) = open_parent(base, path, &mut buffer)?;
        match fs::symlinkat(target, parent.as_fd(), name) {
            Err(Errno::EXIST) => Ok(()),
            result => result.at(Call::Symlink),
        }
    }

    pub(super) fn write_sysctl(&mut self, name: &CStr, value: &CStr) -> Walk {
        if self.kept(Keep::PROC).is_err() {
            let proc = match new_proc() {
                // Refused in a user namespace where the PID namespace is not its own.
                Err(fault) if fault.errno == Errno::PERM => existing_proc()?,
                result => result?,
            };
            self.keep(Keep::PROC, proc)?;
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = resolve(self.kept(Keep::PROC)?, name, flags, UNMIXED)?;
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
        set_read_only(copy.as_fd(), true)?;
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

impl CgroupView {
    /// Mounts the hierarchy on its directory in the working directory, which is `directory`.
    fn mount(&self, directory: BorrowedFd<'_>, attributes: MountAttrFlags) -> Walk {
        let name = self.name.as_c_str();
        match &self.source {
            CgroupSource::Mount { kind, options } => {
                let flags = crate::plan::mounts::classic_flags(attributes.bits());
                let flags = MountFlags::from_bits_retain(flags);
                mount::mount(c"cgroup", name, kind, flags, options.as_c_str()).at(Call::Mount)
            }
            CgroupSource::Own(path) => {
                let tree = mount::open_tree(CWD, path.as_c_str(), CLONE).at(Call::OpenTree)?;
                let attributes = Attributes {
                    set: u64::from(attributes.bits()),
                    ..Attributes::default()
                };
                set_attributes(tree.as_fd(), &attributes)?;
                attach_at(tree.as_fd(), directory, name)
            }
        }
    }
}

/// Opens what is to be mounted on; no link may lead to what masks and kernel parameters rely on.
fn open_target(
    root: BorrowedFd<'_>,
    target: &CStr,
    keep: Option<Keep>,
    make: Make,
) -> Walk<OwnedFd> {
    match keep {
        Some(keep) if keep.0 < Keep::FIRST_FREE.0 => open_or_make_plain(root, target),
        _ => open_or_make(root, target, make),
    }
}

/// Refuses for `/proc` and `/sys` what is not the root of a file system of that kind.
fn verify_kernel_tree(tree: BorrowedFd<'_>, keep: Keep) -> Walk {
    let magic = match keep {
        Keep::PROC => libc::PROC_SUPER_MAGIC,
        Keep::SYS => libc::SYSFS_MAGIC,
        _ => return Ok(()),
    };
    let kind = fs::fstatfs(tree).at(Call::Stat)?.f_type;
    let number = fs::fstat(tree).at(Call::Stat)?.st_ino;
    match kind == magic && number == KERNEL_ROOT {
        true => Ok(()),
        false => Err(Errno::XDEV).at(Call::Verify),
    }
}

fn duplicate(mount: BorrowedFd<'_>) -> Walk<OwnedFd> {
    io::fcntl_dupfd_cloexec(mount, 3).at(Call::Dup)
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
