//! Who may do without encryption or verification: loopback and listed hosts, nobody else.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use container_image::server::{Server, ServerOptions};
use container_image::{Client, Digest, Document, Error, ErrorKind, Index, Reference, pull, push};

use crate::fixture::*;

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

/// Answers every request over TLS with the same index, under a certificate that nobody has signed.
struct TlsServer {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TlsServer {
    fn start(ip: IpAddr) -> Self {
        let signed = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.into())
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let connection = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
                let mut request = Vec::new();
                let mut byte = [0];
                // A client that does not trust us hangs up.
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0)
                {
                    request.push(byte[0]);
                }
                let body = index();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.raw().len()
                );
                let _ = stream.write_all(body.raw());
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self {
            address,
            stopping,
            thread: Some(thread),
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        std::net::TcpStream::connect(self.address).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn index() -> Index {
    Index::new(Vec::new()).unwrap()
}

/// Fetches a manifest, with the registry listed as insecure or not.
fn fetch(address: SocketAddr, listed: bool) -> Result<Digest, Error> {
    let reference: Reference = format!("{address}/app").parse().unwrap();
    let mut options = impatient();
    if listed {
        options.insecure.push(address.to_string());
    }
    Client::new(options)
        .manifest(&reference)
        .map(|found: Document| found.descriptor().digest)
}

#[test]
fn unsigned_certificates_are_for_loopback_and_listed_hosts() {
    let near = TlsServer::start([127, 0, 0, 1].into());
    assert_eq!(fetch(near.address, false).unwrap(), index().digest());
    let Some(ip) = outer_address() else { return };
    let far = TlsServer::start(ip);
    let error = fetch(far.address, false).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Network, "TlsFailed")
    );
    assert_eq!(fetch(far.address, true).unwrap(), index().digest());
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
    assert_eq!(fetch(server.address(), true).unwrap(), image.digest());
}
