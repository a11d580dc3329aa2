//! What is in an archive of images: read as one stream, kept by digest, found by name.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::copy::{Source, read_whole};
use crate::json::MAX_DOCUMENT_BYTES;
use crate::layer::{EntryKind, Limits, Reader, clean, show};
use crate::store::{Ingest, Verified};
use crate::{Descriptor, Digest, Error, ErrorKind, Hasher, Lease, MediaType, Result};

/// The files of an archive. Small ones are in memory, as long as all of them together stay small;
/// the others are blobs of the store, under a lease.
pub(crate) struct Members {
    lease: Lease,
    by_path: BTreeMap<Vec<u8>, Member>,
    by_digest: BTreeMap<Digest, File>,
    /// What was written to the store.
    written: Vec<Digest>,
    memory_left: u64,
}

enum Member {
    File(Digest),
    /// A link, with the path inside the archive that it leads to.
    Link(Vec<u8>),
}

/// A file that is in the archive, under whatever names.
struct File {
    size: u64,
    /// `None` if the store has it.
    bytes: Option<Arc<[u8]>>,
}

impl Members {
    pub(crate) fn new(lease: Lease) -> Self {
        Self {
            lease,
            by_path: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            written: Vec::new(),
            memory_left: MEMORY_BYTES,
        }
    }

    /// Reads an archive to its end.
    ///
    /// # Errors
    /// Those of reading archives; `DuplicateMember`, `DigestMismatch`, `Cancelled`.
    pub(crate) fn read(
        &mut self,
        input: &mut dyn Read,
        limits: &Limits,
        cancel: &AtomicBool,
    ) -> Result<()> {
        let mut reader = Reader::new(input, limits.bytes);
        let mut entries = 0;
        while let Some(member) = reader.next()? {
            entries += 1;
            if entries > limits.entries {
                let doing = format!("read an archive of more than {} members", limits.entries);
                return Err(Error::invalid("LimitExceeded", doing));
            }
            let path = clean(member.entry.path.as_os_str().as_bytes())?;
            let found = match member.entry.kind {
                EntryKind::File { .. } if member.segments.is_some() => {
                    let doing = format!("read {}: it is a sparse file", show(&path));
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "UnsupportedEntry",
                        doing,
                    ));
                }
                EntryKind::File { size_bytes } => {
                    Member::File(self.file(&path, size_bytes, &mut reader, cancel)?)
                }
                EntryKind::HardLink { target } => {
                    Member::Link(clean(target.as_os_str().as_bytes())?)
                }
                EntryKind::Symlink { target } => {
                    let target = target.as_os_str().as_bytes();
                    if target.starts_with(b"/") {
                        let doing = format!("read link {}: it leads out of it", show(&path));
                        return Err(Error::invalid("PathEscapes", doing));
                    }
                    let above = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    Member::Link(clean(&[&path[..above], b"/", target].concat())?)
                }
                // Nothing that an image is made of.
                _ => continue,
            };
            self.add(path, found)?;
        }
        reader.drain()
    }

    /// The bytes of a document of the archive; `None` if there is no such file. It must not be a
    /// link: who packs one wants something else to be read.
    pub(crate) fn named(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.by_path.get(path.as_bytes()) {
            None => Ok(None),
            Some(Member::File(digest)) => self
                .raw(&self.descriptor(*digest, MediaType::new("")))
                .map(Some),
            Some(Member::Link(_)) => {
                let doing = format!("read {path:?} of an archive: it is a link");
                Err(Error::invalid("UnsafeLayout", doing))
            }
        }
    }

    /// The file `path`, which may be a link inside the archive, as `media_type`.
    pub(super) fn find(&self, path: &str, media_type: MediaType) -> Result<Descriptor> {
        let mut at = clean(path.as_bytes())?;
        for _ in 0..MAX_LINKS {
            match self.by_path.get(&at) {
                Some(Member::File(digest)) => return Ok(self.descriptor(*digest, media_type)),
                Some(Member::Link(target)) => at.clone_from(target),
                None => {
                    let doing = format!("find {} in an archive of images", show(&at));
                    return Err(Error::invalid("MemberNotFound", doing));
                }
            }
        }
        let doing = format!("find {path:?} in an archive of images: its links go round");
        Err(Error::invalid("InvalidLink", doing))
    }

    /// Makes the file that `blob` describes a blob of the store.
    pub(super) fn store(&mut self, blob: &Descriptor) -> Result<()> {
        let Some(File { bytes, size }) = self.by_digest.get(&blob.digest) else {
            return Err(not_there(blob.digest));
        };
        if *size != blob.size_bytes {
            let doing = format!("read blob {} of an archive", blob.digest);
            return Err(Error::mismatch(
                "SizeMismatch",
                doing,
                blob.size_bytes,
                size,
            ));
        }
        if let Some(bytes) = bytes {
            self.written.push(blob.digest);
            self.lease.put(blob.media_type.clone(), bytes)?;
        }
        Ok(())
    }

    /// Stores `bytes`, which are `blob`.
    pub(super) fn put(&mut self, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.written.push(blob.digest);
        self.lease.put(blob.media_type.clone(), bytes).map(|_| ())
    }

    /// A new blob of the store, to be filled and given to [`Members::commit`].
    pub(super) fn ingest(&self) -> Result<Ingest> {
        self.lease.store().ingest()
    }

    /// Makes what was written a blob of the store.
    pub(super) fn commit(&mut self, ingest: Ingest, media_type: MediaType) -> Result<Descriptor> {
        let blob = ingest.commit_as_is(media_type, &self.lease)?;
        self.written.push(blob.digest);
        let (size, bytes) = (blob.size_bytes, None);
        self.by_digest.insert(blob.digest, File { size, bytes });
        Ok(blob)
    }

    /// The blobs that were written to the store.
    pub(super) fn into_written(self) -> Vec<Digest> {
        self.written
    }

    fn descriptor(&self, digest: Digest, media_type: MediaType) -> Descriptor {
        let size = self.by_digest.get(&digest).map_or(0, |file| file.size);
        Descriptor::new(media_type, digest, size)
    }

    fn add(&mut self, path: Vec<u8>, member: Member) -> Result<()> {
        let same = match (self.by_path.get(&path), &member) {
            (None, _) => true,
            (Some(Member::File(before)), Member::File(now)) => before == now,
            (Some(Member::Link(before)), Member::Link(now)) => before == now,
            _ => false,
        };
        if !same {
            // Readers differ on which of the two counts.
            let doing = format!("read {} of an archive: it is there twice", show(&path));
            return Err(Error::invalid("DuplicateMember", doing));
        }
        self.by_path.insert(path, member);
        Ok(())
    }

    /// Reads one file, and tells its digest.
    fn file(
        &mut self,
        path: &[u8],
        size: u64,
        reader: &mut Reader<'_>,
        cancel: &AtomicBool,
    ) -> Result<Digest> {
        let claimed: Option<Digest> = path.strip_prefix(b"blobs/sha256/").and_then(|hex| {
            format!("sha256:{}", String::from_utf8_lossy(hex))
                .parse()
                .ok()
        });
        let mut target = if size <= MAX_DOCUMENT_BYTES && size <= self.memory_left {
            self.memory_left -= size;
            Target::Memory(Vec::new())
        } else {
            Target::Store(self.lease.store().ingest()?)
        };
        let mut hasher = Hasher::new();
        loop {
            if cancel.load(Ordering::Relaxed) {
                let doing = "read an archive of images";
                return Err(Error::new(ErrorKind::Cancelled, "Cancelled", doing));
            }
            let bytes = reader.contents(u64::MAX)?;
            if bytes.is_empty() {
                break;
            }
            hasher.update(bytes);
            match &mut target {
                Target::Memory(all) => all.extend_from_slice(bytes),
                Target::Store(ingest) => ingest
                    .write_all(bytes)
                    .map_err(|error| Error::os(format!("store {}", show(path)), error))?,
            }
        }
        let digest = hasher.finish();
        if let Some(claimed) = claimed
            && claimed != digest
        {
            let doing = format!("read {} of an archive", show(path));
            return Err(Error::mismatch("DigestMismatch", doing, claimed, digest));
        }
        let bytes = match target {
            Target::Memory(bytes) => Some(bytes.into()),
            Target::Store(ingest) => {
                self.written.push(digest);
                ingest.commit_as_is(MediaType::new(""), &self.lease)?;
                None
            }
        };
        self.by_digest.insert(digest, File { size, bytes });
        Ok(digest)
    }
}

impl Source for Members {
    fn raw(&self, want: &Descriptor) -> Result<Vec<u8>> {
        read_whole(self.open(want)?, want)
    }

    fn open(&self, want: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self.by_digest.get(&want.digest) {
            None => Err(not_there(want.digest)),
            Some(File { bytes: None, .. }) => Source::open(self.lease.store(), want),
            Some(File {
                bytes: Some(bytes), ..
            }) => Ok(Box::new(Verified::new(Cursor::new(bytes.clone()), want))),
        }
    }
}

/// Where the bytes of a file go while it is read.
enum Target {
    Memory(Vec<u8>),
    Store(Ingest),
}

fn not_there(digest: Digest) -> Error {
    let doing = format!("find blob {digest} in an archive of images");
    Error::new(ErrorKind::NotFound, "BlobNotFound", doing)
}

/// How many bytes of small files are kept in memory; thousands of manifests and configs.
const MEMORY_BYTES: u64 = 16 << 20;

/// How many links lead to one file, at most.
const MAX_LINKS: usize = 8;
