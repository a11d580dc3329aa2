//! Mounts of a snapshot by the calling thread: read-only views of images, probes and tests.
//!
//! Containers do not come here; their mounts are made inside their own namespaces by whoever
//! starts them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    fsopen, move_mount, open_tree,
};

use crate::sys::{MountAttr, mount_setattr};
use crate::{Error, ErrorKind, Result};

/// Mounts what [`Driver::view`](crate::Driver::view) or `prepare` returned at the directory
/// `target`, in the mount namespace of the calling thread; always `nosuid` and `nodev`.
///
/// # Errors
/// `PermissionDenied` without privilege, `Unsupported` for a list of several mounts or a type that
/// is neither `overlay` nor `bind`, `Os` with the kernel's own words where it has any.
///
/// # Privileges
/// `CAP_SYS_ADMIN` in the user namespace that owns the mount namespace.
///
/// # Examples
///
/// ```no_run
/// # fn main() -> container_storage::Result<()> {
/// # let driver = container_storage::open("/var/lib/example", &Default::default())?;
/// let mounts = driver.view("look", Some("sha256:1f0c"))?;
/// let image = container_storage::mount(&mounts, "/mnt")?;
/// println!("{}", std::fs::read_to_string("/mnt/etc/os-release").unwrap_or_default());
/// image.unmount()?;
/// driver.remove("look")?;
/// # Ok(()) }
/// ```
pub fn mount(mounts: &[Mount], target: impl AsRef<Path>) -> Result<MountGuard> {
    let target = target.as_ref();
    let doing = || format!("open mount point {target:?}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::openat(CWD, target, flags, Mode::empty()).map_err(|e| Error::os(doing(), e))?;
    let tree = mount_detached(mounts)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &directory, "", flags)
        .map_err(|e| Error::os(format!("move a mount to {target:?}"), e))?;
    Ok(MountGuard {
        tree: Some(tree),
        target: target.to_path_buf(),
    })
}

/// Makes the mount without a place in any directory tree; it goes with the last descriptor in it.
///
/// The descriptor is the root directory: files are reached with `openat2(2)` from there.
///
/// # Errors
/// As [`mount`].
///
/// # Privileges
/// As [`mount`].
///
/// # References
/// `open_tree(2)`, `fsopen(2)`, `fsmount(2)`; Linux 5.2, read-only binds 5.12, many lowers 6.8.
pub fn mount_detached(mounts: &[Mount]) -> Result<OwnedFd> {
    let [mount] = mounts else {
        let doing = format!("mount {} file systems as one root", mounts.len());
        return Err(Error::new(ErrorKind::Unsupported, "SeveralMounts", doing));
    };
    let options = mount.options().as_deref().unwrap_or_default();
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    match mount.typ().as_deref() {
        Some("bind") => bind(source, options),
        Some("overlay") => overlay(options),
        other => {
            let doing = format!("mount a file system of type {other:?}");
            Err(Error::new(ErrorKind::Unsupported, "UnknownMount", doing))
        }
    }
}

/// Keeps a mount; dropping it unmounts as well as it can.
#[derive(Debug)]
#[must_use = "dropping the guard unmounts"]
pub struct MountGuard {
    tree: Option<OwnedFd>,
    target: PathBuf,
}

impl MountGuard {
    /// Takes the mount away from its place; who still has files open there can go on with them.
    ///
    /// Must be called in the mount namespace of the mount. Succeeds if it is unmounted already.
    ///
    /// # Errors
    /// Any error of `umount2(2)`.
    pub fn unmount(mut self) -> Result<()> {
        self.detach()
    }

    fn detach(&mut self) -> Result<()> {
        let Some(tree) = self.tree.take() else {
            return Ok(());
        };
        let root = format!("/proc/self/fd/{}", tree.as_raw_fd());
        match rustix::mount::unmount(root, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(Error::os(format!("unmount {:?}", self.target), errno)),
        }
    }
}

impl Drop for MountGuard {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::debug!(error = error.report(), "a mount stays");
        }
    }
}

/// A clone of the mount that `source` is on, with `source` as its root.
fn bind(source: &Path, options: &[String]) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = open_tree(CWD, source, flags)
        .map_err(|e| Error::os(format!("open_tree({source:?}, CLONE)"), e))?;
    let mut attributes = MountAttr {
        attr_set: u64::from(SAFE.bits()),
        propagation: u64::from(MountPropagationFlags::PRIVATE.bits()),
        ..MountAttr::default()
    };
    for option in options {
        match option.as_str() {
            "bind" | "rw" => {}
            option => match mount_flag(option) {
                Some(flag) => attributes.attr_set |= u64::from(flag.bits()),
                None => return Err(unknown_option(option)),
            },
        }
    }
    mount_setattr(tree.as_fd(), &attributes).map_err(|e| {
        Error::os(
            format!("mount_setattr({source:?}, {:#x})", attributes.attr_set),
            e,
        )
    })?;
    Ok(tree)
}

fn overlay(options: &[String]) -> Result<OwnedFd> {
    if options.iter().all(|option| option.len() < MAX_FSCONFIG) {
        match overlay_by_descriptor(options) {
            Err(error) if error.code() == NO_LOWERDIR_PLUS => {}
            other => return other,
        }
    }
    overlay_by_name_in_thread(options)
}

/// Mounts with one `lowerdir+` per lower.
fn overlay_by_descriptor(options: &[String]) -> Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Error::os("fsopen(\"overlay\")", e))?;
    let fail = |call: String, errno: Errno| {
        Error::os("mount overlay", errno).with_source(io::Error::other(format!(
            "{call}: {}{}",
            io::Error::from(errno),
            kernel_words(&context)
        )))
    };
    let mut flags = SAFE;
    for option in options {
        if let Some(flag) = mount_flag(option) {
            flags |= flag;
        } else if let Some((key, value)) = option.split_once('=') {
            match fsconfig_set_string(&context, key, value) {
                Err(Errno::INVAL) if key == "lowerdir+" => {
                    let doing = "fsconfig(\"lowerdir+\")";
                    return Err(Error::os(doing, Errno::INVAL).with_code(NO_LOWERDIR_PLUS));
                }
                other => other.map_err(|e| fail(format!("fsconfig({key:?}, {value:?})"), e))?,
            }
        } else if option != "rw" {
            fsconfig_set_flag(&context, option.as_str())
                .map_err(|e| fail(format!("fsconfig({option:?})"), e))?;
        }
    }
    fsconfig_create(&context).map_err(|e| fail("fsconfig(CMD_CREATE)".to_owned(), e))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
        .map_err(|e| fail("fsmount()".to_owned(), e))
}

/// Runs [`overlay_by_name`] on a thread that ends with it.
fn overlay_by_name_in_thread(options: &[String]) -> Result<OwnedFd> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, || overlay_by_name(options))
            .map_err(|e| Error::os("start a thread to mount from", e))?;
        thread.join().unwrap_or_else(|_| {
            let doing = "mount overlay in a thread of its own";
            Err(Error::new(ErrorKind::Internal, "Panic", doing))
        })
    })
}

/// Mounts with `mount(2)` and short relative names, as older kernels need, on a thread of its own.
///
/// The thread has its own working directory and mount namespace, so nobody sees either; the mount
/// leaves the namespace as a detached clone.
fn overlay_by_name(options: &[String]) -> Result<OwnedFd> {
    let os = |doing: &str, errno: Errno| Error::os(doing, errno);
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .map_err(|e| Error::os("unshare(CLONE_FS | CLONE_NEWNS)", io::Error::from(e)))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|e| os("make all mounts private", e))?;
    let (base, text, flags) = relative_options(options)?;
    rustix::process::chdir(&base).map_err(|e| os(&format!("chdir({base:?})"), e))?;
    let place = text
        .split([':', ','])
        .find_map(|part| part.strip_prefix("lowerdir="))
        .ok_or_else(|| Error::invalid("InvalidMount", "mount overlay without a lower directory"))?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let data = std::ffi::CString::new(&*text).map_err(|_| unknown_option(&text))?;
    rustix::mount::mount("overlay", place, "overlay", flags | safe, &*data)
        .map_err(|e| os(&format!("mount(\"overlay\", {text:?}) in {base:?}"), e))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, place, clone).map_err(|e| os("open_tree(CLONE)", e))
}

/// The directory that all of an overlay's directories are in, its options relative to that, and
/// the flags among them.
fn relative_options(options: &[String]) -> Result<(PathBuf, String, MountFlags)> {
    let mut directories: Vec<(&str, &Path)> = Vec::new();
    let (mut rest, mut flags) = (String::new(), MountFlags::empty());
    for option in options {
        match option.split_once('=') {
            Some((key @ ("lowerdir+" | "upperdir" | "workdir"), path)) => {
                directories.push((key, Path::new(path)));
            }
            _ => match option.as_str() {
                "rw" => {}
                "ro" => flags |= MountFlags::RDONLY,
                "nosuid" => flags |= MountFlags::NOSUID,
                "nodev" => flags |= MountFlags::NODEV,
                "noexec" => flags |= MountFlags::NOEXEC,
                other => rest = format!("{rest},{other}"),
            },
        }
    }
    let mut base = directories
        .first()
        .and_then(|(_, path)| path.parent())
        .unwrap_or(Path::new("/"));
    while !directories.iter().all(|(_, path)| path.starts_with(base)) {
        base = base.parent().unwrap_or(Path::new("/"));
    }
    let relative = |path: &Path| {
        let path = path.strip_prefix(base).unwrap_or(path);
        let text = path.to_string_lossy();
        // Overlay splits at these two and takes a backslash as their escape.
        text.replace('\\', "\\\\")
            .replace(':', "\\:")
            .replace(',', "\\,")
    };
    let lowers: Vec<String> = directories
        .iter()
        .filter(|(key, _)| *key == "lowerdir+")
        .map(|(_, path)| relative(path))
        .collect();
    let mut text = format!("lowerdir={}", lowers.join(":"));
    for (key, path) in directories.iter().filter(|(key, _)| *key != "lowerdir+") {
        text = format!("{text},{key}={}", relative(path));
    }
    text.push_str(&rest);
    if text.len() >= PAGE {
        let doing = format!("mount overlay with {} lower directories", lowers.len());
        return Err(Error::new(ErrorKind::Unsupported, "TooManyLayers", doing));
    }
    Ok((base.to_path_buf(), text, flags))
}

fn mount_flag(option: &str) -> Option<MountAttrFlags> {
    match option {
        "ro" => Some(MountAttrFlags::MOUNT_ATTR_RDONLY),
        "nosuid" => Some(MountAttrFlags::MOUNT_ATTR_NOSUID),
        "nodev" => Some(MountAttrFlags::MOUNT_ATTR_NODEV),
        "noexec" => Some(MountAttrFlags::MOUNT_ATTR_NOEXEC),
        _ => None,
    }
}

/// What the kernel has to say about a failed configuration, as `; <text>` per message.
fn kernel_words(context: &OwnedFd) -> String {
    let mut words = String::new();
    let mut buffer = [0; 1024];
    for _ in 0..MAX_MESSAGES {
        let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) else {
            break;
        };
        words.push_str("; ");
        words.push_str(String::from_utf8_lossy(&buffer[..length]).trim_end());
    }
    words
}

fn unknown_option(option: &str) -> Error {
    Error::invalid("InvalidMount", format!("use mount option {option:?}"))
}

/// On the host's side a setuid file or a device of an image is nothing but bytes.
const SAFE: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// The code of the only failure that the other way of mounting makes good.
const NO_LOWERDIR_PLUS: &str = "NoLowerdirPlus";

/// `fsconfig(2)` takes strings of 255 bytes.
const MAX_FSCONFIG: usize = 256;

/// `mount(2)` takes one page of options.
const PAGE: usize = 4096;

/// The kernel keeps that many messages per context (`struct fc_log` of `linux/fs_context.h`).
const MAX_MESSAGES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_for_older_kernels_are_short_and_relative() {
        let options = [
            "lowerdir+=/s/overlay/2/fs",
            "lowerdir+=/s/overlay/1/fs",
            "upperdir=/s/overlay/3/fs",
            "workdir=/s/overlay/3/work",
            "index=off",
            "ro",
        ]
        .map(str::to_owned);
        let (base, text, flags) = relative_options(&options).unwrap();
        assert_eq!(base, Path::new("/s/overlay"));
        assert_eq!(
            text,
            "lowerdir=2/fs:1/fs,upperdir=3/fs,workdir=3/work,index=off"
        );
        assert_eq!(flags, MountFlags::RDONLY);
    }

    #[test]
    fn what_overlay_splits_at_is_escaped() {
        let options = ["lowerdir+=/s/a:b/fs", "lowerdir+=/s/c,d/fs"].map(str::to_owned);
        let (_, text, _) = relative_options(&options).unwrap();
        assert_eq!(text, "lowerdir=a\\:b/fs:c\\,d/fs");
    }

    #[test]
    fn more_than_a_page_is_refused() {
        let many: Vec<String> = (0..1000).map(|n| format!("lowerdir+=/s/{n}/fs")).collect();
        assert_eq!(relative_options(&many).unwrap_err().code(), "TooManyLayers");
    }

    #[test]
    fn privileged_older_kernels_mount_128_lowers() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skip privileged_older_kernels_mount_128_lowers: needs root");
            return;
        }
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| place.path().join(name);
        let mut options = Vec::new();
        for n in (0..128).rev() {
            std::fs::create_dir_all(path(&format!("{n}/fs"))).unwrap();
            std::fs::write(path(&format!("{n}/fs/f{n}")), n.to_string()).unwrap();
            options.push(format!("lowerdir+={}", path(&format!("{n}/fs")).display()));
        }
        options.push("ro".to_owned());
        let mounts_before = std::fs::read("/proc/self/mountinfo").unwrap();
        let tree = overlay_by_name_in_thread(&options).unwrap();
        for n in 0..128 {
            let bytes = crate::tree::read_file(&tree, &format!("f{n}"), 10).unwrap();
            assert_eq!(bytes, n.to_string().as_bytes());
        }
        let refused = rustix::fs::mkdirat(&tree, "new", Mode::RWXU).unwrap_err();
        assert_eq!(refused, Errno::ROFS);
        assert_eq!(
            std::fs::read("/proc/self/mountinfo").unwrap(),
            mounts_before
        );
    }
}
