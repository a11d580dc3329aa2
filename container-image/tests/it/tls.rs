//! Who may do without encryption or verification, and whose certificates count.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use container_image::server::{Server, ServerOptions, ServerTls};
use container_image::{Client, Digest, Error, ErrorKind, pull, push};
use rcgen::{CertificateParams, IsCa, KeyPair, SanType};

use crate::fixture::*;
use crate::network::*;
use crate::programs::*;

/// An address of this machine that is not loopback; nothing is sent to find it.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = socket
        .connect("198.51.100.1:9")
        .and_then(|()| socket.local_addr());
    let address = address
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_loopback());
    if address.is_none() {
        println!("skipped: this machine has no address but loopback");
    }
    address
}

/// Fetches a manifest, with the registry listed as insecure or not.
fn fetch_from(server: &Server, listed: bool) -> Result<Digest, Error> {
    let mut options = impatient();
    if listed {
        options.insecure.push(server.address().to_string());
    }
    fetch(&options, &format!("{}/app", server.address()))
}

#[test]
fn unsigned_certificates_are_for_loopback_and_listed_hosts() {
    let identity = self_signed(|_| {});
    let near = serve_tls(&identity, [127, 0, 0, 1].into());
    let digest = publish(&near, "app");
    assert_eq!(fetch_from(&near, false).unwrap(), digest);
    let Some(ip) = outer_address() else { return };
    let far = serve_tls(&identity, ip);
    let error = fetch_from(&far, false).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Network, "CertificateUntrusted")
    );
    let error = fetch_from(&far, true).unwrap_err();
    assert_eq!(error.code(), "ManifestUnknown");
}

#[test]
fn plain_http_is_for_loopback_and_listed_hosts() {
    let Some(ip) = outer_address() else { return };
    let mut options = ServerOptions::default();
    options.address = (ip, 0).into();
    let server = Server::start(options).unwrap();
    let reference = reference(&server, "app");
    let dir = temp_dir();
    let store = open_store(dir.path());
    let image = make_image(&store, &reference, &[tar_of(&[("a", b"1")])]);
    let error = push(&image, &reference, &push_options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error:?}");
    let error = pull(&reference, &store, &pull_options(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error:?}");
    // Nothing was ever said in the clear.
    assert_eq!(server.log(), []);
    let mut options = push_options();
    options.client.insecure.push(server.address().to_string());
    push(&image, &reference, &options).unwrap();
    assert_eq!(fetch_from(&server, true).unwrap(), image.digest());
}

#[test]
fn a_self_signed_registry_is_trusted_if_its_certificate_is_in_its_folder() {
    for authority in [true, false] {
        let identity = self_signed(|params| {
            params.subject_alt_names = names(&["registry.example.com"]);
            if !authority {
                params.is_ca = IsCa::NoCa;
            }
        });
        let server = serve_tls(&identity, LOCALHOST);
        let digest = publish(&server, "app");
        let proxy = Proxy::start(&[("registry.example.com:5000", server.address())]);
        let mut options = proxy.options();
        let name = "registry.example.com:5000/app";
        let error = fetch(&options, name).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Network, "CertificateUntrusted")
        );
        let report = error.report();
        assert!(
            report.contains("certs.d/registry.example.com:5000/ca.crt"),
            "{report}"
        );
        assert!(
            report.contains("list registry.example.com:5000 as insecure"),
            "{report}"
        );

        let dir = temp_dir();
        options.hosts_dirs = vec![dir.path().join("none"), dir.path().to_owned()];
        trust(
            dir.path(),
            "registry.example.com:5000",
            &identity.certificate,
        );
        assert_eq!(fetch(&options, name).unwrap(), digest);
        // For nobody else.
        let other = Proxy::start(&[("registry.example.com:443", server.address())]);
        let mut elsewhere = other.options();
        elsewhere.hosts_dirs = options.hosts_dirs.clone();
        let error = fetch(&elsewhere, "registry.example.com/app").unwrap_err();
        assert_eq!(error.code(), "CertificateUntrusted");
    }
}

#[test]
fn certificates_of_an_authority_count_for_the_names_and_addresses_in_them() {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let mut params = CertificateParams::default();
    params.subject_alt_names = names(&[
        "one.example.com",
        "*.sub.example.com",
        "198.51.100.7",
        "2001:db8::7",
    ]);
    // Of other kinds than hosts have.
    let uri = "https://uri.example.com".try_into().unwrap();
    let email = "user@mail.example.com".try_into().unwrap();
    params
        .subject_alt_names
        .extend([SanType::URI(uri), SanType::Rfc822Name(email)]);
    let key = KeyPair::generate().unwrap();
    let identity = Identity {
        certificate: params.signed_by(&key, &issuer).unwrap().pem(),
        key: key.serialize_pem(),
    };
    let server = serve_tls(&identity, LOCALHOST);
    let digest = publish(&server, "app");
    let dir = temp_dir();
    for (host, matches) in [
        ("one.example.com", true),
        ("ONE.example.com", true),
        ("x.sub.example.com", true),
        ("198.51.100.7", true),
        ("[2001:db8::7]", true),
        ("two.example.com", false),
        ("x.y.sub.example.com", false),
        ("198.51.100.8", false),
        ("uri.example.com", false),
        ("mail.example.com", false),
    ] {
        let authority = host.to_ascii_lowercase();
        trust(dir.path(), &authority, &certificate);
        let proxy = Proxy::start(&[(&format!("{authority}:443"), server.address())]);
        let mut options = proxy.options();
        options.hosts_dirs = vec![dir.path().to_owned()];
        let fetched = fetch(&options, &format!("{host}/app"));
        if matches {
            assert_eq!(fetched.unwrap(), digest, "{host}");
        } else {
            let error = fetched.unwrap_err();
            assert_eq!(error.code(), "CertificateNameMismatch", "{host}: {error:?}");
            assert!(
                error.report().contains("one.example.com"),
                "{}",
                error.report()
            );
        }
    }
}

#[test]
fn a_certificate_without_names_is_refused_with_advice() {
    if !has_with("openssl", "version") {
        return;
    }
    let dir = temp_dir();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9",
    ]);
    openssl
        .args(["-subj", "/CN=registry.example.com", "-keyout"])
        .arg(&key);
    run(openssl.arg("-out").arg(&certificate));
    let mut options = ServerOptions::default();
    options.tls = Some(ServerTls::from_files(&certificate, &key).unwrap());
    let server = Server::start(options).unwrap();
    let proxy = Proxy::start(&[("registry.example.com:443", server.address())]);
    let mut options = proxy.options();
    let untrusted = fetch(&options, "registry.example.com/app").unwrap_err();
    assert_eq!(untrusted.code(), "CertificateUntrusted");
    let text = fs::read_to_string(&certificate).unwrap();
    trust(dir.path(), "registry.example.com", &text);
    options.hosts_dirs = vec![dir.path().to_owned()];
    let unnamed = fetch(&options, "registry.example.com/app").unwrap_err();
    assert_eq!(
        (unnamed.kind(), unnamed.code()),
        (ErrorKind::Network, "NoSubjectAltName")
    );
    for error in [untrusted, unnamed] {
        let report = error.report();
        assert!(
            report.contains("no SAN") && report.contains("subjectAltName"),
            "{report}"
        );
    }
}

#[test]
fn certificates_out_of_their_time_are_refused() {
    for (from, until, word) in [(2001, 2002, "over"), (2200, 2201, "not come")] {
        for authority in [true, false] {
            let identity = self_signed(|params| {
                params.subject_alt_names = names(&["registry.example.com"]);
                params.not_before = rcgen::date_time_ymd(from, 1, 1);
                params.not_after = rcgen::date_time_ymd(until, 1, 1);
                if !authority {
                    params.is_ca = IsCa::NoCa;
                }
            });
            let server = serve_tls(&identity, LOCALHOST);
            let dir = temp_dir();
            trust(dir.path(), "registry.example.com", &identity.certificate);
            let proxy = Proxy::start(&[("registry.example.com:443", server.address())]);
            let mut options = proxy.options();
            options.hosts_dirs = vec![dir.path().to_owned()];
            let error = fetch(&options, "registry.example.com/app").unwrap_err();
            assert_eq!(error.code(), "CertificateExpired");
            assert!(error.report().contains(word), "{}", error.report());
        }
    }
}

#[test]
fn a_registry_may_want_to_know_who_asks() {
    let identity =
        self_signed(|params| params.subject_alt_names = names(&["registry.example.com"]));
    let user = self_signed(|params| params.is_ca = IsCa::NoCa);
    let mut options = ServerOptions::default();
    let (certificate, key) = (identity.certificate.as_bytes(), identity.key.as_bytes());
    let known = user.certificate.as_bytes();
    options.tls = Some(ServerTls::for_known_clients(certificate, key, known).unwrap());
    let server = Server::start(options).unwrap();
    let proxy = Proxy::start(&[("registry.example.com:443", server.address())]);
    let mut options = proxy.options();
    let dir = temp_dir();
    options.hosts_dirs = vec![dir.path().to_owned()];
    trust(dir.path(), "registry.example.com", &identity.certificate);
    let error = Client::new(options.clone())
        .ping("registry.example.com")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error:?}");
    let folder = dir.path().join("registry.example.com");
    fs::write(folder.join("client.cert"), &user.certificate).unwrap();
    let error = Client::new(options.clone())
        .ping("registry.example.com")
        .unwrap_err();
    assert_eq!(error.code(), "NoKey");
    fs::write(folder.join("client.key"), "garbage").unwrap();
    let error = Client::new(options.clone())
        .ping("registry.example.com")
        .unwrap_err();
    assert_eq!(error.code(), "InvalidCertificate");
    fs::write(folder.join("client.key"), &user.key).unwrap();
    Client::new(options).ping("registry.example.com").unwrap();
}

#[test]
fn insecure_registries_are_those_that_are_listed() {
    let identity = self_signed(|_| {});
    let (encrypted, plain) = (serve_tls(&identity, LOCALHOST), serve());
    let digest = publish(&encrypted, "app");
    publish(&plain, "app");
    let proxy = Proxy::start(&[
        ("tls.example.com:5000", encrypted.address()),
        ("plain.example.com:5000", plain.address()),
    ]);
    plain.clear_log();
    let mut options = proxy.options();
    for host in ["tls.example.com:5000", "plain.example.com:5000"] {
        let error = fetch(&options, &format!("{host}/app")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Network, "{error:?}");
    }
    assert_eq!(plain.log(), []);
    options.insecure = vec![
        "tls.example.com:5000".into(),
        "Plain.example.com:5000".into(),
    ];
    for host in ["tls.example.com:5000", "plain.example.com:5000"] {
        assert_eq!(fetch(&options, &format!("{host}/app")).unwrap(), digest);
    }
}
