//! Where images come from, and which of them is meant.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, Mode, OFlags};

use super::destination::DIRECTORY_MANIFEST;
use super::temporary::Scratch;
use crate::archive::{self, LoadOptions, Members};
use crate::image::too_deep;
use crate::layer::decompress;
use crate::manifest::IndexDocument;
use crate::store::{MAX_INDEX_DEPTH, Verified, files, from_io};
use crate::{
    Client, Descriptor, Document, Error, ErrorKind, Index, Manifest, Platform, Reference, Result,
    Store, StoreOptions, json, layout,
};

/// Something that blobs are read from.
pub(crate) trait Source {
    /// A whole manifest, index or config, whose size and digest are right.
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>>;

    /// A blob; its end is reported only if size and digest are right.
    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>>;

    /// A manifest or index.
    fn document(&self, want: &Descriptor) -> Result<Document> {
        Document::parse(&self.raw(want)?, Some(&want.media_type))
    }
}

impl Source for Store {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        self.read(want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.open_blob(want)?))
    }
}

/// One image, and the index that it was chosen from.
pub(crate) struct Chosen {
    pub(crate) manifest: Manifest,
    pub(crate) index: Option<Index>,
}

impl Chosen {
    /// Follows `root` to the image for `platform`.
    ///
    /// # Errors
    /// `PlatformNotFound`, `IndexTooDeep`, and what reading the documents fails with.
    pub(crate) fn new(source: &dyn Source, root: Document, platform: &Platform) -> Result<Self> {
        let mut document = root;
        let mut index = None;
        for _ in 0..=MAX_INDEX_DEPTH {
            match document {
                Document::Manifest(manifest) => return Ok(Self { manifest, index }),
                Document::Index(found) => {
                    let child = platform.choose(found.manifests())?;
                    document = source.document(child)?;
                    index.get_or_insert(found);
                }
            }
        }
        Err(too_deep(document.descriptor()))
    }
}

/// Reads a small blob to its end.
pub(crate) fn read_whole(mut reader: impl Read, want: &Descriptor) -> Result<Vec<u8>> {
    json::check_size(want.size_bytes, &format!("blob {}", want.digest))?;
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .map_err(|error| from_io(&format!("read blob {}", want.digest), error))?;
    Ok(bytes)
}

/// A repository of a registry.
pub(crate) struct FromRegistry {
    pub(crate) client: Client,
    pub(crate) reference: Reference,
}

impl Source for FromRegistry {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        if !(want.media_type.is_manifest() || want.media_type.is_index()) {
            return read_whole(self.open(want)?, want);
        }
        let document = self
            .client
            .manifest(&self.reference.with_digest(want.digest))?;
        read_whole(Verified::new(document.raw(), want), want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let stream = self.client.blob(&self.reference, want)?;
        Ok(Box::new(Verified::new(stream, want)))
    }
}

/// A directory of blobs: that of an OCI layout, or one with a single image.
pub(super) struct FromDirectory {
    directory: OwnedFd,
    /// What the names of manifests and indexes end in.
    document_suffix: &'static str,
}

impl FromDirectory {
    /// The layout in `path`, and its index.
    pub(super) fn layout(path: &Path) -> Result<(Self, IndexDocument)> {
        let root = open_dir(path)?;
        let read = |name: &str| {
            let found = files::read(&root, name)?;
            found.ok_or_else(|| {
                let doing = format!("read the image layout {}: it has no {name}", path.display());
                Error::new(ErrorKind::NotFound, "InvalidLayout", doing)
            })
        };
        layout::check_version(&read(layout::LAYOUT_FILE)?)?;
        let index = json::parse(&read(layout::INDEX_FILE)?, layout::INDEX_FILE)?;
        let blobs = files::open_dir(&root, "blobs")?;
        let source = Self {
            directory: files::open_dir(&blobs, "sha256")?,
            document_suffix: "",
        };
        Ok((source, index))
    }

    /// The image in `path`, and the document that stands for it.
    pub(super) fn single(path: &Path) -> Result<(Self, Document)> {
        let directory = open_dir(path)?;
        let raw = files::read(&directory, DIRECTORY_MANIFEST)?.ok_or_else(|| {
            let doing = format!("find an image in {}", path.display());
            Error::new(ErrorKind::NotFound, "ImageNotFound", doing)
        })?;
        let source = Self {
            directory,
            document_suffix: ".manifest.json",
        };
        Ok((source, Document::parse(&raw, None)?))
    }
}

impl Source for FromDirectory {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        read_whole(self.open(want)?, want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>> {
        let document = want.media_type.is_manifest() || want.media_type.is_index();
        let suffix = if document { self.document_suffix } else { "" };
        let name = format!("{}{suffix}", want.digest.hex());
        let Some((file, _)) = files::open(&self.directory, &name)? else {
            let doing = format!("find blob {}", want.digest);
            return Err(Error::new(ErrorKind::NotFound, "BlobNotFound", doing));
        };
        Ok(Box::new(Verified::new(file, want)))
    }
}

/// An archive, whose members are in a scratch directory.
pub(super) struct FromArchive {
    // In this order they are dropped.
    members: Members,
    _scratch: Scratch,
}

impl FromArchive {
    /// Reads the archive `path` and finds `name` in it.
    pub(super) fn new(
        path: &Path,
        name: Option<&str>,
        scratch: &Path,
        cancel: &AtomicBool,
    ) -> Result<(Self, Document, Vec<Reference>)> {
        let file = File::open(path)
            .map_err(|error| Error::os(format!("open {}", path.display()), error))?;
        let scratch = Scratch::new(scratch)?;
        let store = Store::open_with(scratch.path(), &StoreOptions { sync: false })?;
        let mut members = Members::new(store.lease()?);
        let limits = LoadOptions::default().limits;
        members.read(&mut decompress(file)?, &limits, cancel)?;
        let (root, names) = archive::find(&mut members, name)?;
        let source = Self {
            members,
            _scratch: scratch,
        };
        Ok((source, root, names))
    }
}

impl Source for FromArchive {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        self.members.raw(want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Source::open(&self.members, want)
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| Error::os(format!("open {}", path.display()), error))
}
