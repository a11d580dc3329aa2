//! Archives: no panic, nothing outside of the directory, and bounds that hold.

#![no_main]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;

use container_image::layer::{
    Limits, Ownership, UnpackOptions, Whiteouts, decompress, measure, unpack,
};
use libfuzzer_sys::fuzz_target;

const FORMS: [Whiteouts; 4] = [
    Whiteouts::Apply,
    Whiteouts::Keep,
    Whiteouts::Overlay,
    Whiteouts::OverlayUser,
];

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let limits = Limits {
        bytes: 1 << 20,
        entries: 1000,
    };
    let mut plain = Vec::new();
    if let Ok(reader) = decompress(bytes) {
        let _ = reader.take(1 << 20).read_to_end(&mut plain);
    }
    let measured = measure(&mut &plain[..], &limits);
    let outer = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::create_dir(outer.path().join("root")).unwrap();
    fs::write(outer.path().join("outside"), "outside").unwrap();
    let options = UnpackOptions {
        whiteouts: FORMS[usize::from(first % 4)],
        ownership: Ownership::Ignore,
        limits,
    };
    let root = File::open(outer.path().join("root")).unwrap();
    let unpacked = unpack(&mut &plain[..], root.as_fd(), &options);
    if unpacked.is_ok() {
        assert!(measured.is_ok());
    }
    assert_eq!(fs::read(outer.path().join("outside")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
});
