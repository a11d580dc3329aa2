//! The contents of `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname`: text from text, no I/O.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// What `--dns`, `--dns-search` and `--dns-option` say. What is `None` comes from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvConfOptions {
    /// The name servers, taken as they are.
    pub nameservers: Option<Vec<IpAddr>>,
    /// The domains that a short name is looked up in; a single `.` stands for none.
    pub search: Option<Vec<String>>,
    /// The resolver's options, such as `ndots:2`.
    pub options: Option<Vec<String>>,
    /// Whether the container has IPv6, so that the host's name servers with an IPv6 address help.
    pub ipv6: bool,
}

/// Renders `/etc/resolv.conf` from the host's.
///
/// The host's name servers on a loopback address, and those that only make sense on one link of
/// the host, cannot be reached from a container: they are left out, and where none is left, Google's
/// public ones stand in, as they do with Docker. Lines of an unknown kind are kept.
///
/// ```
/// use container_net::{ResolvConfOptions, resolv_conf};
///
/// let host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch corp.example\n";
/// let text = resolv_conf(host, &ResolvConfOptions::default())?;
/// assert_eq!(text, "nameserver 10.0.0.1\nsearch corp.example\n");
/// # Ok::<(), container_net::Error>(())
/// ```
///
/// # Errors
///
/// `InvalidInput` (`InvalidResolvConf`) for a domain or option that is not one word.
///
/// # References
///
/// `resolv.conf(5)`
pub fn resolv_conf(host: &str, options: &ResolvConfOptions) -> Result<String> {
    let host = HostResolvConf::parse(host);
    let nameservers = match &options.nameservers {
        Some(nameservers) => nameservers.clone(),
        None => host.usable(options.ipv6),
    };
    let search = options.search.clone().unwrap_or(host.search);
    let resolver_options = options.options.clone().unwrap_or(host.options);
    for word in search.iter().chain(&resolver_options) {
        if !is_word(word) {
            return Err(Error::invalid(
                "InvalidResolvConf",
                format!("use {word:?} in resolv.conf"),
            ));
        }
    }
    let mut text: String = nameservers
        .iter()
        .map(|address| format!("nameserver {address}\n"))
        .collect();
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !resolver_options.is_empty() {
        text.push_str(&format!("options {}\n", resolver_options.join(" ")));
    }
    for line in host.other {
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// What the host's file says; of several lines of a kind the last one counts, but for servers and
/// options, which add up.
#[derive(Default)]
struct HostResolvConf {
    nameservers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<String>,
}

impl HostResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or_default();
            let words = words.map(str::to_owned);
            match keyword {
                // One with a zone (`fe80::1%eth0`) is not an address by itself.
                "nameserver" => conf
                    .nameservers
                    .extend(words.take(1).filter_map(|word| word.parse::<IpAddr>().ok())),
                "search" | "domain" => conf.search = words.collect(),
                "options" => conf.options.extend(words),
                _ => conf.other.push(line.to_owned()),
            }
        }
        conf
    }

    /// The servers that a container can reach, or public ones.
    fn usable(&self, ipv6: bool) -> Vec<IpAddr> {
        const PUBLIC_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];
        const PUBLIC_V6: [Ipv6Addr; 2] = [
            Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888),
            Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844),
        ];
        let reachable = |address: &IpAddr| !address.is_loopback() && (ipv6 || address.is_ipv4());
        let usable: Vec<_> = self.nameservers.iter().copied().filter(reachable).collect();
        if !usable.is_empty() {
            return usable;
        }
        let v6 = PUBLIC_V6.into_iter().filter(|_| ipv6).map(IpAddr::from);
        PUBLIC_V4.into_iter().map(IpAddr::from).chain(v6).collect()
    }
}

/// Renders `/etc/hosts`: the local names, then `entries` in their order.
///
/// # Errors
///
/// `InvalidInput` (`InvalidHostName`) for a name that is not one word, which could smuggle in lines.
///
/// # References
///
/// `hosts(5)`
pub fn hosts<'a, N>(entries: impl IntoIterator<Item = (IpAddr, N)>) -> Result<String>
where
    N: IntoIterator<Item = &'a str>,
{
    let mut text = LOCAL_HOSTS.to_owned();
    for (address, names) in entries {
        let names: Vec<_> = names.into_iter().collect();
        if let Some(name) = names.iter().find(|name| !is_word(name)) {
            return Err(Error::invalid(
                "InvalidHostName",
                format!("put name {name:?} into hosts"),
            ));
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    Ok(text)
}

const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Reads what stands behind `--add-host`: `name:address` or `name=address`, an IPv6 address with
/// or without brackets. The address is returned as text, as Docker also has the word `host-gateway`
/// in its place, which is the caller's to replace.
///
/// # Errors
///
/// `InvalidInput` (`InvalidExtraHost`).
pub fn parse_extra_host(text: &str) -> Result<(&str, &str)> {
    let invalid = || Error::invalid("InvalidExtraHost", format!("read extra host {text:?}"));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(invalid)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'));
    let address = match bare {
        Some(bare) if bare.parse::<Ipv6Addr>().is_ok() => bare,
        Some(_) => return Err(invalid()),
        None => address,
    };
    let known = address == "host-gateway" || address.parse::<IpAddr>().is_ok();
    if is_word(name) && known {
        Ok((name, address))
    } else {
        Err(invalid())
    }
}

/// Renders `/etc/hostname`.
///
/// # Errors
///
/// `InvalidInput` (`InvalidHostName`) for what no host can be called: 1 to 64 letters, digits, `-`,
/// `_` and `.`, the first one a letter or digit.
pub fn hostname(name: &str) -> Result<String> {
    /// `HOST_NAME_MAX` of Linux.
    const MAX_BYTES: usize = 64;
    let good = name.len() <= MAX_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !good {
        return Err(Error::invalid(
            "InvalidHostName",
            format!("use host name {name:?}"),
        ));
    }
    Ok(format!("{name}\n"))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('#')
        && !text.contains(|character: char| character.is_whitespace() || character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn host_servers_that_a_container_cannot_reach_are_replaced() {
        const PUBLIC: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        let cases = [
            ("", false, PUBLIC),
            ("nameserver 10.0.0.1", false, "nameserver 10.0.0.1\n"),
            ("nameserver 127.0.0.53\nnameserver ::1", false, PUBLIC),
            (
                "nameserver fe80::1%eth0\nnameserver 1.2.3.4.5",
                false,
                PUBLIC,
            ),
            ("nameserver 127.0.0.1\nnameserver fd00::1", false, PUBLIC),
            (
                "nameserver 127.0.0.1\nnameserver fd00::1",
                true,
                "nameserver fd00::1\n",
            ),
            (
                "# made by hand\n; so\nnameserver 10.0.0.1 # not a second one\ndomain old\nsearch a b\n\
                 options edns0\noptions ndots:1\nsortlist 10.0.0.0\n",
                false,
                "nameserver 10.0.0.1\nsearch a b\noptions edns0 ndots:1\nsortlist 10.0.0.0\n",
            ),
        ];
        for (host, ipv6, want) in cases {
            let options = ResolvConfOptions {
                ipv6,
                ..ResolvConfOptions::default()
            };
            assert_eq!(resolv_conf(host, &options).unwrap(), want, "{host:?}");
        }
    }

    #[test]
    fn what_the_caller_says_wins() {
        let host = "nameserver 10.0.0.1\nsearch corp\noptions ndots:1\n";
        let mut options = ResolvConfOptions {
            nameservers: Some(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]),
            search: words("."),
            options: words("ndots:2 edns0"),
            ipv6: false,
        };
        let want = "nameserver 127.0.0.1\nnameserver ::1\noptions ndots:2 edns0\n";
        assert_eq!(resolv_conf(host, &options).unwrap(), want);
        options.search = Some(vec!["a\nnameserver 6.6.6.6".to_owned()]);
        assert_eq!(
            resolv_conf(host, &options).unwrap_err().code(),
            "InvalidResolvConf"
        );
    }

    #[test]
    fn hosts_has_local_names_and_entries() {
        let address = "172.17.0.2".parse().unwrap();
        let text = hosts([(address, ["web", "0123456789ab"])]).unwrap();
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
        assert!(text.ends_with("ff02::2\tip6-allrouters\n172.17.0.2\tweb 0123456789ab\n"));
        for name in ["", "a b", "a\n6.6.6.6 bank", "#", "a\0"] {
            assert_eq!(
                hosts([(address, [name])]).unwrap_err().code(),
                "InvalidHostName",
                "{name:?}"
            );
        }
    }

    #[test]
    fn extra_hosts_in_every_form() {
        for (text, want) in [
            ("db:10.0.0.1", ("db", "10.0.0.1")),
            ("db=10.0.0.1", ("db", "10.0.0.1")),
            ("db:fd00::1", ("db", "fd00::1")),
            ("db:[fd00::1]", ("db", "fd00::1")),
            ("db=[::1]", ("db", "::1")),
            ("me:host-gateway", ("me", "host-gateway")),
        ] {
            assert_eq!(parse_extra_host(text).unwrap(), want);
        }
        for text in [
            "",
            "db",
            "db:",
            ":10.0.0.1",
            "db:10.0.0",
            "db:[10.0.0.1]",
            "a b:10.0.0.1",
        ] {
            assert_eq!(
                parse_extra_host(text).unwrap_err().code(),
                "InvalidExtraHost",
                "{text}"
            );
        }
    }

    #[test]
    fn hostname_is_one_line() {
        assert_eq!(hostname("web-1.example").unwrap(), "web-1.example\n");
        for name in ["", "-a", "a b", "a\n", &"x".repeat(65)] {
            assert_eq!(
                hostname(name).unwrap_err().code(),
                "InvalidHostName",
                "{name:?}"
            );
        }
    }
}
