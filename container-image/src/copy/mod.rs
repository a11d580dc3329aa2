//! Copying images between registries, layouts, archives, directories and stores.

mod destination;
mod location;
mod source;
mod temporary;

use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use destination::{Destination, OpenBlob};
pub use location::Location;
pub(crate) use source::{Chosen, FromRegistry, Source, read_whole};

use crate::archive::{ArchiveFormat, ArchiveWriter};
use crate::layer::Compression;
use crate::store::MAX_INDEX_DEPTH;
use crate::{
    Client, ClientOptions, Descriptor, Document, Error, ErrorKind, Image, ImageConfig, Index,
    Manifest, Platform, Policy, Reference, Result,
};
use destination::{ToArchive, ToDirectory, ToLayout, ToRegistry, ToStore};
use source::{FromArchive, FromDirectory};
use temporary::Temporary;

/// Which images of an index are meant.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Platforms {
    /// The one for this host.
    #[default]
    Host,
    /// The one for this platform.
    Only(Platform),
    /// All of them, with the index.
    All,
}

/// How to copy and inspect images.
#[derive(Clone)]
#[non_exhaustive]
pub struct CopyOptions {
    /// How to talk to registries, and the flag that stops it all.
    pub client: ClientOptions,
    /// Which images of an index are meant.
    pub platforms: Platforms,
    /// Which images may be copied from registries; all of them by default.
    pub policy: Policy,
    /// Where archives are unpacked for as long as they are read; the directory for temporary files by
    /// default.
    pub scratch: PathBuf,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            client: ClientOptions::default(),
            platforms: Platforms::default(),
            policy: Policy::default(),
            scratch: std::env::temp_dir(),
        }
    }
}

impl fmt::Debug for CopyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopyOptions")
            .field("client", &self.client)
            .field("platforms", &self.platforms)
            .finish_non_exhaustive()
    }
}

/// Copies an image, and tells what stands for it there.
///
/// Manifests, configs and layers travel as the exact bytes that they are, so that all digests stay;
/// only Docker archives without a manifest get one. Size and digest of each blob are checked on the
/// way; what the destination has already is not copied again, and a registry takes over blobs from
/// another of its repositories. The name in the destination changes last. To and from a [`Store`]
/// alone, [`pull`](crate::pull), [`push`](crate::push), [`load`](crate::archive::load) and
/// [`save`](crate::archive::save) do the same with several layers at a time, or as a stream.
///
/// [`Store`]: crate::Store
///
/// # Errors
/// `ImageNotFound`, `AmbiguousName`, `PlatformNotFound`, `BlobNotFound`, `SizeMismatch`,
/// `DigestMismatch`; those of registries and archives; `NotTrusted`, `NotSigned`; `UnsupportedIndex` for [`Platforms::All`] into a
/// Docker archive. The image has no name in the destination then; blobs may have been copied.
///
/// # Examples
///
/// ```no_run
/// use container_image::{CopyOptions, copy};
///
/// let options = CopyOptions::default();
/// copy(&"docker://debian:12".parse()?, &"oci:/srv/mirror:debian".parse()?, &options)?;
/// # Ok::<(), container_image::Error>(())
/// ```
pub fn copy(from: &Location, to: &Location, options: &CopyOptions) -> Result<Descriptor> {
    copy_opened(from, to, options)
        .map_err(|error| error.context(format!("copy image {from} to {to}")))
}

/// What an image is, found out without its layers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The index that the image was chosen from.
    pub index: Option<Index>,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The names that the place knows it by, other than the one that was asked for.
    pub names: Vec<Reference>,
}

/// Reads manifest and config of an image, wherever it is, and nothing else.
///
/// # Errors
/// As [`copy`].
pub fn inspect(location: &Location, options: &CopyOptions) -> Result<Inspection> {
    let inspect = || {
        let opened = Opened::new(location, options)?;
        let platform = match &options.platforms {
            Platforms::Only(platform) => platform.clone(),
            Platforms::Host | Platforms::All => Platform::host(),
        };
        let chosen = Chosen::new(&*opened.source, opened.root, &platform)?;
        let config = ImageConfig::parse(&opened.source.raw(chosen.manifest.config())?)?;
        Ok(Inspection {
            index: chosen.index,
            manifest: chosen.manifest,
            config,
            names: opened.names,
        })
    };
    inspect().map_err(|error: Error| error.context(format!("inspect image {location}")))
}

/// An image that is ready to be read.
struct Opened {
    source: Box<dyn Source>,
    root: Document,
    names: Vec<Reference>,
}

impl Opened {
    fn new(location: &Location, options: &CopyOptions) -> Result<Self> {
        let (source, root, names): (Box<dyn Source>, _, _) = match location {
            Location::Registry(reference) => {
                let client = Client::new(options.client.clone());
                let root = client.manifest(reference)?;
                let reference = reference.clone();
                let names = vec![reference.clone()];
                (Box::new(FromRegistry { client, reference }), root, names)
            }
            Location::Layout { path, name } => {
                let (source, index) = FromDirectory::layout(path)?;
                let entry = crate::layout::pick(&index.manifests, name.as_deref())?;
                let root = source.document(entry)?;
                (Box::new(source), root, crate::layout::names_of(entry))
            }
            Location::OciArchive { path, name } | Location::DockerArchive { path, name } => {
                let cancel = &options.client.cancel;
                let name = name.as_deref();
                let (source, root, names) = FromArchive::new(path, name, &options.scratch, cancel)?;
                (Box::new(source), root, names)
            }
            Location::Directory(path) => {
                let (source, root) = FromDirectory::single(path)?;
                (Box::new(source), root, Vec::new())
            }
            Location::Store { store, name } => {
                let image: Image = store.resolve(name)?;
                let root = Document::Manifest(image.manifest().clone());
                (Box::new(store.clone()), root, vec![name.clone()])
            }
        };
        Ok(Self {
            source,
            root,
            names,
        })
    }
}

fn copy_opened(from: &Location, to: &Location, options: &CopyOptions) -> Result<Descriptor> {
    let mut opened = Opened::new(from, options)?;
    let platform = match &options.platforms {
        Platforms::Host => Some(Platform::host()),
        Platforms::Only(platform) => Some(platform.clone()),
        Platforms::All => None,
    };
    let mut digests = vec![opened.root.descriptor().digest];
    if let Some(platform) = platform {
        let chosen = Chosen::new(&*opened.source, opened.root, &platform)?;
        digests.push(chosen.manifest.digest());
        opened.root = Document::Manifest(chosen.manifest);
    }
    if let Location::Registry(reference) = from {
        let client = Client::new(options.client.clone());
        options.policy.check(&client, reference, &digests)?;
    }
    let cancel = &options.client.cancel;
    let bring = |destination: &mut dyn Destination| {
        let mut transfer = Transfer {
            source: &*opened.source,
            destination: &mut *destination,
            cancel,
        };
        transfer.below(&opened.root, 0)?;
        destination.root(&opened.root, &opened.names)
    };
    let archive = |path, name: &Option<String>, format| {
        let name = name.as_deref().map(str::parse).transpose()?;
        let file = Temporary::create(path)?;
        let writer = ArchiveWriter::new(file, format, Compression::None)?;
        Ok::<_, Error>(ToArchive { writer, name })
    };
    match to {
        Location::Registry(reference) => {
            let from = match from {
                Location::Registry(from) if from.registry() == reference.registry() => {
                    Some(from.repository().to_owned())
                }
                _ => None,
            };
            let client = Client::new(options.client.clone());
            let reference = reference.clone();
            bring(&mut ToRegistry {
                client,
                reference,
                from,
            })?;
        }
        Location::Layout { path, name } => bring(&mut ToLayout::new(path, name.clone())?)?,
        Location::OciArchive { path, name } => {
            let mut archive = archive(path, name, ArchiveFormat::Oci)?;
            bring(&mut archive)?;
            archive.finish()?;
        }
        Location::DockerArchive { path, name } => {
            let mut archive = archive(path, name, ArchiveFormat::Docker)?;
            bring(&mut archive)?;
            archive.finish()?;
        }
        Location::Directory(path) => bring(&mut ToDirectory::new(path)?)?,
        Location::Store { store, name } => {
            let (lease, name) = (store.lease()?, name.clone());
            bring(&mut ToStore { lease, name })?;
        }
    }
    Ok(opened.root.descriptor().clone())
}

/// Moves what images consist of.
pub(crate) struct Transfer<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) destination: &'a mut dyn Destination,
    pub(crate) cancel: &'a Arc<AtomicBool>,
}

impl Transfer<'_> {
    /// Brings all that `root` points at.
    fn below(&mut self, root: &Document, depth: usize) -> Result<()> {
        match root {
            Document::Manifest(manifest) => self.manifest(manifest),
            Document::Index(_) if depth == MAX_INDEX_DEPTH => {
                Err(crate::image::too_deep(root.descriptor()))
            }
            Document::Index(index) => index.manifests().iter().try_for_each(|child| {
                let document = self.source.document(child)?;
                self.below(&document, depth + 1)?;
                self.destination.document(&document)
            }),
        }
    }

    /// Brings the layers and the config of `manifest`, where they are missing.
    pub(crate) fn manifest(&mut self, manifest: &Manifest) -> Result<()> {
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            if self.destination.has(blob)? {
                continue;
            }
            let mut open = || {
                let stop = Stoppable {
                    inner: self.source.open(blob)?,
                    cancel: Arc::clone(self.cancel),
                };
                Ok(Box::new(stop) as Box<dyn Read + Send>)
            };
            self.destination
                .blob(blob, &mut open)
                .map_err(|error| error.context(format!("copy blob {}", blob.digest)))?;
        }
        Ok(())
    }
}

/// Stops reading when somebody asks for it.
struct Stoppable {
    inner: Box<dyn Read + Send>,
    cancel: Arc<AtomicBool>,
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.load(Ordering::Relaxed) {
            let error = Error::new(ErrorKind::Cancelled, "Cancelled", "copy an image");
            return Err(io::Error::other(error));
        }
        self.inner.read(buffer)
    }
}
