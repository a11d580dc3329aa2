//! Entries: what one member of an archive says about one file.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// One file of a layer, without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is, relative to the root of the image. Any bytes but NUL may be in it.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions with the setuid, setgid and sticky bits.
    pub mode: u32,
    /// The user that owns it.
    pub uid: u32,
    /// The group that owns it.
    pub gid: u32,
    /// When its contents last changed.
    pub mtime: Timestamp,
    /// Extended attributes, names and values.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Entry {
    /// An entry of root's with the usual permissions of its kind, last changed at the epoch.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, kind: EntryKind) -> Self {
        let mode = match kind {
            EntryKind::Directory => 0o755,
            EntryKind::Symlink { .. } => 0o777,
            _ => 0o644,
        };
        let (path, mtime) = (path.into(), Timestamp::default());
        Self {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: Vec::new(),
        }
    }

    pub(super) fn path_bytes(&self) -> &[u8] {
        self.path.as_os_str().as_bytes()
    }
}

/// The kinds of files that a layer can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file.
    File {
        /// The length of its contents, holes included.
        size_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its text.
        target: PathBuf,
    },
    /// Another name of a file.
    HardLink {
        /// The path of that file, relative to the root of the image.
        target: PathBuf,
    },
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A point in time, counted from the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, negative before the epoch.
    pub seconds: i64,
    /// Nanoseconds on top of them, less than a thousand million.
    pub nanoseconds: u32,
}

/// Brings the name of an entry into the form `a/b/c`, empty for the root.
///
/// Leading slashes, empty and `.` components go; `..` takes back the component before it.
///
/// # Errors
/// `PathEscapes` if `..` leads out of the root; `PathTooLong` beyond 4096 bytes, 255 in a component
/// or 1024 components; `InvalidPath` with a NUL byte.
pub(crate) fn clean(raw: &[u8]) -> Result<Vec<u8>> {
    if raw.contains(&0) {
        return Err(Error::invalid(
            "InvalidPath",
            format!("read path {}: NUL byte", show(raw)),
        ));
    }
    let mut path = Vec::with_capacity(raw.len().min(MAX_PATH_BYTES));
    let mut depth = 0_usize;
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if path.is_empty() => {
                let doing = format!("read path {}: leads out of the root", show(raw));
                return Err(Error::invalid("PathEscapes", doing));
            }
            b".." => {
                path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                depth -= 1;
            }
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                depth += 1;
                let fits = name.len() <= MAX_COMPONENT_BYTES && depth <= MAX_DEPTH;
                if !fits || path.len() > MAX_PATH_BYTES {
                    return Err(too_long(raw));
                }
            }
        }
    }
    Ok(path)
}

/// Splits a cleaned path into its parent, empty for the root, and its name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// A path from the bytes of an archive.
pub(super) fn to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// The bytes of an archive's path for a message: quoted, escaped and of bounded length.
pub(crate) fn show(path: impl AsRef<[u8]>) -> String {
    let path = path.as_ref();
    let head = &path[..path.len().min(MAX_SHOWN_BYTES)];
    let dots = if head.len() < path.len() { "…" } else { "" };
    format!("{:?}{dots}", Path::new(std::ffi::OsStr::from_bytes(head)))
}

/// The error for a path or link text that no kernel would take.
pub(super) fn too_long(raw: &[u8]) -> Error {
    let doing = format!(
        "read path {} of {} bytes: too long or too deep",
        show(raw),
        raw.len()
    );
    Error::invalid("PathTooLong", doing)
}

/// Linux's own limits: `PATH_MAX` and `NAME_MAX`.
pub(super) const MAX_PATH_BYTES: usize = 4096;
const MAX_COMPONENT_BYTES: usize = 255;

/// Deeper trees are found in attacks only.
const MAX_DEPTH: usize = 1024;

const MAX_SHOWN_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_into_one_form() {
        let cases: [(&str, Result<&str, &str>); 16] = [
            ("a/b", Ok("a/b")),
            ("./a//b/", Ok("a/b")),
            ("/a", Ok("a")),
            ("", Ok("")),
            ("./", Ok("")),
            ("///", Ok("")),
            ("a/..", Ok("")),
            ("a/../b", Ok("b")),
            ("a/b/../../c/./d", Ok("c/d")),
            ("..", Err("PathEscapes")),
            ("/../etc", Err("PathEscapes")),
            ("a/../../b", Err("PathEscapes")),
            ("...", Ok("...")),
            ("a\nb/\u{e9}", Ok("a\nb/\u{e9}")),
            ("a\0b", Err("InvalidPath")),
            (" /.hidden", Ok(" /.hidden")),
        ];
        for (raw, want) in cases {
            let got = clean(raw.as_bytes());
            let got = got.as_deref().map_err(Error::code);
            assert_eq!(got, want.map(str::as_bytes), "{raw:?}");
        }
    }

    #[test]
    fn long_and_deep_names_are_refused() {
        let cases = [
            ("n".repeat(255), true),
            ("n".repeat(256), false),
            ("d/".repeat(1024), true),
            ("d/".repeat(1025), false),
            (format!("{}/", "n".repeat(255)).repeat(16), true),
            (format!("{}/", "n".repeat(255)).repeat(17), false),
            (format!("{}a", "./".repeat(100_000)), true),
        ];
        for (raw, fits) in cases {
            let got = clean(raw.as_bytes()).map_err(|error| error.code());
            assert_eq!(got.is_ok(), fits, "{} bytes", raw.len());
            assert!(got.is_ok() || got == Err("PathTooLong"));
        }
    }
}
