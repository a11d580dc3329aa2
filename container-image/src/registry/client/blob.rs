//! Blobs on their way here.

use std::fmt;
use std::io::{self, Read};

use super::Client;
use super::request::{Access, Call, no_body};
use crate::registry::error::RegistryError;
use crate::registry::hosts::Need;
use crate::store::from_io;
use crate::{Descriptor, Digest, Error, Reference, Result};

impl Client {
    /// Opens a blob of the repository of `reference` for reading.
    ///
    /// The reader takes up a transfer that was cut where it was cut, and fails as soon as there are
    /// more bytes than `blob` tells. It checks no digest.
    ///
    /// # Errors
    /// `BlobUnknown`, `SizeMismatch`.
    pub fn blob(&self, reference: &Reference, blob: &Descriptor) -> Result<BlobStream> {
        let mut stream = BlobStream {
            client: self.clone(),
            reference: reference.clone(),
            digest: blob.digest,
            size: blob.size_bytes,
            offset: 0,
            failures: 0,
            body: None,
        };
        stream.body = Some(self.retry(|| stream.open())?);
        Ok(stream)
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
pub struct BlobStream {
    client: Client,
    reference: Reference,
    digest: Digest,
    size: u64,
    offset: u64,
    /// How often in a row it was cut without a byte in between.
    failures: u32,
    body: Option<Box<dyn Read + Send>>,
}

impl BlobStream {
    /// Asks for the rest of the blob.
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        let path = blob_path(&self.reference, self.digest);
        let mut call = Call::of(&self.reference, Access::Pull, "GET", path);
        if self.offset > 0 {
            let range = format!("bytes={}-", self.offset);
            call.headers.push(("range", range));
        }
        self.client.read_once(Need::Pull, &call, |_, mut response| {
            let left = if response.status == 206 {
                self.size - self.offset
            } else {
                self.size
            };
            if let Some(length) = response.content_length()
                && length != left
            {
                return Err(self.wrong_size(length));
            }
            if response.status == 200 && self.offset > 0 {
                // The registry knows no ranges and starts again.
                let skipped = io::copy(
                    &mut response.body.by_ref().take(self.offset),
                    &mut io::sink(),
                );
                let skipped = skipped.map_err(|error| from_io("skip what came before", error))?;
                if skipped < self.offset {
                    return Err(self.wrong_size(skipped));
                }
            }
            Ok(response.body)
        })
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let count = body
            .read(buffer)
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

impl Read for BlobStream {
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
                Err(error) if error.is_retryable() && self.offset == self.size => return Ok(0),
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

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
