//! Media types: what the bytes behind a descriptor claim to be.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a blob. Unknown ones pass through unchanged.
///
/// # References
/// image-spec `media-types.md`; Docker image manifest version 2, schema 2.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MediaType(Cow<'static, str>);

impl MediaType {
    /// An OCI image manifest.
    pub const MANIFEST: Self = Self::known("application/vnd.oci.image.manifest.v1+json");
    /// An OCI image index.
    pub const INDEX: Self = Self::known("application/vnd.oci.image.index.v1+json");
    /// An OCI image config.
    pub const CONFIG: Self = Self::known("application/vnd.oci.image.config.v1+json");
    /// An OCI layer: a plain tar archive.
    pub const LAYER: Self = Self::known("application/vnd.oci.image.layer.v1.tar");
    /// An OCI layer: a tar archive compressed by gzip.
    pub const LAYER_GZIP: Self = Self::known("application/vnd.oci.image.layer.v1.tar+gzip");
    /// An OCI layer: a tar archive compressed by zstd.
    pub const LAYER_ZSTD: Self = Self::known("application/vnd.oci.image.layer.v1.tar+zstd");
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: Self =
        Self::known("application/vnd.docker.distribution.manifest.v2+json");
    /// A Docker manifest list.
    pub const DOCKER_LIST: Self =
        Self::known("application/vnd.docker.distribution.manifest.list.v2+json");
    /// A Docker image config.
    pub const DOCKER_CONFIG: Self = Self::known("application/vnd.docker.container.image.v1+json");
    /// A Docker layer: a tar archive compressed by gzip.
    pub const DOCKER_LAYER_GZIP: Self =
        Self::known("application/vnd.docker.image.rootfs.diff.tar.gzip");

    const fn known(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The media type named `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Cow::Owned(name.into()))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names an image manifest, OCI's or Docker's.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        *self == Self::MANIFEST || *self == Self::DOCKER_MANIFEST
    }

    /// Whether it names an image index or a manifest list.
    #[must_use]
    pub fn is_index(&self) -> bool {
        *self == Self::INDEX || *self == Self::DOCKER_LIST
    }

    /// Whether it names Docker's manifest schema 1, which is not supported.
    #[must_use]
    pub fn is_schema1(&self) -> bool {
        self.0
            .starts_with("application/vnd.docker.distribution.manifest.v1+")
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
