//! Making a damaged store whole again.

use std::io;

use crate::copy::{FromRegistry, Source};
use crate::store::from_io;
use crate::{Client, ClientOptions, Damage, Digest, Result, Store};

/// What [`repair`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Repaired {
    /// The blobs that are whole again.
    pub blobs: Vec<Digest>,
    /// What could not be fetched again, with the reason of the last attempt.
    pub left: Vec<Damage>,
}

/// Finds out what is damaged or missing in `store`, as [`Store::verify`] does, and fetches it again
/// from where the names of the images say. Names, images and whole blobs stay as they are.
///
/// # Errors
/// `IndexDamaged`, and those of writing to the store. What a registry does not give is no error but
/// in [`Repaired::left`].
pub fn repair(store: &Store, options: &ClientOptions) -> Result<Repaired> {
    let client = Client::new(options.clone());
    let mut repaired = Repaired::default();
    loop {
        repaired.left = store.verify()?;
        let before = repaired.blobs.len();
        for damage in &mut repaired.left {
            if repaired.blobs.contains(&damage.blob.digest) {
                continue;
            }
            match fetch(store, &client, damage) {
                Ok(true) => repaired.blobs.push(damage.blob.digest),
                Ok(false) => {}
                Err(error) => damage.error = error,
            }
        }
        // A manifest that is whole again may show that more is missing.
        if repaired.blobs.len() == before {
            return Ok(repaired);
        }
    }
}

/// Brings one blob from the first registry that has it; false if no name tells of one.
fn fetch(store: &Store, client: &Client, damage: &Damage) -> Result<bool> {
    let blob = &damage.blob;
    let lease = store.lease()?;
    let mut result = Ok(false);
    for reference in &damage.names {
        let source = FromRegistry {
            client: client.clone(),
            reference: reference.clone(),
        };
        let bring = || {
            let mut ingest = lease.ingest(blob)?;
            let document = blob.media_type.is_manifest() || blob.media_type.is_index();
            let copied = if document {
                io::copy(&mut &source.raw(blob)?[..], &mut ingest)
            } else {
                io::copy(&mut source.open(blob)?, &mut ingest)
            };
            copied.map_err(|error| from_io(&format!("fetch blob {}", blob.digest), error))?;
            ingest.commit(blob)
        };
        result = bring().map(|()| true);
        if result.is_ok() {
            break;
        }
    }
    result
}
