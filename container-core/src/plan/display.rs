//! Plans as text: a dry run, one step a line.

use std::ffi::CStr;
use std::fmt::{self, Display, Formatter};

use rustix::mount::MountAttrFlags as Attr;

use super::mounts::NOSYMFOLLOW;
use super::step::{
    Attributes, CgroupSource, CgroupView, Device, Keep, MountSource, Parameter, Place, Propagation,
    Refused, SecurityModule, Slot, SlotKind, Step, Tree, Under,
};
use super::{MappedTree, Plan};
use crate::capability;

/// The namespaces of the `CLONE_*` flags, in the order in which they are printed.
const NAMESPACES: [(libc::c_int, &str); 8] = [
    (libc::CLONE_NEWUSER, "user"),
    (libc::CLONE_NEWPID, "pid"),
    (libc::CLONE_NEWNS, "mount"),
    (libc::CLONE_NEWNET, "network"),
    (libc::CLONE_NEWIPC, "ipc"),
    (libc::CLONE_NEWUTS, "uts"),
    (libc::CLONE_NEWCGROUP, "cgroup"),
    (libc::CLONE_NEWTIME, "time"),
];

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let new: Vec<_> = names_of(self.flags).collect();
        writeln!(f, "clone into new namespaces: {}", new.join(" "))?;
        for place in &self.born_in {
            write!(f, "born in {}", Named(self, place.of))?;
            if self.slots.get(usize::from(place.of.0)) == Some(&SlotKind::Target) {
                let names: Vec<_> = names_of(u64::from(place.namespaces)).collect();
                write!(f, " {}", names.join(" "))?;
            }
            writeln!(f)?;
        }
        if let Some(slot) = self.cgroup {
            writeln!(f, "born in {}", Named(self, slot))?;
        }
        if let Some(maps) = &self.id_maps {
            writeln!(
                f,
                "map users {}, groups {}",
                one_line(&maps.uid),
                one_line(&maps.gid)
            )?;
        }
        if let Some(processors) = &self.affinity {
            writeln!(f, "start on processors {processors:x?}")?;
        }
        if let Some(adjustment) = self.oom_score_adj {
            writeln!(f, "adjust the out-of-memory score by {adjustment}")?;
        }
        for (number, mapped) in self.mapped.iter().enumerate() {
            let MappedTree {
                tree,
                maps,
                recursive,
            } = mapped;
            let all = if *recursive { "all " } else { "" };
            let (uid, gid) = (one_line(&maps.uid), one_line(&maps.gid));
            writeln!(
                f,
                "copy {tree} as mapped tree {number}, map {all}users {uid}, groups {gid}"
            )?;
        }
        for set in &self.hooks {
            for hook in &set.hooks {
                writeln!(f, "{} hook {:?} {:?}", set.stage, hook.path, hook.arguments)?;
            }
        }
        for step in &self.steps {
            match step {
                Step::JoinCgroup { group: slot }
                | Step::JoinNamespace {
                    namespace: slot, ..
                } => {
                    writeln!(f, "join {}", Named(self, *slot))?;
                }
                _ => writeln!(f, "{step}")?,
            }
        }
        Ok(())
    }
}

fn names_of(flags: u64) -> impl Iterator<Item = &'static str> {
    let set = move |(flag, _): &&(libc::c_int, _)| flags & u64::from(flag.unsigned_abs()) != 0;
    NAMESPACES.iter().filter(set).map(|(_, name)| *name)
}

/// A slot by what is in it.
struct Named<'p>(&'p Plan, Slot);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.slots.get(usize::from(self.1.0)) {
            Some(SlotKind::Namespace(path)) => write!(f, "namespace {path}"),
            Some(SlotKind::CgroupJoin) => f.write_str("a cgroup v1 group"),
            Some(SlotKind::CgroupInto) => f.write_str("a cgroup v2 group"),
            Some(SlotKind::Stdio(number)) => write!(f, "standard stream {number}"),
            Some(SlotKind::Start) => f.write_str("the start signal"),
            Some(SlotKind::Console) => f.write_str("the console socket"),
            Some(SlotKind::Extra(number)) => write!(f, "descriptor {number}"),
            Some(SlotKind::Target) => f.write_str("the container's namespaces:"),
            None => write!(f, "slot {}", self.1.0),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AwaitIdMaps => {
                f.write_str("wait for the id maps, become root of the user namespace")
            }
            Self::BecomeRoot => f.write_str("become root of the user namespace"),
            Self::NewTimeNamespace { offsets } => {
                f.write_str("make a time namespace")?;
                let offsets = offsets.to_string_lossy();
                let mut lines = offsets.lines();
                lines.try_for_each(|line| write!(f, ", {line}"))
            }
            Self::ParentDeathSignal => f.write_str("die with the monitor"),
            Self::NewSession => f.write_str("start a session"),
            Self::JoinCgroup { .. } => f.write_str("join a cgroup v1 group"),
            Self::JoinNamespace { .. } => f.write_str("join a namespace"),
            Self::NewCgroupNamespace => f.write_str("make a cgroup namespace"),
            Self::NewKeyring { name: None, .. } => f.write_str("take an empty session keyring"),
            Self::NewKeyring {
                name: Some(name), ..
            } => write!(f, "take the session keyring {name:?}"),
            Self::RaiseLoopback => f.write_str("bring up the loopback interface"),
            Self::SetHostname(name) => write!(f, "set hostname {name:?}"),
            Self::SetDomainname(name) => write!(f, "set domainname {name:?}"),
            Self::Detach => f.write_str("make all mounts private"),
            Self::ChangeHostDirectory(path) => write!(f, "change to host directory {path:?}"),
            Self::OpenTree { tree, keep } => write!(f, "copy {tree} as tree {}", keep.0),
            Self::MountRoot {
                source,
                over,
                attributes,
            } => write!(f, "mount root {source} over {over:?}{attributes}"),
            Self::Mount {
                source,
                target,
                attributes,
                refused,
                ..
            } => {
                write!(f, "mount {source} on {}{attributes}", Inside(target))?;
                match refused {
                    Refused::Fail => Ok(()),
                    Refused::Skip => f.write_str(", if that is permitted"),
                    Refused::Bind(tree) => write!(f, ", or else {tree}"),
                }
            }
            Self::Remount {
                target,
                parameters,
                attributes,
            } => {
                write!(f, "remount {}{attributes}", Inside(target))?;
                write_parameters(f, parameters.as_deref().unwrap_or_default())
            }
            Self::MountCgroups {
                target,
                attributes,
                views,
                ..
            } => {
                write!(f, "mount control groups on {}", Inside(target))?;
                write_attributes(f, u64::from(*attributes), "")?;
                views.iter().try_for_each(|view| write!(f, ", {view}"))
            }
            Self::Finish { mount } => write!(f, "make read-only {}", Kept(*mount)),
            Self::MakeDevice(device) => device.fmt(f),
            Self::MakeSymlink { target, place } => write!(f, "link {place} to {target:?}"),
            Self::WriteSysctl { name, value } => {
                write!(f, "write {value:?} to /proc/{}", text(name))
            }
            Self::Mask(place) => write!(f, "mask {place}"),
            Self::MakeReadOnly(place) => write!(f, "make read-only {place}"),
            Self::LookUpUser { user, .. } => write!(f, "look up user {user:?}"),
            Self::SetRootPropagation(propagation) => write!(f, "make the root{propagation}"),
            Self::AwaitHooks => f.write_str("wait for the hooks outside"),
            Self::RunHooks(stage) => write!(f, "run the {stage} hooks"),
            Self::PivotRoot => f.write_str("pivot into the root, drop the host's tree"),
            Self::MakeRootReadOnly => f.write_str("make the root read-only"),
            Self::SetLimit {
                resource,
                soft,
                hard,
            } => {
                write!(
                    f,
                    "limit {} to {soft}:{hard}",
                    crate::rlimit::name(*resource)
                )
            }
            Self::SetAffinity(processors) => write!(f, "run on processors {processors:x?}"),
            Self::SetScheduler(attr) => {
                write!(f, "schedule by policy {} nice {}", attr.policy, attr.nice)?;
                write!(f, " priority {} flags {:#x}", attr.priority, attr.flags)?;
                let times = (attr.runtime, attr.deadline, attr.period);
                write!(f, " runtime:deadline:period {times:?} ns")
            }
            Self::SetIoPriority(priority) => {
                let (class, level) = (priority >> 13, priority & 0x1fff);
                write!(f, "set I/O priority {level} of class {class}")
            }
            Self::SetPersonality(domain) => write!(f, "set personality {domain:#x}"),
            Self::SetMemoryPolicy { mode, nodes } => {
                write!(f, "set memory policy {mode:#x} for nodes {nodes:x?}")
            }
            Self::SetExecLabel { module, label } => {
                write!(f, "run under the {module} label {label:?}")
            }
            Self::ChangeDirectory { path, .. } => write!(f, "change to directory {path:?}"),
            Self::NoNewPrivileges => f.write_str("forbid new privileges"),
            Self::RestrictFiles { rules, .. } => {
                f.write_str("allow nothing with files but")?;
                let mut rules = rules.iter();
                rules.try_for_each(|(path, allowed)| write!(f, " {path:?}:{allowed:#x}"))
            }
            Self::LoadFilter { instructions, .. } => {
                write!(
                    f,
                    "load a seccomp filter of {} instructions",
                    instructions.len()
                )
            }
            Self::LimitCapabilities { keep } => {
                write!(f, "bound capabilities to {}", capability::display(*keep))
            }
            Self::OpenTerminal { size, console, .. } => {
                f.write_str("open a terminal")?;
                if let Some((columns, rows)) = size {
                    write!(f, " of {columns} columns and {rows} rows")?;
                }
                match console {
                    Some(place) => write!(f, ", also on {place}"),
                    None => Ok(()),
                }
            }
            Self::SetAccount {
                fixed: Some(account),
                ..
            } => {
                write!(f, "become user {} group {}", account.uid, account.gid)?;
                match account.groups.as_deref() {
                    None | Some([]) => Ok(()),
                    Some(groups) => write!(f, " with groups {groups:?}"),
                }
            }
            Self::SetAccount { fixed: None, .. } => {
                f.write_str("become the user that was looked up")
            }
            Self::SetCapabilities(sets) => write!(
                f,
                "set capabilities: effective {}, permitted {}, inheritable {}, ambient {}",
                capability::display(sets.effective),
                capability::display(sets.permitted),
                capability::display(sets.inheritable),
                capability::display(sets.ambient)
            ),
            Self::SetUmask(mask) => write!(f, "set umask {mask:04o}"),
            Self::CheckProgram(candidates) => {
                f.write_str("look for")?;
                candidates
                    .iter()
                    .try_for_each(|candidate| write!(f, " {candidate:?}"))
            }
            Self::AwaitStart { .. } => f.write_str("wait for the start"),
            Self::SetStdio(_) => f.write_str("put the standard streams in place"),
            Self::PassDescriptor { number, .. } => write!(f, "pass descriptor {number}"),
            Self::ChangeRoot(_) => f.write_str("enter another root"),
            Self::EnterDirectory(_) => f.write_str("enter a directory that is open"),
            Self::SetIds { uid, gid, .. } => {
                f.write_str("become")?;
                uid.iter().try_for_each(|uid| write!(f, " user {uid}"))?;
                gid.iter().try_for_each(|gid| write!(f, " group {gid}"))
            }
            Self::Linger => f.write_str("reap"),
            Self::Serve => f.write_str("serve as a worker"),
            Self::BecomeInit { .. } => f.write_str("go on below an init"),
            Self::Execute(program) => {
                f.write_str("execute")?;
                program
                    .arguments
                    .iter()
                    .try_for_each(|argument| write!(f, " {argument:?}"))
            }
        }
    }
}

impl Display for SecurityModule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppArmor => "AppArmor",
            Self::Selinux => "SELinux",
        })
    }
}

impl Display for MountSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::New {
                kind,
                parameters,
                attributes,
                under,
            } => {
                f.write_str(&text(kind))?;
                write_attributes(f, u64::from(*attributes), "")?;
                let named_so = |(key, value): &Parameter| {
                    key.as_c_str() == c"source" && value.as_ref() == Some(kind)
                };
                // Most are named after what they are.
                let unsaid = usize::from(parameters.first().is_some_and(named_so));
                write_parameters(f, parameters.get(unsaid..).unwrap_or_default())?;
                f.write_str(match under {
                    Under::Nothing => "",
                    Under::Mode => " with the mode of what it covers",
                    Under::Content => " with a copy of what it covers",
                })
            }
            Self::Classic {
                kind, source, data, ..
            } => {
                let source = if source == kind { c"none" } else { source };
                match source == c"none" {
                    true => write!(f, "{} {}", text(kind), text(data)),
                    false => write!(f, "{} of {source:?} {}", text(kind), text(data)),
                }
            }
            Self::Bind(tree) => tree.fmt(f),
            Self::Kept(keep) => write!(f, "tree {}", keep.0),
            Self::Mapped(number) => write!(f, "mapped tree {number}"),
        }
    }
}

impl Display for Tree {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            path, recursive, ..
        } = self;
        match (self.copy_link, recursive) {
            (false, false) => write!(f, "bind {path:?}"),
            (false, true) => write!(f, "rbind {path:?}"),
            (true, _) => write!(f, "link or bind {path:?}"),
        }
    }
}

impl Display for CgroupView {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.source {
            CgroupSource::Mount { kind, options } => {
                write!(f, "{} {}", text(kind), text(&self.name))?;
                match options == &self.name || options.is_empty() {
                    true => Ok(()),
                    false => write!(f, " ({})", text(options)),
                }
            }
            CgroupSource::Own(path) => write!(f, "{path:?} {}", text(&self.name)),
        }
    }
}

impl Display for Attributes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_attributes(f, self.set, "")?;
        write_attributes(f, self.set_recursively, "r")?;
        self.propagation.iter().try_for_each(|it| it.fmt(f))
    }
}

impl Display for Propagation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            libc::MS_SHARED => "shared",
            libc::MS_SLAVE => "slave",
            libc::MS_UNBINDABLE => "unbindable",
            _ => "private",
        };
        write!(f, " {}{kind}", if self.recursive { "r" } else { "" })
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verb = if self.bind.is_some() {
            "bind device"
        } else {
            "make device"
        };
        let kind = match self.kind {
            libc::S_IFBLK => 'b',
            libc::S_IFIFO => 'p',
            _ => 'c',
        };
        let Self {
            place,
            major,
            minor,
            mode,
            ..
        } = self;
        write!(f, "{verb} {place} {kind} {major}:{minor} {mode:04o}")
    }
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let path = text(&self.path);
        match self.below {
            Some(keep) => write!(f, "{}/{path}", Kept(keep)),
            None => write!(f, "/{path}"),
        }
    }
}

/// A mount that steps refer to.
struct Kept(Keep);

impl Display for Kept {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Keep::PROC => f.write_str("/proc"),
            Keep::SYS => f.write_str("/sys"),
            Keep::DEV => f.write_str("/dev"),
            Keep(number) => write!(f, "tree {number}"),
        }
    }
}

/// A path inside the root.
struct Inside<'p>(&'p CStr);

impl Display for Inside<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", text(self.0))
    }
}

fn write_attributes(f: &mut Formatter<'_>, set: u64, prefix: &str) -> fmt::Result {
    const NAMES: [(Attr, &str); 8] = [
        (Attr::MOUNT_ATTR_RDONLY, "ro"),
        (Attr::MOUNT_ATTR_NOSUID, "nosuid"),
        (Attr::MOUNT_ATTR_NODEV, "nodev"),
        (Attr::MOUNT_ATTR_NOEXEC, "noexec"),
        (NOSYMFOLLOW, "nosymfollow"),
        (Attr::MOUNT_ATTR_NOATIME, "noatime"),
        (Attr::MOUNT_ATTR_STRICTATIME, "strictatime"),
        (Attr::MOUNT_ATTR_NODIRATIME, "nodiratime"),
    ];
    for (flag, name) in NAMES {
        if set & u64::from(flag.bits()) != 0 {
            write!(f, " {prefix}{name}")?;
        }
    }
    Ok(())
}

fn write_parameters(f: &mut Formatter<'_>, parameters: &[Parameter]) -> fmt::Result {
    parameters.iter().try_for_each(|(key, value)| match value {
        Some(value) => write!(f, " {}={}", text(key), text(value)),
        None => write!(f, " {}", text(key)),
    })
}

fn text(bytes: &CStr) -> String {
    String::from_utf8_lossy(bytes.to_bytes())
        .escape_debug()
        .to_string()
}

fn one_line(map: &str) -> String {
    map.trim_end().replace('\n', ", ")
}
