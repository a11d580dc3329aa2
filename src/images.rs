//! Images: pull, push, list, get, remove.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use container_image::{
    Digest, ImageConfig, Platform, Progress, PullOptions, PullStatus, PushOptions, Reference,
    UnpackImageOptions,
};
use container_storage::SnapshotKind;

use crate::lower::Doing;
use crate::pull::{SnapshotSink, snapshot_name};
use crate::{Engine, Error, ErrorKind, Result};

/// The images of an engine.
#[derive(Clone, Debug)]
pub struct Images {
    engine: Engine,
}

/// An image that is stored here.
#[derive(Clone)]
pub struct Image {
    inner: container_image::Image,
    name: Option<Reference>,
    status: Option<PullStatus>,
}

/// A pull that can be given a platform, progress and a way to stop it.
#[must_use = "nothing happens before `run`"]
pub struct PullBuilder {
    engine: Engine,
    name: String,
    options: PullOptions,
}

/// A push that can be given progress and a way to stop it.
#[must_use = "nothing happens before `run`"]
pub struct PushBuilder {
    engine: Engine,
    name: String,
    options: PushOptions,
}

impl Images {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    /// Pulls `name` (`debian`, `127.0.0.1:5000/debian:bookworm`, `…@sha256:…`) for this platform and
    /// unpacks it. What is here already is not fetched again. Blocks.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none, `NotFound` (`ManifestUnknown`, `NoSuchPlatform`),
    /// `Unauthorized`, `Network`, `TimedOut`; `Integrity` (`DigestMismatch`, `SizeMismatch`,
    /// `DiffIdMismatch`) if the registry sends something else. After an error nothing is left but
    /// complete, verified blobs and layers, which the next pull uses.
    pub fn pull(&self, name: &str) -> Result<Image> {
        self.pull_with(name).run()
    }

    /// A pull with options.
    pub fn pull_with(&self, name: &str) -> PullBuilder {
        let mut options = PullOptions::default();
        options.client = self.engine.inner().client.clone();
        PullBuilder {
            engine: self.engine.clone(),
            name: name.into(),
            options,
        }
    }

    /// Pushes the image that has this `name` to the registry in it; layers that are there already
    /// are not sent again. Blocks.
    ///
    /// # Errors
    /// `NotFound` if there is no such image; else as [`Self::pull`].
    pub fn push(&self, name: &str) -> Result<Digest> {
        self.push_with(name).run()
    }

    /// A push with options.
    pub fn push_with(&self, name: &str) -> PushBuilder {
        let mut options = PushOptions::default();
        options.client = self.engine.inner().client.clone();
        PushBuilder {
            engine: self.engine.clone(),
            name: name.into(),
            options,
        }
    }

    /// All images that have a name, in the order of the names.
    ///
    /// # Errors
    /// `Os` if the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>> {
        let store = &self.engine.inner().store;
        let mut images = Vec::new();
        for stored in store.images().doing(|| "list the images".into())? {
            // One damaged image must not hide the others.
            let Ok(inner) = store.image(&stored) else {
                continue;
            };
            images.extend(stored.names.into_iter().map(|name| Image {
                inner: inner.clone(),
                name: Some(name),
                status: None,
            }));
        }
        Ok(images)
    }

    /// The image with this name, ID, or unambiguous beginning of an ID.
    ///
    /// # Errors
    /// `NotFound` (`ImageUnknown`), `InvalidInput` (`AmbiguousId`).
    pub fn get(&self, name_or_id: &str) -> Result<Image> {
        let store = &self.engine.inner().store;
        if let Ok(reference) = name_or_id.parse::<Reference>()
            && let Ok(inner) = store.resolve(&reference)
        {
            return Ok(Image {
                inner,
                name: Some(reference),
                status: None,
            });
        }
        let hex = name_or_id.strip_prefix("sha256:").unwrap_or(name_or_id);
        let mut found: Vec<Image> = self.list()?;
        found.retain(|image| !hex.is_empty() && hex_of(image.id()).starts_with(hex));
        found.dedup_by_key(|image| image.id());
        match found.len() {
            0 => {
                let what = format!("find image {name_or_id:?}");
                Err(Error::new(ErrorKind::NotFound, "ImageUnknown", what))
            }
            1 => Ok(found.remove(0)),
            _ => {
                let ids: Vec<_> = found.iter().map(|image| hex_of(image.id())).collect();
                let what = format!("image {name_or_id:?} may be any of {}", ids.join(", "));
                Err(Error::invalid("AmbiguousId", what))
            }
        }
    }

    /// Takes the name off its image, and removes blobs and layers that no other image or container
    /// uses. Done if there is no such name.
    ///
    /// # Errors
    /// `InvalidInput` for a name that is none; `Os` if files cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let reference = parse(name)?;
        let store = &self.engine.inner().store;
        store
            .remove(&reference)
            .doing(|| format!("remove image {name}"))?;
        store.prune().doing(|| "remove unused blobs".into())?;
        self.sweep_snapshots()
    }

    /// Removes committed snapshots that belong to no image, unless somebody is unpacking right now:
    /// then what is superfluous stays until the next time.
    pub(crate) fn sweep_snapshots(&self) -> Result<()> {
        let lease = self.engine.lease_file()?;
        if lease.try_lock().is_err() {
            return Ok(());
        }
        let used: HashSet<String> = self
            .list()?
            .iter()
            .flat_map(|image| {
                image
                    .inner
                    .layers()
                    .iter()
                    .map(|layer| snapshot_name(&layer.chain_id))
            })
            .collect();
        let driver = &self.engine.inner().driver;
        let mut unused = Vec::new();
        driver
            .list(&mut |info| {
                if info.kind == SnapshotKind::Committed && !used.contains(&info.name) {
                    unused.push(info.name);
                }
                Ok(())
            })
            .doing(|| "list the snapshots".into())?;
        // A parent goes after its children: as long as something goes, go round once more. What is
        // left is below a container.
        loop {
            let before = unused.len();
            let mut failure = None;
            unused.retain(|name| match driver.remove(name) {
                Ok(()) => false,
                Err(error) if error.kind() == container_storage::ErrorKind::Busy => true,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            if let Some(error) = failure {
                return Err(error).doing(|| "remove unused snapshots".into());
            }
            if unused.is_empty() || unused.len() == before {
                return Ok(());
            }
        }
    }
}

impl Image {
    /// The image ID: the digest of its config.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.inner.id()
    }

    /// The digest of its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.inner.digest()
    }

    /// The digest of the index that its manifest was chosen from, if it was.
    #[must_use]
    pub fn index_digest(&self) -> Option<Digest> {
        self.inner.index_digest()
    }

    /// The name that it was found by, if it has one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.name.as_ref().map(Reference::familiar)
    }

    /// What containers run by default, and how the image came to be.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        self.inner.config()
    }

    /// The size of its compressed layers, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    /// Whether the pull that gave this handle brought something new; `None` for other handles.
    #[must_use]
    pub fn pull_status(&self) -> Option<PullStatus> {
        self.status
    }

    pub(crate) fn layer_name(&self) -> Option<String> {
        self.inner
            .layers()
            .last()
            .map(|layer| snapshot_name(&layer.chain_id))
    }

    /// Unpacks the layers that are not unpacked yet.
    pub(crate) fn ensure_unpacked(&self, engine: &Engine) -> Result<()> {
        let driver = &*engine.inner().driver;
        let Some(top) = self.layer_name() else {
            return Ok(());
        };
        if driver.stat(&top).is_ok() {
            return Ok(());
        }
        let sink = SnapshotSink::new(driver);
        container_image::unpack(&self.inner, &sink, &UnpackImageOptions::default())
            .doing(|| format!("unpack image {self}"))
    }
}

/// Its name, or its ID.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(&name),
            None => self.id().fmt(f),
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({self})")
    }
}

impl PullBuilder {
    /// Pulls for `platform` (`linux/arm64`) instead of this machine's.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.options.platform = Some(platform);
        self
    }

    /// Hears of every step.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.options.progress = Some(progress);
        self
    }

    /// Stops within a quarter of a second once the flag is set.
    pub fn cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.options.client.cancel = cancel;
        self
    }

    /// Pulls. Blocks.
    ///
    /// # Errors
    /// As [`Images::pull`], and `Cancelled`.
    pub fn run(self) -> Result<Image> {
        let reference = parse(&self.name)?;
        let inner = self.engine.inner();
        let _lease = self.engine.lease()?;
        let sink = SnapshotSink::new(&*inner.driver);
        let pulled = container_image::pull(&reference, &inner.store, &self.options, Some(&sink))
            .doing(|| format!("pull {reference}"))?;
        Ok(Image {
            inner: pulled.image,
            name: Some(reference),
            status: Some(pulled.status),
        })
    }
}

impl PushBuilder {
    /// Hears of every step.
    pub fn progress(mut self, progress: Progress) -> Self {
        self.options.progress = Some(progress);
        self
    }

    /// Stops within a quarter of a second once the flag is set.
    pub fn cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.options.client.cancel = cancel;
        self
    }

    /// Pushes; gives the digest of the manifest. Blocks.
    ///
    /// # Errors
    /// As [`Images::push`], and `Cancelled`.
    pub fn run(self) -> Result<Digest> {
        let reference = parse(&self.name)?;
        let inner = self.engine.inner();
        let image = inner
            .store
            .resolve(&reference)
            .doing(|| format!("find image {reference}"))?;
        container_image::push(&image, &reference, &self.options)
            .map(|pushed| pushed.digest)
            .doing(|| format!("push {reference}"))
    }
}

impl fmt::Debug for PullBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullBuilder({})", self.name)
    }
}

impl fmt::Debug for PushBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushBuilder({})", self.name)
    }
}

fn parse(name: &str) -> Result<Reference> {
    name.parse()
        .doing(|| format!("read the image name {name:?}"))
}

fn hex_of(digest: Digest) -> String {
    let text = digest.to_string();
    text.rsplit(':').next().unwrap_or_default().to_owned()
}
