//! The firewall as one nf_tables table of the `inet` family, written over netlink.
//!
//! ```text
//! set bridges        ifname                              our bridges
//! set linked         ifname . ifname                     from which to which bridge packets may go
//! set subnets        ipv4_addr (intervals)               the subnets of our bridges
//! map published      proto . address . port : address . port   ports of one address of the host
//! map published_any  proto . port : address . port       ports of every address of the host
//! ```
//!
//! The rules only look into these, so a published port or a further bridge costs an element and
//! the number of rules never grows.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use ipnetwork::Ipv4Network;

use super::expression::{Message, Nest, Rule, Side, Verdict, interface_name};
use super::{Firewall, ForeignDrop, Forward, Rules, Segment};
use crate::netlink::{Request, Socket, attribute, text};
use crate::netns::Identity;
use crate::{Error, ErrorKind, Result};

/// An nf_tables table of our own, in the network namespace of whichever thread makes a call.
///
/// It keeps some sockets open, as the kernel lets who closes one wait until everything that was
/// lately removed from any table is gone: some ten milliseconds.
#[derive(Debug)]
pub struct Nft {
    table: String,
    sockets: Mutex<Vec<(Identity, Socket)>>,
}

impl Nft {
    /// Uses the table `name`, which is nobody else's.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            table: name.into(),
            sockets: Mutex::default(),
        }
    }

    /// The messages that make the table from nothing.
    fn base(&self) -> Vec<Message> {
        let table = |kind, flags| Message::new(kind, flags).text(TABLE_NAME, &self.table);
        // Adding it first lets the deletion succeed whether it was there or not.
        let mut messages = vec![
            table(NEW_TABLE, CREATE),
            table(DELETE_TABLE, 0),
            table(NEW_TABLE, CREATE),
        ];
        messages.extend((1..).zip(SETS).map(|(id, set)| self.new_set(id, set)));
        messages.extend(CHAINS.iter().map(|chain| self.new_chain(chain)));
        messages.extend(rules().into_iter().map(|(chain, rule)| {
            Message::new(NEW_RULE, CREATE | APPEND)
                .text(1, &self.table)
                .text(2, chain)
                .nested(4, rule)
        }));
        messages
    }

    fn new_set(&self, id: u32, set: &Set) -> Message {
        const FLAG_INTERVAL: u32 = 0x4;
        const FLAG_MAP: u32 = 0x8;
        let flags = if set.intervals { FLAG_INTERVAL } else { 0 }
            | if set.data.is_empty() { 0 } else { FLAG_MAP };
        let mut message = Message::new(NEW_SET, CREATE)
            .text(1, &self.table)
            .text(2, set.name)
            .number(3, flags)
            .number(4, type_of(set.key))
            .number(5, length_of(set.key));
        if !set.data.is_empty() {
            message = message
                .number(6, type_of(set.data))
                .number(7, length_of(set.data));
        }
        message = message.number(10, id);
        if let &[only] = set.key {
            // What `nft list` needs to print a key: the byte order, as a type-length-value.
            let order: u32 = if only == Type::InterfaceName { 1 } else { 2 };
            let mut user_data = vec![0, 4];
            user_data.extend(order.to_ne_bytes());
            message = message.bytes(13, &user_data);
        }
        message
    }

    fn new_chain(&self, chain: &Chain) -> Message {
        const POLICY_ACCEPT: u32 = 1;
        let message = Message::new(NEW_CHAIN, CREATE)
            .text(1, &self.table)
            .text(3, chain.name);
        let Some((kind, hook, priority)) = chain.hook else {
            return message;
        };
        let hook = Nest::default()
            .number(1, hook)
            .bytes(2, &priority.to_be_bytes());
        message
            .nested(4, hook)
            .number(5, POLICY_ACCEPT)
            .text(7, kind)
    }

    /// The messages that put the data of `rules` into the sets, or take it out.
    fn elements(&self, kind: u8, rules: &Rules) -> Vec<Message> {
        /// Keeps the list below the 64 KiB of an attribute.
        const ELEMENTS_PER_MESSAGE: usize = 500;
        let mut messages = Vec::new();
        for (set, elements) in elements(rules) {
            for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                let message = Message::new(kind, if kind == NEW_ELEMENT { CREATE } else { 0 })
                    .text(1, &self.table)
                    .text(2, set)
                    .nested(3, Nest::list(chunk.iter().cloned()));
                messages.push(message);
            }
        }
        messages
    }

    /// Carries out `messages` as one transaction.
    fn commit(&self, doing: &str, messages: Vec<Message>) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let doing = format!("{doing} nftables table {:?}", self.table);
        self.with_socket(|socket| socket.send(transaction(&doing, messages)))
            .map(drop)
    }

    /// Lends `work` an open socket of the calling thread's namespace.
    fn with_socket<T>(&self, work: impl FnOnce(&mut Socket) -> Result<T>) -> Result<T> {
        /// As many as may be at it at once without one being closed.
        const KEPT: usize = 16;
        let here = Identity::current()?;
        let pool = || self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = {
            let mut sockets = pool();
            let index = sockets.iter().position(|(namespace, _)| *namespace == here);
            index.map(|index| sockets.swap_remove(index).1)
        };
        let mut socket = match kept {
            Some(socket) => socket,
            None => Socket::netfilter().map_err(named)?,
        };
        let done = work(&mut socket).map_err(named);
        let mut sockets = pool();
        if sockets.len() < KEPT {
            sockets.push((here, socket));
        }
        done
    }
}

impl Firewall for Nft {
    fn exists(&self) -> Result<bool> {
        let message = Message::new(GET_TABLE, ACK)
            .text(TABLE_NAME, &self.table)
            .finish();
        let doing = format!("look up nftables table {:?}", self.table);
        match self.with_socket(|socket| socket.send(vec![Request::raw(doing, message)])) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, rules: &Rules) -> Result<()> {
        /// Keeps a transaction below the send buffer of a socket.
        const FORWARDS_PER_TRANSACTION: usize = 1000;
        let segments = Rules {
            segments: rules.segments.clone(),
            forwards: Vec::new(),
        };
        let mut messages = self.base();
        messages.extend(self.elements(NEW_ELEMENT, &segments));
        self.commit("make", messages)?;
        for forwards in rules.forwards.chunks(FORWARDS_PER_TRANSACTION) {
            self.add(&Rules {
                segments: Vec::new(),
                forwards: forwards.to_vec(),
            })?;
        }
        Ok(())
    }

    fn add(&self, rules: &Rules) -> Result<()> {
        self.commit("add to", self.elements(NEW_ELEMENT, rules))
    }

    fn remove(&self, rules: &Rules) -> Result<()> {
        const DOING: &str = "remove from";
        match self.commit(DOING, self.elements(DELETE_ELEMENT, rules)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => return done,
        }
        // One that is gone already has kept the others from going.
        let single = rules
            .segments
            .iter()
            .map(|segment| Rules {
                segments: vec![segment.clone()],
                forwards: Vec::new(),
            })
            .chain(rules.forwards.iter().map(|&forward| Rules {
                segments: Vec::new(),
                forwards: vec![forward],
            }));
        for rules in single {
            for message in self.elements(DELETE_ELEMENT, &rules) {
                match self.commit(DOING, vec![message]) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        let message = Message::new(DELETE_TABLE, 0).text(TABLE_NAME, &self.table);
        match self.commit("delete", vec![message]) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn foreign_drops(&self) -> Result<Vec<ForeignDrop>> {
        let request = || {
            let message = Message::new(GET_CHAIN, DUMP).any_family().finish();
            Request::raw("list nftables chains", message)
        };
        let replies = self.with_socket(|socket| socket.dump(request))?;
        Ok(replies
            .iter()
            .filter_map(|reply| forward_drop(&reply.payload))
            .filter(|chain| chain.table != self.table)
            .collect())
    }
}

/// Reads a chain, where it drops forwarded IPv4 packets by policy.
fn forward_drop(payload: &[u8]) -> Option<ForeignDrop> {
    /// `struct nfgenmsg`.
    const HEADER_BYTES: usize = 4;
    const FAMILIES: [u8; 2] = [1, 2];
    const POLICY_DROP: u32 = 0;
    if !FAMILIES.contains(payload.first()?) {
        return None;
    }
    let attributes = payload.get(HEADER_BYTES..)?;
    let number = |value: &[u8]| Some(u32::from_be_bytes(*value.first_chunk()?));
    let hook = number(attribute(attribute(attributes, 4)?, 1)?)?;
    let policy = number(attribute(attributes, 5)?)?;
    (hook == HOOK_FORWARD && policy == POLICY_DROP).then_some(ForeignDrop {
        table: text(attribute(attributes, 1)?),
        chain: text(attribute(attributes, 3)?),
    })
}

/// The requests of one transaction; only the last message of it is acknowledged.
fn transaction(doing: &str, messages: Vec<Message>) -> Vec<Request> {
    const BEGIN: u16 = 16;
    const END: u16 = 17;
    let mut requests = vec![Request::raw(doing, Message::bracket(BEGIN).finish())];
    requests.extend(
        messages
            .into_iter()
            .map(|message| Request::raw(doing, message.finish())),
    );
    if let Some(last) = requests.last_mut() {
        last.acknowledge();
    }
    requests.push(Request::raw(doing, Message::bracket(END).finish()));
    requests
}

/// Names what is missing where the kernel has no nf_tables.
fn named(error: Error) -> Error {
    const EPROTONOSUPPORT: i32 = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
    const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
    const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
    match error.kind() {
        ErrorKind::Os(EPROTONOSUPPORT | EINVAL | EOPNOTSUPP) => error
            .context("use nf_tables (inet tables with NAT, fib and maps: Linux 5.2)")
            .with_kind(ErrorKind::Unsupported)
            .with_code("NoNfTables"),
        _ => error,
    }
}

/// The elements of each set that stand for `rules`.
fn elements(rules: &Rules) -> Vec<(&'static str, Vec<Nest>)> {
    let mut sets = vec![
        (BRIDGES.name, Vec::new()),
        (LINKED.name, Vec::new()),
        (SUBNETS.name, Vec::new()),
        (PUBLISHED.name, Vec::new()),
        (PUBLISHED_ANY.name, Vec::new()),
    ];
    for Segment { interface, subnet } in &rules.segments {
        let name = interface_name(interface);
        sets[0].1.push(key(&name));
        sets[1].1.push(key(&[name, name].concat()));
        sets[2].1.extend(interval(*subnet));
    }
    for Forward { port, address } in &rules.forwards {
        let mut published = vec![port.protocol.number(), 0, 0, 0];
        let everywhere = port.host_address.is_unspecified();
        if !everywhere {
            published.extend(port.host_address.octets());
        }
        published.extend(slot(port.host_port));
        let target = [address.octets(), slot(port.container_port)].concat();
        sets[if everywhere { 4 } else { 3 }]
            .1
            .push(key(&published).nested(2, Nest::value(&target)));
    }
    sets
}

fn key(value: &[u8]) -> Nest {
    Nest::default().nested(1, Nest::value(value))
}

/// A port in a slot of four bytes.
fn slot(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The start of a subnet, and the address after it as the end; the end of all addresses has none.
fn interval(subnet: Ipv4Network) -> impl Iterator<Item = Nest> {
    const FLAGS: u16 = 3;
    const INTERVAL_END: u32 = 1;
    let start = key(&subnet.network().octets());
    let end = u32::from(subnet.broadcast()).checked_add(1);
    let end = end.map(|end| key(&Ipv4Addr::from(end).octets()).number(FLAGS, INTERVAL_END));
    [start].into_iter().chain(end)
}

struct Set {
    name: &'static str,
    key: &'static [Type],
    data: &'static [Type],
    intervals: bool,
}

const SETS: [&Set; 5] = [&BRIDGES, &LINKED, &SUBNETS, &PUBLISHED, &PUBLISHED_ANY];

const BRIDGES: Set = Set {
    name: "bridges",
    key: &[Type::InterfaceName],
    data: &[],
    intervals: false,
};
const LINKED: Set = Set {
    name: "linked",
    key: &[Type::InterfaceName, Type::InterfaceName],
    data: &[],
    intervals: false,
};
const SUBNETS: Set = Set {
    name: "subnets",
    key: &[Type::Address],
    data: &[],
    intervals: true,
};
const PUBLISHED: Set = Set {
    name: "published",
    key: &[Type::Protocol, Type::Address, Type::Port],
    data: &[Type::Address, Type::Port],
    intervals: false,
};
const PUBLISHED_ANY: Set = Set {
    name: "published_any",
    key: &[Type::Protocol, Type::Port],
    data: &[Type::Address, Type::Port],
    intervals: false,
};

/// A part of a key, by the number that the `nft` program has for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Address = 7,
    Protocol = 12,
    Port = 13,
    InterfaceName = 41,
}

/// The number of a type of several parts: six bits for each.
fn type_of(parts: &[Type]) -> u32 {
    parts
        .iter()
        .fold(0, |number, part| number << 6 | *part as u32)
}

/// The bytes of a key: each part fills up slots of four.
fn length_of(parts: &[Type]) -> u32 {
    parts
        .iter()
        .map(|part| if *part == Type::InterfaceName { 16 } else { 4 })
        .sum()
}

struct Chain {
    name: &'static str,
    /// Kind, hook and priority; `None` for one that others jump to.
    hook: Option<(&'static str, u32, i32)>,
}

const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;

const CHAINS: [Chain; 6] = [
    // Before connection tracking.
    Chain {
        name: "raw",
        hook: Some(("filter", HOOK_PREROUTING, -300)),
    },
    Chain {
        name: "publish",
        hook: None,
    },
    Chain {
        name: "prerouting",
        hook: Some(("nat", HOOK_PREROUTING, -100)),
    },
    Chain {
        name: "output",
        hook: Some(("nat", HOOK_OUTPUT, -100)),
    },
    Chain {
        name: "forward",
        hook: Some(("filter", HOOK_FORWARD, 0)),
    },
    Chain {
        name: "postrouting",
        hook: Some(("nat", HOOK_POSTROUTING, 100)),
    },
];

/// The rules in their order, each with its chain.
fn rules() -> Vec<(&'static str, Nest)> {
    use Side::{Destination, Source};
    let rule = Rule::default;
    vec![
        // Our bridges route to 127.0.0.1, so that the answers to the host's own connections to a
        // port published there come back. Containers must not make use of it.
        (
            "raw",
            rule()
                .interface_in(Source, "bridges")
                .loopback(Destination)
                .then(&Verdict::Drop),
        ),
        (
            "raw",
            rule()
                .interface_in(Source, "bridges")
                .loopback(Source)
                .then(&Verdict::Drop),
        ),
        ("publish", rule().publish_by_address("published").finish()),
        (
            "publish",
            rule().publish_everywhere("published_any").finish(),
        ),
        // A neighbour may send us packets for 127.0.0.1. The kernel drops them after this hook,
        // unless they had become packets for a container.
        (
            "prerouting",
            rule()
                .not_from("lo")
                .loopback(Destination)
                .then(&Verdict::Return),
        ),
        (
            "prerouting",
            rule().for_host().then(&Verdict::Jump("publish")),
        ),
        ("output", rule().for_host().then(&Verdict::Jump("publish"))),
        (
            "forward",
            rule()
                .interface_not_in(Destination, "bridges")
                .then(&Verdict::Accept),
        ),
        ("forward", rule().answers().then(&Verdict::Accept)),
        (
            "forward",
            rule().interfaces_in("linked").then(&Verdict::Accept),
        ),
        // Also for what was published: other bridges do not get in by way of the host's address.
        (
            "forward",
            rule().interface_in(Source, "bridges").then(&Verdict::Drop),
        ),
        ("forward", rule().was_published().then(&Verdict::Accept)),
        ("forward", rule().then(&Verdict::Drop)),
        (
            "postrouting",
            rule()
                .address_in(Source, "subnets")
                .interface_not_in(Destination, "bridges")
                .masquerade(),
        ),
        // A container that uses a published port of its own bridge: the answer must come by the
        // host, where the address is translated back.
        (
            "postrouting",
            rule()
                .address_in(Source, "subnets")
                .interface_in(Destination, "bridges")
                .was_published()
                .masquerade(),
        ),
        // The host that uses a port published on 127.0.0.1.
        (
            "postrouting",
            rule()
                .interface_in(Destination, "bridges")
                .loopback(Source)
                .masquerade(),
        ),
    ]
}

const NEW_TABLE: u8 = 0;
const GET_TABLE: u8 = 1;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const GET_CHAIN: u8 = 4;
const NEW_RULE: u8 = 6;
const NEW_SET: u8 = 9;
const NEW_ELEMENT: u8 = 12;
const DELETE_ELEMENT: u8 = 14;

const TABLE_NAME: u16 = 1;

const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
