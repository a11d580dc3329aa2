//! The registry client: one call of the distribution specification each.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::auth::{Challenge, Credentials, HUB_HOST, may_know_credentials, read_token};
use super::error::RegistryError;
use super::retry::Retry;
use super::transport::{Head, Http, Patience, Payload, Response};
use super::url::{Url, host_of, is_loopback};
use crate::reference::DEFAULT_REGISTRY;
use crate::store::from_io;
use crate::{Descriptor, Digest, Document, Error, ErrorKind, MediaType, Reference, Result, json};

/// How to talk to registries.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Who to be, by registry as [`Reference::registry`] gives it; anonymous where there is none.
    pub credentials: BTreeMap<String, Credentials>,
    /// Registries, written as in references (`host` or `host:port`), that may use plain HTTP or a certificate that nobody
    /// has signed. Loopback addresses may always.
    pub insecure: Vec<String>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a registry may be silent.
    pub idle_timeout: Duration,
    /// When to ask again.
    pub retry: Retry,
    /// Set it to stop; calls return `Cancelled` within a quarter of a second.
    pub cancel: Arc<AtomicBool>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: BTreeMap::new(),
            insecure: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            retry: Retry::default(),
            cancel: Arc::default(),
        }
    }
}

/// Talks to registries. Connections and tokens are kept and shared by all threads.
///
/// # References
/// distribution-spec 1.1.
pub struct Client {
    options: ClientOptions,
    patience: Patience,
    verified: OnceLock<Http>,
    unverified: OnceLock<Http>,
    /// Where a registry is and whether it talks TLS, once known.
    bases: Mutex<HashMap<String, Url>>,
    /// `Authorization` headers by registry and scope.
    authorizations: Mutex<HashMap<(String, String), String>>,
}

/// What a client wants to do, as far as authorization is concerned.
#[derive(Clone, Copy)]
pub(super) enum Access {
    Pull,
    Push,
}

impl Client {
    /// A client that talks as `options` say. Nothing is sent yet.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        let patience = Patience {
            connect: options.connect_timeout,
            idle: options.idle_timeout,
            cancel: options.cancel.clone(),
        };
        Self {
            options,
            patience,
            verified: OnceLock::new(),
            unverified: OnceLock::new(),
            bases: Mutex::default(),
            authorizations: Mutex::default(),
        }
    }

    /// Fetches what `reference` leads to. Its digest is computed here, whatever the registry says.
    ///
    /// # Errors
    /// `ManifestUnknown`, `NameUnknown`, `Unauthorized`, `Denied`, `DigestMismatch`,
    /// `DocumentTooLarge`, kinds `Network`, `TimedOut` and `Cancelled`, and those of
    /// [`Document::parse`].
    pub fn manifest(&self, reference: &Reference) -> Result<Document> {
        let wanted = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        let path = format!("{}/manifests/{wanted}", reference.repository());
        let accept = MANIFEST_TYPES
            .map(|media_type| media_type.to_string())
            .join(", ");
        let (raw, media_type) = self.retry(|| {
            let headers = vec![("accept", accept.clone())];
            let mut response = self.get(reference, &path, headers)?;
            let media_type = response.header("content-type").map(|text| {
                MediaType::new(text.split(';').next().unwrap_or(text).trim().to_owned())
            });
            Ok((read_document(&mut response, &path)?, media_type))
        })?;
        if let Some(want) = reference.digest() {
            let got = Digest::of(&raw);
            if want != got {
                let doing = format!("fetch manifest {reference}");
                return Err(Error::mismatch("DigestMismatch", doing, want, got));
            }
        }
        Document::parse(&raw, media_type.as_ref())
            .map_err(|error| error.context(format!("fetch manifest {reference}")))
    }

    /// Opens a blob of the repository of `reference` for reading.
    ///
    /// The reader takes up a transfer that was cut where it was cut, and fails as soon as there are
    /// more bytes than `blob` tells. It checks no digest.
    ///
    /// # Errors
    /// `BlobUnknown`, `SizeMismatch`, and those of every request.
    pub fn blob<'a>(
        &'a self,
        reference: &'a Reference,
        blob: &Descriptor,
    ) -> Result<BlobStream<'a>> {
        let mut stream = BlobStream {
            client: self,
            reference,
            digest: blob.digest,
            size: blob.size_bytes,
            offset: 0,
            failures: 0,
            body: None,
        };
        stream.body = Some(self.retry(|| stream.open())?);
        Ok(stream)
    }

    /// Whether the repository of `reference` has a blob.
    ///
    /// # Errors
    /// Those of every request.
    pub fn has_blob(&self, reference: &Reference, digest: Digest) -> Result<bool> {
        let path = format!("{}/blobs/{digest}", reference.repository());
        self.retry(|| {
            let url = self
                .base(reference.registry())?
                .join(&format!("/v2/{path}"))?;
            let response =
                self.request(reference, Access::Push, "HEAD", &url, &[], &mut no_body)?;
            match response.status {
                200 => Ok(true),
                404 => Ok(false),
                _ => Err(RegistryError::read("HEAD", &url, response)),
            }
        })
    }

    /// Asks the registry to take a blob from its repository `from`; if it does not, gives the place
    /// to upload it to. Without `from` only the latter.
    ///
    /// # Errors
    /// Those of every request.
    pub(super) fn start_upload(
        &self,
        reference: &Reference,
        digest: Digest,
        from: Option<&str>,
    ) -> Result<Option<Url>> {
        let base = self.base(reference.registry())?;
        let mut url = base.join(&format!("/v2/{}/blobs/uploads/", reference.repository()))?;
        if let Some(from) = from {
            url = url
                .with_query("mount", &digest.to_string())
                .with_query("from", from);
        }
        self.retry(|| {
            let response =
                self.request(reference, Access::Push, "POST", &url, &[], &mut empty_body)?;
            match (response.status, response.header("location")) {
                (201, _) if from.is_some() => Ok(None),
                (202, Some(location)) => Ok(Some(url.join(location)?)),
                _ => Err(RegistryError::read("POST", &url, response)),
            }
        })
    }

    /// Sends a blob to where [`Client::start_upload`] said, in one request.
    ///
    /// # Errors
    /// Those of every request; they are not retried here, as the upload has to be started again.
    pub(super) fn upload(
        &self,
        reference: &Reference,
        place: &Url,
        blob: &Descriptor,
        open: &mut dyn FnMut() -> Result<Box<dyn Read>>,
    ) -> Result<()> {
        let url = place.with_query("digest", &blob.digest.to_string());
        let headers = [("content-type", "application/octet-stream".to_owned())];
        let mut body = || Ok(Some((open()?, blob.size_bytes)));
        let response = self.request(reference, Access::Push, "PUT", &url, &headers, &mut body)?;
        match response.status {
            200..=299 => Ok(()),
            _ => Err(RegistryError::read("PUT", &url, response)),
        }
    }

    /// Stores the exact bytes of a manifest or index under the tag or digest of `reference`.
    ///
    /// # Errors
    /// Those of every request.
    pub fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        raw: &[u8],
    ) -> Result<Digest> {
        let digest = Digest::of(raw);
        let name = reference
            .tag()
            .map_or_else(|| digest.to_string(), ToOwned::to_owned);
        let base = self.base(reference.registry())?;
        let url = base.join(&format!("/v2/{}/manifests/{name}", reference.repository()))?;
        let headers = [("content-type", media_type.to_string())];
        self.retry(|| {
            let mut body = || {
                let reader: Box<dyn Read> = Box::new(io::Cursor::new(raw.to_vec()));
                Ok(Some((reader, raw.len() as u64)))
            };
            let response =
                self.request(reference, Access::Push, "PUT", &url, &headers, &mut body)?;
            match response.status {
                200..=299 => Ok(digest),
                _ => Err(RegistryError::read("PUT", &url, response)),
            }
        })
    }

    pub(super) fn retry<T>(&self, request: impl FnMut() -> Result<T>) -> Result<T> {
        self.options.retry.run(&self.patience, request)
    }

    /// Gets `path` below the API of the registry, following redirects.
    fn get(
        &self,
        reference: &Reference,
        path: &str,
        headers: Vec<(&'static str, String)>,
    ) -> Result<Response> {
        let url = self
            .base(reference.registry())?
            .join(&format!("/v2/{path}"))?;
        let response =
            self.request(reference, Access::Pull, "GET", &url, &headers, &mut no_body)?;
        match response.status {
            200 | 206 => Ok(response),
            _ => Err(RegistryError::read("GET", &url, response)),
        }
    }

    /// Sends one request with the authorization that it needs, and follows redirects of GET and HEAD.
    fn request(
        &self,
        reference: &Reference,
        access: Access,
        method: &'static str,
        url: &Url,
        headers: &[(&'static str, String)],
        body: &mut BodySource<'_>,
    ) -> Result<Response> {
        let base = self.base(reference.registry())?;
        let key = (reference.registry().to_owned(), scope(reference, access));
        let mut url = url.clone();
        let mut asked = false;
        let mut redirects = 0;
        loop {
            self.check_http(&base, &url)?;
            let mut headers = headers.to_vec();
            let authorization = lock(&self.authorizations).get(&key).cloned();
            if url.same_origin(&base)
                && let Some(authorization) = authorization
            {
                headers.push(("authorization", authorization));
            }
            let head = Head {
                method,
                url: &url,
                headers,
            };
            let response = match body()? {
                Some((mut reader, size)) => self.send(&head, Some((&mut *reader, size)))?,
                None => self.send(&head, None)?,
            };
            match (response.status, method) {
                (401, _) if !asked && url.same_origin(&base) => {
                    let authorization = self.authorize(reference, access, &base, &response)?;
                    let Some(authorization) = authorization else {
                        return Ok(response);
                    };
                    lock(&self.authorizations).insert(key.clone(), authorization);
                    asked = true;
                }
                (301 | 302 | 303 | 307 | 308, "GET" | "HEAD") if redirects < MAX_REDIRECTS => {
                    let Some(location) = response.header("location") else {
                        return Ok(response);
                    };
                    url = url.join(location)?;
                    redirects += 1;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Answers a challenge; `None` if there is no answer.
    fn authorize(
        &self,
        reference: &Reference,
        access: Access,
        base: &Url,
        response: &Response,
    ) -> Result<Option<String>> {
        let credentials = self.options.credentials.get(reference.registry());
        let challenges: Vec<_> = response
            .headers("www-authenticate")
            .filter_map(Challenge::parse)
            .collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some((realm, service, scope)),
            Challenge::Basic => None,
        });
        let Some((realm, service, wanted)) = bearer else {
            let basic = challenges.contains(&Challenge::Basic);
            return Ok(credentials.filter(|_| basic).map(Credentials::basic));
        };
        let mut url = Url::parse(realm)?;
        self.check_http(base, &url)?;
        if let Some(service) = service {
            url = url.with_query("service", service);
        }
        let wanted = wanted.clone().unwrap_or_else(|| scope(reference, access));
        for scope in wanted.split(' ') {
            url = url.with_query("scope", scope);
        }
        let mut headers = Vec::new();
        if let Some(credentials) = credentials
            && may_know_credentials(base, &url)
        {
            headers.push(("authorization", credentials.basic()));
        }
        let head = Head {
            method: "GET",
            url: &url,
            headers,
        };
        let mut response = self.send(&head, None)?;
        if response.status != 200 {
            return Err(RegistryError::read("GET", &url, response));
        }
        let mut body = Vec::new();
        let limit = response
            .body
            .by_ref()
            .take(MAX_TOKEN_BYTES)
            .read_to_end(&mut body);
        limit.map_err(|error| from_io("read a token", error))?;
        Ok(Some(format!("Bearer {}", read_token(&body)?)))
    }

    fn send(&self, head: &Head<'_>, payload: Payload<'_>) -> Result<Response> {
        let insecure = self.is_insecure(&head.url.authority);
        let (http, verify) = if insecure {
            (&self.unverified, false)
        } else {
            (&self.verified, true)
        };
        http.get_or_init(|| Http::new(&self.patience, verify))
            .send(head, payload)
    }

    /// Refuses plain HTTP to anybody who may not use it, and to this machine's own services when
    /// somebody elsewhere sends us there.
    fn check_http(&self, base: &Url, url: &Url) -> Result<()> {
        let near = is_loopback(base.host()) && is_loopback(url.host());
        if url.https || near || self.is_listed(&url.authority) {
            return Ok(());
        }
        let doing = format!(
            "talk plain HTTP to {}, which is not listed as insecure",
            url.authority
        );
        Err(Error::new(
            ErrorKind::PermissionDenied,
            "InsecureRegistry",
            doing,
        ))
    }

    fn is_insecure(&self, authority: &str) -> bool {
        is_loopback(host_of(authority)) || self.is_listed(authority)
    }

    fn is_listed(&self, authority: &str) -> bool {
        self.options
            .insecure
            .iter()
            .any(|entry| entry.eq_ignore_ascii_case(authority))
    }

    /// The root of a registry. Only one that may be insecure is asked whether it talks TLS.
    fn base(&self, registry: &str) -> Result<Url> {
        if let Some(base) = lock(&self.bases).get(registry) {
            return Ok(base.clone());
        }
        let authority = if registry == DEFAULT_REGISTRY {
            HUB_HOST
        } else {
            registry
        };
        let mut base = Url::new(true, authority, "/v2/");
        if self.is_insecure(authority) {
            let probe = |base: &Url| {
                self.send(
                    &Head {
                        method: "GET",
                        url: base,
                        headers: Vec::new(),
                    },
                    None,
                )
            };
            match self.retry(|| match probe(&base) {
                // Whatever does not talk TLS at all breaks off at once.
                Err(error) if error.code() == "TlsFailed" || error.code() == "ConnectionLost" => {
                    let plain = Url::new(false, authority, "/v2/");
                    probe(&plain).map(|_| plain)
                }
                answer => answer.map(|_| base.clone()),
            }) {
                Ok(answered) => base = answered,
                Err(error) => return Err(error.context(format!("reach registry {registry}"))),
            }
        }
        lock(&self.bases).insert(registry.to_owned(), base.clone());
        Ok(base)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Reads a blob from a registry, taking up again where the transfer was cut.
pub struct BlobStream<'a> {
    client: &'a Client,
    reference: &'a Reference,
    digest: Digest,
    size: u64,
    offset: u64,
    /// How often in a row it was cut without a byte in between.
    failures: u32,
    body: Option<Box<dyn Read + Send>>,
}

impl BlobStream<'_> {
    /// Asks for the rest of the blob.
    fn open(&self) -> Result<Box<dyn Read + Send>> {
        let path = format!("{}/blobs/{}", self.reference.repository(), self.digest);
        let headers = match self.offset {
            0 => Vec::new(),
            offset => vec![("range", format!("bytes={offset}-"))],
        };
        let mut response = self.client.get(self.reference, &path, headers)?;
        let left = if response.status == 206 {
            self.size - self.offset
        } else {
            self.size
        };
        if let Some(length) = response.content_length()
            && length != left
        {
            return Err(self.wrong_size(length));
        }
        if response.status == 200 && self.offset > 0 {
            // The registry knows no ranges and starts again.
            let skipped = io::copy(
                &mut response.body.by_ref().take(self.offset),
                &mut io::sink(),
            );
            let skipped = skipped.map_err(|error| from_io("skip what came before", error))?;
            if skipped < self.offset {
                return Err(self.wrong_size(skipped));
            }
        }
        Ok(response.body)
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let count = body
            .read(buffer)
            .map_err(|error| from_io("read a blob", error))?;
        self.body = Some(body);
        let offset = self.offset.saturating_add(count as u64);
        if offset > self.size {
            return Err(self.wrong_size(format!("at least {offset}")));
        }
        self.offset = offset;
        Ok(count)
    }

    fn wrong_size(&self, got: impl fmt::Display) -> Error {
        Error::mismatch(
            "SizeMismatch",
            format!("fetch blob {}", self.digest),
            self.size,
            got,
        )
    }
}

impl Read for BlobStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.try_read(buffer) {
                Ok(count) => {
                    self.failures = 0;
                    return Ok(count);
                }
                // Only the end of the transfer itself was lost.
                Err(error) if error.is_retryable() && self.offset == self.size => return Ok(0),
                Err(error) => {
                    self.failures += 1;
                    let client = self.client;
                    let again = client
                        .options
                        .retry
                        .wait(&client.patience, self.failures, error);
                    again.map_err(io::Error::other)?;
                }
            }
        }
    }
}

impl fmt::Debug for BlobStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("digest", &self.digest)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Gives the body of a request anew for each time that it is sent.
type BodySource<'a> = dyn FnMut() -> Result<Option<(Box<dyn Read>, u64)>> + 'a;

fn no_body() -> Result<Option<(Box<dyn Read>, u64)>> {
    Ok(None)
}

fn empty_body() -> Result<Option<(Box<dyn Read>, u64)>> {
    Ok(Some((Box::new(io::empty()), 0)))
}

fn scope(reference: &Reference, access: Access) -> String {
    let actions = match access {
        Access::Pull => "pull",
        Access::Push => "pull,push",
    };
    format!("repository:{}:{actions}", reference.repository())
}

/// Reads a whole body of bounded size.
fn read_document(response: &mut Response, what: &str) -> Result<Vec<u8>> {
    json::check_size(response.content_length().unwrap_or(0), what)?;
    let mut bytes = Vec::new();
    response
        .body
        .by_ref()
        .take(json::MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| from_io(&format!("read {what}"), error))?;
    json::check_size(bytes.len() as u64, what)?;
    Ok(bytes)
}

/// The maps behind the locks stay whole whatever a panicking thread was doing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MANIFEST_TYPES: [MediaType; 4] = [
    MediaType::MANIFEST,
    MediaType::DOCKER_MANIFEST,
    MediaType::INDEX,
    MediaType::DOCKER_LIST,
];
const MAX_REDIRECTS: u32 = 5;
const MAX_TOKEN_BYTES: u64 = 1 << 20;
