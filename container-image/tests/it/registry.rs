//! Push and pull, end to end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use container_image::server::{Server, ServerOptions};
use container_image::{
    Client, ClientOptions, Credentials, Document, ErrorKind, Index, Phase, Platform, PullStatus,
    Reference, RegistryError, pull, push, unpack,
};

use crate::fixture::*;

#[test]
fn an_image_travels_to_a_registry_and_back_unpacked() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "team/app:v1", 3_000_000);
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));

    let pulled = pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(pulled.status, PullStatus::Downloaded);
    assert_eq!(pulled.image.id(), image.id());
    assert_eq!(pulled.image.digest(), image.digest());
    assert_eq!(pulled.image.manifest().raw(), image.manifest().raw());
    assert_eq!(*sink.commits.lock().unwrap(), [0, 1]);
    let files = sink.files(&pulled.image);
    assert_eq!(files[Path::new("etc/motd")], b"hello");
    assert_eq!(files[Path::new("data")], noise(7, 3_000_000));
    assert_eq!(store.resolve(&reference).unwrap().digest(), image.digest());
}

#[test]
fn a_second_pull_asks_for_no_blob() {
    let server = serve();
    let (reference, _, _dir) = published(&server, "app", 10_000);
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));
    pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(blob_requests(&server, "GET"), 3);

    server.clear_log();
    let again = pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(again.status, PullStatus::UpToDate);
    assert_eq!(blob_requests(&server, "GET"), 0);
    let manifests = server
        .log()
        .iter()
        .filter(|a| a.target.contains("/manifests/"))
        .count();
    assert_eq!(manifests, 1);

    // Layers that the sink lost come from the store.
    fs::remove_dir_all(&sink.root).unwrap();
    fs::create_dir(&sink.root).unwrap();
    let healed = pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(healed.status, PullStatus::Downloaded);
    assert_eq!(blob_requests(&server, "GET"), 0);
    assert_eq!(sink.files(&healed.image).len(), 2);
}

#[test]
fn a_shared_base_is_fetched_once() {
    let server = serve();
    let dir = temp_dir();
    let store = open_store(&dir.path().join("source"));
    let base = tar_of(&[("base", &noise(1, 100_000))]);
    let names = ["one:1", "two:1"].map(|name| reference(&server, name));
    for (at, name) in names.iter().enumerate() {
        let top = tar_of(&[("top", &[u8::try_from(at).unwrap(); 10])]);
        let image = make_image(&store, name, &[base.clone(), top]);
        push(&image, name, &push_options()).unwrap();
    }
    let store = open_store(&dir.path().join("target"));
    pull(&names[0], &store, &pull_options(), None).unwrap();
    server.clear_log();
    let two = pull(&names[1], &store, &pull_options(), None)
        .unwrap()
        .image;
    assert_eq!(blob_requests(&server, "GET"), 2);
    let shared = two.layers()[0].descriptor.digest.to_string();
    assert!(
        !server
            .log()
            .iter()
            .any(|access| access.target.contains(&shared))
    );
}

#[test]
fn a_damaged_local_blob_is_fetched_again() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 10_000);
    let dir = temp_dir();
    let store = open_store(dir.path());
    pull(&reference, &store, &pull_options(), None).unwrap();
    let path = store.blob_path(big_layer(&image).digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();

    let sink = Directories::new(&dir.path().join("layers"));
    let local = store.resolve(&reference).unwrap();
    let error = unpack(&local, &sink, &Default::default()).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Integrity, "DigestMismatch")
    );
    assert_eq!(sink.drafts(), 0);

    server.clear_log();
    let healed = pull(&reference, &store, &pull_options(), None).unwrap();
    assert_eq!(healed.status, PullStatus::Downloaded);
    assert_eq!(blob_requests(&server, "GET"), 1);
    assert_eq!(fs::read(&path).unwrap().len(), bytes.len());
    unpack(&healed.image, &sink, &Default::default()).unwrap();
}

#[test]
fn a_sink_that_wants_order_gets_it() {
    let server = serve();
    let reference = reference(&server, "deep");
    let dir = temp_dir();
    let store = open_store(&dir.path().join("source"));
    let archives: Vec<_> = (0..8)
        .map(|n| tar_of(&[("file", &noise(n, 5_000))]))
        .collect();
    let image = make_image(&store, &reference, &archives);
    push(&image, &reference, &push_options()).unwrap();
    let store = open_store(&dir.path().join("target"));
    let mut sink = Directories::new(&dir.path().join("layers"));
    sink.in_order = true;
    pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
    assert_eq!(*sink.commits.lock().unwrap(), (0..8).collect::<Vec<_>>());
}

#[test]
fn a_second_push_uploads_nothing_and_another_repository_mounts() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app:1", 10_000);
    let again = push(&image, &reference, &push_options()).unwrap();
    assert_eq!((again.uploaded_blobs, again.digest), (0, image.digest()));
    assert_eq!(
        blob_requests(&server, "PUT") + blob_requests(&server, "POST"),
        0
    );

    server.clear_log();
    let other = reference
        .to_string()
        .replace("/app:1", "/other:2")
        .parse()
        .unwrap();
    let mounted = push(&image, &other, &push_options()).unwrap();
    assert_eq!(mounted.uploaded_blobs, 0);
    assert_eq!(blob_requests(&server, "POST"), 3);
    assert_eq!(blob_requests(&server, "PUT"), 0);
}

#[test]
fn pushing_another_tag_does_not_move_latest() {
    let server = serve();
    let (latest, first, dir) = published(&server, "app", 1_000);
    assert_eq!(latest.tag(), Some("latest"));
    let store = open_store(dir.path());
    let v2 = latest.with_tag("v2").unwrap();
    let second = make_image(&store, &v2, &[tar_of(&[("other", b"x")])]);
    push(&second, &v2, &push_options()).unwrap();
    let target = temp_dir();
    let target = open_store(target.path());
    let pulled = pull(&latest, &target, &pull_options(), None).unwrap();
    assert_eq!(pulled.image.id(), first.id());
}

#[test]
fn an_index_gives_the_image_of_the_platform_and_both_digests() {
    let server = serve();
    let dir = temp_dir();
    let store = open_store(&dir.path().join("source"));
    let client = Client::new(impatient());
    let mut children = Vec::new();
    for (at, platform) in ["linux/amd64", "linux/arm64/v8"].iter().enumerate() {
        let name: Reference = reference(&server, "multi")
            .with_tag(&format!("part{at}"))
            .unwrap();
        let image = make_image(
            &store,
            &name,
            &[tar_of(&[("platform", platform.as_bytes())])],
        );
        push(&image, &name, &push_options()).unwrap();
        let mut child = image.manifest().descriptor().clone();
        child.platform = Some(platform.parse().unwrap());
        children.push(child);
    }
    let index = Index::new(children.clone()).unwrap();
    let multi = reference(&server, "multi");
    client
        .put_manifest(&multi, &index.descriptor().media_type, index.raw())
        .unwrap();

    let target = open_store(&dir.path().join("target"));
    let mut options = pull_options();
    options.platform = Some("linux/arm64".parse().unwrap());
    let pulled = pull(&multi, &target, &options, None).unwrap();
    assert_eq!(pulled.image.digest(), children[1].digest);
    assert_eq!(pulled.image.index_digest(), Some(index.digest()));
    // By the digest of the index the same image is found, here and there.
    let by_digest = multi.with_digest(index.digest());
    assert_eq!(
        target.resolve(&by_digest).unwrap().digest(),
        children[1].digest
    );
    server.clear_log();
    pull(&by_digest, &target, &options, None).unwrap();
    assert_eq!(
        server.log().iter().filter(|a| a.target.len() > 4).count(),
        0
    );

    options.platform = Some("linux/s390x".parse().unwrap());
    let error = pull(&multi, &target, &options, None).unwrap_err();
    assert_eq!(error.code(), "PlatformNotFound");
    assert!(
        error.report().contains("linux/amd64, linux/arm64/v8"),
        "{}",
        error.report()
    );
    assert_eq!(Platform::host().os, "linux");
}

#[test]
fn progress_tells_each_layer_from_start_to_end() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 2_000_000);
    let events = Arc::new(Mutex::new(Vec::new()));
    let mut options = pull_options();
    let seen = events.clone();
    options.progress = Some(Arc::new(move |event| seen.lock().unwrap().push(event)));
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));
    pull(&reference, &store, &options, Some(&sink)).unwrap();
    let events = events.lock().unwrap();
    let layer = big_layer(&image);
    let own: Vec<_> = events
        .iter()
        .filter(|event| event.id == layer.digest)
        .collect();
    assert_eq!(own.first().unwrap().phase, Phase::Waiting);
    assert_eq!(own.last().unwrap().phase, Phase::Complete);
    let downloading: Vec<_> = own
        .iter()
        .filter(|event| event.phase == Phase::Downloading)
        .collect();
    assert!(downloading.len() > 1);
    assert!(
        downloading
            .windows(2)
            .all(|pair| pair[0].done < pair[1].done)
    );
    assert_eq!(downloading.last().unwrap().done, layer.size_bytes);
    assert_eq!(downloading[0].total, Some(layer.size_bytes));
    assert_eq!(Phase::Complete.to_string(), "Pull complete");
}

#[test]
fn basic_credentials_open_and_wrong_ones_do_not() {
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(Credentials::new("user", "secret")));
    let server = Server::start(options).unwrap();
    let reference = reference(&server, "private/app");
    let dir = temp_dir();
    let store = open_store(dir.path());
    let image = make_image(&store, &reference, &[tar_of(&[("x", b"y")])]);
    let push_as = |credentials: Option<Credentials>| {
        let mut options = push_options();
        let registry = reference.registry().to_owned();
        options.client.credentials = credentials.map(|c| (registry, c)).into_iter().collect();
        push(&image, &reference, &options)
    };
    for credentials in [None, Some(Credentials::new("user", "wrong"))] {
        let error = push_as(credentials).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unauthorized, "Unauthorized")
        );
        assert!(!error.report().contains("wrong"));
        assert_eq!(RegistryError::of(&error).unwrap().status, 401);
    }
    push_as(Some(Credentials::new("user", "secret"))).unwrap();
}

#[test]
fn the_manifest_of_a_tag_is_as_it_was_pushed() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 100);
    let document = Client::new(ClientOptions::default())
        .manifest(&reference)
        .unwrap();
    assert_eq!(document.descriptor(), image.manifest().descriptor());
    assert!(
        matches!(document, Document::Manifest(manifest) if manifest.raw() == image.manifest().raw())
    );
}

#[test]
fn a_registry_in_a_directory_keeps_what_it_got_when_it_starts_again() {
    let dir = temp_dir();
    let start = || {
        let mut options = ServerOptions::default();
        options.root = Some(dir.path().join("registry"));
        Server::start(options).unwrap()
    };
    let server = start();
    let (pushed, image, _images) = published(&server, "team/app:v1", 300_000);
    drop(server);
    let server = start();
    let reference = reference(&server, "team/app:v1");
    assert_ne!(pushed.registry(), "");
    let store = open_store(&dir.path().join("store"));
    let pulled = pull(&reference, &store, &pull_options(), None).unwrap();
    assert_eq!(pulled.image.digest(), image.digest());
    let uploads = fs::read_dir(dir.path().join("registry/uploads"))
        .unwrap()
        .count();
    assert_eq!(uploads, 0);
}

#[test]
fn sixteen_threads_pull_overlapping_images_while_another_prunes() {
    let server = serve();
    let dir = temp_dir();
    let store = open_store(&dir.path().join("source"));
    let base = tar_of(&[("base", &noise(3, 300_000))]);
    let names: Vec<_> = (0..4)
        .map(|n| reference(&server, &format!("app{n}:1")))
        .collect();
    let mut ids = BTreeSet::new();
    for (seed, name) in (10..).zip(&names) {
        let archives = [base.clone(), tar_of(&[("own", &noise(seed, 50_000))])];
        let image = make_image(&store, name, &archives);
        push(&image, name, &push_options()).unwrap();
        ids.insert(image.id());
    }
    let root = dir.path().join("target");
    let target = open_store(&root);
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..16)
            .map(|n| {
                // Half of them as other processes would, with a handle of their own.
                let store = if n % 2 == 0 {
                    target.clone()
                } else {
                    open_store(&root)
                };
                let name = &names[n % names.len()];
                scope.spawn(move || pull(name, &store, &pull_options(), None).map(|_| ()))
            })
            .collect();
        while !pulls.iter().all(|pull| pull.is_finished()) {
            target.prune().unwrap();
        }
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(target.images().unwrap().len(), 4);
    let pruned = target.prune().unwrap();
    assert_eq!(pruned.blobs, []);
    for name in &names {
        let image = target.resolve(name).unwrap();
        assert!(ids.remove(&image.id()));
        let sink = Directories::new(&dir.path().join(image.id().hex()));
        unpack(&image, &sink, &Default::default()).unwrap();
    }
    assert_eq!(fs::read_dir(root.join("ingest")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(root.join("leases")).unwrap().count(), 0);
}
