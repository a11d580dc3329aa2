//! Reading archives of images into a store.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::DOCKER_MANIFEST;
use super::docker::DockerImage;
use super::members::Members;
use crate::copy::{Chosen, Source};
use crate::layer::{Limits, decompress};
use crate::layout;
use crate::manifest::IndexDocument;
use crate::{
    Descriptor, Digest, Document, Error, Image, Manifest, MediaType, Platform, Reference, Result,
    Store, json,
};

/// How to read an archive of images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Which image of an index to take; that for this host by default.
    pub platform: Option<Platform>,
    /// How many bytes the archive may have, decompressed, and how many members.
    pub limits: Limits,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            platform: None,
            limits: Limits {
                bytes: u64::MAX,
                entries: MAX_MEMBERS,
            },
            cancel: Arc::default(),
        }
    }
}

/// An image and what it is called in an archive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArchivedImage {
    /// The image.
    pub image: Image,
    /// Its names; none if it is known by its ID alone.
    pub names: Vec<Reference>,
}

impl ArchivedImage {
    /// `image`, called `names`.
    #[must_use]
    pub fn new(image: Image, names: Vec<Reference>) -> Self {
        Self { image, names }
    }
}

/// Reads all images of an archive into `store`, in their order, and gives them the names that they
/// have there.
///
/// It may be an OCI layout or one of `docker save`, of any age since Docker 1.10, plain or compressed.
/// An archive that is both is read as OCI layout. It is read once, from beginning to end, so that it
/// can come through a pipe. The image IDs are what they were; the digests of manifests too where the
/// archive has manifests. Layers are stored as they are, except that bzip2 and xz, which OCI does not
/// know, become plain. An image without a name is kept until it is removed.
///
/// # Errors
/// `InvalidArchive` if it holds no images; those of reading layers; `UnsafeLayout`, `PathEscapes`,
/// `DuplicateMember`, `MemberNotFound`, `BlobNotFound`; `DigestMismatch`, `SizeMismatch`,
/// `DiffIdMismatch`, `LayerCountMismatch`; `InvalidReference`, `PlatformNotFound`, `LimitExceeded` and
/// `Cancelled`. No image is listed then, and what was read is removed.
///
/// # Examples
///
/// ```no_run
/// use container_image::Store;
/// use container_image::archive::{LoadOptions, load};
///
/// let store = Store::open("/var/lib/images")?;
/// for loaded in load(std::io::stdin(), &store, &LoadOptions::default())? {
///     println!("{} {:?}", loaded.image.id(), loaded.names);
/// }
/// # Ok::<(), container_image::Error>(())
/// ```
pub fn load(
    input: impl Read + Send,
    store: &Store,
    options: &LoadOptions,
) -> Result<Vec<ArchivedImage>> {
    let mut members = Members::new(store.lease()?);
    let result = load_into(input, store, &mut members, options);
    // What no image needs goes, be it the rest of the archive or all of it.
    let written = members.into_written();
    let swept = store.sweep(&written);
    match result {
        Ok(loaded) => swept.map(|()| loaded),
        Err(error) => Err(error
            .context("load an archive of images")
            .with_cleanup(swept.err())),
    }
}

fn load_into(
    input: impl Read + Send,
    store: &Store,
    members: &mut Members,
    options: &LoadOptions,
) -> Result<Vec<ArchivedImage>> {
    members.read(&mut decompress(input)?, &options.limits, &options.cancel)?;
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let found = match members.named(layout::LAYOUT_FILE)? {
        Some(version) => {
            layout::check_version(&version)?;
            from_layout(members, &platform)?
        }
        None => from_docker(members)?,
    };
    if found.is_empty() {
        return Err(no_images());
    }
    let mut loaded = Vec::with_capacity(found.len());
    for found in found {
        loaded.push(found.bring_in(store, members)?);
    }
    for ArchivedImage { image, names } in &loaded {
        store.keep(image)?;
        for name in names {
            store.tag(image, name)?;
        }
    }
    Ok(loaded)
}

/// An image as an archive describes it.
struct Found {
    manifest: Manifest,
    index_digest: Option<Digest>,
    names: Vec<Reference>,
}

impl Found {
    /// Makes all that the image consists of blobs of the store.
    fn bring_in(self, store: &Store, members: &mut Members) -> Result<ArchivedImage> {
        let config = members.raw(self.manifest.config())?;
        let image = Image::new(store, self.manifest, config, self.index_digest)?;
        let manifest = image.manifest();
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            members.store(blob)?;
        }
        members.put(manifest.descriptor(), manifest.raw())?;
        Ok(ArchivedImage::new(image, self.names))
    }
}

/// Reads `index.json`. Entries that are no images, such as signatures, are passed over.
fn from_layout(members: &mut Members, platform: &Platform) -> Result<Vec<Found>> {
    let raw = members.named(layout::INDEX_FILE)?.ok_or_else(no_images)?;
    let index: IndexDocument = json::parse(&raw, layout::INDEX_FILE)?;
    let mut all: Vec<Found> = Vec::new();
    for entry in index.manifests {
        let names = layout::names_of(&entry);
        if !(entry.media_type.is_manifest() || entry.media_type.is_index()) {
            continue;
        }
        let chosen = Chosen::new(members, members.document(&entry)?, platform)?;
        if !is_image(chosen.manifest.config()) {
            continue;
        }
        let digest = chosen.manifest.digest();
        if let Some(known) = all
            .iter_mut()
            .find(|found| found.manifest.digest() == digest)
        {
            known.names.extend(names);
            continue;
        }
        if let Some(index) = &chosen.index {
            members.put(index.descriptor(), index.raw())?;
        }
        all.push(Found {
            manifest: chosen.manifest,
            index_digest: chosen.index.map(|index| index.digest()),
            names,
        });
    }
    Ok(all)
}

/// Reads Docker's `manifest.json`.
fn from_docker(members: &mut Members) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for image in docker_images(members)? {
        let (manifest, names) = image.read(members)?;
        all.push(Found {
            manifest,
            index_digest: None,
            names,
        });
    }
    Ok(all)
}

/// The images that Docker's `manifest.json` lists.
fn docker_images(members: &Members) -> Result<Vec<DockerImage>> {
    let raw = members.named(DOCKER_MANIFEST)?.ok_or_else(no_images)?;
    json::parse(&raw, DOCKER_MANIFEST)
}

/// Follows `name` in an archive of any kind to the document that stands for the image.
///
/// # Errors
/// Those of [`load`] and of [`layout::pick`].
pub(crate) fn find(
    members: &mut Members,
    name: Option<&str>,
) -> Result<(Document, Vec<Reference>)> {
    if let Some(version) = members.named(layout::LAYOUT_FILE)? {
        layout::check_version(&version)?;
        let raw = members.named(layout::INDEX_FILE)?.ok_or_else(no_images)?;
        let index: IndexDocument = json::parse(&raw, layout::INDEX_FILE)?;
        let entry = layout::pick(&index.manifests, name)?;
        return Ok((members.document(entry)?, layout::names_of(entry)));
    }
    let images = docker_images(members)?;
    let wanted = name.map(str::parse::<Reference>).transpose()?;
    let called = |image: &&DockerImage| match &wanted {
        None => true,
        Some(wanted) => image
            .repo_tags
            .iter()
            .any(|tag| tag.parse().ok().as_ref() == Some(wanted)),
    };
    let mut found = images.iter().filter(called);
    match (found.next(), found.next()) {
        (Some(image), None) => {
            let (manifest, names) = image.read(members)?;
            members.put(manifest.descriptor(), manifest.raw())?;
            Ok((Document::Manifest(manifest), names))
        }
        (None, _) => Err(layout::not_found(name)),
        (Some(_), Some(_)) => Err(layout::ambiguous(name)),
    }
}

fn is_image(config: &Descriptor) -> bool {
    [MediaType::CONFIG, MediaType::DOCKER_CONFIG].contains(&config.media_type)
}

fn no_images() -> Error {
    let doing = "find images in an archive: it has neither index.json nor manifest.json";
    Error::invalid("InvalidArchive", doing)
}

/// Far more than the images of any host have layers.
const MAX_MEMBERS: u64 = 100_000;
