//! Measuring: what an archive would bring.

use std::io::Read;

use super::reader::Reader;
use super::{EntryKind, Limits};
use crate::Result;

/// How large a layer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measured {
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
    /// Bytes of file contents, holes included.
    pub content_bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Reads the uncompressed archive `tar` to its end and unpacks nothing.
///
/// # Errors
/// Those of reading in [`unpack`](super::unpack()).
pub fn measure(tar: &mut dyn Read, limits: &Limits) -> Result<Measured> {
    let mut reader = Reader::new(tar, limits.bytes);
    let mut measured = Measured::default();
    while let Some(member) = reader.next()? {
        measured.entries += 1;
        if let EntryKind::File { size_bytes } = member.entry.kind {
            measured.content_bytes = measured.content_bytes.saturating_add(size_bytes);
        }
    }
    reader.drain()?;
    measured.archive_bytes = reader.total_bytes();
    Ok(measured)
}
