//! Which subnets and addresses there are to choose from; pure arithmetic.

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;

use crate::{Error, Result};

/// The subnet of the default network, if nobody else has it.
pub(crate) const DEFAULT_SUBNET: (Ipv4Addr, u8) = (Ipv4Addr::new(172, 17, 0, 0), 16);

/// Checks a subnet that a caller wants and cuts the host part off.
pub(crate) fn checked_subnet(subnet: Ipv4Network) -> Result<Ipv4Network> {
    /// Below, a typing error would swallow the host's networks; above, there is no room for a
    /// gateway and a container.
    const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;
    let invalid = |why: &str| {
        Err(Error::invalid(
            "InvalidSubnet",
            format!("use subnet {subnet}: {why}"),
        ))
    };
    if !PREFIXES.contains(&subnet.prefix()) {
        return invalid("its prefix must have 8 to 30 bits");
    }
    let network = subnet.network();
    if network.is_loopback() || network.is_multicast() || network.is_unspecified() {
        return invalid("it is not for hosts");
    }
    if network.octets()[0] >= 240 {
        return invalid("it is reserved");
    }
    Ipv4Network::new(network, subnet.prefix()).map_err(|source| {
        Error::invalid("InvalidSubnet", format!("use subnet {subnet}")).with_source(source)
    })
}

/// Checks that `address` can be one of `subnet`'s hosts.
pub(crate) fn checked_host(subnet: Ipv4Network, address: Ipv4Addr) -> Result<()> {
    if subnet.contains(address) && address != subnet.network() && address != subnet.broadcast() {
        return Ok(());
    }
    Err(Error::invalid(
        "AddressOutside",
        format!("use address {address} in subnet {subnet}"),
    ))
}

/// The first of `used` that shares an address with `subnet`.
pub(crate) fn overlap(subnet: Ipv4Network, used: &[Ipv4Network]) -> Option<Ipv4Network> {
    used.iter().copied().find(|&other| subnet.overlaps(other))
}

/// The first subnet of the pools that overlaps none of `used`.
pub(crate) fn next_subnet(used: &[Ipv4Network]) -> Option<Ipv4Network> {
    pools().find(|&subnet| overlap(subnet, used).is_none())
}

/// 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 and so on: private, and what people know.
fn pools() -> impl Iterator<Item = Ipv4Network> {
    let large = (17..=31).map(|second| ([172, second, 0, 0], 16));
    let small = (0..=240)
        .step_by(16)
        .map(|third| ([192, 168, third, 0], 20));
    large
        .chain(small)
        .filter_map(|(octets, prefix)| Ipv4Network::new(octets.into(), prefix).ok())
}

/// The first host of a subnet: the gateway, unless told otherwise.
pub(crate) fn first_host(subnet: Ipv4Network) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// All hosts of `subnet` but the gateway, beginning after `last`, the one that was given out last:
/// an address rests as long as there are others.
pub(crate) fn hosts_after(
    subnet: Ipv4Network,
    gateway: Ipv4Addr,
    last: Option<Ipv4Addr>,
) -> impl Iterator<Item = Ipv4Addr> {
    let first = u32::from(subnet.network()).saturating_add(1);
    let end = u32::from(subnet.broadcast());
    let start = last
        .map_or(first, |last| u32::from(last).saturating_add(1))
        .clamp(first, end);
    (start..end)
        .chain(first..start)
        .map(Ipv4Addr::from)
        .filter(move |&host| host != gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Ipv4Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_subnet_overlaps_nothing() {
        let cases = [
            (&[][..], "172.17.0.0/16"),
            (&["172.17.0.0/16"], "172.18.0.0/16"),
            (&["172.17.42.1/32"], "172.18.0.0/16"),
            (&["172.17.0.0/16", "172.18.0.0/15"], "172.20.0.0/16"),
            (&["172.16.0.0/12"], "192.168.0.0/20"),
            (&["172.16.0.0/12", "192.168.1.0/24"], "192.168.16.0/20"),
        ];
        for (used, want) in cases {
            let used: Vec<_> = used.iter().map(|text| subnet(text)).collect();
            assert_eq!(next_subnet(&used), Some(subnet(want)), "{used:?}");
        }
        assert_eq!(
            next_subnet(&[subnet("172.16.0.0/12"), subnet("192.168.0.0/16")]),
            None
        );
    }

    #[test]
    fn every_host_comes_once_and_the_last_one_last() {
        let pool = subnet("10.9.0.0/29");
        let hosts = |last: Option<&str>| -> Vec<String> {
            let last = last.map(|last| last.parse().unwrap());
            hosts_after(pool, first_host(pool), last)
                .map(|host| host.to_string())
                .collect()
        };
        let all = ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"];
        assert_eq!(hosts(None), all);
        let rotated = ["10.9.0.5", "10.9.0.6", "10.9.0.2", "10.9.0.3", "10.9.0.4"];
        assert_eq!(hosts(Some("10.9.0.4")), rotated);
        assert_eq!(hosts(Some("10.9.0.6")), all);
        // What a damaged file might say.
        assert_eq!(hosts(Some("255.255.255.255")).len(), 5);
        assert_eq!(hosts(Some("0.0.0.0")), all);
    }

    #[test]
    fn subnets_that_cannot_serve_are_refused() {
        for text in [
            "10.0.0.0/7",
            "10.0.0.0/31",
            "127.1.0.0/16",
            "224.0.0.0/24",
            "250.0.0.0/24",
        ] {
            assert_eq!(
                checked_subnet(subnet(text)).unwrap_err().code(),
                "InvalidSubnet",
                "{text}"
            );
        }
        assert_eq!(
            checked_subnet(subnet("10.1.2.3/24")).unwrap(),
            subnet("10.1.2.0/24")
        );
    }

    #[test]
    fn network_and_broadcast_are_no_hosts() {
        let pool = subnet("10.1.2.0/24");
        for (address, good) in [
            ("10.1.2.1", true),
            ("10.1.2.0", false),
            ("10.1.2.255", false),
            ("10.1.3.1", false),
        ] {
            assert_eq!(
                checked_host(pool, address.parse().unwrap()).is_ok(),
                good,
                "{address}"
            );
        }
    }
}
