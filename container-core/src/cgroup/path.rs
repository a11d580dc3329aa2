//! Names of groups.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Where a group is, below the highest group of each hierarchy that this process may change.
///
/// It holds only plain names: neither `..` nor anything else that leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The parent of a group for which no other is asked.
    pub const DEFAULT_PARENT: &str = "container-engine";

    /// Takes a path as in `linux.cgroupsPath` of the runtime spec, with or without `/` in front.
    ///
    /// # Errors
    /// `InvalidName` if the path or a name in it is empty, `.` or `..`, if a name is longer than 255
    /// bytes or the path than 1024, and for NUL and line breaks.
    pub fn new(path: &str) -> Result<Self> {
        let relative = path.strip_prefix('/').unwrap_or(path);
        if relative.len() > MAX_PATH || !relative.split('/').all(is_name) {
            return Err(Error::invalid(
                "InvalidName",
                format!("name a cgroup {path:?}"),
            ));
        }
        Ok(Self(relative.to_owned()))
    }

    /// Names the group `id` below `parent`, or below [`DEFAULT_PARENT`](Self::DEFAULT_PARENT).
    ///
    /// # Errors
    /// As [`new`](Self::new); `id` must be a single name.
    pub fn below(parent: Option<&str>, id: &str) -> Result<Self> {
        if !is_name(id) {
            return Err(Error::invalid(
                "InvalidName",
                format!("name a cgroup {id:?}"),
            ));
        }
        Self::new(&format!("{}/{id}", parent.unwrap_or(Self::DEFAULT_PARENT)))
    }

    /// Names the group `name` below this one.
    ///
    /// # Errors
    /// As [`below`](Self::below).
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::below(Some(self.as_str()), name)
    }

    /// The name of the group above; `None` at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.to_owned()))
    }

    /// The path, without `/` in front.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The paths of the groups above, topmost first.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(end, _)| &self.0[..end])
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c != '/' && c != '\0' && c != '\n';
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && name.chars().all(plain)
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for CgroupPath {
    type Error = Error;

    fn try_from(path: String) -> Result<Self> {
        Self::new(&path)
    }
}

impl From<CgroupPath> for String {
    fn from(path: CgroupPath) -> Self {
        path.0
    }
}

/// `NAME_MAX` of Linux.
const MAX_NAME: usize = 255;

/// Leaves room below `PATH_MAX` for the mount point and for what a container makes inside.
const MAX_PATH: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_make_a_path() {
        for (text, want) in [
            ("a", "a"),
            ("/a/b", "a/b"),
            ("container-engine/0123abc", "container-engine/0123abc"),
            ("kubepods.slice/pod:1/..x", "kubepods.slice/pod:1/..x"),
        ] {
            assert_eq!(CgroupPath::new(text).unwrap().as_str(), want);
        }
        assert_eq!(
            CgroupPath::below(None, "web").unwrap().as_str(),
            "container-engine/web"
        );
        assert_eq!(
            CgroupPath::below(Some("/x/y"), "web").unwrap().as_str(),
            "x/y/web"
        );
        assert_eq!(
            CgroupPath::new(&"x".repeat(255)).unwrap().as_str().len(),
            255
        );
    }

    #[test]
    fn what_leads_elsewhere_is_no_name() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(600);
        for text in [
            "", "/", "//", ".", "..", "../..", "/..", "a/..", "a/../b", "a/./b", "a//b", "a/",
            "//a", "a\0b", "a\nb", &long, &deep,
        ] {
            assert_eq!(
                CgroupPath::new(text).unwrap_err().code(),
                "InvalidName",
                "{text:?}"
            );
        }
        for id in ["", ".", "..", "a/b", "/a", "a\0", &"x".repeat(300)] {
            assert_eq!(
                CgroupPath::below(None, id).unwrap_err().code(),
                "InvalidName",
                "{id:?}"
            );
        }
        assert_eq!(
            CgroupPath::below(Some("../.."), "a").unwrap_err().code(),
            "InvalidName"
        );
    }

    #[test]
    fn a_path_from_a_document_is_checked_too() {
        assert!(serde_json::from_str::<CgroupPath>(r#""a/b""#).is_ok());
        assert!(serde_json::from_str::<CgroupPath>(r#""../b""#).is_err());
    }

    #[test]
    fn ancestors_go_from_the_top() {
        let path = CgroupPath::new("a/b/c").unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        let parent = path.parent().unwrap();
        assert_eq!((parent.as_str(), parent.child("c").unwrap()), ("a/b", path));
        assert_eq!(CgroupPath::new("a").unwrap().parent(), None);
    }
}
