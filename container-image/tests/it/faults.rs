//! Registries that lie, break off, stall and never end.

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use container_image::server::{Fault, Server};
use container_image::{
    Client, Credentials, Descriptor, Digest, ErrorKind, MediaType, Reference, Store, pull, push,
};

use crate::fixture::*;

/// Pulls from a registry with faults; gives the error, after checking that nothing stayed.
fn failing_pull(server: &Server, reference: &Reference) -> container_image::Error {
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));
    let error = pull(reference, &store, &pull_options(), Some(&sink)).unwrap_err();
    assert_eq!(sink.drafts(), 0, "{error:?}");
    assert_eq!(store.images().unwrap().len(), 0);
    assert_eq!(entries(&store, "ingest") + entries(&store, "leases"), 0);
    store.prune().unwrap();
    assert_eq!(entries(&store, "blobs/sha256"), 0);
    // Once the registry behaves, the same store works.
    server.clear_faults();
    pull(reference, &store, &pull_options(), Some(&sink)).unwrap();
    error
}

fn entries(store: &Store, folder: &str) -> usize {
    std::fs::read_dir(store.path().join(folder))
        .unwrap()
        .count()
}

fn layer_path(image: &container_image::Image) -> String {
    format!("/blobs/{}", big_layer(image).digest)
}

#[test]
fn altered_short_and_long_layers_are_refused() {
    for (fault, code) in [
        (Fault::Alter, "DigestMismatch"),
        (Fault::Short, "SizeMismatch"),
        (Fault::Long, "SizeMismatch"),
        (Fault::Endless, "SizeMismatch"),
    ] {
        let server = serve();
        let (reference, image, _dir) = published(&server, "app", 200_000);
        server.inject("GET", &layer_path(&image), 100, fault);
        let error = failing_pull(&server, &reference);
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Integrity, code),
            "{error:?}"
        );
        assert!(error.wanted().is_some() && error.found().is_some());
    }
}

#[test]
fn altered_configs_and_manifests_are_refused() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 1_000);
    server.inject("GET", &format!("/blobs/{}", image.id()), 100, Fault::Alter);
    assert_eq!(failing_pull(&server, &reference).code(), "DigestMismatch");
    let by_digest = reference.with_digest(image.digest());
    server.inject("GET", "/manifests/", 100, Fault::Alter);
    assert_eq!(failing_pull(&server, &by_digest).code(), "DigestMismatch");
}

#[test]
fn a_layer_that_is_not_what_the_config_says_is_refused() {
    let server = serve();
    let reference = reference(&server, "liar");
    let dir = temp_dir();
    let store = open_store(dir.path());
    let archives = [tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")])];
    let diff_ids = vec![Digest::of(&archives[0]), Digest::of("something else")];
    let image = make_image_with(&store, &reference, &archives, diff_ids.clone());
    push(&image, &reference, &push_options()).unwrap();
    let target = temp_dir();
    let store = open_store(&target.path().join("store"));
    let sink = Directories::new(&target.path().join("layers"));
    let error = pull(&reference, &store, &pull_options(), Some(&sink)).unwrap_err();
    assert_eq!(error.code(), "DiffIdMismatch");
    assert_eq!(error.wanted(), Some(diff_ids[1].to_string().as_str()));
    assert_eq!(
        error.found(),
        Some(Digest::of(&archives[1]).to_string().as_str())
    );
    assert_eq!(sink.drafts(), 0);
    assert_eq!(store.images().unwrap().len(), 0);
}

#[test]
fn a_cut_layer_is_taken_up_where_it_was_cut() {
    for percent in [10, 50, 99] {
        let server = serve();
        let (reference, image, _dir) = published(&server, "app", 1_000_000);
        let size = big_layer(&image).size_bytes;
        server.inject(
            "GET",
            &layer_path(&image),
            1,
            Fault::Cut(size * percent / 100),
        );
        let dir = temp_dir();
        let store = open_store(&dir.path().join("store"));
        let sink = Directories::new(&dir.path().join("layers"));
        let pulled = pull(&reference, &store, &pull_options(), Some(&sink)).unwrap();
        assert_eq!(
            sink.files(&pulled.image)[Path::new("data")],
            noise(7, 1_000_000)
        );
        let log = server.log();
        let ranges: Vec<_> = log
            .iter()
            .filter_map(|access| access.range.as_deref())
            .collect();
        assert_eq!(ranges, [format!("bytes={}-", size * percent / 100)]);
    }
}

#[test]
fn a_layer_that_is_cut_always_is_given_up() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 100_000);
    server.inject("GET", &layer_path(&image), 1000, Fault::Cut(0));
    let error = failing_pull(&server, &reference);
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Network, "ConnectionLost")
    );
    assert!(error.is_retryable());
}

#[test]
fn what_is_unknown_is_not_found() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 1_000);
    let store = temp_dir();
    let store = open_store(store.path());
    let no_tag = reference.with_tag("none").unwrap();
    let error = pull(&no_tag, &store, &pull_options(), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::NotFound, "ManifestUnknown")
    );
    let gone = Fault::Answer {
        status: 404,
        headers: Vec::new(),
        body: Vec::new(),
    };
    server.inject("GET", &layer_path(&image), 1, gone);
    let error = pull(&reference, &store, &pull_options(), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::NotFound, "BlobUnknown")
    );
}

#[test]
fn nobody_there_is_a_network_error() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let reference: Reference = format!("127.0.0.1:{port}/app").parse().unwrap();
    let store = temp_dir();
    let store = open_store(store.path());
    let error = pull(&reference, &store, &pull_options(), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Network, "ConnectionRefused")
    );
}

#[test]
fn silence_ends_in_a_timeout_wherever_it_begins() {
    // At once: a socket that accepts and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference: Reference = format!("{}/app", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let store = temp_dir();
    let store = open_store(store.path());
    let error = pull(&reference, &store, &pull_options(), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::TimedOut, "TimedOut")
    );

    for fault in [Fault::Silence, Fault::Stall(0), Fault::Stall(50_000)] {
        let server = serve();
        let (reference, image, _dir) = published(&server, "app", 100_000);
        server.inject("GET", &layer_path(&image), 1, fault);
        server.inject("GET", &layer_path(&image), 1000, Fault::Silence);
        let error = failing_pull(&server, &reference);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    }
}

#[test]
fn a_cancelled_pull_ends_though_the_registry_is_silent() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 100_000);
    server.inject("GET", &layer_path(&image), 1, Fault::Stall(50_000));
    let mut options = pull_options();
    options.client.idle_timeout = Duration::from_secs(3600);
    let cancel = options.client.cancel.clone();
    let dir = temp_dir();
    let store = open_store(&dir.path().join("store"));
    let sink = Directories::new(&dir.path().join("layers"));
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&reference, &store, &options, Some(&sink)));
        while !server
            .log()
            .iter()
            .any(|access| access.target.contains(&layer_path(&image)))
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.store(true, Ordering::Relaxed);
        let error = pulling.join().unwrap().unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Cancelled, "Cancelled")
        );
    });
    assert_eq!(sink.drafts(), 0);
    assert_eq!(entries(&store, "ingest"), 0);
}

#[test]
fn busy_registries_are_asked_again_when_they_say() {
    for status in [429, 503] {
        let server = serve();
        let (reference, image, _dir) = published(&server, "app", 1_000);
        let headers = vec![("Retry-After".into(), "3600".into())];
        let busy = Fault::Answer {
            status,
            headers,
            body: b"later".to_vec(),
        };
        server.inject("GET", "/manifests/", 1, busy.clone());
        server.inject("GET", &layer_path(&image), 1, busy.clone());
        let store = temp_dir();
        let store = open_store(store.path());
        // The longest wait is capped by the options.
        pull(&reference, &store, &pull_options(), None).unwrap();

        server.inject("GET", "/manifests/", 100, busy);
        let error = pull(&reference, &store, &pull_options(), None).unwrap_err();
        let answer = container_image::RegistryError::of(&error).unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.retry_after, Some(Duration::from_secs(3600)));
        assert_eq!(answer.message, "later");
        assert!(error.is_retryable());
    }
}

#[test]
fn endless_documents_stop_at_the_bound() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 1_000);
    let client = Client::new(impatient());
    server.inject("GET", "/manifests/", 1, Fault::Endless);
    let error = client.manifest(&reference).unwrap_err();
    assert_eq!(error.code(), "DocumentTooLarge");

    let answer = |status| Fault::Answer {
        status,
        headers: Vec::new(),
        body: vec![b'x'; 10 << 20],
    };
    server.inject("GET", "/manifests/", 1, answer(200));
    assert_eq!(
        client.manifest(&reference).unwrap_err().code(),
        "DocumentTooLarge"
    );
    server.inject("GET", "/manifests/", 1, answer(404));
    let error = client.manifest(&reference).unwrap_err();
    assert!(error.report().len() < 2_000);

    server.inject(
        "GET",
        &format!("/blobs/{}", image.id()),
        100,
        Fault::Endless,
    );
    assert_eq!(failing_pull(&server, &reference).code(), "SizeMismatch");
}

#[test]
fn a_redirect_to_another_origin_carries_no_credentials() {
    let (first, other) = (serve(), serve());
    let (reference, image, dir) = published(&first, "app", 50_000);
    let elsewhere = reference_at(&other, "app");
    let store = open_store(dir.path());
    push(
        &store.resolve(&reference).unwrap(),
        &elsewhere,
        &push_options(),
    )
    .unwrap();
    other.clear_log();

    let path = format!("/v2/app{}", layer_path(&image));
    let location = format!("http://{}{path}", other.address());
    let headers = vec![("Location".into(), location)];
    first.inject(
        "GET",
        &path,
        1,
        Fault::Answer {
            status: 307,
            headers,
            body: Vec::new(),
        },
    );
    let challenge = vec![("WWW-Authenticate".into(), "Basic realm=\"x\"".into())];
    first.inject(
        "GET",
        "/manifests/",
        1,
        Fault::Answer {
            status: 401,
            headers: challenge,
            body: Vec::new(),
        },
    );
    let mut options = pull_options();
    let registry = reference.registry().to_owned();
    options
        .client
        .credentials
        .insert(registry, Credentials::new("user", "secret"));
    let target = temp_dir();
    pull(&reference, &open_store(target.path()), &options, None).unwrap();
    assert!(first.log().iter().any(|access| access.authorized));
    assert_eq!(other.log().len(), 1);
    assert!(other.log().iter().all(|access| !access.authorized));
}

#[test]
fn tokens_are_fetched_with_credentials_only_from_the_host_of_the_registry() {
    for (host, told) in [("127.0.0.1", true), ("localhost", false)] {
        let (registry, tokens) = (serve(), serve());
        let (reference, ..) = published(&registry, "app", 1_000);
        let realm = format!("http://{host}:{}/token", tokens.address().port());
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:app:pull\"");
        let headers = vec![("WWW-Authenticate".into(), challenge)];
        let refuse = Fault::Answer {
            status: 401,
            headers,
            body: Vec::new(),
        };
        registry.inject("GET", "/manifests/", 1, refuse);
        let body = br#"{"token":"abc"}"#.to_vec();
        tokens.inject(
            "GET",
            "/token",
            1,
            Fault::Answer {
                status: 200,
                headers: Vec::new(),
                body,
            },
        );
        let mut options = impatient();
        let name = reference.registry().to_owned();
        options
            .credentials
            .insert(name, Credentials::new("user", "secret"));
        Client::new(options).manifest(&reference).unwrap();
        let asked = tokens.log();
        assert_eq!(asked.len(), 1);
        let account = if told { "account=user&" } else { "" };
        let query = format!("?service=reg&{account}scope=repository:app:pull");
        assert!(asked[0].target.ends_with(&query), "{asked:?}");
        assert_eq!(asked[0].authorized, told);
        let last = registry.log().into_iter().next_back().unwrap();
        assert!(last.authorized && last.status == 200);
    }
}

#[test]
fn a_redirect_to_plain_http_elsewhere_is_not_followed() {
    let server = serve();
    let (reference, ..) = published(&server, "app", 1_000);
    let headers = vec![("Location".into(), "http://192.0.2.1/blob".into())];
    let elsewhere = Fault::Answer {
        status: 302,
        headers,
        body: Vec::new(),
    };
    server.inject("GET", "/manifests/", 1, elsewhere);
    let error = Client::new(impatient()).manifest(&reference).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::PermissionDenied, "InsecureRegistry")
    );
}

#[test]
fn a_lying_digest_header_is_not_believed() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 1_000);
    let headers = vec![
        ("Content-Type".into(), MediaType::MANIFEST.to_string()),
        (
            "Docker-Content-Digest".into(),
            Digest::of("another").to_string(),
        ),
    ];
    let body = image.manifest().raw().to_vec();
    server.inject(
        "GET",
        "/manifests/",
        1,
        Fault::Answer {
            status: 200,
            headers,
            body,
        },
    );
    let target = temp_dir();
    let store = open_store(target.path());
    let pulled = pull(&reference, &store, &pull_options(), None).unwrap();
    assert_eq!(pulled.image.digest(), image.digest());
}

#[test]
fn foreign_urls_of_layers_are_not_fetched() {
    let (server, foreign) = (serve(), serve());
    let reference = reference_at(&server, "app");
    let dir = temp_dir();
    let store = open_store(dir.path());
    let image = make_image(&store, &reference, &[tar_of(&[("a", b"1")])]);
    push(&image, &reference, &push_options()).unwrap();
    let mut layer = Descriptor::of(MediaType::LAYER_GZIP, &gzip(&tar_of(&[("a", b"2")])));
    let url = format!("http://{}/layer", foreign.address());
    layer.extra.insert("urls".into(), serde_json::json!([url]));
    let manifest = container_image::Manifest::new(image.manifest().config().clone(), vec![layer]);
    let body = manifest.unwrap().raw().to_vec();
    let headers = vec![("Content-Type".into(), MediaType::MANIFEST.to_string())];
    server.inject(
        "GET",
        "/manifests/",
        1,
        Fault::Answer {
            status: 200,
            headers,
            body,
        },
    );
    let target = temp_dir();
    let error = pull(
        &reference,
        &open_store(target.path()),
        &pull_options(),
        None,
    )
    .unwrap_err();
    assert_eq!(error.code(), "BlobUnknown");
    assert_eq!(foreign.log(), []);
}

#[test]
fn a_failed_push_leaves_the_tag_alone() {
    let server = serve();
    let (reference, first, dir) = published(&server, "app", 1_000);
    let store = open_store(dir.path());
    let second = make_image(
        &store,
        &reference,
        &[tar_of(&[("new", &noise(9, 100_000))])],
    );
    let layer = second.layers()[0].descriptor.digest;
    let bytes = std::fs::read(store.blob_path(layer)).unwrap();
    std::fs::write(store.blob_path(layer), vec![0; bytes.len()]).unwrap();
    let error = push(&second, &reference, &push_options()).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Cancelled, "{error:?}");
    let document = Client::new(impatient()).manifest(&reference).unwrap();
    assert_eq!(document.descriptor().digest, first.digest());
}

#[test]
fn garbage_does_not_disturb_the_server() {
    use std::io::{Read, Write};
    let server = serve();
    let (reference, ..) = published(&server, "app", 1_000);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(20_000));
    for bytes in [
        &b"\x16\x03\x01\x00\xa5garbage"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET /v2/../../etc/passwd/manifests/x HTTP/1.1\r\n\r\n",
        b"GET /v2/a/blobs/sha256:../../x HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /v2/a/manifests/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /v2/a/manifests/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        long.as_bytes(),
        many.as_bytes(),
        b"\r\n\r\n\0\xff",
    ] {
        let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
        // It may hang up while we speak.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            !answer.starts_with(b"HTTP/1.1 200"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    Client::new(impatient()).manifest(&reference).unwrap();
}

fn reference_at(server: &Server, name: &str) -> Reference {
    crate::fixture::reference(server, name)
}

#[test]
fn parts_of_a_large_layer_come_side_by_side_and_are_resumed_one_by_one() {
    let server = serve();
    let size = 23_000_000;
    let (reference, image, source) = published(&server, "app", size);
    let mut options = pull_options();
    options.client.ranges = 4;
    let whole = |options: &container_image::PullOptions| {
        let dir = temp_dir();
        let store = open_store(&dir.path().join("store"));
        let sink = Directories::new(&dir.path().join("layers"));
        server.clear_log();
        let pulled = pull(&reference, &store, options, Some(&sink)).unwrap();
        assert_eq!(sink.files(&pulled.image)[Path::new("data")], noise(7, size));
        let mut log = server.log();
        log.retain(|access| access.target.contains(&layer_path(&image)));
        log
    };
    let parts = whole(&options);
    assert!(
        parts.len() >= 5 && parts.iter().all(|access| access.status == 206),
        "{parts:?}"
    );
    // Some of them break off, one is refused for a while.
    server.inject("GET", &layer_path(&image), 3, Fault::Cut(1_000_000));
    let busy = Fault::Answer {
        status: 503,
        headers: Vec::new(),
        body: Vec::new(),
    };
    server.inject("GET", &layer_path(&image), 1, busy);
    assert!(whole(&options).len() > parts.len());
    // A registry that knows no ranges gives all of it at once.
    let blob =
        std::fs::read(open_store(source.path()).blob_path(big_layer(&image).digest)).unwrap();
    let all = Fault::Answer {
        status: 200,
        headers: Vec::new(),
        body: blob,
    };
    server.inject("GET", &layer_path(&image), 1, all);
    assert_eq!(whole(&options).len(), 1);

    for (fault, code) in [
        (Fault::Alter, "DigestMismatch"),
        (Fault::Long, "SizeMismatch"),
        (Fault::Short, "SizeMismatch"),
    ] {
        server.inject("GET", &layer_path(&image), 100, fault);
        let dir = temp_dir();
        let error = pull(&reference, &open_store(dir.path()), &options, None).unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        server.clear_faults();
    }
    server.inject("GET", &layer_path(&image), 100, Fault::Stall(100));
    options.client.idle_timeout = Duration::from_secs(3600);
    let cancel = options.client.cancel.clone();
    let dir = temp_dir();
    let store = open_store(dir.path());
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&reference, &store, &options, None));
        std::thread::sleep(Duration::from_millis(50));
        cancel.store(true, Ordering::Relaxed);
        let error = pulling.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn a_tag_that_moves_during_a_pull_gives_one_image() {
    let server = serve();
    let (reference, first, dir) = published(&server, "app", 1_000);
    let store = open_store(dir.path());
    let second = make_image(&store, &reference, &[tar_of(&[("other", b"2")])]);
    // Moves as soon as the first answer is out: whatever is asked for then by tag is another image.
    let target = temp_dir();
    let store = open_store(target.path());
    let mut options = pull_options();
    let moved = std::sync::Once::new();
    let (second, name) = (second.clone(), reference.clone());
    options.progress = Some(std::sync::Arc::new(move |_| {
        moved.call_once(|| {
            push(&second, &name, &push_options()).unwrap();
        });
    }));
    let pulled = pull(&reference, &store, &options, None).unwrap().image;
    assert_eq!((pulled.digest(), pulled.id()), (first.digest(), first.id()));
    let tags = server
        .log()
        .into_iter()
        .filter(|access| access.method == "GET" && access.target.ends_with("/manifests/latest"));
    assert_eq!(tags.count(), 1);
}

#[test]
fn manifests_of_schema_1_are_refused_with_advice() {
    let server = serve();
    let (reference, ..) = published(&server, "app", 1_000);
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
    ] {
        let old = Fault::Answer {
            status: 200,
            headers: vec![("Content-Type".into(), media_type.into())],
            body: br#"{"schemaVersion":1,"name":"app","fsLayers":[]}"#.to_vec(),
        };
        server.inject("GET", "/manifests/", 1, old);
        let error = Client::new(impatient()).manifest(&reference).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Unsupported, "SchemaVersion1")
        );
        assert!(
            error.report().contains("push it again"),
            "{}",
            error.report()
        );
    }
}
