//! The list of kernel operations that a plan consists of: plain data, with all strings ready.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use super::hook::Stage;
use crate::seccomp::{Agent, Instruction};
use crate::sys::SchedAttr;

/// The place of a descriptor in the list that travels with a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Slot(pub(crate) u16);

/// What the descriptor in a [`Slot`] is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SlotKind {
    /// The standard input, output or error (0, 1, 2) of the process.
    Stdio(u8),
    /// Delivers one byte when the process is to start.
    Start,
    /// An existing namespace, opened from this path.
    Namespace(String),
    /// The file through which a process enters a cgroup v1 group.
    CgroupJoin,
    /// The directory of a cgroup v2 group.
    CgroupInto,
    /// The socket over which the terminal is sent.
    Console,
    /// What the program gets as the descriptor of this number.
    Extra(u32),
    /// The process whose namespaces are entered.
    Target,
}

/// One step on the way from a fresh clone to the user's program.
///
/// A step is executed by the child of a clone, which must not allocate: everything in it is ready
/// for the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub(crate) enum Step {
    /// Waits until the parent wrote the id maps of the new user namespace, then becomes its root.
    AwaitIdMaps,
    /// Becomes root of the user namespace that the process was born into.
    BecomeRoot,
    /// Makes a time namespace with these clock offsets, and enters it.
    ///
    /// Comes first: with its user a process may lose the right to its own files in `/proc`.
    NewTimeNamespace {
        /// The content of `/proc/self/timens_offsets`.
        offsets: CString,
    },
    /// Dies with the monitor.
    ParentDeathSignal,
    /// Starts a session without a controlling terminal.
    NewSession,
    /// Enters a cgroup v1 group.
    JoinCgroup {
        group: Slot,
    },
    /// Enters an existing namespace.
    JoinNamespace {
        namespace: Slot,
        flag: u32,
    },
    /// Makes the groups entered so far the root of what the process sees of the cgroup tree.
    NewCgroupNamespace,
    /// Takes a session keyring without the keys of the embedder; by its name others can join it.
    NewKeyring {
        name: Option<CString>,
        permissions: u32,
    },
    /// Brings up the loopback interface of a new network namespace.
    RaiseLoopback,
    SetHostname(CString),
    SetDomainname(CString),
    /// Cuts the copied mount tree off from the host's.
    ///
    /// Before the first mount, which would otherwise show up on the host.
    Detach,
    /// Lower directories of the root are named relative to this one.
    ChangeHostDirectory(CString),
    /// Makes a directory that was opened outside the root, and the working directory.
    ChangeRoot(Slot),
    /// Makes a directory that was opened outside the working directory.
    EnterDirectory(Slot),
    /// Changes groups, then group, then user, as far as asked for.
    SetIds {
        uid: Option<u32>,
        gid: Option<u32>,
        drop_groups: bool,
    },
    /// Copies a tree of the host while it still is a peer of the host's.
    ///
    /// Before [`Step::Detach`], for a mount that is to get the host's later mounts, or to give it its
    /// own.
    OpenTree {
        tree: Tree,
        keep: Keep,
    },
    /// Mounts the root file system over `over`, an existing directory of the host.
    MountRoot {
        source: MountSource,
        over: CString,
        attributes: Attributes,
    },
    /// Mounts below the root.
    Mount {
        source: MountSource,
        target: CString,
        attributes: Attributes,
        keep: Option<Keep>,
        refused: Refused,
    },
    /// Changes a mount that is there already.
    Remount {
        target: CString,
        /// For the file system itself, which all its mounts share.
        parameters: Option<Vec<Parameter>>,
        attributes: Attributes,
    },
    /// Mounts the cgroup hierarchies side by side on an own tmpfs.
    MountCgroups {
        target: CString,
        parameters: Vec<Parameter>,
        /// `MOUNT_ATTR_*` of each mount.
        attributes: u32,
        views: Vec<CgroupView>,
        refused: Refused,
    },
    /// Makes a mount read-only that had to be writable until everything below it was mounted.
    Finish {
        mount: Keep,
    },
    MakeDevice(Device),
    MakeSymlink {
        target: CString,
        place: Place,
    },
    /// Writes a kernel parameter through our own proc mount.
    WriteSysctl {
        name: CString,
        value: CString,
    },
    /// Hides a file behind `/dev/null` and a directory behind an empty read-only one.
    Mask(Place),
    MakeReadOnly(Place),
    /// Reads the image's `/etc/passwd` and `/etc/group` for `user`.
    ///
    /// `with_groups` is false where the kernel does not let the user namespace set them.
    LookUpUser {
        user: CString,
        with_groups: bool,
    },
    /// Lets the monitor run the hooks that belong outside, and waits for it.
    AwaitHooks,
    /// Runs the hooks of this stage, which belong inside.
    RunHooks(Stage),
    /// Makes the mounted root the root of the process and drops the host's tree.
    PivotRoot,
    /// Sets what the root is to its copies; only now, as a shared root cannot be pivoted to.
    SetRootPropagation(Propagation),
    MakeRootReadOnly,
    SetLimit {
        resource: i32,
        soft: u64,
        hard: u64,
    },
    /// Runs on the processors whose bits are set only.
    SetAffinity(Vec<u64>),
    SetScheduler(SchedAttr),
    SetIoPriority(u32),
    SetPersonality(u32),
    SetMemoryPolicy {
        mode: u32,
        nodes: Vec<u64>,
    },
    /// Labels the program at the next `execve`.
    SetExecLabel {
        module: SecurityModule,
        label: CString,
    },
    /// Sets the working directory, which must lie inside the root.
    ChangeDirectory {
        path: CString,
        /// Makes what is missing of it.
        make: bool,
    },
    NoNewPrivileges,
    /// Allows nothing with files but this, by path. Needs CAP_SYS_ADMIN or `no_new_privs`.
    RestrictFiles {
        /// What is forbidden elsewhere: `LANDLOCK_ACCESS_FS_*`.
        handled: u64,
        rules: Vec<(CString, u64)>,
    },
    /// Loads the filter.
    ///
    /// Without `no_new_privs` this needs CAP_SYS_ADMIN, so it comes before the capabilities are
    /// dropped; with it, it comes last, so that no later step has to pass the filter.
    LoadFilter {
        instructions: Vec<Instruction>,
        flags: u32,
        /// Who gets the listener, of a filter that has one.
        agent: Option<Box<Agent>>,
    },
    /// Drops all capabilities but `keep` from the bounding set; needs CAP_SETPCAP.
    LimitCapabilities {
        keep: u64,
    },
    /// Makes a terminal in the container's own devpts and sends the other side of it away.
    ///
    /// The session's controlling terminal and standard streams, and in a container's first process
    /// also `/dev/console`.
    OpenTerminal {
        socket: Slot,
        /// Columns and rows.
        size: Option<(u16, u16)>,
        console: Option<Place>,
    },
    /// Sets groups, then group, then user: each needs what the next one gives up.
    ///
    /// Standard streams that are pipes are given to a user other than root, who could not open
    /// `/dev/stdout` otherwise.
    SetAccount {
        /// `None`: the account found by [`Step::LookUpUser`].
        fixed: Option<Account>,
        stdio: [Slot; 3],
    },
    SetCapabilities(Capabilities),
    SetUmask(u32),
    /// Looks whether one of these can be executed, so that it shows before anybody starts it.
    CheckProgram(Vec<CString>),
    /// Waits for the word to start.
    AwaitStart {
        start: Slot,
        /// The monitor ends meanwhile: no word reaches anybody afterwards.
        released: bool,
    },
    /// Puts the three standard streams in place and closes everything else at exec.
    SetStdio([Slot; 3]),
    /// Gives the program a descriptor beside the standard streams.
    PassDescriptor {
        from: Slot,
        number: u32,
    },
    /// Goes on in a child; the process itself hands signals on to it, reaps, and ends with it.
    ///
    /// After the filter: the program could use an init that is not under it. `visible`: in another
    /// user namespace, where only what may be looked into can be entered.
    BecomeInit {
        visible: bool,
    },
    /// Reaps whatever loses its parent, until it is killed.
    Linger,
    /// Runs parts of this program for whoever asks over descriptor 3.
    Serve,
    Execute(Program),
}

/// A parameter of a file system, with its value if it has one.
pub(crate) type Parameter = (CString, Option<CString>);

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountSource {
    /// A new instance of a file system.
    New {
        kind: CString,
        parameters: Vec<Parameter>,
        /// `MOUNT_ATTR_*` of the new mount.
        attributes: u32,
        under: Under,
    },
    /// A new instance through `mount(2)`, for what the mount API lacks: long parameters.
    Classic {
        kind: CString,
        source: CString,
        data: CString,
        /// `MS_*`
        flags: u32,
    },
    /// A tree of the host.
    Bind(Tree),
    /// A tree of the host that an earlier step opened.
    Kept(Keep),
    /// A tree of the host that the monitor opened and mapped the ids of: its number in the plan.
    Mapped(u16),
}

/// A tree of mounts of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    pub(crate) path: CString,
    /// With all mounts below it.
    pub(crate) recursive: bool,
    /// If it is a link, that is made anew, and nothing mounted.
    pub(crate) copy_link: bool,
}

/// What a new file system takes over of the directory that it is mounted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Under {
    Nothing,
    /// Its permissions.
    Mode,
    /// All that is in it, too.
    Content,
}

/// What to do where the host refuses a new instance of a file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refused {
    Fail,
    /// The mount does not protect anything.
    Skip,
    /// Takes the host's, which shows no more than the process's namespaces allow.
    Bind(Tree),
}

/// What a container sees of one cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CgroupView {
    /// The directory below the tmpfs.
    pub(crate) name: CString,
    pub(crate) source: CgroupSource,
    /// Links to it, one for each controller that shares the hierarchy.
    pub(crate) links: Vec<CString>,
}

/// Where the view of a hierarchy comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CgroupSource {
    /// A mount, which shows the groups of the cgroup namespace: type and options.
    Mount { kind: CString, options: CString },
    /// The process's own group, as there is no such namespace.
    Own(CString),
}

/// Changes to the attributes of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// The same, for the mount and all below it.
    pub(crate) set_recursively: u64,
    pub(crate) clear_recursively: u64,
    /// In this order: a mount can be a slave of one group and share with another.
    pub(crate) propagation: Vec<Propagation>,
}

/// Which events a mount gives to its copies and gets from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub(crate) kind: u64,
    pub(crate) recursive: bool,
}

/// A mount that later steps refer to by descriptor, so that nothing mounted or linked over its path
/// can stand in for it: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keep(pub(crate) u16);

impl Keep {
    pub(crate) const PROC: Self = Self(0);
    pub(crate) const SYS: Self = Self(1);
    pub(crate) const DEV: Self = Self(2);
    /// The first that a plan numbers itself.
    pub(crate) const FIRST_FREE: Self = Self(3);
}

/// A path below a kept mount, or below the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) below: Option<Keep>,
    /// Relative to `below`.
    pub(crate) path: CString,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) place: Place,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub(crate) kind: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The host's node to bind where a user namespace forbids making one.
    pub(crate) bind: Option<CString>,
}

/// A security module that labels processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SecurityModule {
    AppArmor,
    Selinux,
}

/// User, group and supplementary groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `None`: the kernel does not let this user namespace set them.
    pub(crate) groups: Option<Vec<u32>>,
}

/// Capability sets as bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// What is executed in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Tried in turn: the program's path in each directory of `PATH`.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    /// Adds `HOME` of the account that was looked up.
    pub(crate) add_home: bool,
}

/// The system call at which a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Call {
    Access = 1,
    Chdir,
    Capset,
    Chroot,
    Clone,
    Chown,
    CloseRange,
    Dup,
    Execve,
    Fsconfig,
    Fsmount,
    Fsopen,
    Fspick,
    Getcwd,
    Getdents,
    Ioctl,
    IoprioSet,
    Keyctl,
    LandlockAddRule,
    LandlockCreateRuleset,
    LandlockRestrictSelf,
    Mkdir,
    Mknod,
    Mmap,
    Mount,
    MountSetattr,
    MoveMount,
    Open,
    OpenTree,
    Personality,
    PivotRoot,
    Prctl,
    Read,
    SchedSetaffinity,
    SchedSetattr,
    Seccomp,
    Sendmsg,
    SetMempolicy,
    Sendfile,
    Setgid,
    Setgroups,
    Sethostname,
    Setns,
    Setpgid,
    Setrlimit,
    Setsid,
    Setuid,
    Sigprocmask,
    Setxattr,
    Stat,
    Symlink,
    Umount,
    Unshare,
    Write,
    /// Not a call: the account is not in the image's files, or its name is malformed.
    UserLookup,
    /// Not a call: a path that must be a plain directory of ours is something else.
    Verify,
}

impl Call {
    const ALL: &[(Self, &'static str)] = &[
        (Self::Access, "faccessat"),
        (Self::Chdir, "chdir"),
        (Self::Capset, "capset"),
        (Self::Chown, "fchownat"),
        (Self::Chroot, "chroot"),
        (Self::Clone, "clone"),
        (Self::CloseRange, "close_range"),
        (Self::Dup, "dup3"),
        (Self::Execve, "execve"),
        (Self::Fsconfig, "fsconfig"),
        (Self::Fsmount, "fsmount"),
        (Self::Fsopen, "fsopen"),
        (Self::Fspick, "fspick"),
        (Self::Getdents, "getdents64"),
        (Self::Getcwd, "getcwd"),
        (Self::Ioctl, "ioctl"),
        (Self::IoprioSet, "ioprio_set"),
        (Self::Keyctl, "keyctl"),
        (Self::LandlockAddRule, "landlock_add_rule"),
        (Self::LandlockCreateRuleset, "landlock_create_ruleset"),
        (Self::LandlockRestrictSelf, "landlock_restrict_self"),
        (Self::Mkdir, "mkdirat"),
        (Self::Mknod, "mknodat"),
        (Self::Mmap, "mmap"),
        (Self::Mount, "mount"),
        (Self::MountSetattr, "mount_setattr"),
        (Self::MoveMount, "move_mount"),
        (Self::Open, "openat2"),
        (Self::OpenTree, "open_tree"),
        (Self::Personality, "personality"),
        (Self::PivotRoot, "pivot_root"),
        (Self::Prctl, "prctl"),
        (Self::Read, "read"),
        (Self::SchedSetaffinity, "sched_setaffinity"),
        (Self::SchedSetattr, "sched_setattr"),
        (Self::Seccomp, "seccomp"),
        (Self::Sendmsg, "sendmsg"),
        (Self::SetMempolicy, "set_mempolicy"),
        (Self::Sendfile, "sendfile"),
        (Self::Setgid, "setresgid"),
        (Self::Setgroups, "setgroups"),
        (Self::Sethostname, "sethostname"),
        (Self::Setns, "setns"),
        (Self::Setpgid, "setpgid"),
        (Self::Setrlimit, "setrlimit"),
        (Self::Setsid, "setsid"),
        (Self::Setuid, "setresuid"),
        (Self::Sigprocmask, "rt_sigprocmask"),
        (Self::Setxattr, "fsetxattr"),
        (Self::Stat, "statx"),
        (Self::Symlink, "symlinkat"),
        (Self::Umount, "umount2"),
        (Self::Unshare, "unshare"),
        (Self::Write, "write"),
        (Self::UserLookup, "user lookup"),
        (Self::Verify, "verification"),
    ];

    /// The name of the call whose number is `code`.
    pub(crate) fn name_of(code: u8) -> &'static str {
        let named = Self::ALL.iter().find(|(call, _)| *call as u8 == code);
        named.map_or("unknown call", |(_, name)| name)
    }
}
