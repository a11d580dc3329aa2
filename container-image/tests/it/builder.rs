//! Images from scratch.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use container_image::layer::{
    Compression, Entry, EntryKind, Ownership, UnpackOptions, decompress, unpack,
};
use container_image::{Digest, Image, ImageBuilder, MediaType, Platform, Reference, Store};

fn store() -> (tempfile::TempDir, Store) {
    let directory = crate::fixture::temp_dir();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

/// The files of the only layer, as whoever runs the test.
fn unpacked(image: &Image) -> tempfile::TempDir {
    let directory = crate::fixture::temp_dir();
    let blob = image.open_layer(&image.layers()[0]).unwrap();
    let mut plain = Vec::new();
    decompress(blob).unwrap().read_to_end(&mut plain).unwrap();
    assert_eq!(Digest::of(&plain), image.layers()[0].diff_id);
    let root = fs::File::open(directory.path()).unwrap();
    let options = UnpackOptions {
        ownership: Ownership::Ignore,
        ..UnpackOptions::default()
    };
    let unpacked = unpack(&mut &plain[..], root.as_fd(), &options).unwrap();
    assert!(unpacked.implied_directories.is_empty());
    directory
}

#[test]
fn an_image_holds_what_was_added_and_set() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("tree/sub")).unwrap();
    fs::write(host.path().join("tree/sub/tool"), "tool").unwrap();
    let mode = PermissionsExt::from_mode(0o751);
    fs::set_permissions(host.path().join("tree/sub/tool"), mode).unwrap();
    symlink("sub/tool", host.path().join("tree/link")).unwrap();
    symlink("tree/sub/tool", host.path().join("top")).unwrap();
    let (_directory, store) = store();
    let name: Reference = "registry.example/app:1".parse().unwrap();
    let mut entry = Entry::new("data/own", EntryKind::File { size_bytes: 0 });
    entry.uid = 7;
    let image = ImageBuilder::new()
        .file("etc/motd", "first", 0o600)
        .file("/etc/motd", "second", 0o640)
        .directory("tmp", 0o1777)
        .symlink("motd", "etc/motd")
        .copy(host.path().join("tree"), "opt")
        .copy(host.path().join("top"), "bin/tool")
        .entry(entry, "own")
        .platform(Platform::new("linux", "aarch64", None))
        .entrypoint(["/bin/tool"])
        .cmd(["--help"])
        .env("A", "1")
        .env("B", "=")
        .env("A", "2")
        .workdir("/data")
        .user("7:7")
        .label("key", "value")
        .expose("80")
        .expose("53/udp")
        .name(name.clone())
        .build(&store)
        .unwrap();
    assert_eq!(store.resolve(&name).unwrap().digest(), image.digest());
    let config = image.config();
    assert_eq!((&*config.os, &*config.architecture), ("linux", "arm64"));
    assert_eq!(config.config.env, ["B==", "A=2"]);
    assert_eq!(config.config.entrypoint.as_deref().unwrap(), ["/bin/tool"]);
    assert_eq!(config.config.cmd.as_deref().unwrap(), ["--help"]);
    assert_eq!(config.config.working_dir, "/data");
    assert_eq!(config.config.user, "7:7");
    assert_eq!(config.config.labels["key"], "value");
    let ports: Vec<_> = config.config.exposed_ports.iter().collect();
    assert_eq!(ports, ["53/udp", "80/tcp"]);
    let layer = &image.layers()[0].descriptor;
    assert_eq!(layer.media_type, MediaType::LAYER_GZIP);

    let files = unpacked(&image);
    let read = |path: &str| fs::read_to_string(files.path().join(path)).unwrap();
    let mode = |path: &str| {
        let meta = fs::symlink_metadata(files.path().join(path)).unwrap();
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(read("etc/motd"), "second");
    assert_eq!((mode("etc/motd"), mode("tmp")), (0o640, 0o1777));
    assert_eq!(
        (read("opt/sub/tool"), mode("opt/sub/tool")),
        ("tool".into(), 0o751)
    );
    assert_eq!(
        fs::read_link(files.path().join("opt/link")).unwrap(),
        Path::new("sub/tool")
    );
    assert!(
        fs::symlink_metadata(files.path().join("bin/tool"))
            .unwrap()
            .is_file()
    );
    assert_eq!(read("data/own"), "own");
}

#[test]
fn the_same_input_gives_the_same_image() {
    let build = |swap: bool, compression| {
        let (_directory, store) = store();
        let builder = ImageBuilder::new().compression(compression);
        let builder = match swap {
            false => builder.file("a", "a", 0o644).file("b/c", "c", 0o755),
            true => builder.file("b/c", "c", 0o755).file("a", "a", 0o644),
        };
        let image = builder
            .cmd(["/a"])
            .label("x", "1")
            .label("y", "2")
            .build(&store)
            .unwrap();
        (image.digest(), image.id())
    };
    let gzip = build(false, Compression::Gzip(6));
    assert_eq!(gzip, build(true, Compression::Gzip(6)));
    let zstd = build(false, Compression::Zstd(3));
    assert_ne!(gzip.0, zstd.0);
    assert_eq!(gzip.1, zstd.1, "the image ID is of the uncompressed layer");
}

#[test]
fn every_bad_value_is_reported_and_nothing_is_stored() {
    let (_directory, store) = store();
    let error = ImageBuilder::new()
        .env("", "x")
        .env("A=B", "x")
        .workdir("relative")
        .expose("0/tcp")
        .expose("80/icmp")
        .expose("+80")
        .expose("90-80")
        .build(&store)
        .unwrap_err();
    assert_eq!(error.code(), "InvalidImage");
    for part in [
        "\"\"", "A=B", "relative", "0/tcp", "80/icmp", "+80", "90-80",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
    let error = ImageBuilder::new()
        .file("../x", "", 0o644)
        .build(&store)
        .unwrap_err();
    assert_eq!(error.code(), "PathEscapes");
    let error = ImageBuilder::new()
        .copy("/nonexistent", "x")
        .build(&store)
        .unwrap_err();
    assert_eq!(error.kind(), container_image::ErrorKind::NotFound);
    let error = ImageBuilder::new()
        .copy("/dev/null", "x")
        .build(&store)
        .unwrap_err();
    assert_eq!(error.code(), "UnsupportedEntry");
    assert!(store.images().unwrap().is_empty());
    assert_eq!(
        fs::read_dir(store.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
}
