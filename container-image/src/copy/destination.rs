//! Where images go.

use std::io::Read;

use crate::{Descriptor, Document, Reference, Result};

/// Something that takes images: blobs first, then the documents that point at them, the root last.
pub(crate) trait Destination {
    /// Whether a blob is there already.
    fn has(&mut self, blob: &Descriptor) -> Result<bool>;

    /// Takes a blob, whose end `bytes` reports only if it is what it should be.
    fn blob(&mut self, blob: &Descriptor, bytes: &mut (dyn Read + Send)) -> Result<()>;

    /// Takes a manifest or index that another index points at.
    fn document(&mut self, document: &Document) -> Result<()>;

    /// Takes the document that stands for the image, which has these names.
    fn root(&mut self, document: &Document, names: &[Reference]) -> Result<()>;
}
