//! Images from scratch, without a Dockerfile and without root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::layer::{Compression, Entry, EntryKind, Packed, Packer, Timestamp, clean};
use crate::{
    Descriptor, Error, History, Image, ImageConfig, Manifest, MediaType, Platform, Reference,
    Result, RunConfig, Store,
};

/// Builds an image of one layer from files and bytes.
///
/// The same input gives the same digests: entries are sorted, belong to root unless they say
/// otherwise, and have a fixed time. Directories that are missing on the way to an entry are added,
/// with mode 0755. An entry takes the place of one that was added with the same path before.
/// Nothing is read or written before [`build`](Self::build).
///
/// # Examples
///
/// ```
/// use container_image::{ImageBuilder, Store};
///
/// # let directory = tempfile::tempdir().unwrap();
/// let store = Store::open(directory.path())?;
/// let image = ImageBuilder::new()
///     .file("etc/motd", "hello\n", 0o644)
///     .symlink("motd", "etc/motd")
///     .cmd(["cat", "/motd"])
///     .env("LANG", "C.UTF-8")
///     .build(&store)?;
/// assert_eq!(image.layers().len(), 1);
/// # Ok::<(), container_image::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build"]
pub struct ImageBuilder {
    items: Vec<Item>,
    platform: Platform,
    run: RunConfig,
    env: Vec<(String, String)>,
    created: Option<String>,
    author: Option<String>,
    mtime: Timestamp,
    compression: Compression,
    name: Option<Reference>,
}

/// What is to be added.
#[derive(Clone, Debug)]
enum Item {
    /// An entry that gets the time of the image.
    Plain(Entry, Vec<u8>),
    /// An entry that keeps its own.
    Exact(Entry, Vec<u8>),
    Host {
        from: PathBuf,
        to: PathBuf,
    },
}

impl ImageBuilder {
    /// An image with nothing in it, for the platform of this host.
    pub fn new() -> Self {
        Self {
            items: Vec::new(),
            platform: Platform::host(),
            run: RunConfig::default(),
            env: Vec::new(),
            created: None,
            author: None,
            mtime: Timestamp::default(),
            compression: Compression::default(),
            name: None,
        }
    }

    /// Adds a file of root's with these contents.
    pub fn file(self, path: impl Into<PathBuf>, contents: impl Into<Vec<u8>>, mode: u32) -> Self {
        let kind = EntryKind::File { size_bytes: 0 };
        self.special(path, kind, Some(mode), contents.into())
    }

    /// Adds a directory of root's.
    pub fn directory(self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.special(path, EntryKind::Directory, Some(mode), Vec::new())
    }

    /// Adds a symbolic link with the text `target`.
    pub fn symlink(self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        let kind = EntryKind::Symlink {
            target: target.into(),
        };
        self.special(path, kind, None, Vec::new())
    }

    /// Adds a file or a directory with all that is in it from the host, as root's, with the modes
    /// that they have there.
    ///
    /// If `from` is a symbolic link, what it points to is added; links inside stay links. Devices,
    /// sockets and FIFOs are refused.
    pub fn copy(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.items.push(Item::Host {
            from: from.into(),
            to: to.into(),
        });
        self
    }

    /// Adds any entry; its own time is kept, and its size becomes that of `contents`.
    pub fn entry(mut self, entry: Entry, contents: impl Into<Vec<u8>>) -> Self {
        self.items.push(Item::Exact(entry, contents.into()));
        self
    }

    /// Says for which platform the image is.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform.normalised();
        self
    }

    /// Sets the program and its first arguments.
    pub fn entrypoint<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.run.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the program, or the arguments for the entry point.
    pub fn cmd<T: Into<String>>(mut self, words: impl IntoIterator<Item = T>) -> Self {
        self.run.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory, an absolute path.
    pub fn workdir(mut self, path: impl Into<String>) -> Self {
        self.run.working_dir = path.into();
        self
    }

    /// Sets the user, as `user`, `uid`, `user:group` or `uid:gid`.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.run.user = user.into();
        self
    }

    /// Sets a label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.run.labels.insert(key.into(), value.into());
        self
    }

    /// Names a port that the image listens on, as `80`, `80/tcp`, `53/udp` or `9/sctp`.
    pub fn expose(mut self, port: impl Into<String>) -> Self {
        let port = port.into();
        let port = if port.contains('/') {
            port
        } else {
            port + "/tcp"
        };
        self.run.exposed_ports.insert(port);
        self
    }

    /// Says when the image was made, as RFC 3339 text; by default it does not tell.
    pub fn created(mut self, time: impl Into<String>) -> Self {
        self.created = Some(time.into());
        self
    }

    /// Says who made the image.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// Sets the time of all files, the epoch by default.
    pub fn mtime(mut self, mtime: Timestamp) -> Self {
        self.mtime = mtime;
        self
    }

    /// Sets how the layer is compressed, gzip by default.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Gives the image a name.
    pub fn name(mut self, name: Reference) -> Self {
        self.name = Some(name);
        self
    }

    /// Writes layer, config and manifest into `store`, and names the image if a name was given.
    ///
    /// An image without a name lasts until the next [`Store::prune`]. Blocks while it reads and
    /// writes.
    ///
    /// # Errors
    /// `InvalidImage`, listing every value that breaks its rules; `PathTooLong`, `PathEscapes`;
    /// `UnsupportedEntry` for devices on the host; system errors with the path.
    pub fn build(self, store: &Store) -> Result<Image> {
        self.check()?;
        let lease = store.lease()?;
        let mut ingest = store.ingest()?;
        let packed = self.pack(&mut ingest)?;
        let layer = Descriptor::new(
            self.compression.media_type(),
            packed.digest,
            packed.size_bytes,
        );
        lease.protect(layer.digest)?;
        ingest.commit(&layer)?;
        let raw = self.config(&packed).to_json();
        let config = lease.put(MediaType::CONFIG, &raw)?;
        let manifest = Manifest::new(config, vec![layer])?;
        lease.put(MediaType::MANIFEST, manifest.raw())?;
        let image = Image::new(store, manifest, raw, None)?;
        if let Some(name) = &self.name {
            store.tag(&image, name)?;
        }
        Ok(image)
    }

    fn special(
        mut self,
        path: impl Into<PathBuf>,
        kind: EntryKind,
        mode: Option<u32>,
        contents: Vec<u8>,
    ) -> Self {
        let mut entry = Entry::new(path, kind);
        entry.mode = mode.unwrap_or(entry.mode);
        self.items.push(Item::Plain(entry, contents));
        self
    }

    fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut expect = |good: bool, what: String| {
            if !good {
                problems.push(what);
            }
        };
        for (name, value) in &self.env {
            let good = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            expect(good, format!("variable {name:?}"));
        }
        let directory = &self.run.working_dir;
        let good = directory.is_empty() || directory.starts_with('/') && !directory.contains('\0');
        expect(good, format!("working directory {directory:?}"));
        for port in &self.run.exposed_ports {
            expect(is_port(port), format!("port {port:?}"));
        }
        let words = [&self.run.entrypoint, &self.run.cmd]
            .into_iter()
            .flatten()
            .flatten();
        for word in words {
            expect(!word.contains('\0'), format!("argument {word:?}"));
        }
        if problems.is_empty() {
            return Ok(());
        }
        let doing = format!("build an image: bad {}", problems.join(", bad "));
        Err(Error::invalid("InvalidImage", doing))
    }

    fn config(&self, packed: &Packed) -> ImageConfig {
        let mut config = ImageConfig::new(&self.platform.os, &self.platform.architecture);
        config.variant.clone_from(&self.platform.variant);
        config.created.clone_from(&self.created);
        config.author.clone_from(&self.author);
        config.config = self.run.clone();
        let mut variables: Vec<(&str, &str)> = Vec::new();
        for (name, value) in &self.env {
            variables.retain(|(known, _)| known != name);
            variables.push((name, value));
        }
        let variables = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        config.config.env = variables.collect();
        config.rootfs.diff_ids = vec![packed.diff_id];
        config.history = vec![History {
            created: self.created.clone(),
            created_by: Some("container-image ImageBuilder".into()),
            ..History::default()
        }];
        config
    }

    fn pack(&self, output: impl io::Write) -> Result<Packed> {
        let mut packer = Packer::new(output, self.compression)?;
        for (_, source) in self.sources()? {
            match source {
                Source::Bytes(entry, bytes) => packer.append(&entry, &mut &bytes[..])?,
                Source::Host(entry, path) if matches!(entry.kind, EntryKind::File { .. }) => {
                    let file = File::open(&path);
                    let mut file = file.map_err(|error| host_error("open", &path, error))?;
                    packer.append(&entry, &mut file)?;
                }
                Source::Host(entry, _) => packer.append(&entry, &mut io::empty())?,
            }
        }
        Ok(packer.finish()?.0)
    }

    /// All entries by path, which sorts parents before what is in them.
    fn sources(&self) -> Result<BTreeMap<Vec<u8>, Source<'_>>> {
        let mut sources = BTreeMap::new();
        for item in &self.items {
            match item {
                Item::Host { from, to } => self.add_host(from, to, &mut sources)?,
                Item::Plain(entry, contents) | Item::Exact(entry, contents) => {
                    let mut entry = entry.clone();
                    if matches!(item, Item::Plain(..)) {
                        entry.mtime = self.mtime;
                    }
                    if let EntryKind::File { size_bytes } = &mut entry.kind {
                        *size_bytes = contents.len() as u64;
                    }
                    let path = clean(entry.path.as_os_str().as_bytes())?;
                    sources.insert(path, Source::Bytes(entry, contents));
                }
            }
        }
        let paths: Vec<_> = sources.keys().cloned().collect();
        for path in paths {
            for parent in Path::new(std::ffi::OsStr::from_bytes(&path)).ancestors() {
                let key = parent.as_os_str().as_bytes().to_vec();
                sources.entry(key).or_insert_with(|| self.implied(parent));
            }
        }
        sources
            .entry(Vec::new())
            .or_insert_with(|| self.implied(Path::new("")));
        Ok(sources)
    }

    fn implied(&self, path: &Path) -> Source<'static> {
        let mut entry = Entry::new(path, EntryKind::Directory);
        entry.mtime = self.mtime;
        Source::Bytes(entry, &[])
    }

    fn add_host<'a>(
        &self,
        from: &Path,
        to: &Path,
        sources: &mut BTreeMap<Vec<u8>, Source<'a>>,
    ) -> Result<()> {
        let from = fs::canonicalize(from).map_err(|error| host_error("find", from, error))?;
        let mut todo = vec![(from, to.to_owned())];
        while let Some((from, to)) = todo.pop() {
            let meta = fs::symlink_metadata(&from);
            let meta = meta.map_err(|error| host_error("look at", &from, error))?;
            let kind = meta.file_type();
            let kind = if kind.is_dir() {
                let entries = fs::read_dir(&from).map_err(|e| host_error("read", &from, e))?;
                for entry in entries {
                    let name = entry
                        .map_err(|error| host_error("read", &from, error))?
                        .file_name();
                    todo.push((from.join(&name), to.join(&name)));
                }
                EntryKind::Directory
            } else if kind.is_symlink() {
                let target = fs::read_link(&from);
                let target = target.map_err(|error| host_error("read", &from, error))?;
                EntryKind::Symlink { target }
            } else if kind.is_file() {
                EntryKind::File {
                    size_bytes: meta.len(),
                }
            } else {
                let doing = format!("copy {} into an image: bad type", from.display());
                return Err(Error::invalid("UnsupportedEntry", doing));
            };
            let mut entry = Entry::new(&to, kind);
            entry.mode = meta.mode() & 0o7777;
            entry.mtime = self.mtime;
            sources.insert(clean(to.as_os_str().as_bytes())?, Source::Host(entry, from));
        }
        Ok(())
    }
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// An entry and where its contents are.
enum Source<'a> {
    Bytes(Entry, &'a [u8]),
    Host(Entry, PathBuf),
}

pub(crate) fn is_port(text: &str) -> bool {
    let Some((port, protocol)) = text.split_once('/') else {
        return false;
    };
    let (low, high) = port.split_once('-').unwrap_or((port, port));
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>()
            .ok()
            .filter(|number| digits && *number > 0)
    };
    let range = number(low).is_some_and(|low| number(high).is_some_and(|high| low <= high));
    range && matches!(protocol, "tcp" | "udp" | "sctp")
}

fn host_error(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::os(format!("{doing} {}", path.display()), error)
}
