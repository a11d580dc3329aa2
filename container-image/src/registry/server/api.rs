//! The distribution specification, server side.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::files::{Draft, Files};
use super::http::{Body, Request, Response};
use super::{ServerOptions, lock};
use crate::registry::auth::Credentials;
use crate::registry::referrer;
use crate::{Descriptor, Digest, Document, Error, Hasher, MediaType, Reference, Result};

pub(super) struct Api {
    files: Files,
    credentials: Option<Credentials>,
    uploads: Mutex<HashMap<String, Arc<Mutex<Upload>>>>,
}

/// A blob on its way in.
struct Upload {
    repository: String,
    /// `None` once it was finished.
    draft: Option<Draft>,
    hasher: Hasher,
}

/// What answers a request, or refuses it.
type Answer = Result<Response, Refusal>;

enum Refusal {
    /// Status, code and message, as the specification has them.
    Code(u16, &'static str, &'static str),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Api {
    pub(super) fn new(options: &ServerOptions) -> Result<Self> {
        let files = match &options.root {
            Some(root) => Files::in_directory(root).map_err(|error| {
                Error::os(format!("open the registry in {}", root.display()), error)
            })?,
            None => Files::in_memory(options.memory_bytes),
        };
        let credentials = options.credentials.clone();
        Ok(Self {
            files,
            credentials,
            uploads: Mutex::default(),
        })
    }

    pub(super) fn answer(&self, request: &Request, body: &mut dyn Read) -> Response {
        match self.route(request, body) {
            Ok(response) => response,
            Err(Refusal::Code(status, code, message)) => refuse(status, code, message),
            Err(Refusal::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                refuse(413, "SIZE_INVALID", "no room is left")
            }
            Err(Refusal::Io(error)) => refuse(500, "UNKNOWN", &error.to_string()),
        }
    }

    fn route(&self, request: &Request, body: &mut dyn Read) -> Answer {
        if let Some(credentials) = &self.credentials
            && request.header("authorization") != credentials.basic().as_deref()
        {
            return Ok(refuse(401, "UNAUTHORIZED", "authentication required")
                .with_header("WWW-Authenticate", "Basic realm=\"registry\""));
        }
        let path = request.path().strip_prefix("/v2").ok_or(NOT_FOUND)?;
        let method = request.method.as_str();
        match path {
            "" | "/" => return Ok(json_response(&json!({}))),
            "/_catalog" => return self.catalog(request),
            _ => {}
        }
        let path = path.strip_prefix('/').ok_or(NOT_FOUND)?;
        if let Some(name) = path.strip_suffix("/tags/list") {
            return self.tags(request, repository(name)?);
        }
        let (rest, last) = path.rsplit_once('/').ok_or(NOT_FOUND)?;
        if let Some(name) = rest.strip_suffix("/manifests") {
            let name = repository(name)?;
            return match method {
                "GET" | "HEAD" => self.manifest(name, last),
                "PUT" => self.put_manifest(request, name, last, body),
                "DELETE" => self.delete_manifest(name, last),
                _ => Err(BAD_METHOD),
            };
        }
        if let Some(name) = rest.strip_suffix("/referrers") {
            return match method {
                "GET" | "HEAD" => self.referrers(request, repository(name)?, digest(last)?),
                _ => Err(BAD_METHOD),
            };
        }
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let name = repository(name)?;
            return match (method, last) {
                ("POST", "") => self.start(request, name, body),
                (_, "") => Err(BAD_METHOD),
                (_, id) => self.upload(request, name, id, body),
            };
        }
        if let Some(name) = rest.strip_suffix("/blobs") {
            let name = repository(name)?;
            if (method, last) == ("POST", "uploads") {
                return self.start(request, name, body);
            }
            let digest = digest(last)?;
            return match method {
                "GET" | "HEAD" => self.blob(request, name, digest),
                "DELETE" => {
                    let link = blob_link(name, digest);
                    if !self.files.exists(&link)? {
                        return Err(BLOB_UNKNOWN);
                    }
                    self.files.remove(&link)?;
                    Ok(Response::new(202))
                }
                _ => Err(BAD_METHOD),
            };
        }
        Err(NOT_FOUND)
    }

    fn catalog(&self, request: &Request) -> Answer {
        let keys = self.files.list("repositories")?;
        let mut names: Vec<String> = keys
            .iter()
            .filter_map(|key| key.strip_prefix("repositories/"))
            .filter_map(|key| key.split_once("/_").map(|(name, _)| name.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        Ok(page(
            request,
            names,
            |names| json!({ "repositories": names }),
        ))
    }

    fn tags(&self, request: &Request, name: &str) -> Answer {
        let folder = format!("repositories/{name}");
        let keys = self.files.list(&folder)?;
        if keys.is_empty() {
            return Err(NAME_UNKNOWN);
        }
        let start = format!("{folder}/_tags/");
        let tags = keys
            .iter()
            .filter_map(|key| key.strip_prefix(&start))
            .map(ToOwned::to_owned);
        Ok(page(
            request,
            tags.collect(),
            |tags| json!({ "name": name, "tags": tags }),
        ))
    }

    fn manifest(&self, name: &str, reference: &str) -> Answer {
        let (digest, media_type) = self.find_manifest(name, reference)?;
        let raw = self
            .files
            .read(&blob_key(digest))?
            .ok_or(MANIFEST_UNKNOWN)?;
        Ok(Response::new(200)
            .with_header("Content-Type", media_type)
            .with_header("Docker-Content-Digest", digest)
            .with_body(raw))
    }

    fn find_manifest(&self, name: &str, reference: &str) -> Result<(Digest, String), Refusal> {
        let digest = if reference.contains(':') {
            digest(reference)?
        } else {
            let text = self.files.read(&tag_link(name, tag(reference)?))?;
            let text = text.ok_or(MANIFEST_UNKNOWN)?;
            digest(&String::from_utf8_lossy(&text))?
        };
        let media_type = self
            .files
            .read(&manifest_link(name, digest))?
            .ok_or(MANIFEST_UNKNOWN)?;
        Ok((digest, String::from_utf8_lossy(&media_type).into_owned()))
    }

    fn put_manifest(
        &self,
        request: &Request,
        name: &str,
        reference: &str,
        body: &mut dyn Read,
    ) -> Answer {
        let mut raw = Vec::new();
        body.take(crate::json::MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut raw)?;
        if raw.len() as u64 > crate::json::MAX_DOCUMENT_BYTES {
            return Err(Refusal::Code(
                413,
                "SIZE_INVALID",
                "the manifest is too large",
            ));
        }
        let declared = request.header("content-type").map(MediaType::new);
        let Ok(document) = Document::parse(&raw, declared.as_ref()) else {
            return Err(Refusal::Code(
                400,
                "MANIFEST_INVALID",
                "the manifest is not valid",
            ));
        };
        let missing = Refusal::Code(400, "MANIFEST_BLOB_UNKNOWN", "a part of it is not there");
        match &document {
            Document::Manifest(manifest) => {
                for part in manifest.layers().iter().chain([manifest.config()]) {
                    if !self.files.exists(&blob_link(name, part.digest))? {
                        return Err(missing);
                    }
                }
            }
            Document::Index(index) => {
                for part in index.manifests() {
                    if !self.files.exists(&manifest_link(name, part.digest))? {
                        return Err(missing);
                    }
                }
            }
        }
        let found = document.descriptor();
        if reference.contains(':') && digest(reference)? != found.digest {
            return Err(DIGEST_INVALID);
        }
        self.files.put(&blob_key(found.digest), &raw)?;
        let media_type = declared.as_ref().unwrap_or(&found.media_type);
        self.files.put(
            &manifest_link(name, found.digest),
            media_type.as_str().as_bytes(),
        )?;
        if !reference.contains(':') {
            let link = tag_link(name, tag(reference)?);
            self.files.put(&link, found.digest.to_string().as_bytes())?;
        }
        let mut response = Response::new(201)
            .with_header("Location", format!("/v2/{name}/manifests/{}", found.digest))
            .with_header("Docker-Content-Digest", found.digest);
        if let Some((subject, descriptor)) = referrer::of(&raw, media_type) {
            let link = referrer_link(name, subject, found.digest);
            self.files
                .put(&link, json!(descriptor).to_string().as_bytes())?;
            response = response.with_header("OCI-Subject", subject);
        }
        Ok(response)
    }

    fn referrers(&self, request: &Request, name: &str, subject: Digest) -> Answer {
        let wanted = request.query("artifactType");
        let mut found: Vec<Descriptor> = Vec::new();
        for key in self.files.list(&referrers_folder(name, subject))? {
            let link = self.files.read(&key)?.unwrap_or_default();
            if let Ok(descriptor) = serde_json::from_slice(&link) {
                found.push(descriptor);
            }
        }
        if let Some(wanted) = &wanted {
            found.retain(|one| referrer::artifact_type(one) == Some(wanted));
        }
        let mut response = Response::new(200)
            .with_header("Content-Type", MediaType::INDEX)
            .with_body(referrer::index(&found));
        if wanted.is_some() {
            response = response.with_header("OCI-Filters-Applied", "artifactType");
        }
        Ok(response)
    }

    fn delete_manifest(&self, name: &str, reference: &str) -> Answer {
        if !reference.contains(':') {
            let link = tag_link(name, tag(reference)?);
            if !self.files.exists(&link)? {
                return Err(MANIFEST_UNKNOWN);
            }
            self.files.remove(&link)?;
            return Ok(Response::new(202));
        }
        let (digest, _) = self.find_manifest(name, reference)?;
        for key in self.files.list(&format!("repositories/{name}/_tags"))? {
            if self
                .files
                .read(&key)?
                .is_some_and(|text| text == digest.to_string().as_bytes())
            {
                self.files.remove(&key)?;
            }
        }
        let raw = self.files.read(&blob_key(digest))?.unwrap_or_default();
        if let Some((subject, _)) = referrer::of(&raw, &MediaType::MANIFEST) {
            self.files.remove(&referrer_link(name, subject, digest))?;
        }
        self.files.remove(&manifest_link(name, digest))?;
        Ok(Response::new(202))
    }

    fn blob(&self, request: &Request, name: &str, digest: Digest) -> Answer {
        if !self.files.exists(&blob_link(name, digest))? {
            return Err(BLOB_UNKNOWN);
        }
        let Some((_, size)) = self.files.open(&blob_key(digest), 0)? else {
            return Err(BLOB_UNKNOWN);
        };
        let range = request
            .header("range")
            .and_then(|text| parse_range(text, size));
        let (status, start, end) = match range {
            None => (200, 0, size),
            Some(Some((start, end))) => (206, start, end),
            Some(None) => {
                return Ok(
                    Response::new(416).with_header("Content-Range", format!("bytes */{size}"))
                );
            }
        };
        let Some((reader, _)) = self.files.open(&blob_key(digest), start)? else {
            return Err(BLOB_UNKNOWN);
        };
        let mut response = Response::new(status)
            .with_header("Content-Type", "application/octet-stream")
            .with_header("Accept-Ranges", "bytes")
            .with_header("Docker-Content-Digest", digest);
        if status == 206 {
            let range = format!("bytes {start}-{}/{size}", end - 1);
            response = response.with_header("Content-Range", range);
        }
        let length = end - start;
        response.body = Body {
            reader: Box::new(reader.take(length)),
            length: Some(length),
        };
        Ok(response)
    }

    /// Starts an upload, or does without: the blob is mounted or comes in this request.
    fn start(&self, request: &Request, name: &str, body: &mut dyn Read) -> Answer {
        if let (Some(wanted), Some(from)) = (request.query("mount"), request.query("from")) {
            let wanted = digest(&wanted)?;
            if self.files.exists(&blob_link(repository(&from)?, wanted))? {
                self.files.put(&blob_link(name, wanted), b"")?;
                return Ok(created(name, wanted));
            }
        }
        let mut upload = Upload {
            repository: name.to_owned(),
            draft: Some(self.files.draft()?),
            hasher: Hasher::new(),
        };
        if let Some(wanted) = request.query("digest") {
            upload.append(body)?;
            return self.finish(&mut upload, name, digest(&wanted)?);
        }
        let mut uploads = lock(&self.uploads);
        if uploads.len() >= MAX_UPLOADS {
            return Err(Refusal::Code(
                429,
                "TOOMANYREQUESTS",
                "too many uploads are open",
            ));
        }
        let state = RandomState::new();
        let id = format!("{:016x}{:016x}", state.hash_one(0), state.hash_one(1));
        uploads.insert(id.clone(), Arc::new(Mutex::new(upload)));
        Ok(accepted(202, name, &id, 0))
    }

    fn upload(&self, request: &Request, name: &str, id: &str, body: &mut dyn Read) -> Answer {
        let unknown = || Refusal::Code(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload");
        let upload = lock(&self.uploads).get(id).cloned().ok_or_else(unknown)?;
        let mut upload = lock(&upload);
        if upload.repository != name {
            return Err(unknown());
        }
        let size = upload.draft.as_ref().ok_or_else(unknown)?.size_bytes();
        let starts_at = request.header("content-range").map(|range| {
            range
                .split('-')
                .next()
                .and_then(|start| start.trim().parse::<u64>().ok())
        });
        if starts_at.is_some_and(|start| start != Some(size)) {
            return Ok(accepted(416, name, id, size));
        }
        match request.method.as_str() {
            "GET" => Ok(accepted(204, name, id, size)),
            "DELETE" => {
                lock(&self.uploads).remove(id);
                Ok(Response::new(204))
            }
            "PATCH" => {
                upload.append(body)?;
                let size = upload.draft.as_ref().map_or(0, Draft::size_bytes);
                Ok(accepted(202, name, id, size))
            }
            "PUT" => {
                let wanted = digest(&request.query("digest").ok_or(DIGEST_INVALID)?)?;
                upload.append(body)?;
                lock(&self.uploads).remove(id);
                self.finish(&mut upload, name, wanted)
            }
            _ => Err(BAD_METHOD),
        }
    }

    fn finish(&self, upload: &mut Upload, name: &str, wanted: Digest) -> Answer {
        let hasher = std::mem::take(&mut upload.hasher);
        let draft = upload.draft.take().ok_or(DIGEST_INVALID)?;
        if hasher.finish() != wanted {
            return Err(DIGEST_INVALID);
        }
        self.files.publish(draft, &blob_key(wanted))?;
        self.files.put(&blob_link(name, wanted), b"")?;
        Ok(created(name, wanted))
    }
}

impl Upload {
    fn append(&mut self, body: &mut dyn Read) -> io::Result<()> {
        let Some(draft) = &mut self.draft else {
            return Ok(());
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = body.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            draft.write_all(&buffer[..count])?;
            self.hasher.update(&buffer[..count]);
        }
    }
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

/// The bytes that a `Range` header asks for, as start and end; `Some(None)` if there are none, `None`
/// if it is to be ignored.
fn parse_range(text: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    if start.is_empty() {
        let count = end.parse::<u64>().ok()?.min(size);
        return Some((count > 0).then_some((size - count, size)));
    }
    let start = start.parse::<u64>().ok()?;
    let end = match end {
        "" => size,
        end => end.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    Some((start < end).then_some((start, end)))
}

fn refuse(status: u16, code: &str, message: &str) -> Response {
    let mut response = json_response(&json!({ "errors": [{ "code": code, "message": message }] }));
    response.status = status;
    response
}

fn json_response(value: &serde_json::Value) -> Response {
    Response::new(200)
        .with_header("Content-Type", "application/json")
        .with_body(value.to_string().into_bytes())
}

fn created(name: &str, digest: Digest) -> Response {
    Response::new(201)
        .with_header("Location", format!("/v2/{name}/blobs/{digest}"))
        .with_header("Docker-Content-Digest", digest)
}

fn accepted(status: u16, name: &str, id: &str, size: u64) -> Response {
    Response::new(status)
        .with_header("Location", format!("/v2/{name}/blobs/uploads/{id}"))
        .with_header("Docker-Upload-UUID", id)
        .with_header("Range", format!("0-{}", size.saturating_sub(1)))
}

/// Checks a name before it becomes part of a path.
fn repository(name: &str) -> Result<&str, Refusal> {
    let valid = Reference::is_repository(name);
    valid.then_some(name).ok_or(Refusal::Code(
        400,
        "NAME_INVALID",
        "no name of a repository",
    ))
}

fn tag(text: &str) -> Result<&str, Refusal> {
    let valid = Reference::is_tag(text);
    valid
        .then_some(text)
        .ok_or(Refusal::Code(400, "TAG_INVALID", "no tag"))
}

fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|_| DIGEST_INVALID)
}

fn blob_key(digest: Digest) -> String {
    format!("blobs/{}", digest.hex())
}

fn blob_link(name: &str, digest: Digest) -> String {
    format!("repositories/{name}/_blobs/{}", digest.hex())
}

fn manifest_link(name: &str, digest: Digest) -> String {
    format!("repositories/{name}/_manifests/{}", digest.hex())
}

fn referrers_folder(name: &str, subject: Digest) -> String {
    format!("repositories/{name}/_referrers/{}", subject.hex())
}

fn referrer_link(name: &str, subject: Digest, digest: Digest) -> String {
    format!("{}/{}", referrers_folder(name, subject), digest.hex())
}

fn tag_link(name: &str, tag: &str) -> String {
    format!("repositories/{name}/_tags/{tag}")
}

const NOT_FOUND: Refusal = Refusal::Code(404, "UNSUPPORTED", "there is nothing here");
const BAD_METHOD: Refusal = Refusal::Code(405, "UNSUPPORTED", "not with this method");
const NAME_UNKNOWN: Refusal = Refusal::Code(404, "NAME_UNKNOWN", "there is no such repository");
const BLOB_UNKNOWN: Refusal = Refusal::Code(404, "BLOB_UNKNOWN", "there is no such blob");
const MANIFEST_UNKNOWN: Refusal =
    Refusal::Code(404, "MANIFEST_UNKNOWN", "there is no such manifest");
const DIGEST_INVALID: Refusal = Refusal::Code(400, "DIGEST_INVALID", "the digest is not right");
const MAX_UPLOADS: usize = 1024;
const MAX_PAGE: usize = 10_000;
const BUFFER_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let cases = [
            ("bytes=0-", Some(Some((0, 10)))),
            ("bytes=2-3", Some(Some((2, 4)))),
            ("bytes=2-99", Some(Some((2, 10)))),
            ("bytes=-3", Some(Some((7, 10)))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=5-2", Some(None)),
            (
                "bytes=18446744073709551615-18446744073709551615",
                Some(None),
            ),
            ("bytes=a-", None),
            ("lines=0-", None),
            ("", None),
        ];
        for (text, range) in cases {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
    }
}
