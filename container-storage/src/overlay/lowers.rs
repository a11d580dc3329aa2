//! What a path is in the lower directories of an overlay, without mounting them.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::store::{Record, Store};
use crate::{Error, Result, tree};

/// The lower directories of one snapshot, top first.
#[derive(Debug)]
pub(crate) struct Lowers {
    roots: Vec<OwnedFd>,
    opaque: &'static CStr,
}

/// A directory of the merged view: the lowers that take part in it, top first.
pub(crate) type Merged = Vec<usize>;

/// What the merged view has at a name.
pub(crate) struct Found {
    pub(crate) stat: Stat,
    /// If it is a directory: the lowers that take part in it, the first of which shows its
    /// metadata; else none.
    pub(crate) merged: Merged,
}

impl Lowers {
    /// Opens the lower directories of `record`.
    pub(crate) fn open(store: &Store, record: &Record, opaque: &'static CStr) -> Result<Self> {
        let roots = record.lowers.iter().map(|&number| store.open_files(number));
        Ok(Self {
            roots: roots.collect::<Result<_>>()?,
            opaque,
        })
    }

    /// The root of the merged view.
    pub(crate) fn root(&self) -> Merged {
        (0..self.roots.len()).collect()
    }

    /// Opens the directory `path` in each of the lowers that take part in it.
    pub(crate) fn open_merged(
        &self,
        path: &Path,
        merged: &Merged,
    ) -> Result<Vec<(usize, OwnedFd)>> {
        let open = |&lower| Ok((lower, tree::open_beneath(&self.roots[lower], path)?));
        merged.iter().map(open).collect()
    }

    /// Looks for `name` in a directory of the merged view, as overlay does: the first lower that
    /// has it decides, and directories merge until something else or an opaque one ends them.
    pub(crate) fn find(
        &self,
        directories: &[(usize, OwnedFd)],
        name: &OsStr,
    ) -> Result<Option<Found>> {
        let mut found: Option<Found> = None;
        for (lower, directory) in directories {
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|e| Error::os(format!("stat {name:?} in a lower"), e))?,
            };
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            match &mut found {
                _ if is_whiteout(&stat) => break,
                Some(_) if !is_directory => break,
                Some(above) => above.merged.push(*lower),
                None => {
                    let merged = if is_directory {
                        vec![*lower]
                    } else {
                        Vec::new()
                    };
                    found = Some(Found { stat, merged });
                }
            }
            if !is_directory || is_opaque(directory, name, self.opaque)? {
                break;
            }
        }
        Ok(found)
    }

    /// Opens the directory `path` of the merged view in the lower that shows its metadata.
    pub(crate) fn open_directory(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let (mut above, mut merged) = (PathBuf::new(), self.root());
        for name in path.components() {
            let directories = self.open_merged(&above, &merged)?;
            let Some(found) = self.find(&directories, name.as_os_str())? else {
                return Ok(None);
            };
            merged = found.merged;
            above.push(name);
        }
        let Some(&top) = merged.first() else {
            return Ok(None);
        };
        tree::open_beneath(&self.roots[top], path).map(Some)
    }
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
