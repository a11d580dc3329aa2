//! Finding out what is damaged.

use std::collections::HashMap;
use std::io;

use super::index::LayoutIndex;
use super::{Store, StoredImage, from_io};
use crate::{Descriptor, Digest, Document, Error, Reference, Result};

/// A blob of an image that is missing or not what it should be.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The digest of the manifest of the image.
    pub image: Digest,
    /// The names of the image.
    pub names: Vec<Reference>,
    /// What the blob should be.
    pub blob: Descriptor,
    /// `BlobNotFound`, `SizeMismatch`, `DigestMismatch`, or what reading failed with.
    pub error: Error,
}

impl Store {
    /// Reads every blob of every image, and gives those that are missing or damaged; for each image
    /// that needs it. Changes nothing and keeps nobody waiting.
    ///
    /// What a manifest that is damaged pointed at is not known. [`repair`](crate::repair) fetches what
    /// is found here again.
    ///
    /// # Errors
    /// `IndexDamaged`.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        let lease = self.lease()?;
        let mut seen: HashMap<Digest, bool> = HashMap::new();
        let mut damages = Vec::new();
        for StoredImage {
            manifest, names, ..
        } in LayoutIndex::load(self)?.images()
        {
            let mut blobs = vec![manifest.clone()];
            if let Ok(raw) = self.read(&manifest)
                && let Ok(Document::Manifest(document)) = Document::parse(&raw, None)
            {
                blobs.push(document.config().clone());
                blobs.extend_from_slice(document.layers());
            }
            for blob in blobs {
                if seen.get(&blob.digest) == Some(&true) {
                    continue;
                }
                lease.protect(blob.digest)?;
                let result = self.check(&blob);
                seen.insert(blob.digest, result.is_ok());
                if let Err(error) = result {
                    damages.push(Damage {
                        image: manifest.digest,
                        names: names.clone(),
                        blob,
                        error,
                    });
                }
            }
        }
        Ok(damages)
    }

    /// Reads a blob to its end.
    pub(crate) fn check(&self, blob: &Descriptor) -> Result<()> {
        io::copy(&mut self.open_blob(blob)?, &mut io::sink())
            .map(|_| ())
            .map_err(|error| from_io(&format!("read blob {}", blob.digest), error))
    }
}
