//! Which images are trusted: signatures that are checked before anything is unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use serde::Deserialize;

use crate::copy::{FromRegistry, Source};
use crate::registry::base64;
use crate::{
    Client, Descriptor, Digest, Document, Error, ErrorKind, Manifest, Reference, Result, json,
};

/// Which images may be pulled. By default all of them.
///
/// # Examples
///
/// ```
/// use container_image::{Policy, Trust};
///
/// let mut policy = Policy::default();
/// policy.default = Trust::Nothing;
/// policy.scopes.insert("docker.io/library".into(), Trust::Anything);
/// assert_eq!(policy.trust(&"debian".parse()?), &Trust::Anything);
/// assert_eq!(policy.trust(&"somebody/debian".parse()?), &Trust::Nothing);
/// # Ok::<(), container_image::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is required of images that no scope tells of.
    pub default: Trust,
    /// What is required within a registry (`registry.example`), below a path in it
    /// (`registry.example/team`) or of a repository (`registry.example/team/app`), written in full.
    /// The longest one counts.
    pub scopes: BTreeMap<String, Trust>,
}

/// What is required of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// Nothing: every image may be pulled.
    #[default]
    Anything,
    /// No image may be pulled.
    Nothing,
    /// A signature by one of these keys, for the digest and for the repository it is pulled from.
    SignedBy(Vec<PublicKey>),
}

impl Policy {
    /// What is required of the image `reference`.
    #[must_use]
    pub fn trust(&self, reference: &Reference) -> &Trust {
        let name = reference.name();
        let mut scope = &*name;
        loop {
            if let Some(trust) = self.scopes.get(scope) {
                return trust;
            }
            match scope.rsplit_once('/') {
                Some((above, _)) => scope = above,
                None => return &self.default,
            }
        }
    }

    /// Checks that the image of a manifest, chosen from an index or not, is what is required.
    ///
    /// Signatures are looked for as cosign stores them: as referrers of the digest and under the tag
    /// `sha256-….sig`, for the index and for the manifest. One that is right is enough.
    ///
    /// # Errors
    /// `NotTrusted` where no image may be pulled; `NotSigned` where no signature is found that is
    /// right, with the reason why the last one is not.
    pub(crate) fn check(
        &self,
        client: &Client,
        reference: &Reference,
        digests: &[Digest],
    ) -> Result<()> {
        let refuse = |code| {
            let doing = format!("trust image {reference}");
            Error::new(ErrorKind::PermissionDenied, code, doing)
        };
        let keys = match self.trust(reference) {
            Trust::Anything => return Ok(()),
            Trust::Nothing => return Err(refuse("NotTrusted")),
            Trust::SignedBy(keys) => keys,
        };
        let mut reason = None;
        for digest in digests {
            let signed = Signed {
                client,
                reference,
                digest: *digest,
                keys,
            };
            match signed.find() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => reason = Some(error),
            }
        }
        let error = refuse("NotSigned");
        Err(match reason {
            Some(reason) => error.with_source(reason),
            None => error,
        })
    }
}

/// A key that signatures are checked with: ECDSA on the curve P-256.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// Reads a key as `cosign generate-key-pair` and `openssl ec -pubout` write it.
    ///
    /// # Errors
    /// `InvalidKey`; `UnsupportedKey` for one of another kind.
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| {
            Error::invalid("InvalidKey", "read a public key").with_source(error)
        })?;
        let point = der.strip_prefix(&P256_PREFIX[..]);
        match point.filter(|point| point.len() == 65 && point[0] == 4) {
            Some(point) => Ok(Self(point.to_vec())),
            None => {
                let doing = "read a public key: only ECDSA on the curve P-256 is supported";
                Err(Error::new(ErrorKind::Unsupported, "UnsupportedKey", doing))
            }
        }
    }

    /// Whether `signature` is this key's for the SHA-256 of `message`.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms = default_provider().signature_verification_algorithms.all;
        let ecdsa = algorithms.iter().find(|algorithm| {
            algorithm.public_key_alg_id() == alg_id::ECDSA_P256
                && algorithm.signature_alg_id() == alg_id::ECDSA_SHA256
        });
        ecdsa.is_some_and(|ecdsa| ecdsa.verify_signature(&self.0, message, signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", Digest::of(&self.0).short())
    }
}

/// The search for a signature of one digest.
struct Signed<'a> {
    client: &'a Client,
    reference: &'a Reference,
    digest: Digest,
    keys: &'a [PublicKey],
}

impl Signed<'_> {
    /// Whether there is a right signature; the error tells why there may be one that is not seen.
    fn find(&self) -> Result<bool> {
        let mut reason = None;
        let mut seen = BTreeSet::new();
        let tag = format!("sha256-{}.sig", self.digest.hex());
        let tagged = self.reference.with_tag(&tag)?;
        let mut places = vec![tagged];
        match self.client.referrers(
            &self.reference.with_digest(self.digest),
            Some(ARTIFACT_TYPE),
        ) {
            Ok(found) => {
                let found = found.iter().take(MAX_SIGNATURES);
                places.extend(found.map(|entry| self.reference.with_digest(entry.digest)));
            }
            Err(error) => reason = Some(error),
        }
        for place in places {
            let manifest = match self.client.manifest(&place) {
                Ok(Document::Manifest(manifest)) => manifest,
                Ok(Document::Index(_)) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    reason = Some(error);
                    continue;
                }
            };
            if seen.insert(manifest.digest()) {
                match self.any_of(&manifest) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(error) => reason = Some(error),
                }
            }
        }
        reason.map_or(Ok(false), Err)
    }

    /// Whether one of the signatures that `manifest` holds is right.
    fn any_of(&self, manifest: &Manifest) -> Result<bool> {
        let mut reason = None;
        let layers = manifest.layers().iter();
        for layer in layers
            .filter(|layer| layer.media_type.as_str() == PAYLOAD_TYPE)
            .take(MAX_SIGNATURES)
        {
            match self.check(layer) {
                Ok(()) => return Ok(true),
                Err(error) => reason = Some(error),
            }
        }
        reason.map_or(Ok(false), Err)
    }

    /// Checks one signature and what it is for.
    fn check(&self, layer: &Descriptor) -> Result<()> {
        let wrong = |what: &str| {
            let doing = format!("check signature {}: {what}", layer.digest);
            Error::new(ErrorKind::Integrity, "SignatureMismatch", doing)
        };
        let signature = layer
            .annotations
            .get(SIGNATURE)
            .and_then(|text| base64::decode(text));
        let signature = signature.ok_or_else(|| wrong("there is no signature"))?;
        let source = FromRegistry {
            client: self.client.clone(),
            reference: self.reference.clone(),
        };
        // Its digest is checked, so that what is read below is what was signed.
        let bytes = source.raw(layer)?;
        if !self.keys.iter().any(|key| key.verifies(&bytes, &signature)) {
            return Err(wrong("it is by none of the keys"));
        }
        let Payload { critical } = json::parse(&bytes, "the payload of a signature")?;
        if critical.kind != PAYLOAD_KIND {
            return Err(wrong("it is not one of an image"));
        }
        if critical.image.digest != self.digest {
            return Err(wrong("it is for another digest"));
        }
        let signed: Reference = critical.identity.reference.parse()?;
        if signed.name() != self.reference.name() {
            return Err(wrong(&format!("it is for {}", signed.name())));
        }
        Ok(())
    }
}

/// What is signed: "simple signing" as Red Hat described it and cosign uses it.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: SignedImage,
    identity: Identity,
}

#[derive(Deserialize)]
struct SignedImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

/// The media type of what is signed.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The artifact type of signatures that are referrers.
const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// The annotation with the signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// What the payload says that it is.
const PAYLOAD_KIND: &str = "cosign container image signature";

/// How many signatures of one kind are looked at.
const MAX_SIGNATURES: usize = 64;

/// What comes before the point in an encoded key: a sequence of the algorithm (`id-ecPublicKey`,
/// `prime256v1`) and a bit string.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
