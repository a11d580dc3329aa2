//! How to talk to registries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::registry::auth::Credentials;
use crate::registry::auth_file::AuthFile;
use crate::registry::retry::Retry;

/// How to talk to registries.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Who to be, by registry as [`Reference::registry`](crate::Reference::registry) gives it; anonymous
    /// where there is none.
    pub credentials: BTreeMap<String, Credentials>,
    /// Where to look for credentials that are not above.
    pub auth_file: Option<AuthFile>,
    /// Hosts of token servers that may know the credentials of a registry, by registry. A registry may
    /// name itself, and Docker Hub its own; whoever else it names is asked for an anonymous token.
    pub token_servers: BTreeMap<String, String>,
    /// Registries, written as in references (`host` or `host:port`), that may use plain HTTP or a certificate that nobody
    /// has signed. Loopback addresses may always.
    pub insecure: Vec<String>,
    /// Sends blobs in pieces of this many bytes, and takes up where a transfer broke off; at once if
    /// there is no number.
    pub chunk_bytes: Option<u64>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a registry may be silent.
    pub idle_timeout: Duration,
    /// When to ask again.
    pub retry: Retry,
    /// Set it to stop; calls return `Cancelled` within a quarter of a second.
    pub cancel: Arc<AtomicBool>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: BTreeMap::new(),
            auth_file: None,
            token_servers: BTreeMap::new(),
            insecure: Vec::new(),
            chunk_bytes: None,
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            retry: Retry::default(),
            cancel: Arc::default(),
        }
    }
}
