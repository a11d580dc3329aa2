//! The order in which changes are reported, whoever finds them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::driver::{Change, ChangeKind};

/// What a driver found at one name of a directory.
pub(crate) enum Item<D> {
    /// A change that has nothing below it.
    Leaf(ChangeKind),
    /// A directory to look into; `kind` is what is known of it so far.
    Directory { kind: Option<ChangeKind>, state: D },
}

/// What a driver found in one directory, in any order.
pub(crate) type Items<D> = Vec<(OsString, Item<D>)>;

/// Reports what `entries` finds in each directory, beginning with the root in the state `root`.
pub(crate) fn report<D>(
    root: D,
    entries: &mut dyn FnMut(&Path, &D) -> Result<Items<D>>,
    visit: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    let mut pending = vec![(
        PathBuf::new(),
        Item::Directory {
            kind: None,
            state: root,
        },
    )];
    while let Some((path, item)) = pending.pop() {
        let (kind, state) = match item {
            Item::Leaf(kind) => {
                visit(Change { path, kind })?;
                continue;
            }
            Item::Directory { kind, state } => (kind, state),
        };
        let mut found = entries(&path, &state)?;
        let kind = kind.or(found
            .iter()
            .any(|(_, item)| resizes(item))
            .then_some(ChangeKind::Modified));
        if let Some(kind) = kind.filter(|_| path != Path::new("")) {
            visit(Change {
                path: path.clone(),
                kind,
            })?;
        }
        // What is pushed last is visited first.
        found.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        pending.extend(
            found
                .into_iter()
                .map(|(name, item)| (path.join(name), item)),
        );
    }
    Ok(())
}

/// Whether an entry of this kind means that its directory has entries more or less than before.
fn resizes<D>(item: &Item<D>) -> bool {
    let (Item::Leaf(kind)
    | Item::Directory {
        kind: Some(kind), ..
    }) = item
    else {
        return false;
    };
    *kind != ChangeKind::Modified
}
