//! Places that images can be in.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Error, Reference, Result, Store};

/// A place that an image is in, or goes to.
///
/// Written as other tools write it: `docker://name:tag` for a registry, `oci:path[:name]` for an OCI
/// layout, `oci-archive:path[:name]` and `docker-archive:path[:name]` for archives, `dir:path` for a
/// directory. A path ends at its first colon.
///
/// # Examples
///
/// ```
/// use container_image::Location;
///
/// let location: Location = "oci:/srv/mirror:debian".parse()?;
/// assert_eq!(location.to_string(), "oci:/srv/mirror:debian");
/// # Ok::<(), container_image::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Location {
    /// A repository of a registry.
    Registry(Reference),
    /// A directory with an OCI layout, to which an image is added under `name`.
    Layout {
        /// The directory.
        path: PathBuf,
        /// What the image is called there, whatever it is; the only image if it is not said.
        name: Option<String>,
    },
    /// A tar archive of an OCI layout, compressed or not; one that is written replaces the file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// What the image is called there; the only image if it is not said. Whoever writes gives a
        /// reference.
        name: Option<String>,
    },
    /// An archive as `docker save` writes it, compressed or not; one that is written replaces the file.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The reference that the image has there; the only image if it is not said.
        name: Option<String>,
    },
    /// A directory with one image: its `manifest.json`, and blobs by the digits of their digests.
    Directory(PathBuf),
    /// A store; it has no text form.
    Store {
        /// The store.
        store: Store,
        /// What the image is called there.
        name: Reference,
    },
}

impl FromStr for Location {
    type Err = Error;

    /// Reads a place.
    ///
    /// # Errors
    /// `InvalidLocation`, `InvalidReference`.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            let doing = format!(
                "read image location {text:?}: want docker://name, oci:path[:name], \
                 oci-archive:path[:name], docker-archive:path[:name] or dir:path"
            );
            Error::invalid("InvalidLocation", doing)
        };
        let (transport, rest) = text.split_once(':').ok_or_else(invalid)?;
        if transport == "docker" {
            let name = rest.strip_prefix("//").ok_or_else(invalid)?;
            return Ok(Self::Registry(name.parse()?));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        if transport == "dir" {
            return Ok(Self::Directory(rest.into()));
        }
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path.into(), Some(name.to_owned())),
            None => (rest.into(), None),
        };
        match transport {
            "oci" => Ok(Self::Layout { path, name }),
            "oci-archive" => Ok(Self::OciArchive { path, name }),
            "docker-archive" => Ok(Self::DockerArchive { path, name }),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return write!(f, "docker://{reference}"),
            Self::Store { store, name } => {
                return write!(f, "{name} in {}", store.path().display());
            }
            Self::Directory(path) => ("dir", path, &None),
            Self::Layout { path, name } => ("oci", path, name),
            Self::OciArchive { path, name } => ("oci-archive", path, name),
            Self::DockerArchive { path, name } => ("docker-archive", path, name),
        };
        write!(f, "{transport}:{}", path.display())?;
        match name {
            Some(name) => write!(f, ":{name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in [
            "docker://docker.io/library/debian:12",
            "oci:/srv/mirror",
            "oci:mirror:example.com:5000/app:1",
            "oci-archive:a.tar:v1",
            "docker-archive:/tmp/a.tar",
            "dir:/srv/x:y",
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
        }
        for text in [
            "",
            "debian",
            "docker:debian",
            "oci:",
            "dir:",
            "ftp:x",
            "docker-daemon:x",
        ] {
            let code = text.parse::<Location>().map(|_| ()).unwrap_err().code();
            assert_eq!(code, "InvalidLocation", "{text}");
        }
    }
}
