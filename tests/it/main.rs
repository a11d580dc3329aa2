//! End-to-end tests of the engine: public API only.
