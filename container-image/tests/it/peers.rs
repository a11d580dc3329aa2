//! Other people's tools: they read what we write, and we what they write.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use container_image::server::{Server, ServerOptions};
use container_image::{Client, Credentials, Reference, pull, push};

use crate::fixture::*;
use crate::network::*;
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

/// Copies with skopeo, with `options` before the two names.
fn copy(dir: &Path, options: &[&str], from: &str, to: &str) -> std::process::Output {
    let mut command = skopeo(dir);
    command
        .args(["copy", "--quiet"])
        .args(options)
        .args([from, to]);
    command.output().unwrap()
}

#[test]
fn skopeo_and_our_server_agree_about_certificates() {
    if !has("skopeo") {
        return;
    }
    let dir = temp_dir();
    let root = dir.path().join("store");
    let store = open_store(&root);
    let local: Reference = "example.com/app:v1".parse().unwrap();
    let image = make_image(&store, &local, &[tar_of(&[("a", b"1")])]);
    let from = format!("oci:{}:{local}", root.display());
    let unnamed = self_signed(|_| {});
    let named = self_signed(|params| params.subject_alt_names = names(&["127.0.0.1"]));
    for (identity, is_named) in [(named, true), (unnamed, false)] {
        let server = serve_tls(&identity, LOCALHOST);
        let certs = dir.path().join(format!("certs-{is_named}"));
        fs::create_dir(&certs).unwrap();
        let to = format!("docker://{}", reference(&server, "app:v1"));
        let own = format!("--dest-cert-dir={}", certs.display());
        // Nobody is trusted yet.
        assert!(!copy(dir.path(), &[&own], &from, &to).status.success());
        fs::write(certs.join("ca.crt"), &identity.certificate).unwrap();
        let copied = copy(dir.path(), &[&own], &from, &to);
        assert_eq!(copied.status.success(), is_named, "{copied:?}");
        // We agree with it, under a name that is not this machine's.
        let proxy = Proxy::start(&[("registry.example.com:443", server.address())]);
        let mut options = proxy.options();
        options.hosts_dirs = vec![dir.path().join("hosts")];
        trust(
            &dir.path().join("hosts"),
            "registry.example.com",
            &identity.certificate,
        );
        let error = fetch(&options, "registry.example.com/app:v1").unwrap_err();
        let code = if is_named {
            "CertificateNameMismatch"
        } else {
            "NoSubjectAltName"
        };
        assert_eq!(error.code(), code);
        if is_named {
            let target = open_store(&dir.path().join("target"));
            let name = reference(&server, "app:v1");
            let pulled = pull(&name, &target, &pull_options(), None).unwrap();
            assert_eq!(pulled.image.digest(), image.digest());
        }
    }
}

#[test]
fn docker_registry_with_passwords_and_an_own_authority_works() {
    if !has("docker-registry") || !has("skopeo") || !has_with("htpasswd", "-h") {
        return;
    }
    let dir = temp_dir();
    let path = |name: &str| dir.path().join(name);
    let identity = self_signed(|params| {
        params.subject_alt_names = names(&["127.0.0.1", "registry.example.com"]);
    });
    fs::write(path("cert.pem"), &identity.certificate).unwrap();
    fs::write(path("key.pem"), &identity.key).unwrap();
    run(Command::new("htpasswd")
        .args(["-Bbc"])
        .arg(path("users"))
        .args(["user", "secret"]));
    let more = format!(
        "  tls:\n    certificate: {}\n    key: {}\nauth:\n  htpasswd:\n    realm: x\n    path: {}\n",
        path("cert.pem").display(),
        path("key.pem").display(),
        path("users").display()
    );
    let registry = DockerRegistry::start(dir.path(), &more);
    let proxy = Proxy::start(&[(
        "registry.example.com:443",
        registry.address.parse().unwrap(),
    )]);
    let mut options = proxy.options();
    options.hosts_dirs = vec![path("hosts")];
    trust(
        &path("hosts"),
        "registry.example.com",
        &identity.certificate,
    );
    let user = Credentials::new("user", "secret");
    options
        .credentials
        .insert("registry.example.com".into(), user);
    let name: Reference = "registry.example.com/team/app:v1".parse().unwrap();
    let store = open_store(&path("store"));
    let image = make_image(&store, &name, &[tar_of(&[("a", &noise(1, 100_000))])]);
    let mut pushing = push_options();
    pushing.client = options.clone();
    push(&image, &name, &pushing).unwrap();

    // What skopeo finds there is what we sent, and the other way round.
    let own = format!(
        "--src-cert-dir={}",
        path("hosts").join("registry.example.com").display()
    );
    let there = format!("docker://{}/team/app:v1", registry.address);
    let here = format!("oci:{}:copy", path("copy").display());
    let copied = copy(
        dir.path(),
        &[&own, "--src-creds=user:secret"],
        &there,
        &here,
    );
    assert!(copied.status.success(), "{copied:?}");
    let raw = run(skopeo(dir.path()).args(["inspect", "--raw", &here]));
    assert_eq!(raw.as_bytes(), image.manifest().raw());
    let own = own.replace("--src", "--dest");
    let back = there.replace(":v1", ":v2");
    let copied = copy(
        dir.path(),
        &[&own, "--dest-creds=user:secret"],
        &here,
        &back,
    );
    assert!(copied.status.success(), "{copied:?}");
    let mut pulling = pull_options();
    pulling.client = options;
    let target = open_store(&path("target"));
    let v2 = name.with_tag("v2").unwrap();
    let pulled = pull(&v2, &target, &pulling, None).unwrap().image;
    assert_eq!(pulled.digest(), image.digest());
}

#[test]
fn privileged_podman_pulls_from_and_pushes_to_our_server() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    if !has("podman") {
        return;
    }
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(Credentials::new("user", "secret")));
    let server = Server::start(options).unwrap();
    let registry = server.address().to_string();
    let dir = temp_dir();
    let name = reference(&server, "team/app:v1");
    let store = open_store(&dir.path().join("store"));
    let image = make_image(&store, &name, &[tar_of(&[("a", &noise(1, 100_000))])]);
    let mut client = impatient();
    let user = Credentials::new("user", "secret");
    client.credentials.insert(registry.clone(), user);
    let mut pushing = push_options();
    pushing.client = client.clone();
    push(&image, &name, &pushing).unwrap();

    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let podman = |arguments: &[&str]| podman(dir.path(), arguments).trim().to_owned();
    let auth = format!("--authfile={}", path("auth.json"));
    let plain = "--tls-verify=false";
    podman(&["login", plain, &auth, "-uuser", "-psecret", &registry]);
    let id = podman(&["pull", "--quiet", plain, &auth, &name.to_string()]);
    assert_eq!(format!("sha256:{id}"), image.id().to_string());
    let digest_file = format!("--digestfile={}", path("digest"));
    let other = name.with_tag("v2").unwrap();
    podman(&[
        "push",
        "--quiet",
        plain,
        &auth,
        &digest_file,
        &id,
        &other.to_string(),
    ]);
    let mut pulling = pull_options();
    pulling.client = client;
    let target = open_store(&dir.path().join("target"));
    let pulled = pull(&other, &target, &pulling, None).unwrap().image;
    assert_eq!(pulled.id(), image.id());
    assert_eq!(
        pulled.digest().to_string(),
        fs::read_to_string(path("digest")).unwrap()
    );
}
