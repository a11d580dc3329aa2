//! Other people's tools: they read what we write, and we what they write.

use std::path::Path;
use std::process::Command;

use container_image::{Client, Reference, pull, push};

use crate::fixture::*;
use crate::programs::*;

mod archives;

#[test]
fn docker_registry_takes_and_gives_our_images() {
    if !has("docker-registry") {
        return;
    }
    let dir = temp_dir();
    let registry = DockerRegistry::start(dir.path(), "");
    let reference: Reference = format!("{}/team/app:v1", registry.address).parse().unwrap();
    let store = open_store(&dir.path().join("source"));
    let archives = [
        tar_of(&[("a", &noise(1, 2_000_000))]),
        tar_of(&[("b", b"2")]),
    ];
    let image = make_image(&store, &reference, &archives);
    let pushed = push(&image, &reference, &push_options()).unwrap();
    assert_eq!((pushed.digest, pushed.uploaded_blobs), (image.digest(), 3));
    assert_eq!(
        push(&image, &reference, &push_options())
            .unwrap()
            .uploaded_blobs,
        0
    );
    let other = format!("{}/other:v1", registry.address).parse().unwrap();
    assert_eq!(
        push(&image, &other, &push_options())
            .unwrap()
            .uploaded_blobs,
        0
    );

    let target = open_store(&dir.path().join("target"));
    let sink = Directories::new(&dir.path().join("layers"));
    let pulled = pull(&reference, &target, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(pulled.image.id(), image.id());
    assert_eq!(
        sink.files(&pulled.image)[Path::new("a")],
        noise(1, 2_000_000)
    );
    let missing = reference.with_tag("none").unwrap();
    let error = pull(&missing, &target, &pull_options(), None).unwrap_err();
    assert_eq!(error.code(), "ManifestUnknown");
    let error =
        Client::new(impatient()).manifest(&format!("{}/no", registry.address).parse().unwrap());
    assert_eq!(error.unwrap_err().code(), "ManifestUnknown");
}

#[test]
fn skopeo_and_umoci_read_the_store_and_we_read_theirs() {
    if !has("skopeo") || !has("umoci") {
        return;
    }
    let dir = temp_dir();
    let root = dir.path().join("store");
    let store = open_store(&root);
    let reference: Reference = "example.com/team/app:v1".parse().unwrap();
    let image = make_image(&store, &reference, &[tar_of(&[("etc/motd", b"hello")])]);
    let listed = run(Command::new("umoci").arg("ls").arg("--layout").arg(&root));
    assert_eq!(listed.trim(), reference.to_string());
    let name = format!("oci:{}:{reference}", root.display());
    let inspected = run(skopeo(dir.path()).args(["inspect", "--raw", &name]));
    assert_eq!(inspected.as_bytes(), image.manifest().raw());

    let copy = format!("oci:{}:{reference}", dir.path().join("copy").display());
    run(skopeo(dir.path()).args(["copy", "--quiet", &name, &copy]));
    let copied = open_store(&dir.path().join("copy"))
        .resolve(&reference)
        .unwrap();
    assert_eq!((copied.digest(), copied.id()), (image.digest(), image.id()));
    assert_eq!(copied.layers(), image.layers());
}

#[test]
fn skopeo_pushes_to_and_pulls_from_our_server() {
    if !has("skopeo") {
        return;
    }
    let server = serve();
    let dir = temp_dir();
    let root = dir.path().join("store");
    let store = open_store(&root);
    let reference = reference(&server, "team/app:v1");
    let image = make_image(
        &store,
        &reference,
        &[tar_of(&[("data", &noise(5, 400_000))])],
    );
    let local = format!("oci:{}:{reference}", root.display());
    let remote = format!("docker://{reference}");
    run(skopeo(dir.path()).args([
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        &local,
        &remote,
    ]));
    let target = open_store(&dir.path().join("target"));
    let pulled = pull(&reference, &target, &pull_options(), None).unwrap();
    assert_eq!(pulled.image.digest(), image.digest());

    let back = format!("oci:{}:back", dir.path().join("back").display());
    run(skopeo(dir.path()).args(["copy", "--quiet", "--src-tls-verify=false", &remote, &back]));
    let raw = run(skopeo(dir.path()).args(["inspect", "--raw", &back]));
    assert_eq!(raw.as_bytes(), image.manifest().raw());
    let tags = run(skopeo(dir.path()).args([
        "list-tags",
        "--tls-verify=false",
        &remote.replace(":v1", ""),
    ]));
    assert!(tags.contains("\"v1\""), "{tags}");
}

#[test]
fn docker_schema_2_keeps_its_digest() {
    if !has("skopeo") {
        return;
    }
    let server = serve();
    let dir = temp_dir();
    let root = dir.path().join("store");
    let store = open_store(&root);
    let reference = reference(&server, "docker:v2");
    make_image(&store, &reference, &[tar_of(&[("data", &noise(5, 4_000))])]);
    let local = format!("oci:{}:{reference}", root.display());
    let remote = format!("docker://{reference}");
    let convert = [
        "copy",
        "--quiet",
        "--format=v2s2",
        "--dest-tls-verify=false",
    ];
    run(skopeo(dir.path()).args(convert).args([&local, &remote]));
    let raw = run(skopeo(dir.path()).args(["inspect", "--raw", "--tls-verify=false", &remote]));
    let target = open_store(&dir.path().join("target"));
    let sink = Directories::new(&dir.path().join("layers"));
    let pulled = pull(&reference, &target, &pull_options(), Some(&sink))
        .unwrap()
        .image;
    assert_eq!(pulled.manifest().raw(), raw.as_bytes());
    assert_eq!(pulled.digest(), container_image::Digest::of(&raw));
    assert_eq!(
        pulled.manifest().descriptor().media_type.to_string(),
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    let again = format!("{}/again:1", server.address()).parse().unwrap();
    assert_eq!(
        push(&pulled, &again, &push_options()).unwrap().digest,
        pulled.digest()
    );
}
