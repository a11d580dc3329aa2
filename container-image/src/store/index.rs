//! `index.json`: which images there are and what they are called.

use std::collections::BTreeMap;

use super::{Store, StoredImage, files};
use crate::layout::{INDEX_FILE, NAME_ANNOTATION};
use crate::manifest::IndexDocument;
use crate::{Descriptor, Digest, Error, ErrorKind, MediaType, Platform, Reference, Result, json};

/// The annotation of an entry that tells the digest of the index that its manifest was chosen from.
pub const INDEX_ANNOTATION: &str = "container-engine.index.digest";

pub(super) struct LayoutIndex(IndexDocument);

impl Default for LayoutIndex {
    fn default() -> Self {
        Self(IndexDocument {
            schema_version: 2,
            media_type: Some(MediaType::INDEX),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        })
    }
}

impl LayoutIndex {
    /// Reads the index, or the generation before it if it is lost or damaged.
    pub(super) fn load(store: &Store) -> Result<Self> {
        match Self::read(store, INDEX_FILE) {
            Ok(Some(index)) => Ok(index),
            current => match Self::read(store, OLD_FILE) {
                Ok(Some(index)) => Ok(index),
                _ => Err(current
                    .err()
                    .unwrap_or_else(|| damaged(store, "it is lost"))),
            },
        }
    }

    /// Writes the index; the caller holds the lock.
    pub(super) fn save(&self, store: &Store) -> Result<()> {
        let root = &store.0.root;
        if let Ok(Some(_)) = Self::read(store, INDEX_FILE)
            && let Some(current) = files::read(root, INDEX_FILE)?
        {
            files::replace(root, OLD_FILE, &current, store.0.sync)?;
        }
        let bytes = serde_json::to_vec(&self.0).expect("an index has only text keys");
        json::check_size(bytes.len() as u64, "the index of the image store")?;
        files::replace(root, INDEX_FILE, &bytes, store.0.sync)
    }

    pub(super) fn images(&self) -> Vec<StoredImage> {
        let mut images: Vec<StoredImage> = Vec::new();
        for entry in &self.0.manifests {
            let known = images
                .iter()
                .position(|image| image.manifest.digest == entry.digest);
            let position = known.unwrap_or_else(|| {
                let manifest = Descriptor {
                    annotations: BTreeMap::new(),
                    ..entry.clone()
                };
                images.push(StoredImage {
                    manifest,
                    index_digest: None,
                    names: Vec::new(),
                });
                images.len() - 1
            });
            let image = &mut images[position];
            image.names.extend(name_of(entry));
            let index_digest = entry.annotations.get(INDEX_ANNOTATION);
            image.index_digest = image
                .index_digest
                .or(index_digest.and_then(|text| text.parse().ok()));
        }
        for image in &mut images {
            image.names.sort();
        }
        images
    }

    /// Gives `manifest` the name `reference`; the image that had it stays, without it.
    pub(super) fn name(
        &mut self,
        manifest: &Descriptor,
        platform: &Platform,
        index_digest: Option<Digest>,
        reference: &Reference,
    ) {
        let entries = &mut self.0.manifests;
        let before = entries
            .iter()
            .find(|entry| name_of(entry).as_ref() == Some(reference))
            .cloned();
        // An entry without a name goes when its image gets one.
        let named = |entry: &Descriptor| entry.annotations.contains_key(NAME_ANNOTATION);
        entries.retain(|entry| {
            name_of(entry).as_ref() != Some(reference)
                && (entry.digest != manifest.digest || named(entry))
        });
        let mut entry = entry_of(manifest, platform, index_digest);
        entry
            .annotations
            .insert(NAME_ANNOTATION.into(), reference.to_string());
        entries.push(entry);
        if let Some(mut before) = before
            && !entries.iter().any(|entry| entry.digest == before.digest)
        {
            before.annotations.remove(NAME_ANNOTATION);
            entries.push(before);
        }
    }

    /// Lists `manifest` without a name; false if it is listed already.
    pub(super) fn keep(
        &mut self,
        manifest: &Descriptor,
        platform: &Platform,
        index_digest: Option<Digest>,
    ) -> bool {
        let entries = &mut self.0.manifests;
        let listed = entries.iter().any(|entry| entry.digest == manifest.digest);
        if !listed {
            entries.push(entry_of(manifest, platform, index_digest));
        }
        !listed
    }

    /// Whether there was such a name.
    pub(super) fn remove_name(&mut self, reference: &Reference) -> bool {
        self.retain(|entry| name_of(entry).as_ref() != Some(reference))
    }

    /// Whether there was such an image.
    pub(super) fn remove_manifest(&mut self, digest: Digest) -> bool {
        self.retain(|entry| entry.digest != digest)
    }

    fn retain(&mut self, keep: impl Fn(&Descriptor) -> bool) -> bool {
        let before = self.0.manifests.len();
        self.0.manifests.retain(keep);
        before != self.0.manifests.len()
    }

    fn read(store: &Store, name: &str) -> Result<Option<Self>> {
        let Some(bytes) = files::read(&store.0.root, name)? else {
            return Ok(None);
        };
        let index: IndexDocument =
            json::parse(&bytes, name).map_err(|error| damaged(store, name).with_source(error))?;
        Ok(Some(Self(index)))
    }
}

const OLD_FILE: &str = "index.json.old";

/// The entry of an image, without a name.
fn entry_of(
    manifest: &Descriptor,
    platform: &Platform,
    index_digest: Option<Digest>,
) -> Descriptor {
    let media_type = manifest.media_type.clone();
    let mut entry = Descriptor::new(media_type, manifest.digest, manifest.size_bytes);
    entry.platform = Some(platform.clone());
    if let Some(digest) = index_digest {
        entry
            .annotations
            .insert(INDEX_ANNOTATION.into(), digest.to_string());
    }
    entry
}

/// The name of an entry. Other tools write tags alone or anything else: what is no reference is no
/// name to us.
fn name_of(entry: &Descriptor) -> Option<Reference> {
    entry.annotations.get(NAME_ANNOTATION)?.parse().ok()
}

fn damaged(store: &Store, what: &str) -> Error {
    let doing = format!(
        "read the index of the image store {}: {what}",
        store.0.path.display()
    );
    Error::new(ErrorKind::Integrity, "IndexDamaged", doing)
}
