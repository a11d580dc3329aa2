//! References: what is read is written in a form that means the same.

#![no_main]

use container_image::{Digest, Location, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(
            reference.to_string().parse::<Reference>().unwrap(),
            reference
        );
        assert_eq!(
            reference.familiar().parse::<Reference>().unwrap(),
            reference
        );
        let path = format!("{}/{}", reference.registry(), reference.repository());
        assert!(!path.contains("..") && !path.contains("//"), "{path}");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        let _ = platform.rank(&platform);
    }
    if let Ok(location) = text.parse::<Location>() {
        location.to_string().parse::<Location>().unwrap();
    }
});
