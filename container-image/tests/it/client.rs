//! The calls of the distribution specification, one by one.

use std::io::{Cursor, Read};

use container_image::{
    Client, Descriptor, Digest, Document, Error, ErrorKind, Manifest, MediaType, Reference,
};

use crate::fixture::*;
use crate::programs::*;

/// Sends `bytes` and tells whether they had to be.
fn put(
    client: &Client,
    reference: &Reference,
    bytes: &[u8],
    from: Option<&str>,
) -> Result<(Descriptor, bool), Error> {
    let blob = Descriptor::of(MediaType::LAYER_GZIP, bytes);
    let mut open = || Ok(Box::new(Cursor::new(bytes.to_vec())) as Box<dyn Read>);
    let sent = client.put_blob(reference, &blob, from, &mut open)?;
    Ok((blob, sent))
}

/// A manifest of an artifact about `subject`.
fn artifact(config: &Descriptor, artifact_type: &str, subject: &Descriptor) -> Vec<u8> {
    let document = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::MANIFEST,
        "artifactType": artifact_type,
        "config": config,
        "layers": [config],
        "subject": subject,
        "annotations": {"of": artifact_type},
    });
    serde_json::to_vec(&document).unwrap()
}

/// Goes through all calls at a registry that lets images be deleted.
fn every_call(registry: &str) {
    let name = |text: &str| -> Reference { format!("{registry}/{text}").parse().unwrap() };
    let client = Client::new(impatient());
    let app = name("team/app:v1");
    client.ping(registry).unwrap();

    // Blobs: at once, in pieces, from another repository, of no bytes, by range.
    let bytes = noise(1, 300_000);
    let (layer, sent) = put(&client, &app, &bytes, None).unwrap();
    assert!(sent && client.has_blob(&app, layer.digest).unwrap());
    let mut read = Vec::new();
    client
        .blob(&app, &layer)
        .unwrap()
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, bytes);
    let mut pieces = impatient();
    pieces.chunk_bytes = Some(100_000);
    let (pieced, sent) = put(&Client::new(pieces), &app, &noise(2, 250_001), None).unwrap();
    assert!(sent && client.has_blob(&app, pieced.digest).unwrap());
    let other = name("other:v1");
    assert!(!client.has_blob(&other, layer.digest).unwrap());
    let (_, sent) = put(&client, &other, &bytes, Some("team/app")).unwrap();
    assert!(!sent && client.has_blob(&other, layer.digest).unwrap());
    let (_, sent) = put(&client, &other, b"new", Some("team/app")).unwrap();
    assert!(sent);
    let (empty, _) = put(&client, &app, b"", None).unwrap();
    assert_eq!(
        client
            .blob(&app, &empty)
            .unwrap()
            .read(&mut [0; 8])
            .unwrap(),
        0
    );
    let missing = Descriptor::of(MediaType::LAYER_GZIP, b"not there");
    assert_eq!(
        client.blob(&app, &missing).unwrap_err().code(),
        "BlobUnknown"
    );
    let mut lie = || Ok(Box::new(Cursor::new(b"not where?".to_vec())) as Box<dyn Read>);
    let blob = Descriptor::of(MediaType::LAYER_GZIP, b"not there!");
    assert!(client.put_blob(&app, &blob, None, &mut lie).is_err());
    assert!(!client.has_blob(&app, blob.digest).unwrap());

    // Manifests, by tag and by digest.
    let (config, _) = put(&client, &app, b"{}", None).unwrap();
    let config = Descriptor::new(MediaType::CONFIG, config.digest, 2);
    let manifest = Manifest::new(config.clone(), vec![layer.clone(), pieced]).unwrap();
    let media_type = MediaType::MANIFEST;
    for tag in ["v1", "v2", "v10"] {
        let tagged = app.with_tag(tag).unwrap();
        let digest = client
            .put_manifest(&tagged, &media_type, manifest.raw())
            .unwrap();
        assert_eq!(digest, manifest.digest());
    }
    let by_digest = app.with_digest(manifest.digest());
    for reference in [&app, &by_digest] {
        let Document::Manifest(found) = client.manifest(reference).unwrap() else {
            panic!("no manifest");
        };
        assert_eq!(found.raw(), manifest.raw());
        let head = client.head_manifest(reference).unwrap().unwrap();
        assert_eq!(&head, manifest.descriptor());
    }
    let error = client.manifest(&app.with_tag("v3").unwrap()).unwrap_err();
    assert_eq!(error.code(), "ManifestUnknown");
    let tags: Result<Vec<_>, _> = client.tags(&app).collect();
    let mut tags = tags.unwrap();
    tags.sort();
    assert_eq!(tags, ["v1", "v10", "v2"]);
    let error = client.tags(&name("nobody")).next().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::NotFound, "NameUnknown")
    );
    let repositories: Result<Vec<_>, _> = client.catalog(registry).collect();
    let repositories = repositories.unwrap();
    assert!(
        repositories.contains(&"team/app".to_owned()),
        "{repositories:?}"
    );

    // What refers to an image.
    assert_eq!(client.referrers(&by_digest, None).unwrap(), []);
    for artifact_type in ["application/x.signature", "application/x.bill"] {
        let raw = artifact(&config, artifact_type, manifest.descriptor());
        let reference = app.with_digest(Digest::of(&raw));
        client.put_manifest(&reference, &media_type, &raw).unwrap();
        client.put_manifest(&reference, &media_type, &raw).unwrap();
    }
    assert_eq!(client.referrers(&by_digest, None).unwrap().len(), 2);
    let bills = client
        .referrers(&by_digest, Some("application/x.bill"))
        .unwrap();
    assert_eq!(bills.len(), 1);
    assert_eq!(bills[0].extra["artifactType"], "application/x.bill");
    assert_eq!(bills[0].annotations["of"], "application/x.bill");
    client
        .delete_manifest(&app.with_digest(bills[0].digest))
        .unwrap();
    let left = client.referrers(&by_digest, None).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");

    // Deletion.
    client.delete_manifest(&by_digest).unwrap();
    assert_eq!(client.manifest(&app).unwrap_err().code(), "ManifestUnknown");
    client.delete_blob(&app, layer.digest).unwrap();
    assert_eq!(client.blob(&app, &layer).unwrap_err().code(), "BlobUnknown");
    let error = client.delete_blob(&app, missing.digest).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::NotFound, "BlobUnknown")
    );
}

#[test]
fn every_call_works_with_docker_registry() {
    if !has("docker-registry") {
        return;
    }
    let dir = temp_dir();
    let registry = DockerRegistry::start(dir.path(), "");
    every_call(&registry.address);
}

#[test]
fn every_call_works_with_our_server() {
    let server = serve();
    every_call(&server.address().to_string());
}
