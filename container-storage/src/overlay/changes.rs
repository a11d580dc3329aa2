//! What an overlay's upper directory says about its lowers.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::lowers::{Below, Found, Lowers, Merged, find, is_opaque, is_whiteout};
use crate::changes::{Item, Items};
use crate::driver::ChangeKind;
use crate::tree::Cursor;
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
pub(super) struct Upper<'a> {
    pub(super) files: Cursor<'a>,
    pub(super) lowers: Lowers<'a>,
    pub(super) opaque: &'static CStr,
}

impl Upper<'_> {
    /// The root, from which [`Upper::entries`] goes on.
    pub(super) fn root(&mut self) -> Result<Directory> {
        let root = self.files.go(Path::new(""))?;
        let opaque = is_opaque(root, OsStr::new("."), self.opaque)?;
        Ok(Directory {
            below: self.lowers.root(),
            opaque,
        })
    }

    /// What differs at each name of the directory `path`.
    pub(super) fn entries(&mut self, path: &Path, state: &Directory) -> Result<Items<Directory>> {
        let upper = self.files.go(path)?;
        let below = self.lowers.go(path, &state.below)?;
        let names = tree::names(upper)?;
        let mut items = Vec::with_capacity(names.len());
        if state.opaque {
            let mine: HashSet<&OsString> = names.iter().collect();
            let hidden = names_below(&below, self.opaque)?;
            let deleted = hidden.into_iter().filter(|name| !mine.contains(name));
            items.extend(deleted.map(|name| (name, Item::Leaf(ChangeKind::Deleted))));
        }
        for name in names {
            let stat = match rustix::fs::statat(upper, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|e| Error::os(format!("stat {:?}", path.join(&name)), e))?,
            };
            if let Some(item) = compare((upper, &stat), &below, &name, self.opaque)? {
                items.push((name, item));
            }
        }
        Ok(items)
    }
}

/// What one entry of the upper means.
fn compare(
    (upper, stat): (BorrowedFd<'_>, &Stat),
    below: &Below<'_>,
    name: &OsStr,
    opaque: &CStr,
) -> Result<Option<Item<Directory>>> {
    let lower = find(below, name, opaque)?;
    if is_whiteout(stat) {
        return Ok(lower.map(|_| Item::Leaf(ChangeKind::Deleted)));
    }
    let changed = if lower.is_some() {
        ChangeKind::Modified
    } else {
        ChangeKind::Added
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(Some(Item::Leaf(changed)));
    }
    let Some(Found { stat: old, merged }) = lower.filter(|lower| !lower.merged.is_empty()) else {
        let state = Directory {
            below: Merged::new(),
            opaque: false,
        };
        return Ok(Some(Item::Directory {
            kind: Some(changed),
            state,
        }));
    };
    let (_, holding) = below
        .iter()
        .find(|(lower, _)| *lower == merged[0])
        .expect("a lower that shows an entry takes part in its directory");
    let same = metadata::same_stat(stat, &old)
        && metadata::same_xattrs(upper, holding, name, metadata::not_overlay)
            .map_err(|e| Error::os(format!("read the xattrs of {name:?}"), e))?;
    let state = Directory {
        below: merged,
        opaque: is_opaque(upper, name, opaque)?,
    };
    Ok(Some(Item::Directory {
        kind: (!same).then_some(changed),
        state,
    }))
}

/// All names that the merged view of the lowers has in a directory.
fn names_below(below: &Below<'_>, opaque: &CStr) -> Result<Vec<OsString>> {
    let mut names = HashSet::new();
    for (_, directory) in below {
        names.extend(tree::names(directory)?);
    }
    let mut shown = Vec::with_capacity(names.len());
    for name in names {
        if find(below, &name, opaque)?.is_some() {
            shown.push(name);
        }
    }
    Ok(shown)
}
