//! Accounts by name or number, from the `/etc/passwd` and `/etc/group` of an image.
//!
//! Both files come from an image's author. What is all digits is a number and never a name, numbers
//! out of range are errors and never wrap, and a line whose numbers cannot be read does not exist.

use std::fmt::{self, Display, Formatter};

use crate::{Error, ErrorKind, Result};

/// The most bytes of a passwd or group file that are looked at.
pub const MAX_FILE: usize = 10 << 20;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The supplementary groups that list the user; none where a group was asked for.
    pub additional_gids: Vec<u32>,
    /// The home directory, `/` where none is known.
    pub home: Vec<u8>,
}

/// Looks up `user`, which is `USER[:GROUP]` as in an image's config.
///
/// An empty string means uid 0. A number need not be in `passwd`; its group is then 0, unless named.
///
/// # Errors
/// `InvalidUser` for what is neither a name nor a number from 0 to 2147483647, `UnknownUser` and
/// `UnknownGroup` for a name that is not in the files, `TooManyGroups`, `FileTooLarge` for more than
/// [`MAX_FILE`] bytes.
pub fn resolve(user: &str, passwd: &[u8], group: &[u8]) -> Result<User> {
    let fault = |fault: Fault| fault.into_error(&format!("look up user {user:?}"));
    for file in [passwd, group] {
        check_size(file).map_err(fault)?;
    }
    let mut groups = vec![0; MAX_GROUPS];
    let account = find(user.as_bytes(), passwd, group, &mut groups).map_err(fault)?;
    groups.truncate(account.groups);
    Ok(User {
        uid: account.uid,
        gid: account.gid,
        additional_gids: groups,
        home: account.home.to_vec(),
    })
}

/// Looks up groups by name or number, in the order given and each once.
///
/// A number need not be in the file.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_groups(groups: &[impl AsRef<str>], file: &[u8]) -> Result<Vec<u32>> {
    let mut gids = Vec::with_capacity(groups.len());
    for group in groups {
        let group = group.as_ref();
        let gid = check_size(file)
            .and_then(|()| find_group(group.as_bytes(), file))
            .map_err(|fault| fault.into_error(&format!("look up group {group:?}")))?;
        if !gids.contains(&gid) {
            gids.push(gid);
        }
    }
    Ok(gids)
}

/// An account as it stands in the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account<'f> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// How many supplementary groups were written.
    pub(crate) groups: usize,
    pub(crate) home: &'f [u8],
}

/// [`resolve`] for a process that must not allocate; the groups go to `groups`.
pub(crate) fn look_up<'f>(
    user: &[u8],
    passwd: &'f [u8],
    group: &[u8],
    groups: &mut [u32],
) -> Option<Account<'f>> {
    find(user, passwd, group, groups).ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Invalid,
    NoUser,
    NoGroup,
    TooManyGroups,
    FileTooLarge,
}

impl Fault {
    fn into_error(self, doing: &str) -> Error {
        let (kind, code) = match self {
            Self::Invalid => (ErrorKind::InvalidInput, "InvalidUser"),
            Self::NoUser => (ErrorKind::NotFound, "UnknownUser"),
            Self::NoGroup => (ErrorKind::NotFound, "UnknownGroup"),
            Self::TooManyGroups => (ErrorKind::InvalidInput, "TooManyGroups"),
            Self::FileTooLarge => (ErrorKind::InvalidInput, "FileTooLarge"),
        };
        Error::new(kind, code, format!("{doing}: {self}"))
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "neither a name nor a number from 0 to 2147483647",
            Self::NoUser => "no such user in /etc/passwd",
            Self::NoGroup => "no such group in /etc/group",
            Self::TooManyGroups => "member of too many groups",
            Self::FileTooLarge => "/etc/passwd or /etc/group is larger than 10 MiB",
        })
    }
}

fn find<'f>(
    user: &[u8],
    passwd: &'f [u8],
    group: &[u8],
    groups: &mut [u32],
) -> Result<Account<'f>, Fault> {
    let (user, wanted_group) = match user.iter().position(|byte| *byte == b':') {
        Some(colon) => (&user[..colon], &user[colon + 1..]),
        None => (user, &[][..]),
    };
    let user = match user {
        [] if wanted_group.is_empty() => Id::Number(0),
        _ => Id::read(user)?,
    };
    let entry = entries(passwd).find_map(|line| PasswdLine::read(line).filter(|it| it.is(user)));
    let mut account = match (entry, user) {
        (Some(entry), _) => entry.account(),
        (None, Id::Number(uid)) => Account {
            uid,
            gid: 0,
            groups: 0,
            home: b"/",
        },
        (None, Id::Name(_)) => return Err(Fault::NoUser),
    };
    if !wanted_group.is_empty() {
        account.gid = find_group(wanted_group, group)?;
    } else if let Some(entry) = entry {
        account.groups = list_groups(entry.name, group, groups)?;
    }
    Ok(account)
}

fn find_group(wanted: &[u8], file: &[u8]) -> Result<u32, Fault> {
    match Id::read(wanted)? {
        Id::Number(gid) => Ok(gid),
        Id::Name(name) => entries(file)
            .filter_map(GroupLine::read)
            .find_map(|line| (line.name == name).then_some(line.gid))
            .ok_or(Fault::NoGroup),
    }
}

/// Writes the groups that have `user` as a member to `groups`; tells how many.
fn list_groups(user: &[u8], file: &[u8], groups: &mut [u32]) -> Result<usize, Fault> {
    let mut count = 0;
    for line in entries(file).filter_map(GroupLine::read) {
        let known = groups
            .get(..count)
            .is_some_and(|found| found.contains(&line.gid));
        if known
            || !line
                .members
                .split(|byte| *byte == b',')
                .any(|member| member == user)
        {
            continue;
        }
        *groups.get_mut(count).ok_or(Fault::TooManyGroups)? = line.gid;
        count += 1;
    }
    Ok(count)
}

/// What a user or group is asked for by.
#[derive(Clone, Copy)]
enum Id<'a> {
    Number(u32),
    Name(&'a [u8]),
}

impl<'a> Id<'a> {
    fn read(text: &'a [u8]) -> Result<Self, Fault> {
        if text.iter().all(u8::is_ascii_digit) {
            return read_number(text).map(Self::Number).ok_or(Fault::Invalid);
        }
        // A sign or a blank in it makes it a number for somebody else.
        let blank = |byte: &u8| byte.is_ascii_control() || *byte == b' ';
        if text.iter().any(blank) || matches!(text.first(), Some(b'+' | b'-')) {
            return Err(Fault::Invalid);
        }
        Ok(Self::Name(text))
    }
}

/// A line of `passwd(5)`: name, password, uid, gid, comment, home, shell.
#[derive(Clone, Copy)]
struct PasswdLine<'f> {
    name: &'f [u8],
    uid: u32,
    gid: u32,
    home: &'f [u8],
}

impl<'f> PasswdLine<'f> {
    fn read(line: &'f [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = read_number(fields.nth(1)?)?;
        let gid = read_number(fields.next()?)?;
        let home = fields
            .nth(1)
            .filter(|home| !home.is_empty())
            .unwrap_or(b"/");
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }

    fn is(&self, id: Id<'_>) -> bool {
        match id {
            Id::Number(uid) => self.uid == uid,
            Id::Name(name) => self.name == name,
        }
    }

    fn account(&self) -> Account<'f> {
        Account {
            uid: self.uid,
            gid: self.gid,
            groups: 0,
            home: self.home,
        }
    }
}

/// A line of `group(5)`: name, password, gid, members.
struct GroupLine<'f> {
    name: &'f [u8],
    gid: u32,
    members: &'f [u8],
}

impl<'f> GroupLine<'f> {
    fn read(line: &'f [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = read_number(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid, members })
    }
}

fn entries(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii)
}

/// A decimal number without sign, at most [`MAX_ID`].
fn read_number(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })?;
    (number <= MAX_ID).then_some(number)
}

fn check_size(file: &[u8]) -> Result<(), Fault> {
    if file.len() > MAX_FILE {
        return Err(Fault::FileTooLarge);
    }
    Ok(())
}

/// The highest id that Docker takes; beyond it some interfaces of the kernel see a negative number.
const MAX_ID: u32 = (1 << 31) - 1;

/// The kernel's limit of supplementary groups (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # a remark\n\
        daemon:x:1:2::/sbin:\n\
        web:x:405:100:Web,,,:/srv/web:/bin/false\r\n\
        short:x:7\n\
        homeless:x:8:8::\n\
        large:x:4294967296:0::/:\n\
        minus:x:-1:0::/:\n\
        plus:x:+0:+0::/:\n\
        4294967296:x:0:0::/:\n\
        -1:x:0:0::/:\n\
        +0:x:0:0::/:\n\
         0:x:0:0::/:\n\
        1000:x:0:0::/root:\n\
        :x:0:0::/:\n";
    const GROUP: &[u8] = b"root:x:0:\n\
        users:x:100:\n\
        disk:x:6:web,daemon\n\
        media:x:44:web\n\
        again:x:44:web\n\
        huge:x:4294967295:web\n\
        4294967296:x:0:\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(user, PASSWD, GROUP).unwrap();
        let home = String::from_utf8(user.home).unwrap();
        (user.uid, user.gid, user.additional_gids, home)
    }

    #[test]
    fn names_and_numbers_find_the_same_account() {
        let web = (405, 100, vec![6, 44], "/srv/web".to_owned());
        assert_eq!(ids("web"), web);
        assert_eq!(ids("405"), web);
        assert_eq!(ids(""), (0, 0, vec![], "/root".to_owned()));
        assert_eq!(ids("daemon"), (1, 2, vec![6], "/sbin".to_owned()));
        assert_eq!(ids("homeless").3, "/");
    }

    #[test]
    fn a_group_that_is_asked_for_is_the_only_one() {
        assert_eq!(ids("web:users"), (405, 100, vec![], "/srv/web".to_owned()));
        assert_eq!(ids("web:7"), (405, 7, vec![], "/srv/web".to_owned()));
        assert_eq!(ids("12345:12346"), (12345, 12346, vec![], "/".to_owned()));
        assert_eq!(ids("12345"), (12345, 0, vec![], "/".to_owned()));
        assert_eq!(ids("web:").2, [6, 44]);
    }

    #[test]
    fn digits_are_never_a_name() {
        // The line named 1000 has uid 0.
        assert_eq!(ids("1000"), (1000, 0, vec![], "/".to_owned()));
        assert_eq!(ids("2147483647").0, 2_147_483_647);
        assert_eq!(ids("0").0, 0);
    }

    #[test]
    fn what_only_looks_like_a_number_is_an_error() {
        for user in [
            "4294967296",
            "2147483648",
            "-1",
            "+0",
            " 0",
            "0 ",
            "\t0",
            "0\n",
            "0:-1",
            "0:+0",
            "0: 0",
            "0:4294967296",
            ":0",
            ":web",
            "18446744073709551616",
            "\u{0}",
        ] {
            let error = resolve(user, PASSWD, GROUP).unwrap_err();
            assert_eq!(error.code(), "InvalidUser", "{user:?}");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{user:?}");
        }
    }

    #[test]
    fn lines_whose_numbers_cannot_be_read_do_not_exist() {
        for user in ["large", "minus", "plus", "short", "nobody"] {
            assert_eq!(
                resolve(user, PASSWD, GROUP).unwrap_err().code(),
                "UnknownUser",
                "{user}"
            );
        }
        for group in ["huge", "nogroup", "0:0"] {
            let user = format!("web:{group}");
            assert_eq!(
                resolve(&user, PASSWD, GROUP).unwrap_err().code(),
                "UnknownGroup",
                "{user}"
            );
        }
    }

    #[test]
    fn groups_are_listed_once() {
        assert_eq!(
            resolve_groups(&["media", "44", "7", "users"], GROUP).unwrap(),
            [44, 7, 100]
        );
        for (group, code) in [
            ("huge", "UnknownGroup"),
            ("-1", "InvalidUser"),
            ("", "InvalidUser"),
        ] {
            assert_eq!(
                resolve_groups(&[group], GROUP).unwrap_err().code(),
                code,
                "{group:?}"
            );
        }
    }

    #[test]
    fn files_and_memberships_are_bounded() {
        let large = vec![b'\n'; MAX_FILE + 1];
        assert_eq!(
            resolve("0", &large, GROUP).unwrap_err().code(),
            "FileTooLarge"
        );
        assert!(resolve("0", &large[1..], GROUP).is_ok());
        let mut one = [0; 1];
        assert_eq!(
            find(b"web", PASSWD, GROUP, &mut one),
            Err(Fault::TooManyGroups)
        );
        assert_eq!(
            look_up(b"daemon", PASSWD, GROUP, &mut one).unwrap().groups,
            1
        );
    }
}
