//! Pulling: from a registry into the store and, unpacked, into a sink.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::client::{Client, ClientOptions};
use super::layers::{LayerSink, Remote, Transfer};
use super::progress::{Progress, Reporter};
use crate::image::too_deep;
use crate::store::{Check, MAX_INDEX_DEPTH, from_io};
use crate::{
    Descriptor, Digest, Document, Error, Image, Manifest, Platform, Policy, Reference, Result,
    Store, json,
};

/// How to pull.
#[derive(Clone)]
#[non_exhaustive]
pub struct PullOptions {
    /// How to talk to the registry, and the flag that stops it.
    pub client: ClientOptions,
    /// Which image of an index to take; that for this host by default.
    pub platform: Option<Platform>,
    /// Which images may be pulled; all of them by default.
    pub policy: Policy,
    /// Who is told what happens.
    pub progress: Option<Progress>,
    /// How many layers are worked on at once.
    pub concurrency: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            platform: None,
            policy: Policy::default(),
            progress: None,
            concurrency: DEFAULT_CONCURRENCY,
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// What a pull brought.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it is new here.
    pub status: PullStatus,
}

/// Whether a pull brought anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PullStatus {
    /// The reference leads to another image than before, or parts of it were missing.
    Downloaded,
    /// All was there already.
    UpToDate,
}

/// Pulls the image that `reference` leads to into `store`, and its unpacked layers into `sink`.
///
/// Each layer streams through in one pass: what comes from the wire is hashed, stored, decompressed,
/// hashed again and unpacked. What is here already, and whole, is not asked for. Nothing becomes
/// visible before size, digest and diff ID are right, and the image gets its name last. Blocks until
/// all is on disk.
///
/// # Errors
/// Those of [`Client::manifest`], `PlatformNotFound`; `NotTrusted` and `NotSigned`, before anything but
/// manifests and signatures is fetched; `SizeMismatch`, `DigestMismatch`, `DiffIdMismatch`, those of unpacking, and `SinkFailed`. Layers that came whole stay as blobs for the
/// next attempt, or until [`Store::prune`]; everything else is undone.
pub fn pull(
    reference: &Reference,
    store: &Store,
    options: &PullOptions,
    sink: Option<&dyn LayerSink>,
) -> Result<Pulled> {
    let client = Client::new(options.client.clone());
    let lease = store.lease()?;
    let remote = Remote {
        client: &client,
        reference,
        lease: &lease,
    };
    let doing = |error: Error| error.context(format!("pull {reference}"));

    let found = find(remote, options).map_err(doing)?;
    // Before anything else of the image is fetched.
    let index_digest = found
        .index
        .as_ref()
        .map(|(descriptor, _)| descriptor.digest);
    let digests = index_digest.into_iter().chain([found.manifest.digest()]);
    let trusted = options
        .policy
        .check(&client, reference, &digests.collect::<Vec<_>>());
    trusted.map_err(doing)?;
    let config = blob(remote, found.manifest.config()).map_err(doing)?;
    let image = Image::new(store, found.manifest, config, index_digest).map_err(doing)?;
    let reporter = Reporter(options.progress.clone());
    let cancel = &*options.client.cancel;
    let concurrency = options.concurrency;
    let remote = Some(remote);
    let transfer = Transfer {
        image: &image,
        remote,
        sink,
        reporter: &reporter,
        concurrency,
        cancel,
    };
    let mut worked = transfer.run().map_err(doing)?;

    let manifest = image.manifest();
    let mut documents = vec![
        (manifest.config(), image.config_raw()),
        (manifest.descriptor(), manifest.raw()),
    ];
    documents.extend(
        found
            .index
            .as_ref()
            .map(|(descriptor, raw)| (descriptor, &raw[..])),
    );
    for (descriptor, raw) in documents {
        lease.protect(descriptor.digest)?;
        if store.read_document(descriptor.digest)?.is_none() {
            worked = true;
            lease.put(descriptor.media_type.clone(), raw)?;
        }
    }
    let name = name_of(reference);
    let same = |before: Image| {
        before.digest() == image.digest() && before.index_digest() == image.index_digest()
    };
    if worked || !store.resolve(&name).is_ok_and(same) {
        worked = true;
        store.tag(&image, &name)?;
    }
    let status = if worked {
        PullStatus::Downloaded
    } else {
        PullStatus::UpToDate
    };
    Ok(Pulled { image, status })
}

/// Unpacks an image of the store into `sink`, where layers are missing.
///
/// # Errors
/// `BlobNotFound`, `SizeMismatch`, `DigestMismatch`, `DiffIdMismatch`, those of unpacking, and
/// `SinkFailed`; layers that were not committed are aborted.
pub fn unpack(image: &Image, sink: &dyn LayerSink, options: &UnpackImageOptions) -> Result<()> {
    let reporter = Reporter(options.progress.clone());
    let lease = image.store().lease()?;
    for layer in image.layers() {
        lease.protect(layer.descriptor.digest)?;
    }
    let transfer = Transfer {
        image,
        remote: None,
        sink: Some(sink),
        reporter: &reporter,
        concurrency: options.concurrency,
        cancel: &options.cancel,
    };
    let unpacked = transfer.run();
    unpacked
        .map(|_| ())
        .map_err(|error| error.context(format!("unpack image {}", image.id())))
}

/// How to unpack an image of the store.
#[derive(Clone)]
#[non_exhaustive]
pub struct UnpackImageOptions {
    /// Who is told what happens.
    pub progress: Option<Progress>,
    /// How many layers are worked on at once.
    pub concurrency: usize,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
}

impl Default for UnpackImageOptions {
    fn default() -> Self {
        Self {
            progress: None,
            concurrency: DEFAULT_CONCURRENCY,
            cancel: Arc::default(),
        }
    }
}

impl fmt::Debug for UnpackImageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnpackImageOptions")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// As many as Docker works on.
const DEFAULT_CONCURRENCY: usize = 3;

/// The manifest that a reference leads to, and the index that it was chosen from.
struct Found {
    manifest: Manifest,
    index: Option<(Descriptor, Vec<u8>)>,
}

/// Follows a reference to one manifest. A tag is asked for once, so that all comes from one answer.
fn find(remote: Remote<'_>, options: &PullOptions) -> Result<Found> {
    let mut index = None;
    let mut document = match remote.reference.digest() {
        Some(digest) => local_or_remote(remote, digest, remote.reference)?,
        None => remote.client.manifest(remote.reference)?,
    };
    for _ in 0..=MAX_INDEX_DEPTH {
        match document {
            Document::Manifest(manifest) => return Ok(Found { manifest, index }),
            Document::Index(found) => {
                let platform = options.platform.clone().unwrap_or_else(Platform::host);
                let child = platform.choose(found.manifests())?;
                let reference = remote.reference.with_digest(child.digest);
                document = local_or_remote(remote, child.digest, &reference)?;
                let got = document.descriptor().size_bytes;
                if got != child.size_bytes {
                    let doing = format!("fetch manifest {}", child.digest);
                    return Err(Error::mismatch(
                        "SizeMismatch",
                        doing,
                        child.size_bytes,
                        got,
                    ));
                }
                index.get_or_insert((found.descriptor().clone(), found.raw().to_vec()));
            }
        }
    }
    Err(too_deep(document.descriptor()))
}

/// Reads a manifest or index that may be here already.
fn local_or_remote(remote: Remote<'_>, digest: Digest, reference: &Reference) -> Result<Document> {
    remote.lease.protect(digest)?;
    match remote.lease.store().read_document(digest)? {
        Some(raw) => Document::parse(&raw, None),
        None => remote.client.manifest(reference),
    }
}

/// Reads a small blob from the store, or else from the registry.
fn blob(remote: Remote<'_>, descriptor: &Descriptor) -> Result<Vec<u8>> {
    json::check_size(descriptor.size_bytes, "an image config")?;
    remote.lease.protect(descriptor.digest)?;
    if let Some(bytes) = remote.lease.store().read_document(descriptor.digest)?
        && bytes.len() as u64 == descriptor.size_bytes
    {
        return Ok(bytes);
    }
    let mut bytes = Vec::new();
    remote
        .client
        .blob(remote.reference, descriptor)?
        .read_to_end(&mut bytes)
        .map_err(|error| from_io("fetch an image config", error))?;
    let mut check = Check::new(descriptor);
    check.update(&bytes)?;
    check.finish()?;
    Ok(bytes)
}

/// The name that a pulled image gets: of a tag and a digest only the digest counts.
fn name_of(reference: &Reference) -> Reference {
    match reference.digest() {
        Some(digest) => reference.with_digest(digest),
        None => reference.clone(),
    }
}
