//! Integration tests of `container-image`: public API only.
