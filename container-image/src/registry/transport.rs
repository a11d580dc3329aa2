//! HTTP over sockets that can be given up at any time. The only file that names `ureq`.

use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use ureq::http::{self, Method};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, RustlsConnector, Transport,
};
use ureq::{Agent, SendBody};

use super::client::ClientOptions;
use super::url::Url;
use crate::store::from_io;
use crate::{Error, ErrorKind, Result};

/// How long to wait, and when to stop waiting.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    pub(super) connect: Duration,
    pub(super) idle: Duration,
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
            cancel: options.cancel.clone(),
        }
    }

    /// Fails if the caller asked to stop.
    pub(super) fn check(&self) -> Result<()> {
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
    /// A client that accepts any certificate if `verify` is false.
    pub(super) fn new(patience: &Patience, verify: bool) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(provider)
            .root_certs(RootCerts::PlatformVerifier)
            .disable_verification(!verify)
            .build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .proxy(None)
            .tls_config(tls)
            .user_agent(USER_AGENT)
            .timeout_resolve(Some(patience.connect))
            .max_response_header_size(MAX_HEADER_BYTES)
            .input_buffer_size(BUFFER_BYTES)
            .output_buffer_size(BUFFER_BYTES)
            .build();
        let connector = PatientConnector(patience.clone()).chain(RustlsConnector::default());
        Self {
            agent: Agent::with_parts(config, connector, DefaultResolver::default()),
        }
    }

    pub(super) fn send(&self, head: &Head<'_>, payload: Payload<'_>) -> Result<Response> {
        let doing = || format!("{} {}", head.method, head.url);
        let mut request = http::Request::builder()
            .method(Method::from_bytes(head.method.as_bytes()).expect("methods are constants"))
            .uri(head.url.to_text());
        for (name, value) in &head.headers {
            request = request.header(*name, value);
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
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            return network("TlsFailed").with_source(error);
        }
        error => return network("BadResponse").with_source(error),
    };
    let cause = error.get_ref();
    if cause.is_some_and(|cause| cause.is::<Error>()) {
        return from_io(doing, error).context(doing);
    }
    if cause.is_some_and(|cause| cause.is::<rustls::Error>()) {
        return network("TlsFailed").with_source(error);
    }
    match error.kind() {
        // Nobody is there, and will hardly be in a moment.
        io::ErrorKind::ConnectionRefused => network("ConnectionRefused").with_source(error),
        _ => network("ConnectionLost").with_source(error).with_retry(),
    }
}

/// Opens sockets that check a flag while they wait.
#[derive(Debug)]
struct PatientConnector(Patience);

impl Connector for PatientConnector {
    type Out = PatientSocket;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in &details.addrs {
            match self.open(*address) {
                Ok(stream) => {
                    let config = details.config;
                    let (input, output) = (config.input_buffer_size(), config.output_buffer_size());
                    let buffers = LazyBuffers::new(input, output);
                    return Ok(Some(PatientSocket {
                        stream,
                        buffers,
                        patience: self.0.clone(),
                    }));
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

const USER_AGENT: &str = concat!("container-image/", env!("CARGO_PKG_VERSION"));
/// Longest time in which a cancel flag is not looked at.
const SLICE: Duration = Duration::from_millis(250);
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Large reads are what makes loopback and fast networks fast.
const BUFFER_BYTES: usize = 256 << 10;
