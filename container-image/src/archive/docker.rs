//! The documents of Docker's archives.

use std::io;

use serde::{Deserialize, Serialize};

use super::members::Members;
use crate::copy::Source;
use crate::layer::decompress;
use crate::store::from_io;
use crate::{
    Descriptor, Digest, Error, HashReader, ImageConfig, Manifest, MediaType, Reference, Result,
    json,
};

/// One image of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// The path of the config.
    pub(super) config: String,
    /// The names, in their short form.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(super) repo_tags: Vec<String>,
    /// The paths of the layers, base first.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(super) layers: Vec<String>,
}

impl DockerImage {
    /// Makes a manifest for the image, whose layers are then blobs of the store, and reads its
    /// names.
    ///
    /// # Errors
    /// `MemberNotFound`, `LayerCountMismatch`, `DiffIdMismatch`, `DigestMismatch`, `InvalidReference`.
    pub(super) fn read(&self, members: &mut Members) -> Result<(Manifest, Vec<Reference>)> {
        let names = self.repo_tags.iter().map(|name| name.parse());
        let names = names.collect::<Result<Vec<Reference>>>()?;
        let config = members.find(&self.config, MediaType::CONFIG)?;
        self.check_name(&config)?;
        let diff_ids = ImageConfig::parse(&members.raw(&config)?)?.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            let doing = format!("count the layers of {}", self.config);
            let (want, got) = (diff_ids.len(), self.layers.len());
            return Err(Error::mismatch("LayerCountMismatch", doing, want, got));
        }
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (path, diff_id) in self.layers.iter().zip(diff_ids) {
            let layer = members.find(path, MediaType::LAYER)?;
            let layer = as_layer(members, layer, diff_id);
            layers.push(layer.map_err(|error| error.context(format!("read layer {path:?}")))?);
        }
        Ok((Manifest::new(config, layers)?, names))
    }

    /// Compares the config with its digest, after which Docker names the file.
    fn check_name(&self, config: &Descriptor) -> Result<()> {
        let name = self.config.rsplit('/').next().unwrap_or(&self.config);
        let name = name.strip_suffix(".json").unwrap_or(name);
        match format!("sha256:{name}").parse::<Digest>() {
            Ok(claimed) if claimed != config.digest => {
                let doing = format!("read config {:?}", self.config);
                Err(Error::mismatch(
                    "DigestMismatch",
                    doing,
                    claimed,
                    config.digest,
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Makes a file of the archive a layer of the store, if it is the archive `diff_id`. What is
/// compressed as no OCI layer can be is stored plain.
fn as_layer(members: &mut Members, file: Descriptor, diff_id: Digest) -> Result<Descriptor> {
    let broken = |error| from_io("decompress the layer", error);
    let media_type = decompress(members.open(&file)?)?.media_type();
    let (layer, got) = match media_type {
        Some(media_type) if media_type == MediaType::LAYER => {
            let got = file.digest;
            (file, got)
        }
        Some(media_type) => {
            let mut plain = HashReader::new(decompress(members.open(&file)?)?);
            io::copy(&mut plain, &mut io::sink()).map_err(broken)?;
            let got = plain.into_parts().1.finish();
            (Descriptor { media_type, ..file }, got)
        }
        None => {
            let mut ingest = members.ingest()?;
            io::copy(&mut decompress(members.open(&file)?)?, &mut ingest).map_err(broken)?;
            let layer = members.commit(ingest, MediaType::LAYER)?;
            let got = layer.digest;
            (layer, got)
        }
    };
    if got != diff_id {
        let doing = format!("read layer {}", layer.digest);
        return Err(Error::mismatch("DiffIdMismatch", doing, diff_id, got));
    }
    members.store(&layer)?;
    Ok(layer)
}
