//! Mounts of a spec as steps: options become attributes, parameters and propagation.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as Attr;

use super::compile::c_string;
use super::step::{Attributes, MountSource, Parameter, Propagation, Tree, Under};
use crate::feature::Features;
use crate::{Error, Result};

/// `MOUNT_ATTR_NOSYMFOLLOW` of `linux/mount.h` (Linux 5.14), which rustix does not name.
pub(super) const NOSYMFOLLOW: Attr = Attr::from_bits_retain(0x20_0000);

/// The longest value that `fsconfig(2)` takes, without its end.
const LONGEST_VALUE: usize = 255;

/// File systems that are read-only by their mount alone: they have no device to leave untouched, and
/// some are shared with the host.
const READ_ONLY_BY_MOUNT: [&str; 9] = [
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay",
];

/// Options of a whole file system: what turns each on and off (nothing: it only says what is so
/// anyway), and its flag for `mount(2)`.
const OF_FILE_SYSTEM: [(&str, &str, libc::c_ulong); 4] = [
    ("sync", "async", libc::MS_SYNCHRONOUS),
    ("dirsync", "", libc::MS_DIRSYNC),
    ("lazytime", "nolazytime", libc::MS_LAZYTIME),
    ("mand", "nomand", libc::MS_MANDLOCK),
];

/// The options of a mount, sorted by what they steer.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) attributes: Attributes,
    pub(super) bind: bool,
    pub(super) recursive: bool,
    pub(super) remount: bool,
    /// Fills a new tmpfs with what it covers.
    pub(super) copy_up: bool,
    /// Copies a source that is a link.
    pub(super) copy_link: bool,
    /// Maps ids; `true`: of all mounts below, too.
    pub(super) map_ids: Option<bool>,
    /// What is left for the file system itself.
    pub(super) parameters: Vec<(String, Option<String>)>,
}

/// One mount option: what it sets and clears.
enum Effect {
    Attributes {
        set: Attr,
        clear: Attr,
        recursive: bool,
    },
    Bind {
        recursive: bool,
    },
    Propagation(Propagation),
    Remount,
    CopyUp,
    CopyLink,
    MapIds {
        recursive: bool,
    },
    /// Asks for what is so anyway.
    Nothing,
}

impl Options {
    pub(super) fn parse(mount: &Mount) -> Self {
        let mut options = Self::default();
        for option in mount.options().iter().flatten() {
            options.add(option);
        }
        options
    }

    fn add(&mut self, option: &str) {
        let attributes = &mut self.attributes;
        match effect(option) {
            Some(Effect::Attributes {
                set,
                clear,
                recursive: false,
            }) => turn(&mut attributes.set, &mut attributes.clear, set, clear),
            Some(Effect::Attributes { set, clear, .. }) => turn(
                &mut attributes.set_recursively,
                &mut attributes.clear_recursively,
                set,
                clear,
            ),
            Some(Effect::Bind { recursive }) => {
                self.bind = true;
                self.recursive |= recursive;
            }
            Some(Effect::Propagation(propagation)) => attributes.propagation.push(propagation),
            Some(Effect::Remount) => self.remount = true,
            Some(Effect::CopyUp) => self.copy_up = true,
            Some(Effect::CopyLink) => self.copy_link = true,
            Some(Effect::MapIds { recursive }) => {
                self.map_ids = Some(recursive || self.map_ids == Some(true));
            }
            Some(Effect::Nothing) => {}
            None => self.parameters.push(match option.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (option.into(), None),
            }),
        }
    }

    /// Whether the mount is to get the later mounts of the host, or to give it its own.
    pub(super) fn propagates(&self) -> bool {
        let with_others = |it: &Propagation| matches!(it.kind, libc::MS_SHARED | libc::MS_SLAVE);
        self.attributes.propagation.iter().any(with_others)
    }

    /// Whether it asks for what only a mount of the spec can have.
    pub(super) fn is_special(&self) -> bool {
        self.remount || self.copy_up || self.copy_link || self.map_ids.is_some()
    }

    pub(super) fn has(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(key, _)| key == parameter)
    }

    /// The first parameter that only a file system of one's own can have.
    pub(super) fn file_systems_own(&self) -> Option<&str> {
        let is_default = |key: &str| OF_FILE_SYSTEM.iter().any(|(_, off, _)| *off == key);
        let mut keys = self.parameters.iter().map(|(key, _)| key.as_str());
        keys.find(|key| !is_default(key))
    }

    /// Takes the parameters, as a file system is given them.
    pub(super) fn take_parameters(&mut self) -> Result<Vec<Parameter>> {
        let option = |text: String| c_string("mount option", text);
        let parameters = self.parameters.drain(..);
        parameters
            .map(|(key, value)| Ok((option(key)?, value.map(option).transpose()?)))
            .collect()
    }
}

/// Takes from a bind mount the options that it cannot have, as they are a file system's; gives them.
pub(crate) fn drop_foreign_options(mount: &mut Mount) -> Vec<String> {
    if !super::compile::mount::is_bind(mount, &Options::parse(mount)) {
        return Vec::new();
    }
    let (own, foreign): (Vec<_>, _) =
        mount.options().iter().flatten().cloned().partition(|it| {
            effect(it).is_some() || OF_FILE_SYSTEM.iter().any(|(_, off, _)| off == it)
        });
    mount.set_options(Some(own));
    foreign
}

/// The options that are not a file system's.
pub(crate) const KNOWN_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "copy-symlink",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Makes `set` and `clear` part of what is asked for; the last word on a bit counts.
fn turn(all_set: &mut u64, all_clear: &mut u64, set: Attr, clear: Attr) {
    let (set, clear) = (u64::from(set.bits()), u64::from(clear.bits()));
    *all_set = *all_set & !clear | set;
    *all_clear = *all_clear & !set | clear;
}

/// What a generic mount option does; `None` for one that is the file system's.
///
/// # References
/// runtime-spec `config.md`, "Linux mount options".
fn effect(option: &str) -> Option<Effect> {
    Some(match option {
        "bind" => Effect::Bind { recursive: false },
        "rbind" => Effect::Bind { recursive: true },
        "remount" => Effect::Remount,
        "tmpcopyup" => Effect::CopyUp,
        "copy-symlink" => Effect::CopyLink,
        "idmap" => Effect::MapIds { recursive: false },
        "ridmap" => Effect::MapIds { recursive: true },
        // The kernel prints less, or counts versions of inodes, whatever it is told here.
        "defaults" | "loud" | "silent" | "iversion" | "noiversion" => Effect::Nothing,
        // Notes for programs that read the list of options, which the kernel is not told
        // (`mount(8)`).
        _ if option.starts_with("x-") || option.starts_with("X-") => Effect::Nothing,
        _ => match option.strip_prefix('r') {
            // The forms that act on all mounts below, too; `ro`, `rw` and `relatime` are none.
            Some(plain) if !matches!(plain, "o" | "w" | "elatime") => {
                recursive(plain).or_else(|| plain_effect(option))?
            }
            _ => plain_effect(option)?,
        },
    })
}

fn recursive(plain: &str) -> Option<Effect> {
    match plain_effect(plain)? {
        Effect::Attributes { set, clear, .. } => Some(Effect::Attributes {
            set,
            clear,
            recursive: true,
        }),
        Effect::Propagation(Propagation { kind, .. }) => Some(Effect::Propagation(Propagation {
            kind,
            recursive: true,
        })),
        _ => None,
    }
}

/// The effect of an option that has a recursive form.
fn plain_effect(option: &str) -> Option<Effect> {
    // One of these is always in force; asking for one means replacing the one that is.
    const ATIME: Attr = Attr::MOUNT_ATTR__ATIME;
    const NONE: Attr = Attr::empty();
    let (set, clear) = match option {
        "ro" => (Attr::MOUNT_ATTR_RDONLY, NONE),
        "rw" => (NONE, Attr::MOUNT_ATTR_RDONLY),
        "nosuid" => (Attr::MOUNT_ATTR_NOSUID, NONE),
        "suid" => (NONE, Attr::MOUNT_ATTR_NOSUID),
        "nodev" => (Attr::MOUNT_ATTR_NODEV, NONE),
        "dev" => (NONE, Attr::MOUNT_ATTR_NODEV),
        "noexec" => (Attr::MOUNT_ATTR_NOEXEC, NONE),
        "exec" => (NONE, Attr::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (NOSYMFOLLOW, NONE),
        "symfollow" => (NONE, NOSYMFOLLOW),
        "nodiratime" => (Attr::MOUNT_ATTR_NODIRATIME, NONE),
        "diratime" => (NONE, Attr::MOUNT_ATTR_NODIRATIME),
        "noatime" => (Attr::MOUNT_ATTR_NOATIME, ATIME),
        "strictatime" => (Attr::MOUNT_ATTR_STRICTATIME, ATIME),
        "relatime" | "norelatime" | "atime" | "nostrictatime" => (NONE, ATIME),
        _ => {
            let kind = match option {
                "private" => libc::MS_PRIVATE,
                "slave" => libc::MS_SLAVE,
                "shared" => libc::MS_SHARED,
                "unbindable" => libc::MS_UNBINDABLE,
                _ => return None,
            };
            return Some(Effect::Propagation(Propagation {
                kind,
                recursive: false,
            }));
        }
    };
    Some(Effect::Attributes {
        set,
        clear,
        recursive: false,
    })
}

/// A propagation by its name, as the options and `linux.rootfsPropagation` have it.
pub(super) fn propagation(name: &str) -> Option<Propagation> {
    match effect(name) {
        Some(Effect::Propagation(propagation)) => Some(propagation),
        _ => None,
    }
}

/// A new file system with these options, which are used up but for what it is given when it is
/// mounted.
pub(super) fn new_source(
    kind: &str,
    source: Option<&Path>,
    options: &mut Options,
    features: Features,
) -> Result<MountSource> {
    let read_only = u64::from(Attr::MOUNT_ATTR_RDONLY.bits());
    if options.attributes.set & read_only != 0 && !READ_ONLY_BY_MOUNT.contains(&kind) {
        options.parameters.push(("ro".into(), None));
    }
    let source = source
        .filter(|source| !source.as_os_str().is_empty())
        .map(|source| c_string("mount source", source.as_os_str().to_owned()))
        .transpose()?;
    if kind == "overlay" && features.overlay_append {
        split_lower(&mut options.parameters);
    }
    let set = u32::try_from(std::mem::take(&mut options.attributes.set)).unwrap_or(u32::MAX);
    // A fresh mount has no attributes to clear.
    options.attributes.clear = 0;
    let is_long = |value: &[u8]| value.len() > LONGEST_VALUE;
    let mut values = options.parameters.iter().flat_map(|(_, value)| value);
    if values.any(|value| is_long(value.as_bytes()))
        || source.as_ref().is_some_and(|it| is_long(it.to_bytes()))
        || kind == "overlay" && !features.overlay_append && options.has("lowerdir+")
    {
        return classic_source(kind, source, options, set);
    }
    let under = match kind {
        "tmpfs" if options.copy_up => Under::Content,
        "tmpfs" if !options.has("mode") => Under::Mode,
        _ => Under::Nothing,
    };
    let mut parameters = options.take_parameters()?;
    if let Some(source) = source {
        parameters.insert(0, (c"source".into(), Some(source)));
    }
    Ok(MountSource::New {
        kind: c_string("mount type", kind)?,
        parameters,
        attributes: set,
        under,
    })
}

/// A new file system by the old call, which takes all options as one string of at most a page.
fn classic_source(
    kind: &str,
    source: Option<CString>,
    options: &mut Options,
    attributes: u32,
) -> Result<MountSource> {
    let mut lower = Vec::new();
    let mut data = Vec::new();
    let mut flags = classic_flags(attributes);
    for (key, value) in options.parameters.drain(..) {
        let flag = OF_FILE_SYSTEM.iter().find(|(on, _, _)| *on == key);
        match (key.as_str(), value) {
            ("lowerdir+", Some(value)) => lower.push(escape(&value, &['\\', ':', ','])),
            // A list has its own escapes already.
            ("lowerdir", Some(value)) => data.push(format!("lowerdir={value}")),
            (_, Some(value)) => data.push(format!("{key}={}", escape(&value, &['\\', ',']))),
            ("ro", None) => flags |= flag_of_mount(libc::MS_RDONLY),
            (_, None) => match flag {
                Some((_, _, flag)) => flags |= flag_of_mount(*flag),
                None => data.push(key),
            },
        }
    }
    if !lower.is_empty() {
        data.insert(0, format!("lowerdir={}", lower.join(":")));
    }
    Ok(MountSource::Classic {
        kind: c_string("mount type", kind)?,
        source: source.unwrap_or_else(|| c"none".into()),
        data: c_string("mount option", data.join(","))?,
        flags,
    })
}

/// `MOUNT_ATTR_*` as the `MS_*` of `mount(2)`.
pub(super) fn classic_flags(attributes: u32) -> u32 {
    let pairs = [
        (Attr::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (Attr::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (Attr::MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (Attr::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
        (Attr::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        (Attr::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        (Attr::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
        (NOSYMFOLLOW, libc::MS_NOSYMFOLLOW),
    ];
    let attributes = Attr::from_bits_retain(attributes);
    let set = pairs.into_iter().filter(|(it, _)| attributes.contains(*it));
    set.fold(0, |flags, (_, flag)| flags | flag_of_mount(flag))
}

/// All flags of `mount(2)` fit 32 bits, and are wider only on 64-bit hosts.
fn flag_of_mount(flag: libc::c_ulong) -> u32 {
    u32::try_from(flag).unwrap_or(0)
}

/// Names each directory of a long `lowerdir` list by itself: the list has no limit then.
///
/// One with directories for data alone (`::`) stays, as these have an option of another name.
fn split_lower(parameters: &mut Vec<(String, Option<String>)>) {
    let is_long = |(key, value): &(String, Option<String>)| {
        key == "lowerdir"
            && value
                .as_ref()
                .is_some_and(|value| value.len() > LONGEST_VALUE && !value.contains("::"))
    };
    let Some(at) = parameters.iter().position(is_long) else {
        return;
    };
    let (_, list) = parameters.remove(at);
    let mut directories = vec![String::new()];
    let list = list.unwrap_or_default();
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, directories.last_mut()) {
            (':', _) => directories.push(String::new()),
            ('\\', Some(directory)) => directory.extend(characters.next()),
            (_, Some(directory)) => directory.push(character),
            (_, None) => {}
        }
    }
    let directories = directories.into_iter();
    let appended = directories.map(|directory| ("lowerdir+".into(), Some(directory)));
    parameters.splice(at..at, appended);
}

/// The source of a bind mount; relative ones are below `bundle`.
pub(super) fn bind_source(mount: &Mount, bundle: &Path, options: &Options) -> Result<Tree> {
    let source = mount.source().as_deref();
    let Some(source) = source.filter(|source| !source.as_os_str().is_empty()) else {
        let what = format!("bind mount at {:?} has no source", mount.destination());
        return Err(Error::invalid("InvalidMount", what));
    };
    Ok(Tree {
        path: c_string("mount source", bundle.join(source).into_os_string())?,
        recursive: options.recursive,
        copy_link: options.copy_link,
    })
}

/// The root mount of an overlay, and the directory that its lower directories are relative to.
///
/// Old kernels take all lower directories in one string of at most a page, so they are named
/// relative to their common parent.
pub(super) fn overlay_source(
    source: Option<&Path>,
    options: &mut Options,
    features: Features,
) -> Result<(Option<CString>, MountSource)> {
    let lowers: Vec<_> = options
        .parameters
        .iter()
        .filter(|(key, _)| key == "lowerdir+")
        .filter_map(|(_, value)| value.as_deref().map(PathBuf::from))
        .collect();
    let base = common_parent(&lowers);
    let short = |path: &str| match Path::new(path).strip_prefix(&base) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".into(),
        Ok(rest) => rest.to_string_lossy().into_owned(),
        Err(_) => path.to_owned(),
    };
    for (key, value) in &mut options.parameters {
        if let ("lowerdir+" | "upperdir" | "workdir", Some(value)) = (key.as_str(), value) {
            *value = short(value);
        }
    }
    let change = Some(c_string("lower directory", base.into_os_string())?);
    Ok((change, new_source("overlay", source, options, features)?))
}

fn escape(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if special.contains(&character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The deepest directory that all `paths` lie in.
fn common_parent(paths: &[PathBuf]) -> PathBuf {
    let Some((first, rest)) = paths.split_first() else {
        return "/".into();
    };
    let mut base = first.parent().unwrap_or(Path::new("/")).to_owned();
    for path in rest {
        while !path.starts_with(&base) && base.pop() {}
    }
    base
}

/// A path inside the root as the steps take it: relative, without `.`, `..` or doubled slashes.
pub(super) fn inside(path: &Path) -> Result<CString> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.as_os_str().len() >= super::place::PATH_MAX {
        return Err(Error::invalid(
            "PathTooLong",
            format!("path {path:?} is too long"),
        ));
    }
    c_string("path", clean.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_to_be_known_is() {
        let of_file_system = |it: &str| {
            OF_FILE_SYSTEM
                .iter()
                .any(|(on, off, _)| [on, off].contains(&&it))
        };
        for option in KNOWN_OPTIONS {
            assert!(
                effect(option).is_some() || of_file_system(option),
                "{option}"
            );
        }
    }

    fn parse(options: &[&str]) -> Options {
        let mut mount = Mount::default();
        mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
        Options::parse(&mount)
    }

    #[test]
    fn the_last_word_on_an_attribute_counts() {
        let read_only = u64::from(Attr::MOUNT_ATTR_RDONLY.bits());
        assert_eq!(parse(&["rw", "ro"]).attributes.set, read_only);
        let cleared = parse(&["ro", "rw"]).attributes;
        assert_eq!((cleared.set, cleared.clear), (0, read_only));
    }

    #[test]
    fn unknown_options_are_the_file_systems() {
        let options = parse(&["mode=755", "newinstance", "nosuid"]);
        let expected = [
            ("mode".into(), Some("755".into())),
            ("newinstance".into(), None),
        ];
        assert_eq!(options.parameters, expected);
    }

    #[test]
    fn paths_stay_inside() {
        for (path, want) in [
            ("/a/b", "a/b"),
            ("/../../etc", "etc"),
            ("a/./b//c/../d", "a/b/d"),
            ("/", ""),
        ] {
            assert_eq!(inside(Path::new(path)).unwrap().to_str().unwrap(), want);
        }
    }

    #[test]
    fn lower_directories_become_short() {
        let mut options = parse(&[
            "lowerdir+=/s/overlay/12/fs",
            "lowerdir+=/s/overlay/9/fs",
            "upperdir=/s/overlay/13/fs",
            "workdir=/s/overlay/13/work",
        ]);
        let mut old = Features::host();
        old.overlay_append = false;
        let (change, source) = overlay_source(None, &mut options, old).unwrap();
        assert_eq!(change.unwrap().to_str().unwrap(), "/s/overlay");
        let MountSource::Classic { data, .. } = source else {
            panic!("an old kernel takes one string");
        };
        assert_eq!(
            data.to_str().unwrap(),
            "lowerdir=12/fs:9/fs,upperdir=13/fs,workdir=13/work"
        );
    }
}
