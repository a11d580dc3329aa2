//! Archives of images: what `docker save`, `podman save` and `skopeo` write and read.
//!
//! [`load`] reads any of them from a stream, compressed or not, and tells them apart by what is in
//! them; [`save`] writes one to a stream. [`import`] makes an image of an archive of plain files. None of it touches any other file than those of the store.
//!
//! # Trust
//!
//! Archives are hostile. Names and links in them are only keys of a map; no file of the host is
//! opened for them. Digests, diff IDs, numbers and sizes are checked before an image is listed, and
//! what an archive that is refused brought goes again.
//!
//! # References
//! image-spec `image-layout.md`; Docker image specification 1.3, "Combined image JSON + filesystem
//! changeset format".

mod docker;
mod import;
mod load;
mod members;
mod save;

pub use import::{ImportOptions, import};
pub(crate) use load::find;
pub use load::{ArchivedImage, LoadOptions, load};
pub(crate) use members::Members;
pub(crate) use save::ArchiveWriter;
pub use save::{ArchiveFormat, SaveOptions, save};

/// The list of images in Docker's archives.
const DOCKER_MANIFEST: &str = "manifest.json";
