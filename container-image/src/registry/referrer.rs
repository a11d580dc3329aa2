//! Referrers: documents with a `subject`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Descriptor, Digest, MediaType, json};

/// What a document with a subject says of itself.
pub(super) struct Referrer {
    /// The digest of the subject.
    pub(super) subject: String,
    /// As the list of referrers shows it: the type of an artifact is that of its config where it names none.
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Referrer {
    /// Reads a document; `None` if it has no subject.
    ///
    /// # References
    /// distribution-spec `spec.md#listing-referrers`.
    pub(super) fn read(raw: &[u8]) -> Option<Self> {
        let document: Fields = json::parse(raw, "a manifest").ok()?;
        let named = document.artifact_type.filter(|text| !text.is_empty());
        Some(Self {
            subject: document.subject?.digest?,
            artifact_type: named.or(document.config.and_then(|config| config.media_type)),
            annotations: document.annotations,
        })
    }
}

/// The subject of `raw`, and how the list of its referrers shows it; `None` if it has no subject.
pub(super) fn of(raw: &[u8], media_type: &MediaType) -> Option<(Digest, Descriptor)> {
    let referrer = Referrer::read(raw)?;
    let mut descriptor = Descriptor::of(media_type.clone(), raw);
    descriptor.annotations = referrer.annotations;
    if let Some(artifact_type) = referrer.artifact_type {
        descriptor
            .extra
            .insert(ARTIFACT_TYPE.into(), artifact_type.into());
    }
    Some((referrer.subject.parse().ok()?, descriptor))
}

/// The artifact type that a descriptor in a list of referrers names.
pub(super) fn artifact_type(descriptor: &Descriptor) -> Option<&str> {
    descriptor.extra.get(ARTIFACT_TYPE).and_then(Value::as_str)
}

/// The tag under which the referrers of `subject` are kept where a registry does not list them.
pub(super) fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The list of referrers as a document.
pub(super) fn index(manifests: &[Descriptor]) -> Vec<u8> {
    let index = List {
        schema_version: 2,
        media_type: MediaType::INDEX,
        manifests,
    };
    serde_json::to_vec(&index).expect("an index has only text keys")
}

const ARTIFACT_TYPE: &str = "artifactType";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    subject: Option<Link>,
    artifact_type: Option<String>,
    config: Option<Link>,
    #[serde(default, deserialize_with = "json::null_is_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    media_type: Option<String>,
    digest: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    schema_version: u64,
    media_type: MediaType,
    manifests: &'a [Descriptor],
}
