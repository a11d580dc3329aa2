//! Integration tests of `container-storage`: public API only.
