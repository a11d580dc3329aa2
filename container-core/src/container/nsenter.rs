//! A process in namespaces of others, without being a process of a container.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};

use super::create::{Descriptors, open_console, open_streams};
use super::exec::{NAMESPACES, Process, foreign_namespaces};
use super::handle::{Handle, readable};
use super::options::Stdio;
use crate::cgroup::{self, Join};
use crate::launcher::protocol::Job;
use crate::plan::step::{Program, Slot, SlotKind, Step};
use crate::plan::{Birthplace, Plan, candidates};
use crate::{Error, ErrorKind, Launcher, Result, Supervision, sys};

/// Runs a program in namespaces of other processes, as `nsenter(1)` does.
///
/// Each method is one of its options. Unlike [`Launcher::exec`] this knows nothing of containers:
/// the program has the capabilities, the environment, the limits and the cgroup of this program, and
/// no filter, unless it is asked for something else.
///
/// ```no_run
/// use container_core::oci_spec::runtime::LinuxNamespaceType::{Network, Uts};
/// use container_core::{Launcher, Nsenter};
///
/// let pid = 4711;
/// let entered = Nsenter::new().target(pid).namespace(Network).namespace(Uts);
/// let process = entered.command("ip", ["address"]).spawn(&Launcher::new())?;
/// println!("{}", process.wait()?);
/// # Ok::<(), container_core::Error>(())
/// ```
///
/// # Privileges
/// CAP_SYS_ADMIN in the user namespaces that own the namespaces; a plain user has it in his own user
/// namespaces, if that is entered too.
///
/// # References
/// `nsenter(1)`, `setns(2)`.
#[derive(Debug)]
pub struct Nsenter {
    target: Option<i32>,
    all: bool,
    namespaces: Vec<(LinuxNamespaceType, Option<PathBuf>)>,
    uid: Option<u32>,
    gid: Option<u32>,
    preserve_credentials: bool,
    root: Option<Of>,
    directory: Option<Of>,
    directory_inside: Option<PathBuf>,
    environment_of_target: bool,
    follow_context: bool,
    join_cgroup: bool,
    no_fork: bool,
    command: Vec<OsString>,
    terminal: bool,
    stdio: [Stdio; 3],
}

/// Where something that is entered is found.
#[derive(Debug)]
enum Of {
    Target,
    Path(PathBuf),
}

impl Default for Nsenter {
    fn default() -> Self {
        Self::new()
    }
}

impl Nsenter {
    /// Enters nothing yet, and runs the user's shell.
    #[must_use]
    pub fn new() -> Self {
        Self {
            target: None,
            all: false,
            namespaces: Vec::new(),
            uid: None,
            gid: None,
            preserve_credentials: false,
            root: None,
            directory: None,
            directory_inside: None,
            environment_of_target: false,
            follow_context: false,
            join_cgroup: false,
            no_fork: false,
            command: Vec::new(),
            terminal: false,
            stdio: [Stdio::Inherit, Stdio::Inherit, Stdio::Inherit],
        }
    }

    /// The process whose namespaces, root, directory, environment or cgroup are meant (`--target`).
    #[must_use]
    pub fn target(mut self, pid: i32) -> Self {
        self.target = Some(pid);
        self
    }

    /// Enters all namespaces of the target that are not this program's already (`--all`).
    #[must_use]
    pub fn all(mut self) -> Self {
        self.all = true;
        self
    }

    /// Enters this namespace of the target (`--mount`, `--uts`, …).
    ///
    /// Who enters a user namespace is its root, unless asked for otherwise.
    #[must_use]
    pub fn namespace(mut self, kind: LinuxNamespaceType) -> Self {
        self.namespaces.push((kind, None));
        self
    }

    /// Enters the namespace that the file `path` stands for (`--mount=FILE`, …).
    #[must_use]
    pub fn namespace_at(mut self, kind: LinuxNamespaceType, path: impl Into<PathBuf>) -> Self {
        self.namespaces.push((kind, Some(path.into())));
        self
    }

    /// Becomes this user, by its number inside (`--setuid`).
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Becomes this group, by its number inside, and drops all others (`--setgid`).
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// Does not become root of a user namespace (`--preserve-credentials`).
    #[must_use]
    pub fn preserve_credentials(mut self) -> Self {
        self.preserve_credentials = true;
        self
    }

    /// Takes over the root directory of the target (`--root`).
    #[must_use]
    pub fn root(mut self) -> Self {
        self.root = Some(Of::Target);
        self
    }

    /// Makes this directory, opened before anything is entered, the root (`--root=DIR`).
    #[must_use]
    pub fn root_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.root = Some(Of::Path(path.into()));
        self
    }

    /// Takes over the working directory of the target (`--wd`).
    #[must_use]
    pub fn directory(mut self) -> Self {
        self.directory = Some(Of::Target);
        self
    }

    /// Makes this directory, opened before anything is entered, the working directory (`--wd=DIR`).
    #[must_use]
    pub fn directory_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(Of::Path(path.into()));
        self
    }

    /// Makes this directory, opened when everything is entered, the working directory (`--wdns`).
    #[must_use]
    pub fn directory_inside(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory_inside = Some(path.into());
        self
    }

    /// Takes over the environment that the target was started with (`--env`).
    #[must_use]
    pub fn environment_of_target(mut self) -> Self {
        self.environment_of_target = true;
        self
    }

    /// Takes over the SELinux context of the target (`--follow-context`), which is not supported:
    /// [`Self::spawn`] says so.
    #[must_use]
    pub fn follow_context(mut self) -> Self {
        self.follow_context = true;
        self
    }

    /// Enters the cgroups of the target (`--join-cgroup`).
    #[must_use]
    pub fn join_cgroup(mut self) -> Self {
        self.join_cgroup = true;
        self
    }

    /// Leaves the program itself outside a PID namespace that is entered, so that only its children are
    /// in it (`--no-fork`).
    #[must_use]
    pub fn no_fork(mut self) -> Self {
        self.no_fork = true;
        self
    }

    /// The program, looked up in `PATH` where it is run, and its arguments.
    ///
    /// Without one it is `$SHELL`, or `/bin/sh`, as a login shell.
    #[must_use]
    pub fn command<A: Into<OsString>>(
        mut self,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.command = vec![program.into()];
        self.command.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Standard input, output and error; those of this program unless set.
    #[must_use]
    pub fn stdio(mut self, stdio: [Stdio; 3]) -> Self {
        self.stdio = stdio;
        self
    }

    /// Gives the program a terminal for its standard streams, from `/dev/pts` where it runs, which
    /// [`Process::take_terminal`] gives out. Without, it has no controlling terminal.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self.stdio = Default::default();
        self
    }

    /// Starts the program; blocks until it runs. It is killed when the [`Process`] is dropped.
    ///
    /// # Errors
    /// `InvalidInput` (`NoTarget`) for what needs a target where there is none; `NotFound` if the
    /// target or a file does not exist; the step that failed, in words; for the program `NotFound`
    /// (`CommandNotFound`) and `PermissionDenied` (`CommandNotExecutable`); `Unsupported` for
    /// [`Self::follow_context`].
    pub fn spawn(mut self, launcher: &Launcher) -> Result<Process> {
        if self.follow_context {
            let what = "follow the SELinux context of the target: it is not supported";
            return Err(Error::new(ErrorKind::Unsupported, "Unsupported", what));
        }
        let target = self.target.map(open_target).transpose()?;
        let streams = std::mem::take(&mut self.stdio);
        let join = match (self.join_cgroup, self.target) {
            (true, Some(pid)) => cgroup::join_of(pid)?,
            (true, None) => return Err(no_target("the cgroup")),
            (false, _) => Join::default(),
        };
        let mut draft = Draft::default();
        let stdio = [0, 1, 2].map(|stream| draft.slot(SlotKind::Stdio(stream)));
        draft.enter(&self, launcher, &join)?;
        draft.become_user(&self)?;
        draft.steps.push(Step::ParentDeathSignal);
        draft.steps.push(Step::SetUmask(own_umask()));
        draft.steps.push(Step::SetStdio(stdio));
        let program = self.program()?;
        draft.steps.push(Step::Execute(program));
        if let (Some(target), Some(pid)) = (&target, self.target)
            && readable(target.as_fd(), Some(Instant::now()))?
        {
            // The number may have been another process's when the files below it were opened.
            return Err(has_ended(pid));
        }
        let cgroup = join
            .into
            .is_some()
            .then(|| draft.slot(SlotKind::CgroupInto));
        let plan = Plan {
            flags: sys::CLONE_CLEAR_SIGHAND,
            born_in: draft.born_in,
            cgroup,
            slots: draft.slots,
            steps: draft.steps,
            ..Plan::default()
        };
        let streams = open_streams(&plan, streams)?;
        let (console, terminal) = open_console(&plan, None)?;
        let job = Job {
            plan,
            supervision: Supervision::Attached,
            state: None,
            exit_record: None,
            cgroup: None,
            own_cgroup: None,
        };
        let descriptors = Descriptors {
            streams: streams.theirs.map(Some),
            start: None,
            join,
            console,
            extra: Vec::new(),
            target: None,
        };
        // What the slots name by descriptor has to stay open until here.
        let (handle, _) = launcher.hand_over(job, descriptors)?;
        drop(draft.opened);
        let process = Process(Handle {
            streams: streams.ours,
            terminal,
            ..handle
        });
        process.0.wait_running()?;
        Ok(process)
    }

    fn of_target(&self, what: &str, file: &str) -> Result<PathBuf> {
        match self.target {
            Some(pid) => Ok(format!("/proc/{pid}/{file}").into()),
            None => Err(no_target(what)),
        }
    }

    fn path(&self, of: &Of, what: &str, file: &str) -> Result<PathBuf> {
        match of {
            Of::Target => self.of_target(what, file),
            Of::Path(path) => Ok(path.clone()),
        }
    }

    fn program(&self) -> Result<Program> {
        let environment: Vec<Vec<u8>> = if self.environment_of_target {
            let path = self.of_target("the environment", "environ")?;
            let bytes =
                fs::read(&path).map_err(|error| Error::os(format!("read {path:?}"), error))?;
            let entries = bytes.split(|byte| *byte == 0);
            entries
                .filter(|entry| !entry.is_empty())
                .map(<[u8]>::to_vec)
                .collect()
        } else {
            std::env::vars_os()
                .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
                .collect()
        };
        let value = |name: &[u8]| {
            let mut entries = environment.iter();
            entries.find_map(|entry| entry.strip_prefix(name)?.strip_prefix(b"="))
        };
        let (program, arguments) = match self.command.as_slice() {
            [] => {
                let shell = value(b"SHELL").unwrap_or(b"/bin/sh");
                let name = Path::new(OsStr::from_bytes(shell)).file_name();
                let login = [b"-", name.unwrap_or_default().as_bytes()].concat();
                (shell.to_vec(), vec![login])
            }
            [program, ..] => {
                let arguments = self.command.iter().map(|word| word.clone().into_vec());
                (program.clone().into_vec(), arguments.collect())
            }
        };
        let strings = |texts: Vec<Vec<u8>>| texts.into_iter().map(text).collect::<Result<_>>();
        Ok(Program {
            candidates: candidates(&program, value(b"PATH"))?,
            arguments: strings(arguments)?,
            environment: strings(environment.clone())?,
            add_home: false,
        })
    }
}

/// A plan in the making.
#[derive(Default)]
struct Draft {
    slots: Vec<SlotKind>,
    born_in: Vec<Birthplace>,
    steps: Vec<Step>,
    opened: Vec<OwnedFd>,
    /// Whether it becomes root of a user namespace unless told otherwise.
    enters_user_namespace: bool,
}

impl Draft {
    fn slot(&mut self, kind: SlotKind) -> Slot {
        self.slots.push(kind);
        Slot(u16::try_from(self.slots.len() - 1).unwrap_or(u16::MAX))
    }

    /// Opens a file now, so that it is of the process that was meant, and keeps it for the plan.
    fn open(&mut self, path: &Path) -> Result<Slot> {
        let opened = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os(format!("open {path:?}"), errno))?;
        let again = format!("/proc/self/fd/{}", opened.as_raw_fd());
        self.opened.push(opened);
        Ok(self.slot(SlotKind::Namespace(again)))
    }

    fn enter(&mut self, asked: &Nsenter, launcher: &Launcher, join: &Join) -> Result<()> {
        let mut paths: Vec<(libc::c_int, PathBuf)> = Vec::new();
        if asked.all {
            let Some(pid) = asked.target else {
                return Err(no_target("all namespaces"));
            };
            let foreign = foreign_namespaces(pid, launcher.pid()?)?;
            for (name, flag) in NAMESPACES {
                if foreign & flag.unsigned_abs() != 0 {
                    paths.push((flag, format!("/proc/{pid}/ns/{name}").into()));
                }
            }
        }
        for (kind, path) in &asked.namespaces {
            let (name, flag) = named(*kind);
            let path = match path {
                Some(path) => path.clone(),
                None => asked.of_target("a namespace", &format!("ns/{name}"))?,
            };
            paths.retain(|(other, _)| *other != flag);
            paths.push((flag, path));
        }
        // Root goes where it may no longer have a right to the others last; a plain user has a right to
        // them only there.
        let user_last = geteuid().is_root();
        paths.sort_by_key(|(flag, _)| {
            let position = NAMESPACES.iter().position(|(_, other)| other == flag);
            ((*flag == libc::CLONE_NEWUSER) == user_last, position)
        });
        self.enters_user_namespace = paths.iter().any(|(flag, _)| *flag == libc::CLONE_NEWUSER);
        let enters_mounts = paths.iter().any(|(flag, _)| *flag == libc::CLONE_NEWNS);
        self.steps.push(Step::NewSession);
        for _ in &join.procs {
            let group = self.slot(SlotKind::CgroupJoin);
            self.steps.push(Step::JoinCgroup { group });
        }
        for (flag, path) in paths {
            let (of, namespaces) = (self.open(&path)?, flag.unsigned_abs());
            if flag == libc::CLONE_NEWPID && asked.no_fork {
                self.steps.push(Step::JoinNamespace {
                    namespace: of,
                    flag: namespaces,
                });
            } else {
                self.born_in.push(Birthplace { of, namespaces });
            }
        }
        self.change_directories(asked, enters_mounts)?;
        if asked.terminal {
            let socket = self.slot(SlotKind::Console);
            self.steps.push(Step::OpenTerminal {
                socket,
                size: None,
                console: None,
            });
        }
        Ok(())
    }

    fn change_directories(&mut self, asked: &Nsenter, enters_mounts: bool) -> Result<()> {
        // Both are opened before either is changed.
        let root = match &asked.root {
            Some(of) => Some(self.open(&asked.path(of, "the root directory", "root")?)?),
            None => None,
        };
        let directory = match (&asked.directory, &asked.directory_inside) {
            (Some(of), _) => Some(self.open(&asked.path(of, "the working directory", "cwd")?)?),
            // The launcher's is not this program's. Another mount namespace has its own.
            (None, None) if !enters_mounts => Some(self.open(Path::new("."))?),
            _ => None,
        };
        self.steps.extend(root.map(Step::ChangeRoot));
        match &asked.directory_inside {
            Some(path) => {
                let path = text(path.as_os_str().as_bytes().to_vec())?;
                self.steps.push(Step::ChangeHostDirectory(path));
            }
            None => self.steps.extend(directory.map(Step::EnterDirectory)),
        }
        Ok(())
    }

    fn become_user(&mut self, asked: &Nsenter) -> Result<()> {
        let root = (self.enters_user_namespace && !asked.preserve_credentials).then_some(0);
        let (uid, gid) = (asked.uid.or(root), asked.gid.or(root));
        if uid.or(gid).is_none() {
            return Ok(());
        }
        // A user namespace of a plain user's own may forbid it.
        let forbidden = match asked.target {
            Some(pid) if self.enters_user_namespace => {
                fs::read_to_string(format!("/proc/{pid}/setgroups"))
                    .is_ok_and(|word| word.trim() == "deny")
            }
            _ => false,
        };
        self.steps.push(Step::SetIds {
            uid,
            gid,
            drop_groups: gid.is_some() && !forbidden,
        });
        Ok(())
    }
}

fn named(kind: LinuxNamespaceType) -> (&'static str, libc::c_int) {
    match kind {
        LinuxNamespaceType::Mount => ("mnt", libc::CLONE_NEWNS),
        LinuxNamespaceType::Cgroup => ("cgroup", libc::CLONE_NEWCGROUP),
        LinuxNamespaceType::Uts => ("uts", libc::CLONE_NEWUTS),
        LinuxNamespaceType::Ipc => ("ipc", libc::CLONE_NEWIPC),
        LinuxNamespaceType::User => ("user", libc::CLONE_NEWUSER),
        LinuxNamespaceType::Pid => ("pid", libc::CLONE_NEWPID),
        LinuxNamespaceType::Network => ("net", libc::CLONE_NEWNET),
        LinuxNamespaceType::Time => ("time", libc::CLONE_NEWTIME),
    }
}

fn open_target(pid: i32) -> Result<OwnedFd> {
    let process = Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| {
        Error::invalid(
            "InvalidTarget",
            format!("enter namespaces of process {pid}"),
        )
    })?;
    pidfd_open(process, PidfdFlags::empty()).map_err(|errno| match errno {
        rustix::io::Errno::SRCH => has_ended(pid),
        _ => Error::os(format!("open process {pid}"), errno),
    })
}

fn has_ended(pid: i32) -> Error {
    let what = format!("enter namespaces of process {pid}, which does not exist");
    Error::new(ErrorKind::NotFound, "NoProcess", what)
}

fn no_target(what: &str) -> Error {
    Error::invalid(
        "NoTarget",
        format!("enter {what} of a target that is not named"),
    )
}

fn text(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes)
        .map_err(|_| Error::invalid("NulByte", "pass a word with a NUL byte to a program"))
}

/// The mask of this program, which the launcher does not have. To ask for it otherwise is to change it.
fn own_umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o022)
}
