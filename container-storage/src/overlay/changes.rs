//! What an overlay's upper directory says about its lowers.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::lowers::{Found, Lowers, Merged, is_opaque, is_whiteout};
use crate::changes::{Item, Items};
use crate::driver::ChangeKind;
use crate::{Error, Result, metadata, tree};

/// One directory of the upper.
#[derive(Debug)]
pub(super) struct Directory {
    /// The lowers that have the same directory, whether or not they are hidden.
    below: Merged,
    /// Whether the upper hides what the lowers have in it.
    opaque: bool,
}

/// A snapshot beside its parents.
#[derive(Debug)]
pub(super) struct Upper {
    pub(super) files: OwnedFd,
    pub(super) lowers: Lowers,
    pub(super) opaque: &'static std::ffi::CStr,
}

impl Upper {
    /// The root, from which [`Upper::entries`] goes on.
    pub(super) fn root(&self) -> Result<Directory> {
        let opaque = is_opaque(&self.files, OsStr::new("."), self.opaque)?;
        Ok(Directory {
            below: self.lowers.root(),
            opaque,
        })
    }

    /// What differs at each name of the directory `path`.
    pub(super) fn entries(&self, path: &Path, state: &Directory) -> Result<Items<Directory>> {
        let upper = tree::open_beneath(&self.files, path)?;
        let below = self.lowers.open_merged(path, &state.below)?;
        let names = tree::names(&upper)?;
        let mut items = Vec::with_capacity(names.len());
        if state.opaque {
            let mine: HashSet<&OsString> = names.iter().collect();
            for name in self
                .names_below(&below)?
                .into_iter()
                .filter(|name| !mine.contains(name))
            {
                items.push((name, Item::Leaf(ChangeKind::Deleted)));
            }
        }
        for name in names {
            let stat = match rustix::fs::statat(&upper, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|e| Error::os(format!("stat {:?}", path.join(&name)), e))?,
            };
            let lower = self.lowers.find(&below, &name)?;
            if let Some(item) = self.compare((&upper, &stat), (&below, lower), &name)? {
                items.push((name, item));
            }
        }
        Ok(items)
    }

    fn compare(
        &self,
        (upper, stat): (&OwnedFd, &Stat),
        (below, lower): (&[(usize, OwnedFd)], Option<Found>),
        name: &OsStr,
    ) -> Result<Option<Item<Directory>>> {
        if is_whiteout(stat) {
            return Ok(lower.map(|_| Item::Leaf(ChangeKind::Deleted)));
        }
        let mut kind = match lower {
            Some(_) => Some(ChangeKind::Modified),
            None => Some(ChangeKind::Added),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(kind.map(Item::Leaf));
        }
        let mut state = Directory {
            below: Merged::new(),
            opaque: false,
        };
        if let Some(Found { stat: old, merged }) = lower
            && let Some(top) = merged.first()
        {
            let (_, holding) = below
                .iter()
                .find(|(lower, _)| lower == top)
                .expect("a lower that shows an entry takes part in its directory");
            let same = metadata::same_stat(stat, &old)
                && metadata::same_xattrs(upper, holding, name, metadata::not_overlay)
                    .map_err(|e| Error::os(format!("read the xattrs of {name:?}"), e))?;
            kind = kind.filter(|_| !same);
            state.opaque = is_opaque(upper, name, self.opaque)?;
            state.below = merged;
        }
        Ok(Some(Item::Directory { kind, state }))
    }

    /// All names that the merged view of the lowers has in a directory.
    fn names_below(&self, below: &[(usize, OwnedFd)]) -> Result<Vec<OsString>> {
        let mut names = HashSet::new();
        for (_, directory) in below {
            names.extend(tree::names(directory)?);
        }
        let mut shown = Vec::with_capacity(names.len());
        for name in names {
            if self.lowers.find(below, &name)?.is_some() {
                shown.push(name);
            }
        }
        Ok(shown)
    }
}
