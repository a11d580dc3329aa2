//! Whom to trust on encrypted connections, and what to say when somebody is not.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::{Error, ErrorKind, Result};

/// Whom to trust besides the authorities of the system, and who to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// Files of certificates of authorities.
    pub(super) authorities: Vec<PathBuf>,
    /// Files of our own certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do.
    pub(super) anybody: bool,
}

impl Trust {
    /// Adds what is in a folder of `certs.d`: authorities in `*.crt`, an identity in `*.cert` and `*.key`.
    ///
    /// # References
    /// `docker` "Verify repository client with certificates"; `containers-certs.d(5)`.
    pub(super) fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let os = |error| Error::os(format!("read {}", folder.display()), error);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(os(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.map_err(os)?.path());
        }
        files.sort();
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(file),
                Some("cert") => {
                    let key = file.with_extension("key");
                    if !key.exists() {
                        let doing = format!("use {}: {} is missing", file.display(), key.display());
                        return Err(Error::new(ErrorKind::NotFound, "NoKey", doing));
                    }
                    self.identity.get_or_insert((file, key));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The settings of connections to `authority`; `system` are the authorities of this host.
    pub(super) fn config(
        &self,
        authority: &str,
        system: &[CertificateDer<'static>],
    ) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut certificates = system.to_vec();
        for path in &self.authorities {
            let found = read_certificates(path)?;
            certificates.extend(found);
        }
        let verifier = Verifier {
            authority: authority.to_owned(),
            roots: {
                // What is no certificate in the files of the system is no reason to talk to nobody.
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates.iter().cloned());
                roots
            },
            known: certificates
                .into_iter()
                .map(|known| known.to_vec())
                .collect(),
            provider: provider.clone(),
            anybody: self.anybody,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has all versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = read_certificates(certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| unusable(key).with_source(error))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| unusable(certificate).with_source(error))?
            }
        };
        Ok(Arc::new(config))
    }
}

/// The certificates of the authorities that this host trusts.
pub(super) fn system_authorities() -> Vec<CertificateDer<'static>> {
    rustls_native_certs::load_native_certs().certs
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let failed = |error| unusable(path).with_source(error);
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect();
    let found = found.map_err(failed)?;
    if found.is_empty() {
        return Err(unusable(path));
    }
    Ok(found)
}

fn unusable(path: &Path) -> Error {
    let doing = format!(
        "read certificates or keys in PEM form from {}",
        path.display()
    );
    Error::invalid("InvalidCertificate", doing)
}

/// Checks the certificates of one host.
#[derive(Debug)]
struct Verifier {
    authority: String,
    roots: RootCertStore,
    /// All of the trusted certificates, byte by byte.
    known: HashSet<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    anybody: bool,
}

impl Verifier {
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> std::result::Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let named = verify_server_name(&certificate, name);
        let signed = if self.known.contains(end_entity.as_ref()) {
            // The registry's own certificate was handed out for trust, as guides have it, and it may
            // say that it is an authority: no chain leads to it, but it is what it should be.
            check_validity(end_entity, now)
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )
        };
        signed.and(named)
    }

    /// Says what is wrong, and what can be done about it.
    fn refuse(&self, error: rustls::Error, names: Names) -> rustls::Error {
        let host = &self.authority;
        let rustls::Error::InvalidCertificate(found) = &error else {
            return error;
        };
        let no_name = "it has no SAN (subject alternative name), and the common name has not counted \
                       for long: make it anew with one, `openssl req -x509 -addext \
                       subjectAltName=DNS:… or IP:…`";
        let (code, why) = match (found, &names) {
            // The other errors come from authorities that are in the place of a server.
            (CertificateError::UnknownIssuer | CertificateError::Other(_), _) => {
                let why = format!(
                    "nobody whom this machine trusts has signed it; put the certificate of who did \
                     into certs.d/{host}/ca.crt, or list {host} as insecure"
                );
                let why = match names {
                    Names::None => format!("{why}; besides, {no_name}"),
                    Names::Others(_) => why,
                };
                ("CertificateUntrusted", why)
            }
            (
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                Names::None,
            ) => ("NoSubjectAltName", no_name.into()),
            (
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                Names::Others(others),
            ) => ("CertificateNameMismatch", format!("it is for {others}")),
            (CertificateError::Expired | CertificateError::ExpiredContext { .. }, _) => {
                ("CertificateExpired", "its time is over".into())
            }
            (CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }, _) => {
                ("CertificateExpired", "its time has not come yet".into())
            }
            _ => return error,
        };
        let text = format!("verify the certificate of {host}: {why}");
        let refused = OtherError(Arc::new(Refused { code, text }));
        rustls::Error::InvalidCertificate(CertificateError::Other(refused))
    }
}

/// What a certificate names, other than the host.
enum Names {
    None,
    Others(String),
}

impl Names {
    fn of(end_entity: &CertificateDer<'_>) -> Self {
        let nobody = ServerName::try_from("nobody.invalid").expect("it is a name");
        let named = ParsedCertificate::try_from(end_entity)
            .and_then(|certificate| verify_server_name(&certificate, &nobody));
        match named {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) if presented.is_empty() => Self::None,
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) => Self::Others(presented.join(", ")),
            _ => Self::Others("others".into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if !self.anybody {
            self.check(end_entity, intermediates, name, now)
                .map_err(|error| self.refuse(error, Names::of(end_entity)))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        if self.anybody {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        if self.anybody {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Why a certificate was refused, on its way through rustls.
#[derive(Debug)]
struct Refused {
    code: &'static str,
    text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// What a failed handshake means.
pub(super) fn from_rustls(doing: &str, error: rustls::Error) -> Error {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = &error
        && let Some(refused) = other.0.downcast_ref::<Refused>()
    {
        let error = Error::new(ErrorKind::Network, refused.code, refused.text.clone());
        return error.context(doing);
    }
    Error::new(ErrorKind::Network, "TlsFailed", doing).with_source(error)
}

/// Checks only that the time of a certificate has come and is not over.
fn check_validity(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
) -> std::result::Result<(), rustls::Error> {
    let bad = CertificateError::BadEncoding;
    let (from, until) = validity(certificate).ok_or(bad)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < from {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > until {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The first and the last second at which a certificate is valid, since 1970.
///
/// # References
/// RFC 5280, section 4.1.
fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    // Version (which may be left out), serial number, algorithm, issuer.
    if fields.first() == Some(&EXPLICIT_0) {
        fields = element(fields)?.2;
    }
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, times, _) = element(fields)?;
    let (tag, from, times) = element(times)?;
    let (until_tag, until, _) = element(times)?;
    Some((seconds(tag, from)?, seconds(until_tag, until)?))
}

/// The tag and content of the DER element that `bytes` begin with, and what comes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// Reads a time, `YYMMDDHHMMSSZ` or with a year of four digits.
fn seconds(tag: u8, text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = text.split_at_checked(if tag == UTC_TIME { 2 } else { 4 })?;
    if rest.len() != 10 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut year: i16 = year.parse().ok()?;
    if tag == UTC_TIME {
        year += if year < 50 { 2000 } else { 1900 };
    }
    let part = |at: usize| rest[at..at + 2].parse::<i8>().ok();
    let time =
        jiff::civil::DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0);
    let time = time.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_second())
}

const EXPLICIT_0: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let mut params = rcgen::CertificateParams::new(["example.com".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2060, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der();
        // `date -u -d 2020-02-29 +%s`, `date -u -d 2060-01-01 +%s`
        assert_eq!(validity(der), Some((1_582_934_400, 2_840_140_800)));
        for end in 0..der.len() {
            let cut = validity(&der[..end]);
            assert!(cut.is_none());
        }
    }
}
