//! The hosts that serve a registry: its mirrors, then itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::auth::HUB_HOST;
use super::client::ClientOptions;
use super::hosts_toml::{HostSettings, HostsFile};
use super::tls::Trust;
use super::transport::Http;
use super::url::Url;
use crate::reference::DEFAULT_REGISTRY;
use crate::{Error, ErrorKind, Reference, Result};

/// What a request needs a host for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// To learn what a tag leads to.
    Resolve,
    /// To get what a digest names.
    Pull,
    /// To change something.
    Push,
}

impl Need {
    pub(super) fn of(reference: &Reference) -> Self {
        match reference.digest() {
            Some(_) => Self::Pull,
            None => Self::Resolve,
        }
    }
}

/// One host that serves a registry.
#[derive(Debug)]
pub(super) struct Host {
    /// Under which credentials are kept for it.
    name: String,
    /// Where it is, with `https` where that is not known yet.
    url: Url,
    is_mirror: bool,
    serves: Vec<Need>,
    headers: Vec<(String, String)>,
    /// What a `hosts.toml` says about its certificates; else `certs.d` does.
    pub(super) trust: Option<Trust>,
    pub(super) dial_timeout: Option<Duration>,
    /// The connections that follow from this trust and this time.
    pub(super) http: OnceLock<Arc<Http>>,
    base: OnceLock<Url>,
    /// Until when a mirror that failed is left alone.
    rests_until: Mutex<Option<Instant>>,
}

impl Host {
    /// `address` is `host[:port]`, or a URL with what comes before `/v2/`.
    fn new(name: &str, address: &str, is_mirror: bool) -> Result<Self> {
        let (url, knows_protocol) = if address.contains("://") {
            (Url::parse(address)?, true)
        } else {
            (Url::parse(&format!("https://{address}"))?, false)
        };
        let path = url.target.trim_end_matches('/');
        let url = Url::new(url.https, &url.authority, format!("{path}/v2/"));
        let base = OnceLock::new();
        if knows_protocol {
            base.get_or_init(|| url.clone());
        }
        let mut serves = vec![Need::Resolve, Need::Pull];
        if !is_mirror {
            serves.push(Need::Push);
        }
        Ok(Self {
            name: name.into(),
            url,
            is_mirror,
            serves,
            headers: Vec::new(),
            trust: None,
            dial_timeout: None,
            http: OnceLock::new(),
            base,
            rests_until: Mutex::default(),
        })
    }

    fn with_settings(mut self, settings: HostSettings) -> Self {
        if settings.override_path {
            let path = self
                .url
                .target
                .strip_suffix("v2/")
                .unwrap_or("/")
                .to_owned();
            self.url.target = path;
            if self.base.take().is_some() {
                self.base = OnceLock::from(self.url.clone());
            }
        }
        if let Some(capabilities) = settings.capabilities {
            self.serves = capabilities;
        }
        self.headers = settings.headers;
        self.trust = settings.trust;
        self.dial_timeout = settings.dial_timeout;
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.is_mirror
    }

    pub(super) fn serves(&self, need: Need) -> bool {
        self.serves.contains(&need)
    }

    /// What it wants to see in each request.
    pub(super) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The root of its API by this protocol.
    pub(super) fn url(&self, https: bool) -> Url {
        Url {
            https,
            ..self.url.clone()
        }
    }

    /// The root of its API, once it is known whether it talks TLS.
    pub(super) fn base(&self) -> Option<&Url> {
        self.base.get()
    }

    pub(super) fn set_base(&self, base: Url) -> Url {
        self.base.get_or_init(|| base).clone()
    }

    /// Notes that a mirror failed: one that is down is left alone for a while.
    pub(super) fn note(&self, error: &Error) {
        if matches!(error.kind(), ErrorKind::Network | ErrorKind::TimedOut) {
            let until = self.rests_until.lock();
            *until.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
        }
    }

    pub(super) fn is_resting(&self) -> bool {
        let until = self.rests_until.lock();
        let until = *until.unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.authority)
    }
}

/// The hosts of `registry`, in the order in which they are asked.
pub(super) fn of(registry: &str, options: &ClientOptions) -> Result<Vec<Host>> {
    let address = if registry == DEFAULT_REGISTRY {
        HUB_HOST
    } else {
        registry
    };
    let mut hosts = Vec::new();
    for mirror in options.mirrors.get(registry).into_iter().flatten() {
        let host = mirror_of(mirror);
        let host = host.map_err(|error| error.context(format!("use mirror {mirror:?}")))?;
        hosts.push(host);
    }
    let mut itself = None;
    if let Some(file) = hosts_file(registry, &options.hosts_dirs)? {
        for (address, settings) in file.hosts {
            hosts.push(mirror_of(&address)?.with_settings(settings));
        }
        let address = file.server.as_deref().unwrap_or(address);
        itself = Some(Host::new(registry, address, false)?.with_settings(file.itself));
    }
    hosts.push(match itself {
        Some(itself) => itself,
        None => Host::new(registry, address, false)?,
    });
    Ok(hosts)
}

/// A mirror is known by its own name: credentials of the registry that it mirrors are not for it.
fn mirror_of(address: &str) -> Result<Host> {
    let mut host = Host::new("", address, true)?;
    host.name.clone_from(&host.url.authority);
    Ok(host)
}

/// What the files for `authority` say whom to trust there.
pub(super) fn trust_of(authority: &str, options: &ClientOptions) -> Result<Trust> {
    let mut trust = Trust::default();
    for folder in folders_of(authority, &options.hosts_dirs) {
        trust.add_folder(&folder)?;
    }
    Ok(trust)
}

fn hosts_file(registry: &str, dirs: &[PathBuf]) -> Result<Option<HostsFile>> {
    let default = dirs.iter().map(|dir| dir.join("_default"));
    for folder in folders_of(registry, dirs).into_iter().chain(default) {
        if let Some(file) = HostsFile::read(&folder)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The folders in which there may be something about `host[:port]`. Where a colon is not wanted in
/// names, `host_port_` is used.
fn folders_of(authority: &str, dirs: &[PathBuf]) -> Vec<PathBuf> {
    // It becomes part of a path.
    if authority.is_empty() || authority.contains('/') || authority.starts_with('.') {
        return Vec::new();
    }
    let mut names = vec![authority.to_owned()];
    if let Some((host, port)) = authority.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    let in_dir = |dir: &PathBuf| names.iter().map(|name| dir.join(name)).collect::<Vec<_>>();
    dirs.iter().flat_map(in_dir).collect()
}

/// The directories where Docker, Podman and containerd look for certificates and hosts.
pub(super) fn system_dirs() -> Vec<PathBuf> {
    let dirs = [
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
        "/etc/containerd/certs.d",
    ];
    dirs.map(|dir| Path::new(dir).to_owned()).to_vec()
}

const REST: Duration = Duration::from_secs(60);
