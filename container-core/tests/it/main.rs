//! Integration tests of `container-core`: public API only.
