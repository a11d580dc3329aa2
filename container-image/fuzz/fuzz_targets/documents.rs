//! Manifests, indexes and configs: no panic, and what is read survives being written.

#![no_main]

use container_image::{Document, ImageConfig, MediaType, Platform, RunConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for declared in [None, Some(MediaType::MANIFEST), Some(MediaType::INDEX)] {
        if let Ok(document) = Document::parse(bytes, declared.as_ref()) {
            assert_eq!(document.raw(), bytes);
            if let Document::Index(index) = document {
                let _ = Platform::host().choose(index.manifests());
            }
        }
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let again = config.to_json();
        assert_eq!(ImageConfig::parse(&again).unwrap(), config);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = RunConfig::default().apply(text.lines());
    }
});
