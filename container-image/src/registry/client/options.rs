//! How to talk to registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;
use crate::registry::auth::Credentials;
use crate::registry::auth_file::AuthFile;
use crate::registry::hosts;
use crate::registry::proxy::{Proxies, network_has};
use crate::registry::retry::Retry;
use crate::registry::url::host_of;
use crate::{Result, json};

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
    /// Where else to ask for what a registry has, by registry (Docker Hub's name is `docker.io`), in order:
    /// `host[:port]` or URLs. The registry itself comes last. With `http://` a mirror is talked to in
    /// the clear.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Directories with a folder `host[:port]` for each registry that there is something to say about:
    /// certificates (`*.crt` for authorities, `*.cert` and `*.key` for who we are), or containerd's
    /// `hosts.toml`. Those of Docker, Podman and containerd below `/etc` by default.
    pub hosts_dirs: Vec<PathBuf>,
    /// Through which proxies to talk; those of the environment if there are none here.
    pub proxies: Option<Proxies>,
    /// Registries, written as in references (`host` or `host:port`), and networks (`10.0.0.0/8`), that may use
    /// plain HTTP or a certificate that nobody has signed. Loopback addresses may always.
    pub insecure: Vec<String>,
    /// How many parts of a large blob to fetch at once, each over a connection of its own and of 4 MiB; it takes as
    /// many such parts of memory for each blob. One fetches blobs as a whole, and is enough where a connection
    /// fills the line.
    pub ranges: usize,
    /// Sends blobs in pieces of this many bytes, and takes up where a transfer broke off; at once if
    /// there is no number.
    pub chunk_bytes: Option<u64>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long a registry may be silent.
    pub idle_timeout: Duration,
    /// How long a client may work altogether, counted from when it was made: the whole of a pull or push.
    pub total_timeout: Option<Duration>,
    /// When to ask again.
    pub retry: Retry,
    /// Set it to stop; calls return `Cancelled` within a quarter of a second.
    pub cancel: Arc<AtomicBool>,
}

impl ClientOptions {
    /// Adds what Docker's `daemon.json` says of registries: `registry-mirrors`, which are for Docker Hub,
    /// and `insecure-registries`. Everything else in it is for others.
    ///
    /// # Errors
    /// `InvalidJson`, with the line.
    pub fn add_daemon_json(&mut self, text: &[u8]) -> Result<()> {
        let settings: DaemonJson = json::parse(text, "daemon.json")?;
        let mirrors = self.mirrors.entry(DEFAULT_REGISTRY.into()).or_default();
        mirrors.extend(settings.registry_mirrors);
        self.insecure.extend(settings.insecure_registries);
        Ok(())
    }

    /// Whether `authority` is listed as insecure.
    pub(in crate::registry) fn is_listed(&self, authority: &str) -> bool {
        let listed = |entry: &String| {
            entry.eq_ignore_ascii_case(authority) || network_has(entry, host_of(authority))
        };
        self.insecure.iter().any(listed)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DaemonJson {
    #[serde(default)]
    registry_mirrors: Vec<String>,
    #[serde(default)]
    insecure_registries: Vec<String>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            credentials: BTreeMap::new(),
            auth_file: None,
            token_servers: BTreeMap::new(),
            mirrors: BTreeMap::new(),
            hosts_dirs: hosts::system_dirs(),
            proxies: None,
            insecure: Vec::new(),
            ranges: 1,
            chunk_bytes: None,
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            total_timeout: None,
            retry: Retry::default(),
            cancel: Arc::default(),
        }
    }
}
