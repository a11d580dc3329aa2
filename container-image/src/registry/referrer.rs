//! Referrers: documents with a `subject`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Descriptor, Digest, MediaType, json};

/// What `raw` refers to, and how the list of referrers shows it; `None` if it has no subject.
///
/// # References
/// distribution-spec `spec.md#listing-referrers`.
pub(super) fn of(raw: &[u8], media_type: &MediaType) -> Option<(Digest, Descriptor)> {
    let document: Fields = json::parse(raw, "a manifest").ok()?;
    let subject = document.subject?.digest;
    let mut descriptor = Descriptor::of(media_type.clone(), raw);
    descriptor.annotations = document.annotations;
    let config = document.config.map(|config| config.media_type.to_string());
    if let Some(artifact_type) = document
        .artifact_type
        .filter(|text| !text.is_empty())
        .or(config)
    {
        descriptor
            .extra
            .insert(ARTIFACT_TYPE.into(), artifact_type.into());
    }
    Some((subject, descriptor))
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
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "json::null_is_default")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    schema_version: u64,
    media_type: MediaType,
    manifests: &'a [Descriptor],
}
