//! Where images go.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::temporary::Temporary;
use crate::archive::ArchiveWriter;
use crate::layout::{self, INDEX_FILE, LAYOUT, LAYOUT_FILE, NAME_ANNOTATION};
use crate::manifest::IndexDocument;
use crate::store::from_io;
use crate::{Client, Descriptor, Document, Error, Index, Lease, Reference, Result, Store, json};

/// Opens a blob from its beginning, each time that it is needed. The end is reported only if size
/// and digest are right.
pub(crate) type OpenBlob<'a> = dyn FnMut() -> Result<Box<dyn Read + Send>> + 'a;

/// Something that takes images: blobs first, then the documents that point at them, the root last.
pub(crate) trait Destination {
    /// Whether a blob is there already.
    fn has(&mut self, blob: &Descriptor) -> Result<bool>;

    /// Takes a blob.
    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()>;

    /// Takes a manifest or index that another index points at.
    fn document(&mut self, document: &Document) -> Result<()>;

    /// Takes the document that stands for the image, which has these names.
    fn root(&mut self, document: &Document, names: &[Reference]) -> Result<()>;
}

/// A repository of a registry.
pub(super) struct ToRegistry {
    pub(super) client: Client,
    pub(super) reference: Reference,
    /// Another repository of the registry, where the blobs are.
    pub(super) from: Option<String>,
}

impl Destination for ToRegistry {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        self.client.has_blob(&self.reference, blob.digest)
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let mut open = || Ok(open()? as Box<dyn Read>);
        self.client
            .put_blob(&self.reference, blob, self.from.as_deref(), &mut open)
            .map(|_| ())
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        let reference = self.reference.with_digest(document.descriptor().digest);
        let media_type = &document.descriptor().media_type;
        self.client
            .put_manifest(&reference, media_type, document.raw())
            .map(|_| ())
    }

    fn root(&mut self, document: &Document, _: &[Reference]) -> Result<()> {
        let media_type = &document.descriptor().media_type;
        self.client
            .put_manifest(&self.reference, media_type, document.raw())
            .map(|_| ())
    }
}

/// A store, which lists the image under a name.
pub(super) struct ToStore {
    pub(super) lease: Lease,
    pub(super) name: Reference,
}

impl Destination for ToStore {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        self.lease.protect(blob.digest)?;
        let store = self.lease.store();
        if !store.contains(blob)? {
            return Ok(false);
        }
        // What is damaged is brought again.
        Ok(io::copy(&mut store.open_blob(blob)?, &mut io::sink()).is_ok())
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        let mut ingest = self.lease.ingest(blob)?;
        copy_bytes(&mut open()?, &mut ingest, blob)?;
        ingest.commit(blob)
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        let media_type = document.descriptor().media_type.clone();
        self.lease.put(media_type, document.raw()).map(|_| ())
    }

    fn root(&mut self, document: &Document, _: &[Reference]) -> Result<()> {
        self.document(document)?;
        let store: &Store = self.lease.store();
        store.record(document.descriptor(), &self.name).map(|_| ())
    }
}

/// A directory with an OCI layout, to which the image is added.
pub(super) struct ToLayout {
    path: PathBuf,
    name: Option<String>,
}

impl ToLayout {
    pub(super) fn new(path: &Path, name: Option<String>) -> Result<Self> {
        fs::create_dir_all(path.join(BLOBS))
            .map_err(|error| doing("make directory", path, error))?;
        let version = path.join(LAYOUT_FILE);
        match fs::read(&version) {
            Ok(found) => layout::check_version(&found)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(&version, LAYOUT)?,
            Err(error) => return Err(doing("read", &version, error)),
        }
        let path = path.to_owned();
        Ok(Self { path, name })
    }

    fn blob_path(&self, blob: &Descriptor) -> PathBuf {
        self.path.join(BLOBS).join(blob.digest.hex())
    }
}

impl Destination for ToLayout {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        is_whole(&self.blob_path(blob), blob)
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        write_blob(&self.blob_path(blob), blob, open)
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        write(&self.blob_path(document.descriptor()), document.raw())
    }

    fn root(&mut self, document: &Document, names: &[Reference]) -> Result<()> {
        self.document(document)?;
        let path = self.path.join(INDEX_FILE);
        let mut index = match fs::read(&path) {
            Ok(raw) => json::parse::<IndexDocument>(&raw, INDEX_FILE)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json::parse(Index::new(Vec::new())?.raw(), INDEX_FILE)?
            }
            Err(error) => return Err(doing("read", &path, error)),
        };
        let mut entries = layout::entries_of(document.descriptor(), names);
        if let Some(name) = &self.name {
            entries.truncate(1);
            entries[0].annotations = [(NAME_ANNOTATION.to_owned(), name.clone())].into();
        }
        for entry in &entries {
            let name = |entry: &Descriptor| entry.annotations.get(NAME_ANNOTATION).cloned();
            index.manifests.retain(|known| {
                name(known) != name(entry) || name(entry).is_none() && known.digest != entry.digest
            });
        }
        index.manifests.extend(entries);
        let raw = serde_json::to_vec(&index).expect("an index has only text keys");
        write(&path, &raw)
    }
}

/// A directory with one image: `manifest.json`, and blobs by the digits of their digests.
pub(super) struct ToDirectory(PathBuf);

impl ToDirectory {
    pub(super) fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|error| doing("make directory", path, error))?;
        write(&path.join("version"), DIRECTORY_VERSION)?;
        Ok(Self(path.to_owned()))
    }

    fn blob_path(&self, blob: &Descriptor) -> PathBuf {
        self.0.join(blob.digest.hex())
    }
}

impl Destination for ToDirectory {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        is_whole(&self.blob_path(blob), blob)
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        write_blob(&self.blob_path(blob), blob, open)
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        let name = format!(
            "{}.{DIRECTORY_MANIFEST}",
            document.descriptor().digest.hex()
        );
        write(&self.0.join(name), document.raw())
    }

    fn root(&mut self, document: &Document, _: &[Reference]) -> Result<()> {
        write(&self.0.join(DIRECTORY_MANIFEST), document.raw())
    }
}

/// An archive of one image, which replaces the file of that name when it is complete.
pub(super) struct ToArchive {
    pub(super) writer: ArchiveWriter<Temporary>,
    pub(super) name: Option<Reference>,
}

impl ToArchive {
    pub(super) fn finish(self) -> Result<()> {
        self.writer.finish()?.persist()
    }
}

impl Destination for ToArchive {
    fn has(&mut self, blob: &Descriptor) -> Result<bool> {
        self.writer.has(blob)
    }

    fn blob(&mut self, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
        self.writer.blob(blob, open)
    }

    fn document(&mut self, document: &Document) -> Result<()> {
        self.writer.document(document)
    }

    fn root(&mut self, document: &Document, names: &[Reference]) -> Result<()> {
        match &self.name {
            Some(name) => self.writer.root(document, std::slice::from_ref(name)),
            None => self.writer.root(document, names),
        }
    }
}

/// Whether `path` is the whole blob.
fn is_whole(path: &Path, blob: &Descriptor) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(doing("open", path, error)),
    };
    let mut bytes = crate::store::Verified::new(file, blob);
    Ok(io::copy(&mut bytes, &mut io::sink()).is_ok())
}

fn write_blob(path: &Path, blob: &Descriptor, open: &mut OpenBlob<'_>) -> Result<()> {
    let mut file = Temporary::create(path)?;
    copy_bytes(&mut open()?, &mut file, blob)?;
    file.persist()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Temporary::create(path)?;
    io::Write::write_all(&mut file, bytes).map_err(|error| doing("write", path, error))?;
    file.persist()
}

fn copy_bytes(from: &mut dyn Read, to: &mut dyn io::Write, blob: &Descriptor) -> Result<()> {
    io::copy(from, to)
        .map(|_| ())
        .map_err(|error| from_io(&format!("copy blob {}", blob.digest), error))
}

fn doing(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::os(format!("{doing} {}", path.display()), error)
}

/// Where the blobs of a layout are.
pub(super) const BLOBS: &str = "blobs/sha256";

/// The document that stands for the image of a directory.
pub(super) const DIRECTORY_MANIFEST: &str = "manifest.json";

/// What other readers of such directories look for.
const DIRECTORY_VERSION: &[u8] = b"Directory Transport Version: 1.1\n";
