//! Mounts of a spec as steps: options become attributes, parameters and propagation.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as Attr;

use super::compile::{c_string, unsupported};
use super::step::{Attributes, MountSource};
use crate::feature::Features;
use crate::{Error, Result};

/// The options of a mount, sorted by what they steer.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) attributes: Attributes,
    pub(super) bind: bool,
    pub(super) recursive: bool,
    /// What is left for the file system itself.
    pub(super) parameters: Vec<(String, Option<String>)>,
}

/// One mount option: what it sets and clears.
enum Effect {
    Attributes {
        set: Attr,
        clear: Attr,
    },
    Recursive {
        set: Attr,
        clear: Attr,
    },
    Bind {
        recursive: bool,
    },
    Propagation {
        kind: u64,
        recursive: bool,
    },
    /// Asks for what is so anyway.
    Nothing,
}

impl Options {
    pub(super) fn parse(mount: &Mount) -> Result<Self> {
        let mut options = Self::default();
        for option in mount.options().iter().flatten() {
            options.add(option, mount)?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &str, mount: &Mount) -> Result<()> {
        let attributes = &mut self.attributes;
        match effect(option) {
            Some(Effect::Attributes { set, clear }) => {
                turn(&mut attributes.set, &mut attributes.clear, set, clear);
            }
            Some(Effect::Recursive { set, clear }) => turn(
                &mut attributes.set_recursively,
                &mut attributes.clear_recursively,
                set,
                clear,
            ),
            Some(Effect::Bind { recursive }) => {
                self.bind = true;
                self.recursive |= recursive;
            }
            Some(Effect::Propagation { kind, recursive }) => {
                attributes.propagation = kind;
                attributes.propagation_recursive = recursive;
            }
            Some(Effect::Nothing) => {}
            None if matches!(option, "tmpcopyup" | "idmap" | "ridmap") => {
                let what = format!("mount option {option} of {:?}", mount.destination());
                return Err(unsupported(&what));
            }
            None => self.parameters.push(match option.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (option.into(), None),
            }),
        }
        Ok(())
    }
}

/// Makes `set` and `clear` part of what is asked for; the last word on a bit counts.
fn turn(all_set: &mut u64, all_clear: &mut u64, set: Attr, clear: Attr) {
    let (set, clear) = (u64::from(set.bits()), u64::from(clear.bits()));
    *all_set = *all_set & !clear | set;
    *all_clear = *all_clear & !set | clear;
}

/// What a generic mount option does; `None` for one that is the file system's.
///
/// The `r…` forms of runtime-spec 1.1 act on all mounts below, too.
fn effect(option: &str) -> Option<Effect> {
    const NONE: Attr = Attr::empty();
    const ATIME: Attr = Attr::MOUNT_ATTR__ATIME;
    let set = |set| Some(Effect::Attributes { set, clear: NONE });
    let clear = |clear| Some(Effect::Attributes { set: NONE, clear });
    let all = |set| Some(Effect::Recursive { set, clear: NONE });
    let none = |clear| Some(Effect::Recursive { set: NONE, clear });
    let spread = |kind: libc::c_ulong, recursive| Some(Effect::Propagation { kind, recursive });
    match option {
        "defaults" | "loud" | "nomand" | "async" | "dirsync" | "norelatime" => {
            Some(Effect::Nothing)
        }
        "bind" => Some(Effect::Bind { recursive: false }),
        "rbind" => Some(Effect::Bind { recursive: true }),
        "ro" => set(Attr::MOUNT_ATTR_RDONLY),
        "rw" => clear(Attr::MOUNT_ATTR_RDONLY),
        "nosuid" => set(Attr::MOUNT_ATTR_NOSUID),
        "suid" => clear(Attr::MOUNT_ATTR_NOSUID),
        "nodev" => set(Attr::MOUNT_ATTR_NODEV),
        "dev" => clear(Attr::MOUNT_ATTR_NODEV),
        "noexec" => set(Attr::MOUNT_ATTR_NOEXEC),
        "exec" => clear(Attr::MOUNT_ATTR_NOEXEC),
        "nodiratime" => set(Attr::MOUNT_ATTR_NODIRATIME),
        "diratime" => clear(Attr::MOUNT_ATTR_NODIRATIME),
        // One of these is always in force; asking for one means replacing the one that is.
        "noatime" => Some(Effect::Attributes {
            set: Attr::MOUNT_ATTR_NOATIME,
            clear: ATIME,
        }),
        "strictatime" => Some(Effect::Attributes {
            set: Attr::MOUNT_ATTR_STRICTATIME,
            clear: ATIME,
        }),
        "relatime" | "atime" | "nostrictatime" => Some(Effect::Attributes {
            set: NONE,
            clear: ATIME,
        }),
        "rro" => all(Attr::MOUNT_ATTR_RDONLY),
        "rrw" => none(Attr::MOUNT_ATTR_RDONLY),
        "rnosuid" => all(Attr::MOUNT_ATTR_NOSUID),
        "rsuid" => none(Attr::MOUNT_ATTR_NOSUID),
        "rnodev" => all(Attr::MOUNT_ATTR_NODEV),
        "rdev" => none(Attr::MOUNT_ATTR_NODEV),
        "rnoexec" => all(Attr::MOUNT_ATTR_NOEXEC),
        "rexec" => none(Attr::MOUNT_ATTR_NOEXEC),
        "private" => spread(libc::MS_PRIVATE, false),
        "rprivate" => spread(libc::MS_PRIVATE, true),
        "slave" => spread(libc::MS_SLAVE, false),
        "rslave" => spread(libc::MS_SLAVE, true),
        "shared" => spread(libc::MS_SHARED, false),
        "rshared" => spread(libc::MS_SHARED, true),
        "unbindable" => spread(libc::MS_UNBINDABLE, false),
        "runbindable" => spread(libc::MS_UNBINDABLE, true),
        _ => None,
    }
}

/// Turns the attributes of a new file system into those that `fsmount` takes, which has no others.
pub(super) fn new_source(kind: &str, options: &mut Options) -> Result<MountSource> {
    let mut parameters = Vec::new();
    for (key, value) in options.parameters.drain(..) {
        let value = value
            .map(|value| c_string("mount option", value))
            .transpose()?;
        parameters.push((c_string("mount option", key)?, value));
    }
    let set = options.attributes.set;
    // A fresh mount has no attributes to clear.
    options.attributes.set = 0;
    options.attributes.clear = 0;
    Ok(MountSource::New {
        kind: c_string("mount type", kind)?,
        parameters,
        attributes: u32::try_from(set).unwrap_or(u32::MAX),
    })
}

/// The source of a bind mount; relative ones are below `bundle`.
pub(super) fn bind_source(mount: &Mount, bundle: &Path, recursive: bool) -> Result<MountSource> {
    let Some(source) = mount.source() else {
        let what = format!("bind mount at {:?} has no source", mount.destination());
        return Err(Error::invalid("InvalidMount", what));
    };
    Ok(MountSource::Bind {
        path: c_string("mount source", bundle.join(source).into_os_string())?,
        recursive,
    })
}

/// The root mount of an overlay, and the directory that its lower directories are relative to.
///
/// Old kernels take all lower directories in one string of at most a page, so they are named
/// relative to their common parent, and through `mount(2)`, because a string of the mount API ends at
/// 255 bytes.
pub(super) fn overlay_source(
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
    if features.overlay_append {
        return Ok((change, new_source("overlay", options)?));
    }
    let mut lower = Vec::new();
    let mut data = Vec::new();
    for (key, value) in options.parameters.drain(..) {
        match (key.as_str(), value) {
            ("lowerdir+", Some(value)) => lower.push(escape(&value, &['\\', ':', ','])),
            (_, Some(value)) => data.push(format!("{key}={}", escape(&value, &['\\', ',']))),
            (_, None) => data.push(key),
        }
    }
    data.insert(0, format!("lowerdir={}", lower.join(":")));
    let read_only = options.attributes.set & u64::from(Attr::MOUNT_ATTR_RDONLY.bits()) != 0;
    let source = MountSource::Classic {
        kind: c_string("mount type", "overlay")?,
        data: c_string("mount option", data.join(","))?,
        read_only,
    };
    Ok((change, source))
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

    fn parse(options: &[&str]) -> Options {
        let mut mount = Mount::default();
        mount.set_options(Some(options.iter().map(ToString::to_string).collect()));
        Options::parse(&mount).unwrap()
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
        let (change, source) = overlay_source(&mut options, old).unwrap();
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
