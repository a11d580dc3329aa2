//! A small world of network namespaces: a host, a machine outside, and containers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use container_net::{
    AttachOptions, Attached, Network, Networks, NetworksOptions, PortMapping, netns,
};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// The host's address on the wire.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The outside machine's.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// How long a packet may take that should arrive.
const ARRIVAL: Duration = Duration::from_secs(5);
/// How long to wait for one that should not.
const SILENCE: Duration = Duration::from_millis(400);

pub(crate) struct World {
    pub(crate) networks: Networks,
    pub(crate) outside: OwnedFd,
    pub(crate) directory: TempDir,
}

/// Runs a test on a thread in a network namespace of its own, if that is allowed.
pub(crate) fn privileged(test: impl FnOnce(World) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    thread::scope(|scope| {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(World::new());
        };
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    fn new() -> Self {
        let outside = netns::create().unwrap();
        let pid = std::process::id();
        let wire = format!("/proc/{pid}/fd/{}", outside.as_raw_fd());
        ip("link set lo up");
        ip(&format!(
            "link add up0 type veth peer name out0 netns {wire}"
        ));
        ip(&format!("addr add {HOST}/24 dev up0"));
        ip("link set up0 up");
        inside(&outside, || {
            ip("link set lo up");
            ip(&format!("addr add {OUTSIDE}/24 dev out0"));
            ip("link set out0 up");
        });
        let directory = TempDir::with_prefix_in("container-net.", "/dev/shm").unwrap();
        let networks = Networks::open(options(directory.path())).unwrap();
        Self {
            networks,
            outside,
            directory,
        }
    }

    pub(crate) fn bridge(&self) -> Network {
        self.networks.get("bridge").unwrap()
    }

    /// Starts a container without any process in it.
    pub(crate) fn start(&self, name: &str, ports: &[&str]) -> Container {
        Container::start(&self.bridge(), &with_ports(name, ports))
    }

    /// Waits until the kernel has removed what it removes in the background, and compares.
    pub(crate) fn assert_traces(&self, want: &[String]) {
        let deadline = Instant::now() + ARRIVAL;
        while self.traces() != want && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(self.traces(), want);
    }

    /// Whatever the crate can have made on the host, in words.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for line in ip("-o link").lines().chain(ip("-4 -o addr").lines()) {
            let mut words = line.split_whitespace().skip(1);
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            if name.starts_with("ce") || name.starts_with("container0") {
                let address = if kind == "inet" {
                    words.next().unwrap()
                } else {
                    "link"
                };
                traces.push(format!("{name} {address}"));
            }
        }
        for line in run("nft", "list tables").lines() {
            traces.push(line.to_owned());
        }
        for directory in ["attachments", "leases", "ports", "bridges"] {
            let run = self.directory.path().join("run").join(directory);
            for path in files(&run) {
                if !path.ends_with("/last") {
                    traces.push(path);
                }
            }
        }
        traces
    }
}

pub(crate) fn options(directory: &Path) -> NetworksOptions {
    NetworksOptions::new(directory.join("state"), directory.join("run"))
}

pub(crate) fn with_ports(name: &str, ports: &[&str]) -> AttachOptions {
    let mut options = AttachOptions::new(name);
    options.ports = ports
        .iter()
        .flat_map(|port| PortMapping::parse(port).unwrap())
        .collect();
    options
}

fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

/// A network namespace that is attached.
pub(crate) struct Container {
    pub(crate) netns: OwnedFd,
    pub(crate) attached: Attached,
}

impl Container {
    pub(crate) fn start(network: &Network, options: &AttachOptions) -> Self {
        let netns = netns::create().unwrap();
        let attached = network.attach(netns.as_fd(), options).unwrap();
        Self { netns, attached }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.attached.attachment.address
    }

    pub(crate) fn host_port(&self, index: usize) -> u16 {
        self.attached.attachment.ports[index].host_port
    }

    /// Serves TCP inside: answers what it gets, and before it the address that it came from.
    pub(crate) fn serve_tcp(&self, port: u16) {
        let listener = inside(&self.netns, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
        });
        serve_tcp(listener);
    }

    /// As [`serve_tcp`](Self::serve_tcp), by UDP.
    pub(crate) fn serve_udp(&self, port: u16) {
        let socket = inside(&self.netns, || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
        });
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let answer = answer(from.ip(), &buffer[..length]);
                let _ = socket.send_to(&answer, from);
            }
        });
    }
}

pub(crate) fn serve_tcp(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let mut buffer = [0; 2048];
            let length = stream.read(&mut buffer).unwrap_or(0);
            let _ = stream.write_all(&answer(from.ip(), &buffer[..length]));
        }
    });
}

fn answer(from: IpAddr, request: &[u8]) -> Vec<u8> {
    [format!("{from} ").as_bytes(), request].concat()
}

/// Runs something in another namespace.
pub(crate) fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::run_in(netns.as_fd(), || Ok(work())).unwrap()
}

/// Sends a word by TCP and returns the address that the server saw; `None` if nothing comes back.
pub(crate) fn tcp(to: Ipv4Addr, port: u16) -> Option<String> {
    tcp_within(to, port, ARRIVAL)
}

/// As [`tcp`], where silence or a refusal is expected.
pub(crate) fn no_tcp(to: Ipv4Addr, port: u16) -> bool {
    tcp_within(to, port, SILENCE).is_none()
}

fn tcp_within(to: Ipv4Addr, port: u16, wait: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), wait).ok()?;
    stream.set_read_timeout(Some(wait)).unwrap();
    stream.write_all(b"word").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.strip_suffix(" word")?.to_owned())
}

/// As [`tcp`], by UDP; the first packets may be lost while an address is being looked up.
pub(crate) fn udp(to: Ipv4Addr, port: u16) -> Option<String> {
    let deadline = Instant::now() + ARRIVAL;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((to, port)).ok()?;
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut buffer = [0; 2048];
    while Instant::now() < deadline {
        let _ = socket.send(b"word");
        if let Ok(length) = socket.recv(&mut buffer) {
            let answer = String::from_utf8(buffer[..length].to_vec()).unwrap();
            return Some(answer.strip_suffix(" word")?.to_owned());
        }
    }
    None
}

pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs a program in the namespace of this thread.
pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
