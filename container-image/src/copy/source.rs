//! Where images come from, and which of them is meant.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Destination;

use crate::image::too_deep;
use crate::store::MAX_INDEX_DEPTH;
use crate::{Descriptor, Document, Error, ErrorKind, Index, Manifest, Platform, Result, Store};

/// Something that blobs are read from.
pub(crate) trait Source {
    /// A whole manifest, index or config, whose size and digest are right.
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>>;

    /// A blob; its end is reported only if size and digest are right.
    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send + '_>>;

    /// A manifest or index.
    fn document(&self, want: &Descriptor) -> Result<Document> {
        Document::parse(&self.raw(want)?, Some(&want.media_type))
    }
}

impl Source for Store {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        self.read(want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.open_blob(want)?))
    }
}

/// One image, and the index that it was chosen from.
pub(crate) struct Chosen {
    pub(crate) manifest: Manifest,
    pub(crate) index: Option<Index>,
}

impl Chosen {
    /// Follows `root` to the image for `platform`.
    ///
    /// # Errors
    /// `PlatformNotFound`, `IndexTooDeep`, and what reading the documents fails with.
    pub(crate) fn new(source: &dyn Source, root: Document, platform: &Platform) -> Result<Self> {
        let mut document = root;
        let mut index = None;
        for _ in 0..=MAX_INDEX_DEPTH {
            match document {
                Document::Manifest(manifest) => return Ok(Self { manifest, index }),
                Document::Index(found) => {
                    let child = platform.choose(found.manifests())?;
                    document = source.document(child)?;
                    index.get_or_insert(found);
                }
            }
        }
        Err(too_deep(document.descriptor()))
    }
}

/// Moves what an image consists of.
pub(crate) struct Transfer<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) destination: &'a mut dyn Destination,
    pub(crate) cancel: &'a AtomicBool,
}

impl Transfer<'_> {
    /// Brings the layers and the config of `manifest`, where they are missing.
    pub(crate) fn manifest(self, manifest: &Manifest) -> Result<()> {
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            if !self.destination.has(blob)? {
                let mut bytes = Cancellable {
                    inner: self.source.open(blob)?,
                    cancel: self.cancel,
                };
                self.destination
                    .blob(blob, &mut bytes)
                    .map_err(|error| error.context(format!("copy blob {}", blob.digest)))?;
            }
        }
        Ok(())
    }
}

/// Stops reading when somebody asks for it.
struct Cancellable<'a> {
    inner: Box<dyn Read + Send + 'a>,
    cancel: &'a AtomicBool,
}

impl Read for Cancellable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            let error = Error::new(ErrorKind::Cancelled, "Cancelled", "copy an image");
            return Err(io::Error::other(error));
        }
        self.inner.read(buffer)
    }
}
