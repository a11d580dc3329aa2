//! nf_tables' rule language: messages, attributes and the expressions that a rule is made of.
//!
//! Everything here is bytes as linux/netfilter/nf_tables.h has them. Numbers are big-endian, but
//! for the headers of messages and attributes.

use std::net::Ipv4Addr;

/// `NFPROTO_INET`: a table for IPv4 and IPv6 together.
pub(super) const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;

/// The 16-byte registers that the rules use; a value of several parts goes on in the next slots
/// of four bytes.
const REGISTER: u32 = 1;
/// The four bytes after the first of [`REGISTER`].
const SLOT_1: u32 = 9;
const SLOT_2: u32 = 10;
/// The register after [`REGISTER`].
const REGISTER_2: u32 = 2;
const VERDICT_REGISTER: u32 = 0;

/// A netlink message under construction.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Starts the nf_tables message `kind`.
    pub(super) fn new(kind: u8, flags: u16) -> Self {
        const SUBSYSTEM: u8 = 10;
        Self::with_header(u16::from_be_bytes([SUBSYSTEM, kind]), flags, FAMILY_INET, 0)
    }

    /// Starts a message that begins or ends a transaction.
    pub(super) fn bracket(kind: u16) -> Self {
        const SUBSYSTEM: u16 = 10;
        Self::with_header(kind, 0, 0, SUBSYSTEM)
    }

    /// `struct nlmsghdr` and `struct nfgenmsg`. Length and sequence number are filled in later.
    fn with_header(kind: u16, flags: u16, family: u8, resource: u16) -> Self {
        const REQUEST: u16 = 1;
        let mut bytes = vec![0; 20];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes[16] = family;
        bytes[18..20].copy_from_slice(&resource.to_be_bytes());
        Self(bytes)
    }

    /// Makes a dump cover the tables of every family.
    pub(super) fn any_family(mut self) -> Self {
        self.0[16] = 0;
        self
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &nul_terminated(text))
    }

    pub(super) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, nest: Nest) -> Self {
        self.bytes(kind | NESTED, &nest.0)
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a message is far below 4 GiB");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

const NESTED: u16 = 0x8000;

/// The inside of a nested attribute.
#[derive(Clone, Default)]
pub(super) struct Nest(Vec<u8>);

impl Nest {
    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        put(&mut self.0, kind, value);
        self
    }

    pub(super) fn text(self, kind: u16, text: &str) -> Self {
        self.bytes(kind, &nul_terminated(text))
    }

    pub(super) fn number(self, kind: u16, number: u32) -> Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn nested(self, kind: u16, nest: Nest) -> Self {
        self.bytes(kind | NESTED, &nest.0)
    }

    /// `NFTA_DATA_VALUE`: the constant of a comparison, a key or a mapped value.
    pub(super) fn value(value: &[u8]) -> Self {
        Self::default().bytes(1, value)
    }

    /// A list, whose elements all have the kind 1 (`NFTA_LIST_ELEM`).
    pub(super) fn list(elements: impl IntoIterator<Item = Nest>) -> Self {
        elements
            .into_iter()
            .fold(Self::default(), |list, element| list.nested(1, element))
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).expect("an attribute is far below 64 KiB");
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn nul_terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// A link's name as the kernel compares it: 16 bytes, filled up with NUL.
pub(super) fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (byte, of_name) in bytes.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    bytes
}

/// A rule, condition by condition; the verdict comes last.
#[derive(Clone, Default)]
pub(super) struct Rule(Vec<Nest>);

/// Which end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Destination,
}

/// What happens to a packet that meets all conditions.
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
}

/// Keys of the `meta` expression.
mod meta {
    pub(super) const IIFNAME: u32 = 6;
    pub(super) const OIFNAME: u32 = 7;
    pub(super) const NFPROTO: u32 = 15;
    pub(super) const L4PROTO: u32 = 16;
}

impl Rule {
    /// `iifname @set` or `oifname @set`: it came by, or leaves by, an interface in the set.
    pub(super) fn interface_in(self, side: Side, set: &str) -> Self {
        self.load_interface(side, REGISTER).lookup(set, false, None)
    }

    /// The opposite of [`interface_in`](Self::interface_in).
    pub(super) fn interface_not_in(self, side: Side, set: &str) -> Self {
        self.load_interface(side, REGISTER).lookup(set, true, None)
    }

    /// `iifname . oifname @set`.
    pub(super) fn interfaces_in(self, set: &str) -> Self {
        self.load_interface(Side::Source, REGISTER)
            .load_interface(Side::Destination, REGISTER_2)
            .lookup(set, false, None)
    }

    /// `iifname != "name"`.
    pub(super) fn not_from(self, name: &str) -> Self {
        self.load_interface(Side::Source, REGISTER)
            .compare(false, &interface_name(name))
    }

    /// `ip saddr 127.0.0.0/8` or `ip daddr 127.0.0.0/8`.
    pub(super) fn loopback(self, side: Side) -> Self {
        self.ipv4()
            .load_address(side, 1, REGISTER)
            .compare(true, &[Ipv4Addr::LOCALHOST.octets()[0]])
    }

    /// `ip saddr @set` or `ip daddr @set`.
    pub(super) fn address_in(self, side: Side, set: &str) -> Self {
        self.ipv4()
            .load_address(side, 4, REGISTER)
            .lookup(set, false, None)
    }

    /// `fib daddr type local`: the destination is an address of the host.
    pub(super) fn for_host(self) -> Self {
        const DREG: u16 = 1;
        const RESULT: u16 = 2;
        const FLAGS: u16 = 3;
        const ADDRESS_TYPE: u32 = 3;
        const OF_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        let fib = Nest::default()
            .number(DREG, REGISTER)
            .number(RESULT, ADDRESS_TYPE)
            .number(FLAGS, OF_DESTINATION);
        // An address type is in the byte order of the host.
        self.expression("fib", fib)
            .compare(true, &LOCAL.to_ne_bytes())
    }

    /// `ct state established,related`.
    pub(super) fn answers(self) -> Self {
        const STATE: u32 = 0;
        const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
        self.conntrack(STATE, ESTABLISHED_OR_RELATED)
    }

    /// `ct status dnat`: the packet was for a published port.
    pub(super) fn was_published(self) -> Self {
        const STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5;
        self.conntrack(STATUS, DESTINATION_NAT)
    }

    /// `dnat ip to meta l4proto . ip daddr . th dport map @map`.
    pub(super) fn publish_by_address(self, map: &str) -> Self {
        self.ipv4()
            .load_meta(meta::L4PROTO, REGISTER)
            .load_address(Side::Destination, 4, SLOT_1)
            .load_port(SLOT_2)
            .lookup(map, false, Some(REGISTER))
            .destination_nat()
    }

    /// `dnat ip to meta l4proto . th dport map @map`.
    pub(super) fn publish_everywhere(self, map: &str) -> Self {
        self.ipv4()
            .load_meta(meta::L4PROTO, REGISTER)
            .load_port(SLOT_1)
            .lookup(map, false, Some(REGISTER))
            .destination_nat()
    }

    /// `masquerade`: the packet gets the address of the interface that it leaves by.
    pub(super) fn masquerade(self) -> Nest {
        self.expression("masq", Nest::default()).finish()
    }

    /// Ends the rule.
    pub(super) fn then(self, verdict: &Verdict<'_>) -> Nest {
        const CODE: u16 = 1;
        const CHAIN: u16 = 2;
        const DREG: u16 = 1;
        const DATA: u16 = 2;
        const DATA_VERDICT: u16 = 2;
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3_i32, Some(chain)),
            Verdict::Return => (-5, None),
        };
        let mut nest = Nest::default().bytes(CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            nest = nest.text(CHAIN, chain);
        }
        let immediate = Nest::default()
            .number(DREG, VERDICT_REGISTER)
            .nested(DATA, Nest::default().nested(DATA_VERDICT, nest));
        self.expression("immediate", immediate).finish()
    }

    pub(super) fn finish(self) -> Nest {
        Nest::list(self.0)
    }

    /// `meta nfproto ipv4`, without which an IPv6 header would be read as if it were IPv4's.
    fn ipv4(self) -> Self {
        self.load_meta(meta::NFPROTO, REGISTER)
            .compare(true, &[FAMILY_IPV4])
    }

    fn load_interface(self, side: Side, register: u32) -> Self {
        let key = match side {
            Side::Source => meta::IIFNAME,
            Side::Destination => meta::OIFNAME,
        };
        self.load_meta(key, register)
    }

    fn load_meta(self, key: u32, register: u32) -> Self {
        const DREG: u16 = 1;
        const KEY: u16 = 2;
        self.expression(
            "meta",
            Nest::default().number(KEY, key).number(DREG, register),
        )
    }

    /// The first `length` bytes of an address.
    fn load_address(self, side: Side, length: u32, register: u32) -> Self {
        const NETWORK_HEADER: u32 = 1;
        let offset = match side {
            Side::Source => 12,
            Side::Destination => 16,
        };
        self.load_payload(NETWORK_HEADER, offset, length, register)
    }

    /// The destination port, which TCP, UDP and SCTP have in the same place.
    fn load_port(self, register: u32) -> Self {
        const TRANSPORT_HEADER: u32 = 2;
        self.load_payload(TRANSPORT_HEADER, 2, 2, register)
    }

    fn load_payload(self, base: u32, offset: u32, length: u32, register: u32) -> Self {
        const DREG: u16 = 1;
        const BASE: u16 = 2;
        const OFFSET: u16 = 3;
        const LENGTH: u16 = 4;
        let payload = Nest::default()
            .number(DREG, register)
            .number(BASE, base)
            .number(OFFSET, offset)
            .number(LENGTH, length);
        self.expression("payload", payload)
    }

    /// Any of the bits in `mask` is set in the value of `key`.
    fn conntrack(self, key: u32, mask: u32) -> Self {
        const CT_DREG: u16 = 1;
        const CT_KEY: u16 = 2;
        const SREG: u16 = 1;
        const DREG: u16 = 2;
        const LENGTH: u16 = 3;
        const MASK: u16 = 4;
        const XOR: u16 = 5;
        let load = Nest::default()
            .number(CT_KEY, key)
            .number(CT_DREG, REGISTER);
        // These are numbers of the kernel's own, in the byte order of the host.
        let and = Nest::default()
            .number(SREG, REGISTER)
            .number(DREG, REGISTER)
            .number(LENGTH, 4)
            .nested(MASK, Nest::value(&mask.to_ne_bytes()))
            .nested(XOR, Nest::value(&[0; 4]));
        self.expression("ct", load)
            .expression("bitwise", and)
            .compare(false, &[0; 4])
    }

    fn compare(self, equal: bool, value: &[u8]) -> Self {
        const SREG: u16 = 1;
        const OPERATOR: u16 = 2;
        const DATA: u16 = 3;
        let compare = Nest::default()
            .number(SREG, REGISTER)
            .number(OPERATOR, u32::from(!equal))
            .nested(DATA, Nest::value(value));
        self.expression("cmp", compare)
    }

    /// Goes on if the key is in the set (not in it, where `inverted`), and loads what it maps to.
    fn lookup(self, set: &str, inverted: bool, load: Option<u32>) -> Self {
        const SET: u16 = 1;
        const SREG: u16 = 2;
        const DREG: u16 = 3;
        const FLAGS: u16 = 5;
        let mut lookup = Nest::default().text(SET, set).number(SREG, REGISTER);
        if let Some(register) = load {
            lookup = lookup.number(DREG, register);
        }
        if inverted {
            lookup = lookup.number(FLAGS, 1);
        }
        self.expression("lookup", lookup)
    }

    /// Rewrites the destination to the address and port that a lookup has loaded.
    fn destination_nat(self) -> Self {
        const TYPE: u16 = 1;
        const FAMILY: u16 = 2;
        const REG_ADDR_MIN: u16 = 3;
        const REG_PROTO_MIN: u16 = 5;
        const DESTINATION: u32 = 1;
        let nat = Nest::default()
            .number(TYPE, DESTINATION)
            .number(FAMILY, u32::from(FAMILY_IPV4))
            .number(REG_ADDR_MIN, REGISTER)
            .number(REG_PROTO_MIN, SLOT_1);
        self.expression("nat", nat)
    }

    fn expression(mut self, name: &str, data: Nest) -> Self {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        self.0
            .push(Nest::default().text(NAME, name).nested(DATA, data));
        self
    }
}
