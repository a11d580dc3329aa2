//! What a manifest or index says of other blobs, as far as a registry has to know.

use serde::Deserialize;
use serde_json::Value;

use super::address::Address;
use crate::{MediaType, json};

/// What is said of other blobs in a document.
#[derive(Debug)]
pub(super) struct Parts {
    /// Config and layers.
    pub(super) blobs: Vec<Part>,
    /// The manifests of an index.
    pub(super) manifests: Vec<Part>,
    is_index: bool,
    /// What the document itself says to be.
    media_type: Option<MediaType>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) address: Address,
    /// Whether the registry need not have it: it may not be handed on.
    pub(super) is_elsewhere: bool,
}

impl Parts {
    /// Reads a document that is `declared` to be something; `None` if it is not clearly a manifest or an
    /// index.
    pub(super) fn of(raw: &[u8], declared: Option<&MediaType>) -> Option<Self> {
        let document: Document = json::parse(raw, "a manifest").ok()?;
        let is_index = document.manifests.is_some();
        let is_manifest = document.config.is_some() || document.layers.is_some();
        let named = [document.media_type.as_ref(), declared];
        let contradicts = named.into_iter().flatten().any(|media_type| {
            if is_index {
                media_type.is_manifest()
            } else {
                media_type.is_index()
            }
        });
        let is_clear = is_index != is_manifest && document.fs_layers.is_none() && !contradicts;
        if document.schema_version != 2 || !is_clear || (is_manifest && document.config.is_none()) {
            return None;
        }
        let media_type = document.media_type.clone();
        let read = |links: Vec<Link>| {
            links
                .into_iter()
                .map(Link::read)
                .collect::<Option<Vec<_>>>()
        };
        let mut blobs = document.layers.unwrap_or_default();
        blobs.extend(document.config);
        Some(Self {
            blobs: read(blobs)?,
            manifests: read(document.manifests.unwrap_or_default())?,
            is_index,
            media_type,
        })
    }

    /// The media type of the document: what its sender `declared`, what it says, or what it looks like.
    pub(super) fn media_type(&self, declared: Option<&MediaType>) -> MediaType {
        let fallback = if self.is_index {
            MediaType::INDEX
        } else {
            MediaType::MANIFEST
        };
        let said = declared.cloned().or_else(|| self.media_type.clone());
        said.unwrap_or(fallback)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u64,
    media_type: Option<MediaType>,
    manifests: Option<Vec<Link>>,
    config: Option<Link>,
    layers: Option<Vec<Link>>,
    fs_layers: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    media_type: MediaType,
    digest: String,
}

impl Link {
    fn read(self) -> Option<Part> {
        let media_type = self.media_type.as_str();
        Some(Part {
            address: Address::parse(&self.digest)?,
            is_elsewhere: media_type.contains(".nondistributable.")
                || media_type.contains(".foreign."),
        })
    }
}
