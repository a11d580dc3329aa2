//! Errors of the lower crates become errors of the engine: same kind, same code, more context.

use crate::{Error, ErrorKind, Result};

/// An error from below the engine.
pub(crate) trait Lower {
    /// The engine's error for it, which happened while `doing`.
    fn into_engine(self, doing: String) -> Error;
}

impl Lower for std::io::Error {
    fn into_engine(self, doing: String) -> Error {
        Error::os(doing, self)
    }
}

macro_rules! lower {
    ($($package:ident),*) => {$(
        impl Lower for $package::Error {
            fn into_engine(self, doing: String) -> Error {
                use $package::ErrorKind as Kind;
                let kind = match self.kind() {
                    Kind::NotFound => ErrorKind::NotFound,
                    Kind::AlreadyExists => ErrorKind::AlreadyExists,
                    Kind::InvalidInput => ErrorKind::InvalidInput,
                    Kind::InvalidState => ErrorKind::InvalidState,
                    Kind::Unsupported => ErrorKind::Unsupported,
                    Kind::PermissionDenied => ErrorKind::PermissionDenied,
                    Kind::Integrity => ErrorKind::Integrity,
                    Kind::Unauthorized => ErrorKind::Unauthorized,
                    Kind::Network => ErrorKind::Network,
                    Kind::TimedOut => ErrorKind::TimedOut,
                    Kind::Cancelled => ErrorKind::Cancelled,
                    Kind::Busy => ErrorKind::Busy,
                    Kind::Os(number) => ErrorKind::Os(number),
                    Kind::Cleanup => ErrorKind::Cleanup,
                    _ => ErrorKind::Internal,
                };
                let error = Error::new(kind, self.code(), doing);
                let error = if self.is_retryable() { error.with_retry() } else { error };
                error.with_difference(self.wanted(), self.found()).with_source(self)
            }
        }
    )*};
}

lower!(
    container_core,
    container_image,
    container_net,
    container_storage
);

/// Says what the engine was doing when something below it failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Lower> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.into_engine(what()))
    }
}
