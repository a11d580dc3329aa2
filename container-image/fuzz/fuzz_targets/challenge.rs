//! Challenges of registries, and what else they put into headers: no panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| container_image::fuzz_headers(text));
