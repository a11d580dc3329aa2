//! Archives of images: no panic, and an archive that is refused leaves nothing.

#![no_main]

use std::fs;

use container_image::archive::{LoadOptions, load};
use container_image::{Store, StoreOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut options = StoreOptions::default();
    options.sync = false;
    let store = Store::open_with(dir.path(), &options).unwrap();
    let mut options = LoadOptions::default();
    options.limits.bytes = 1 << 20;
    if load(bytes, &store, &options).is_err() {
        assert!(store.images().unwrap().is_empty());
        assert_eq!(
            fs::read_dir(dir.path().join("blobs/sha256"))
                .unwrap()
                .count(),
            0
        );
    }
});
