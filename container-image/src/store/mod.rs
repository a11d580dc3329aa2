//! The store: an OCI image layout.
//!
//! ```text
//! root/               0700
//!   oci-layout        {"imageLayoutVersion":"1.0.0"}; written last when the store is made
//!   index.json        the images, and the names that they have
//!   index.json.old    the generation before, used when index.json is lost or damaged
//!   blobs/sha256/     manifests, indexes, configs and layers, as they came
//!   ingest/           blobs being written, each under its writer's lock
//!   leases/           what operations under way need, each under its owner's lock
//!   index.lock        taken exclusively for a change of index.json
//!   gc.lock           taken shared for a step that adds, exclusively by [`Store::prune`]
//! ```
//!
//! Any OCI tool can read it: an image is an entry of `index.json` whose annotation
//! `org.opencontainers.image.ref.name` is its full name, so that `skopeo` finds it under
//! `oci:root:docker.io/library/debian:bookworm`. One entry names one manifest; where that was chosen
//! from an index, the annotation [`INDEX_ANNOTATION`] tells the digest of the index. An image that
//! lost its name to another stays as an entry without one until it is removed.
//!
//! Roots of garbage collection are the entries of `index.json` and the leases of living processes.
//! Any number of threads and processes may use one store; readers wait for nobody. After a crash all
//! that was reported done is there, and what was not is invisible and swept by the next
//! [`Store::prune`]. Lock order: `gc.lock`, then `index.lock`.

mod blob;
pub(crate) mod files;
mod gc;
mod index;
mod lease;
mod verify;

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};

use crate::layout::{self, INDEX_FILE, LAYOUT, LAYOUT_FILE};
use crate::{Descriptor, Digest, Error, ErrorKind, Image, Reference, Result};
use index::LayoutIndex;

pub use blob::{BlobReader, Ingest};
pub(crate) use blob::{Check, Verified, from_io};
pub(crate) use gc::MAX_INDEX_DEPTH;
pub use gc::Pruned;
pub use index::INDEX_ANNOTATION;
pub use lease::Lease;
pub use verify::Damage;

/// Keeps images and their blobs in a directory. A cheap handle, to be cloned at will.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    root: OwnedFd,
    blobs: OwnedFd,
    ingest: OwnedFd,
    leases: OwnedFd,
    sync: bool,
}

/// How to open a [`Store`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Whether what was reported done survives a loss of power. Without it, writing is faster and
    /// only a crash of processes is survived.
    pub sync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { sync: true }
    }
}

/// An image as the store lists it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredImage {
    /// Where its manifest is.
    pub manifest: Descriptor,
    /// The index that the manifest was chosen from.
    pub index_digest: Option<Digest>,
    /// The names that it has, in order.
    pub names: Vec<Reference>,
}

impl Store {
    /// Opens the store in the directory `path`, which is made if it is missing.
    ///
    /// # Errors
    /// `UnsafeLayout` if a part of it is a symbolic link or of the wrong type; `InvalidLayout` if it
    /// is of another version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &StoreOptions::default())
    }

    /// Opens the store in the directory `path` as `options` say.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(path: impl AsRef<Path>, options: &StoreOptions) -> Result<Self> {
        let path = path.as_ref();
        let doing = |error| Error::os(format!("open the image store {}", path.display()), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(doing)?;
        let path = fs::canonicalize(path).map_err(doing)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, &path, flags, Mode::empty())
            .map_err(|error| Error::os(format!("open {}", path.display()), error))?;
        let outer = files::make_dir(&root, "blobs")?;
        let inner = Inner {
            blobs: files::make_dir(&outer, "sha256")?,
            ingest: files::make_dir(&root, "ingest")?,
            leases: files::make_dir(&root, "leases")?,
            root,
            path,
            sync: options.sync,
        };
        let store = Self(Arc::new(inner));
        store.check_layout()?;
        Ok(store)
    }

    /// The directory of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The path of a blob, whether it exists or not.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.0.path.join("blobs/sha256").join(digest.hex())
    }

    /// The image that is known as `reference`.
    ///
    /// A reference with a digest finds what any tag of that repository has brought, by the digest of
    /// the manifest or of the index.
    ///
    /// # Errors
    /// `ImageNotFound`; `Integrity` kinds if its manifest or config is damaged.
    pub fn resolve(&self, reference: &Reference) -> Result<Image> {
        let images = self.images()?;
        let named = |image: &StoredImage| match reference.digest() {
            None => image.names.contains(reference),
            Some(digest) => {
                let same = |name: &Reference| name.name() == reference.name();
                (image.manifest.digest == digest || image.index_digest == Some(digest))
                    && image.names.iter().any(same)
            }
        };
        let Some(image) = images.iter().find(|image| named(image)) else {
            let doing = format!("find image {reference} in {}", self.0.path.display());
            return Err(Error::new(ErrorKind::NotFound, "ImageNotFound", doing));
        };
        self.image(image)
            .map_err(|error| error.context(format!("open image {reference}")))
    }

    /// Opens an image that [`Store::images`] has listed.
    ///
    /// # Errors
    /// `BlobNotFound`; `Integrity` kinds if its manifest or config is damaged.
    pub fn image(&self, stored: &StoredImage) -> Result<Image> {
        Image::open(self, &stored.manifest, stored.index_digest)
    }

    /// All images, also those without a name and those whose blobs are damaged.
    ///
    /// # Errors
    /// `IndexDamaged` if neither generation of the index can be read.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        Ok(LayoutIndex::load(self)?.images())
    }

    /// Gives the image `reference` as its name, taking it from the image that had it.
    ///
    /// The name is on disk when the call returns.
    ///
    /// # Errors
    /// `BlobNotFound` if the image was removed meanwhile; `IndexDamaged`.
    pub fn tag(&self, image: &Image, reference: &Reference) -> Result<()> {
        let manifest = image.manifest().descriptor();
        let _adding = self.lock_shared()?;
        if !self.contains(manifest)? {
            return Err(self.missing(manifest.digest));
        }
        let _changing = self.lock_index()?;
        let mut index = LayoutIndex::load(self)?;
        index.name(manifest, image.platform(), image.index_digest(), reference);
        index.save(self)
    }

    /// Keeps `image` without a name, until it is removed or gets one. Does nothing if it has one.
    ///
    /// # Errors
    /// `BlobNotFound` if the image was removed meanwhile; `IndexDamaged`.
    pub fn keep(&self, image: &Image) -> Result<()> {
        let manifest = image.manifest().descriptor();
        let _adding = self.lock_shared()?;
        if !self.contains(manifest)? {
            return Err(self.missing(manifest.digest));
        }
        self.change(|index| index.keep(manifest, image.platform(), image.index_digest()))
    }

    /// Makes an image of the manifest or index `descriptor`, whose blobs are in the store, and names
    /// it `reference`. Hold the lease that the blobs were put with until then.
    ///
    /// # Errors
    /// `BlobNotFound`, `LayerCountMismatch`, `Integrity` kinds, and `IndexDamaged`.
    pub fn record(&self, descriptor: &Descriptor, reference: &Reference) -> Result<Image> {
        let image = Image::open(self, descriptor, None)?;
        for layer in image.layers() {
            if !self.contains(&layer.descriptor)? {
                return Err(self.missing(layer.descriptor.digest));
            }
        }
        self.tag(&image, reference)?;
        Ok(image)
    }

    /// Takes the name `reference` away, and with its last name the image; its blobs stay until
    /// [`Store::prune`]. Succeeds if there is no such name.
    ///
    /// # Errors
    /// `IndexDamaged`.
    pub fn remove(&self, reference: &Reference) -> Result<()> {
        self.change(|index| index.remove_name(reference))
    }

    /// Removes the image of the manifest `digest` with all its names; its blobs stay until
    /// [`Store::prune`]. Succeeds if there is no such image.
    ///
    /// # Errors
    /// `IndexDamaged`.
    pub fn remove_image(&self, digest: Digest) -> Result<()> {
        self.change(|index| index.remove_manifest(digest))
    }

    fn change(&self, change: impl FnOnce(&mut LayoutIndex) -> bool) -> Result<()> {
        let _changing = self.lock_index()?;
        let mut index = LayoutIndex::load(self)?;
        if change(&mut index) {
            index.save(self)
        } else {
            Ok(())
        }
    }

    /// Checks the version of the layout, or makes a new one.
    fn check_layout(&self) -> Result<()> {
        let doing = || format!("open the image store {}", self.0.path.display());
        if files::read(&self.0.root, LAYOUT_FILE)?.is_none() {
            let _changing = self.lock_index()?;
            if files::read(&self.0.root, LAYOUT_FILE)?.is_none() {
                if files::read(&self.0.root, INDEX_FILE)?.is_none() {
                    LayoutIndex::default().save(self)?;
                }
                return files::replace(&self.0.root, LAYOUT_FILE, LAYOUT, self.0.sync);
            }
        }
        let layout = files::read(&self.0.root, LAYOUT_FILE)?.unwrap_or_default();
        layout::check_version(&layout).map_err(|error| error.context(doing()))
    }

    /// Keeps [`Store::prune`] out while something is added.
    fn lock_shared(&self) -> Result<File> {
        files::lock(&self.0.root, GC_LOCK, FlockOperation::LockShared)
    }

    fn lock_exclusive(&self) -> Result<File> {
        files::lock(&self.0.root, GC_LOCK, FlockOperation::LockExclusive)
    }

    fn lock_index(&self) -> Result<File> {
        files::lock(&self.0.root, INDEX_LOCK, FlockOperation::LockExclusive)
    }

    fn missing(&self, digest: Digest) -> Error {
        let doing = format!("find blob {digest} in {}", self.0.path.display());
        Error::new(ErrorKind::NotFound, "BlobNotFound", doing)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.0.path).finish()
    }
}

const GC_LOCK: &str = "gc.lock";
const INDEX_LOCK: &str = "index.lock";
