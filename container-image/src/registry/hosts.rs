//! The hosts that serve a registry: its mirrors, then itself.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::auth::HUB_HOST;
use super::url::Url;
use crate::reference::DEFAULT_REGISTRY;
use crate::{Error, ErrorKind, Reference};

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
    authority: String,
    mirror: bool,
    base: OnceLock<Url>,
    /// Until when a mirror that failed is left alone.
    rests_until: Mutex<Option<Instant>>,
}

impl Host {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.mirror
    }

    pub(super) fn serves(&self, need: Need) -> bool {
        need != Need::Push || !self.mirror
    }

    /// The root of its API by this protocol.
    pub(super) fn url(&self, https: bool) -> Url {
        Url::new(https, &self.authority, "/v2/")
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
            let mut until = self
                .rests_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *until = Some(Instant::now() + REST);
        }
    }

    pub(super) fn is_resting(&self) -> bool {
        let until = self
            .rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// The hosts of `registry`, in the order in which they are asked.
pub(super) fn of(registry: &str) -> Vec<Host> {
    let authority = if registry == DEFAULT_REGISTRY {
        HUB_HOST
    } else {
        registry
    };
    vec![Host {
        name: registry.into(),
        authority: authority.to_ascii_lowercase(),
        mirror: false,
        base: OnceLock::new(),
        rests_until: Mutex::default(),
    }]
}

const REST: Duration = Duration::from_secs(60);
