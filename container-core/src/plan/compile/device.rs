//! The part of a plan that makes devices, and the links that belong to them.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType};

use super::Compiler;
use super::c_string;
use super::mount::is_bind;
use crate::plan::mounts::{Options, inside};
use crate::plan::step::{Device, Step};
use crate::{Error, Result};

/// Links that programs expect in `/dev`.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Devices that every container has, beside those of the spec (runtime-spec `config-linux.md`,
/// "Default Devices"): name and minor number, all of major 1 but the last.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

impl Compiler<'_> {
    /// Makes the devices of the spec, those that every container has, and the links to them.
    ///
    /// A `/dev` of the host has them, and is left as it is.
    pub(super) fn make_devices(&mut self, linux: &Linux) -> Result<()> {
        let devices = linux.devices().as_deref().unwrap_or_default();
        let bound = self.has_bound_dev();
        if !bound {
            for (name, major, minor) in DEFAULT_DEVICES {
                let path = PathBuf::from(format!("/dev/{name}"));
                if devices.iter().any(|device| device.path() == &path) {
                    continue;
                }
                self.make_device(&path, libc::S_IFCHR, (major, minor), 0o666, (0, 0))?;
            }
        }
        for device in devices {
            if bound && inside(device.path())?.to_bytes().starts_with(b"dev/") {
                continue;
            }
            let kind = match device.typ() {
                LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
                LinuxDeviceType::B => libc::S_IFBLK,
                LinuxDeviceType::P => libc::S_IFIFO,
                LinuxDeviceType::A => {
                    let what = format!("device {:?} is of type a", device.path());
                    return Err(Error::invalid("InvalidDevice", what));
                }
            };
            let number = |number: i64| {
                u32::try_from(number).map_err(|_| {
                    let what = format!("device {:?} has the number {number}", device.path());
                    Error::invalid("InvalidDevice", what)
                })
            };
            let (major, minor) = (number(device.major())?, number(device.minor())?);
            let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
            let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
            self.make_device(device.path(), kind, (major, minor), mode, owner)?;
        }
        for (target, path) in DEVICE_LINKS.iter().filter(|_| !bound) {
            let place = self.place(Path::new(path))?;
            let target = c_string("link", *target)?;
            self.steps.push(Step::MakeSymlink { target, place });
        }
        Ok(())
    }

    /// Whether `/dev` is a directory of the host.
    fn has_bound_dev(&self) -> bool {
        let mounts = self.spec.mounts().iter().flatten();
        let mut bound = mounts.filter(|mount| is_bind(mount, &Options::parse(mount)));
        bound.any(|mount| inside(mount.destination()).is_ok_and(|path| path.as_c_str() == c"dev"))
    }

    fn make_device(
        &mut self,
        path: &Path,
        kind: u32,
        (major, minor): (u32, u32),
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<()> {
        let bind = match self.has_user_namespace() && kind != libc::S_IFIFO {
            true => Some(c_string("device", path.as_os_str().to_owned())?),
            false => None,
        };
        let place = self.place(path)?;
        self.steps.push(Step::MakeDevice(Device {
            place,
            kind,
            major,
            minor,
            mode,
            uid,
            gid,
            bind,
        }));
        Ok(())
    }
}
