//! Name service.
