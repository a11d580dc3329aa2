//! What this host's kernel has, found out by trying, once per process.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use crate::{capability, sys};

/// What a plan may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Overlay takes each lower directory by an option of its own (Linux 6.8).
    pub overlay_append: bool,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// The version of Landlock (its ABI); 0: there is none.
    pub landlock: u32,
    /// The capabilities that the kernel knows, as a mask.
    pub capabilities: u64,
}

impl Features {
    /// The features of this host; found out at the first call.
    #[must_use]
    pub fn host() -> Self {
        static FEATURES: OnceLock<Features> = OnceLock::new();
        *FEATURES.get_or_init(|| Self {
            overlay_append: has_overlay_append(),
            apparmor: fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|answer| answer.starts_with(b"Y")),
            // The directory is there when the module is, whether or not anything is mounted on it.
            selinux: Path::new("/sys/fs/selinux").exists(),
            landlock: sys::landlock::version().unwrap_or(0),
            capabilities: capability::known(),
        })
    }
}

/// Tries the option on a context that is then thrown away.
///
/// A plain user may not open the context; such a user mounts no overlay here either.
fn has_overlay_append() -> bool {
    let probe = || -> Result<(), Errno> {
        let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, c"lowerdir+", c"/")
    };
    probe().is_ok()
}
