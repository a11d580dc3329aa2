//! The check that nothing is left behind.
//!
//! A [`Host`] is a list of what there is: mounts, links, addresses, routes, nftables tables, cgroups, processes,
//! descriptors and files. It is meant for the body of [`isolated`](super::isolate::isolated), where mount, network
//! and PID namespaces and the process itself belong to one test, so that whatever appears in them is the test's own
//! doing, however far it has been re-parented. A network namespace that outlives its test is held by a process, by a
//! descriptor or by a mount of nsfs, and so is found as one of these. Control groups are the host's: there, only
//! those below a group that carries the test's name count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::peers;

/// How long the kernel may take to undo in the background what was closed: a veth pair goes with the last reference
/// to its network namespace, a killed process with its parent's wait.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Directories where programs leave sockets, locks and temporaries.
const SHARED_DIRS: [&str; 3] = ["/dev/shm", "/run", "/tmp"];

/// How names of this project begin: the peers leave files of their own in the same directories.
const NAME_PREFIX: &str = "container-";

/// What a host holds at one time, each thing with the number of times that it was seen.
#[derive(Debug)]
pub(crate) struct Host {
    cgroup: String,
    watched: Vec<PathBuf>,
    things: BTreeMap<String, usize>,
}

impl Host {
    /// Looks at the calling thread's namespaces and process, and at all control groups below one called `cgroup`.
    pub(crate) fn snapshot(cgroup: &str) -> Self {
        let mut host = Self {
            cgroup: cgroup.to_owned(),
            watched: Vec::new(),
            things: BTreeMap::new(),
        };
        host.things = host.look();
        host
    }

    /// Makes every file below `dir` count from now on; those that are there have to stay.
    pub(crate) fn watch(&mut self, dir: &Path) {
        self.watched.push(dir.to_owned());
        note_files(dir, &mut self.things);
    }

    /// Panics with a list of what appeared or vanished since the snapshot, unless it settles within some seconds.
    pub(crate) fn assert_unchanged(&self) {
        let changes = self.settled_changes(SETTLE);
        assert!(
            changes.is_empty(),
            "left behind (+) or missing (-):\n  {}",
            changes.join("\n  ")
        );
    }

    /// What differs from the snapshot after at most `patience`, one line each.
    fn settled_changes(&self, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        loop {
            let changes = self.changes();
            if changes.is_empty() || Instant::now() >= end {
                return changes;
            }
            std::thread::sleep(POLL);
        }
    }

    fn changes(&self) -> Vec<String> {
        let now = self.look();
        let added = now
            .iter()
            .filter(|(thing, count)| self.things.get(*thing).unwrap_or(&0) < *count);
        let gone = self
            .things
            .iter()
            .filter(|(thing, count)| now.get(*thing).unwrap_or(&0) < *count);
        added
            .map(|(thing, _)| format!("+ {thing}"))
            .chain(gone.map(|(thing, _)| format!("- {thing}")))
            .collect()
    }

    fn look(&self) -> BTreeMap<String, usize> {
        let mut things = BTreeMap::new();
        note_descriptors(&mut things);
        note_mounts(&mut things);
        note_network(&mut things);
        note_tables(&mut things);
        note_processes(&mut things);
        note_cgroups(&self.cgroup, &mut things);
        for dir in &self.watched {
            note_files(dir, &mut things);
        }
        for dir in SHARED_DIRS.map(Path::new) {
            for name in names_in(dir)
                .into_iter()
                .filter(|name| name.starts_with(NAME_PREFIX))
            {
                note(&mut things, format!("file {}", dir.join(name).display()));
            }
        }
        things
    }
}

/// Processes of the PID namespace that `/proc` belongs to, except process 1 and the caller's, one line each.
pub(crate) fn other_processes() -> Vec<String> {
    let own = std::process::id();
    let pids = names_in(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<u32>().ok());
    pids.filter(|pid| *pid != 1 && *pid != own)
        .filter_map(describe_process)
        .collect()
}

/// The mount points of every control group hierarchy that is mounted.
pub(crate) fn cgroup_mounts() -> Vec<PathBuf> {
    let table = read("/proc/thread-self/mountinfo");
    let mounts = table
        .lines()
        .filter_map(Mount::parse)
        .filter(|mount| mount.kind.starts_with("cgroup"));
    mounts.map(|mount| mount.point.into()).collect()
}

/// Removes all control groups called `name` with those below them, as far as no process is in them.
pub(crate) fn remove_cgroups(name: &str) {
    for group in cgroups(name).iter().rev() {
        let _ = fs::remove_dir(group);
    }
}

/// The fields of a line of `mountinfo` that tell one mount from another.
///
/// # References
/// `proc_pid_mountinfo(5)`
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        Some(Self {
            root: place.next()?,
            point: place.next()?,
            kind: kind.split(' ').next()?,
        })
    }
}

fn note(things: &mut BTreeMap<String, usize>, thing: String) {
    *things.entry(thing).or_default() += 1;
}

fn note_mounts(things: &mut BTreeMap<String, usize>) {
    for mount in read("/proc/thread-self/mountinfo")
        .lines()
        .filter_map(Mount::parse)
    {
        note(
            things,
            format!("mount {} ({} {})", mount.point, mount.kind, mount.root),
        );
    }
}

fn note_network(things: &mut BTreeMap<String, usize>) {
    // A file is missing where the kernel is without that protocol.
    let table = |name: &str| {
        fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
    };
    for line in table("dev").lines().skip(2) {
        note(
            things,
            format!("link {}", line.split(':').next().unwrap_or(line).trim()),
        );
    }
    for line in table("route").lines().skip(1) {
        note(things, format!("route {}", line.trim()));
    }
    for address in local_addresses(&table("fib_trie")) {
        note(things, format!("IPv4 address {address}"));
    }
    for line in table("if_inet6").lines() {
        note(things, format!("IPv6 address {}", line.trim()));
    }
}

/// The host's own addresses in a `fib_trie`, which shows a leaf's address on the line before what it is.
fn local_addresses(trie: &str) -> BTreeSet<&str> {
    let mut leaf = "";
    let mut addresses = BTreeSet::new();
    for line in trie.lines() {
        match line.trim().strip_prefix("|-- ") {
            Some(address) => leaf = address,
            None if line.ends_with("/32 host LOCAL") => {
                addresses.insert(leaf);
            }
            None => {}
        }
    }
    addresses
}

fn note_tables(things: &mut BTreeMap<String, usize>) {
    static NFT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(nft) = NFT.get_or_init(|| peers::find("nft")) else {
        return;
    };
    // Without the right to look there was none to make a table either.
    let Ok(output) = Command::new(nft).args(["list", "tables"]).output() else {
        return;
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        note(things, format!("nftables {line}"));
    }
}

fn note_processes(things: &mut BTreeMap<String, usize>) {
    for process in other_processes() {
        note(things, format!("process {process}"));
    }
}

/// Command line and state of a process, or nothing if it has just ended.
fn describe_process(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
    };
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let state = if field("State:").starts_with('Z') {
        "zombie"
    } else {
        "alive"
    };
    Some(format!(
        "{pid} {} [{}], {state}",
        field("Name:"),
        command.trim_end()
    ))
}

fn note_cgroups(name: &str, things: &mut BTreeMap<String, usize>) {
    for group in cgroups(name) {
        note(things, format!("cgroup {}", group.display()));
    }
}

/// All control groups called `name` with those below them, parents first.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut groups = Vec::new();
    for mount in cgroup_mounts() {
        visit_dirs(&mount, &mut |dir| {
            if dir.components().any(|part| part.as_os_str() == name) {
                groups.push(dir.to_owned());
            }
        });
    }
    groups
}

/// Descriptors of this process by what they refer to; sockets, pipes and the like by kind, as their numbers differ.
fn note_descriptors(things: &mut BTreeMap<String, usize>) {
    let targets = names_in(Path::new("/proc/self/fd"))
        .into_iter()
        .filter_map(|fd| {
            let target = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            Some(target.to_string_lossy().into_owned())
        });
    for target in targets {
        let kind = target
            .split_once(":[")
            .filter(|(kind, _)| !kind.starts_with("anon_inode"));
        note(
            things,
            format!(
                "descriptor of {}",
                kind.map_or(target.as_str(), |(kind, _)| kind)
            ),
        );
    }
}

fn note_files(dir: &Path, things: &mut BTreeMap<String, usize>) {
    for name in names_in(dir) {
        let path = dir.join(name);
        note(things, format!("file {}", path.display()));
        if path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir())
        {
            note_files(&path, things);
        }
    }
}

fn visit_dirs(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for name in names_in(dir) {
        let path = dir.join(name);
        if path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.is_dir())
        {
            visit(&path);
            visit_dirs(&path, visit);
        }
    }
}

/// The names in a directory; none if it is not there, or is gone by now.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Child;

    use super::*;
    use crate::support::isolate::{Place, isolated};

    /// Makes something, sees it named, unmakes it, and sees that nothing is left.
    fn finds<T>(place: &Place, make: impl FnOnce() -> T, named: &str, unmake: impl FnOnce(T)) {
        let mut before = Host::snapshot(place.cgroup());
        before.watch(place.dir());
        let made = make();
        let changes = before.settled_changes(Duration::ZERO);
        let found = changes
            .iter()
            .any(|line| line.starts_with("+ ") && line.contains(named));
        assert!(found, "want {named}, got {changes:?}");
        unmake(made);
        before.assert_unchanged();
    }

    fn run(program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }

    #[test]
    fn privileged_leaked_mount_is_found() {
        isolated(|place| {
            let dir = place.dir().join("mount");
            fs::create_dir(&dir).unwrap();
            let target = dir.to_str().unwrap();
            let mount = || run("mount", &["-t", "tmpfs", "none", target]);
            finds(place, mount, &format!("mount {target} (tmpfs /)"), |()| {
                run("umount", &[target])
            });
        });
    }

    #[test]
    fn privileged_leaked_link_route_and_address_are_found() {
        isolated(|place| {
            if peers::find("ip").is_none() {
                return;
            }
            let add = || {
                run(
                    "ip",
                    &[
                        "link", "add", "leak0", "type", "veth", "peer", "name", "leak1",
                    ],
                )
            };
            finds(place, add, "link leak1", |()| {
                run("ip", &["link", "delete", "leak0"])
            });
            let route = || run("ip", &["route", "add", "198.51.100.0/24", "dev", "lo"]);
            finds(place, route, "route lo", |()| {
                run("ip", &["route", "delete", "198.51.100.0/24"])
            });
            for (address, named) in [
                ("192.0.2.1/32", "IPv4 address 192.0.2.1"),
                ("2001:db8::1/128", "IPv6 address 20010db8"),
            ] {
                let change = |verb: &str| run("ip", &["address", verb, address, "dev", "lo"]);
                finds(place, || change("add"), named, |()| change("delete"));
            }
        });
    }

    #[test]
    fn privileged_leaked_table_is_found() {
        isolated(|place| {
            if peers::find("nft").is_none() {
                return;
            }
            let add = || run("nft", &["add", "table", "inet", "leak"]);
            finds(place, add, "nftables table inet leak", |()| {
                run("nft", &["delete", "table", "inet", "leak"])
            });
        });
    }

    #[test]
    fn privileged_leaked_network_namespace_is_found() {
        isolated(|place| {
            if peers::find("ip").is_none() {
                return;
            }
            // The first of them also makes a mount point for all.
            run("ip", &["netns", "add", "first"]);
            finds(
                place,
                || run("ip", &["netns", "add", "leak"]),
                "(nsfs net:[",
                |()| {
                    run("ip", &["netns", "delete", "leak"]);
                },
            );
            run("ip", &["netns", "delete", "first"]);
            run("umount", &["/run/netns"]);
            fs::remove_dir("/run/netns").unwrap();
        });
    }

    #[test]
    fn privileged_leaked_cgroup_is_found() {
        isolated(|place| {
            let Some(hierarchy) = cgroup_mounts().pop() else {
                return crate::support::skip("no control group hierarchy is mounted");
            };
            let group = hierarchy.join(place.cgroup());
            let nested = group.join("nested");
            let remove = |()| {
                fs::remove_dir(&nested).unwrap();
                fs::remove_dir(&group).unwrap();
            };
            finds(
                place,
                || fs::create_dir_all(&nested).unwrap(),
                "cgroup ",
                remove,
            );
        });
    }

    #[test]
    fn privileged_leaked_process_is_found_alive_and_dead() {
        isolated(|place| {
            let spawn = || Command::new("sleep").arg("600").spawn().unwrap();
            let end = |mut child: Child| {
                child.kill().unwrap();
                child.wait().unwrap();
            };
            finds(place, spawn, "sleep [sleep 600], alive", end);
            let spawn_dead = || {
                let child = Command::new("true").spawn().unwrap();
                while !other_processes()
                    .iter()
                    .any(|process| process.contains("zombie"))
                {
                    std::thread::sleep(POLL);
                }
                child
            };
            finds(place, spawn_dead, "true [], zombie", end);
        });
    }

    #[test]
    fn privileged_leaked_descriptor_is_found() {
        isolated(|place| {
            finds(
                place,
                || File::open("/dev/null").unwrap(),
                "descriptor of /dev/null",
                drop,
            );
            finds(
                place,
                || std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
                "descriptor of socket",
                drop,
            );
        });
    }

    #[test]
    fn privileged_leaked_file_is_found() {
        isolated(|place| {
            let path = place.dir().join("deep/leak");
            let make = || {
                fs::create_dir(place.dir().join("deep")).unwrap();
                File::create(&path).unwrap();
            };
            finds(place, make, "deep/leak", |()| {
                fs::remove_dir_all(place.dir().join("deep")).unwrap()
            });
            let lock = Path::new("/run/container-leak.lock");
            finds(
                place,
                || drop(File::create(lock).unwrap()),
                "container-leak.lock",
                |()| {
                    fs::remove_file(lock).unwrap();
                },
            );
        });
    }
}
