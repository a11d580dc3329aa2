//! A network in a box: a proxy that knows where names lead stands in for it, so that registries have any name, and
//! nothing leaves the machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use container_image::server::{Server, ServerOptions, ServerTls};
use container_image::{Client, ClientOptions, Digest, Error, Proxies, Reference};
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, SanType};

use crate::fixture::*;
use crate::http::read;

/// A proxy that leads `host:port` to where a test says.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// What clients wanted to be connected to.
    asked: Arc<Mutex<Vec<String>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) fn start(routes: &[(&str, SocketAddr)]) -> Self {
        Self::for_whom(routes, None)
    }

    /// Serves only who has this `Proxy-Authorization`.
    pub(crate) fn for_whom(
        routes: &[(&str, SocketAddr)],
        authorization: Option<&'static str>,
    ) -> Self {
        let routes: BTreeMap<String, SocketAddr> = routes
            .iter()
            .map(|(name, address)| ((*name).to_owned(), *address))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stopping): (Arc<Mutex<Vec<String>>>, Arc<AtomicBool>) = Default::default();
        let thread = std::thread::spawn({
            let (asked, stopping) = (asked.clone(), stopping.clone());
            move || {
                for client in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut client = client.unwrap();
                    let Some(request) = read(&client) else {
                        continue;
                    };
                    assert_eq!(request.method, "CONNECT");
                    asked.lock().unwrap().push(request.target.clone());
                    let known = request.header("proxy-authorization");
                    let target = routes
                        .get(&request.target)
                        .filter(|_| known == authorization);
                    let Some(server) = target.and_then(|target| TcpStream::connect(target).ok())
                    else {
                        let _ = client.write_all(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n");
                        continue;
                    };
                    client.write_all(b"HTTP/1.1 200 Yes\r\n\r\n").unwrap();
                    for (mut from, mut to) in [
                        (client.try_clone().unwrap(), server.try_clone().unwrap()),
                        (server, client),
                    ] {
                        std::thread::spawn(move || {
                            let _ = io::copy(&mut from, &mut to);
                            let _ = to.shutdown(std::net::Shutdown::Both);
                        });
                    }
                }
            }
        });
        Self {
            address,
            asked,
            stopping,
            thread: Some(thread),
        }
    }

    pub(crate) fn options(&self) -> ClientOptions {
        let mut proxies = Proxies::none();
        proxies.http = Some(format!("http://{}", self.address));
        proxies.https = proxies.http.clone();
        let mut options = impatient();
        options.proxies = Some(proxies);
        options.hosts_dirs = Vec::new();
        options
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A certificate and its key in PEM form.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A certificate that signs itself, as guides make them.
pub(crate) fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Identity {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "registry.example.com");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

pub(crate) fn names(names: &[&str]) -> Vec<SanType> {
    let dns = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
    names
        .iter()
        .map(|name| name.parse().map_or_else(|_| dns(name), SanType::IpAddress))
        .collect()
}

pub(crate) fn serve_tls(identity: &Identity, ip: IpAddr) -> Server {
    let mut options = ServerOptions::default();
    options.address = (ip, 0).into();
    let (certificate, key) = (identity.certificate.as_bytes(), identity.key.as_bytes());
    options.tls = Some(ServerTls::from_pem(certificate, key).unwrap());
    Server::start(options).unwrap()
}

/// Puts `identity` where its registry is trusted.
pub(crate) fn trust(dirs: &Path, host: &str, certificate: &str) {
    fs::create_dir_all(dirs.join(host)).unwrap();
    fs::write(dirs.join(host).join("ca.crt"), certificate).unwrap();
}

pub(crate) fn fetch(options: &ClientOptions, name: &str) -> Result<Digest, Error> {
    let reference: Reference = name.parse().unwrap();
    let found = Client::new(options.clone()).manifest(&reference);
    found.map(|found| found.descriptor().digest)
}

/// Puts an image into `server` by its own address.
pub(crate) fn publish(server: &Server, name: &str) -> Digest {
    let (_, image, _dir) = published(server, name, 10_000);
    image.digest()
}

/// Takes TLS off connections and hands them on.
pub(crate) struct TlsFront {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TlsFront {
    pub(crate) fn start(identity: &Identity, inner: SocketAddr) -> Self {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let config = config.clone();
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    let mut outer = rustls::StreamOwned::new(connection, stream.unwrap());
                    let inner = TcpStream::connect(inner).unwrap();
                    // One request without a body, then its answer.
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match io::Read::read(&mut outer, &mut byte) {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                    (&inner).write_all(head.as_bytes()).unwrap();
                    let _ = io::copy(&mut &inner, &mut outer);
                    outer.conn.send_close_notify();
                    let _ = outer.flush();
                });
            }
        });
        Self {
            address,
            stopping,
            thread: Some(thread),
        }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}
