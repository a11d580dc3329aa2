//! Signatures: what is signed passes, and nothing else is fetched.

use std::fs;
use std::process::Command;

use container_image::server::Server;
use container_image::{
    Client, CopyOptions, Descriptor, Digest, Image, Index, Location, Manifest, MediaType, Policy,
    PublicKey, PullOptions, Reference, Trust, copy, pull,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::json;

use crate::fixture::*;
use crate::programs::{has, run};

/// Somebody who signs.
struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    fn key(&self) -> PublicKey {
        PublicKey::from_pem(self.0.public_key_pem().as_bytes()).unwrap()
    }

    /// A manifest with a signature of `digest` for `name`, whose blobs are in the registry.
    fn sign(&self, place: &Reference, name: &str, digest: Digest) -> Manifest {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string();
        let signature = self.0.sign(payload.as_bytes()).unwrap();
        self.manifest(place, payload.as_bytes(), &signature)
    }

    fn manifest(&self, place: &Reference, payload: &[u8], signature: &[u8]) -> Manifest {
        let client = Client::new(impatient());
        let put = |blob: &Descriptor, bytes: &[u8]| {
            let bytes = bytes.to_vec();
            let mut open = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<_>);
            client.put_blob(place, blob, None, &mut open).unwrap();
        };
        let payload_type = MediaType::new("application/vnd.dev.cosign.simplesigning.v1+json");
        let mut layer = Descriptor::of(payload_type, payload);
        let text = base64(signature);
        layer
            .annotations
            .insert("dev.cosignproject.cosign/signature".into(), text);
        put(&layer, payload);
        let config = Descriptor::of(MediaType::CONFIG, b"{}");
        put(&config, b"{}");
        Manifest::new(config, vec![layer]).unwrap()
    }
}

fn base64(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(char::from(digits[bits >> (18 - 6 * index) & 63]));
        }
    }
    text + &"=".repeat((3 - bytes.len() % 3) % 3)
}

/// Stores a signature where cosign does: under a tag.
fn put_tagged(place: &Reference, digest: Digest, signature: &Manifest) {
    let tag = place
        .with_tag(&format!("sha256-{}.sig", digest.hex()))
        .unwrap();
    let client = Client::new(impatient());
    client
        .put_manifest(&tag, &MediaType::MANIFEST, signature.raw())
        .unwrap();
}

/// Stores a signature as a referrer of what it is for.
fn put_referrer(place: &Reference, subject: &Descriptor, signature: &Manifest) {
    let mut document: serde_json::Value = serde_json::from_slice(signature.raw()).unwrap();
    document["subject"] = serde_json::to_value(subject).unwrap();
    document["artifactType"] = "application/vnd.dev.cosign.artifact.sig.v1+json".into();
    let raw = serde_json::to_vec(&document).unwrap();
    let client = Client::new(impatient());
    let reference = place.with_digest(Digest::of(&raw));
    client
        .put_manifest(&reference, &MediaType::MANIFEST, &raw)
        .unwrap();
}

fn options(key: PublicKey) -> PullOptions {
    let mut options = pull_options();
    options.policy.default = Trust::SignedBy(vec![key]);
    options
}

/// Pulls into a new store; what is refused leaves nothing and no layer was asked for.
fn try_pull(
    server: &Server,
    name: &Reference,
    options: &PullOptions,
) -> Result<Image, &'static str> {
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));
    server.clear_log();
    match pull(name, &store, options, Some(&sink)) {
        Ok(pulled) => Ok(pulled.image),
        Err(error) => {
            assert!(store.images().unwrap().is_empty());
            assert_eq!(
                fs::read_dir(store.path().join("blobs/sha256"))
                    .unwrap()
                    .count(),
                0
            );
            assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
            Err(error.code())
        }
    }
}

#[test]
fn signed_images_pass_and_others_are_refused_before_anything_is_fetched() {
    let server = serve();
    let signer = Signer::new();
    let (name, image, _dir) = published(&server, "team/app:1", 50_000);
    let (other, other_image, _other_dir) = published(&server, "team/other:1", 60_000);
    let options = options(signer.key());
    let digest = image.digest();
    assert_eq!(try_pull(&server, &name, &options).unwrap_err(), "NotSigned");
    let layers = image
        .layers()
        .iter()
        .map(|layer| layer.descriptor.digest.hex());
    let layers: Vec<_> = layers.chain([image.id().hex()]).collect();
    assert!(
        server
            .log()
            .iter()
            .all(|access| layers.iter().all(|hex| !access.target.contains(hex)))
    );

    // By somebody else, for another digest, for another repository, of no image, altered.
    let good = name.name();
    let wrong = [
        Signer::new().sign(&name, &good, digest),
        signer.sign(&name, &good, other_image.digest()),
        signer.sign(&name, &other.name(), digest),
        signer.sign(&name, "", digest),
        {
            let payload = json!({"critical": {"type": "atomic container signature",
                "identity": {"docker-reference": good}, "image": {"docker-manifest-digest": digest}}});
            let payload = payload.to_string();
            let signature = signer.0.sign(payload.as_bytes()).unwrap();
            signer.manifest(&name, payload.as_bytes(), &signature)
        },
        {
            let signature = signer.0.sign(b"something else").unwrap();
            let payload = json!({"critical": {"type": "cosign container image signature",
                "identity": {"docker-reference": good}, "image": {"docker-manifest-digest": digest}}});
            signer.manifest(&name, payload.to_string().as_bytes(), &signature)
        },
        signer.manifest(&name, b"{}", b"no signature"),
    ];
    for (index, signature) in wrong.iter().enumerate() {
        put_tagged(&name, digest, signature);
        put_referrer(&name, image.manifest().descriptor(), signature);
        assert_eq!(
            try_pull(&server, &name, &options).unwrap_err(),
            "NotSigned",
            "{index}"
        );
    }
    // A right one beside all the wrong ones, under the tag.
    put_tagged(&name, digest, &signer.sign(&name, &good, digest));
    assert_eq!(try_pull(&server, &name, &options).unwrap().digest(), digest);
    assert_eq!(
        try_pull(&server, &name.with_digest(digest), &options)
            .unwrap()
            .digest(),
        digest
    );
    assert_eq!(
        try_pull(&server, &other, &options).unwrap_err(),
        "NotSigned"
    );
}

#[test]
fn a_signature_may_be_a_referrer() {
    let server = serve();
    let signer = Signer::new();
    let (name, image, _dir) = published(&server, "team/app:1", 50_000);
    let signature = signer.sign(&name, &name.to_string(), image.digest());
    put_referrer(&name, image.manifest().descriptor(), &signature);
    let image = try_pull(&server, &name, &options(signer.key())).unwrap();
    assert_eq!(image.layers().len(), 2);
    let stranger = options(Signer::new().key());
    assert_eq!(
        try_pull(&server, &name, &stranger).unwrap_err(),
        "NotSigned"
    );
}

#[test]
fn a_signed_index_signs_its_images() {
    let server = serve();
    let signer = Signer::new();
    let (name, image, _dir) = published(&server, "team/app:1", 50_000);
    let mut entry = image.manifest().descriptor().clone();
    entry.platform = Some(image.platform().clone());
    let index = Index::new(vec![entry]).unwrap();
    let client = Client::new(impatient());
    let multi = name.with_tag("multi").unwrap();
    client
        .put_manifest(&multi, &MediaType::INDEX, index.raw())
        .unwrap();
    let options = options(signer.key());
    assert_eq!(
        try_pull(&server, &multi, &options).unwrap_err(),
        "NotSigned"
    );
    put_tagged(
        &name,
        index.digest(),
        &signer.sign(&name, &name.name(), index.digest()),
    );
    assert_eq!(
        try_pull(&server, &multi, &options).unwrap().index_digest(),
        Some(index.digest())
    );
    // The image alone is not what was signed.
    assert_eq!(try_pull(&server, &name, &options).unwrap_err(), "NotSigned");
    put_tagged(
        &name,
        image.digest(),
        &signer.sign(&name, &name.name(), image.digest()),
    );
    try_pull(&server, &name, &options).unwrap();
}

#[test]
fn what_is_required_depends_on_the_repository() {
    let server = serve();
    let (name, _, _dir) = published(&server, "team/app:1", 1_000);
    let mut options = pull_options();
    options.policy.default = Trust::Nothing;
    assert_eq!(
        try_pull(&server, &name, &options).unwrap_err(),
        "NotTrusted"
    );
    for scope in [
        name.registry().to_owned(),
        format!("{}/team", name.registry()),
        name.name(),
    ] {
        let mut policy = Policy {
            default: Trust::Nothing,
            ..Policy::default()
        };
        policy.scopes.insert(scope.clone(), Trust::Anything);
        options.policy = policy.clone();
        try_pull(&server, &name, &options).unwrap();
        policy
            .scopes
            .insert(name.name(), Trust::SignedBy(Vec::new()));
        options.policy = policy;
        assert_eq!(
            try_pull(&server, &name, &options).unwrap_err(),
            "NotSigned",
            "{scope}"
        );
    }
    options.policy = Policy {
        default: Trust::Nothing,
        ..Policy::default()
    };
    options
        .policy
        .scopes
        .insert(format!("{}/tea", name.registry()), Trust::Anything);
    assert_eq!(
        try_pull(&server, &name, &options).unwrap_err(),
        "NotTrusted"
    );

    let mut copying = CopyOptions::default();
    copying.client = impatient();
    copying.policy = options.policy;
    let dir = temp_dir();
    let to: Location = format!("dir:{}", dir.path().join("x").display())
        .parse()
        .unwrap();
    let error = copy(&Location::Registry(name), &to, &copying).unwrap_err();
    assert_eq!(error.code(), "NotTrusted");
    assert!(!dir.path().join("x").exists());
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let error = PublicKey::from_pem(other.public_key_pem().as_bytes()).unwrap_err();
    assert_eq!(error.code(), "UnsupportedKey");
    let private = Signer::new().0.serialize_pem();
    for pem in ["", "nothing", &*private] {
        let error = PublicKey::from_pem(pem.as_bytes()).unwrap_err();
        assert_eq!(error.code(), "InvalidKey");
    }
    assert_eq!(Signer::new().0.subject_public_key_info().len(), 91);
}

#[test]
fn what_openssl_signs_is_signed() {
    if !has("openssl") {
        return;
    }
    let server = serve();
    let dir = temp_dir();
    let (name, image, _dir) = published(&server, "team/app:1", 1_000);
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir.path()));
    openssl(&[
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-out",
        "key",
    ]);
    openssl(&["ec", "-in", "key", "-pubout", "-out", "public"]);
    // In the order of fields and with the spaces of cosign, which do not matter.
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{}"}},"image":{{"docker-manifest-digest":"{}"}},"type":"cosign container image signature"}},"optional":null}}"#,
        name.name(),
        image.digest()
    );
    fs::write(dir.path().join("payload"), &payload).unwrap();
    openssl(&[
        "dgst",
        "-sha256",
        "-sign",
        "key",
        "-out",
        "signature",
        "payload",
    ]);
    let signature = fs::read(dir.path().join("signature")).unwrap();
    let signature = Signer::new().manifest(&name, payload.as_bytes(), &signature);
    put_tagged(&name, image.digest(), &signature);
    let key = PublicKey::from_pem(&fs::read(dir.path().join("public")).unwrap()).unwrap();
    try_pull(&server, &name, &options(key)).unwrap();
}
