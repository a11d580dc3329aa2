//! The store on disk: what it survives, refuses and frees.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use container_image::{Descriptor, Digest, ErrorKind, MediaType, Reference, Store};

use crate::fixture::*;

fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

#[test]
fn a_base_is_stored_once_and_freed_with_its_last_image() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let base = tar_of(&[("base", &noise(1, 10_000))]);
    let one = make_image(
        &store,
        &name("one"),
        &[base.clone(), tar_of(&[("a", b"1")])],
    );
    let two = make_image(&store, &name("two"), &[base, tar_of(&[("b", b"2")])]);
    assert_eq!(
        one.layers()[0].descriptor.digest,
        two.layers()[0].descriptor.digest
    );
    let blobs = || {
        fs::read_dir(dir.path().join("blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(blobs(), 7);

    store.remove(&name("one")).unwrap();
    let dry = store.prune_dry_run().unwrap();
    assert_eq!(blobs(), 7);
    let pruned = store.prune().unwrap();
    assert_eq!(
        (dry.blobs.len(), dry.size_bytes),
        (pruned.blobs.len(), pruned.size_bytes)
    );
    assert_eq!(blobs(), 4);
    store.resolve(&name("two")).unwrap();
    store.remove(&name("two")).unwrap();
    store.remove(&name("two")).unwrap();
    store.prune().unwrap();
    assert_eq!(blobs(), 0);
}

#[test]
fn a_moved_name_leaves_its_former_image_without_one() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let old = make_image(&store, &name("app"), &[tar_of(&[("a", b"1")])]);
    store.tag(&old, &name("app:v1")).unwrap();
    make_image(&store, &name("app"), &[tar_of(&[("a", b"2")])]);
    assert_eq!(store.resolve(&name("app:v1")).unwrap().id(), old.id());
    make_image(&store, &name("app:v1"), &[tar_of(&[("a", b"3")])]);
    let images = store.images().unwrap();
    assert_eq!(images.len(), 3);
    let nameless = images.iter().find(|image| image.names.is_empty()).unwrap();
    assert_eq!(nameless.manifest.digest, old.digest());
    assert_eq!(store.prune().unwrap().blobs, []);
    // With a name again it is listed once; without its entry it goes.
    store.tag(&old, &name("back")).unwrap();
    assert_eq!(store.images().unwrap().len(), 3);
    store.remove_image(old.digest()).unwrap();
    assert_eq!(store.images().unwrap().len(), 2);
    assert_eq!(
        store.resolve(&name("back")).unwrap_err().code(),
        "ImageNotFound"
    );
}

#[test]
fn a_lost_or_truncated_index_gives_the_generation_before() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let index = dir.path().join("index.json");
    make_image(&store, &name("one"), &[tar_of(&[("a", b"1")])]);
    make_image(&store, &name("two"), &[tar_of(&[("b", b"2")])]);
    let whole = fs::read(&index).unwrap();
    for damage in [Vec::new(), whole[..whole.len() / 2].to_vec()] {
        fs::write(&index, damage).unwrap();
        let store = open_store(dir.path());
        store.resolve(&name("one")).unwrap();
        assert_eq!(
            store.resolve(&name("two")).unwrap_err().code(),
            "ImageNotFound"
        );
    }
    fs::remove_file(&index).unwrap();
    let store = open_store(dir.path());
    let one = store.resolve(&name("one")).unwrap();
    // The next change heals it, and keeps the good generation meanwhile.
    store.tag(&one, &name("three")).unwrap();
    assert_eq!(open_store(dir.path()).images().unwrap()[0].names.len(), 2);
    fs::write(&index, "").unwrap();
    fs::write(dir.path().join("index.json.old"), "").unwrap();
    let error = open_store(dir.path()).images().unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Integrity, "IndexDamaged")
    );
}

#[test]
fn layouts_with_links_are_refused() {
    let secret = temp_dir();
    fs::write(
        secret.path().join("index.json"),
        "{\"schemaVersion\":2,\"manifests\":[]}",
    )
    .unwrap();
    fs::create_dir(secret.path().join("sha256")).unwrap();

    let dir = temp_dir();
    symlink(secret.path(), dir.path().join("blobs")).unwrap();
    assert_eq!(Store::open(dir.path()).unwrap_err().code(), "UnsafeLayout");

    let dir = temp_dir();
    fs::create_dir(dir.path().join("blobs")).unwrap();
    symlink(
        secret.path().join("sha256"),
        dir.path().join("blobs/sha256"),
    )
    .unwrap();
    assert_eq!(Store::open(dir.path()).unwrap_err().code(), "UnsafeLayout");

    let dir = temp_dir();
    symlink(
        secret.path().join("index.json"),
        dir.path().join("index.json"),
    )
    .unwrap();
    assert_eq!(Store::open(dir.path()).unwrap_err().code(), "UnsafeLayout");

    let dir = temp_dir();
    let store = open_store(dir.path());
    let digest = Digest::of("secret");
    fs::write(secret.path().join("blob"), "secret").unwrap();
    symlink(secret.path().join("blob"), store.blob_path(digest)).unwrap();
    let blob = Descriptor::new(MediaType::LAYER, digest, 6);
    assert_eq!(store.read(&blob).unwrap_err().code(), "UnsafeLayout");
    assert_eq!(store.contains(&blob).unwrap_err().code(), "UnsafeLayout");
    fs::remove_file(store.blob_path(digest)).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(store.blob_path(digest))
        .status();
    if made.is_ok_and(|status| status.success()) {
        assert_eq!(store.read(&blob).unwrap_err().code(), "UnsafeLayout");
    }
}

#[test]
fn another_layout_version_is_refused() {
    let dir = temp_dir();
    fs::write(
        dir.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    assert_eq!(Store::open(dir.path()).unwrap_err().code(), "InvalidLayout");
}

#[test]
fn blobs_appear_only_whole_and_are_verified_when_read() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let lease = store.lease().unwrap();
    let want = Descriptor::of(MediaType::LAYER, b"content");
    for (bytes, code) in [
        (&b"conten"[..], "SizeMismatch"),
        (b"content!", "SizeMismatch"),
        (b"Content", "DigestMismatch"),
    ] {
        let mut ingest = lease.ingest(&want).unwrap();
        ingest.write_all(bytes).unwrap();
        let error = ingest.commit(&want).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Integrity, code));
        assert!(error.wanted().is_some() && error.found().is_some());
        assert!(!store.contains(&want).unwrap());
    }
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(store.read(&want).unwrap_err().code(), "BlobNotFound");
    lease.put(MediaType::LAYER, b"content").unwrap();
    lease.put(MediaType::LAYER, b"content").unwrap();
    assert_eq!(store.read(&want).unwrap(), b"content");
    fs::write(store.blob_path(want.digest), "Content").unwrap();
    assert_eq!(store.read(&want).unwrap_err().code(), "DigestMismatch");
    fs::write(store.blob_path(want.digest), "conten").unwrap();
    assert_eq!(store.read(&want).unwrap_err().code(), "SizeMismatch");
    store.delete_blob(want.digest).unwrap();
    store.delete_blob(want.digest).unwrap();
}

#[test]
fn leases_protect_while_they_live_and_leftovers_are_swept() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let lease = store.lease().unwrap();
    let blob = lease.put(MediaType::LAYER, b"in flight").unwrap();
    let mut ingest = lease
        .ingest(&Descriptor::of(MediaType::LAYER, b"more"))
        .unwrap();
    ingest.write_all(b"mo").unwrap();
    // What a crashed process leaves is not locked.
    fs::write(dir.path().join("ingest/.tmp-dead"), "x").unwrap();
    fs::write(
        dir.path().join("leases/.tmp-dead"),
        Digest::of("dead").to_string(),
    )
    .unwrap();
    fs::write(store.blob_path(Digest::of("dead")), "dead").unwrap();

    let pruned = store.prune().unwrap();
    assert_eq!(pruned.blobs, [Digest::of("dead")]);
    assert!(store.contains(&blob).unwrap());
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(dir.path().join("leases")).unwrap().count(), 1);
    ingest.write_all(b"re").unwrap();
    ingest
        .commit(&Descriptor::of(MediaType::LAYER, b"more"))
        .unwrap();
    drop(lease);
    assert_eq!(store.prune().unwrap().blobs.len(), 2);
}

#[test]
fn the_store_is_closed_to_other_users() {
    let dir = temp_dir();
    let root = dir.path().join("store");
    open_store(&root);
    for path in [root.clone(), root.join("blobs"), root.join("ingest")] {
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}

#[test]
fn one_broken_image_does_not_hide_the_others() {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let broken = make_image(&store, &name("broken"), &[tar_of(&[("a", b"1")])]);
    make_image(&store, &name("good"), &[tar_of(&[("b", b"2")])]);
    fs::write(store.blob_path(broken.digest()), "").unwrap();
    let store = open_store(dir.path());
    assert_eq!(store.images().unwrap().len(), 2);
    store.resolve(&name("good")).unwrap();
    assert_eq!(
        store.resolve(&name("broken")).unwrap_err().code(),
        "SizeMismatch"
    );
    store.remove(&name("broken")).unwrap();
    store.prune().unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn handles_may_go_anywhere() {
    fn assert<T: Send + Sync + Clone + 'static>() {}
    assert::<Store>();
    assert::<container_image::Image>();
}
