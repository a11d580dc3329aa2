//! Devices of the Container Device Interface: what a vendor's file says that a container needs for a
//! device is added to its spec.
//!
//! ```no_run
//! use container_core::{cdi, defaults};
//!
//! let mut spec = defaults::default_spec();
//! let devices = cdi::Registry::host()?;
//! devices.apply(&mut spec, &["vendor.com/gpu=all"])?;
//! # Ok::<(), container_core::Error>(())
//! ```
//!
//! A *qualified name* is `VENDOR/CLASS=DEVICE`: the kind of a file and one of the devices in it. Files
//! are JSON or the part of YAML that such files are written in: block and flow collections and scalars
//! of one line, no anchors, tags or block text.
//!
//! # References
//! The specification of the interface, `SPEC.md` of container-device-interface, versions 0.3.0 to 0.8.0.

mod apply;
mod file;
mod yaml;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use self::file::{Edits, File};
use crate::{Error, ErrorKind, Result};

/// Where files are looked for; what is in a later directory wins.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// The largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// The devices that a number of files describe.
#[derive(Debug, Default)]
pub struct Registry {
    files: Vec<File>,
    devices: BTreeMap<String, Source>,
    broken: Vec<Error>,
}

/// Where a device is described.
#[derive(Clone, Copy, Debug)]
struct Source {
    file: usize,
    device: usize,
    priority: usize,
    /// Another file of the same priority has it, too: nobody can say which is meant.
    ambiguous: bool,
}

impl Registry {
    /// The devices of this host, from [`DIRECTORIES`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn host() -> Result<Self> {
        Self::read(&DIRECTORIES)
    }

    /// The devices that the files `*.json`, `*.yaml` and `*.yml` in these directories describe; a later
    /// directory wins over an earlier one. Directories that do not exist have none.
    ///
    /// A file that is malformed does not keep the others from being used: [`Self::broken`] tells of it.
    ///
    /// # Errors
    /// `Os` if a directory cannot be read.
    pub fn read<P: AsRef<Path>>(directories: &[P]) -> Result<Self> {
        let mut registry = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            for path in files(directory.as_ref())? {
                let added = read_file(&path).and_then(|text| registry.add(&text, priority));
                if let Err(error) = added {
                    let what = format!("read CDI file {path:?}");
                    registry.broken.push(error.context(what));
                }
            }
        }
        Ok(registry)
    }

    /// Adds the devices that the file with this text describes. Where two describe the same, the one
    /// of the higher priority is taken.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidCdi`) naming what is wrong with the file.
    pub fn add(&mut self, text: &str, priority: usize) -> Result<()> {
        let parsed = File::parse(text)?;
        let file = self.files.len();
        for (device, described) in parsed.devices.iter().enumerate() {
            let name = format!("{}={}", parsed.kind, described.name);
            let source = Source {
                file,
                device,
                priority,
                ambiguous: false,
            };
            let known = self.devices.entry(name).or_insert(source);
            if known.file == file {
                continue;
            }
            match known.priority.cmp(&priority) {
                std::cmp::Ordering::Less => *known = source,
                std::cmp::Ordering::Equal => known.ambiguous = true,
                std::cmp::Ordering::Greater => {}
            }
        }
        self.files.push(parsed);
        Ok(())
    }

    /// The qualified names of all devices, sorted.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// What was wrong with the files that were left out.
    #[must_use]
    pub fn broken(&self) -> &[Error] {
        &self.broken
    }

    /// Changes `spec` to what a container with these devices needs: device nodes and the right to use
    /// them, mounts, environment, hooks, groups, network devices and cache allocation.
    ///
    /// What a file says for all its devices is added once. Where a file leaves out the number of a
    /// device node, the host's node is looked at; nothing else is done to the host.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidName`) for what is no qualified name, `NotFound` (`DeviceNotFound`) for one
    /// that no file or more than one describes, `Os` for a device node that the host does not have.
    /// After an error the spec is as it was.
    pub fn apply<N: AsRef<str>>(&self, spec: &mut Spec, names: &[N]) -> Result<()> {
        let mut changed = spec.clone();
        for edits in self.edits(names)? {
            apply::apply(edits, &mut changed)?;
        }
        *spec = changed;
        Ok(())
    }

    fn edits<N: AsRef<str>>(&self, names: &[N]) -> Result<Vec<&Edits>> {
        let mut seen = Vec::new();
        let mut edits = Vec::new();
        for name in names {
            let name = name.as_ref();
            let Some(source) = self.devices.get(name) else {
                file::check_name(name)?;
                return Err(not_found(name, "no file describes it"));
            };
            if source.ambiguous {
                return Err(not_found(name, "more than one file describes it"));
            }
            let file = &self.files[source.file];
            if !seen.contains(&source.file) {
                seen.push(source.file);
                edits.push(&file.container_edits);
            }
            edits.push(&file.devices[source.device].container_edits);
        }
        Ok(edits)
    }
}

fn not_found(name: &str, why: &str) -> Error {
    let what = format!("find CDI device {name:?}: {why}");
    Error::new(ErrorKind::NotFound, "DeviceNotFound", what)
}

/// The files of a directory that may describe devices, sorted.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::os(format!("read directory {directory:?}"), error);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let extension = path.extension().and_then(OsStr::to_str);
        if matches!(extension, Some("json" | "yaml" | "yml")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<String> {
    let failed = |error| Error::os(format!("read {path:?}"), error);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    let mut file = file.take(MAX_FILE + 1);
    file.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(file::invalid(format!("it is longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}
