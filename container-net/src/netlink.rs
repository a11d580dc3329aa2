//! A blocking netlink socket and the route requests that the crate sends through it.
//!
//! The kernel works off a netlink request inside `sendmsg(2)`, so every answer is queued by the
//! time that the call returns. A batch is therefore one send followed by reads that hardly ever
//! wait; the receive timeout is there for the day on which that is not true.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use ipnetwork::Ipv4Network;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket as RawSocket, SocketAddr, protocols};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::{Error, ErrorKind, MacAddress, Result};

/// The index of `lo`, the first link of every network namespace.
pub(crate) const LOOPBACK_INDEX: u32 = 1;

/// How long an answer may take that should be there already.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than the kernel puts into one datagram of a dump (32 KiB).
const RECEIVE_BYTES: usize = 64 * 1024;
/// How often a dump is repeated because the table changed below it.
const DUMP_ATTEMPTS: usize = 8;

const HEADER_BYTES: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The error message carries only the header of the request (`NETLINK_CAP_ACK`).
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow the request in an error message (`NETLINK_EXT_ACK`).
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One netlink socket, which belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: RawSocket,
    sequence: u32,
}

/// One message on its way to the kernel, and what it does in words.
pub(crate) struct Request {
    doing: String,
    message: Vec<u8>,
}

/// A message from the kernel: its type and what follows the netlink header.
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

impl Socket {
    /// Opens a socket for links, addresses and routes.
    pub(crate) fn route() -> Result<Self> {
        Self::open(protocols::NETLINK_ROUTE, "NETLINK_ROUTE")
    }

    /// Opens a socket for nf_tables.
    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(protocols::NETLINK_NETFILTER, "NETLINK_NETFILTER")
    }

    fn open(protocol: isize, name: &str) -> Result<Self> {
        let open = || -> io::Result<RawSocket> {
            let socket = RawSocket::new(protocol)?;
            // A connected socket takes messages from the kernel only.
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            // The one option that is younger than Linux 4.20; without it dumps are not filtered,
            // which the readers below do not rely on.
            let _ = socket.set_netlink_get_strict_chk(true);
            set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(TIMEOUT))?;
            Ok(socket)
        };
        let inner = open().map_err(|source| Error::os(format!("open a {name} socket"), source))?;
        Ok(Self { inner, sequence: 0 })
    }

    /// Sends `requests` at once and reads all answers. Each is worked off, also after a failed one;
    /// the first failure is returned.
    ///
    /// The answers are complete with that to the last request that asks for an acknowledgement or
    /// is a dump, so there must be one.
    pub(crate) fn send(&mut self, mut requests: Vec<Request>) -> Result<Vec<Reply>> {
        let first = self.sequence.wrapping_add(1);
        let mut last = first;
        let mut datagram = Vec::new();
        for request in &mut requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.set_sequence(self.sequence);
            if request.is_answered() {
                last = self.sequence;
            }
            datagram.extend_from_slice(&request.message);
        }
        let doing = |sequence: u32| {
            let index = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            requests
                .get(index)
                .or(requests.last())
                .map_or_else(String::new, |request| request.doing.clone())
        };
        let sent = loop {
            match self.inner.send(&datagram, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => break sent,
            }
        };
        sent.map_err(|source| os(doing(first), source))?;

        let mut replies = Vec::new();
        let mut failure: Option<Error> = None;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            // After a failure the kernel may have given up before the last request.
            let flags = if failure.is_some() {
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            let length = match self.receive(&mut buffer, flags) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(failure.unwrap_or_else(|| {
                        Error::new(ErrorKind::TimedOut, "NetlinkTimeout", doing(self.sequence))
                    }));
                }
                Err(source) => return Err(os(doing(self.sequence), source)),
            };
            let mut finished = false;
            for message in Messages(&buffer[..length]) {
                let message = message?;
                if message.sequence.wrapping_sub(first) > self.sequence.wrapping_sub(first) {
                    // Left over from a batch that failed.
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        finished |= message.sequence == last;
                        if let Some((errno, text)) = message.failure() {
                            let doing = match text {
                                Some(text) => format!("{} ({text})", doing(message.sequence)),
                                None => doing(message.sequence),
                            };
                            let error = os(doing, io::Error::from_raw_os_error(errno));
                            failure.get_or_insert(error);
                        }
                    }
                    _ if message.flags & NLM_F_DUMP_INTR != 0 => {
                        failure.get_or_insert(interrupted(doing(message.sequence)));
                    }
                    kind => replies.push(Reply {
                        kind,
                        payload: message.payload.to_vec(),
                    }),
                }
            }
            if finished {
                return failure.map_or(Ok(replies), Err);
            }
        }
    }

    /// Sends a dump request, again if the dumped table changed meanwhile.
    pub(crate) fn dump(&mut self, request: impl Fn() -> Request) -> Result<Vec<Reply>> {
        let mut attempt = 1;
        loop {
            match self.send(vec![request()]) {
                Err(error) if error.code() == DUMP_INTERRUPTED && attempt < DUMP_ATTEMPTS => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match rustix::net::recv(self.inner.as_fd(), &mut *buffer, flags) {
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done.map(|(length, _)| length)?),
            }
        }
    }
}

const DUMP_INTERRUPTED: &str = "DumpInterrupted";

fn interrupted(doing: String) -> Error {
    Error::new(ErrorKind::Busy, DUMP_INTERRUPTED, doing).with_retry()
}

/// An error of the kernel; a missing device is a missing thing like any other.
fn os(doing: String, source: io::Error) -> Error {
    const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
    let missing = source.raw_os_error() == Some(ENODEV);
    let error = Error::os(doing, source);
    if missing {
        error.with_kind(ErrorKind::NotFound)
    } else {
        error
    }
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let broken = || {
            Error::new(
                ErrorKind::Internal,
                "NetlinkFormat",
                "read a netlink message",
            )
        };
        let Some(header) = self.0.first_chunk::<HEADER_BYTES>() else {
            self.0 = &[];
            return Some(Err(broken()));
        };
        let length = usize::try_from(u32::from_ne_bytes([
            header[0], header[1], header[2], header[3],
        ]))
        .unwrap_or(usize::MAX);
        let Some(message) = self.0.get(..length).filter(|_| length >= HEADER_BYTES) else {
            self.0 = &[];
            return Some(Err(broken()));
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload: &message[HEADER_BYTES..],
        }))
    }
}

impl Message<'_> {
    /// The error number of an error or end-of-dump message, and the kernel's own words on it.
    fn failure(&self) -> Option<(i32, Option<String>)> {
        let errno = -i32::from_ne_bytes(*self.payload.first_chunk()?);
        if errno == 0 {
            return None;
        }
        let mut attributes = &self.payload[4..];
        if self.kind == NLMSG_ERROR {
            let request = attributes
                .first_chunk::<4>()
                .map_or(0, |length| u32::from_ne_bytes(*length));
            let request = usize::try_from(request).unwrap_or(usize::MAX);
            let skip = if self.flags & NLM_F_CAPPED != 0 {
                HEADER_BYTES
            } else {
                request
            };
            attributes = attributes.get(skip..).unwrap_or_default();
        }
        let text = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| attribute(attributes, NLMSGERR_ATTR_MSG))
            .flatten()
            .map(text);
        Some((errno, text))
    }
}

/// The value of the first attribute of `kind`.
pub(crate) fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// The flags for nested and big-endian values.
    const KIND_MASK: u16 = 0x3fff;
    loop {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & KIND_MASK == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

impl Request {
    /// A request whose bytes, netlink header included, were built elsewhere.
    pub(crate) fn raw(doing: impl Into<String>, message: Vec<u8>) -> Self {
        Self {
            doing: doing.into(),
            message,
        }
    }

    fn route(doing: impl Into<String>, flags: u16, message: RouteNetlinkMessage) -> Self {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Self::raw(doing, bytes)
    }

    /// Asks the kernel to answer also when all went well.
    pub(crate) fn acknowledge(&mut self) {
        let flags = self.flags() | NLM_F_ACK;
        self.message[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn is_answered(&self) -> bool {
        self.flags() & NLM_F_ACK != 0 || self.flags() & NLM_F_DUMP == NLM_F_DUMP
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.message[6], self.message[7]])
    }

    fn set_sequence(&mut self, sequence: u32) {
        self.message[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A link as the kernel describes it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The index of the peer of a veth, in the peer's namespace.
    pub(crate) peer: Option<u32>,
    /// The bridge that the link is a port of.
    pub(crate) controller: Option<u32>,
    pub(crate) is_bridge: bool,
    /// Whether packets go through, as far as the kernel has noticed.
    pub(crate) is_operational: bool,
}

impl Link {
    /// Reads a link from an answer, `None` where it is something else.
    pub(crate) fn from_reply(reply: &Reply) -> Option<Self> {
        /// `struct ifinfomsg`, linux/rtnetlink.h.
        const INFO_BYTES: usize = 16;
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINK: u16 = 5;
        const IFLA_MASTER: u16 = 10;
        const IFLA_OPERSTATE: u16 = 16;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_INFO_KIND: u16 = 1;
        /// `IF_OPER_UNKNOWN`, of links that cannot tell, and `IF_OPER_UP`.
        const OPERATIONAL: [u8; 2] = [0, 6];
        if reply.kind != RTM_NEWLINK {
            return None;
        }
        let attributes = reply.payload.get(INFO_BYTES..)?;
        let number = |kind| {
            Some(u32::from_ne_bytes(
                *attribute(attributes, kind)?.first_chunk()?,
            ))
        };
        let kind =
            attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
        Some(Self {
            index: u32::from_ne_bytes(*reply.payload[4..].first_chunk()?),
            name: text(attribute(attributes, IFLA_IFNAME)?),
            peer: number(IFLA_LINK),
            controller: number(IFLA_MASTER),
            is_bridge: kind.is_some_and(|kind| text(kind) == "bridge"),
            is_operational: attribute(attributes, IFLA_OPERSTATE)
                .and_then(<[u8]>::first)
                .is_none_or(|state| OPERATIONAL.contains(state)),
        })
    }
}

/// A string attribute, whose final NUL is optional.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value)
        .trim_end_matches('\0')
        .to_owned()
}

/// Asks for the link `name`.
pub(crate) fn get_link(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).build();
    Request::route(
        format!("look up link {name:?}"),
        NLM_F_ACK,
        RouteNetlinkMessage::GetLink(message),
    )
}

/// Asks for the link that has `index`.
pub(crate) fn get_link_by_index(index: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).build();
    let doing = format!("look up link {index}");
    Request::route(doing, NLM_F_ACK, RouteNetlinkMessage::GetLink(message))
}

/// Finds the link `name` in the namespace of `socket`.
pub(crate) fn find_link(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    match socket.send(vec![get_link(name)]) {
        Ok(replies) => Ok(replies.iter().find_map(Link::from_reply)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links in the namespace of `socket`.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<Link>> {
    let request = || {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Request::route("list links", NLM_F_DUMP, message)
    };
    Ok(socket
        .dump(request)?
        .iter()
        .filter_map(Link::from_reply)
        .collect())
}

/// Deletes the link `name`; gone is as good.
pub(crate) fn delete_link(socket: &mut Socket, name: &str) -> Result<()> {
    let message = LinkUnspec::new_with_name(name).build();
    let doing = format!("delete link {name:?}");
    match socket.send(vec![Request::route(
        doing,
        NLM_F_ACK,
        RouteNetlinkMessage::DelLink(message),
    )]) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the bridge `name`, which stays down.
pub(crate) fn new_bridge(name: &str, mac: MacAddress) -> Request {
    let message = LinkMessageBuilder::<LinkBridge>::new(name)
        .address(mac.octets().to_vec())
        .build();
    create(
        format!("create bridge {name:?}"),
        RouteNetlinkMessage::NewLink(message),
    )
}

/// One end of a veth pair beside the host's.
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a str,
    pub(crate) mac: MacAddress,
    pub(crate) netns: BorrowedFd<'a>,
}

/// Makes a veth pair: `name` as a port of the bridge `controller`, up, and its peer directly in its
/// network namespace, down, as it cannot go up before it is a peer. (Making it here and moving it
/// there would take forty times as long.)
pub(crate) fn new_veth(name: &str, controller: u32, peer: &Peer<'_>) -> Request {
    let inside = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer.name)
        .address(peer.mac.octets().to_vec())
        .setns_by_fd(peer.netns.as_raw_fd())
        .build();
    let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(name)
        .controller(controller)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
        .up()
        .build();
    let doing = format!("create veth pair {name:?} and {:?}", peer.name);
    create(doing, RouteNetlinkMessage::NewLink(message))
}

/// Lets the bridge send a frame back through the port `name` on which it came.
pub(crate) fn set_hairpin(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name)
        .set_port_kind(InfoPortKind::Bridge)
        .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
            true,
        )]))
        .build();
    let doing = format!("set hairpin mode of {name:?}");
    Request::route(doing, NLM_F_ACK, RouteNetlinkMessage::NewLink(message))
}

/// Sets the link up that has `index`.
pub(crate) fn set_up(index: u32) -> Request {
    let message = LinkUnspec::new_with_index(index).up().build();
    Request::route(
        format!("set link {index} up"),
        NLM_F_ACK,
        RouteNetlinkMessage::SetLink(message),
    )
}

/// Gives the link `index` an address, and with it the route to its subnet.
pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Request {
    let message = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address, prefix_len)
        .build();
    let doing = format!("add address {address}/{prefix_len} to link {index}");
    create(doing, RouteNetlinkMessage::NewAddress(message))
}

/// Sends everything without a better route to `gateway`.
pub(crate) fn add_default_route(gateway: Ipv4Addr) -> Request {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .build();
    create(
        format!("add default route by {gateway}"),
        RouteNetlinkMessage::NewRoute(message),
    )
}

/// Every IPv4 subnet that the namespace of `socket` has an address in or a route to, but for the
/// default route.
pub(crate) fn used_subnets(socket: &mut Socket) -> Result<Vec<Ipv4Network>> {
    let routes = socket.dump(|| {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        Request::route(
            "list routes",
            NLM_F_DUMP,
            RouteNetlinkMessage::GetRoute(message),
        )
    })?;
    let addresses = socket.dump(|| {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        Request::route(
            "list addresses",
            NLM_F_DUMP,
            RouteNetlinkMessage::GetAddress(message),
        )
    })?;
    let mut subnets: Vec<_> = routes
        .iter()
        .chain(&addresses)
        .filter_map(subnet_of)
        .collect();
    subnets.sort_unstable();
    subnets.dedup();
    Ok(subnets)
}

/// The subnet of a route or address; `None` for a default route.
fn subnet_of(reply: &Reply) -> Option<Ipv4Network> {
    // Both headers start with the family and the length of the prefix, and both name it by 1
    // (`RTA_DST`, `IFA_ADDRESS`).
    let header = match reply.kind {
        RTM_NEWADDR => 8,
        RTM_NEWROUTE => 12,
        _ => return None,
    };
    let prefix_len = *reply.payload.get(1)?;
    let address: [u8; 4] = *attribute(reply.payload.get(header..)?, 1)?.first_chunk()?;
    let subnet = Ipv4Network::new(Ipv4Addr::from(address), prefix_len).ok()?;
    (prefix_len > 0).then_some(Ipv4Network::new(subnet.network(), prefix_len).ok()?)
}

/// A request that makes something new.
fn create(doing: String, message: RouteNetlinkMessage) -> Request {
    Request::route(doing, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, message)
}

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_hostile_lengths_are_not_followed() {
        let bytes = [6, 0, 3, 0, b'l', b'o', 0, 0, 5, 0, 7, 0x80, 9, 0, 0, 0];
        assert_eq!(attribute(&bytes, 3), Some(&b"lo"[..]));
        assert_eq!(attribute(&bytes, 7), Some(&[9][..]));
        assert_eq!(attribute(&bytes, 8), None);
        for length in [0_u16, 3, 17, u16::MAX] {
            let mut bytes = bytes;
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(attribute(&bytes, 7), None, "{length}");
        }
    }

    #[test]
    fn the_kernels_words_are_read_from_an_acknowledgement() {
        let mut message = Vec::new();
        let words = b"peer is gone\0";
        let attribute_bytes = 4 + words.len();
        let total = HEADER_BYTES + 4 + HEADER_BYTES + attribute_bytes.next_multiple_of(4);
        message.extend(u32::try_from(total).unwrap().to_ne_bytes());
        message.extend(NLMSG_ERROR.to_ne_bytes());
        message.extend((NLM_F_CAPPED | NLM_F_ACK_TLVS).to_ne_bytes());
        message.extend([7, 0, 0, 0, 0, 0, 0, 0]);
        message.extend((-22_i32).to_ne_bytes());
        message.extend([0; HEADER_BYTES]);
        message.extend(u16::try_from(attribute_bytes).unwrap().to_ne_bytes());
        message.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        message.extend(words);
        message.resize(total, 0);
        let read: Vec<_> = Messages(&message).collect::<Result<_>>().unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(
            read[0].failure(),
            Some((22, Some("peer is gone".to_owned())))
        );

        message[0] = 200;
        assert!(Messages(&message).any(|message| message.is_err()));
    }
}
