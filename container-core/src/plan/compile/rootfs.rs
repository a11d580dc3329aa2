//! The part of a plan that makes up the root file system, around its mounts and devices.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{Linux, Mount};

use super::mount::{Connected, is_bind};
use super::{Compiler, c_string, has_any, required, unsupported};
use crate::plan::mounts::{Options, bind_source, inside, new_source, overlay_source, propagation};
use crate::plan::step::{Attributes, Keep, MountSource, Place, Propagation, Step, Tree};
use crate::{Error, Result};

pub(super) const PRIVATE: Propagation = Propagation {
    kind: libc::MS_PRIVATE,
    recursive: true,
};

pub(super) const SLAVE: Propagation = Propagation {
    kind: libc::MS_SLAVE,
    recursive: true,
};

/// Where the root file system comes from.
struct Root {
    /// Lower directories are named relative to this one.
    change: Option<CString>,
    source: MountSource,
    attributes: Attributes,
}

impl Compiler<'_> {
    pub(super) fn mount_all(&mut self, linux: &Linux) -> Result<()> {
        let propagation = root_propagation(linux)?;
        let mut root = match self.options.root_mounts.first() {
            None => self.root_directory()?,
            Some(mount) => self.root_mount(mount)?,
        };
        // What is to stay connected with the host's mounts is copied while that still is.
        if propagation.kind == libc::MS_SLAVE
            && let MountSource::Bind(tree) = root.source
        {
            root.source = MountSource::Kept(self.open_tree(tree));
        }
        let connected = self.open_connected_trees(propagation.kind == libc::MS_SHARED)?;
        self.steps.push(Step::Detach);
        self.mount_root(root, propagation)?;
        for mount in self.options.root_mounts.iter().skip(1) {
            self.mount(mount, None)?;
        }
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        for (mount, tree) in mounts.iter().zip(connected) {
            self.mount(mount, tree)?;
        }
        self.make_devices(linux)?;
        self.set_sysctls(linux)?;
        for path in linux.readonly_paths().iter().flatten() {
            let place = self.place(Path::new(path))?;
            self.steps.push(Step::MakeReadOnly(place));
        }
        for path in linux.masked_paths().iter().flatten() {
            let place = self.place(Path::new(path))?;
            self.steps.push(Step::Mask(place));
        }
        self.run_creation_hooks();
        self.steps.push(Step::PivotRoot);
        if let libc::MS_SHARED | libc::MS_UNBINDABLE = propagation.kind {
            self.steps.push(Step::SetRootPropagation(Propagation {
                recursive: false,
                ..propagation
            }));
        }
        Ok(())
    }

    fn root_directory(&self) -> Result<Root> {
        let root = required("root", self.spec.root().as_ref())?;
        let path = self.bundle.join(root.path());
        Ok(Root {
            change: None,
            source: MountSource::Bind(Tree {
                path: c_string("root.path", path.into_os_string())?,
                recursive: true,
                copy_link: false,
            }),
            attributes: Attributes::default(),
        })
    }

    fn root_mount(&self, mount: &Mount) -> Result<Root> {
        let mut options = Options::parse(mount);
        if has_any(mount.uid_mappings()) || has_any(mount.gid_mappings()) || options.is_special() {
            return Err(unsupported("an option of this kind for the root itself"));
        }
        let (change, source) = match mount.typ().as_deref() {
            Some("overlay") => {
                let features = self.options.features;
                overlay_source(mount.source().as_deref(), &mut options, features)?
            }
            _ if options.bind => {
                let tree = bind_source(mount, self.bundle, &options)?;
                (None, MountSource::Bind(tree))
            }
            Some(kind) => {
                let source = mount.source().as_deref();
                let source = new_source(kind, source, &mut options, self.options.features)?;
                (None, source)
            }
            None => return Err(invalid_mount(mount, "has no type")),
        };
        Ok(Root {
            change,
            source,
            attributes: options.attributes,
        })
    }

    /// Copies the trees of bind mounts that are to get the host's later mounts; gives for each mount of
    /// the spec where its tree is kept.
    ///
    /// The host gets the container's mounts only if the root is shared, too.
    fn open_connected_trees(&mut self, shared: bool) -> Result<Vec<Option<Connected>>> {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        let mut trees = Vec::with_capacity(mounts.len());
        for mount in mounts {
            let options = Options::parse(mount);
            let maps_ids = options.map_ids.is_some() || has_any(mount.uid_mappings());
            let connected = is_bind(mount, &options) && options.propagates() && !options.remount;
            trees.push(match connected {
                true => Some(Connected {
                    tree: match maps_ids {
                        true => None,
                        false => Some(self.open_tree(bind_source(mount, self.bundle, &options)?)),
                    },
                    to_host: shared,
                }),
                false => None,
            });
        }
        Ok(trees)
    }

    fn open_tree(&mut self, tree: Tree) -> Keep {
        let keep = self.next_keep();
        self.steps.push(Step::OpenTree { tree, keep });
        keep
    }

    fn mount_root(&mut self, root: Root, propagation: Propagation) -> Result<()> {
        let over = required("root", self.spec.root().as_ref())?;
        let over = self.bundle.join(over.path()).into_os_string();
        let mut attributes = root.attributes;
        // A shared root cannot be pivoted to; what is below it can be shared already.
        attributes.propagation = match (propagation.kind, propagation.recursive) {
            (libc::MS_SLAVE, _) => vec![SLAVE],
            (libc::MS_SHARED | libc::MS_UNBINDABLE, true) => {
                let recursive = false;
                vec![
                    PRIVATE,
                    propagation,
                    Propagation {
                        recursive,
                        ..PRIVATE
                    },
                ]
            }
            _ => vec![PRIVATE],
        };
        self.steps
            .extend(root.change.map(Step::ChangeHostDirectory));
        self.steps.push(Step::MountRoot {
            source: root.source,
            over: c_string("root.path", over)?,
            attributes,
        });
        Ok(())
    }

    /// `path` below the mount of ours that it belongs to.
    pub(super) fn place(&self, path: &Path) -> Result<Place> {
        let path = inside(path)?;
        for (keep, prefix) in [
            (Keep::PROC, "proc/"),
            (Keep::SYS, "sys/"),
            (Keep::DEV, "dev/"),
        ] {
            let rest = path.to_bytes().strip_prefix(prefix.as_bytes());
            if let Some(rest) = rest.filter(|_| self.kept.contains(&keep)) {
                let path = c_string("path", rest)?;
                return Ok(Place {
                    below: Some(keep),
                    path,
                });
            }
        }
        Ok(Place { below: None, path })
    }

    pub(super) fn set_sysctls(&mut self, linux: &Linux) -> Result<()> {
        let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
        sysctls.sort();
        for (name, value) in sysctls {
            // Dots separate, except that a slash form keeps dots inside of interface names.
            let path = match name.contains('/') {
                true => name.clone(),
                false => name.replace('.', "/"),
            };
            let parts: Vec<_> = path.split('/').collect();
            let plain = parts.iter().all(|part| !matches!(*part, "" | "." | ".."));
            let needed = match parts.as_slice() {
                ["net", _, ..] if plain => libc::CLONE_NEWNET,
                ["user", _] if plain => libc::CLONE_NEWUSER,
                ["kernel", "domainname"] => libc::CLONE_NEWUTS,
                ["fs", "mqueue", _] if plain => libc::CLONE_NEWIPC,
                ["kernel", name] if is_ipc_sysctl(name) => libc::CLONE_NEWIPC,
                _ => {
                    let what = format!("sysctl {name:?} belongs to no namespace");
                    return Err(Error::invalid("InvalidSysctl", what));
                }
            };
            if self.flags & u64::from(needed.unsigned_abs()) == 0 {
                let what = format!("sysctl {name} would change the host: its namespace is not new");
                return Err(Error::invalid("InvalidSysctl", what));
            }
            self.steps.push(Step::WriteSysctl {
                name: inside(&Path::new("sys").join(path))?,
                value: c_string("sysctl", value.as_str())?,
            });
        }
        Ok(())
    }
}

/// What `linux.rootfsPropagation` asks for.
fn root_propagation(linux: &Linux) -> Result<Propagation> {
    let name = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if name.is_empty() {
        return Ok(PRIVATE);
    }
    propagation(name).ok_or_else(|| {
        let what = format!("linux.rootfsPropagation {name:?} is none");
        Error::invalid("InvalidSpec", what)
    })
}

/// Parameters below `kernel` that belong to an IPC namespace (`ipc_namespaces(7)`).
fn is_ipc_sysctl(name: &str) -> bool {
    matches!(
        name,
        "msgmax" | "msgmnb" | "msgmni" | "sem" | "shmall" | "shmmax" | "shmmni" | "shm_rmid_forced"
    )
}

pub(super) fn invalid_mount(mount: &Mount, why: &str) -> Error {
    Error::invalid(
        "InvalidMount",
        format!("mount at {:?} {why}", mount.destination()),
    )
}
