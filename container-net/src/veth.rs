//! The wire between a container and its bridge.

use std::net::Ipv4Addr;

use crate::netlink::{self, LOOPBACK_INDEX, Link, Peer, Socket};
use crate::{Error, ErrorKind, Result, netns};

/// What the container's end gets.
pub(crate) struct Inside<'a> {
    pub(crate) peer: Peer<'a>,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_len: u8,
    /// Where everything goes that has no other route.
    pub(crate) gateway: Option<Ipv4Addr>,
}

/// Makes the pair, `name` on the bridge `bridge_index`, the other end inside with address and
/// routes, all up. One message to the kernel for each side.
pub(crate) fn connect(
    socket: &mut Socket,
    name: &str,
    bridge_index: u32,
    inside: &Inside<'_>,
) -> Result<()> {
    let link = match make(socket, name, bridge_index, &inside.peer) {
        // The name belongs to this attachment alone: whoever has it is left over from before. (If
        // it is the name inside that exists, the second attempt says so again.)
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            netlink::delete_link(socket, name)?;
            make(socket, name, bridge_index, &inside.peer)
        }
        made => made,
    }?;
    let index = link.peer.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "LinkGone",
            format!("look up the peer of {name:?}"),
        )
    })?;

    let mut socket = netns::run_in(inside.peer.netns, Socket::route)?;
    let mut requests = vec![
        netlink::set_up(LOOPBACK_INDEX),
        netlink::add_address(index, inside.address, inside.prefix_len),
        netlink::set_up(index),
    ];
    requests.extend(inside.gateway.map(netlink::add_default_route));
    socket.send(requests).map(drop)
}

fn make(socket: &mut Socket, name: &str, bridge_index: u32, peer: &Peer<'_>) -> Result<Link> {
    let replies = socket.send(vec![
        netlink::new_veth(name, bridge_index, peer),
        netlink::set_hairpin(name),
        netlink::get_link(name),
    ])?;
    replies.iter().find_map(Link::from_reply).ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "LinkGone",
            format!("look up link {name:?}"),
        )
    })
}
