//! Extended attributes: which ones travel in layers, and how they are set and read.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Ownership;

/// The attribute with the permissions that new files in a directory get.
pub(super) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Whether an attribute belongs to the image.
///
/// File capabilities, access lists and what users set do. The labels of security modules belong to
/// the host, `trusted.*` to its root, and what overlay file systems keep in attributes to the driver.
pub(super) fn is_portable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    if let Some(user) = name.strip_prefix(b"user.") {
        return !NOT_OF_USERS
            .iter()
            .any(|prefix| user.starts_with(prefix.as_bytes()));
    }
    PORTABLE.iter().any(|portable| name == portable.as_bytes())
}

/// Sets an attribute; false if it was left out because the file system has no such attributes or,
/// where owners are ignored, because the kernel refuses it to this user.
pub(super) fn set(
    file: BorrowedFd<'_>,
    name: &OsStr,
    value: &[u8],
    ownership: Ownership,
) -> Result<bool, Errno> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) if ownership == Ownership::Ignore => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Removes all portable attributes.
pub(super) fn clear(file: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in list(file)?.iter().filter(|name| is_portable(name)) {
        match rustix::fs::fremovexattr(file, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The names of all attributes, sorted.
pub(super) fn list(file: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut buffer = vec![0; USUAL_LIST_BYTES];
    let mut size = rustix::fs::flistxattr(file, &mut buffer[..]);
    if matches!(size, Err(Errno::RANGE)) {
        buffer.resize(MAX_LIST_BYTES, 0);
        size = rustix::fs::flistxattr(file, &mut buffer[..]);
    }
    match size {
        Ok(size) => buffer.truncate(size),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let names = buffer
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<_> = names
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    names.sort();
    Ok(names)
}

/// The value of an attribute, or `None` if there is no such attribute any more.
pub(super) fn get(file: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; MAX_VALUE_BYTES];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Attributes outside `user.` that travel.
const PORTABLE: [&str; 3] = [
    "security.capability",
    "system.posix_acl_access",
    DEFAULT_ACL,
];

/// Attributes in `user.` that overlay file systems and Podman's storage keep their own state in.
const NOT_OF_USERS: [&str; 3] = ["overlay.", "fuseoverlayfs.", "containers.override_"];

/// Enough for the names on most files, and Linux's own limit, `XATTR_LIST_MAX`.
const USUAL_LIST_BYTES: usize = 1 << 10;
const MAX_LIST_BYTES: usize = 64 << 10;

/// The largest value that Linux allows, `XATTR_SIZE_MAX`.
const MAX_VALUE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_of_the_image_travel() {
        let cases = [
            ("user.note", true),
            ("user.overlays", true),
            ("security.capability", true),
            ("system.posix_acl_access", true),
            ("user.overlay.opaque", false),
            ("user.fuseoverlayfs.opaque", false),
            ("user.containers.override_stat", false),
            ("trusted.overlay.opaque", false),
            ("trusted.overlay.redirect", false),
            ("trusted.any", false),
            ("security.selinux", false),
            ("security.ima", false),
            ("security.capability2", false),
            ("system.nfs4_acl", false),
            ("", false),
        ];
        for (name, want) in cases {
            assert_eq!(is_portable(OsStr::new(name)), want, "{name:?}");
        }
    }
}
