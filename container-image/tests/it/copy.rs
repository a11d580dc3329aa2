//! Copying and inspecting images wherever they are.

use std::fs;
use std::path::Path;

use container_image::{
    CopyOptions, Descriptor, Digest, Document, Image, Index, Location, MediaType, Platform,
    Platforms, Reference, copy, inspect, pull, push,
};

use crate::fixture::*;
use crate::programs::{has, run, skopeo};

fn options() -> CopyOptions {
    let mut options = CopyOptions::default();
    options.client = impatient();
    options
}

/// Places of every kind below `dir`, one after the other.
fn places(dir: &Path, remote: &Reference) -> Vec<Location> {
    let at = |text: &str| text.replace("DIR", dir.to_str().unwrap()).parse().unwrap();
    vec![
        Location::Registry(remote.clone()),
        at("oci:DIR/layout:example.com/app:1"),
        at("oci-archive:DIR/oci.tar:example.com/app:1"),
        at("dir:DIR/plain"),
        at("docker-archive:DIR/docker.tar:example.com/app:1"),
        Location::Store {
            store: open_store(&dir.join("store")),
            name: "example.com/app:1".parse().unwrap(),
        },
    ]
}

fn source() -> (tempfile::TempDir, Image, Location) {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let name: Reference = "example.com/source:1".parse().unwrap();
    let layers = [tar_of(&[("a", &noise(1, 5 << 20))]), tar_of(&[("b", b"2")])];
    let image = make_image(&store, &name, &layers);
    (dir, image, Location::Store { store, name })
}

#[test]
fn an_image_goes_everywhere_and_stays_the_same() {
    let (_source, image, source) = source();
    let server = serve();
    let dir = temp_dir();
    let places = places(dir.path(), &reference(&server, "team/app:1"));
    for place in &places {
        copy(&source, place, &options()).unwrap();
    }
    for (index, from) in places.iter().enumerate() {
        let seen = inspect(from, &options()).unwrap();
        assert_eq!(seen.manifest.digest(), image.digest(), "{from}");
        assert_eq!(seen.manifest.raw(), image.manifest().raw());
        assert_eq!(&seen.config, image.config());
        let second = self::places(
            &dir.path().join(format!("from-{index}")),
            &reference(&server, &format!("team/from-{index}:1")),
        );
        fs::create_dir_all(dir.path().join(format!("from-{index}"))).unwrap();
        for to in second {
            let copied = copy(from, &to, &options());
            let copied = copied.unwrap_or_else(|error| panic!("{}", error.report()));
            assert_eq!(copied.digest, image.digest(), "{from} to {to}");
            let seen = inspect(&to, &options()).unwrap();
            assert_eq!(seen.manifest.digest(), image.digest());
            // A second time is no mistake.
            if index == 0 {
                copy(from, &to, &options()).unwrap();
            }
        }
    }
    // No scratch directory and no half-written file is left.
    let hidden = |dir: &Path| {
        let names = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().starts_with(".container"))
            .count()
    };
    assert_eq!(
        hidden(dir.path()) + hidden(&dir.path().join("layout/blobs/sha256")),
        0
    );
}

#[test]
fn inspecting_a_remote_image_fetches_no_layer() {
    let server = serve();
    let (name, image, _dir) = published(&server, "app:1", 100_000);
    let seen = inspect(&Location::Registry(name.clone()), &options()).unwrap();
    assert_eq!(seen.config, *image.config());
    assert_eq!(seen.names, [name]);
    let layers: Vec<_> = image
        .layers()
        .iter()
        .map(|l| l.descriptor.digest.hex())
        .collect();
    let asked = |access: &container_image::server::Access| {
        layers.iter().any(|layer| access.target.contains(layer))
    };
    assert!(!server.log().iter().any(asked));
}

#[test]
fn blobs_are_mounted_within_a_registry_and_not_sent_twice() {
    let server = serve();
    let (name, _, _dir) = published(&server, "app:1", 100_000);
    let other = Location::Registry(reference(&server, "other:1"));
    copy(&Location::Registry(name.clone()), &other, &options()).unwrap();
    assert_eq!(
        blob_requests(&server, "PUT") + blob_requests(&server, "GET"),
        0
    );
    server.clear_log();
    copy(&Location::Registry(name), &other, &options()).unwrap();
    assert_eq!(blob_requests(&server, "POST"), 0);
}

/// Publishes an index of images for two platforms and gives their digests.
fn publish_index(
    server: &container_image::server::Server,
    name: &Reference,
) -> (Digest, [Digest; 2]) {
    let mut entries = Vec::new();
    for platform in ["linux/amd64", "linux/arm64"] {
        let (_dir, _, source) = source();
        let Location::Store { store, name: local } = &source else {
            unreachable!()
        };
        let image = store.resolve(local).unwrap();
        let mut config = image.config().clone();
        let platform: Platform = platform.parse().unwrap();
        config.architecture.clone_from(&platform.architecture);
        let lease = store.lease().unwrap();
        let config = lease.put(MediaType::CONFIG, &config.to_json()).unwrap();
        let layers = image.manifest().layers().to_vec();
        let manifest = container_image::Manifest::new(config, layers).unwrap();
        lease.put(MediaType::MANIFEST, manifest.raw()).unwrap();
        let image = store.record(manifest.descriptor(), local).unwrap();
        let digest = image.digest();
        push(
            &image,
            &reference(server, "parts:x")
                .with_tag(&platform.architecture)
                .unwrap(),
            &push_options(),
        )
        .unwrap();
        push(
            &image,
            &name.with_tag(&platform.architecture).unwrap(),
            &push_options(),
        )
        .unwrap();
        let mut entry = Descriptor::new(
            MediaType::MANIFEST,
            digest,
            image.manifest().raw().len() as u64,
        );
        entry.platform = Some(platform);
        entries.push(entry);
    }
    let digests = [entries[0].digest, entries[1].digest];
    let index = Index::new(entries).unwrap();
    let client = container_image::Client::new(impatient());
    client
        .put_manifest(name, &MediaType::INDEX, index.raw())
        .unwrap();
    (index.digest(), digests)
}

#[test]
fn indexes_are_copied_whole_or_for_one_platform() {
    let server = serve();
    let name = reference(&server, "multi:1");
    let (index, children) = publish_index(&server, &name);
    let from = Location::Registry(name.clone());
    let dir = temp_dir();
    let mut all = options();
    all.platforms = Platforms::All;
    let mut arm = options();
    arm.platforms = Platforms::Only("linux/arm64".parse().unwrap());
    for (number, place) in places(dir.path(), &reference(&server, "copy:1"))
        .iter()
        .enumerate()
    {
        if matches!(place, Location::DockerArchive { .. }) {
            assert_eq!(
                copy(&from, place, &all).unwrap_err().code(),
                "UnsupportedIndex"
            );
            continue;
        }
        assert_eq!(copy(&from, place, &all).unwrap().digest, index, "{place}");
        if matches!(place, Location::Store { .. }) {
            continue;
        }
        let seen = inspect(place, &arm).unwrap();
        assert_eq!(seen.manifest.digest(), children[1]);
        assert_eq!(seen.index.unwrap().digest(), index);
        let one = Location::Registry(reference(&server, &format!("one-{number}:1")));
        assert_eq!(copy(place, &one, &arm).unwrap().digest, children[1]);
        let again = Location::Registry(reference(&server, &format!("again-{number}:1")));
        assert_eq!(copy(place, &again, &all).unwrap().digest, index);
    }
    let mut none = options();
    none.platforms = Platforms::Only("linux/s390x".parse().unwrap());
    assert_eq!(
        inspect(&from, &none).unwrap_err().code(),
        "PlatformNotFound"
    );
}

#[test]
fn hostile_layouts_and_directories_give_nothing_of_the_host() {
    let (_source, image, source) = source();
    let dir = temp_dir();
    let out: Location = format!("dir:{}", dir.path().join("out").display())
        .parse()
        .unwrap();
    let layer = image.layers()[0].descriptor.digest.hex();
    type Damage = fn(&Path, &str);
    let cases: [(&str, Damage, &str); 6] = [
        (
            "oci",
            |dir, layer| link(&dir.join("blobs/sha256").join(layer)),
            "UnsafeLayout",
        ),
        (
            "oci",
            |dir, _| link(&dir.join("index.json")),
            "UnsafeLayout",
        ),
        (
            "oci",
            |dir, _| link(&dir.join("oci-layout")),
            "UnsafeLayout",
        ),
        (
            "dir",
            |dir, _| link(&dir.join("manifest.json")),
            "UnsafeLayout",
        ),
        ("dir", |dir, layer| link(&dir.join(layer)), "UnsafeLayout"),
        ("dir", |dir, layer| flip(&dir.join(layer)), "DigestMismatch"),
    ];
    for (number, (transport, damage, code)) in cases.into_iter().enumerate() {
        let path = dir.path().join(number.to_string());
        let from: Location = format!("{transport}:{}", path.display()).parse().unwrap();
        copy(&source, &from, &options()).unwrap();
        damage(&path, &layer);
        assert_eq!(
            copy(&from, &out, &options()).unwrap_err().code(),
            code,
            "{number}"
        );
        assert!(!dir.path().join("out/manifest.json").exists());
        assert!(!dir.path().join("out").join(&layer).exists());
    }
    // `blobs` itself leads elsewhere.
    let path = dir.path().join("linked");
    let from: Location = format!("oci:{}", path.display()).parse().unwrap();
    copy(&source, &from, &options()).unwrap();
    fs::rename(path.join("blobs"), dir.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", path.join("blobs")).unwrap();
    assert_eq!(
        copy(&from, &out, &options()).unwrap_err().code(),
        "UnsafeLayout"
    );
}

fn link(path: &Path) {
    fs::remove_file(path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn names_in_a_layout_are_told_apart() {
    let (_source, image, source) = source();
    let dir = temp_dir();
    let at = |name: &str| -> Location {
        format!("oci:{}{name}", dir.path().join("layout").display())
            .parse()
            .unwrap()
    };
    copy(&source, &at(":one"), &options()).unwrap();
    assert_eq!(
        inspect(&at(""), &options()).unwrap().manifest.digest(),
        image.digest()
    );
    assert_eq!(
        inspect(&at(":two"), &options()).unwrap_err().code(),
        "ImageNotFound"
    );
    let Location::Store { store, .. } = &source else {
        unreachable!()
    };
    let name: Reference = "example.com/other:1".parse().unwrap();
    let other = make_image(store, &name, &[tar_of(&[("c", b"3")])]);
    let other_source = Location::Store {
        store: store.clone(),
        name,
    };
    copy(&other_source, &at(":two"), &options()).unwrap();
    assert_eq!(
        inspect(&at(""), &options()).unwrap_err().code(),
        "AmbiguousName"
    );
    copy(&other_source, &at(":one"), &options()).unwrap();
    assert_eq!(
        inspect(&at(":one"), &options()).unwrap().manifest.digest(),
        other.digest()
    );
    assert_eq!(
        inspect(&at(""), &options()).unwrap().manifest.digest(),
        other.digest()
    );
}

#[test]
fn skopeo_reads_what_is_copied_and_we_what_it_copies() {
    if !has("skopeo") {
        return;
    }
    let (_source, image, source) = source();
    let server = serve();
    let dir = temp_dir();
    let theirs = temp_dir();
    let places = places(dir.path(), &reference(&server, "team/app:1"));
    let copies = self::places(theirs.path(), &reference(&server, "skopeo/app:1"));
    for (place, copied) in places.iter().zip(&copies) {
        if matches!(place, Location::Store { .. }) {
            continue;
        }
        copy(&source, place, &options()).unwrap();
        run(skopeo(dir.path())
            .args([
                "copy",
                "--quiet",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ])
            .args([place.to_string(), copied.to_string()]));
        let seen = inspect(copied, &options()).unwrap();
        assert_eq!(seen.manifest.config().digest, image.id(), "{place}");
        if !matches!(place, Location::DockerArchive { .. }) {
            assert_eq!(seen.manifest.digest(), image.digest(), "{place}");
        }
    }
    let Document::Manifest(_) = container_image::Client::new(impatient())
        .manifest(&reference(&server, "skopeo/app:1"))
        .unwrap()
    else {
        panic!("not a manifest");
    };
    let store = open_store(&dir.path().join("pulled"));
    let pulled = pull(
        &reference(&server, "skopeo/app:1"),
        &store,
        &pull_options(),
        None,
    )
    .unwrap();
    assert_eq!(pulled.image.digest(), image.digest());
}
