//! Whiteouts: how layers and overlayfs write down that something is gone.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

use super::Whiteouts;
use super::entry::{show, split};
use crate::{Error, Result};

/// What the name of an entry means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// It is a file like any other.
    File,
    /// `name` in the directory `parent` is gone.
    Gone { parent: &'a [u8], name: &'a [u8] },
    /// All that lower layers have in this directory is gone.
    Opaque(&'a [u8]),
    /// Nothing: records that aufs kept for itself.
    Nothing,
}

/// Reads a cleaned path.
///
/// # Errors
/// `InvalidWhiteout` if it deletes no name, or lies below a whiteout.
///
/// # References
/// image-spec `layer.md#whiteouts`.
pub(super) fn meaning(path: &[u8]) -> Result<Meaning<'_>> {
    let (parent, name) = split(path);
    let invalid = || {
        let doing = format!("read whiteout {}", show(path));
        Err(Error::invalid("InvalidWhiteout", doing))
    };
    for component in parent.split(|byte| *byte == b'/') {
        if component.starts_with(META_PREFIX) {
            return Ok(Meaning::Nothing);
        }
        if component.starts_with(PREFIX) {
            return invalid();
        }
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(Meaning::File),
        Some(_) if name == OPAQUE => Ok(Meaning::Opaque(parent)),
        Some(_) if name.starts_with(META_PREFIX) => Ok(Meaning::Nothing),
        Some(b"" | b"." | b"..") => invalid(),
        Some(name) => Ok(Meaning::Gone { parent, name }),
    }
}

/// The extended attribute of opaque directories, in the forms that have one.
pub(super) fn opaque_xattr(form: Whiteouts) -> Option<&'static str> {
    match form {
        Whiteouts::Overlay => Some("trusted.overlay.opaque"),
        Whiteouts::OverlayUser => Some("user.overlay.opaque"),
        Whiteouts::Apply | Whiteouts::Keep => None,
    }
}

/// Whether `stat` is of overlayfs's mark that a name is gone.
pub(super) fn is_device(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Marks the open directory as opaque, where the form has a mark.
pub(super) fn set_opaque(directory: BorrowedFd<'_>, form: Whiteouts) -> Result<(), Errno> {
    match opaque_xattr(form) {
        Some(name) => rustix::fs::fsetxattr(directory, name, b"y", XattrFlags::empty()),
        None => Ok(()),
    }
}

/// Marks `name` as gone, unless it is there.
pub(super) fn set_gone(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mode = Mode::empty();
    match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, mode, 0) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// What is at `name`, if anything; links are not followed.
pub(super) fn lookup(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a whiteout's name begins with.
pub(super) const PREFIX: &[u8] = b".wh.";

/// The entry that makes its directory opaque.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What the names of aufs's own files begin with.
const META_PREFIX: &[u8] = b".wh..wh.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_they_mean() {
        let gone = |parent: &'static str, name: &'static str| {
            Ok(Meaning::Gone {
                parent: parent.as_bytes(),
                name: name.as_bytes(),
            })
        };
        let cases = [
            ("a/b", Ok(Meaning::File)),
            ("a/wh.b", Ok(Meaning::File)),
            ("a/.wh", Ok(Meaning::File)),
            (".wh.b", gone("", "b")),
            ("a/.wh.b", gone("a", "b")),
            ("a/.wh.b.wh.", gone("a", "b.wh.")),
            ("a/.wh..b", gone("a", ".b")),
            (".wh..wh..opq", Ok(Meaning::Opaque(b""))),
            ("a/.wh..wh..opq", Ok(Meaning::Opaque(b"a"))),
            (".wh..wh.aufs", Ok(Meaning::Nothing)),
            (".wh..wh.plnk/1.2", Ok(Meaning::Nothing)),
            ("a/.wh.", Err("InvalidWhiteout")),
            ("a/.wh..", Err("InvalidWhiteout")),
            (".wh...", Err("InvalidWhiteout")),
            ("a/.wh.b/c", Err("InvalidWhiteout")),
            (".wh.a/.wh.b", Err("InvalidWhiteout")),
        ];
        for (path, want) in cases {
            let got = meaning(path.as_bytes()).map_err(|error| error.code());
            assert_eq!(got, want, "{path}");
        }
    }
}
