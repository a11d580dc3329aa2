//! Blobs: written once, visible when whole, verified whenever read.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::FlockOperation;

use super::{Lease, Store, files};
use crate::{Descriptor, Digest, Error, ErrorKind, Hasher, MediaType, Result, json};

impl Store {
    /// Whether a blob of that digest and size is there. Its content is not read.
    ///
    /// # Errors
    /// `UnsafeLayout` if something else than a file has its name.
    pub fn contains(&self, blob: &Descriptor) -> Result<bool> {
        let found = files::open(&self.0.blobs, &blob.digest.hex())?;
        Ok(found.is_some_and(|(_, size)| size == blob.size_bytes))
    }

    /// Reads a whole small blob, such as a manifest or config.
    ///
    /// # Errors
    /// `BlobNotFound`, `DocumentTooLarge` beyond 4 MiB, `SizeMismatch`, `DigestMismatch`.
    pub fn read(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        json::check_size(blob.size_bytes, &format!("blob {}", blob.digest))?;
        let mut bytes = Vec::new();
        let mut reader = self.open_blob(blob)?;
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| from_io(&format!("read blob {}", blob.digest), error))?;
        Ok(bytes)
    }

    /// Reads a small blob of unknown size; `None` if it is not there, or not as it should be.
    pub(crate) fn read_document(&self, digest: Digest) -> Result<Option<Vec<u8>>> {
        let Some((_, size)) = files::open(&self.0.blobs, &digest.hex())? else {
            return Ok(None);
        };
        match self.read(&Descriptor::new(MediaType::new(""), digest, size)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error)
                if matches!(error.kind(), ErrorKind::Integrity | ErrorKind::InvalidInput) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a blob for reading; size and digest are checked before its end is reported.
    ///
    /// # Errors
    /// `BlobNotFound`, `SizeMismatch`.
    pub fn open_blob(&self, blob: &Descriptor) -> Result<BlobReader> {
        let found = files::open(&self.0.blobs, &blob.digest.hex())?;
        let (file, size) = found.ok_or_else(|| self.missing(blob.digest))?;
        if size != blob.size_bytes {
            let doing = format!("open blob {}", blob.digest);
            return Err(Error::mismatch(
                "SizeMismatch",
                doing,
                blob.size_bytes,
                size,
            ));
        }
        Ok(BlobReader(Verified::new(file, blob)))
    }

    /// Deletes a blob, whether something needs it or not; succeeds if it is gone.
    ///
    /// # Errors
    /// System calls only.
    pub fn delete_blob(&self, digest: Digest) -> Result<()> {
        files::remove(&self.0.blobs, &digest.hex())
    }

    pub(crate) fn ingest(&self) -> Result<Ingest> {
        let _adding = self.lock_shared()?;
        let (file, name) = files::create_unique(&self.0.ingest)?;
        files::take_lock(&file, &name, FlockOperation::LockExclusive)?;
        Ok(Ingest {
            store: self.clone(),
            file,
            name,
            hasher: Hasher::new(),
            done: false,
        })
    }

    pub(super) fn blobs(&self) -> &OwnedFd {
        &self.0.blobs
    }
}

/// An unfinished blob. Dropping it removes what was written.
#[must_use = "a blob is visible only after commit"]
pub struct Ingest {
    store: Store,
    file: File,
    name: String,
    hasher: Hasher,
    done: bool,
}

impl Ingest {
    /// How many bytes were written.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.hasher.size_bytes()
    }

    /// Makes what was written a blob, whatever it is, and protects it by `lease`.
    pub(crate) fn commit_as_is(self, media_type: MediaType, lease: &Lease) -> Result<Descriptor> {
        let (digest, size) = (self.hasher.clone().finish(), self.size_bytes());
        let descriptor = Descriptor::new(media_type, digest, size);
        lease.protect(digest)?;
        self.commit(&descriptor)?;
        Ok(descriptor)
    }

    /// Makes the blob visible if it is what `want` describes. It is on disk when the call returns.
    ///
    /// # Errors
    /// `SizeMismatch`, `DigestMismatch`; nothing is left then.
    pub fn commit(mut self, want: &Descriptor) -> Result<()> {
        let doing = || format!("store blob {}", want.digest);
        let hasher = std::mem::take(&mut self.hasher);
        Check {
            want: want.digest,
            size: want.size_bytes,
            hasher,
        }
        .finish()?;
        if self.store.0.sync {
            self.file
                .sync_all()
                .map_err(|error| Error::os(doing(), error))?;
        }
        let (from, to) = (&self.store.0.ingest, &self.store.0.blobs);
        rustix::fs::renameat(from, &self.name, to, want.digest.hex())
            .map_err(|error| Error::os(doing(), error))?;
        self.done = true;
        files::sync_dir(to, self.store.0.sync)
    }
}

impl Write for Ingest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.done {
            // What stays behind is unlocked and goes with the next prune.
            let _ = files::remove(&self.store.0.ingest, &self.name);
        }
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Reads a blob and reports its end only if size and digest are right.
#[derive(Debug)]
pub struct BlobReader(Verified<File>);

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Reads bytes from anywhere and reports their end only if size and digest are right.
#[derive(Debug)]
pub(crate) struct Verified<R> {
    inner: R,
    check: Option<Check>,
}

impl<R: Read> Verified<R> {
    pub(crate) fn new(inner: R, want: &Descriptor) -> Self {
        let check = Some(Check::new(want));
        Self { inner, check }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(check) = &mut self.check else {
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        check.update(&buffer[..count]).map_err(io::Error::other)?;
        if count == 0
            && let Some(check) = self.check.take()
        {
            check.finish().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

/// Compares bytes that come piece by piece with what they should be.
#[derive(Debug)]
pub(crate) struct Check {
    want: Digest,
    size: u64,
    hasher: Hasher,
}

impl Check {
    pub(crate) fn new(want: &Descriptor) -> Self {
        Self {
            want: want.digest,
            size: want.size_bytes,
            hasher: Hasher::new(),
        }
    }

    /// Takes more bytes, but never more than there should be.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<()> {
        let got = self.hasher.size_bytes().saturating_add(bytes.len() as u64);
        if got > self.size {
            let doing = format!("read blob {}", self.want);
            return Err(Error::mismatch(
                "SizeMismatch",
                doing,
                self.size,
                format!("at least {got}"),
            ));
        }
        self.hasher.update(bytes);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        let doing = format!("read blob {}", self.want);
        let got = self.hasher.size_bytes();
        if got != self.size {
            return Err(Error::mismatch("SizeMismatch", doing, self.size, got));
        }
        let got = self.hasher.finish();
        if got != self.want {
            return Err(Error::mismatch("DigestMismatch", doing, self.want, got));
        }
        Ok(())
    }
}

/// An error that came through an I/O interface, as it was or with what was being done.
pub(crate) fn from_io(doing: &str, error: io::Error) -> Error {
    error
        .downcast()
        .unwrap_or_else(|error| Error::os(doing, error))
}
