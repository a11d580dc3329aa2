//! The registry client: one call of the distribution specification each.

mod blob;
mod list;
mod options;
mod parts;
mod request;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::auth::{Authorization, Credentials};
use super::hosts::{Host, Need};
use super::proxy::Proxies;
use super::referrer;
use super::transport::{Http, Patience, Response};
use rustls::pki_types::CertificateDer;

use crate::store::from_io;
use crate::{Descriptor, Digest, Document, Error, MediaType, Reference, Result, json};
use request::{Access, Call, bytes_body, no_body};

pub use blob::BlobStream;
pub use list::Names;
pub use options::ClientOptions;

/// Talks to registries. Connections and tokens are kept and shared by all threads; a clone shares
/// them too.
///
/// Every call blocks, may be repeated as [`ClientOptions::retry`] says, and has these errors besides
/// its own: `Unauthorized`, `Denied`, `InsecureRegistry`, `TooManyRequests`, `RegistryUnavailable`,
/// and the kinds `Network`, `TimedOut` and `Cancelled`. The answer of the registry is in
/// [`RegistryError::of`](super::RegistryError::of).
///
/// # References
/// distribution-spec 1.1.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    patience: Patience,
    proxies: Proxies,
    /// The authorities that this machine trusts.
    authorities: OnceLock<Vec<CertificateDer<'static>>>,
    /// Connections by protocol and authority.
    http: Mutex<HashMap<(bool, String), Arc<Http>>>,
    /// The hosts that serve a registry, in the order in which they are asked.
    hosts: Mutex<HashMap<String, Arc<[Host]>>>,
    /// Who we are to a host, once somebody asked.
    credentials: Mutex<HashMap<String, Option<Credentials>>>,
    /// What opens a host, by its authority and the scope.
    authorizations: Mutex<HashMap<(String, String), Authorization>>,
}

impl Client {
    /// A client that talks as `options` say. Nothing is sent yet.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self(Arc::new(Inner {
            patience: Patience::of(&options),
            proxies: options
                .proxies
                .clone()
                .unwrap_or_else(Proxies::from_environment),
            options,
            authorities: OnceLock::new(),
            http: Mutex::default(),
            hosts: Mutex::default(),
            credentials: Mutex::default(),
            authorizations: Mutex::default(),
        }))
    }

    /// Fetches what `reference` leads to. Its digest is computed here, whatever the registry says.
    ///
    /// # Errors
    /// `ManifestUnknown`, `NameUnknown`, `DigestMismatch`, `DocumentTooLarge`, and those of
    /// [`Document::parse`].
    pub fn manifest(&self, reference: &Reference) -> Result<Document> {
        let mut call = Call::of(reference, Access::Pull, "GET", manifest_path(reference));
        call.headers.push(("accept", accepted()));
        let need = Need::of(reference);
        let (raw, media_type) = self.read(need, &call, |_, mut response| {
            let media_type = media_type_of(&response);
            let raw = read_document(&mut response, &call.path)?;
            if let Some(want) = reference.digest() {
                let got = Digest::of(&raw);
                if want != got {
                    let doing = format!("fetch manifest {reference}");
                    return Err(Error::mismatch("DigestMismatch", doing, want, got));
                }
            }
            Ok((raw, media_type))
        })?;
        Document::parse(&raw, media_type.as_ref())
            .map_err(|error| error.context(format!("fetch manifest {reference}")))
    }

    /// Asks what `reference` leads to without fetching it. The answer is what the registry claims: it
    /// tells whether it is worth to look again, not what an image is. `None` if the registry does not
    /// say enough.
    ///
    /// # Errors
    /// `ManifestUnknown`, `NameUnknown`.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        let mut call = Call::of(reference, Access::Pull, "HEAD", manifest_path(reference));
        call.headers.push(("accept", accepted()));
        self.read(Need::of(reference), &call, |_, response| {
            let digest = response.header("docker-content-digest");
            let digest = digest.and_then(|text| text.parse().ok());
            let (Some(media_type), Some(size)) =
                (media_type_of(&response), response.content_length())
            else {
                return Ok(None);
            };
            let digest: Option<Digest> = reference.digest().or(digest);
            Ok(digest.map(|digest| Descriptor::new(media_type, digest, size)))
        })
    }

    /// Stores the exact bytes of a manifest or index under the tag or digest of `reference`.
    ///
    /// A document with a `subject` becomes one of its referrers: where the registry does not see to
    /// that, the index with the tag `sha256-…` is brought up to date.
    ///
    /// # Errors
    /// Those of every call.
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
        let path = format!("{}/manifests/{name}", reference.repository());
        let mut call = Call::of(reference, Access::Push, "PUT", path);
        call.headers.push(("content-type", media_type.to_string()));
        let referrer = referrer::of(raw, media_type);
        let noted = self.write(&call, &mut bytes_body(raw), |_, response| {
            Ok(response.header("oci-subject").is_some())
        })?;
        if let Some((subject, descriptor)) = referrer
            && !noted
        {
            self.note_referrer(&reference.with_digest(subject), descriptor)?;
        }
        Ok(digest)
    }

    /// Deletes the tag of `reference`, or with a digest the manifest itself with all of its tags. Blobs
    /// stay until the registry collects them.
    ///
    /// What had a `subject` is no longer one of its referrers: where the registry does not see to that,
    /// the index with the tag `sha256-…` is brought up to date.
    ///
    /// # Errors
    /// `ManifestUnknown`; `UnsupportedByRegistry` where nothing may be deleted.
    pub fn delete_manifest(&self, reference: &Reference) -> Result<()> {
        let subject = match reference.digest() {
            Some(_) => {
                let document = self.manifest(reference)?;
                let media_type = &document.descriptor().media_type;
                referrer::of(document.raw(), media_type)
            }
            None => None,
        };
        let path = manifest_path(reference);
        let call = Call::of(reference, Access::Delete, "DELETE", path);
        self.write(&call, &mut no_body, |_, _| Ok(()))?;
        match subject {
            Some((subject, gone)) => {
                self.forget_referrer(&reference.with_digest(subject), gone.digest)
            }
            None => Ok(()),
        }
    }

    /// Asks whether `registry` is one, and whether it knows us.
    ///
    /// # Errors
    /// `Unauthorized` for wrong credentials; `NotFound` where no registry answers.
    pub fn ping(&self, registry: &str) -> Result<()> {
        self.write(&Call::ping(registry), &mut no_body, |_, _| Ok(()))
    }

    /// Asks whether `registry` knows `credentials`; gives the identity token that may take the place
    /// of a password, if the registry has one to give.
    pub(super) fn login(
        &self,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>> {
        let known = Some(credentials.clone());
        lock(&self.0.credentials).insert(registry.to_owned(), known);
        let mut call = Call::ping(registry);
        call.is_login = true;
        self.write(&call, &mut no_body, |_, _| Ok(()))?;
        let authorizations = lock(&self.0.authorizations);
        Ok(authorizations
            .values()
            .find_map(|authorization| authorization.identity_token.clone()))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

fn manifest_path(reference: &Reference) -> String {
    let name = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    format!("{}/manifests/{name}", reference.repository())
}

fn accepted() -> String {
    MANIFEST_TYPES
        .map(|media_type| media_type.to_string())
        .join(", ")
}

fn media_type_of(response: &Response) -> Option<MediaType> {
    let text = response.header("content-type")?;
    let text = text.split(';').next().unwrap_or(text).trim();
    Some(MediaType::new(text.to_owned()))
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
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MANIFEST_TYPES: [MediaType; 4] = [
    MediaType::MANIFEST,
    MediaType::DOCKER_MANIFEST,
    MediaType::INDEX,
    MediaType::DOCKER_LIST,
];
