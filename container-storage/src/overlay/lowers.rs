//! What a path is in the lower directories of an overlay, without mounting them.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::store::{Record, Store};
use crate::tree::Cursor;
use crate::{Error, Result, tree};

/// The lower directories of one snapshot, top first.
#[derive(Debug)]
pub(crate) struct Lowers<'a> {
    cursors: Vec<Cursor<'a>>,
    opaque: &'static CStr,
}

/// A directory of the merged view: the lowers that take part in it, in rising order, top first.
pub(crate) type Merged = Vec<usize>;

/// What the merged view has at a name.
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// If it is a directory: the lowers that take part in it, the first of which shows its
    /// metadata; else none.
    pub(crate) merged: Merged,
}

/// The same directory in each lower that takes part in it, top first.
pub(crate) type Below<'a> = Vec<(usize, BorrowedFd<'a>)>;

impl<'a> Lowers<'a> {
    /// The lower directories of `record`; `opaque` is the xattr that marks opaque directories.
    pub(crate) fn new(store: &'a Store, record: &Record, opaque: &'static CStr) -> Self {
        let cursors = record
            .lowers
            .iter()
            .map(|&number| store.cursor(number))
            .collect();
        Self { cursors, opaque }
    }

    /// The root of the merged view.
    pub(crate) fn root(&self) -> Merged {
        (0..self.cursors.len()).collect()
    }

    /// Opens the directory `path` in each of the lowers that take part in it.
    pub(crate) fn go(&mut self, path: &Path, merged: &Merged) -> Result<Below<'_>> {
        let cursors = self.cursors.iter_mut().enumerate();
        let taking_part = cursors.filter(|(lower, _)| merged.binary_search(lower).is_ok());
        taking_part
            .map(|(lower, cursor)| Ok((lower, cursor.go(path)?)))
            .collect()
    }

    /// Opens the directory `path` of the merged view in the lower that shows its metadata.
    pub(crate) fn open_directory(&mut self, path: &Path) -> Result<Option<OwnedFd>> {
        let (mut above, mut merged) = (PathBuf::new(), self.root());
        let opaque = self.opaque;
        for name in path.components() {
            let below = self.go(&above, &merged)?;
            let Some(found) = find(&below, name.as_os_str(), opaque)? else {
                return Ok(None);
            };
            merged = found.merged;
            above.push(name);
        }
        merged.truncate(1);
        let Some(&(_, top)) = self.go(path, &merged)?.first() else {
            return Ok(None);
        };
        let own = top.try_clone_to_owned();
        own.map(Some)
            .map_err(|e| Error::os("duplicate a descriptor", e))
    }
}

/// Looks for `name` in a directory of the merged view, as overlay does: the first lower that has
/// it decides, and directories merge until something else or an opaque one ends them.
pub(crate) fn find(
    below: &[(usize, BorrowedFd<'_>)],
    name: &OsStr,
    opaque: &CStr,
) -> Result<Option<Found>> {
    let mut found: Option<Found> = None;
    for &(lower, directory) in below {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            other => other.map_err(|e| Error::os(format!("stat {name:?} in a lower"), e))?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match &mut found {
            _ if is_whiteout(&stat) => break,
            Some(_) if !is_directory => break,
            Some(above) => above.merged.push(lower),
            None => {
                let merged = if is_directory {
                    vec![lower]
                } else {
                    Vec::new()
                };
                found = Some(Found { stat, merged });
            }
        }
        if !is_directory || is_opaque(directory, name, opaque)? {
            break;
        }
    }
    Ok(found)
}

/// Whether a file says that its name is deleted.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a directory hides what the lowers have in it.
pub(crate) fn is_opaque(directory: impl AsFd, name: &OsStr, key: &CStr) -> Result<bool> {
    match tree::xattr(directory, name, key) {
        Ok(value) => Ok(value.as_deref() == Some(b"y")),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::os(
            format!("read {key:?} of directory {name:?}"),
            errno,
        )),
    }
}
