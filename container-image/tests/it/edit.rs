//! New images from old ones, and finding out what is wrong with one.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;

use container_image::archive::{ImportOptions, import};
use container_image::layer::{Compression, PackOptions, decompress};
use container_image::{
    Digest, History, Image, ImageBuilder, ImageEdit, Layer, Manifest, MediaType, Platform,
    Reference, Store, push, random, repair,
};

use crate::fixture::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = temp_dir();
    let store = open_store(dir.path());
    (dir, store)
}

fn step(text: &str) -> History {
    History {
        created_by: Some(text.into()),
        ..History::default()
    }
}

/// An image of one step for each archive.
fn built(store: &Store, archives: &[&[(&str, &[u8])]]) -> Image {
    let archives: Vec<_> = archives.iter().map(|files| tar_of(files)).collect();
    let mut edit = ImageEdit::scratch(store, &Platform::host());
    for (index, archive) in archives.iter().enumerate() {
        edit = edit.append(&archive[..], step(&format!("step {index}")));
    }
    edit.build().unwrap()
}

fn ids(image: &Image) -> Vec<Digest> {
    image.layers().iter().map(|layer| layer.diff_id).collect()
}

#[test]
fn layers_and_config_are_put_on_top() {
    let (_dir, store) = store();
    let base = built(&store, &[&[("a", b"1")]]);
    let before = (base.digest(), base.config().clone());
    let directory = temp_dir();
    fs::write(directory.path().join("from-directory"), "x").unwrap();
    let root = fs::File::open(directory.path()).unwrap();
    let compressed = gzip(&tar_of(&[("b", b"2")]));
    let name: Reference = "example.com/app:2".parse().unwrap();
    let image = base
        .edit()
        .append(&compressed[..], step("ADD b"))
        .append_directory(root.as_fd(), PackOptions::default(), step("COPY ."))
        .changes(["CMD [\"/b\"]"])
        .config(|config| {
            config.author = Some("somebody".into());
            config.rootfs.diff_ids.clear();
        })
        .name(name.clone())
        .build()
        .unwrap();
    assert_eq!(store.resolve(&name).unwrap().digest(), image.digest());
    assert_eq!((base.digest(), base.config().clone()), before);
    assert_eq!(image.layers().len(), 3);
    assert_eq!(image.layers()[0], base.layers()[0]);
    assert_eq!(image.layers()[1].descriptor.digest, Digest::of(&compressed));
    assert_eq!(image.config().config.cmd.as_deref().unwrap(), ["/b"]);
    assert_eq!(image.history().len(), 3);
    assert!(image.validate().is_empty(), "{:?}", image.validate());
    store.prune().unwrap();
    assert!(image.validate().is_empty());

    let error = base
        .edit()
        .changes(["RUN x"])
        .changes(["NO y"])
        .build()
        .unwrap_err();
    assert_eq!(
        (error.code(), error.cleanup_errors().len()),
        ("InvalidChange", 1)
    );
    let error = base
        .edit()
        .append(&b"no archive, but long enough"[..], step(""))
        .build();
    assert_eq!(error.unwrap_err().code(), "TruncatedArchive");
}

#[test]
fn an_image_moves_to_another_base() {
    let (_dir, store) = store();
    let old = built(&store, &[&[("base", b"old")], &[("lib", b"1")]]);
    let new = built(&store, &[&[("base", b"new")]]);
    let archive = tar_of(&[("app", b"app")]);
    let app = old
        .edit()
        .config(|config| {
            config.history.push(History {
                empty_layer: true,
                ..step("ENV A=1")
            })
        })
        .append(&archive[..], step("COPY app"))
        .changes(["ENV A=1"])
        .build()
        .unwrap();
    let moved = app.rebase(&old, &new).unwrap();
    assert_eq!(
        ids(&moved),
        [&ids(&new)[..], &[Digest::of(&archive)]].concat()
    );
    assert_eq!(moved.config().config.env, ["A=1"]);
    let steps: Vec<_> = moved
        .history()
        .into_iter()
        .map(|row| row.step.created_by.unwrap())
        .collect();
    assert_eq!(steps, ["step 0", "ENV A=1", "COPY app"]);
    assert!(moved.validate().is_empty());
    // Back again it is the image that it was.
    assert_eq!(moved.rebase(&new, &old).unwrap().id(), app.id());
    assert_eq!(app.rebase(&new, &old).unwrap_err().code(), "NotBasedOn");
}

#[test]
fn layers_of_docker_get_the_names_of_oci() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let base = built(&store, &[&[("a", b"1")]]);
    let archive = tar_of(&[("a", b"1")]);
    let layer = lease
        .put(MediaType::DOCKER_LAYER_GZIP, &gzip(&archive))
        .unwrap();
    let config = lease
        .put(MediaType::DOCKER_CONFIG, base.config_raw())
        .unwrap();
    let manifest = Manifest::new(config, vec![layer]).unwrap();
    lease
        .put(MediaType::DOCKER_MANIFEST, manifest.raw())
        .unwrap();
    let name: Reference = "docker:1".parse().unwrap();
    let docker = store.record(manifest.descriptor(), &name).unwrap();
    assert!(docker.validate().is_empty());
    let edited = docker.edit().changes(["USER app"]).build().unwrap();
    assert_eq!(
        edited.manifest().descriptor().media_type,
        MediaType::MANIFEST
    );
    assert_eq!(
        edited.layers()[0].descriptor.media_type,
        MediaType::LAYER_GZIP
    );
    assert_eq!(
        edited.layers()[0].descriptor.digest,
        docker.layers()[0].descriptor.digest
    );
}

#[test]
fn the_files_of_all_layers_become_one() {
    let (_dir, store) = store();
    let image = built(
        &store,
        &[
            &[
                ("etc/motd", b"old"),
                ("etc/gone", b"x"),
                ("usr/lib/a", b"a"),
            ],
            &[
                ("etc/motd", b"new"),
                ("etc/.wh.gone", b""),
                ("usr/.wh..wh..opq", b""),
                ("usr/b", b"b"),
            ],
        ],
    );
    let flat = image.flatten(Compression::Zstd(3)).unwrap();
    assert_eq!((flat.layers().len(), flat.history().len()), (1, 1));
    assert!(flat.validate().is_empty());
    assert_eq!(
        image.flatten(Compression::Zstd(3)).unwrap().digest(),
        flat.digest()
    );
    let dir = temp_dir();
    let sink = Directories::new(dir.path());
    container_image::unpack(
        &flat,
        &sink,
        &container_image::UnpackImageOptions::default(),
    )
    .unwrap();
    let files: Vec<_> = sink.files(&flat).into_iter().collect();
    let want = [("etc/motd", "new"), ("usr/b", "b")].map(|(path, text)| (path.into(), text.into()));
    assert_eq!(files, want);
    let mut plain = Vec::new();
    let packed = image.write_flat(&mut plain, Compression::None).unwrap();
    assert_eq!(packed.diff_id, flat.layers()[0].diff_id);
    assert_eq!(Digest::of(&plain), packed.diff_id);
}

#[test]
fn an_archive_becomes_an_image() {
    let (_dir, store) = store();
    let archive = tar_of(&[("bin/app", b"#!")]);
    let mut options = ImportOptions::default();
    options.changes = vec!["CMD [\"/bin/app\"]".into(), "EXPOSE 80".into()];
    options.message = Some("Imported from -".into());
    options.name = Some("example.com/imported:1".parse().unwrap());
    let image = import(&archive[..], &store, &options).unwrap();
    assert_eq!(ids(&image), [Digest::of(&archive)]);
    assert_eq!(image.config().config.cmd.as_deref().unwrap(), ["/bin/app"]);
    assert_eq!(
        image.history()[0].step.comment.as_deref(),
        Some("Imported from -")
    );
    // Compressed it is the same layer; without a name it stays too.
    let compressed = gzip(&archive);
    let plain = import(&compressed[..], &store, &ImportOptions::default()).unwrap();
    assert_eq!(ids(&plain), ids(&image));
    assert_ne!(plain.id(), image.id());
    assert_eq!(plain.layers()[0].descriptor.digest, Digest::of(&compressed));
    store.prune().unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    assert!(plain.validate().is_empty());
    options.changes.push("RUN x".into());
    assert_eq!(
        import(&archive[..], &store, &options).unwrap_err().code(),
        "InvalidChange"
    );
}

#[test]
fn random_images_are_the_same_for_the_same_seed() {
    let (_dir, store) = store();
    let one = random(&store, 1, 3, 100_000).unwrap();
    assert_eq!(one.layers().len(), 3);
    assert!(one.validate().is_empty());
    assert_eq!(
        random(&store, 1, 3, 100_000).unwrap().digest(),
        one.digest()
    );
    assert_ne!(
        random(&store, 2, 3, 100_000).unwrap().digest(),
        one.digest()
    );
    assert_eq!(
        random(&store, 1, 0, 0).unwrap().layers(),
        Vec::<Layer>::new()
    );
}

#[test]
fn an_image_tells_all_that_is_wrong_with_it() {
    let (_dir, store) = store();
    let image = built(&store, &[&[("a", b"1")], &[("b", b"2")], &[("c", b"3")]]);
    let blob = |index: usize| store.blob_path(image.layers()[index].descriptor.digest);
    fs::remove_file(blob(0)).unwrap();
    let mut bytes = fs::read(blob(1)).unwrap();
    bytes[0] ^= 1;
    fs::write(blob(1), bytes).unwrap();
    let codes = |image: &Image| -> Vec<_> { image.validate().iter().map(|e| e.code()).collect() };
    assert_eq!(codes(&image), ["BlobNotFound", "DigestMismatch"]);

    let good = built(&store, &[&[("a", b"1")]]);
    let lease = store.lease().unwrap();
    let mut config = good.config().clone();
    config.rootfs.diff_ids = vec![Digest::of("else")];
    config.history.push(step("one too many"));
    let config = lease.put(MediaType::CONFIG, &config.to_json()).unwrap();
    let mut layer = good.layers()[0].descriptor.clone();
    let describe = |layer| {
        let manifest = Manifest::new(config.clone(), vec![layer]).unwrap();
        lease.put(MediaType::MANIFEST, manifest.raw()).unwrap();
        store
            .record(manifest.descriptor(), &"bad:1".parse().unwrap())
            .unwrap()
    };
    assert_eq!(
        codes(&describe(layer.clone())),
        ["DiffIdMismatch", "LayerCountMismatch"]
    );
    layer.media_type = MediaType::LAYER_ZSTD;
    assert_eq!(
        codes(&describe(layer)),
        ["MediaTypeMismatch", "LayerCountMismatch"]
    );
}

#[test]
fn what_is_damaged_is_found_and_fetched_again() {
    let server = serve();
    let (_dir, store) = store();
    let name = reference(&server, "app:1");
    let layers = [tar_of(&[("a", &noise(1, 50_000))]), tar_of(&[("b", b"2")])];
    let image = make_image(&store, &name, &layers);
    let local = make_image(
        &store,
        &"local:1".parse().unwrap(),
        &[tar_of(&[("c", b"3")])],
    );
    push(&image, &name, &push_options()).unwrap();
    assert!(store.verify().unwrap().is_empty());

    let manifest = image.manifest();
    let damaged: Vec<_> = manifest
        .layers()
        .iter()
        .chain([manifest.descriptor()])
        .cloned()
        .collect();
    fs::write(store.blob_path(damaged[0].digest), "short").unwrap();
    let mut bytes = fs::read(store.blob_path(damaged[1].digest)).unwrap();
    bytes[3] ^= 1;
    fs::write(store.blob_path(damaged[1].digest), bytes).unwrap();
    fs::remove_file(store.blob_path(damaged[2].digest)).unwrap();
    fs::remove_file(store.blob_path(local.id())).unwrap();

    // Of the layers nothing is known while the manifest is missing.
    let found: Vec<_> = store
        .verify()
        .unwrap()
        .iter()
        .map(|damage| damage.blob.digest)
        .collect();
    assert_eq!(found, [damaged[2].digest, local.id()]);
    let repaired = repair(&store, &impatient()).unwrap();
    let mut healed = repaired.blobs;
    let mut want: Vec<_> = damaged.iter().map(|blob| blob.digest).collect();
    healed.sort();
    want.sort();
    assert_eq!(healed, want);
    assert_eq!(repaired.left.len(), 1);
    assert_eq!(repaired.left[0].image, local.digest());
    assert!(image.validate().is_empty());
    assert_eq!(store.resolve(&name).unwrap().digest(), image.digest());
    assert_eq!(repair(&store, &impatient()).unwrap().blobs, []);
}

#[test]
fn an_image_from_scratch_needs_no_base() {
    let (_dir, store) = store();
    let image = ImageBuilder::new()
        .file("app", "#!", 0o755)
        .cmd(["/app"])
        .build(&store)
        .unwrap();
    assert!(image.validate().is_empty());
    let mut plain = String::new();
    let layer = image.open_layer(&image.layers()[0]).unwrap();
    decompress(layer)
        .unwrap()
        .read_to_string(&mut plain)
        .unwrap();
    assert!(plain.contains("#!"));
}
