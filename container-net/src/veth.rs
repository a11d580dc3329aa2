//! The wire between a container and its bridge.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

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

    let mut inner = netns::run_in(inside.peer.netns, Socket::route)?;
    let mut requests = vec![
        netlink::set_up(LOOPBACK_INDEX),
        netlink::add_address(index, inside.address, inside.prefix_len),
        netlink::set_up(index),
    ];
    requests.extend(inside.gateway.map(netlink::add_default_route));
    inner.send(requests)?;
    wait_until_operational(socket, [link.index, bridge_index])
}

/// Waits until packets go through the host's end and the bridge. Each of them went up before there
/// was anything behind it, and what is sent before the kernel's worker has seen the change is lost:
/// an ARP request, say, which is repeated a second later. Since Linux 6.8 asking does the
/// worker's work; before that it takes some microseconds. If it takes long, that is no error.
fn wait_until_operational(socket: &mut Socket, [port, bridge]: [u32; 2]) -> Result<()> {
    const PATIENCE: Duration = Duration::from_millis(250);
    const PAUSE: Duration = Duration::from_micros(100);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let requests = [port, bridge].map(netlink::get_link_by_index);
        let replies = socket.send(requests.into())?;
        let all = replies
            .iter()
            .filter_map(Link::from_reply)
            .all(|link| link.is_operational);
        if all || Instant::now() > deadline {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
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
