//! A small registry to embed: for tests, for programs that hand images to each other, and to try
//! things without a network.
//!
//! It speaks the distribution specification (pull, push monolithic and in chunks, mount, tags, referrers,
//! catalog, deletion, ranges), encrypted if it has a certificate, with a thread per connection. By default it
//! listens on loopback only, keeps everything in memory and lets everybody in.
//!
//! ```text
//! root/
//!   blobs/<hex>                          content, by digest
//!   repositories/<name>/_blobs/<hex>     says that the repository has the blob
//!   repositories/<name>/_manifests/<hex> the same for a manifest; holds its media type
//!   repositories/<name>/_tags/<tag>      holds the digest of a manifest
//!   repositories/<name>/_referrers/<subject>/<hex>
//!                                        says what has this subject; holds its descriptor
//!   uploads/                             unfinished blobs
//!   lock                                 shared by who adds, exclusive for who collects garbage
//! ```
//!
//! Every file appears by rename; several servers may serve one root.

mod access;
mod address;
mod api;
mod blobs;
mod fault;
mod files;
mod garbage;
mod htpasswd;
mod http;
mod manifests;
mod parts;
mod tls;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Result};
use api::Api;
use fault::Faults;

pub use access::{Action, Authenticator, Authorizer, Project, Projects, Role};
pub use fault::Fault;
pub use garbage::{Garbage, GarbageOptions};
pub use htpasswd::Htpasswd;
pub use tls::ServerTls;

/// How to serve.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Where to listen; port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Where to keep images; in memory if there is no directory.
    pub root: Option<PathBuf>,
    /// How many bytes to keep in memory, when there is no directory.
    pub memory_bytes: u64,
    /// Who is believed to be who he says; nobody has to say if there is none.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Who may do what; without it, everybody whom the authenticator knows may do everything.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// Who the server shows to be; without it, it talks plain HTTP.
    pub tls: Option<ServerTls>,
    /// How long a client may be silent.
    pub idle_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            root: None,
            memory_bytes: 1 << 30,
            authenticator: None,
            authorizer: None,
            tls: None,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// A running registry. Dropping it closes all connections and ends all of its threads.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// A request that was served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The method, such as `GET`.
    pub method: String,
    /// The path with its query.
    pub target: String,
    /// The status of the answer; 0 if a fault kept it back.
    pub status: u16,
    /// Whether there was an `Authorization` header.
    pub authorized: bool,
    /// The `Range` header.
    pub range: Option<String>,
}

impl Server {
    /// Starts to serve.
    ///
    /// # Errors
    /// `Os` if the address is taken or the directory cannot be used.
    pub fn start(options: ServerOptions) -> Result<Self> {
        let doing = format!("serve a registry on {}", options.address);
        let listener =
            TcpListener::bind(options.address).map_err(|error| Error::os(doing.clone(), error))?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::os(doing.clone(), error))?;
        let shared = Arc::new(Shared {
            api: Api::new(&options)?,
            options,
            stopping: AtomicBool::new(false),
            faults: Faults::default(),
            log: Mutex::default(),
            connections: Mutex::default(),
        });
        let accepting = std::thread::Builder::new().name("registry".into()).spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        });
        let accepting = Some(accepting.map_err(|error| Error::os(doing, error))?);
        Ok(Self {
            address,
            shared,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it served so far; of very many requests the last ones.
    #[must_use]
    pub fn log(&self) -> Vec<Access> {
        lock(&self.shared.log).clone()
    }

    /// Forgets what it served.
    pub fn clear_log(&self) {
        lock(&self.shared.log).clear();
    }

    /// Removes blobs that no manifest needs, and gives up old uploads. Nobody can push meanwhile; pulls go on.
    ///
    /// # Errors
    /// `Os`; what was removed until then is gone.
    pub fn collect_garbage(&self, options: &GarbageOptions) -> Result<Garbage> {
        self.shared.api.collect(options)
    }

    /// Lets the next `times` requests of `method` with `part` in their target go wrong. Requests
    /// meet the faults in the order in which these were injected.
    pub fn inject(&self, method: &str, part: &str, times: usize, fault: Fault) {
        self.shared.faults.add(method, part, times, fault);
    }

    /// Lets nothing go wrong any more.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then closes all connections.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let woken = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        if let Some(accepting) = self.accepting.take()
            && woken.is_ok()
        {
            let _ = accepting.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

struct Shared {
    options: ServerOptions,
    stopping: AtomicBool,
    api: Api,
    faults: Faults,
    log: Mutex<Vec<Access>>,
    /// The sockets of living connections, to be closed at the end.
    connections: Mutex<Vec<Option<TcpStream>>>,
}

impl Shared {
    fn record(&self, access: Access) {
        let mut log = lock(&self.log);
        if log.len() == MAX_LOG {
            log.drain(..MAX_LOG / 2);
        }
        log.push(access);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let Ok(stream) = stream else {
            // No descriptors left, most likely: others have to end first.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if threads.len() < MAX_CONNECTIONS
            && let Ok(thread) = serve(stream, shared)
        {
            threads.push(thread);
        }
    }
    for stream in lock(&shared.connections).iter().flatten() {
        // It may be closed already.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(stream: TcpStream, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(shared.options.idle_timeout))?;
    stream.set_write_timeout(Some(shared.options.idle_timeout))?;
    let handle = Some(stream.try_clone()?);
    let slot = {
        let mut connections = lock(&shared.connections);
        let free = connections.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        connections[slot] = handle;
        slot
    };
    let served = shared.clone();
    let thread = std::thread::Builder::new()
        .name("registry".into())
        .spawn(move || {
            http::serve(stream, &served);
            lock(&served.connections)[slot] = None;
        });
    if thread.is_err() {
        lock(&shared.connections)[slot] = None;
    }
    thread
}

/// What the locks guard stays whole whatever a panicking thread was doing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MAX_CONNECTIONS: usize = 256;
const MAX_LOG: usize = 65_536;
