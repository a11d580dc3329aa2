//! End-to-end tests of the engine: public API only.

mod deps;
mod engine;
mod features;
mod oci_runtime;
mod registry;
mod signatures;
mod source;
mod support;
