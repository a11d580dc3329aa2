//! Container images: references, manifests, layers, an OCI-layout store and a registry client.

mod error;
pub use error::{Error, ErrorKind, Result};

mod digest;
pub use digest::{Digest, HashReader, HashWriter, Hasher};
