//! The drivers pass the suite that every driver must pass.

use std::path::Path;

use container_storage::testsuite::{Properties, run};
use container_storage::{DriverOptions, ErrorKind, Kind, open, probe};

use crate::support::{Place, is_root};

#[test]
fn privileged_overlay_in_memory_passes() {
    if is_root("privileged_overlay_in_memory_passes") {
        pass(Place::in_memory().path(), Kind::Overlay, false);
    }
}

#[test]
fn privileged_overlay_on_disk_passes() {
    if is_root("privileged_overlay_on_disk_passes") {
        pass(Place::on_disk().path(), Kind::Overlay, true);
    }
}

#[test]
fn privileged_vfs_in_memory_passes() {
    if is_root("privileged_vfs_in_memory_passes") {
        pass(Place::in_memory().path(), Kind::Vfs, false);
    }
}

#[test]
fn privileged_vfs_on_disk_passes() {
    if is_root("privileged_vfs_on_disk_passes") {
        pass(Place::on_disk().path(), Kind::Vfs, true);
    }
}

fn pass(place: &Path, kind: Kind, sync: bool) {
    match probe(place, kind) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("skip: {}", error.report());
            return;
        }
        other => other.unwrap(),
    }
    let properties = Properties {
        shares_layers: kind != Kind::Vfs,
        works_on_tmpfs: true,
    };
    let options = DriverOptions::default().kind(Some(kind)).sync(sync);
    run(place, properties, &|root| open(root, &options));
}
