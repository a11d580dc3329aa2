//! Container images: references, manifests, layers, an OCI-layout store and a registry client.
//!
//! A [`Store`] keeps images as an OCI image layout that any OCI tool can read. [`pull`] brings an
//! image from a registry into it, and its unpacked layers into a [`LayerSink`], in one pass; [`push`]
//! sends one back. [`layer`] turns archives into directories and directories into archives. All calls
//! block; none needs a runtime, a daemon or another program, but for the credential helpers that a user's
//! `config.json` names, where an [`AuthFile`] is used.
//!
//! ```no_run
//! use container_image::{PullOptions, Reference, Store, pull};
//!
//! let store = Store::open("/var/lib/images")?;
//! let reference: Reference = "debian:bookworm".parse()?;
//! let image = pull(&reference, &store, &PullOptions::default(), None)?.image;
//! for layer in image.layers() {
//!     println!("{} {}", layer.diff_id, layer.descriptor.size_bytes);
//! }
//! # Ok::<(), container_image::Error>(())
//! ```
//!
//! # Trust
//!
//! Registries, and all that comes from them, are not trusted: documents have bounds and one meaning,
//! and nothing becomes visible before its size and digest are right. The directory of a store belongs
//! to its owner alone and is trusted as far as it holds no links; blobs are verified whenever they are
//! read. Connections are encrypted and verified, except to loopback, to registries that the caller lists as
//! insecure, and to mirrors that he gives as `http://`; credentials go to the registry that they are for.
//!
//! # Needs
//!
//! Linux 5.6 (`openat2`). Root unpacks layers as they are; a plain user unpacks them without owners,
//! and without device nodes. Public registries need the certificates of the system.
//!
//! # Features
//!
//! - `server`: an embeddable registry, `server::Server`.
//!
//! # Terms
//!
//! A *digest* names exact bytes, a *descriptor* adds media type and size. A *diff ID* is the digest of
//! an uncompressed layer, a *chain ID* that of a layer with all below it, the *image ID* that of the
//! config. Lists of layers begin with the base.

mod error;
pub use error::{Error, ErrorKind, Result};

mod digest;
pub use digest::{Digest, HashReader, HashWriter, Hasher};

mod change;
mod config;
mod descriptor;
mod json;
mod manifest;
mod media_type;
mod platform;
mod reference;
pub use config::{Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use manifest::{Document, Index, Manifest};
pub use media_type::MediaType;
pub use platform::Platform;
pub use reference::Reference;

mod history;
mod image;
mod layout;
mod store;
pub use history::HistoryRow;
pub use image::{Image, Layer, chain_id};
pub use store::{
    BlobReader, Damage, INDEX_ANNOTATION, Ingest, Lease, Pruned, Store, StoreOptions, StoredImage,
};

pub mod build;
pub mod layer;

pub mod archive;

mod copy;
pub use copy::{CopyOptions, Inspection, Location, Platforms, copy, inspect};

mod builder;
mod edit;
mod policy;
mod random;
mod repair;
pub use builder::ImageBuilder;
pub use edit::ImageEdit;
pub use policy::{Policy, PublicKey, Trust};
pub use random::random;
pub use repair::{Repaired, repair};

mod registry;
#[cfg(feature = "_fuzz")]
#[doc(hidden)]
pub use registry::fuzz_headers;
#[cfg(feature = "server")]
pub use registry::server;
pub use registry::{
    AuthFile, BlobStream, Client, ClientOptions, Credentials, Event, LayerSink, Names, Phase,
    Progress, Proxies, PullOptions, PullStatus, Pulled, PushOptions, Pushed, RegistryError, Retry,
    SinkResult, UnpackImageOptions, UnpackTarget, pull, push, unpack,
};
