//! Image surgery: new images from those that are there.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use crate::layer::{self, Compression, Limits, PackOptions, Packed, Packer, decompress, flatten};
use crate::store::{Ingest, from_io};
use crate::{
    Descriptor, Digest, Error, ErrorKind, HashReader, History, Image, ImageConfig, Layer, Lease,
    Manifest, MediaType, Platform, Reference, Result, Store,
};

/// Makes a new image from another, or from nothing: layers on top, another config. The image that it
/// starts from stays as it is, and its layers are shared.
///
/// What comes out is described in OCI's words whatever the first image was. Nothing is read or
/// written before [`build`](Self::build).
///
/// # Examples
///
/// ```no_run
/// # use container_image::{History, Image, Result};
/// # fn example(image: Image, archive: &[u8]) -> Result<Image> {
/// image
///     .edit()
///     .append(archive, History { created_by: Some("ADD app.tar /".into()), ..History::default() })
///     .config(|config| config.config.cmd = Some(vec!["/app".into()]))
///     .name("registry.example/app:2".parse()?)
///     .build()
/// # }
/// ```
#[must_use = "nothing happens before build"]
pub struct ImageEdit<'a> {
    store: Store,
    config: ImageConfig,
    manifest: Option<Manifest>,
    added: Vec<Added<'a>>,
    problems: Vec<Error>,
    name: Option<Reference>,
    keep: bool,
}

impl Image {
    /// Begins a new image that starts as this one.
    pub fn edit<'a>(&self) -> ImageEdit<'a> {
        ImageEdit {
            manifest: Some(self.manifest().clone()),
            ..ImageEdit::with_config(self.store(), self.config().clone())
        }
    }

    /// Puts the layers that this image has above `old` onto `new`, as if it had been built from that.
    /// Its config stays, with the history of `new` below its own. All three are in one store.
    ///
    /// # Errors
    /// `NotBasedOn` if the layers of this image do not begin with those of `old`; `BlobNotFound`.
    pub fn rebase(&self, old: &Image, new: &Image) -> Result<Image> {
        let ids = |image: &Image| image.config().rootfs.diff_ids.clone();
        let (mine, below) = (ids(self), ids(old));
        if !mine.starts_with(&below) {
            let doing = format!("rebase {}: it is not based on {}", self.id(), old.id());
            return Err(Error::invalid("NotBasedOn", doing));
        }
        let mut config = self.config().clone();
        config.rootfs.diff_ids = [ids(new), mine[below.len()..].to_vec()].concat();
        let steps = steps_below(&config.history, &old.config().history, below.len());
        config.history = [&new.config().history[..], &config.history[steps..]].concat();
        let above = &self.manifest().layers()[below.len()..];
        let layers = [new.manifest().layers(), above].concat();
        let edit = ImageEdit::with_config(self.store(), config);
        let lease = self.store().lease()?;
        edit.finish(&lease, layers)
    }

    /// Makes an image of one layer that has the files of all layers of this one, and its config.
    /// Needs no privileges. The new layer is compressed as asked.
    ///
    /// # Errors
    /// Those of reading layers and blobs; `LimitExceeded` for more than ten million files.
    pub fn flatten(&self, compression: Compression) -> Result<Image> {
        let doing = |error: Error| error.context(format!("flatten {}", self.id()));
        let lease = self.store().lease()?;
        let mut ingest = self.store().ingest()?;
        let packed = self.write_flat(&mut ingest, compression).map_err(doing)?;
        let layer = commit(&lease, ingest, packed)?;
        let mut config = self.config().clone();
        config.rootfs.diff_ids = vec![packed.diff_id];
        config.history = vec![History {
            created: config.created.clone(),
            comment: Some(format!("flattened {}", self.id())),
            ..History::default()
        }];
        ImageEdit::with_config(self.store(), config).finish(&lease, vec![layer])
    }

    /// Writes the files of all layers as one archive, without whiteouts, and nothing else of the image.
    ///
    /// # Errors
    /// As [`Image::flatten`], and what writing fails with.
    pub fn write_flat(&self, output: impl io::Write, compression: Compression) -> Result<Packed> {
        let mut open = |index: usize| decompress(self.open_layer(&self.layers()[index])?);
        let packer = Packer::new(output, compression)?;
        flatten(self.layers().len(), &mut open, packer, &Limits::default())
    }

    /// Reads all that the image consists of, and gives everything that is not as it should be: blobs
    /// that are missing or damaged, layers that are not what the config says or cannot be read, and a
    /// history that tells of more or fewer layers than there are.
    #[must_use]
    pub fn validate(&self) -> Vec<Error> {
        let mut problems = Vec::new();
        for blob in [self.manifest().descriptor(), self.manifest().config()] {
            problems.extend(self.store().read(blob).err());
        }
        let layers = self.layers().iter();
        problems.extend(layers.filter_map(|layer| self.validate_layer(layer).err()));
        let steps = self
            .config()
            .history
            .iter()
            .filter(|step| !step.empty_layer)
            .count();
        if steps != 0 && steps != self.layers().len() {
            let doing = format!("count the layers in the history of {}", self.id());
            let layers = self.layers().len();
            problems.push(Error::mismatch("LayerCountMismatch", doing, layers, steps));
        }
        problems
    }

    fn validate_layer(&self, layer: &Layer) -> Result<()> {
        self.store().check(&layer.descriptor)?;
        let got = decompress(self.open_layer(layer)?)?.media_type();
        let want = in_oci_words(&layer.descriptor.media_type);
        if got.as_ref() != Some(&want) {
            let doing = format!("read layer {}", layer.descriptor.digest);
            let got = got.map_or("another compression".into(), |got| got.to_string());
            return Err(Error::mismatch("MediaTypeMismatch", doing, want, got));
        }
        self.measure(layer).map(|_| ())
    }
}

impl<'a> ImageEdit<'a> {
    /// Begins an image of nothing, for `platform`.
    pub fn scratch(store: &Store, platform: &Platform) -> Self {
        let mut config = ImageConfig::new(&platform.os, &platform.architecture);
        config.variant.clone_from(&platform.variant);
        Self::with_config(store, config)
    }

    /// Puts a layer on top: an archive of changes, plain or compressed, which is kept as it is.
    /// `step` says in the history how it came to be.
    pub fn append(mut self, archive: impl Read + Send + 'a, step: History) -> Self {
        let source = Source::Archive(Box::new(archive));
        self.added.push(Added { source, step });
        self
    }

    /// Puts what is in a directory on top, packed as `options` say.
    pub fn append_directory(
        self,
        directory: BorrowedFd<'a>,
        options: PackOptions,
        step: History,
    ) -> Self {
        self.append_packed(move |output| layer::pack(directory, output, &options), step)
    }

    /// Puts on top what `pack` writes.
    pub(crate) fn append_packed(
        mut self,
        pack: impl FnOnce(&mut Ingest) -> Result<Packed> + 'a,
        step: History,
    ) -> Self {
        let source = Source::Packed(Box::new(pack));
        self.added.push(Added { source, step });
        self
    }

    /// Changes the config. Layers follow from what is appended: what `change` does to `rootfs` has
    /// no effect.
    pub fn config(mut self, change: impl FnOnce(&mut ImageConfig)) -> Self {
        let rootfs = self.config.rootfs.clone();
        change(&mut self.config);
        self.config.rootfs = rootfs;
        self
    }

    /// Changes the config by instructions of Dockerfiles; see [`RunConfig::apply`].
    ///
    /// [`RunConfig::apply`]: crate::RunConfig::apply
    pub fn changes(mut self, instructions: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.problems
            .extend(self.config.config.apply(instructions).err());
        self
    }

    /// Gives the image a name.
    pub fn name(mut self, name: Reference) -> Self {
        self.name = Some(name);
        self
    }

    /// Keeps the image until it is removed, also without a name.
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// Makes the image. One without a name lasts until the next [`Store::prune`], unless it is
    /// [kept](Self::keep).
    ///
    /// # Errors
    /// `InvalidChange`, with all others as its cleanup errors; those of reading layers, of packing and
    /// of the store. There is no image then.
    pub fn build(mut self) -> Result<Image> {
        if !self.problems.is_empty() {
            let first = self.problems.remove(0);
            return Err(first.with_cleanup(self.problems));
        }
        let lease = self.store.lease()?;
        let mut layers = match &self.manifest {
            Some(manifest) => manifest.layers().to_vec(),
            None => Vec::new(),
        };
        for Added { source, step } in std::mem::take(&mut self.added) {
            let (layer, diff_id) = source.store(&lease)?;
            layers.push(layer);
            self.config.rootfs.diff_ids.push(diff_id);
            self.config.history.push(step);
        }
        self.finish(&lease, layers)
    }

    fn with_config(store: &Store, config: ImageConfig) -> Self {
        Self {
            store: store.clone(),
            config,
            manifest: None,
            added: Vec::new(),
            problems: Vec::new(),
            name: None,
            keep: false,
        }
    }

    /// Writes config and manifest of an image of `layers`.
    fn finish(self, lease: &Lease, mut layers: Vec<Descriptor>) -> Result<Image> {
        for layer in &mut layers {
            layer.media_type = in_oci_words(&layer.media_type);
            lease.protect(layer.digest)?;
            if !self.store.contains(layer)? {
                let doing = format!("find layer {} in the store", layer.digest);
                return Err(Error::new(ErrorKind::NotFound, "BlobNotFound", doing));
            }
        }
        let raw = self.config.to_json();
        let config = lease.put(MediaType::CONFIG, &raw)?;
        let mut manifest = Manifest::new(config, layers)?;
        if let Some(before) = &self.manifest {
            manifest = manifest.annotated(before.annotations().clone())?;
        }
        lease.put(MediaType::MANIFEST, manifest.raw())?;
        let image = Image::new(&self.store, manifest, raw, None)?;
        match &self.name {
            Some(name) => self.store.tag(&image, name)?,
            None if self.keep => self.store.keep(&image)?,
            None => {}
        }
        Ok(image)
    }
}

impl fmt::Debug for ImageEdit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageEdit")
            .field("config", &self.config)
            .field("added", &self.added.len())
            .finish_non_exhaustive()
    }
}

struct Added<'a> {
    source: Source<'a>,
    step: History,
}

enum Source<'a> {
    Archive(Box<dyn Read + Send + 'a>),
    Packed(Box<PackLayer<'a>>),
}

/// Writes a layer.
type PackLayer<'a> = dyn FnOnce(&mut Ingest) -> Result<Packed> + 'a;

impl Source<'_> {
    /// Makes a blob of the layer, and tells its diff ID.
    fn store(self, lease: &Lease) -> Result<(Descriptor, Digest)> {
        let store = lease.store();
        let mut ingest = store.ingest()?;
        match self {
            Self::Packed(pack) => {
                let packed = pack(&mut ingest)?;
                Ok((commit(lease, ingest, packed)?, packed.diff_id))
            }
            Self::Archive(mut archive) => {
                let failed = |error| from_io("read the layer to append", error);
                io::copy(&mut archive, &mut ingest).map_err(failed)?;
                let mut layer = ingest.commit_as_is(MediaType::LAYER, lease)?;
                let mut plain = HashReader::new(decompress(store.open_blob(&layer)?)?);
                match plain.get_ref().media_type() {
                    Some(media_type) => {
                        // What cannot be unpacked is no layer.
                        layer::measure(&mut plain, &Limits::default())?;
                        layer.media_type = media_type;
                        Ok((layer, plain.into_parts().1.finish()))
                    }
                    None => {
                        let mut ingest = store.ingest()?;
                        layer::measure(
                            &mut Tee {
                                inner: plain,
                                to: &mut ingest,
                            },
                            &Limits::default(),
                        )?;
                        let layer = ingest.commit_as_is(MediaType::LAYER, lease)?;
                        let diff_id = layer.digest;
                        Ok((layer, diff_id))
                    }
                }
            }
        }
    }
}

/// Writes what is read.
struct Tee<'a, R> {
    inner: R,
    to: &'a mut Ingest,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        io::Write::write_all(self.to, &buffer[..count])?;
        Ok(count)
    }
}

fn commit(lease: &Lease, ingest: Ingest, packed: Packed) -> Result<Descriptor> {
    ingest.commit_as_is(packed.compression.media_type(), lease)
}

/// How many steps of `history` belong to its first `layers` layers, which `old` has as its own.
fn steps_below(history: &[History], old: &[History], layers: usize) -> usize {
    if history.starts_with(old) {
        return old.len();
    }
    let made_one = history
        .iter()
        .enumerate()
        .filter(|(_, step)| !step.empty_layer);
    let last = made_one.take(layers).last();
    last.map_or(0, |(index, _)| index + 1)
}

/// OCI's name for a media type of Docker's; the bytes are the same.
fn in_oci_words(media_type: &MediaType) -> MediaType {
    match media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::LAYER_ZSTD,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::LAYER,
        _ => media_type.clone(),
    }
}
