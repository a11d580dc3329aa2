//! Small images, a sink of plain directories, and a registry to talk to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use container_image::server::{Server, ServerOptions};
use container_image::{
    ClientOptions, Descriptor, Digest, Image, ImageConfig, Layer, LayerSink, Manifest, MediaType,
    PullOptions, PushOptions, Reference, SinkResult, Store, StoreOptions, UnpackTarget, layer,
};
use flate2::Compression;
use flate2::write::GzEncoder;

/// A temporary directory in memory, where there is one: tests make many small files.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        tempfile::tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// A store in `dir` that does not wait for disks.
pub(crate) fn open_store(dir: &Path) -> Store {
    let mut options = StoreOptions::default();
    options.sync = false;
    Store::open_with(dir, &options).unwrap()
}

/// A registry in memory.
pub(crate) fn serve() -> Server {
    Server::start(ServerOptions::default()).unwrap()
}

/// `name` in the registry that `server` serves.
pub(crate) fn reference(server: &Server, name: &str) -> Reference {
    format!("{}/{name}", server.address()).parse().unwrap()
}

/// A client that gives up soon.
pub(crate) fn impatient() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.idle_timeout = Duration::from_millis(300);
    options.connect_timeout = Duration::from_secs(5);
    options.retry.attempts = 3;
    options.retry.delay = Duration::from_millis(1);
    options.retry.max_delay = Duration::from_millis(50);
    options
}

pub(crate) fn pull_options() -> PullOptions {
    let mut options = PullOptions::default();
    options.client = impatient();
    options
}

pub(crate) fn push_options() -> PushOptions {
    let mut options = PushOptions::default();
    options.client = impatient();
    options
}

/// An archive of regular files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(rustix::process::getuid().as_raw().into());
        header.set_gid(rustix::process::getgid().as_raw().into());
        header.set_mtime(1_000_000);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// Puts an image of these layers (uncompressed archives, base first) into `store` as `name`.
pub(crate) fn make_image(store: &Store, name: &Reference, archives: &[Vec<u8>]) -> Image {
    let diff_ids = archives.iter().map(Digest::of).collect();
    make_image_with(store, name, archives, diff_ids)
}

/// The same with diff IDs that need not be right.
pub(crate) fn make_image_with(
    store: &Store,
    name: &Reference,
    archives: &[Vec<u8>],
    diff_ids: Vec<Digest>,
) -> Image {
    let lease = store.lease().unwrap();
    let mut config = ImageConfig::new("linux", container_image::Platform::host().architecture);
    config.config.cmd = Some(vec!["/bin/true".into()]);
    config.rootfs.diff_ids = diff_ids;
    let config = lease.put(MediaType::CONFIG, &config.to_json()).unwrap();
    let layers = archives
        .iter()
        .map(|archive| lease.put(MediaType::LAYER_GZIP, &gzip(archive)).unwrap());
    let manifest = Manifest::new(config, layers.collect()).unwrap();
    let descriptor = lease
        .put(manifest.descriptor().media_type.clone(), manifest.raw())
        .unwrap();
    store.record(&descriptor, name).unwrap()
}

/// Pushes an image of two layers, the second of `size` random bytes, and gives its name.
pub(crate) fn published(
    server: &Server,
    name: &str,
    size: usize,
) -> (Reference, Image, tempfile::TempDir) {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let reference = reference(server, name);
    let archives = [
        tar_of(&[("etc/motd", b"hello")]),
        tar_of(&[("data", &noise(7, size))]),
    ];
    let image = make_image(&store, &reference, &archives);
    container_image::push(&image, &reference, &push_options()).unwrap();
    server.clear_log();
    (reference, image, dir)
}

/// The largest layer of an image.
pub(crate) fn big_layer(image: &Image) -> &Descriptor {
    &image.layers()[image.layers().len() - 1].descriptor
}

/// How often `server` was asked for blobs by `method`.
pub(crate) fn blob_requests(server: &Server, method: &str) -> usize {
    let blob = |target: &str| target.contains("/blobs/");
    server
        .log()
        .iter()
        .filter(|access| access.method == method && blob(&access.target))
        .count()
}

/// Unpacks layers into directories named after their chain IDs.
pub(crate) struct Directories {
    pub(crate) root: PathBuf,
    pub(crate) in_order: bool,
    pub(crate) commits: Mutex<Vec<usize>>,
    pub(crate) aborts: AtomicUsize,
}

impl Directories {
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        let root = root.to_owned();
        Self {
            root,
            in_order: false,
            commits: Mutex::default(),
            aborts: AtomicUsize::new(0),
        }
    }

    pub(crate) fn path(&self, layer: &Layer) -> PathBuf {
        self.root.join(layer.chain_id.hex())
    }

    fn draft(&self, layer: &Layer) -> PathBuf {
        self.root.join(format!("{}.draft", layer.chain_id.hex()))
    }

    /// What is left of layers that were not committed.
    pub(crate) fn drafts(&self) -> usize {
        let entries = fs::read_dir(&self.root).unwrap();
        entries
            .filter(|e| e.as_ref().unwrap().path().extension().is_some())
            .count()
    }

    /// The files of all layers of an image by path.
    pub(crate) fn files(&self, image: &Image) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        for layer in image.layers() {
            collect(&self.path(layer), &self.path(layer), &mut files);
        }
        files
    }
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                fs::read(&path).unwrap(),
            );
        }
    }
}

impl LayerSink for Directories {
    fn in_order(&self) -> bool {
        self.in_order
    }

    fn prepare(&self, layer: &Layer) -> SinkResult<Option<UnpackTarget>> {
        if self.path(layer).exists() {
            return Ok(None);
        }
        fs::create_dir(self.draft(layer))?;
        let directory = File::open(self.draft(layer))?.into();
        let mut options = layer::UnpackOptions::default();
        if !rustix::process::geteuid().is_root() {
            options.ownership = layer::Ownership::Ignore;
        }
        Ok(Some(UnpackTarget { directory, options }))
    }

    fn commit(&self, layer: &Layer, _: &layer::Unpacked) -> SinkResult<()> {
        fs::rename(self.draft(layer), self.path(layer))?;
        self.commits.lock().unwrap().push(layer.index);
        Ok(())
    }

    fn abort(&self, layer: &Layer) {
        fs::remove_dir_all(self.draft(layer)).unwrap();
        self.aborts.fetch_add(1, Ordering::Relaxed);
    }
}
