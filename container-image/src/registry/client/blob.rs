//! Blobs on their way here.

use std::fmt;
use std::io::{self, Read};

use super::Client;
use super::parts::Parts;
use super::request::{Access, Call, no_body};
use crate::registry::error::RegistryError;
use crate::registry::hosts::Need;
use crate::store::from_io;
use crate::{Descriptor, Digest, Error, Reference, Result};

impl Client {
    /// Opens a blob of the repository of `reference` for reading.
    ///
    /// The reader takes up a transfer that was cut where it was cut, and fails as soon as there are
    /// more bytes than `blob` tells. It checks no digest. With [`ClientOptions::ranges`] it has parts of a large
    /// blob fetched ahead.
    ///
    /// # Errors
    /// `BlobUnknown`, `SizeMismatch`.
    ///
    /// [`ClientOptions::ranges`]: super::ClientOptions::ranges
    pub fn blob(&self, reference: &Reference, blob: &Descriptor) -> Result<BlobStream> {
        let mut span = Span {
            client: self.clone(),
            reference: reference.clone(),
            digest: blob.digest,
            size: blob.size_bytes,
            offset: 0,
            end: blob.size_bytes,
            failures: 0,
            body: None,
        };
        let ranges = self.0.options.ranges;
        if ranges > 1 && blob.size_bytes > PART_BYTES {
            let first = span.part(0);
            let (body, knows_ranges) = self.retry(|| first.open())?;
            if knows_ranges {
                let first = Span {
                    body: Some(body),
                    ..first
                };
                let parts = Parts::start(&span, first, ranges);
                return Ok(BlobStream(Source::Parts(parts)));
            }
            span.body = Some(body);
        } else {
            span.body = Some(self.retry(|| span.open())?.0);
        }
        Ok(BlobStream(Source::Whole(span)))
    }

    /// Whether the repository of `reference` has a blob, as a push needs to know it.
    ///
    /// # Errors
    /// Those of every call.
    pub fn has_blob(&self, reference: &Reference, digest: Digest) -> Result<bool> {
        let path = blob_path(reference, digest);
        let call = Call::of(reference, Access::Push, "HEAD", path);
        self.retry(|| {
            let (url, response) = self.write_once(&call, None, &mut no_body)?;
            match response.status {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(RegistryError::read("HEAD", &url, response)),
            }
        })
    }

    /// Deletes a blob from the repository of `reference`.
    ///
    /// # Errors
    /// `BlobUnknown`; `UnsupportedByRegistry` where nothing may be deleted.
    pub fn delete_blob(&self, reference: &Reference, digest: Digest) -> Result<()> {
        let path = blob_path(reference, digest);
        let call = Call::of(reference, Access::Delete, "DELETE", path);
        self.write(&call, &mut no_body, |_, _| Ok(()))
    }
}

fn blob_path(reference: &Reference, digest: Digest) -> String {
    format!("{}/blobs/{digest}", reference.repository())
}

/// Reads a blob from a registry, taking up again where the transfer was cut.
pub struct BlobStream(Source);

enum Source {
    Whole(Span),
    Parts(Parts),
}

impl Read for BlobStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Whole(span) => span.read(buffer),
            Source::Parts(parts) => parts.read(buffer),
        }
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream").finish_non_exhaustive()
    }
}

/// Reads the bytes of a blob from an offset up to an end.
pub(super) struct Span {
    client: Client,
    reference: Reference,
    digest: Digest,
    /// That of the whole blob.
    pub(super) size: u64,
    offset: u64,
    end: u64,
    /// How often in a row it was cut without a byte in between.
    failures: u32,
    body: Option<Box<dyn Read + Send>>,
}

impl Span {
    /// The part of this number, of which nothing was asked for yet.
    pub(super) fn part(&self, number: u64) -> Self {
        let offset = number * PART_BYTES;
        Self {
            client: self.client.clone(),
            reference: self.reference.clone(),
            digest: self.digest,
            size: self.size,
            offset,
            end: self.size.min(offset + PART_BYTES),
            failures: 0,
            body: None,
        }
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> u64 {
        self.end - self.offset
    }

    /// Asks for the rest, and tells whether the registry knows ranges. The body of one that does not has
    /// all that follows.
    fn open(&self) -> Result<(Box<dyn Read + Send>, bool)> {
        let path = blob_path(&self.reference, self.digest);
        let mut call = Call::of(&self.reference, Access::Pull, "GET", path);
        let is_last = self.end == self.size;
        if self.offset > 0 || !is_last {
            let last = if is_last {
                String::new()
            } else {
                (self.end - 1).to_string()
            };
            let range = format!("bytes={}-{last}", self.offset);
            call.headers.push(("range", range));
        }
        self.client.read_once(Need::Pull, &call, |_, mut response| {
            let knows_ranges = response.status == 206;
            let left = if knows_ranges { self.left() } else { self.size };
            if let Some(length) = response.content_length()
                && length != left
            {
                return Err(self.wrong_size(length));
            }
            if !knows_ranges && self.offset > 0 {
                // The registry starts again.
                let skipped = io::copy(
                    &mut response.body.by_ref().take(self.offset),
                    &mut io::sink(),
                );
                let skipped = skipped.map_err(|error| from_io("skip what came before", error))?;
                if skipped < self.offset {
                    return Err(self.wrong_size(skipped));
                }
            }
            Ok((response.body, knows_ranges))
        })
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?.0,
        };
        // Past the end of the blob there must be nothing; past that of a part there may be more of it.
        let limit = if self.end < self.size {
            usize::try_from(self.left())
                .unwrap_or(usize::MAX)
                .min(buffer.len())
        } else {
            buffer.len()
        };
        let count = body
            .read(&mut buffer[..limit])
            .map_err(|error| from_io("read a blob", error))?;
        self.body = Some(body);
        let offset = self.offset.saturating_add(count as u64);
        if offset > self.size {
            return Err(self.wrong_size(format!("at least {offset}")));
        }
        self.offset = offset;
        Ok(count)
    }

    fn wrong_size(&self, got: impl fmt::Display) -> Error {
        Error::mismatch(
            "SizeMismatch",
            format!("fetch blob {}", self.digest),
            self.size,
            got,
        )
    }
}

impl Read for Span {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.try_read(buffer) {
                Ok(count) => {
                    self.failures = 0;
                    return Ok(count);
                }
                // Only the end of the transfer itself was lost.
                Err(error) if error.is_retryable() && self.offset == self.end => return Ok(0),
                Err(error) => {
                    self.failures += 1;
                    let inner = &self.client.0;
                    let again = inner
                        .options
                        .retry
                        .wait(&inner.patience, self.failures, error);
                    again.map_err(io::Error::other)?;
                }
            }
        }
    }
}

/// How much of a large blob is asked for at once where several parts of it are. Large enough that the time
/// between two requests does not count.
pub(super) const PART_BYTES: u64 = 4 << 20;
