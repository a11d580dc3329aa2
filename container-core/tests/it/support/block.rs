//! Block devices for tests that need one.

use std::path::{Path, PathBuf};
use std::process::Command;

use container_core::cgroup::BlockDevice;

use super::{peers, skip};

/// A loop device over a file, detached at the end.
#[derive(Debug)]
pub(crate) struct Loop {
    device: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// Attaches a file of this size; nothing where there are no loop devices.
    pub(crate) fn new(size_bytes: u64) -> Option<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
        file.as_file().set_len(size_bytes).expect("a sparse file");
        let mut losetup = Command::new(peers::find("losetup")?);
        losetup.args(["--find", "--show"]).arg(file.path());
        let output = losetup.output().expect("run losetup");
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            skip(&format!("no loop device: {why}"));
            return None;
        }
        let device = String::from_utf8(output.stdout).expect("ASCII");
        Some(Self {
            device: device.trim().into(),
            _file: file,
        })
    }

    /// A file of the device below /sys.
    pub(crate) fn attribute(&self, name: &str) -> PathBuf {
        Path::new("/sys/block")
            .join(self.device.file_name().expect("a loop device"))
            .join(name)
    }

    pub(crate) fn id(&self) -> BlockDevice {
        BlockDevice::at(&self.device).expect("a block device")
    }

    /// Its numbers, as `"major":7,"minor":0`.
    pub(crate) fn numbers(&self) -> String {
        let id = self.id().throttle(0);
        format!(r#""major":{},"minor":{}"#, id.major(), id.minor())
    }

    /// A script that writes `count` blocks past the caches.
    pub(crate) fn write(&self, block_bytes: u32, count: u32, from: u32) -> String {
        let device = self.device.display();
        format!(
            "dd if=/dev/zero of={device} bs={block_bytes} count={count} seek={from} oflag=direct"
        )
    }

    /// A script that reads `count` blocks past the caches.
    pub(crate) fn read(&self, block_bytes: u32, count: u32) -> String {
        let device = self.device.display();
        format!("dd if={device} of=/dev/null bs={block_bytes} count={count} iflag=direct")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
    }
}
