//! Manifests and indexes: parsed views beside the exact bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Descriptor, Digest, Error, ErrorKind, MediaType, Result, json};

/// An image manifest: one config and its layers, with the bytes that it was read from.
///
/// # References
/// image-spec `manifest.md`; Docker image manifest version 2, schema 2.
#[derive(Clone, Debug)]
pub struct Manifest {
    raw: Arc<[u8]>,
    descriptor: Descriptor,
    parsed: Arc<ManifestDocument>,
}

impl Manifest {
    /// Makes a manifest of `config` and `layers`, base first, in OCI's or Docker's words as the
    /// media type of `config` says.
    ///
    /// # Errors
    /// `TooManyLayers`.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Result<Self> {
        let docker = config.media_type == MediaType::DOCKER_CONFIG;
        let media_type = if docker {
            MediaType::DOCKER_MANIFEST
        } else {
            MediaType::MANIFEST
        };
        Self::from_parts(ManifestDocument {
            schema_version: 2,
            media_type: Some(media_type),
            config,
            layers,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        })
    }

    /// The same manifest with other annotations, which is another document.
    ///
    /// # Errors
    /// `DocumentTooLarge`.
    pub fn annotated(&self, annotations: BTreeMap<String, String>) -> Result<Self> {
        Self::from_parts(ManifestDocument {
            annotations,
            ..ManifestDocument::clone(&self.parsed)
        })
    }

    fn from_parts(parsed: ManifestDocument) -> Result<Self> {
        let raw = serde_json::to_vec(&parsed).expect("a manifest has only text keys");
        match Document::parse(&raw, None)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(Error::new(
                ErrorKind::Internal,
                "AmbiguousDocument",
                "make a manifest",
            )),
        }
    }

    /// The exact bytes, which are what is hashed, stored and pushed.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Media type, digest and size of the exact bytes.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The digest of the exact bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// Where the config is.
    #[must_use]
    pub fn config(&self) -> &Descriptor {
        &self.parsed.config
    }

    /// Where the layers are, base first.
    #[must_use]
    pub fn layers(&self) -> &[Descriptor] {
        &self.parsed.layers
    }

    /// Free text by key.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.parsed.annotations
    }

    /// The fields that this crate does not know, as they came.
    #[must_use]
    pub fn extra(&self) -> &BTreeMap<String, Value> {
        &self.parsed.extra
    }
}

/// An image index: manifests for several platforms, with the bytes that it was read from.
///
/// # References
/// image-spec `image-index.md`; Docker manifest list.
#[derive(Clone, Debug)]
pub struct Index {
    raw: Arc<[u8]>,
    descriptor: Descriptor,
    parsed: Arc<IndexDocument>,
}

impl Index {
    /// Makes an index of `manifests`.
    ///
    /// # Errors
    /// `DocumentTooLarge`.
    pub fn new(manifests: Vec<Descriptor>) -> Result<Self> {
        let parsed = IndexDocument {
            schema_version: 2,
            media_type: Some(MediaType::INDEX),
            manifests,
            annotations: BTreeMap::new(),
            extra: BTreeMap::new(),
        };
        let raw = serde_json::to_vec(&parsed).expect("an index has only text keys");
        json::check_size(raw.len() as u64, "an image index")?;
        let descriptor = Descriptor::of(MediaType::INDEX, &raw);
        Ok(Self {
            raw: raw.into(),
            descriptor,
            parsed: Arc::new(parsed),
        })
    }

    /// The exact bytes, which are what is hashed, stored and pushed.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Media type, digest and size of the exact bytes.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The digest of the exact bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// Where the manifests are.
    #[must_use]
    pub fn manifests(&self) -> &[Descriptor] {
        &self.parsed.manifests
    }

    /// Free text by key.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.parsed.annotations
    }
}

/// What a reference can lead to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

impl Document {
    /// Reads a manifest or an index; `declared` is what a registry or descriptor calls it.
    ///
    /// A document is what its own fields say. One that could be taken for both, or that differs
    /// in kind from what was declared, is an error, so that nobody can be shown another image
    /// than the one that was checked.
    ///
    /// # Errors
    /// `InvalidJson`, `InvalidManifest`, `DocumentTooLarge`, `AmbiguousDocument`, `TooManyLayers`,
    /// and `SchemaVersion1` (kind `Unsupported`).
    pub fn parse(raw: &[u8], declared: Option<&MediaType>) -> Result<Self> {
        let fields: Fields = json::parse(raw, "an image manifest")?;
        let schema1 = |media_type: &MediaType| media_type.is_schema1();
        if fields.schema_version == Some(1)
            || fields.media_type.as_ref().is_some_and(schema1)
            || declared.is_some_and(schema1)
        {
            let doing = "read an image manifest of schema 1, which is obsolete: push it again in \
                         schema 2 or OCI form";
            return Err(Error::new(ErrorKind::Unsupported, "SchemaVersion1", doing));
        }
        if fields.schema_version != Some(2) {
            let doing = "read an image manifest: its schemaVersion is not 2";
            return Err(Error::invalid("InvalidManifest", doing));
        }
        let is_index = fields.manifests.is_some();
        let is_manifest = fields.config.is_some() || fields.layers.is_some();
        let named = [fields.media_type.as_ref(), declared];
        let contradicts = named.into_iter().flatten().any(|media_type| {
            if is_index {
                media_type.is_manifest()
            } else {
                media_type.is_index()
            }
        });
        if contradicts || is_index == is_manifest || fields.fs_layers.is_some() {
            let doing = "read an image manifest: it is not clearly a manifest or an index";
            return Err(Error::invalid("AmbiguousDocument", doing));
        }
        let known = |media_type: &&MediaType| media_type.is_manifest() || media_type.is_index();
        let fallback = if is_index {
            MediaType::INDEX
        } else {
            MediaType::MANIFEST
        };
        let media_type = fields.media_type.clone();
        let media_type = media_type
            .or(declared.filter(known).cloned())
            .unwrap_or(fallback);
        let descriptor = Descriptor::of(media_type, raw);
        let raw = Arc::from(raw);
        if is_index {
            let parsed: Arc<IndexDocument> = Arc::new(json::parse(&raw, "an image index")?);
            return Ok(Self::Index(Index {
                raw,
                descriptor,
                parsed,
            }));
        }
        let parsed: ManifestDocument = json::parse(&raw, "an image manifest")?;
        if parsed.layers.len() > MAX_LAYERS {
            let doing = format!("read an image manifest: it has more than {MAX_LAYERS} layers");
            return Err(Error::invalid("TooManyLayers", doing));
        }
        Ok(Self::Manifest(Manifest {
            raw,
            descriptor,
            parsed: Arc::new(parsed),
        }))
    }

    /// The exact bytes, which are what is hashed, stored and pushed.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        match self {
            Self::Manifest(manifest) => manifest.raw(),
            Self::Index(index) => index.raw(),
        }
    }

    /// Media type, digest and size of the exact bytes.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        match self {
            Self::Manifest(manifest) => manifest.descriptor(),
            Self::Index(index) => index.descriptor(),
        }
    }
}

/// More layers than any image has, and than overlay can mount.
const MAX_LAYERS: usize = 512;

/// What tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    schema_version: Option<u64>,
    media_type: Option<MediaType>,
    manifests: Option<Value>,
    config: Option<Value>,
    layers: Option<Value>,
    fs_layers: Option<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestDocument {
    schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<MediaType>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    extra: BTreeMap<String, Value>,
}

/// An index; `index.json` of an image layout is one too.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexDocument {
    pub(crate) schema_version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<MediaType>,
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) extra: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> String {
        let config = serde_json::to_string(&Descriptor::of(MediaType::CONFIG, b"{}")).unwrap();
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]{extra}}}"#)
    }

    #[test]
    fn bytes_are_kept_and_unknown_fields_survive() {
        let text = manifest(r#", "subject": null, "x-new" : [1]"#);
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else {
            panic!("not a manifest");
        };
        assert_eq!(manifest.raw(), text.as_bytes());
        assert_eq!(manifest.digest(), Digest::of(&text));
        assert_eq!(manifest.extra()["x-new"], serde_json::json!([1]));
    }

    #[test]
    fn documents_of_two_meanings_are_refused() {
        let index_type = format!(r#","mediaType":"{}""#, MediaType::INDEX);
        let cases = [
            (manifest(r#","manifests":[]"#), None, "AmbiguousDocument"),
            (manifest(r#","fsLayers":[]"#), None, "AmbiguousDocument"),
            (manifest(&index_type), None, "AmbiguousDocument"),
            (
                manifest(""),
                Some(MediaType::DOCKER_LIST),
                "AmbiguousDocument",
            ),
            (r#"{"schemaVersion":2}"#.into(), None, "AmbiguousDocument"),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.into(),
                None,
                "SchemaVersion1",
            ),
            (
                r#"{"schemaVersion":3,"manifests":[]}"#.into(),
                None,
                "InvalidManifest",
            ),
            (manifest(r#","layers":[]"#), None, "InvalidJson"),
            (r#"[]"#.into(), None, "InvalidJson"),
        ];
        for (text, declared, code) in cases {
            let error = Document::parse(text.as_bytes(), declared.as_ref()).unwrap_err();
            assert_eq!(error.code(), code, "{text}");
        }
    }

    #[test]
    fn sizes_and_layer_counts_are_bounded() {
        let layer = |size: &str| {
            let digest = Digest::of("x");
            format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#)
        };
        let with = |layers: &str| {
            let text = manifest("").replace("\"layers\":[]", &format!("\"layers\":[{layers}]"));
            Document::parse(text.as_bytes(), None)
        };
        assert!(with(&layer("0")).is_ok());
        for size in ["-1", "1.5", "18446744073709551616", "\"1\""] {
            assert_eq!(
                with(&layer(size)).unwrap_err().code(),
                "InvalidJson",
                "{size}"
            );
        }
        let many = vec![layer("1"); MAX_LAYERS + 1].join(",");
        assert_eq!(with(&many).unwrap_err().code(), "TooManyLayers");
    }
}
