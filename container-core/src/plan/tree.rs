//! Makes mounts that are attached nowhere yet, and attaches them, without allocating.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, CWD};
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
};

use super::child::{At, Walk};
use super::step::{Attributes, Call, Parameter, Propagation, Tree};
use crate::sys::{self, MountAttr};

/// How a mount is copied.
pub(super) const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What no mount of a pseudo file system needs.
const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Copies a tree of the host.
pub(crate) fn open_tree(tree: &Tree) -> Walk<OwnedFd> {
    let flags = if tree.recursive {
        CLONE | OpenTreeFlags::AT_RECURSIVE
    } else {
        CLONE
    };
    mount::open_tree(CWD, tree.path.as_c_str(), flags).at(Call::OpenTree)
}

/// Makes a new instance of a file system; with the permissions of `like`, where that is given.
pub(super) fn new_instance(
    kind: &CStr,
    parameters: &[Parameter],
    attributes: u32,
    like: Option<BorrowedFd<'_>>,
) -> Walk<OwnedFd> {
    let context = mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).at(Call::Fsopen)?;
    configure(&context, parameters)?;
    if let Some(like) = like {
        let mut octal = [b'0'; 5];
        let mode = fs::fstat(like).at(Call::Stat)?.st_mode;
        mount::fsconfig_set_string(&context, c"mode", permissions(mode, &mut octal))
            .at(Call::Fsconfig)?;
    }
    finish(&context, MountAttrFlags::from_bits_retain(attributes))
}

/// Sets parameters of a file system that is being made or changed.
pub(super) fn configure(context: &OwnedFd, parameters: &[Parameter]) -> Walk {
    for (key, value) in parameters {
        match value {
            Some(value) => mount::fsconfig_set_string(context, key.as_c_str(), value.as_c_str()),
            None => mount::fsconfig_set_flag(context, key.as_c_str()),
        }
        .at(Call::Fsconfig)?;
    }
    Ok(())
}

/// The permissions of a mode as text.
fn permissions(mode: u32, octal: &mut [u8; 5]) -> &CStr {
    for (shift, digit) in [9, 6, 3, 0].into_iter().zip(octal.iter_mut()) {
        *digit = b'0' + u8::try_from(mode >> shift & 7).unwrap_or(0);
    }
    octal[4] = 0;
    CStr::from_bytes_until_nul(octal).unwrap_or(c"0")
}

/// A proc mount of our own.
pub(super) fn new_proc() -> Walk<OwnedFd> {
    new_instance(c"proc", &[], INERT.bits(), None)
}

/// An empty directory that nothing can be put in.
pub(super) fn new_empty_directory() -> Walk<OwnedFd> {
    let context = mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).at(Call::Fsopen)?;
    mount::fsconfig_set_string(&context, c"nr_inodes", c"1").at(Call::Fsconfig)?;
    finish(&context, INERT | MountAttrFlags::MOUNT_ATTR_RDONLY)
}

fn finish(context: &OwnedFd, attributes: MountAttrFlags) -> Walk<OwnedFd> {
    mount::fsconfig_create(context).at(Call::Fsconfig)?;
    mount::fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).at(Call::Fsmount)
}

/// Applies the attributes that a mount was asked to have.
pub(super) fn set_attributes(tree: BorrowedFd<'_>, attributes: &Attributes) -> Walk {
    let Attributes {
        set,
        clear,
        set_recursively,
        clear_recursively,
        propagation,
    } = attributes;
    for (attr_set, attr_clr, recursive) in [
        (*set, *clear, false),
        (*set_recursively, *clear_recursively, true),
    ] {
        if attr_set | attr_clr == 0 {
            continue;
        }
        let attr = MountAttr {
            attr_set,
            attr_clr,
            ..MountAttr::default()
        };
        sys::mount_setattr(tree, recursive, &attr).at(Call::MountSetattr)?;
    }
    propagation
        .iter()
        .try_for_each(|it| set_propagation(tree, *it))
}

pub(super) fn set_propagation(tree: BorrowedFd<'_>, propagation: Propagation) -> Walk {
    let attr = MountAttr {
        propagation: propagation.kind,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree, propagation.recursive, &attr).at(Call::MountSetattr)
}

pub(super) fn set_read_only(tree: BorrowedFd<'_>, recursive: bool) -> Walk {
    let attr = MountAttr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttr::default()
    };
    sys::mount_setattr(tree, recursive, &attr).at(Call::MountSetattr)
}

/// Attaches `tree` on top of `at`.
pub(super) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Walk {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(tree, c"", at, c"", flags).at(Call::MoveMount)
}

/// Attaches `tree` on top of what `name` is in `directory`, which is not a link.
pub(super) fn attach_at(tree: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr) -> Walk {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    mount::move_mount(tree, c"", directory, name, flags).at(Call::MoveMount)
}
