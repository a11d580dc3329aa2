//! HTTP over sockets that can be given up at any time. The only file that names `ureq`.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use ureq::http::{self, Method};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout,
    Transport, TransportAdapter,
};
use ureq::{Agent, SendBody};

use super::client::ClientOptions;
use super::tls::from_rustls;
use super::url::{Url, host_of};
use crate::store::from_io;
use crate::{Error, ErrorKind, Result};

/// How long to wait, and when to stop waiting.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    pub(super) idle: Duration,
    /// When all has to be done, if that is limited.
    pub(super) end: Option<Instant>,
    pub(super) cancel: Arc<AtomicBool>,
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(&ClientOptions::default())
    }
}

impl Patience {
    pub(super) fn of(options: &ClientOptions) -> Self {
        Self {
            connect: options.connect_timeout,
            idle: options.idle_timeout,
            end: options.total_timeout.map(|total| Instant::now() + total),
            cancel: options.cancel.clone(),
        }
    }

    /// Fails if the caller asked to stop, or if the time is over.
    pub(super) fn check(&self) -> Result<()> {
        if self.end.is_some_and(|end| Instant::now() >= end) {
            let doing = "talk to a registry: the time for all of it is over";
            return Err(Error::new(ErrorKind::TimedOut, "TimedOut", doing));
        }
        if self.cancel.load(Ordering::Relaxed) {
            return Err(Error::new(
                ErrorKind::Cancelled,
                "Cancelled",
                "talk to a registry",
            ));
        }
        Ok(())
    }

    /// Waits for `duration`.
    pub(super) fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while let left = end.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.check()?;
            std::thread::sleep(left.min(SLICE));
        }
        self.check()
    }

    /// Waits until `fd` is ready for `events`, but not longer than `limit`.
    pub(super) fn wait(&self, fd: impl AsFd, events: PollFlags, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let doing = format!("wait for a registry: it was silent for {limit:?}");
                return Err(Error::new(ErrorKind::TimedOut, "TimedOut", doing).with_retry());
            }
            let slice = left.min(SLICE);
            let slice = Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(slice.subsec_nanos()),
            };
            match rustix::event::poll(&mut [PollFd::new(&fd, events)], Some(&slice)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(Error::os("poll a socket", error)),
            }
        }
    }
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(super) struct Head<'a> {
    pub(super) method: &'static str,
    pub(super) url: &'a Url,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Headers that the caller's configuration wants.
    pub(super) extra: &'a [(String, String)],
}

/// The body of a request: a reader and its length.
pub(super) type Payload<'a> = Option<(&'a mut dyn Read, u64)>;

/// An answer, of which only the head was read yet.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Box<dyn Read + Send>,
    headers: http::HeaderMap,
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
    }

    pub(super) fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Sends single requests; follows nothing and retries nothing.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
}

impl Http {
    /// A client that talks to one host with these settings of TLS, through a proxy with perhaps others.
    pub(super) fn new(
        patience: &Patience,
        tls: Arc<rustls::ClientConfig>,
        proxy: Option<(&str, Arc<rustls::ClientConfig>)>,
    ) -> Result<Self> {
        let proxy_tls = proxy.as_ref().map(|(_, tls)| tls.clone());
        let proxy = proxy.map(|(proxy, _)| {
            ureq::Proxy::new(proxy).map_err(|error| {
                let doing = "use a proxy: want http://host:port or https://host:port";
                Error::new(ErrorKind::Unsupported, "InvalidProxy", doing).with_source(error)
            })
        });
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .proxy(proxy.transpose()?)
            .user_agent(USER_AGENT)
            .max_response_header_size(MAX_HEADER_BYTES)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .build();
        let connector = ConnectProxyConnector::default()
            .chain(PatientConnector(patience.clone()))
            .chain(TlsConnector { tls, proxy_tls });
        Ok(Self {
            agent: Agent::with_parts(config, connector, PatientResolver(patience.clone())),
        })
    }

    pub(super) fn send(&self, head: &Head<'_>, payload: Payload<'_>) -> Result<Response> {
        let doing = || format!("{} {}", head.method, head.url);
        let mut request = http::Request::builder()
            .method(Method::from_bytes(head.method.as_bytes()).expect("methods are constants"))
            .uri(head.url.to_text());
        for (name, value) in &head.headers {
            request = request.header(*name, value);
        }
        for (name, value) in head.extra {
            request = request.header(name, value);
        }
        let sent = match payload {
            None => request.body(()).map(|request| self.agent.run(request)),
            Some((reader, size)) => request
                .header("content-length", size)
                .body(SendBody::from_reader(reader))
                .map(|request| self.agent.run(request)),
        };
        let response = sent
            .map_err(|error| Error::invalid("InvalidRequest", doing()).with_source(error))?
            .map_err(|error| from_ureq(&doing(), error))?;
        let (parts, body) = response.into_parts();
        let body = Body {
            inner: body.into_reader(),
            doing: doing(),
        };
        let status = parts.status.as_u16();
        Ok(Response {
            status,
            body: Box::new(body),
            headers: parts.headers,
        })
    }
}

/// The body of an answer; its errors are those of this crate.
struct Body {
    inner: ureq::BodyReader<'static>,
    doing: String,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let failed = |error: io::Error| {
            let error = ureq::Error::from(error);
            io::Error::other(from_ureq(&self.doing, error))
        };
        self.inner.read(buffer).map_err(failed)
    }
}

fn from_ureq(doing: &str, error: ureq::Error) -> Error {
    let network = |code| Error::new(ErrorKind::Network, code, doing);
    let error = match error {
        ureq::Error::Io(error) => error,
        ureq::Error::Timeout(_) => {
            let late = network("TimedOut").with_kind(ErrorKind::TimedOut);
            return late.with_source(error).with_retry();
        }
        ureq::Error::HostNotFound => return network("HostNotFound").with_source(error),
        ureq::Error::ConnectProxyFailed(_) => return network("ProxyFailed").with_source(error),
        error => return network("BadResponse").with_source(error),
    };
    let cause = error.get_ref();
    if cause.is_some_and(|cause| cause.is::<Error>()) {
        return from_io(doing, error).context(doing);
    }
    if let Some(error) = cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        return from_rustls(doing, error.clone());
    }
    match error.kind() {
        // Nobody is there, and will hardly be in a moment.
        io::ErrorKind::ConnectionRefused => network("ConnectionRefused").with_source(error),
        _ => network("ConnectionLost").with_source(error).with_retry(),
    }
}

/// Looks names up, in a thread of its own, as the system does not let itself be interrupted.
#[derive(Debug)]
struct PatientResolver(Patience);

impl Resolver for PatientResolver {
    fn resolve(
        &self,
        uri: &http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_owned();
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        if let Ok(ip) = host.parse::<IpAddr>() {
            let mut result = self.empty();
            result.push((ip, port).into());
            return Ok(result);
        }
        let (sender, found) = channel();
        let name = host.clone();
        std::thread::Builder::new().spawn(move || {
            // Nobody may be waiting any more.
            let _ = sender.send((name.as_str(), port).to_socket_addrs());
        })?;
        let end = Instant::now() + self.0.connect;
        loop {
            self.0.check().map_err(io::Error::other)?;
            match found.recv_timeout(SLICE.min(self.0.connect)) {
                Ok(Ok(addresses)) => {
                    let mut result = self.empty();
                    for address in addresses.take(MAX_ADDRESSES) {
                        result.push(address);
                    }
                    return if result.is_empty() {
                        Err(ureq::Error::HostNotFound)
                    } else {
                        Ok(result)
                    };
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(ureq::Error::HostNotFound);
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= end => {
                    let doing = format!("look up {host}");
                    let late = Error::new(ErrorKind::TimedOut, "TimedOut", doing).with_retry();
                    return Err(io::Error::other(late).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Opens sockets that check a flag while they wait.
#[derive(Debug)]
struct PatientConnector(Patience);

impl<In: Transport> Connector<In> for PatientConnector {
    type Out = Either<In, PatientSocket>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        tunnel: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(tunnel) = tunnel {
            return Ok(Some(Either::A(tunnel)));
        }
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &details.addrs {
            match self.open(*address) {
                Ok(stream) => {
                    let config = details.config;
                    let (input, output) = (config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Either::B(PatientSocket {
                        stream,
                        buffers: LazyBuffers::new(input, output),
                        patience: self.0.clone(),
                    })));
                }
                Err(error) => last = error,
            }
            self.0.check().map_err(io::Error::other)?;
        }
        Err(last.into())
    }
}

impl PatientConnector {
    fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(Errno::INPROGRESS) => {
                let ready = self.0.wait(&socket, PollFlags::OUT, self.0.connect);
                ready.map_err(io::Error::other)?;
                rustix::net::sockopt::socket_error(&socket)??;
            }
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A socket that checks a flag while it waits.
#[derive(Debug)]
struct PatientSocket {
    stream: TcpStream,
    buffers: LazyBuffers,
    patience: Patience,
}

impl Transport for PatientSocket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        let mut output = &self.buffers.output()[..amount];
        while !output.is_empty() {
            match rustix::net::send(&self.stream, output, SendFlags::NOSIGNAL) {
                Ok(count) => output = &output[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self
                    .patience
                    .wait(&self.stream, PollFlags::OUT, self.patience.idle)
                    .map_err(io::Error::other)?,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        loop {
            self.patience.check().map_err(io::Error::other)?;
            let input = self.buffers.input_append_buf();
            match rustix::net::recv(&self.stream, input, RecvFlags::empty()) {
                Ok((_, count)) => {
                    self.buffers.input_appended(count);
                    return Ok(count > 0);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self
                    .patience
                    .wait(&self.stream, PollFlags::IN, self.patience.idle)
                    .map_err(io::Error::other)?,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    fn is_open(&mut self) -> bool {
        let peeked = rustix::net::recv(&self.stream, &mut [0; 1], RecvFlags::PEEK);
        peeked == Err(Errno::AGAIN)
    }
}

/// Encrypts what is for `https`.
#[derive(Debug)]
struct TlsConnector {
    tls: Arc<rustls::ClientConfig>,
    proxy_tls: Option<Arc<rustls::ClientConfig>>,
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let authority = details
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let failed = |error: rustls::Error| {
            let doing = format!("talk TLS to {authority}");
            io::Error::other(from_rustls(&doing, error))
        };
        let name = rustls::pki_types::ServerName::try_from(host_of(authority).to_owned())
            .map_err(|_| failed(rustls::Error::General("this is no name of a host".into())))?;
        // What is not for the tunnel through the proxy is for the proxy itself.
        let tls = match &self.proxy_tls {
            Some(proxy_tls) if details.config.proxy().is_none() => proxy_tls,
            _ => &self.tls,
        };
        let mut connection = rustls::ClientConnection::new(tls.clone(), name).map_err(failed)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        connection.complete_io(&mut socket)?;
        let config = details.config;
        Ok(Some(Either::B(TlsTransport {
            buffers: LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size()),
            stream: rustls::StreamOwned::new(connection, socket),
        })))
    }
}

struct TlsTransport {
    buffers: LazyBuffers,
    stream: rustls::StreamOwned<rustls::ClientConnection, TransportAdapter>,
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.write_all(&self.buffers.output()[..amount])?;
        self.stream.flush()?;
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, ureq::Error> {
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

/// As many addresses of a host as `ResolvedSocketAddrs` has room for.
const MAX_ADDRESSES: usize = 16;
const USER_AGENT: &str = concat!("container-image/", env!("CARGO_PKG_VERSION"));
/// Longest time in which a cancel flag is not looked at.
const SLICE: Duration = Duration::from_millis(250);
/// Enough for all layers of a pull and their parts.
const MAX_IDLE_CONNECTIONS: usize = 16;
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Large reads are what makes loopback and fast networks fast.
const BUFFER_BYTES: usize = 256 << 10;
