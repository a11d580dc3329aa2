//! Hardware addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The hardware address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address that belongs to an IPv4 address: `02:42` and its four bytes, as Docker has it,
    /// so that a container that comes back with its address is not a stranger to ARP caches.
    #[must_use]
    pub fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The six bytes.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    /// Reads six bytes in hexadecimal, separated by `:` or `-`. A multicast address and the one of
    /// all zeros are refused, as no link can have them.
    fn from_str(text: &str) -> Result<Self> {
        const MULTICAST: u8 = 1;
        let invalid = || Error::invalid("InvalidMacAddress", format!("read MAC address {text:?}"));
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(invalid)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() || octets[0] & MULTICAST != 0 || octets == [0; 6] {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_address() {
        let mac = MacAddress::from_ipv4(Ipv4Addr::new(172, 17, 0, 176));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:b0");
        assert_eq!("02:42:AC-11:00:b0".parse::<MacAddress>().unwrap(), mac);
    }

    #[test]
    fn refuses_what_no_link_can_have() {
        for text in [
            "",
            "02:42",
            "02:42:ac:11:00:b0:00",
            "2:42:ac:11:0:b0",
            "+2:42:ac:11:00:b0",
        ] {
            assert_eq!(
                text.parse::<MacAddress>().unwrap_err().code(),
                "InvalidMacAddress"
            );
        }
        for text in [
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(
                text.parse::<MacAddress>().unwrap_err().code(),
                "InvalidMacAddress"
            );
        }
    }
}
