//! Integration tests of `container-net`: public API only.
