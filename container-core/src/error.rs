//! The one error type of this crate.
//!
//! This file is shared: the other crates of the suite link to it, so that every crate has an error
//! of its own (none depends on another) with the same kinds, the same accessors and the same look.

use std::error::Error as StdError;
use std::fmt;
use std::io;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The coarse class of an [`Error`], the same in every crate of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing that was named does not exist.
    NotFound,
    /// The thing that was to be made exists already.
    AlreadyExists,
    /// A value from the caller, an image or a peer breaks its rules.
    InvalidInput,
    /// The thing exists, but not in a state that allows the operation.
    InvalidState,
    /// The host, the kernel or the peer lacks what is needed; the message names it.
    Unsupported,
    /// The privilege for the operation is missing.
    PermissionDenied,
    /// Bytes differ from their digest, size or record.
    Integrity,
    /// A registry refused the credentials, or wants some.
    Unauthorized,
    /// A peer could not be reached or broke off.
    Network,
    /// A wait came to its limit.
    TimedOut,
    /// The caller asked to stop.
    Cancelled,
    /// The thing is in use.
    Busy,
    /// A system call failed with this error number and no better kind fits.
    Os(i32),
    /// The work itself succeeded, but something could not be cleaned up.
    Cleanup,
    /// A promise inside the library was broken.
    Internal,
}

/// What was being done to what, why it failed, and what kind of failure that is.
///
/// `Display` says what was being done; [`source`](StdError::source) says what happened below it.
/// [`Error::report`] joins the chain into one line.
pub struct Error(Box<Inner>);

#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
struct Inner {
    kind: ErrorKind,
    code: &'static str,
    doing: String,
    want: Option<String>,
    got: Option<String>,
    retryable: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
    cleanup: Vec<Error>,
}

impl Error {
    /// The coarse class of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The exact condition as a stable name, such as `DiffIdMismatch`; `Os` where a system call
    /// failed and nothing more exact is known.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What was expected, where the failure is a difference.
    #[must_use]
    pub fn wanted(&self) -> Option<&str> {
        self.0.want.as_deref()
    }

    /// What was found, where the failure is a difference.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.0.got.as_deref()
    }

    /// Whether the same call can succeed later without any change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// What could not be cleaned up after the failure.
    #[must_use]
    pub fn cleanup_errors(&self) -> &[Error] {
        &self.0.cleanup
    }

    /// The whole chain of causes in one line, outermost first.
    #[must_use]
    pub fn report(&self) -> String {
        let mut line = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            line = format!("{line}: {cause}");
            next = cause.source();
        }
        for error in &self.0.cleanup {
            line = format!("{line}; and while cleaning up: {}", error.report());
        }
        line
    }
}

/// How the crate makes its errors; not every crate needs every part.
#[allow(dead_code)]
impl Error {
    /// A failure of `kind`, exactly `code`, while `doing`.
    pub(crate) fn new(kind: ErrorKind, code: &'static str, doing: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            code,
            doing: doing.into(),
            want: None,
            got: None,
            retryable: false,
            source: None,
            cleanup: Vec::new(),
        }))
    }

    /// A failed system call or I/O operation; the kind follows from its error number.
    pub(crate) fn os(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        Self::new(kind_of(&source), "Os", doing).with_source(source)
    }

    /// A value that breaks its rules.
    pub(crate) fn invalid(code: &'static str, doing: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, code, doing)
    }

    /// A difference between what should be and what is.
    pub(crate) fn mismatch(
        code: &'static str,
        doing: impl fmt::Display,
        want: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        let (want, got) = (want.to_string(), got.to_string());
        let doing = format!("{doing}: want {want}, got {got}");
        let mut error = Self::new(ErrorKind::Integrity, code, doing);
        error.0.want = Some(want);
        error.0.got = Some(got);
        error
    }

    /// Takes over what was expected and what was found.
    pub(crate) fn with_difference(mut self, want: Option<&str>, got: Option<&str>) -> Self {
        self.0.want = want.map(Into::into);
        self.0.got = got.map(Into::into);
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_code(mut self, code: &'static str) -> Self {
        self.0.code = code;
        self
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_retry(mut self) -> Self {
        self.0.retryable = true;
        self
    }

    /// Attaches what failed while cleaning up after `self`, which stays the error.
    pub(crate) fn with_cleanup(mut self, errors: impl IntoIterator<Item = Error>) -> Self {
        self.0.cleanup.extend(errors);
        self
    }

    /// Puts `doing` in front, keeping kind, code and the rest of `self` as its cause.
    pub(crate) fn context(self, doing: impl Into<String>) -> Self {
        let mut outer = Self::new(self.kind(), self.code(), doing);
        outer.0.want.clone_from(&self.0.want);
        outer.0.got.clone_from(&self.0.got);
        outer.0.retryable = self.0.retryable;
        outer.with_source(self)
    }
}

/// The kind that an I/O error stands for.
fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::ResourceBusy => ErrorKind::Busy,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        io::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => error
            .raw_os_error()
            .map_or(ErrorKind::Internal, ErrorKind::Os),
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.kind(), self.code(), self.report())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_joins_the_chain_and_keeps_the_kind() {
        let cause = io::Error::from_raw_os_error(2);
        let error = Error::os("open \"/x\"", cause).context("read the record of web");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.report(),
            "read the record of web: open \"/x\": No such file or directory (os error 2)"
        );
    }

    #[test]
    fn mismatch_tells_both_sides() {
        let error = Error::mismatch("SizeMismatch", "read blob", 3, 4);
        assert_eq!((error.wanted(), error.found()), (Some("3"), Some("4")));
        assert_eq!(error.to_string(), "read blob: want 3, got 4");
    }
}
