//! Encryption of the server's connections.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::{Error, Result};

/// The certificate with which a server shows who it is, and its key.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Reads a chain of certificates, the server's own first, and its key, all in PEM form.
    ///
    /// # Errors
    /// `InvalidCertificate`.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self> {
        Self::new(certificates, key, None)
    }

    /// The same from files.
    ///
    /// # Errors
    /// `Os`, `InvalidCertificate`.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Error::os(format!("read {}", path.display()), error))
        };
        Self::from_pem(&read(certificates)?, &read(key)?)
    }

    /// The same as [`Self::from_pem`], for clients only whose certificates one of these `authorities`
    /// has signed.
    ///
    /// # Errors
    /// `InvalidCertificate`.
    pub fn for_known_clients(certificates: &[u8], key: &[u8], authorities: &[u8]) -> Result<Self> {
        Self::new(certificates, key, Some(authorities))
    }

    fn new(certificates: &[u8], key: &[u8], authorities: Option<&[u8]>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has all versions");
        let builder = match authorities {
            None => builder.with_no_client_auth(),
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in read_certificates(authorities)? {
                    roots
                        .add(authority)
                        .map_err(|error| invalid().with_source(error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier
                    .build()
                    .map_err(|error| invalid().with_source(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| invalid().with_source(error))?;
        let config = builder
            .with_single_cert(read_certificates(certificates)?, key)
            .map_err(|error| invalid().with_source(error))?;
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(…)")
    }
}

fn read_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.map_err(|error| invalid().with_source(error))
}

fn invalid() -> Error {
    Error::invalid(
        "InvalidCertificate",
        "read certificates and keys in PEM form for a server",
    )
}

/// A connection, encrypted or not.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    /// The handshake is made with the first byte that is read.
    pub(super) fn new(stream: TcpStream, tls: Option<&ServerTls>) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(stream));
        };
        let connection = ServerConnection::new(tls.0.clone()).map_err(io::Error::other)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, stream))))
    }

    /// Tells the client that the connection ends here, and was not cut.
    pub(super) fn close(&mut self) {
        if let Self::Tls(stream) = self {
            stream.conn.send_close_notify();
            // It may have gone already.
            let _ = stream.flush();
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
