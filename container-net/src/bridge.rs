//! The bridge of a network and the settings of the kernel that go with it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::netlink::{self, Link, Socket};
use crate::{Error, ErrorKind, MacAddress, Result};

/// Makes the bridge `name` with all that belongs to it, as far as it is not there, and returns its
/// index. Concerns the namespace of the calling thread.
pub(crate) fn make(
    socket: &mut Socket,
    name: &str,
    gateway: Ipv4Addr,
    prefix_len: u8,
) -> Result<u32> {
    let index = match netlink::find_link(socket, name)? {
        Some(link) => link.index,
        None => {
            let requests = vec![
                netlink::new_bridge(name, MacAddress::from_ipv4(gateway)),
                netlink::get_link(name),
            ];
            let replies = socket.send(requests)?;
            let link = replies.iter().find_map(Link::from_reply);
            link.map(|link| link.index).ok_or_else(|| {
                Error::new(
                    ErrorKind::Internal,
                    "LinkGone",
                    format!("look up link {name:?}"),
                )
            })?
        }
    };
    set("net/ipv4/ip_forward", "1")?;
    // For the host's own connections to ports published on 127.0.0.1.
    set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    // Before the link is up: a container must not become the host's router, nor find the host by
    // an address that the host made up itself.
    for (key, value) in [("accept_ra", "0"), ("addr_gen_mode", ADDR_GEN_MODE_NONE)] {
        match set(&format!("net/ipv6/conf/{name}/{key}"), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            done => done?,
        }
    }
    match socket.send(vec![netlink::add_address(index, gateway, prefix_len)]) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    socket.send(vec![netlink::set_up(index)])?;
    Ok(index)
}

/// No link-local address (`IN6_ADDR_GEN_MODE_NONE`).
const ADDR_GEN_MODE_NONE: &str = "1";

/// Gives a setting of the calling thread's namespace a value, unless it has it.
fn set(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{key}");
    let failed = |source: io::Error| Error::os(format!("write {value:?} to {path:?}"), source);
    if fs::read_to_string(&path).map_err(failed)?.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}
