//! HTTP/1.1, as much as registries and their clients speak of it, within strict bounds.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use super::fault::Aftermath;
use super::tls::Stream;
use super::{Access, Shared};

/// The head of a request. Names of headers are lower case.
pub(super) struct Request {
    pub(super) method: String,
    /// The path with its query.
    pub(super) target: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// The first decoded value of `key` in the query.
    pub(super) fn query(&self, key: &str) -> Option<String> {
        self.queries(key).next()
    }

    /// All of the decoded values of `key` in the query.
    pub(super) fn queries(&self, key: &str) -> impl Iterator<Item = String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(move |(name, _)| *name == key)
            .filter_map(|(_, value)| unescape(value))
    }
}

/// An answer.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

/// The body of an answer, of a length that may be unknown.
pub(super) struct Body {
    pub(super) reader: Box<dyn Read>,
    pub(super) length: Option<u64>,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self {
            reader: Box::new(io::empty()),
            length: Some(0),
        }
    }
}

impl Response {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::empty(),
        }
    }

    pub(super) fn with_header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub(super) fn with_body(mut self, bytes: Vec<u8>) -> Self {
        let length = Some(bytes.len() as u64);
        self.body = Body {
            reader: Box::new(io::Cursor::new(bytes)),
            length,
        };
        self
    }
}

/// Serves all requests of a connection.
pub(super) fn serve(stream: TcpStream, shared: &Shared) {
    let Ok(stream) = Stream::new(stream, shared.options.tls.as_ref()) else {
        return;
    };
    let mut connection = BufReader::with_capacity(BUFFER_BYTES, stream);
    while !shared.stopping.load(Ordering::SeqCst) {
        match serve_one(&mut connection, shared) {
            Ok(Next::Another) => {}
            Ok(Next::Close) => return connection.get_mut().close(),
            // Gone, silent, not speaking HTTP, or cut on purpose: nobody to tell.
            Ok(Next::Cut) | Err(_) => return,
        }
    }
}

/// What comes after a request.
enum Next {
    Another,
    Close,
    /// The same without a word.
    Cut,
}

/// Serves one request.
fn serve_one(input: &mut BufReader<Stream>, shared: &Shared) -> io::Result<Next> {
    let request = match read_head(input) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(Next::Close),
        Err(error) => {
            if error.kind() == io::ErrorKind::InvalidData {
                write(input.get_mut(), Response::new(400), "GET", true)?;
            }
            return Ok(Next::Close);
        }
    };
    let Some(framing) = Framing::of(&request) else {
        write(input.get_mut(), Response::new(400), "GET", true)?;
        return Ok(Next::Close);
    };
    if request
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    {
        let stream = input.get_mut();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
    }
    let mut body = Incoming { input, framing };
    let response = shared.api.answer(&request, &mut body);
    // What the handler left unread would be taken for the next request.
    let drained = io::copy(&mut body.by_ref().take(MAX_DRAIN_BYTES), &mut io::sink()).is_ok()
        && body.framing.is_over();
    let (response, aftermath) = match shared.faults.next(&request.method, &request.target) {
        Some(fault) => fault.apply(response),
        None => (Some(response), Aftermath::None),
    };
    shared.record(Access {
        method: request.method.clone(),
        target: request.target.clone(),
        status: response.as_ref().map_or(0, |response| response.status),
        authorized: request.header("authorization").is_some(),
        range: request.header("range").map(ToOwned::to_owned),
    });
    let asked = request
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let close = asked || !drained || !matches!(aftermath, Aftermath::None);
    if let Some(response) = response {
        let known = response.body.length.is_some();
        write(input.get_mut(), response, &request.method, close)?;
        if !known && matches!(aftermath, Aftermath::None) {
            return Ok(Next::Close);
        }
    }
    match aftermath {
        Aftermath::None if close => Ok(Next::Close),
        Aftermath::None => Ok(Next::Another),
        Aftermath::Close => Ok(Next::Cut),
        Aftermath::Hang => {
            // Until the client leaves or the server stops; the socket is closed under us then.
            io::copy(input, &mut io::sink())?;
            Ok(Next::Cut)
        }
    }
}

/// Reads the head of a request; `None` at the end of the connection.
fn read_head(input: &mut BufReader<Stream>) -> io::Result<Option<Request>> {
    // A client that speaks TLS sends no line at all: its first byte tells.
    match input.fill_buf()?.first() {
        None => return Ok(None),
        Some(byte) if !byte.is_ascii_uppercase() => return Err(malformed()),
        Some(_) => {}
    }
    let mut left = MAX_HEAD_BYTES;
    let line = read_line(input, &mut left)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed());
    };
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !method.bytes().all(|byte| byte.is_ascii_uppercase())
        || !target.starts_with('/')
        || !visible(target)
    {
        return Err(malformed());
    }
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let line = read_line(input, &mut left)?;
        if line.is_empty() {
            return Ok(Some(Request {
                method,
                target,
                headers,
            }));
        }
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        if name.is_empty() || !visible(name) {
            return Err(malformed());
        }
        let before = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        if before.is_some()
            && ["content-length", "transfer-encoding"].contains(&&*name.to_ascii_lowercase())
        {
            return Err(malformed());
        }
    }
}

fn read_line(input: &mut dyn BufRead, left: &mut u64) -> io::Result<String> {
    let mut line = Vec::new();
    let count = input.take(*left).read_until(b'\n', &mut line)?;
    *left -= count as u64;
    let Some(line) = line.strip_suffix(b"\r\n") else {
        return Err(malformed());
    };
    String::from_utf8(line.to_vec()).map_err(|_| malformed())
}

/// How the end of a body is told.
enum Framing {
    Length(u64),
    /// What is left of the current chunk, and whether a chunk came before.
    Chunks {
        left: u64,
        begun: bool,
    },
    Over,
}

impl Framing {
    fn of(request: &Request) -> Option<Self> {
        let length = request.header("content-length");
        match (request.header("transfer-encoding"), length) {
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Some(Self::Chunks {
                left: 0,
                begun: false,
            }),
            (None, Some(length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().ok().map(Self::Length)
            }
            (None, None) => Some(Self::Length(0)),
            _ => None,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::Over | Self::Length(0))
    }
}

/// The body of a request.
pub(super) struct Incoming<'a> {
    input: &'a mut BufReader<Stream>,
    framing: Framing,
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Framing::Chunks {
            left: left @ 0,
            begun,
        } = &mut self.framing
        {
            let mut budget = MAX_CHUNK_LINE_BYTES;
            if *begun && !read_line(self.input, &mut budget)?.is_empty() {
                return Err(malformed());
            }
            *begun = true;
            let line = read_line(self.input, &mut budget)?;
            let size = line.split(';').next().unwrap_or("").trim();
            *left = u64::from_str_radix(size, 16).map_err(|_| malformed())?;
            if *left == 0 {
                let mut budget = MAX_HEAD_BYTES;
                while !read_line(self.input, &mut budget)?.is_empty() {}
                self.framing = Framing::Over;
            }
        }
        let left = match &mut self.framing {
            Framing::Over => return Ok(0),
            Framing::Length(left) | Framing::Chunks { left, .. } => left,
        };
        let limit = usize::try_from(*left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if limit == 0 {
            // Even an empty read would wait for the client.
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..limit])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= count as u64;
        Ok(count)
    }
}

fn write(stream: &mut Stream, mut response: Response, method: &str, close: bool) -> io::Result<()> {
    use std::fmt::Write as _;
    let mut head = format!(
        "HTTP/1.1 {} {}\r\n",
        response.status,
        reason(response.status)
    );
    let has_length = response
        .headers
        .iter()
        .any(|(name, _)| name == "Content-Length");
    match response.body.length {
        Some(length) if !has_length => {
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        Some(_) => {}
        None => head.push_str("Connection: close\r\n"),
    }
    if close && response.body.length.is_some() {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("Docker-Distribution-Api-Version: registry/2.0\r\n");
    for (name, value) in &response.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if method == "HEAD" {
        return stream.flush();
    }
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = response.body.reader.read(&mut buffer)?;
        if count == 0 {
            return stream.flush();
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no HTTP request")
}

const BUFFER_BYTES: usize = 256 << 10;
const MAX_HEAD_BYTES: u64 = 32 << 10;
const MAX_CHUNK_LINE_BYTES: u64 = 1024;
const MAX_DRAIN_BYTES: u64 = 1 << 20;
