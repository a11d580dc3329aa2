//! Images: a manifest, its config and its layers.

use std::fmt;
use std::sync::Arc;

use crate::copy::{Chosen, Source};
use crate::layer::{self, Limits, Measured, decompress};
use crate::store::{BlobReader, MAX_INDEX_DEPTH};
use crate::{
    Descriptor, Digest, Error, ErrorKind, HashReader, ImageConfig, Manifest, Platform, Result,
    Store,
};

/// An image in a [`Store`]. A cheap handle, to be cloned at will; it never changes.
///
/// It does not keep the image from being removed: a [`Lease`](crate::Lease) does.
#[derive(Clone)]
pub struct Image(Arc<Inner>);

struct Inner {
    store: Store,
    manifest: Manifest,
    index_digest: Option<Digest>,
    config: ImageConfig,
    config_raw: Vec<u8>,
    platform: Platform,
    layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Layer {
    /// Where its compressed blob is.
    pub descriptor: Descriptor,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// The digest that stands for it with all layers below.
    pub chain_id: Digest,
    /// The chain ID of the layer below; `None` for the base.
    pub parent: Option<Digest>,
    /// Its place, 0 for the base.
    pub index: usize,
}

impl Image {
    /// Opens the image of a manifest in `store`, or of an index for the platform of this host.
    ///
    /// # Errors
    /// `BlobNotFound`, `PlatformNotFound`, `Integrity` kinds, and those of a document that breaks
    /// its rules.
    pub(crate) fn open(
        store: &Store,
        descriptor: &Descriptor,
        index_digest: Option<Digest>,
    ) -> Result<Self> {
        let root = store.document(descriptor)?;
        let chosen = Chosen::new(store, root, &Platform::host())?;
        let config_raw = store.read(chosen.manifest.config())?;
        let index_digest = index_digest.or(chosen.index.map(|index| index.digest()));
        Self::new(store, chosen.manifest, config_raw, index_digest)
    }

    /// Puts an image together from its parts.
    ///
    /// # Errors
    /// Those of [`ImageConfig::parse`], and `LayerCountMismatch`.
    pub(crate) fn new(
        store: &Store,
        manifest: Manifest,
        config_raw: Vec<u8>,
        index_digest: Option<Digest>,
    ) -> Result<Self> {
        let config = ImageConfig::parse(&config_raw)
            .map_err(|error| error.context(format!("read config {}", manifest.config().digest)))?;
        let (diff_ids, blobs) = (&config.rootfs.diff_ids, manifest.layers());
        if diff_ids.len() != blobs.len() {
            let doing = format!("count the layers of {}", manifest.digest());
            return Err(Error::mismatch(
                "LayerCountMismatch",
                doing,
                diff_ids.len(),
                blobs.len(),
            ));
        }
        let mut layers: Vec<Layer> = Vec::with_capacity(blobs.len());
        for (index, (descriptor, diff_id)) in blobs.iter().zip(diff_ids).enumerate() {
            let parent = layers.last().map(|below| below.chain_id);
            layers.push(Layer {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                chain_id: chain_id(parent, *diff_id),
                parent,
                index,
            });
        }
        let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
        let store = store.clone();
        Ok(Self(Arc::new(Inner {
            store,
            manifest,
            index_digest,
            config,
            config_raw,
            platform,
            layers,
        })))
    }

    /// The image ID: the digest of the config.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.0.manifest.config().digest
    }

    /// The digest of the manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.manifest.digest()
    }

    /// The digest of the index that the manifest was chosen from.
    #[must_use]
    pub fn index_digest(&self) -> Option<Digest> {
        self.0.index_digest
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// The config.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.0.config
    }

    /// The exact bytes of the config.
    #[must_use]
    pub fn config_raw(&self) -> &[u8] {
        &self.0.config_raw
    }

    /// The platform that it is for, as the config tells it.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// The layers, base first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.0.layers
    }

    /// The size of manifest, config and compressed layers together.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let manifest = &self.0.manifest;
        let blobs = manifest
            .layers()
            .iter()
            .chain([manifest.config(), manifest.descriptor()]);
        blobs.fold(0, |sum, blob| sum.saturating_add(blob.size_bytes))
    }

    /// The store that it is in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Opens the compressed blob of a layer; its size and digest are checked before its end is
    /// reported.
    ///
    /// # Errors
    /// `BlobNotFound`, `SizeMismatch`.
    pub fn open_layer(&self, layer: &Layer) -> Result<BlobReader> {
        self.0.store.open_blob(&layer.descriptor)
    }

    /// Decompresses a layer to see how large it is, and whether it is what the config says.
    ///
    /// # Errors
    /// `BlobNotFound`, `SizeMismatch`, `DigestMismatch`, `DiffIdMismatch`, and those of reading layers.
    pub fn measure(&self, layer: &Layer) -> Result<Measured> {
        let measure = || {
            let mut plain = HashReader::new(decompress(self.open_layer(layer)?)?);
            let measured = layer::measure(&mut plain, &Limits::default())?;
            let got = plain.into_parts().1.finish();
            if got != layer.diff_id {
                let doing = "compare with the config";
                return Err(Error::mismatch("DiffIdMismatch", doing, layer.diff_id, got));
            }
            Ok(measured)
        };
        measure().map_err(|error: Error| {
            error.context(format!("read layer {}", layer.descriptor.digest))
        })
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("id", &self.id())
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

/// The digest that stands for the layer `diff_id` on top of the layers `parent`.
///
/// # References
/// image-spec `config.md#layer-chainid`.
#[must_use]
pub fn chain_id(parent: Option<Digest>, diff_id: Digest) -> Digest {
    match parent {
        Some(parent) => Digest::of(format!("{parent} {diff_id}")),
        None => diff_id,
    }
}

/// The error for indexes of indexes of indexes.
pub(crate) fn too_deep(descriptor: &Descriptor) -> Error {
    let doing = format!(
        "follow {}: more than {MAX_INDEX_DEPTH} indexes deep",
        descriptor.digest
    );
    Error::new(ErrorKind::InvalidInput, "IndexTooDeep", doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_as_the_specification_says() {
        let diff = [Digest::of("a"), Digest::of("b"), Digest::of("c")];
        let one = chain_id(None, diff[0]);
        let two = chain_id(Some(one), diff[1]);
        assert_eq!(one, diff[0]);
        assert_eq!(two, Digest::of(format!("{} {}", diff[0], diff[1])));
        let three = Digest::of(format!("{two} {}", diff[2]));
        assert_eq!(chain_id(Some(two), diff[2]), three);
    }
}
