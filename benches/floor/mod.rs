//! The floor of a run: the bare system calls that any container of this kind takes, and nothing else.
//!
//! `clone3` with six namespaces, Docker's mounts (but for the view of the cgroups, which the others
//! have), devices, masks and read-only paths, `pivot_root`, the bounding set and the capabilities, the
//! default seccomp filter, the groups of every cgroup v1 hierarchy (or `CLONE_INTO_CGROUP`), `execve`,
//! wait, and the removal of the groups. Of two ways into a v1 group it takes the fast one: the child
//! writes to `tasks`. Who writes to `cgroup.procs` waits up to tens of milliseconds for a grace period
//! of RCU, unless somebody else has just done so.
//!
//! A program with threads cannot fork like that, so the floor runs in a process of its own: this
//! program executed again, which reads a byte for each run, clones, waits, and writes the byte back.
//! That is the fair comparison for the launcher of `container-core`, which is a resident process that
//! clones on request, too. The mounts take the old calls, one each; nothing is checked, reported,
//! recorded or resolved inside the root, as a container engine has to.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use container_engine::container_core::seccomp::{Filter, Instruction, compile};
use container_engine::container_core::{capability, defaults};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, makedev, mkdir, mknodat, symlink};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
};
use rustix::process::{Pid, WaitOptions, chdir, pivot_root, waitpid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};

use crate::ground::{Hierarchy, hierarchies};

/// The first argument of the process that [`serve`]s.
const ARGUMENT: &str = "--serve-floor";

/// Of `linux/sched.h`; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The process that runs the floor, seen from the benchmark.
pub(crate) struct Floor {
    process: Child,
    requests: Option<ChildStdin>,
    answers: ChildStdout,
}

impl Floor {
    /// Starts the process, to run `/bin/true` of the directory `root` in groups below `parent`.
    pub(crate) fn start(root: &Path, parent: &str) -> Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .args([root.as_os_str(), parent.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("execute this program again")?;
        Ok(Self {
            requests: process.stdin.take(),
            answers: process.stdout.take().context("it is piped")?,
            process,
        })
    }

    /// One run, from the clone to the removal of the groups.
    pub(crate) fn run(&mut self) -> Result<()> {
        let mut byte = [0];
        let requests = self.requests.as_mut().context("open until the end")?;
        requests.write_all(&byte).context("ask for a run")?;
        self.answers.read_exact(&mut byte).context("wait for a run")
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.process.wait();
    }
}

/// Serves if that is what this process was started for; otherwise does nothing.
pub(crate) fn serve() -> Result<bool> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [argument, root, parent] = arguments.as_slice() else {
        return Ok(false);
    };
    if argument != ARGUMENT {
        return Ok(false);
    }
    let parent = parent.to_str().context("the name of a group")?;
    let run = Run::prepare(Path::new(root), parent)?;
    let mut byte = [0];
    while rustix::io::read(rustix::stdio::stdin(), &mut byte)? == 1 {
        run.run()?;
        rustix::io::write(rustix::stdio::stdout(), &byte)?;
    }
    Ok(true)
}

/// All that is the same for every run.
struct Run {
    root: CString,
    groups: Groups,
    filter: Filter,
    capabilities: u64,
    masked: Vec<CString>,
    read_only: Vec<CString>,
}

enum Groups {
    /// One of every hierarchy.
    V1(Vec<Group>),
    V2(PathBuf),
}

struct Group {
    directory: PathBuf,
    /// Files and values without which nothing can join it.
    needs: Vec<(PathBuf, Vec<u8>)>,
}

impl Run {
    fn prepare(root: &Path, parent: &str) -> Result<Self> {
        let spec = defaults::default_spec();
        let linux = spec.linux().as_ref().context("a spec for Linux")?;
        let filter = linux.seccomp().as_ref().context("a filter by default")?;
        let relative = |paths: &Option<Vec<String>>| {
            let paths = paths.iter().flatten();
            paths
                .map(|path| CString::new(path.trim_start_matches('/')))
                .collect::<std::result::Result<_, _>>()
        };
        Ok(Self {
            root: CString::new(root.as_os_str().as_bytes())?,
            groups: Groups::below(parent)?,
            filter: compile(filter)?,
            capabilities: capability::DEFAULT,
            masked: relative(linux.masked_paths())?,
            read_only: relative(linux.readonly_paths())?,
        })
    }

    fn run(&self) -> Result<()> {
        let group = self.groups.make()?;
        let Some(child) = clone(group.as_ref())? else {
            let Err(error) = self.enter();
            // Nobody but the measurer reads it, who will see the status.
            let _ = writeln!(std::io::stderr(), "floor: {error:#}");
            // SAFETY: ends this process, a fork that must not run what is registered for its end.
            unsafe { libc::_exit(1) }
        };
        let status = loop {
            match waitpid(Some(child), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                result => break result?.context("no status")?.1,
            }
        };
        self.groups.remove()?;
        ensure!(status.exit_status() == Some(0), "the floor ended badly");
        Ok(())
    }

    /// In the child: from the namespaces to the program.
    fn enter(&self) -> Result<Infallible> {
        self.groups.join()?;
        // Rooted at the groups of its maker, and so the last.
        unshare(CloneFlags::CLONE_NEWCGROUP)?;
        mount_change(
            c"/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )?;
        mount_bind_recursive(self.root.as_c_str(), self.root.as_c_str())?;
        chdir(self.root.as_c_str())?;
        mount_file_systems().context("mount")?;
        for path in &self.read_only {
            make_read_only(path)?;
        }
        for path in &self.masked {
            mask(path)?;
        }
        pivot_root(c".", c".").context("pivot_root")?;
        unmount(c".", UnmountFlags::DETACH)?;
        chdir(c"/")?;
        rustix::system::sethostname(b"floor")?;
        self.confine().context("confine")?;
        nix::unistd::execv(c"/bin/true", &[c"/bin/true"]).context("execute")
    }

    fn confine(&self) -> Result<()> {
        let keep = CapabilitySet::from_bits_retain(self.capabilities);
        let known = CapabilitySet::from_bits_retain(capability::known());
        load_filter(&self.filter.instructions, self.filter.flags)?;
        for capability in known.difference(keep).iter() {
            remove_capability_from_bounding_set(capability)?;
        }
        let sets = CapabilitySets {
            effective: keep,
            permitted: keep,
            inheritable: CapabilitySet::empty(),
        };
        Ok(set_capabilities(None, sets)?)
    }
}

impl Groups {
    fn below(parent: &str) -> Result<Self> {
        let mut all = Vec::new();
        for Hierarchy { v2, mount_point } in hierarchies()? {
            let parent = mount_point.join(parent);
            let group = parent.join("floor");
            if v2 {
                return Ok(Self::V2(group));
            }
            let mut needs = Vec::new();
            for name in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(parent.join(name)) {
                    needs.push((group.join(name), value));
                }
            }
            let directory = group;
            all.push(Group { directory, needs });
        }
        ensure!(!all.is_empty(), "this host has no cgroups");
        Ok(Self::V1(all))
    }

    /// Gives the version 2 group, to be cloned into.
    fn make(&self) -> Result<Option<OwnedFd>> {
        let make = |group: &Path| fs::create_dir(group).with_context(|| format!("make {group:?}"));
        match self {
            Self::V1(groups) => {
                for group in groups {
                    make(&group.directory)?;
                    for (file, value) in &group.needs {
                        fs::write(file, value).with_context(|| format!("write {file:?}"))?;
                    }
                }
                Ok(None)
            }
            Self::V2(group) => {
                make(group)?;
                Ok(Some(fs::File::open(group)?.into()))
            }
        }
    }

    fn join(&self) -> Result<()> {
        let Self::V1(groups) = self else {
            return Ok(());
        };
        for Group { directory, .. } in groups {
            fs::write(directory.join("tasks"), "0")
                .with_context(|| format!("join {directory:?}"))?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        match self {
            Self::V1(groups) => groups
                .iter()
                .try_for_each(|group| fs::remove_dir(&group.directory)),
            Self::V2(group) => fs::remove_dir(group),
        }
        .context("remove a group")
    }
}

/// The file systems and devices of every container, below the working directory.
fn mount_file_systems() -> Result<()> {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let no_exec = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(c"proc", c"proc", c"proc", plain, None)?;
    let dev = c"mode=755,size=65536k";
    mount(c"tmpfs", c"dev", c"tmpfs", MountFlags::NOSUID, dev)?;
    for (path, mode) in [
        (c"dev/pts", 0o755),
        (c"dev/shm", 0o1777),
        (c"dev/mqueue", 0o755),
    ] {
        mkdir(path, Mode::from_raw_mode(mode))?;
    }
    let pts = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount(c"devpts", c"dev/pts", c"devpts", no_exec, pts)?;
    mount(
        c"shm",
        c"dev/shm",
        c"tmpfs",
        plain,
        c"mode=1777,size=65536k",
    )?;
    mount(c"mqueue", c"dev/mqueue", c"mqueue", plain, None)?;
    for (path, major, minor) in [
        (c"dev/null", 1, 3),
        (c"dev/zero", 1, 5),
        (c"dev/full", 1, 7),
        (c"dev/random", 1, 8),
        (c"dev/urandom", 1, 9),
        (c"dev/tty", 5, 0),
    ] {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
    }
    for (target, path) in [
        (c"/proc/self/fd", c"dev/fd"),
        (c"/proc/self/fd/0", c"dev/stdin"),
        (c"/proc/self/fd/1", c"dev/stdout"),
        (c"/proc/self/fd/2", c"dev/stderr"),
        (c"pts/ptmx", c"dev/ptmx"),
    ] {
        symlink(target, path)?;
    }
    mount(c"sysfs", c"sys", c"sysfs", plain | MountFlags::RDONLY, None)?;
    Ok(())
}

fn make_read_only(path: &CStr) -> Result<()> {
    match mount_bind_recursive(path, path) {
        Err(Errno::NOENT) => Ok(()),
        result => {
            result?;
            let flags = MountFlags::BIND
                | MountFlags::RDONLY
                | MountFlags::NOSUID
                | MountFlags::NODEV
                | MountFlags::NOEXEC;
            Ok(mount_remount(path, flags, c"")?)
        }
    }
}

fn mask(path: &CStr) -> Result<()> {
    match mount_bind(c"dev/null", path) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTDIR) => Ok(mount(
            c"tmpfs",
            path,
            c"tmpfs",
            MountFlags::RDONLY,
            c"size=0k",
        )?),
        result => Ok(result?),
    }
}

/// Gives the child in the parent, and nothing in the child.
fn clone(group: Option<&OwnedFd>) -> Result<Option<Pid>> {
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    // SAFETY: the structure is plain numbers, for which zero says "not used".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.unsigned_abs());
    arguments.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: without CLONE_VM the child has its own copy of the memory, and this process has one
    // thread, so that no lock is held in the copy.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Pid::from_raw(i32::try_from(pid)?)),
        _ => bail!("clone3: {}", std::io::Error::last_os_error()),
    }
}

fn load_filter(instructions: &[Instruction], flags: u32) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len())?,
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: an instruction is laid out as the kernel's, and the program points to `len` of them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    ensure!(result == 0, "seccomp: {}", std::io::Error::last_os_error());
    Ok(())
}
