//! Manifests and indexes: their tags, and what refers to them.

use std::io::Read;

use serde_json::{Value, json};

use super::address::Address;
use super::api::{
    Answer, Api, DIGEST_INVALID, Refusal, address, blob_key, blob_link, json_response,
    manifest_link,
};
use super::http::{Request, Response};
use super::parts::Parts;
use crate::registry::referrer::Referrer;
use crate::{Digest, MediaType, Reference, json as documents};

impl Api {
    pub(super) fn catalog(&self, request: &Request) -> Answer {
        let names = self.files.repositories()?;
        Ok(page(
            request,
            names,
            |names| json!({ "repositories": names }),
        ))
    }

    pub(super) fn tags(&self, request: &Request, name: &str) -> Answer {
        let folder = format!("repositories/{name}");
        let tags = self.files.list(&format!("{folder}/_tags"))?;
        if tags.is_empty() && self.files.list(&folder)?.is_empty() {
            return Err(NAME_UNKNOWN);
        }
        let start = format!("{folder}/_tags/");
        let tags = tags
            .iter()
            .filter_map(|key| key.strip_prefix(&start))
            .map(ToOwned::to_owned);
        Ok(page(
            request,
            tags.collect(),
            |tags| json!({ "name": name, "tags": tags }),
        ))
    }

    pub(super) fn manifest(&self, name: &str, reference: &str) -> Answer {
        let (address, media_type) = self.find_manifest(name, reference)?;
        let raw = self
            .files
            .read(&blob_key(&address))?
            .ok_or(MANIFEST_UNKNOWN)?;
        Ok(Response::new(200)
            .with_header("Content-Type", media_type)
            .with_header("Docker-Content-Digest", address)
            .with_body(raw))
    }

    fn find_manifest(&self, name: &str, reference: &str) -> Result<(Address, String), Refusal> {
        let address = if reference.contains(':') {
            address(reference)?
        } else {
            let text = self.files.read(&tag_link(name, tag(reference)?))?;
            let text = text.ok_or(MANIFEST_UNKNOWN)?;
            address(&String::from_utf8_lossy(&text))?
        };
        let media_type = self
            .files
            .read(&manifest_link(name, &address))?
            .ok_or(MANIFEST_UNKNOWN)?;
        Ok((address, String::from_utf8_lossy(&media_type).into_owned()))
    }

    pub(super) fn put_manifest(
        &self,
        request: &Request,
        name: &str,
        reference: &str,
        body: &mut dyn Read,
    ) -> Answer {
        let mut raw = Vec::new();
        body.take(documents::MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut raw)?;
        if raw.len() as u64 > documents::MAX_DOCUMENT_BYTES {
            return Err(Refusal::Code(
                413,
                "SIZE_INVALID",
                "the manifest is too large",
            ));
        }
        let invalid = Refusal::Code(400, "MANIFEST_INVALID", "the manifest is not valid");
        let declared = request.header("content-type").map(MediaType::new);
        let parts = Parts::of(&raw, declared.as_ref()).ok_or(invalid)?;
        let mut tags = Vec::new();
        let found = if reference.contains(':') {
            for text in request.queries("tag").take(MAX_TAGS) {
                tags.push(tag(&text)?.to_owned());
            }
            let wanted = address(reference)?;
            if !wanted.names(&raw[..])? {
                return Err(DIGEST_INVALID);
            }
            wanted
        } else {
            tags.push(tag(reference)?.to_owned());
            Address::Sha256(Digest::of(&raw))
        };
        // What it refers to does not go away before it is there.
        let _guard = self.files.share()?;
        self.check_parts(name, &parts)?;
        self.files.put(&blob_key(&found), &raw)?;
        let media_type = parts.media_type(declared.as_ref());
        let link = manifest_link(name, &found);
        self.files.put(&link, media_type.as_str().as_bytes())?;
        for tag in &tags {
            let link = tag_link(name, tag);
            self.files.put(&link, found.to_string().as_bytes())?;
        }
        let mut response = Response::new(201)
            .with_header("Location", format!("/v2/{name}/manifests/{found}"))
            .with_header("Docker-Content-Digest", &found);
        if reference.contains(':') && !tags.is_empty() {
            response = response.with_header("OCI-Tag", tags.join(", "));
        }
        if let Some((subject, referrer)) = subject_of(&raw) {
            let mut descriptor = json!({
                "mediaType": media_type,
                "digest": found.to_string(),
                "size": raw.len(),
            });
            if let Some(artifact_type) = referrer.artifact_type {
                descriptor[ARTIFACT_TYPE] = artifact_type.into();
            }
            if !referrer.annotations.is_empty() {
                descriptor["annotations"] = json!(referrer.annotations);
            }
            let link = referrer_link(name, &subject, &found);
            self.files.put(&link, descriptor.to_string().as_bytes())?;
            response = response.with_header("OCI-Subject", subject);
        }
        Ok(response)
    }

    /// Sees to it that all that a manifest refers to is in the repository, and stays there for a while.
    fn check_parts(&self, name: &str, parts: &Parts) -> Result<(), Refusal> {
        let missing = Refusal::Code(400, "MANIFEST_BLOB_UNKNOWN", "a part of it is not there");
        let blobs = parts.blobs.iter().filter(|part| !part.is_elsewhere);
        let blobs = blobs.map(|part| blob_link(name, &part.address));
        let manifests = parts.manifests.iter();
        let manifests = manifests.map(|part| manifest_link(name, &part.address));
        for link in blobs.chain(manifests) {
            if !self.files.touch(&link)? {
                return Err(missing);
            }
        }
        Ok(())
    }

    pub(super) fn referrers(&self, request: &Request, name: &str, subject: &Address) -> Answer {
        let wanted = request.query("artifactType");
        let mut found: Vec<Value> = Vec::new();
        for key in self.files.list(&referrers_folder(name, subject))? {
            let link = self.files.read(&key)?.unwrap_or_default();
            found.extend(serde_json::from_slice::<Value>(&link));
        }
        if let Some(wanted) = &wanted {
            found.retain(|one| one[ARTIFACT_TYPE] == wanted.as_str());
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::INDEX,
            "manifests": found,
        });
        let mut response = Response::new(200)
            .with_header("Content-Type", MediaType::INDEX)
            .with_body(index.to_string().into_bytes());
        if wanted.is_some() {
            response = response.with_header("OCI-Filters-Applied", "artifactType");
        }
        Ok(response)
    }

    pub(super) fn delete_manifest(&self, name: &str, reference: &str) -> Answer {
        if !reference.contains(':') {
            let link = tag_link(name, tag(reference)?);
            if !self.files.exists(&link)? {
                return Err(MANIFEST_UNKNOWN);
            }
            self.files.remove(&link)?;
            return Ok(Response::new(202));
        }
        let (address, _) = self.find_manifest(name, reference)?;
        self.forget_manifest(name, &address)?;
        Ok(Response::new(202))
    }

    /// Removes a manifest with its tags from a repository.
    pub(super) fn forget_manifest(&self, name: &str, address: &Address) -> std::io::Result<()> {
        for key in self.files.list(&format!("repositories/{name}/_tags"))? {
            if self
                .files
                .read(&key)?
                .is_some_and(|text| text == address.to_string().as_bytes())
            {
                self.files.remove(&key)?;
            }
        }
        let raw = self.files.read(&blob_key(address))?.unwrap_or_default();
        if let Some((subject, _)) = subject_of(&raw) {
            self.files.remove(&referrer_link(name, &subject, address))?;
        }
        self.files.remove(&manifest_link(name, address))
    }
}

/// What a document is about, if it is about another one.
pub(super) fn subject_of(raw: &[u8]) -> Option<(Address, Referrer)> {
    let referrer = Referrer::read(raw)?;
    Some((Address::parse(&referrer.subject)?, referrer))
}

/// One page of a list, with a link to the next one.
fn page(
    request: &Request,
    mut names: Vec<String>,
    show: impl FnOnce(&[String]) -> serde_json::Value,
) -> Response {
    if let Some(last) = request.query("last") {
        names.retain(|name| *name > last);
    }
    let limit = request.query("n").and_then(|n| n.parse::<usize>().ok());
    let limit = limit.unwrap_or(usize::MAX).min(MAX_PAGE);
    let more = names.len() > limit;
    names.truncate(limit);
    let mut response = json_response(&show(&names));
    if more && let Some(last) = names.last() {
        let next = format!("<{}?n={limit}&last={last}>; rel=\"next\"", request.path());
        response = response.with_header("Link", next);
    }
    response
}

fn tag(text: &str) -> Result<&str, Refusal> {
    let valid = Reference::is_tag(text);
    valid
        .then_some(text)
        .ok_or(Refusal::Code(400, "TAG_INVALID", "no tag"))
}

fn referrers_folder(name: &str, subject: &Address) -> String {
    format!("repositories/{name}/_referrers/{}", subject.hex())
}

fn referrer_link(name: &str, subject: &Address, address: &Address) -> String {
    format!("{}/{}", referrers_folder(name, subject), address.hex())
}

fn tag_link(name: &str, tag: &str) -> String {
    format!("repositories/{name}/_tags/{tag}")
}

const ARTIFACT_TYPE: &str = "artifactType";
const NAME_UNKNOWN: Refusal = Refusal::Code(404, "NAME_UNKNOWN", "there is no such repository");
const MANIFEST_UNKNOWN: Refusal =
    Refusal::Code(404, "MANIFEST_UNKNOWN", "there is no such manifest");
/// How many tags one request can set.
const MAX_TAGS: usize = 100;
const MAX_PAGE: usize = 10_000;
