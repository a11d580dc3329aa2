//! The engine: where things are kept, and the parts that work on them.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use container_core::Launcher;
use container_image::{ClientOptions, Digest, Store};
use container_net::{Networks, NetworksOptions};
use container_storage::{Driver, DriverOptions, Kind};

use crate::lower::Doing;
use crate::{Containers, Error, Images, Recovered, Result, recover, state};

/// The name that files, groups and tables of the default engine carry.
const NAME: &str = "container-engine";

/// A container engine: images, containers and networks below one directory.
///
/// Handles are cheap to clone and may be used from any thread; several engines, in one program or
/// in several, may work on the same directory. Calls block.
///
/// When the last handle goes, network devices that no container uses any more are removed.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) store: Store,
    pub(crate) client: ClientOptions,
    pub(crate) driver: Arc<dyn Driver>,
    /// The same snapshots, for containers that go with their program: not synced.
    pub(crate) fast_driver: Arc<dyn Driver>,
    /// `None` for a plain user, who may not make networks.
    pub(crate) networks: Option<Networks>,
    pub(crate) launcher: Launcher,
}

/// Chooses how an [`Engine`] is opened.
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    root: Option<PathBuf>,
    run: Option<PathBuf>,
    cgroup_parent: Option<String>,
    driver: Option<String>,
    insecure_registries: Vec<String>,
    launcher: Option<PathBuf>,
}

/// What an engine works with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Where images, snapshots and containers are kept.
    pub root: PathBuf,
    /// Where records of what runs are kept.
    pub run: PathBuf,
    /// The storage driver.
    pub storage_driver: String,
    /// The version of cgroups: `v1`, `v2` or `hybrid`.
    pub cgroup_version: String,
    /// The release of the kernel.
    pub kernel: String,
    /// Whether this program is a plain user's.
    pub rootless: bool,
    /// Why there are no networks here but `none` and `host`; `None` if there are.
    pub no_networks: Option<String>,
    /// How many images have a name.
    pub images: usize,
    /// How many containers are kept, running or not.
    pub containers: usize,
}

impl Engine {
    /// Opens the engine of this machine (root: `/var/lib/container-engine` and
    /// `/run/container-engine`) or of this user (below `$XDG_DATA_HOME` and `$XDG_RUNTIME_DIR`), made
    /// at the first use, and cleans up what programs that died left behind.
    ///
    /// # Errors
    /// `PermissionDenied`, `Os` or `Unsupported` for what the directories, the file system or the
    /// kernel lack. One broken container or snapshot is no error: it is set aside.
    ///
    /// # Examples
    /// ```no_run
    /// let engine = container_engine::Engine::open_default()?;
    /// println!("{}", engine.info()?.storage_driver);
    /// # Ok::<(), container_engine::Error>(())
    /// ```
    pub fn open_default() -> Result<Self> {
        Self::builder().open()
    }

    /// Chooses the directories and more.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> Images {
        Images::new(self.clone())
    }

    /// The containers.
    #[must_use]
    pub fn containers(&self) -> Containers {
        Containers::new(self.clone())
    }

    /// What the engine works with.
    ///
    /// # Errors
    /// `Os` if the directories cannot be read.
    pub fn info(&self) -> Result<Info> {
        let inner = &self.0;
        let rootless = !rustix::process::geteuid().is_root();
        let layout = container_core::cgroup::version();
        Ok(Info {
            root: inner.root.clone(),
            run: inner.run.clone(),
            storage_driver: inner.driver.kind().to_string(),
            cgroup_version: layout.doing(|| "detect cgroups".into())?.to_string(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            rootless,
            no_networks: inner.networks.is_none().then(|| {
                "bridges, NAT and published ports need CAP_NET_ADMIN, which a plain user lacks"
                    .into()
            }),
            images: self.images().list()?.len(),
            containers: self.containers().list()?.len(),
        })
    }

    /// Cleans up what programs that died left behind; [opening](Self::open_default) does so, too.
    ///
    /// # Errors
    /// `Cleanup` with everything that could not be removed.
    pub fn recover(&self) -> Result<Recovered> {
        recover::recover(self)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The networks.
    ///
    /// # Errors
    /// `PermissionDenied` (`NoNetworks`) for a plain user.
    pub(crate) fn networks(&self) -> Result<&Networks> {
        self.0.networks.as_ref().ok_or_else(|| {
            let what = "use a network other than none and host, which needs CAP_NET_ADMIN";
            Error::new(crate::ErrorKind::PermissionDenied, "NoNetworks", what)
        })
    }

    /// The directory of a container that stays; of all of them for an empty `id`.
    pub(crate) fn kept_directory(&self, id: &str) -> PathBuf {
        let path = self.0.root.join("containers");
        if id.is_empty() { path } else { path.join(id) }
    }

    /// What there is of a container while it runs; of all of them for an empty `id`.
    pub(crate) fn run_directory(&self, id: &str) -> PathBuf {
        let path = self.0.run.join("containers");
        if id.is_empty() { path } else { path.join(id) }
    }

    /// The empty directory that every container mounts its root over, in its own mount namespace.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.0.run.join("rootfs")
    }

    /// The cgroup of a container.
    pub(crate) fn cgroup_path(&self, id: &str) -> String {
        format!("{}/{id}", self.0.cgroup_parent)
    }

    /// Protects snapshots that no image refers to yet from being swept.
    pub(crate) fn lease(&self) -> Result<File> {
        let file = self.lease_file()?;
        file.lock_shared()
            .doing(|| "lock the snapshots for use".into())?;
        Ok(file)
    }

    pub(crate) fn lease_file(&self) -> Result<File> {
        let path = self.0.root.join("lease.lock");
        let mut options = File::options();
        options.create(true).append(true);
        options.open(&path).doing(|| format!("open {path:?}"))
    }
}

impl EngineBuilder {
    /// Where images, snapshots and containers are kept.
    #[must_use]
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Where records of what runs are kept; on a tmpfs.
    #[must_use]
    pub fn run(mut self, run: impl Into<PathBuf>) -> Self {
        self.run = Some(run.into());
        self
    }

    /// The cgroup that the groups of containers lie in; `container-engine` unless set.
    #[must_use]
    pub fn cgroup_parent(mut self, parent: impl Into<String>) -> Self {
        self.cgroup_parent = Some(parent.into());
        self
    }

    /// The storage driver by name; the best that this host has unless set.
    #[must_use]
    pub fn driver(mut self, name: impl Into<String>) -> Self {
        self.driver = Some(name.into());
        self
    }

    /// A registry `host[:port]` that may speak plain HTTP or show a certificate that nobody signed.
    #[must_use]
    pub fn insecure_registry(mut self, host: impl Into<String>) -> Self {
        self.insecure_registries.push(host.into());
        self
    }

    /// A program that links `container-core`, to launch containers with, for an embedder that is not
    /// a Rust executable.
    #[must_use]
    pub fn launcher(mut self, program: impl Into<PathBuf>) -> Self {
        self.launcher = Some(program.into());
        self
    }

    /// Opens the engine.
    ///
    /// # Errors
    /// As [`Engine::open_default`].
    pub fn open(self) -> Result<Engine> {
        let is_root = rustix::process::geteuid().is_root();
        let root = absolute(
            self.root
                .clone()
                .map_or_else(|| default_root(is_root), Ok)?,
        )?;
        // Engines of different roots must not share names on the host.
        let instance = self.root.is_some().then(|| short_hash(&root));
        let run = match self.run {
            Some(run) => absolute(run)?,
            None => default_run(is_root, &root, instance.as_deref()),
        };
        for directory in [
            root.join("containers"),
            run.join("containers"),
            run.join("rootfs"),
        ] {
            state::make_directory(&directory)?;
        }
        let kind: Option<Kind> = self
            .driver
            .map(|name| name.parse())
            .transpose()
            .doing(|| "choose a storage driver".into())?;
        let storage = root.join("storage");
        let open_driver = |sync| {
            let options = DriverOptions::default().kind(kind).sync(sync);
            let driver = container_storage::open(&storage, &options);
            driver
                .map(Arc::from)
                .doing(|| format!("open storage in {storage:?}"))
        };
        let driver = open_driver(true)?;
        let images = root.join("image");
        let mut client = ClientOptions::default();
        client.insecure.extend(self.insecure_registries);
        let engine = Engine(Arc::new(Inner {
            store: Store::open(&images).doing(|| format!("open images in {images:?}"))?,
            client,
            fast_driver: open_driver(false)?,
            driver,
            networks: is_root
                .then(|| open_networks(&root, &run, instance.as_deref()))
                .transpose()?,
            launcher: self.launcher.map_or_else(Launcher::new, Launcher::of),
            cgroup_parent: self.cgroup_parent.unwrap_or_else(|| NAME.into()),
            root,
            run,
        }));
        recover::claim_cgroup_parent(&engine)?;
        engine.recover()?;
        Ok(engine)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(networks) = &self.networks {
            // What stays is removed when an engine is opened next.
            let _ = networks.release_idle();
        }
    }
}

fn open_networks(root: &Path, run: &Path, instance: Option<&str>) -> Result<Networks> {
    let mut options = NetworksOptions::new(root.join("network"), run.join("network"));
    if let Some(instance) = instance {
        options.default_interface = format!("ce{instance}");
        options.firewall = Arc::new(container_net::Nft::new(format!(
            "container_engine_{instance}"
        )));
    }
    Networks::open(options).doing(|| "open the networks".into())
}

/// Eight digits that tell this root from others.
fn short_hash(root: &Path) -> String {
    let digest = Digest::of(root.as_os_str().as_bytes()).to_string();
    digest
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .chars()
        .take(8)
        .collect()
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).doing(|| format!("find {path:?}"))
}

fn default_root(is_root: bool) -> Result<PathBuf> {
    if is_root {
        return Ok(Path::new("/var/lib").join(NAME));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let data = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share")));
    let Some(data) = data.filter(|data| data.is_absolute()) else {
        let what = "find a directory for images: neither XDG_DATA_HOME nor HOME is set";
        return Err(Error::new(crate::ErrorKind::NotFound, "NoRoot", what));
    };
    Ok(data.join(NAME))
}

fn default_run(is_root: bool, root: &Path, instance: Option<&str>) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    let base = match (is_root, runtime.as_deref().map(OsStr::as_bytes)) {
        (true, _) => Path::new("/run").join(NAME),
        (false, Some(_)) => PathBuf::from(runtime.unwrap_or_default()).join(NAME),
        // Not on a tmpfs, but private.
        (false, None) => root.join("run"),
    };
    match instance {
        Some(instance) => base.join(instance),
        None => base,
    }
}
