//! Where else a registry is asked for: mirrors, proxies, Docker Hub.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use container_image::server::{Fault, Server};
use container_image::{
    Client, ClientOptions, Credentials, ErrorKind, Proxies, Reference, pull, push,
};

use crate::fixture::*;
use crate::http::HttpServer;
use crate::network::*;

#[test]
fn docker_hub_is_asked_by_its_own_name_with_a_token_of_its_own_server() {
    let tokens = HttpServer::start(|_| (200, vec![], br#"{"token":"t"}"#.to_vec()));
    let registry = serve();
    let digest = publish(&registry, "library/busybox");
    let realm = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"";
    let refuse = Fault::Answer {
        status: 401,
        headers: vec![("WWW-Authenticate".into(), realm.into())],
        body: Vec::new(),
    };
    // Both sides of the Hub behind TLS of their own.
    let identity = self_signed(|params| {
        params.subject_alt_names = names(&["registry-1.docker.io", "auth.docker.io"]);
    });
    let front = |inner: SocketAddr| TlsFront::start(&identity, inner);
    let (hub, auth) = (front(registry.address()), front(tokens.address));
    let proxy = Proxy::start(&[
        ("registry-1.docker.io:443", hub.address),
        ("auth.docker.io:443", auth.address),
    ]);
    let dir = temp_dir();
    for host in ["registry-1.docker.io", "auth.docker.io"] {
        trust(dir.path(), host, &identity.certificate);
    }
    let mut options = proxy.options();
    options.hosts_dirs = vec![dir.path().to_owned()];
    options
        .credentials
        .insert("docker.io".into(), Credentials::new("user", "secret"));
    registry.clear_log();
    registry.inject("GET", "/manifests/", 1, refuse);
    assert_eq!(fetch(&options, "busybox").unwrap(), digest);
    let asked = tokens.log();
    assert_eq!(asked.len(), 1);
    let query = "service=registry.docker.io&account=user&scope=repository:library/busybox:pull";
    assert_eq!(asked[0].target, format!("/token?{query}"));
    assert!(
        asked[0]
            .header("authorization")
            .unwrap()
            .starts_with("Basic ")
    );
    let last = registry.log().pop().unwrap();
    assert_eq!(last.target, "/v2/library/busybox/manifests/latest");
    assert!(last.authorized);
}

#[test]
fn mirrors_are_asked_in_order_and_the_registry_last() {
    let (first, second, upstream) = (serve(), serve(), serve());
    let digest = publish(&upstream, "app");
    publish(&second, "app");
    let registry = upstream.address().to_string();
    let mut options = impatient();
    options.mirrors.insert(
        registry.clone(),
        vec![
            format!("http://{}", first.address()),
            second.address().to_string(),
        ],
    );
    let name = format!("{registry}/app");
    let clear = || [&first, &second, &upstream].map(|server| server.clear_log());
    let paths = |server: &Server| server.log().iter().filter(|a| a.target != "/v2/").count();
    // The first has nothing, the second has it.
    clear();
    assert_eq!(fetch(&options, &name).unwrap(), digest);
    assert_eq!((paths(&first), paths(&second), paths(&upstream)), (1, 1, 0));
    // The first is down.
    drop(first);
    assert_eq!(fetch(&options, &name).unwrap(), digest);
    // A whole pull: the dead one is tried once.
    let dir = temp_dir();
    let mut pulling = pull_options();
    pulling.client = options.clone();
    let reference: Reference = name.parse().unwrap();
    second.clear_log();
    pull(&reference, &open_store(dir.path()), &pulling, None).unwrap();
    assert_eq!((paths(&second), paths(&upstream)), (4, 0));
    // Both are.
    drop(second);
    assert_eq!(fetch(&options, &name).unwrap(), digest);
    assert_eq!(paths(&upstream), 1);
    // Pushes go to the registry itself, and nothing but that registry has mirrors.
    let client = Client::new(options.clone());
    client.delete_manifest(&reference).unwrap();
    let error = fetch(&options, &name).unwrap_err();
    assert_eq!(error.code(), "ManifestUnknown");
    assert!(error.report().contains("mirror"), "{}", error.report());
}

#[test]
fn mirrors_of_docker_hub_do_not_serve_other_registries_nor_learn_credentials() {
    let (mirror, other) = (serve(), serve());
    let digest = publish(&mirror, "library/busybox");
    publish(&mirror, "app");
    publish(&other, "app");
    let mut options = impatient();
    let url = format!("http://{}", mirror.address());
    options.mirrors.insert("docker.io".into(), vec![url]);
    options
        .credentials
        .insert("docker.io".into(), Credentials::new("user", "secret"));
    mirror.clear_log();
    let challenge = vec![("WWW-Authenticate".into(), "Basic realm=\"x\"".into())];
    let refuse = Fault::Answer {
        status: 401,
        headers: challenge,
        body: Vec::new(),
    };
    assert_eq!(fetch(&options, "busybox").unwrap(), digest);
    fetch(&options, &format!("{}/app", other.address())).unwrap();
    assert_eq!(mirror.log().len(), 1);
    // A mirror that asks for a password is passed by.
    mirror.inject("GET", "/manifests/", 10, refuse);
    let proxy = Proxy::start(&[]);
    options.proxies = proxy.options().proxies;
    let error = fetch(&options, "busybox").unwrap_err();
    assert!(error.report().contains("mirror"), "{}", error.report());
    assert_eq!(proxy.asked()[0], "registry-1.docker.io:443");
    assert!(mirror.log().iter().all(|access| !access.authorized));
}

#[test]
fn a_mirror_that_lies_or_is_busy_is_passed_by() {
    let (mirror, upstream) = (serve(), serve());
    let digest = publish(&upstream, "app");
    publish(&mirror, "app");
    let registry = upstream.address().to_string();
    let mut options = impatient();
    let mirrors = vec![format!("http://{}", mirror.address())];
    options.mirrors.insert(registry.clone(), mirrors);
    let name = format!("{registry}/app@{digest}");
    for fault in [
        Fault::Alter,
        Fault::Answer {
            status: 503,
            headers: vec![("Retry-After".into(), "3600".into())],
            body: Vec::new(),
        },
        Fault::Silence,
    ] {
        mirror.inject("GET", "/manifests/", 1, fault);
        upstream.clear_log();
        assert_eq!(fetch(&options, &name).unwrap(), digest);
        assert_eq!(
            upstream
                .log()
                .iter()
                .filter(|a| a.target.contains("/manifests/"))
                .count(),
            1
        );
    }
}

#[test]
fn a_hosts_toml_says_whom_to_ask_for_what() {
    let identity = self_signed(|params| params.subject_alt_names = names(&["mirror.example.com"]));
    let (mirror, upstream, sink) = (serve_tls(&identity, LOCALHOST), serve(), serve());
    let digest = publish(&mirror, "app");
    publish(&upstream, "app");
    let proxy = Proxy::start(&[("mirror.example.com:443", mirror.address())]);
    let dir = temp_dir();
    let folder = dir.path().join("registry.example.com_5000_");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("mirror.crt"), &identity.certificate).unwrap();
    let text = format!(
        r#"
server = "http://{}"
[host."https://mirror.example.com"]
  capabilities = ["pull"]
  ca = "mirror.crt"
[host."http://{}/v2"]
  capabilities = ["push"]
  override_path = true
  [host."http://{}/v2".header]
    x-token = "secret"
"#,
        upstream.address(),
        sink.address(),
        sink.address()
    );
    fs::write(folder.join("hosts.toml"), text).unwrap();
    let mut options = proxy.options();
    options.hosts_dirs = vec![dir.path().to_owned()];
    let registry = "registry.example.com:5000";
    for server in [&mirror, &upstream] {
        server.clear_log();
    }
    // A tag is not for the mirror to resolve, a digest is.
    assert_eq!(fetch(&options, &format!("{registry}/app")).unwrap(), digest);
    assert_eq!((mirror.log().len(), upstream.log().len()), (0, 1));
    fetch(&options, &format!("{registry}/app@{digest}")).unwrap();
    assert_eq!((mirror.log().len(), upstream.log().len()), (1, 1));
    let reference: Reference = format!("{registry}/new").parse().unwrap();
    let store = open_store(&dir.path().join("store"));
    let image = make_image(&store, &reference, &[tar_of(&[("a", b"1")])]);
    let mut pushing = push_options();
    pushing.client = options.clone();
    push(&image, &reference, &pushing).unwrap();
    assert!(
        sink.log()
            .iter()
            .all(|access| access.target.starts_with("/v2/new/"))
    );
    fs::write(folder.join("hosts.toml"), "server = ").unwrap();
    let error = fetch(&options, &format!("{registry}/app")).unwrap_err();
    assert_eq!(error.code(), "InvalidHosts");
}

#[test]
fn proxies_are_used_with_their_passwords_and_not_for_exceptions() {
    let identity =
        self_signed(|params| params.subject_alt_names = names(&["registry.example.com"]));
    let server = serve_tls(&identity, LOCALHOST);
    let digest = publish(&server, "app");
    let dir = temp_dir();
    trust(dir.path(), "registry.example.com", &identity.certificate);
    // `user:pass word`
    let proxy = Proxy::for_whom(
        &[("registry.example.com:443", server.address())],
        Some("Basic dXNlcjpwYXNzIHdvcmQ="),
    );
    let mut options = proxy.options();
    options.hosts_dirs = vec![dir.path().to_owned()];
    let error = fetch(&options, "registry.example.com/app").unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Network, "ProxyFailed")
    );
    let mut proxies = Proxies::none();
    proxies.https = Some(format!("http://user:pass%20word@{}", proxy.address));
    options.proxies = Some(proxies.clone());
    assert_eq!(fetch(&options, "registry.example.com/app").unwrap(), digest);
    let before = proxy.asked().len();
    proxies.no_proxy = ".invalid".into();
    options.proxies = Some(proxies.clone());
    options.connect_timeout = Duration::from_millis(200);
    assert!(fetch(&options, "registry.invalid/app").is_err());
    // This machine is talked to directly.
    options.connect_timeout = Duration::from_secs(5);
    fetch(&options, &format!("{}/app", server.address())).unwrap();
    assert_eq!(proxy.asked().len(), before);
    proxies.https = Some("socks5://127.0.0.1:1".into());
    options.proxies = Some(proxies);
    let error = fetch(&options, "registry.example.com/app").unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
    assert!(!error.report().contains("pass%20word"));
}

#[test]
fn all_of_a_pull_has_an_end() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app", 100_000);
    let path = format!("/blobs/{}", big_layer(&image).digest);
    server.inject("GET", &path, 100, Fault::Stall(50_000));
    let mut options = pull_options();
    options.client.idle_timeout = Duration::from_secs(3600);
    options.client.total_timeout = Some(Duration::from_millis(500));
    let dir = temp_dir();
    let error = pull(&reference, &open_store(dir.path()), &options, None).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::TimedOut, "TimedOut")
    );
    assert!(
        error.report().contains("time for all of it"),
        "{}",
        error.report()
    );
}

#[test]
fn the_registries_of_a_daemon_json_are_taken_over() {
    let mut options = ClientOptions::default();
    let text = r#"{"registry-mirrors": ["http://10.0.0.1:5000", "https://mirror.example.org"],
        "insecure-registries": ["10.0.0.1:5000", "10.1.0.0/16"], "data-root": "/home/docker"}"#;
    options.add_daemon_json(text.as_bytes()).unwrap();
    let mirrors = ["http://10.0.0.1:5000", "https://mirror.example.org"];
    assert_eq!(options.mirrors["docker.io"], mirrors);
    assert_eq!(options.insecure, ["10.0.0.1:5000", "10.1.0.0/16"]);
    let wrong = options.add_daemon_json(b"{\n\n  \"registry-mirrors\": [}");
    let error = wrong.unwrap_err();
    assert_eq!(error.code(), "InvalidJson");
    assert!(error.report().contains("line 3"), "{}", error.report());
}

#[test]
fn a_whole_network_can_be_insecure() {
    let server = serve();
    let digest = publish(&server, "app");
    let routes = ["10.1.2.3:5000", "10.2.2.3:5000"].map(|name| (name, server.address()));
    let proxy = Proxy::start(&routes);
    let mut options = proxy.options();
    options.insecure = vec!["10.1.0.0/16".into()];
    assert_eq!(fetch(&options, "10.1.2.3:5000/app").unwrap(), digest);
    assert!(fetch(&options, "10.2.2.3:5000/app").is_err());
}
