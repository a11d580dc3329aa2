//! Published ports: what `-p` means, and how a port of the host is kept for a container.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A transport protocol with ports.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, where nothing else is said.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol's number in an IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(Error::invalid(
                "InvalidProtocol",
                format!("read protocol {text:?}"),
            )),
        }
    }
}

/// A wish to publish one port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address to publish on; every one where it is `None`.
    pub host_address: Option<IpAddr>,
    /// The host's ports to choose the first free one from; any free port where it is `None`.
    pub host_ports: Option<RangeInclusive<u16>>,
    /// The port inside.
    pub container_port: u16,
}

impl PortMapping {
    /// Publishes the TCP port `container_port` on a port of the host that happens to be free.
    #[must_use]
    pub fn new(container_port: u16) -> Self {
        Self {
            protocol: Protocol::Tcp,
            host_address: None,
            host_ports: None,
            container_port,
        }
    }

    /// Reads what stands behind `-p`: `[[address:][host]:]container[/protocol]`, where host and
    /// container are a port or a range. Ranges of the same length are paired one by one, and a
    /// host range with one container port means the first free one of the range.
    ///
    /// ```
    /// use container_net::PortMapping;
    ///
    /// let ports = PortMapping::parse("127.0.0.1:8080-8081:80-81/udp")?;
    /// assert_eq!(ports.len(), 2);
    /// assert_eq!(ports[1].container_port, 81);
    /// # Ok::<(), container_net::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput`: `InvalidPort`, `InvalidPortRange`, `InvalidProtocol` or `InvalidHostAddress`.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        parse(text).map_err(|error| error.context(format!("read published port {text:?}")))
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match &self.host_ports {
            Some(ports) if ports.start() == ports.end() => write!(f, "{}:", ports.start())?,
            Some(ports) => write!(f, "{}-{}:", ports.start(), ports.end())?,
            None if self.host_address.is_some() => write!(f, ":")?,
            None => {}
        }
        write!(f, "{}/{}", self.container_port, self.protocol)
    }
}

fn parse(text: &str) -> Result<Vec<PortMapping>> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, protocol)) => (rest, protocol.parse()?),
        None => (text, Protocol::default()),
    };
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    let container = range(container)?;
    if *container.start() == 0 {
        return Err(Error::invalid("InvalidPort", "read container port 0"));
    }
    // A host port before which there is no other colon, or one outside the brackets of an address.
    let (address, host) = match rest {
        None => (None, ""),
        Some(rest) => match rest.rsplit_once(':') {
            Some((address, host)) if !host.ends_with(']') => (Some(address), host),
            _ => (None, rest),
        },
    };
    let host_address = address
        .filter(|address| !address.is_empty())
        .map(address_of)
        .transpose()?;
    // Port 0 asks the kernel for any, as everywhere.
    let host = match host {
        "" | "0" => None,
        host => Some(range(host)?),
    };
    let mapping = |host_ports, container_port| PortMapping {
        protocol,
        host_address,
        host_ports,
        container_port,
    };
    match host {
        None => Ok(container.map(|port| mapping(None, port)).collect()),
        Some(host) if container.len() == 1 => Ok(vec![mapping(Some(host), *container.start())]),
        Some(host) if container.len() == host.len() => Ok(host
            .zip(container)
            .map(|(host, port)| mapping(Some(host..=host), port))
            .collect()),
        Some(host) => Err(Error::invalid(
            "InvalidPortRange",
            format!(
                "pair {} host ports with {} container ports",
                host.len(),
                container.len()
            ),
        )),
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (port(start)?, port(end)?);
    if start > end {
        return Err(Error::invalid(
            "InvalidPortRange",
            format!("read port range {text:?}"),
        ));
    }
    Ok(start..=end)
}

/// Digits only: `u16::from_str` alone would take a sign.
fn port(text: &str) -> Result<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or_else(|| Error::invalid("InvalidPort", format!("read port {text:?}")))
}

fn address_of(text: &str) -> Result<IpAddr> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address = match inner {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => text.parse().map(IpAddr::V4).ok(),
    };
    address
        .ok_or_else(|| Error::invalid("InvalidHostAddress", format!("read host address {text:?}")))
}

/// A published port as it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PublishedPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address; `0.0.0.0` stands for every one.
    pub host_address: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The port inside.
    pub container_port: u16,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            protocol,
            host_address,
            host_port,
            container_port,
        } = self;
        write!(f, "{host_address}:{host_port}->{container_port}/{protocol}")
    }
}

/// Binds a port of the host, so that nobody else gets it; `None` for one that somebody has.
/// Port 0 takes one from the kernel's ephemeral range.
///
/// The socket never listens: what arrives is rewritten to the container before it gets here.
pub(crate) fn reserve(
    protocol: Protocol,
    address: Ipv4Addr,
    port: u16,
) -> Result<Option<(u16, OwnedFd)>> {
    let doing = || format!("bind {protocol} port {port} of {address}");
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let socket = socket_with(
        AddressFamily::INET,
        kind,
        SocketFlags::CLOEXEC,
        Some(number),
    )
    .map_err(|errno| match errno {
        Errno::PROTONOSUPPORT => Error::new(
            ErrorKind::Unsupported,
            "NoProtocol",
            format!("open a {protocol} socket"),
        ),
        errno => Error::os(format!("open a {protocol} socket"), errno),
    })?;
    match bind(&socket, &SocketAddr::from((address, port))) {
        Ok(()) => {}
        Err(Errno::ADDRINUSE) => return Ok(None),
        Err(errno @ Errno::ADDRNOTAVAIL) => {
            return Err(Error::invalid("NoSuchHostAddress", doing())
                .with_source(std::io::Error::from(errno)));
        }
        Err(errno) => return Err(Error::os(doing(), errno)),
    }
    let bound = rustix::net::getsockname(&socket)
        .and_then(SocketAddr::try_from)
        .map_err(|errno| Error::os(doing(), errno))?;
    Ok(Some((bound.port(), socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let cases = [
            ("80", &["80/tcp"][..]),
            ("8080:80", &["8080:80/tcp"]),
            (":80", &["80/tcp"]),
            ("0:80", &["80/tcp"]),
            ("53:53/UDP", &["53:53/udp"]),
            ("7:7/sctp", &["7:7/sctp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1:8080:80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1::80/tcp"]),
            ("[::1]:8080:80", &["[::1]:8080:80/tcp"]),
            ("[::1]::80/udp", &["[::1]::80/udp"]),
            ("80-81", &["80/tcp", "81/tcp"]),
            ("6080-6081:80-81", &["6080:80/tcp", "6081:81/tcp"]),
            ("8000-8010:80", &["8000-8010:80/tcp"]),
            ("65535:65535", &["65535:65535/tcp"]),
        ];
        for (text, want) in cases {
            let read = PortMapping::parse(text).unwrap();
            let read: Vec<_> = read.iter().map(ToString::to_string).collect();
            assert_eq!(read, want, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        let cases = [
            ("", "InvalidPort"),
            (":", "InvalidPort"),
            ("tcp", "InvalidPort"),
            ("80/", "InvalidProtocol"),
            ("80/xyz", "InvalidProtocol"),
            ("/tcp", "InvalidPort"),
            ("0", "InvalidPort"),
            ("8080:0", "InvalidPort"),
            ("9999999", "InvalidPort"),
            ("65536:80", "InvalidPort"),
            ("+80", "InvalidPort"),
            ("-80", "InvalidPort"),
            ("80-", "InvalidPort"),
            ("81-80", "InvalidPortRange"),
            ("8080-8082:80-81", "InvalidPortRange"),
            ("8080:80-81", "InvalidPortRange"),
            ("localhost:8080:80", "InvalidHostAddress"),
            ("1.2.3:8080:80", "InvalidHostAddress"),
            ("[1.2.3.4]:8080:80", "InvalidHostAddress"),
            ("::1:8080:80", "InvalidHostAddress"),
            ("[::1]:80", "InvalidPort"),
            ("a:b:c:d", "InvalidPort"),
        ];
        for (text, code) in cases {
            assert_eq!(PortMapping::parse(text).unwrap_err().code(), code, "{text}");
        }
    }
}
