//! Pods: containers that share namespaces, and one cgroup to be limited in.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Root, Spec};
use rustix::fs::{CWD, Mode, OFlags};

use super::Container;
use super::options::CreateOptions;
use crate::cgroup::{Cgroup, CgroupPath};
use crate::userns::IdMap;
use crate::{Error, Launcher, Result, defaults};

/// What the containers of a pod share, beside network, IPC and host name.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PodOptions {
    /// The host name of all; that of the host if there is none.
    pub hostname: Option<String>,
    /// Whether they see each other's processes. Process 1 of all is then one of ours, which reaps.
    pub share_pids: bool,
    /// The user namespace of all; none of their own if not set. A plain user's needs more than one id.
    pub users: Option<IdMap>,
    /// The cgroup that those of the containers are below; it must not exist yet.
    pub cgroup: Option<String>,
    /// What all of them together may use.
    pub resources: LinuxResources,
}

/// Namespaces that several containers share.
///
/// They are held by descriptors: no process idles for them, unless the containers share their processes.
/// Each container is one of its own, with its own file system, processes and limits, and may come and
/// go.
///
/// ```no_run
/// use container_core::{CreateOptions, Launcher, PodOptions, defaults};
///
/// let launcher = Launcher::new();
/// let pod = launcher.create_pod(PodOptions::default())?;
/// let mut spec = defaults::default_spec();
/// pod.adapt(&mut spec)?;
/// // … set root and process.args …
/// let container = launcher.create(&spec, CreateOptions::default())?;
/// # Ok::<(), container_core::Error>(())
/// ```
///
/// When it is dropped, the namespaces stay for as long as containers are in them; containers that
/// share their processes end. The cgroup goes with [`Self::remove`].
#[derive(Debug)]
pub struct Pod {
    namespaces: Vec<(LinuxNamespaceType, OwnedFd)>,
    cgroup: Option<Cgroup>,
    /// Process 1 of containers that share their processes.
    _first: Option<Container>,
}

impl Launcher {
    /// Makes the namespaces and the cgroup of a pod.
    ///
    /// # Errors
    /// As [`Self::create`]. After an error nothing is left behind.
    ///
    /// # Privileges
    /// Root, or [`PodOptions::users`] of a plain user's own.
    pub fn create_pod(&self, options: PodOptions) -> Result<Pod> {
        let cgroup = match &options.cgroup {
            Some(path) => Some(Cgroup::create(&CgroupPath::new(path)?, &options.resources)?),
            None => None,
        };
        let made = self.make_namespaces(&options, cgroup.as_ref());
        match (made, cgroup) {
            (Ok((namespaces, first)), cgroup) => Ok(Pod {
                namespaces,
                cgroup,
                _first: first,
            }),
            (Err(error), Some(cgroup)) => match cgroup.remove() {
                Err(cleanup) => Err(error.with_cleanup([cleanup])),
                Ok(()) => Err(error),
            },
            (Err(error), None) => Err(error),
        }
    }

    /// Has a container make them: one with nothing in it, that starts no program.
    #[expect(clippy::type_complexity, reason = "the parts of a pod")]
    fn make_namespaces(
        &self,
        options: &PodOptions,
        cgroup: Option<&Cgroup>,
    ) -> Result<(Vec<(LinuxNamespaceType, OwnedFd)>, Option<Container>)> {
        let spec = first_spec(options, cgroup)?;
        let create = CreateOptions {
            root_mounts: vec![empty_root()],
            lingers: true,
            ..CreateOptions::default()
        };
        let first = self.create(&spec, create)?;
        first.wait_created()?;
        let mut namespaces = Vec::new();
        for (kind, name) in SHARED {
            let wanted = match kind {
                LinuxNamespaceType::Pid => options.share_pids,
                LinuxNamespaceType::User => options.users.is_some(),
                _ => true,
            };
            if wanted {
                let path = format!("/proc/{}/ns/{name}", first.pid());
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let opened = rustix::fs::openat(CWD, &path, flags, Mode::empty())
                    .map_err(|errno| Error::os(format!("open {path:?}"), errno))?;
                namespaces.push((kind, opened));
            }
        }
        if options.share_pids {
            first.start()?;
            return Ok((namespaces, Some(first)));
        }
        first.kill(crate::Signal::KILL)?;
        first.wait()?;
        Ok((namespaces, None))
    }
}

/// In the order in which containers enter them.
const SHARED: [(LinuxNamespaceType, &str); 5] = [
    (LinuxNamespaceType::User, "user"),
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
    (LinuxNamespaceType::Pid, "pid"),
];

impl Pod {
    /// Puts the container of `spec` into the pod.
    ///
    /// The spec's own host name, kernel parameters and id maps go, as they belong to the pod, and its
    /// cgroup comes to lie below the pod's, under its last name. The pod must live until the container
    /// is created.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidName`) if the pod has a cgroup and the spec names none.
    pub fn adapt(&self, spec: &mut Spec) -> Result<()> {
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        for (kind, namespace) in &self.namespaces {
            namespaces.retain(|other| other.typ() != *kind);
            let mut shared = LinuxNamespace::default();
            shared.set_typ(*kind);
            let path = format!("/proc/self/fd/{}", namespace.as_raw_fd());
            shared.set_path(Some(path.into()));
            namespaces.push(shared);
        }
        linux.set_namespaces(Some(namespaces));
        linux.set_sysctl(None);
        linux.set_uid_mappings(None);
        linux.set_gid_mappings(None);
        if let Some(cgroup) = &self.cgroup {
            let path = linux.cgroups_path().clone().unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let path = cgroup.path().child(&name)?;
            linux.set_cgroups_path(Some(path.as_str().into()));
        }
        spec.set_linux(Some(linux));
        spec.set_hostname(None);
        spec.set_domainname(None);
        Ok(())
    }

    /// The network namespace, to be equipped as that of a container.
    #[must_use]
    pub fn network_namespace(&self) -> BorrowedFd<'_> {
        let network = LinuxNamespaceType::Network;
        let found = self.namespaces.iter().find(|(kind, _)| *kind == network);
        let (_, namespace) = found.expect("every pod has one");
        namespace.as_fd()
    }

    /// The group that limits all containers of the pod together, if it has one.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Ends the pod: the process that reaps, and the cgroup, in which no container may live any more.
    ///
    /// # Errors
    /// `Cleanup`, with `Busy` in it if one does.
    pub fn remove(self) -> Result<()> {
        if let Some(first) = &self._first {
            first.kill(crate::Signal::KILL)?;
            first.wait()?;
        }
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove)
    }
}

/// The container that makes the namespaces, confined as any other.
fn first_spec(options: &PodOptions, cgroup: Option<&Cgroup>) -> Result<Spec> {
    let mut spec = defaults::default_spec();
    let mut root = Root::default();
    // A directory that every host has, to be covered in the container's own view only.
    root.set_path("/sys".into());
    root.set_readonly(Some(true));
    spec.set_root(Some(root));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.retain(|mount| mount.destination() == Path::new("/proc"));
    spec.set_mounts(Some(mounts));
    spec.set_hostname(options.hostname.clone());
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(vec!["pod".into()]));
    process.set_capabilities(None);
    spec.set_process(Some(process));
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_masked_paths(None);
    linux.set_readonly_paths(None);
    let path = match cgroup.filter(|_| options.share_pids) {
        Some(cgroup) => Some(cgroup.path().child("pod")?.as_str().into()),
        None => None,
    };
    linux.set_cgroups_path(path);
    linux.set_resources(None);
    spec.set_linux(Some(linux));
    if let Some(users) = &options.users {
        users.apply(&mut spec);
    }
    Ok(spec)
}

fn empty_root() -> Mount {
    let mut mount = Mount::default();
    mount.set_destination("/".into());
    mount.set_typ(Some("tmpfs".into()));
    mount.set_source(Some("tmpfs".into()));
    let options = ["nosuid", "nodev", "noexec", "mode=555", "size=64k"];
    mount.set_options(Some(options.map(str::to_owned).into()));
    mount
}
