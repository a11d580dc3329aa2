//! What hierarchies this host has, and where in them this process may make groups.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Access, AtFlags, CWD, StatxFlags, accessat, statx};

use crate::{Error, Result};

/// The hierarchies that are mounted and visible.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) hierarchies: Vec<Hierarchy>,
}

#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Controllers; of a hierarchy without any, `name=…`.
    pub(super) controllers: Vec<String>,
    pub(super) mount_point: PathBuf,
    /// The highest group that this process may make groups in.
    pub(super) base: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Version {
    V1,
    V2,
}

impl Layout {
    /// The layout of this host, found out once.
    pub(super) fn host() -> Result<&'static Self> {
        static LAYOUT: OnceLock<Layout> = OnceLock::new();
        if let Some(layout) = LAYOUT.get() {
            return Ok(layout);
        }
        let read = |path| {
            fs::read_to_string(path).map_err(|error| Error::os(format!("read {path:?}"), error))
        };
        let mounts = parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        let layout = Self {
            hierarchies: visible(mounts).into_iter().map(Hierarchy::at).collect(),
        };
        Ok(LAYOUT.get_or_init(|| layout))
    }

    pub(super) fn has(&self, version: Version) -> bool {
        self.hierarchies
            .iter()
            .any(|hierarchy| hierarchy.version == version)
    }

    pub(super) fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// The hierarchy that has `controller` at `version`.
    pub(super) fn with(&self, version: Version, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| {
            hierarchy.version == version && hierarchy.controllers.iter().any(|it| it == controller)
        })
    }
}

impl Hierarchy {
    fn at(mount: Mount) -> Self {
        let own = mount
            .own
            .components()
            .map(|component| component.as_os_str());
        let mut base = mount.mount_point.clone();
        let mut own = own.into_iter();
        let base = loop {
            if may_change(&base, mount.version) {
                break Some(base);
            }
            match own.next() {
                Some(name) => base.push(name),
                None => break None,
            }
        };
        let mut controllers = mount.controllers;
        if mount.version == Version::V2 {
            let file = base
                .as_ref()
                .unwrap_or(&mount.mount_point)
                .join("cgroup.controllers");
            let text = fs::read_to_string(file).unwrap_or_default();
            controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Self {
            version: mount.version,
            controllers,
            mount_point: mount.mount_point,
            base,
        }
    }
}

/// Whether this process may make groups in `group` and put processes there.
fn may_change(group: &Path, version: Version) -> bool {
    let may_write = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    let files: &[&str] = match version {
        Version::V1 => &["cgroup.procs"],
        Version::V2 => &["cgroup.procs", "cgroup.subtree_control"],
    };
    may_write(group) && files.iter().all(|file| may_write(&group.join(file)))
}

/// A hierarchy as the tables of the kernel name it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    version: Version,
    controllers: Vec<String>,
    mount_point: PathBuf,
    /// The group of this process, below the mount point.
    own: PathBuf,
}

/// Leaves one mount of each hierarchy: the first that no later mount covers.
fn visible(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut seen: Vec<Mount> = Vec::new();
    for mount in mounts {
        let same =
            |it: &Mount| (it.version, &it.controllers) == (mount.version, &mount.controllers);
        if !seen.iter().any(same) && is_on_top(&mount) {
            seen.push(mount);
        }
    }
    seen
}

fn is_on_top(mount: &Mount) -> bool {
    match statx(
        CWD,
        &mount.mount_point,
        AtFlags::empty(),
        StatxFlags::MNT_ID,
    ) {
        // Kernels before 5.8 do not tell.
        Ok(status) if status.stx_mask & StatxFlags::MNT_ID.bits() == 0 => true,
        Ok(status) => status.stx_mnt_id == mount.id,
        Err(_) => false,
    }
}

/// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
///
/// # References
/// `proc_pid_mountinfo(5)`, `cgroups(7)`.
fn parse(mountinfo: &str, own: &str) -> Vec<Mount> {
    let mounts: Vec<_> = mountinfo.lines().filter_map(MountLine::read).collect();
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let controllers: Vec<_> = names.split(',').filter(|it| !it.is_empty()).collect();
        let version = if controllers.is_empty() {
            Version::V2
        } else {
            Version::V1
        };
        for mount in &mounts {
            let has = |name: &&str| mount.options.split(',').any(|option| option == *name);
            if mount.version != version || !controllers.iter().all(has) {
                continue;
            }
            found.push(Mount {
                id: mount.id,
                version,
                controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
                mount_point: PathBuf::from(unescape(mount.mount_point)),
                own: below(&unescape(mount.root), group),
            });
        }
    }
    found
}

struct MountLine<'l> {
    id: u64,
    root: &'l str,
    mount_point: &'l str,
    version: Version,
    options: &'l str,
}

impl<'l> MountLine<'l> {
    fn read(line: &'l str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ');
        let id = place.next()?.parse().ok()?;
        let root = place.nth(2)?;
        let mount_point = place.next()?;
        let mut kind = kind.split(' ');
        let version = match kind.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default();
        Some(Self {
            id,
            root,
            mount_point,
            version,
            options,
        })
    }
}

/// Where `group` is below a mount that shows the hierarchy from `root` on; the mount point itself
/// where it is not.
fn below(root: &str, group: &str) -> PathBuf {
    let group = Path::new(group);
    let inside = group.strip_prefix(root).unwrap_or(Path::new(""));
    let plain = inside
        .components()
        .all(|it| matches!(it, std::path::Component::Normal(_)));
    if plain {
        inside.to_owned()
    } else {
        PathBuf::new()
    }
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .iter()
        .fold(text.to_owned(), |text, pair| {
            let (escape, plain) = pair.split_at(4);
            text.replace(escape, plain)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mountinfo: &str, own: &str) -> Vec<(Version, String, String, String)> {
        parse(mountinfo, own)
            .into_iter()
            .map(|mount| {
                let (at, own) = (mount.mount_point.display(), mount.own.display());
                (
                    mount.version,
                    mount.controllers.join(","),
                    at.to_string(),
                    own.to_string(),
                )
            })
            .collect()
    }

    fn mount(
        version: Version,
        names: &str,
        at: &str,
        own: &str,
    ) -> (Version, String, String, String) {
        (version, names.to_owned(), at.to_owned(), own.to_owned())
    }

    #[test]
    fn a_unified_host_has_one_hierarchy() {
        let mountinfo = "\
            22 28 0:20 / /proc rw - proc proc rw\n\
            30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "0::/user.slice/user-1000.slice/session-2.scope\n";
        let want = mount(
            Version::V2,
            "",
            "/sys/fs/cgroup",
            "user.slice/user-1000.slice/session-2.scope",
        );
        assert_eq!(read(mountinfo, own), [want]);
    }

    #[test]
    fn a_hybrid_host_has_many_and_shared_ones_once() {
        let mountinfo = "\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:name=systemd:/\n4:memory:/a/b\n3:hugetlb:/\n1:cpu,cpuacct:/\n0::/\n";
        let want = [
            mount(Version::V1, "name=systemd", "/sys/fs/cgroup/systemd", ""),
            mount(Version::V1, "memory", "/sys/fs/cgroup/memory", "a/b"),
            mount(Version::V1, "cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", ""),
            mount(Version::V2, "", "/sys/fs/cgroup/unified", ""),
        ];
        assert_eq!(read(mountinfo, own), want);
    }

    #[test]
    fn a_mount_of_a_part_shows_the_own_group_below_it() {
        let mountinfo = "35 31 0:32 /docker/x /odd\\040place rw - cgroup cgroup rw,memory\n";
        for (group, want) in [
            ("/docker/x/y", "y"),
            ("/docker/x", ""),
            ("/other", ""),
            ("/../z", ""),
        ] {
            let got = read(mountinfo, &format!("4:memory:{group}\n"));
            assert_eq!(
                got,
                [mount(Version::V1, "memory", "/odd place", want)],
                "{group}"
            );
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        assert_eq!(
            read("x\n1 2\n - \n1 2 3 / - cgroup\n", "\n1\n1:memory\n"),
            []
        );
    }

    #[test]
    fn the_host_has_a_hierarchy() {
        let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else {
            return;
        };
        if text.contains(" - cgroup") {
            assert!(!Layout::host().unwrap().hierarchies.is_empty());
        }
    }
}
