//! Container images: references, manifests, layers, an OCI-layout store and a registry client.

mod error;
pub use error::{Error, ErrorKind, Result};

mod digest;
pub use digest::{Digest, HashReader, HashWriter, Hasher};

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

mod image;
mod store;
pub use image::{Image, Layer, chain_id};
pub use store::{
    BlobReader, INDEX_ANNOTATION, Ingest, Lease, Pruned, Store, StoreOptions, StoredImage,
};

pub mod layer;

mod builder;
pub use builder::ImageBuilder;

mod registry;
#[cfg(feature = "server")]
pub use registry::server;
pub use registry::{
    BlobStream, Client, ClientOptions, Credentials, Event, LayerSink, Phase, Progress, PullOptions,
    PullStatus, Pulled, PushOptions, Pushed, RegistryError, Retry, SinkResult, UnpackImageOptions,
    UnpackTarget, pull, push, unpack,
};
