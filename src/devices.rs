//! The host's device nodes, which privileged containers get.

use std::fs::{self, DirEntry};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::lower::Doing;
use crate::{Error, Result};

/// What a container has of its own, directly below `/dev`.
const OWN: [&str; 6] = ["console", "fd", "mqueue", "ptmx", "pts", "shm"];

/// All character and block devices below `/dev` but the terminals, with their modes and owners.
///
/// # Errors
/// `Os` if a directory cannot be read.
pub(crate) fn host_devices() -> Result<Vec<LinuxDevice>> {
    let top = Path::new("/dev");
    let mut devices = Vec::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).doing(|| format!("list {directory:?}"))? {
            let entry = entry.doing(|| format!("list {directory:?}"))?;
            if directory == top && OWN.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            look_at(&entry, &mut devices, &mut directories)?;
        }
    }
    devices.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(devices)
}

/// Adds `entry` to what it is one of; other files, symbolic links and what is gone by now are left
/// out.
fn look_at(
    entry: &DirEntry,
    devices: &mut Vec<LinuxDevice>,
    directories: &mut Vec<PathBuf>,
) -> Result<()> {
    let path = entry.path();
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::os(format!("look at {path:?}"), error)),
    };
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        if kind.is_dir() {
            directories.push(path);
        }
        return Ok(());
    };
    let mut device = LinuxDevice::default();
    device.set_path(path);
    device.set_typ(kind);
    device.set_major(rustix::fs::major(metadata.rdev()).into());
    device.set_minor(rustix::fs::minor(metadata.rdev()).into());
    device.set_file_mode(Some(metadata.permissions().mode() & 0o7777));
    device.set_uid(Some(metadata.uid()));
    device.set_gid(Some(metadata.gid()));
    devices.push(device);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_as_they_are_and_terminals_are_not() {
        let devices = host_devices().unwrap();
        let find = |path: &str| {
            devices
                .iter()
                .find(|device| device.path() == Path::new(path))
        };
        let null = find("/dev/null").unwrap();
        assert_eq!(
            (null.typ(), null.major(), null.minor(), null.file_mode()),
            (LinuxDeviceType::C, 1, 3, Some(0o666))
        );
        for own in ["/dev/console", "/dev/ptmx", "/dev/pts/ptmx", "/dev/stdin"] {
            assert!(find(own).is_none(), "{own}");
        }
    }
}
