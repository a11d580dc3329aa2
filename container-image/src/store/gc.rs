//! Garbage collection: mark from the index and the leases, sweep the rest.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;

use super::index::LayoutIndex;
use super::{Store, files};
use crate::{Descriptor, Digest, Document, Error, Result};

/// What [`Store::prune`] removed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// The blobs that nothing needs.
    pub blobs: Vec<Digest>,
    /// Their size together.
    pub size_bytes: u64,
}

impl Store {
    /// Removes all blobs that no image and no lease needs, and what crashed writers left.
    ///
    /// Waits for steps of others that add something, not for their whole operations.
    ///
    /// # Errors
    /// `IndexDamaged`; nothing is removed then.
    pub fn prune(&self) -> Result<Pruned> {
        let _alone = self.lock_exclusive()?;
        let unused = self.unused()?;
        for digest in &unused.blobs {
            self.delete_blob(*digest)?;
        }
        for dir in [&self.0.ingest, &self.0.leases] {
            for name in files::names(dir)? {
                if let Some(file) = open_any(dir, &name)?
                    && !files::is_locked(&file, &name)?
                {
                    files::remove(dir, &name)?;
                }
            }
        }
        files::sync_dir(&self.0.blobs, self.0.sync)?;
        Ok(unused)
    }

    /// What [`Store::prune`] would remove.
    ///
    /// # Errors
    /// `IndexDamaged`.
    pub fn prune_dry_run(&self) -> Result<Pruned> {
        let _alone = self.lock_exclusive()?;
        self.unused()
    }

    /// Removes those of `blobs` that no image and no lease needs.
    pub(crate) fn sweep(&self, blobs: &[Digest]) -> Result<()> {
        let _alone = self.lock_exclusive()?;
        let used = self.used()?;
        for digest in blobs.iter().filter(|digest| !used.contains(digest)) {
            self.delete_blob(*digest)?;
        }
        Ok(())
    }

    fn used(&self) -> Result<HashSet<Digest>> {
        let mut used = HashSet::new();
        for image in LayoutIndex::load(self)?.images() {
            used.extend(image.index_digest);
            self.mark(&image.manifest, 0, &mut used);
        }
        for name in files::names(&self.0.leases)? {
            if let Some(file) = open_any(&self.0.leases, &name)?
                && files::is_locked(&file, &name)?
            {
                let lines = files::read(&self.0.leases, &name)?.unwrap_or_default();
                let lines = String::from_utf8_lossy(&lines);
                used.extend(lines.lines().filter_map(|line| line.parse::<Digest>().ok()));
            }
        }
        Ok(used)
    }

    fn unused(&self) -> Result<Pruned> {
        let used = self.used()?;
        let mut unused = Pruned::default();
        for name in files::names(self.blobs())? {
            let Ok(digest) = format!("sha256:{name}").parse() else {
                continue;
            };
            if !used.contains(&digest)
                && let Some((_, size)) = files::open(self.blobs(), &name)?
            {
                unused.blobs.push(digest);
                unused.size_bytes += size;
            }
        }
        Ok(unused)
    }

    /// Marks a manifest or index with all that it points at. What is missing or damaged has
    /// nothing to mark: its image cannot be used before it is pulled again.
    fn mark(&self, document: &Descriptor, depth: usize, used: &mut HashSet<Digest>) {
        used.insert(document.digest);
        let Ok(raw) = self.read(document) else { return };
        match Document::parse(&raw, None) {
            Ok(Document::Manifest(manifest)) => {
                used.insert(manifest.config().digest);
                used.extend(manifest.layers().iter().map(|layer| layer.digest));
            }
            Ok(Document::Index(index)) if depth < MAX_INDEX_DEPTH => {
                for child in index.manifests() {
                    self.mark(child, depth + 1, used);
                }
            }
            _ => {}
        }
    }
}

/// How deep indexes of indexes are followed.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

fn open_any(dir: &OwnedFd, name: &str) -> Result<Option<File>> {
    match files::open(dir, name) {
        Ok(found) => Ok(found.map(|(file, _)| file)),
        // Something that we did not put there.
        Err(error) if error.code() == "UnsafeLayout" => Ok(None),
        Err(error) => Err(Error::context(error, "look for garbage")),
    }
}
