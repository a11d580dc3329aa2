//! Archives of images: there and back, and what hostile ones do.

use std::fs;
use std::io::{self, Write};

use container_image::archive::{
    ArchiveFormat, ArchivedImage, LoadOptions, SaveOptions, load, save,
};
use container_image::layer::{Compression, Limits};
use container_image::{Descriptor, Digest, Error, Image, ImageConfig, MediaType, Reference, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::*;

/// A store with two images that share a layer.
fn two_images() -> (TempDir, Store, [ArchivedImage; 2]) {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let base = tar_of(&[("etc/motd", b"hello")]);
    let large = tar_of(&[("data", &noise(3, 5 << 20))]);
    let names = ["team/app:v1", "localhost:5000/other"].map(|name| name.parse().unwrap());
    let one = make_image(&store, &names[0], &[base.clone(), large]);
    let two = make_image(&store, &names[1], &[base, tar_of(&[("b", b"2")])]);
    let [first, second] = names;
    let images = [
        ArchivedImage::new(one, vec![first, "team/app:v2".parse().unwrap()]),
        ArchivedImage::new(two, vec![second]),
    ];
    (dir, store, images)
}

fn saved(images: &[ArchivedImage], format: ArchiveFormat, compression: Compression) -> Vec<u8> {
    let mut options = SaveOptions::default();
    options.format = format;
    options.compression = compression;
    let mut archive = Vec::new();
    save(images, &mut archive, &options).unwrap();
    archive
}

fn loaded(archive: &[u8]) -> Result<(TempDir, Store, Vec<ArchivedImage>), Error> {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let images = load(archive, &store, &LoadOptions::default());
    if images.is_err() {
        assert!(store.images().unwrap().is_empty());
        let left = |of: &str| fs::read_dir(dir.path().join(of)).unwrap().count();
        assert_eq!(
            [left("blobs/sha256"), left("ingest"), left("leases")],
            [0; 3]
        );
    }
    Ok((dir, store, images?))
}

fn refused(members: &[(&str, &[u8])]) -> &'static str {
    loaded(&tar_of(members)).unwrap_err().code()
}

/// All bytes of an image are there.
fn check(image: &Image) {
    for layer in image.layers() {
        io::copy(&mut image.open_layer(layer).unwrap(), &mut io::sink()).unwrap();
    }
}

#[test]
fn images_are_the_same_after_an_archive() {
    let (_dir, _, images) = two_images();
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        for compression in [
            Compression::None,
            Compression::Gzip(1),
            Compression::Zstd(1),
        ] {
            let archive = saved(&images, format, compression);
            assert_eq!(archive, saved(&images, format, compression));
            let (_dir, store, loaded) = loaded(&archive).unwrap();
            assert_eq!(loaded.len(), 2);
            for (before, after) in images.iter().zip(&loaded) {
                assert_eq!(after.image.id(), before.image.id());
                assert_eq!(after.image.digest(), before.image.digest());
                assert_eq!(after.names, before.names);
                for name in &before.names {
                    let found = store.resolve(name).unwrap();
                    assert_eq!(found.digest(), before.image.digest());
                }
                check(&after.image);
            }
            // Nothing but the images is kept: three layers, and two configs and manifests each.
            let blobs = fs::read_dir(store.path().join("blobs/sha256")).unwrap();
            assert_eq!(blobs.count(), 3 + 2 + 2);
            assert!(store.prune().unwrap().blobs.is_empty());
        }
    }
}

#[test]
fn an_archive_goes_through_a_pipe() {
    let (_dir, _, images) = two_images();
    let (reader, writer) = io::pipe().unwrap();
    let dir = temp_dir();
    let store = open_store(dir.path());
    std::thread::scope(|scope| {
        scope.spawn(|| save(&images, writer, &SaveOptions::default()).unwrap());
        let loaded = load(reader, &store, &LoadOptions::default()).unwrap();
        assert_eq!(loaded[0].image.digest(), images[0].image.digest());
    });
}

#[test]
fn an_image_without_a_name_stays_one() {
    let (_dir, _, images) = two_images();
    let nameless = [ArchivedImage::new(images[1].image.clone(), Vec::new())];
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let archive = saved(&nameless, format, Compression::None);
        let (_dir, store, loaded) = loaded(&archive).unwrap();
        assert!(loaded[0].names.is_empty());
        let listed = store.images().unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].names.is_empty());
        store.prune().unwrap();
        check(&store.image(&listed[0]).unwrap());
        // A second time it is not listed twice, nor does it take a name away.
        store.tag(&loaded[0].image, &images[1].names[0]).unwrap();
        load(&archive[..], &store, &LoadOptions::default()).unwrap();
        assert_eq!(store.images().unwrap()[0].names, images[1].names);
    }
}

/// The members of an archive as Docker wrote it before version 25: layers are plain and in
/// directories, one of them a link to another.
fn old_docker(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut file = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    let mut paths = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        file(&format!("{index}/VERSION"), b"1.0");
        file(&format!("{index}/json"), b"{}");
        file(&format!("{index}/layer.tar"), layer);
        paths.push(format!("{index}/layer.tar"));
    }
    let name = format!("{}.json", Digest::of(config).hex());
    file(&name, config);
    paths.push("again/layer.tar".into());
    let manifest = json!([{"Config": name, "RepoTags": ["app:old"], "Layers": paths}]);
    file("manifest.json", manifest.to_string().as_bytes());
    file("repositories", br#"{"app":{"old":"0"}}"#);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive
        .append_link(&mut link, "again/layer.tar", "../0/layer.tar")
        .unwrap();
    archive.into_inner().unwrap()
}

fn config_of(diff_ids: Vec<Digest>) -> Vec<u8> {
    let mut config = ImageConfig::new("linux", "amd64");
    config.rootfs.diff_ids = diff_ids;
    config.to_json()
}

#[test]
fn old_archives_of_docker_are_read_and_their_diff_ids_checked() {
    let plain = [tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")])];
    let ids = [&plain[0], &plain[1], &plain[0]].map(Digest::of).to_vec();
    let config = config_of(ids.clone());
    let archive = old_docker(&config, &[&plain[0], &gzip(&plain[1])]);
    let (_dir, store, loaded) = loaded(&archive).unwrap();
    let image = &loaded[0].image;
    assert_eq!(image.id(), Digest::of(&config));
    assert_eq!(
        store.resolve(&"app:old".parse().unwrap()).unwrap().id(),
        image.id()
    );
    let types = image
        .layers()
        .iter()
        .map(|layer| &layer.descriptor.media_type);
    let types: Vec<_> = types.cloned().collect();
    assert_eq!(
        types,
        [MediaType::LAYER, MediaType::LAYER_GZIP, MediaType::LAYER]
    );
    let layers = temp_dir();
    let sink = Directories::new(layers.path());
    container_image::unpack(
        image,
        &sink,
        &container_image::UnpackImageOptions::default(),
    )
    .unwrap();

    for wrong in [
        vec![ids[1], ids[1], ids[0]],
        vec![ids[0], ids[0], ids[0]],
        vec![ids[0], ids[1], ids[1]],
    ] {
        let archive = old_docker(&config_of(wrong), &[&plain[0], &gzip(&plain[1])]);
        assert_eq!(
            super::archive::loaded(&archive).unwrap_err().code(),
            "DiffIdMismatch"
        );
    }
    let archive = old_docker(&config_of(ids[..2].to_vec()), &[&plain[0], &plain[1]]);
    assert_eq!(
        super::archive::loaded(&archive).unwrap_err().code(),
        "LayerCountMismatch"
    );
}

#[test]
fn layers_that_oci_cannot_name_become_plain() {
    let plain = tar_of(&[("a", b"1")]);
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(&plain).unwrap();
    let ids = vec![Digest::of(&plain); 2];
    let config = config_of(ids);
    let archive = old_docker(&config, &[&encoder.finish().unwrap()]);
    let (_dir, _, loaded) = loaded(&archive).unwrap();
    let layer = &loaded[0].image.layers()[0];
    assert_eq!(layer.descriptor.media_type, MediaType::LAYER);
    assert_eq!(layer.descriptor.digest, layer.diff_id);
}

#[test]
fn hostile_archives_import_nothing() {
    let layer = tar_of(&[("a", b"1")]);
    let config = config_of(vec![Digest::of(&layer)]);
    let docker = |config: &str, layer: &str| {
        json!([{"Config": config, "RepoTags": ["x:1"], "Layers": [layer]}]).to_string()
    };
    let with = |manifest: &str| {
        let members: [(&str, &[u8]); 3] = [
            ("c.json", &config),
            ("l.tar", &layer),
            ("manifest.json", manifest.as_bytes()),
        ];
        refused(&members)
    };
    assert_eq!(with(&docker("c.json", "missing")), "MemberNotFound");
    assert_eq!(with(&docker("c.json", "../l.tar")), "PathEscapes");
    assert_eq!(with(&docker("../../etc/passwd", "l.tar")), "PathEscapes");
    assert_eq!(with(&docker("/etc/passwd", "l.tar")), "MemberNotFound");
    assert_eq!(with(&docker("l.tar", "l.tar")), "InvalidJson");
    assert_eq!(
        with(&docker("c.json", "l.tar").replace("x:1", "X:1")),
        "InvalidReference"
    );
    assert_eq!(with("[]"), "InvalidArchive");
    assert_eq!(
        with(r#"[{"Config":"c.json","Config":"c.json"}]"#),
        "InvalidJson"
    );
    assert_eq!(refused(&[("l.tar", &layer)]), "InvalidArchive");
    assert_eq!(refused(&[("oci-layout", b"{}")]), "InvalidLayout");
    assert_eq!(
        refused(&[("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)]),
        "InvalidArchive"
    );
    let wrong = format!("{}.json", Digest::of("other").hex());
    assert_eq!(
        refused(&[
            (&wrong, &config),
            ("l.tar", &layer),
            ("manifest.json", docker(&wrong, "l.tar").as_bytes()),
        ]),
        "DigestMismatch"
    );
    let blob = format!("blobs/sha256/{}", Digest::of("other").hex());
    assert_eq!(refused(&[(&blob, b"this")]), "DigestMismatch");
    let manifest = docker("c.json", "l.tar");
    let twice: [(&str, &[u8]); 4] = [
        ("c.json", &config),
        ("l.tar", &layer),
        ("./l.tar", b"another"),
        ("manifest.json", manifest.as_bytes()),
    ];
    assert_eq!(refused(&twice), "DuplicateMember");
    assert_eq!(
        loaded(b"no archive").unwrap_err().code(),
        "TruncatedArchive"
    );
    assert_eq!(loaded(b"").unwrap_err().code(), "InvalidArchive");
}

#[test]
fn links_lead_to_members_only() {
    let layer = tar_of(&[("a", b"1")]);
    let config = config_of(vec![Digest::of(&layer)]);
    let manifest = json!([{"Config": "c.json", "Layers": ["l.tar"]}]).to_string();
    let archive = |links: &[(&str, &str, tar::EntryType)], leave_out: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let members: [(&str, &[u8]); 3] = [
            ("c.json", &config),
            ("l.tar", &layer),
            ("manifest.json", manifest.as_bytes()),
        ];
        for (path, bytes) in members.iter().filter(|(path, _)| *path != leave_out) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, *bytes).unwrap();
        }
        for (path, target, kind) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(0);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_link_name_literal(target).unwrap();
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        }
        archive.into_inner().unwrap()
    };
    use tar::EntryType::{Fifo, Link, Symlink};
    type Links<'a> = &'a [(&'a str, &'a str, tar::EntryType)];
    let cases: [(Links<'_>, &str, &str); 8] = [
        (&[("l.tar", "/etc/passwd", Symlink)], "l.tar", "PathEscapes"),
        (
            &[("l.tar", "../etc/passwd", Symlink)],
            "l.tar",
            "PathEscapes",
        ),
        (
            &[("l.tar", "../../etc/passwd", Link)],
            "l.tar",
            "PathEscapes",
        ),
        (
            &[("l.tar", "etc/passwd", Symlink)],
            "l.tar",
            "MemberNotFound",
        ),
        (
            &[("l.tar", "m", Symlink), ("m", "l.tar", Symlink)],
            "l.tar",
            "InvalidLink",
        ),
        (
            &[("manifest.json", "c.json", Symlink)],
            "manifest.json",
            "UnsafeLayout",
        ),
        (&[("oci-layout", "c.json", Link)], "", "UnsafeLayout"),
        (&[("l.tar", "", Fifo)], "l.tar", "MemberNotFound"),
    ];
    for (links, leave_out, code) in cases {
        let error = loaded(&archive(links, leave_out)).unwrap_err();
        assert_eq!(error.code(), code, "{links:?}: {}", error.report());
    }
    let outside = archive(&[("../m", "l.tar", Link)], "");
    assert_eq!(loaded(&outside).unwrap_err().code(), "PathEscapes");
    let good = archive(&[("m", "l.tar", Link), ("n", "m", Symlink)], "");
    assert_eq!(loaded(&good).unwrap().2.len(), 1);
}

#[test]
fn a_byte_changed_anywhere_in_an_image_is_found() {
    let (_dir, _, images) = two_images();
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let archive = saved(&images[1..], format, Compression::None);
        let image = &images[1].image;
        let manifest = image.manifest();
        let blobs = manifest
            .layers()
            .iter()
            .chain([manifest.config(), manifest.descriptor()]);
        for Descriptor { digest, .. } in blobs {
            let bytes = fs::read(image.store().blob_path(*digest)).unwrap();
            let at = archive
                .windows(bytes.len())
                .position(|window| window == bytes)
                .unwrap();
            let mut changed = archive.clone();
            changed[at + bytes.len() / 2] ^= 1;
            assert_eq!(loaded(&changed).unwrap_err().code(), "DigestMismatch");
        }
    }
}

#[test]
fn archives_cut_anywhere_import_nothing() {
    let (_dir, _, images) = two_images();
    let archive = saved(&images[1..], ArchiveFormat::Docker, Compression::None);
    for cut in (0..archive.len() - 1024).step_by(509) {
        // At the end of a member nothing tells that others are missing, but that the list is.
        assert!(
            loaded(&archive[..cut]).is_err() || cut > archive.len() - 3000,
            "{cut}"
        );
    }
}

#[test]
fn bounds_of_archives_hold() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let names: Vec<_> = (0..20).map(|index| index.to_string()).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b"x"[..])).collect();
    let archive = tar_of(&members);
    let limits = [
        Limits {
            entries: 19,
            ..Limits::default()
        },
        Limits {
            bytes: 9_000,
            ..Limits::default()
        },
    ];
    for limits in limits {
        let mut options = LoadOptions::default();
        options.limits = limits;
        let error = load(&archive[..], &store, &options).unwrap_err();
        assert_eq!(error.code(), "LimitExceeded");
    }
    let mut options = LoadOptions::default();
    options.cancel = std::sync::Arc::new(true.into());
    assert_eq!(
        load(&archive[..], &store, &options).unwrap_err().code(),
        "Cancelled"
    );
    // A bomb: a gigabyte of nothing in a megabyte.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 32);
    header.set_path("bomb").unwrap();
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..64 {
        encoder.write_all(&vec![0; 16 << 20]).unwrap();
    }
    let mut options = LoadOptions::default();
    options.limits.bytes = 100 << 20;
    let error = load(&encoder.finish().unwrap()[..], &store, &options).unwrap_err();
    assert_eq!(error.code(), "LimitExceeded");
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
}

#[test]
fn a_damaged_store_saves_no_archive() {
    let (_dir, store, images) = two_images();
    let blob = images[1].image.layers()[1].descriptor.digest;
    let mut bytes = fs::read(store.blob_path(blob)).unwrap();
    bytes[0] ^= 1;
    fs::write(store.blob_path(blob), bytes).unwrap();
    let error = save(&images, io::sink(), &SaveOptions::default()).unwrap_err();
    assert_eq!(error.code(), "DigestMismatch");
}

#[test]
fn other_peoples_names_in_a_layout() {
    let layer = tar_of(&[("a", b"1")]);
    let config = config_of(vec![Digest::of(&layer)]);
    let config_blob = Descriptor::of(MediaType::CONFIG, &config);
    let layer_blob = Descriptor::of(MediaType::LAYER, &layer);
    let manifest = json!({"schemaVersion": 2, "config": config_blob, "layers": [layer_blob]});
    let manifest = manifest.to_string();
    let entry = |annotations: Value| {
        let mut entry =
            serde_json::to_value(Descriptor::of(MediaType::MANIFEST, manifest.as_bytes())).unwrap();
        entry["annotations"] = annotations;
        entry
    };
    let cases = [
        (json!({"org.opencontainers.image.ref.name": "latest"}), None),
        (
            json!({"org.opencontainers.image.ref.name": "app:1"}),
            Some("app:1"),
        ),
        (
            json!({
                "org.opencontainers.image.ref.name": "1",
                "io.containerd.image.name": "docker.io/library/app:1"
            }),
            Some("app:1"),
        ),
        (json!({}), None),
        (json!({"org.opencontainers.image.ref.name": "../x:y"}), None),
    ];
    for (annotations, want) in cases {
        let index = json!({"schemaVersion": 2, "manifests": [entry(annotations)]}).to_string();
        let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
        let archive = tar_of(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", index.as_bytes()),
            (&path(&config), &config),
            (&path(&layer), &layer),
            (&path(manifest.as_bytes()), manifest.as_bytes()),
        ]);
        let (_dir, _, loaded) = loaded(&archive).unwrap();
        let want: Vec<Reference> = want.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(loaded[0].names, want);
    }
}
