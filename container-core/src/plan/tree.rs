//! Makes mounts that are attached nowhere yet, and attaches them, without allocating.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
};

use super::child::{At, Walk};
use super::step::{Attributes, Call, MountSource};
use crate::sys::{self, MountAttr};

/// How a mount is copied.
pub(super) const CLONE: OpenTreeFlags =
    OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What no mount of a pseudo file system needs.
const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes the mount that `source` describes.
pub(super) fn open_source(source: &MountSource) -> Walk<OwnedFd> {
    match source {
        MountSource::New {
            kind,
            parameters,
            attributes,
        } => {
            let context =
                mount::fsopen(kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC).at(Call::Fsopen)?;
            for (key, value) in parameters {
                match value {
                    Some(value) => {
                        mount::fsconfig_set_string(&context, key.as_c_str(), value.as_c_str())
                    }
                    None => mount::fsconfig_set_flag(&context, key.as_c_str()),
                }
                .at(Call::Fsconfig)?;
            }
            finish(&context, MountAttrFlags::from_bits_retain(*attributes))
        }
        MountSource::Bind { path, recursive } => {
            let flags = if *recursive {
                CLONE | OpenTreeFlags::AT_RECURSIVE
            } else {
                CLONE
            };
            mount::open_tree(CWD, path.as_c_str(), flags).at(Call::OpenTree)
        }
        // Only a root is mounted that way, in place.
        MountSource::Classic { .. } => Err(Errno::INVAL).at(Call::Mount),
    }
}

/// A proc mount of our own.
pub(super) fn new_proc() -> Walk<OwnedFd> {
    let context = mount::fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC).at(Call::Fsopen)?;
    finish(&context, INERT)
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

/// Applies the attributes that a bind mount was asked to have.
pub(super) fn set_attributes(tree: BorrowedFd<'_>, attributes: &Attributes) -> Walk {
    let changes = [
        (attributes.set, attributes.clear, 0, false),
        (
            attributes.set_recursively,
            attributes.clear_recursively,
            0,
            true,
        ),
        (
            0,
            0,
            attributes.propagation,
            attributes.propagation_recursive,
        ),
    ];
    for (attr_set, attr_clr, propagation, recursive) in changes {
        if attr_set | attr_clr | propagation == 0 {
            continue;
        }
        let attr = MountAttr {
            attr_set,
            attr_clr,
            propagation,
            userns_fd: 0,
        };
        sys::mount_setattr(tree, recursive, &attr).at(Call::MountSetattr)?;
    }
    Ok(())
}

/// Attaches `tree` on top of `at`.
pub(super) fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> Walk {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    mount::move_mount(tree, c"", at, c"", flags).at(Call::MoveMount)
}

/// Attaches `tree` on top of the directory `over` of the host's copied tree.
pub(super) fn attach_over(tree: BorrowedFd<'_>, over: &CStr) -> Walk {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    mount::move_mount(tree, c"", CWD, over, flags).at(Call::MoveMount)
}
