//! Glue between images and storage: layers become snapshots.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use container_image::layer::{Ownership, UnpackOptions, Unpacked, Whiteouts};
use container_image::{Digest, Layer, LayerSink, SinkResult, UnpackTarget};
use container_storage::{CommitOptions, Driver, WhiteoutForm};

use crate::state;

/// What the keys of snapshots begin with that are being filled.
pub(crate) const FILLING: &str = "unpack-";

/// Unpacks layers into snapshots of a driver, each named by its chain ID.
pub(crate) struct SnapshotSink<'d> {
    driver: &'d dyn Driver,
    /// The keys of the snapshots that are being filled.
    filling: Mutex<HashMap<Digest, String>>,
}

/// The name of the snapshot that holds a layer with all below it.
pub(crate) fn snapshot_name(chain_id: &Digest) -> String {
    chain_id.to_string()
}

impl<'d> SnapshotSink<'d> {
    pub(crate) fn new(driver: &'d dyn Driver) -> Self {
        Self {
            driver,
            filling: Mutex::default(),
        }
    }

    fn filling(&self) -> MutexGuard<'_, HashMap<Digest, String>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_target(&self, key: &str) -> Result<UnpackTarget, Box<dyn StdError + Send + Sync>> {
        let target = self.driver.target(key)?;
        let directory: OwnedFd = std::fs::File::open(&target.directory)?.into();
        let whiteouts = match target.whiteouts {
            WhiteoutForm::Apply => Whiteouts::Apply,
            WhiteoutForm::Overlay => Whiteouts::Overlay,
            WhiteoutForm::OverlayUser => Whiteouts::OverlayUser,
            other => return Err(format!("unpack a layer with {other:?} whiteouts").into()),
        };
        let ownership = if rustix::process::geteuid().is_root() {
            Ownership::Keep
        } else {
            Ownership::Ignore
        };
        let options = UnpackOptions {
            whiteouts,
            ownership,
            ..UnpackOptions::default()
        };
        Ok(UnpackTarget { directory, options })
    }
}

impl LayerSink for SnapshotSink<'_> {
    fn in_order(&self) -> bool {
        !self.driver.can_rebase()
    }

    fn prepare(&self, layer: &Layer) -> SinkResult<Option<UnpackTarget>> {
        match self.driver.stat(&snapshot_name(&layer.chain_id)) {
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == container_storage::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        // Different for everybody who unpacks the same layer at the same time.
        let key = format!("{FILLING}{}", state::new_id()?);
        let parent = match &layer.parent {
            Some(parent) if self.in_order() => Some(snapshot_name(parent)),
            _ => None,
        };
        self.driver.prepare(&key, parent.as_deref())?;
        match self.open_target(&key) {
            Ok(target) => {
                self.filling().insert(layer.chain_id, key);
                Ok(Some(target))
            }
            Err(error) => {
                // What cannot be removed now is found by the driver's recovery.
                let _ = self.driver.remove(&key);
                Err(error)
            }
        }
    }

    fn commit(&self, layer: &Layer, unpacked: &Unpacked) -> SinkResult<()> {
        let Some(key) = self.filling().remove(&layer.chain_id) else {
            return Ok(());
        };
        let parent = layer.parent.as_ref().map(snapshot_name);
        let mut options = CommitOptions::default();
        options.parent = parent.as_deref();
        options.implied_directories = &unpacked.implied_directories;
        let name = snapshot_name(&layer.chain_id);
        match self.driver.commit(&name, &key, &options) {
            Ok(()) => Ok(()),
            Err(error) => {
                let removed = self.driver.remove(&key);
                // Somebody else was faster: the layer is there all the same.
                if error.kind() == container_storage::ErrorKind::AlreadyExists {
                    return Ok(removed?);
                }
                Err(error.into())
            }
        }
    }

    fn abort(&self, layer: &Layer) {
        if let Some(key) = self.filling().remove(&layer.chain_id) {
            // What cannot be removed now is found by the driver's recovery.
            let _ = self.driver.remove(&key);
        }
    }
}
