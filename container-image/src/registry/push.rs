//! Pushing: from the store to a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::sync::Mutex;
use std::sync::PoisonError;

use super::client::{Client, ClientOptions};
use super::progress::{Phase, Progress, Reporter};
use crate::store::BlobReader;
use crate::{Descriptor, Digest, Document, Image, Reference, Result, Store};

/// How to push.
#[derive(Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// How to talk to the registry, and the flag that stops it.
    pub client: ClientOptions,
    /// Who is told what happens.
    pub progress: Option<Progress>,
    /// How many blobs are sent at once.
    pub concurrency: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            progress: None,
            concurrency: 5,
        }
    }
}

impl fmt::Debug for PushOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOptions")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What a push sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pushed {
    /// The digest under which the registry has the image.
    pub digest: Digest,
    /// How many blobs were sent; the others were there or came from another repository.
    pub uploaded_blobs: usize,
}

/// Pushes `image` to where `reference` says: what the registry lacks, then the manifest, each as the
/// exact bytes that are stored.
///
/// # Errors
/// `BlobNotFound`, `SizeMismatch` and `DigestMismatch` for damaged blobs of the store, and those of
/// every request. The reference in the registry is unchanged then.
pub fn push(image: &Image, reference: &Reference, options: &PushOptions) -> Result<Pushed> {
    let doing = |error: crate::Error| error.context(format!("push {reference}"));
    let client = Client::new(options.client.clone());
    let lease = image.store().lease()?;
    let manifest = image.manifest();
    let mut blobs = BTreeMap::new();
    for blob in manifest.layers().iter().chain([manifest.config()]) {
        lease.protect(blob.digest)?;
        blobs.insert(blob.digest, blob);
    }
    let push = Push {
        store: image.store(),
        client: &client,
        reference,
        reporter: Reporter(options.progress.clone()),
        sources: sources(image.store(), reference, blobs.keys())?,
    };
    let uploaded_blobs = push
        .blobs(blobs.into_values(), options.concurrency)
        .map_err(doing)?;
    let digest = client
        .put_manifest(reference, &manifest.descriptor().media_type, manifest.raw())
        .map_err(doing)?;
    Ok(Pushed {
        digest,
        uploaded_blobs,
    })
}

struct Push<'a> {
    store: &'a Store,
    client: &'a Client,
    reference: &'a Reference,
    reporter: Reporter,
    /// Other repositories of the registry that are likely to have a blob.
    sources: BTreeMap<Digest, String>,
}

impl Push<'_> {
    /// Sends blobs side by side and tells how many had to be sent.
    fn blobs<'b>(
        &self,
        blobs: impl Iterator<Item = &'b Descriptor> + Send,
        concurrency: usize,
    ) -> Result<usize> {
        let queue = Mutex::new((blobs, Ok(0)));
        std::thread::scope(|scope| {
            for _ in 0..concurrency.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = {
                            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                            if queue.1.is_err() {
                                None
                            } else {
                                queue.0.next()
                            }
                        };
                        let Some(blob) = next else { return };
                        let sent = self.blob(blob);
                        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut queue.1, sent) {
                            (Ok(count), Ok(sent)) => *count += usize::from(sent),
                            (result @ Ok(_), Err(error)) => *result = Err(error),
                            (Err(_), _) => {}
                        }
                    }
                });
            }
        });
        queue.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Brings one blob there; `true` if it had to be sent.
    fn blob(&self, blob: &Descriptor) -> Result<bool> {
        let tell = |phase, done| {
            self.reporter
                .tell(blob.digest, phase, done, blob.size_bytes)
        };
        tell(Phase::Waiting, 0);
        if self.client.has_blob(self.reference, blob.digest)? {
            tell(Phase::ExistsRemotely, blob.size_bytes);
            return Ok(false);
        }
        let mut open = || {
            let reader = self.store.open_blob(blob)?;
            let reader = Told {
                reader,
                reporter: self.reporter.clone(),
                digest: blob.digest,
                size: blob.size_bytes,
                done: 0,
            };
            Ok(Box::new(reader) as Box<dyn Read>)
        };
        let from = self.sources.get(&blob.digest).map(String::as_str);
        let sent = self
            .client
            .put_blob(self.reference, blob, from, &mut open)?;
        let phase = if sent { Phase::Pushed } else { Phase::Mounted };
        tell(phase, blob.size_bytes);
        Ok(sent)
    }
}

/// Tells how much of a blob was read.
struct Told {
    reader: BlobReader,
    reporter: Reporter,
    digest: Digest,
    size: u64,
    done: u64,
}

impl Read for Told {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.done += count as u64;
        self.reporter
            .tell(self.digest, Phase::Pushing, self.done, self.size);
        Ok(count)
    }
}

/// Which other repositories of the same registry our own names say to have some of `blobs`.
fn sources<'a>(
    store: &Store,
    reference: &Reference,
    blobs: impl Iterator<Item = &'a Digest> + Clone,
) -> Result<BTreeMap<Digest, String>> {
    let mut sources = BTreeMap::new();
    for stored in store.images()? {
        let other = stored.names.iter().find(|name| {
            name.registry() == reference.registry() && name.repository() != reference.repository()
        });
        let Some(other) = other else { continue };
        let Ok(raw) = store.read(&stored.manifest) else {
            continue;
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&raw, None) else {
            continue;
        };
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            if blobs.clone().any(|wanted| *wanted == blob.digest) {
                sources.insert(blob.digest, other.repository().to_owned());
            }
        }
    }
    Ok(sources)
}
