//! Leases: what an operation under way needs.

use std::fmt;
use std::fs::File;
use std::io::Write;

use rustix::fs::FlockOperation;

use super::{Ingest, Store, files};
use crate::{Descriptor, Digest, Error, MediaType, Result};

impl Store {
    /// Takes a lease, which keeps blobs from [`Store::prune`] until it is dropped.
    ///
    /// The kernel frees the lease of a process that dies.
    ///
    /// # Errors
    /// System calls only.
    pub fn lease(&self) -> Result<Lease> {
        let _adding = self.lock_shared()?;
        let (file, name) = files::create_unique(&self.0.leases)?;
        files::take_lock(&file, &name, FlockOperation::LockExclusive)?;
        Ok(Lease {
            store: self.clone(),
            file,
            name,
        })
    }
}

/// Keeps blobs from being pruned, whether they exist yet or not.
#[must_use = "a lease protects until it is dropped"]
pub struct Lease {
    store: Store,
    file: File,
    name: String,
}

impl Lease {
    /// The store that it protects blobs of.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Protects the blob named `digest`, from before it exists.
    ///
    /// Protect a blob first and look whether it is there second.
    ///
    /// # Errors
    /// System calls only.
    pub fn protect(&self, digest: Digest) -> Result<()> {
        let _adding = self.store.lock_shared()?;
        // One write, so that threads that share the lease do not mix their lines.
        (&self.file)
            .write_all(format!("{digest}\n").as_bytes())
            .map_err(|error| Error::os(format!("write lease {:?}", self.name), error))
    }

    /// Starts to write the blob that `want` describes, which is protected from now on.
    ///
    /// # Errors
    /// System calls only.
    pub fn ingest(&self, want: &Descriptor) -> Result<Ingest> {
        self.protect(want.digest)?;
        self.store.ingest()
    }

    /// Stores `bytes` as a blob, which is protected from now on.
    ///
    /// # Errors
    /// System calls only.
    pub fn put(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let want = Descriptor::of(media_type, bytes);
        let mut ingest = self.ingest(&want)?;
        ingest
            .write_all(bytes)
            .map_err(|error| Error::os(format!("store blob {}", want.digest), error))?;
        ingest.commit(&want)?;
        Ok(want)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // What stays behind is unlocked and goes with the next prune.
        let _ = files::remove(&self.store.0.leases, &self.name);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
