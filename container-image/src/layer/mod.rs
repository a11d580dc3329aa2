//! Layers: tar archives of changes, to and from directories.
//!
//! [`decompress`] tells the compression by content, [`unpack`] applies an archive to a directory,
//! [`pack`] makes one from a directory, [`pack_changes`] from the differences of two, and [`Packer`]
//! makes one entry by entry.
//!
//! # Trust
//!
//! Archives are hostile. Every name is resolved by the kernel inside the directory that was given;
//! nothing is opened that was not just made; all that an archive can size has a bound.
//!
//! # References
//! image-spec `layer.md`; `pax(1)`, the GNU tar manual, "Tar Internals".

mod changes;
mod compress;
mod entry;
mod flatten;
mod gzip;
mod header;
mod measure;
mod pack;
mod reader;
mod tree;
mod unpack;
mod whiteout;
mod xattr;

pub use changes::pack_changes;
pub use compress::{Compression, Decompressed, decompress};
pub use entry::{Entry, EntryKind, Timestamp};
pub(crate) use entry::{clean, show};
pub(crate) use flatten::flatten;
pub use measure::{Measured, measure};
pub use pack::{PackOptions, Packed, Packer, pack};
pub(crate) use reader::Reader;
pub use unpack::{UnpackOptions, Unpacked, unpack};

/// The form that deletions have in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Whiteouts {
    /// There is none: the directory is complete by itself. Unpacking deletes there what the layer
    /// deletes, packing records no deletion.
    #[default]
    Apply,
    /// That of overlayfs: a character device 0:0 per name, and the extended attribute
    /// `trusted.overlay.opaque` on directories that hide what is below.
    Overlay,
    /// That of overlayfs mounted with `userxattr`: the attribute is `user.overlay.opaque`.
    OverlayUser,
    /// That of the archive: empty files `.wh.name` and `.wh..wh..opq`, as they are.
    Keep,
}

/// What happens to owners, and to what only root may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Every file gets the owner that the archive names. Needs `CAP_CHOWN`.
    #[default]
    Keep,
    /// Every file belongs to the caller; extended attributes that the kernel refuses are left out.
    Ignore,
}

/// How much one layer may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of file contents, and of the archive itself. Default: no limit.
    pub bytes: u64,
    /// Entries of the archive and directories that they imply. Default: ten million.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: u64::MAX,
            entries: 10_000_000,
        }
    }
}
