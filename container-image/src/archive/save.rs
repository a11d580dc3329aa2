//! Writing archives of images.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::docker::DockerImage;
use super::{ArchivedImage, DOCKER_MANIFEST};
use crate::copy::{Destination, OpenBlob, Transfer};
use crate::layer::{Compression, Entry, EntryKind, Packer};
use crate::store::from_io;
use crate::{
    Descriptor, Digest, Document, Error, ErrorKind, Manifest, MediaType, Reference, Result, layout,
};

/// Which archive to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ArchiveFormat {
    /// What Docker writes since version 25: an OCI layout that also has the `manifest.json` and
    /// `repositories` that all older readers want.
    #[default]
    Docker,
    /// An OCI layout and nothing else.
    Oci,
}

/// How to write an archive of images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SaveOptions {
    /// Which archive to write.
    pub format: ArchiveFormat,
    /// How the archive as a whole is compressed; by default it is not.
    pub compression: Compression,
    /// Set it to stop.
    pub cancel: Arc<AtomicBool>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            format: ArchiveFormat::default(),
            compression: Compression::None,
            cancel: Arc::default(),
        }
    }
}

/// Writes `images` to `output` as one archive, from beginning to end and without seeking.
///
/// Manifests, configs and layers are written as the exact bytes that are stored, each once, so that
/// all digests are the same wherever the archive is loaded. The same images give the same archive.
///
/// # Errors
/// `BlobNotFound`, `SizeMismatch` and `DigestMismatch` for damaged blobs of the store, `Cancelled`,
/// and what writing fails with. What was written until then is no archive.
pub fn save(images: &[ArchivedImage], output: impl Write, options: &SaveOptions) -> Result<()> {
    let doing = |error: Error| error.context("save an archive of images");
    let mut writer =
        ArchiveWriter::new(output, options.format, options.compression).map_err(doing)?;
    for ArchivedImage { image, names } in images {
        let lease = image.store().lease()?;
        let manifest = image.manifest();
        for blob in manifest.layers().iter().chain([manifest.config()]) {
            lease.protect(blob.digest)?;
        }
        let mut transfer = Transfer {
            source: image.store(),
            destination: &mut writer,
            cancel: &options.cancel,
        };
        let root = Document::Manifest(manifest.clone());
        transfer
            .manifest(manifest)
            .and_then(|()| writer.root(&root, names))
            .map_err(doing)?;
    }
    writer.finish().map_err(doing)?;
    Ok(())
}

/// Writes an archive, blob by blob.
pub(crate) struct ArchiveWriter<W: Write> {
    packer: Packer<W>,
    format: ArchiveFormat,
    written: BTreeSet<Digest>,
    entries: Vec<Descriptor>,
    images: Vec<DockerImage>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl<W: Write> ArchiveWriter<W> {
    pub(crate) fn new(output: W, format: ArchiveFormat, compression: Compression) -> Result<Self> {
        let mut writer = Self {
            packer: Packer::new(output, compression)?,
            format,
            written: BTreeSet::new(),
            entries: Vec::new(),
            images: Vec::new(),
            repositories: BTreeMap::new(),
        };
        writer.file(layout::LAYOUT_FILE, layout::LAYOUT)?;
        for directory in ["blobs", "blobs/sha256"] {
            let entry = Entry::new(directory, EntryKind::Directory);
            writer.packer.append(&entry, &mut std::io::empty())?;
        }
        Ok(writer)
    }

    /// Writes the lists and gives the output back.
    pub(crate) fn finish(mut self) -> Result<W> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::INDEX,
            "manifests": self.entries,
        });
        self.file(layout::INDEX_FILE, index.to_string().as_bytes())?;
        if self.format == ArchiveFormat::Docker {
            let images = json!(self.images);
            self.file(DOCKER_MANIFEST, images.to_string().as_bytes())?;
            let repositories = json!(self.repositories);
            self.file(REPOSITORIES, repositories.to_string().as_bytes())?;
        }
        Ok(self.packer.finish()?.1)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let size_bytes = bytes.len() as u64;
        let entry = Entry::new(path, EntryKind::File { size_bytes });
        self.packer.append(&entry, &mut &bytes[..])
    }

    /// Lists an image in the way of Docker.
    fn list(&mut self, manifest: &Manifest, names: &[Reference]) {
        let path = |blob: &Descriptor| format!("{BLOBS}{}", blob.digest.hex());
        let tagged = names.iter().filter(|name| name.tag().is_some());
        let repo_tags: Vec<_> = tagged.map(Reference::familiar).collect();
        let top = manifest.layers().last().unwrap_or(manifest.config());
        for name in &repo_tags {
            if let Some((repository, tag)) = name.rsplit_once(':') {
                let tags = self.repositories.entry(repository.into()).or_default();
                tags.insert(tag.into(), top.digest.hex());
            }
        }
        self.images.push(DockerImage {
            config: path(manifest.config()),
            repo_tags,
            layers: manifest.layers().iter().map(path).collect(),
        });
    }
}

impl<W: Write> Destination for ArchiveWriter<W> {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        Ok(self.written.contains(&blob.digest))
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        if !self.written.insert(blob.digest) {
            return Ok(());
        }
        let mut bytes = open()?;
        let kind = EntryKind::File {
            size_bytes: blob.size_bytes,
        };
        let entry = Entry::new(format!("{BLOBS}{}", blob.digest.hex()), kind);
        self.packer.append(&entry, &mut bytes)?;
        // The reader says at its end whether the bytes were right.
        let rest = bytes.read(&mut [0]);
        match rest.map_err(|error| from_io(&format!("read blob {}", blob.digest), error))? {
            0 => Ok(()),
            _ => {
                let doing = format!("read blob {}: it does not end", blob.digest);
                Err(Error::new(ErrorKind::Integrity, "SizeMismatch", doing))
            }
        }
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        let raw = document.raw().to_vec();
        self.blob(document.descriptor(), &mut || {
            Ok(Box::new(Cursor::new(raw.clone())))
        })
    }

    fn root(&mut self, document: &Document, names: &[Reference]) -> Result<()> {
        self.document(document)?;
        match document {
            Document::Manifest(manifest) => self.list(manifest, names),
            Document::Index(_) if self.format == ArchiveFormat::Docker => {
                let doing = "write an index into a Docker archive, which holds single images";
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "UnsupportedIndex",
                    doing,
                ));
            }
            Document::Index(_) => {}
        }
        self.entries
            .extend(layout::entries_of(document.descriptor(), names));
        Ok(())
    }
}

/// Where the blobs are.
const BLOBS: &str = "blobs/sha256/";

/// The list of names that Docker wrote before there was `manifest.json`.
const REPOSITORIES: &str = "repositories";
