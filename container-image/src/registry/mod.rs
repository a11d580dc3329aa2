//! Registries: the client for the distribution specification, pull and push.
//!
//! Connections are encrypted and verified. Only loopback addresses and registries that the caller
//! lists as insecure may use plain HTTP or unverified certificates, and mirrors that he gives as `http://`;
//! nobody else ever falls back. Credentials go to the registry that they are for, to a token server on the same
//! host or one that the caller names, and to no other host.

mod auth;
mod auth_file;
pub(crate) mod base64;
mod client;
mod error;
mod helper;
mod hosts;
mod hosts_toml;
mod layers;
mod pipe;
mod progress;
mod proxy;
mod pull;
mod push;
mod referrer;
mod retry;
#[cfg(feature = "server")]
pub mod server;
mod tls;
mod transport;
mod url;

pub use auth::Credentials;
pub use auth_file::AuthFile;
pub use client::{BlobStream, Client, ClientOptions, Names};
pub use error::RegistryError;
pub use layers::{LayerSink, SinkResult, UnpackTarget};
pub use progress::{Event, Phase, Progress};
pub use proxy::Proxies;
pub use pull::{PullOptions, PullStatus, Pulled, UnpackImageOptions, pull, unpack};
pub use push::{PushOptions, Pushed, push};
pub use retry::Retry;

/// Reads a header as registries send them, whatever is in it.
#[cfg(feature = "_fuzz")]
#[doc(hidden)]
pub fn fuzz_headers(text: &str) {
    let _ = auth::Challenge::parse(text);
    let _ = url::Url::parse(text);
}
