//! Maps of user and group ids between a user namespace and the host.
//!
//! A plain user may map one id, his own. For more, the administrator has given him subordinate ids, in
//! `/etc/subuid` and `/etc/subgid`, and the set-user-ID programs `newuidmap` and `newgidmap` write
//! the map.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Spec,
};
use rustix::process::{getegid, geteuid};

use crate::plan::IdMaps;
use crate::{Error, ErrorKind, Result};

/// Consecutive ids inside a user namespace, and what they are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many ids there are.
    pub count: u32,
}

/// Which user and group ids a user namespace has, and what they are outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The map of user ids.
    pub users: Vec<IdRange>,
    /// The map of group ids.
    pub groups: Vec<IdRange>,
}

impl IdMap {
    /// Only root, who is this program's user outside: what every plain user may have.
    #[must_use]
    pub fn single() -> Self {
        Self {
            users: vec![IdRange::one(0, geteuid().as_raw())],
            groups: vec![IdRange::one(0, getegid().as_raw())],
        }
    }

    /// Root, who is this program's user outside, and from 1 on all ids that the administrator has given
    /// to that user in `/etc/subuid` and `/etc/subgid`, in their order there.
    ///
    /// # Errors
    /// `Unsupported` (`NoSubordinateIds`) if there are none; it says which line to add to which file.
    ///
    /// # References
    /// `subuid(5)`, `subgid(5)`.
    pub fn subordinate() -> Result<Self> {
        let own = Self::single();
        let extend = |mut map: Vec<IdRange>, file: &str| {
            for (outside, count) in subordinate_ids(Path::new(file))? {
                let inside = end(&map);
                // Where the numbers end, so does the map.
                let count = count.min(u32::MAX - inside);
                map.push(IdRange {
                    inside,
                    outside,
                    count,
                });
            }
            Ok(map)
        };
        Ok(Self {
            users: extend(own.users, SUBUID)?,
            groups: extend(own.groups, SUBGID)?,
        })
    }

    /// The same ids outside, so arranged that this program's user and group are `uid` and `gid` inside:
    /// files of the user are the user's in the container too.
    ///
    /// # Errors
    /// `InvalidInput` (`InvalidIdMap`) if there are too few ids for all below `uid` or `gid`.
    pub fn keep_id(&self, uid: u32, gid: u32) -> Result<Self> {
        Ok(Self {
            users: swap_in(&self.users, uid)?,
            groups: swap_in(&self.groups, gid)?,
        })
    }

    pub(crate) fn maps(&self) -> IdMaps {
        let lines = |map: &[IdRange]| {
            let line =
                |range: &IdRange| format!("{} {} {}\n", range.inside, range.outside, range.count);
            map.iter().map(line).collect::<String>()
        };
        IdMaps::new(lines(&self.users), lines(&self.groups))
    }

    /// Puts the container of `spec` into a new user namespace with this map.
    ///
    /// Where the spec opens `ping` to all groups, it does to those of the map.
    pub fn apply(&self, spec: &mut Spec) {
        let mut linux: Linux = spec.linux().clone().unwrap_or_default();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::User);
        let mut user = LinuxNamespace::default();
        user.set_typ(LinuxNamespaceType::User);
        user.set_path(None);
        namespaces.push(user);
        linux.set_namespaces(Some(namespaces));
        linux.set_uid_mappings(Some(self.users.iter().map(IdRange::mapping).collect()));
        linux.set_gid_mappings(Some(self.groups.iter().map(IdRange::mapping).collect()));
        if let Some(range) = linux
            .sysctl_mut()
            .as_mut()
            .and_then(|sysctl| sysctl.get_mut("net.ipv4.ping_group_range"))
        {
            *range = format!("0 {}", contiguous(&self.groups).saturating_sub(1));
        }
        spec.set_linux(Some(linux));
    }
}

impl IdRange {
    fn one(inside: u32, outside: u32) -> Self {
        Self {
            inside,
            outside,
            count: 1,
        }
    }

    fn mapping(&self) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default()
            .container_id(self.inside)
            .host_id(self.outside)
            .size(self.count)
            .build()
            .unwrap_or_default()
    }
}

const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";

/// The ranges, as first id and count, that the file gives to this program's user.
fn subordinate_ids(file: &Path) -> Result<Vec<(u32, u32)>> {
    let uid = geteuid().as_raw();
    let name = user_name(uid);
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        result => result.map_err(|error| Error::os(format!("read {file:?}"), error))?,
    };
    let found = parse(&text, uid, name.as_deref());
    if found.is_empty() {
        let owner = name.unwrap_or_else(|| uid.to_string());
        let what = format!(
            "find subordinate ids of user {owner}: {file:?} has no line such as \
             \"{owner}:100000:65536\""
        );
        return Err(Error::new(ErrorKind::Unsupported, "NoSubordinateIds", what));
    }
    Ok(found)
}

/// Lines are `OWNER:FIRST:COUNT`, with the owner by name or number; others do not count.
fn parse(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (
            fields.next()?.parse::<u32>().ok()?,
            fields.next()?.parse::<u32>().ok()?,
        );
        let is_meant = Some(owner) == name || owner.parse() == Ok(uid);
        let fits = count > 0 && first.checked_add(count).is_some();
        (is_meant && fits && fields.next().is_none()).then_some((first, count))
    };
    text.lines().filter_map(line).collect()
}

/// The name of a user of the host, as `/etc/passwd` has it.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The first id after those of `map`, which has no gaps.
fn end(map: &[IdRange]) -> u32 {
    map.last()
        .map_or(0, |last| last.inside.saturating_add(last.count))
}

/// How many ids from 0 on are mapped.
fn contiguous(map: &[IdRange]) -> u32 {
    let mut ranges: Vec<_> = map
        .iter()
        .map(|range| (range.inside, range.count))
        .collect();
    ranges.sort_unstable();
    ranges.into_iter().fold(0, |end, (inside, count)| {
        if inside == end {
            end.saturating_add(count)
        } else {
            end
        }
    })
}

/// Moves what is 0 inside to `id`; those up to there move down by one.
fn swap_in(map: &[IdRange], id: u32) -> Result<Vec<IdRange>> {
    let Some((root, others)) = map.split_first().filter(|_| id < contiguous(map)) else {
        let what = format!(
            "keep this program's user as id {id}, of {} ids",
            contiguous(map)
        );
        return Err(Error::invalid("InvalidIdMap", what));
    };
    let mut kept = Vec::with_capacity(map.len() + 2);
    for range in others {
        // One less than before, as root has left; from `id` on as before.
        let below = (id + 1).saturating_sub(range.inside).min(range.count);
        kept.push(IdRange {
            inside: range.inside - 1,
            count: below,
            ..*range
        });
        kept.push(IdRange {
            inside: range.inside + below,
            outside: range.outside + below,
            count: range.count - below,
        });
    }
    kept.push(IdRange::one(id, root.outside));
    kept.retain(|range| range.count > 0);
    kept.sort_unstable_by_key(|range| range.inside);
    Ok(kept)
}

/// What the map of one kind of ids takes to be written.
struct Kind {
    program: &'static str,
    file: &'static str,
    own: u32,
}

impl IdMaps {
    /// Maps in the format of `/proc/PID/uid_map`, to be written as this user can.
    pub(crate) fn new(uid: String, gid: String) -> Self {
        let plain = !geteuid().is_root();
        let own = is_own(&uid, geteuid().as_raw()) && is_own(&gid, getegid().as_raw());
        Self {
            uid,
            gid,
            deny_setgroups: plain && own,
            by_programs: plain && !own,
        }
    }

    /// Makes sure that the maps can be written, as far as that shows before.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.by_programs {
            return Ok(());
        }
        let kinds = [
            (&self.uid, "newuidmap", SUBUID, geteuid().as_raw()),
            (&self.gid, "newgidmap", SUBGID, getegid().as_raw()),
        ];
        for (map, program, file, own) in kinds {
            let kind = Kind { program, file, own };
            kind.check(map)?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if status.lines().any(|line| line == "NoNewPrivs:\t1") {
            let what = "map several ids: newuidmap cannot have its privileges, as this program has \
                        no_new_privs set";
            return Err(Error::new(ErrorKind::Unsupported, "NoNewPrivileges", what));
        }
        Ok(())
    }
}

impl Kind {
    fn check(&self, map: &str) -> Result<()> {
        if find_program(self.program).is_none() {
            let what = format!(
                "map several ids: the program {} is missing (package uidmap or shadow-utils)",
                self.program
            );
            return Err(Error::new(ErrorKind::Unsupported, "NoIdMapProgram", what));
        }
        // Where the ids come from a directory service, only the program knows them.
        let elsewhere = fs::read_to_string("/etc/nsswitch.conf")
            .is_ok_and(|text| text.lines().any(|line| line.trim().starts_with("subid:")));
        if elsewhere {
            return Ok(());
        }
        let given = || subordinate_ids(Path::new(self.file));
        for (outside, count) in ranges(map) {
            if (outside, count) == (self.own, 1) {
                continue;
            }
            let last = outside.saturating_add(count);
            let holds = |&(first, of): &(u32, u32)| first <= outside && last <= first + of;
            if !given()?.iter().any(holds) {
                let what = format!(
                    "map {count} ids from {outside} on: {:?} does not give them to this user",
                    self.file
                );
                return Err(Error::new(ErrorKind::PermissionDenied, "NotYourIds", what));
            }
        }
        Ok(())
    }
}

/// Whether the map is the one that the kernel lets everybody write.
fn is_own(map: &str, own: u32) -> bool {
    ranges(map).collect::<Vec<_>>() == [(own, 1)]
}

/// First id outside and count of each line.
fn ranges(map: &str) -> impl Iterator<Item = (u32, u32)> {
    map.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    })
}

/// Has `program` (`newuidmap` or `newgidmap`) write a map of the process `pid`; gives what it says
/// against that.
pub(crate) fn write_by_program(program: &str, pid: i32, map: &str) -> Result<(), String> {
    let path = find_program(program).ok_or_else(|| "it is missing".to_owned())?;
    let output = Command::new(path)
        .arg(pid.to_string())
        .args(map.split_ascii_whitespace())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().chars().take(MAX_SAID).collect())
}

/// Of what a program says against a map, this much is told.
const MAX_SAID: usize = 500;

/// The set-user-ID programs of the host; not by `PATH`, which others may have set.
fn find_program(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];
    let mut paths = directories
        .into_iter()
        .map(|directory| Path::new(directory).join(name));
    paths.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange {
            inside,
            outside,
            count,
        }
    }

    #[test]
    fn lines_of_the_user_by_name_or_number() {
        let text = "root:1:2\nme:100000:65536\n# me:1:1\nme:x:3\nme:5\nme:1:0\nme:4294967295:2\n\
                    1000:300000:10\nme:1:2:3\n";
        let both = [(100_000, 65_536), (300_000, 10)];
        assert_eq!(parse(text, 1000, Some("me")), both);
        assert_eq!(parse(text, 1000, None), both[1..]);
        assert_eq!(parse(text, 1001, Some("other")), []);
    }

    #[test]
    fn ids_are_kept() {
        let map = [
            range(0, 1000, 1),
            range(1, 100_000, 10),
            range(11, 300_000, 5),
        ];
        let kept = |id| swap_in(&map, id).expect("there are enough");
        assert_eq!(kept(0), map);
        assert_eq!(
            kept(3),
            [
                range(0, 100_000, 3),
                range(3, 1000, 1),
                range(4, 100_003, 7),
                range(11, 300_000, 5)
            ]
        );
        assert_eq!(
            kept(15),
            [
                range(0, 100_000, 10),
                range(10, 300_000, 5),
                range(15, 1000, 1)
            ]
        );
        assert_eq!(
            swap_in(&map, 16).expect_err("too few").code(),
            "InvalidIdMap"
        );
        for id in 0..16 {
            assert_eq!(contiguous(&kept(id)), 16, "{id}");
        }
    }

    #[test]
    fn own_id_is_told_from_others() {
        assert!(is_own("0 1000 1\n", 1000));
        assert!(!is_own("0 1000 1\n1 100000 65536\n", 1000));
        assert!(!is_own("0 100000 1\n", 1000));
        assert!(!is_own("0 1000 2\n", 1000));
    }
}
