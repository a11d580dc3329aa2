//! Proxies, as Go's programs use them, which is what users of other engines know.

use std::fmt;
use std::net::IpAddr;

use super::url::{Url, is_loopback};

/// Through which proxies to talk to registries.
///
/// Whatever the settings say, this machine itself is talked to directly.
///
/// # References
/// Go's `golang.org/x/net/http/httpproxy`.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Proxies {
    /// The proxy for `http` URLs: `http://[user:password@]host[:port]`, or `https://…`.
    pub http: Option<String>,
    /// The proxy for `https` URLs.
    pub https: Option<String>,
    /// Who is talked to directly: names with all below them, names below `.domain`, addresses, networks
    /// (`10.0.0.0/8`), each perhaps with a port, separated by commas; `*` for everybody.
    pub no_proxy: String,
}

impl Proxies {
    /// What the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, or the same in lower case.
    #[must_use]
    pub fn from_environment() -> Self {
        let var = |upper: &str, lower: &str| {
            let value = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
            value(upper).or_else(|| value(lower))
        };
        // In a CGI program this variable is what a client sent in a header.
        let is_cgi = std::env::var_os("REQUEST_METHOD").is_some();
        let http = if is_cgi {
            None
        } else {
            var("HTTP_PROXY", "http_proxy")
        };
        Self {
            http,
            https: var("HTTPS_PROXY", "https_proxy"),
            no_proxy: var("NO_PROXY", "no_proxy").unwrap_or_default(),
        }
    }

    /// No proxy at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The proxy to use for `url`.
    pub(super) fn of(&self, url: &Url) -> Option<&str> {
        let proxy = if url.https { &self.https } else { &self.http };
        let port = url.port().to_string();
        proxy
            .as_deref()
            .filter(|_| !self.is_direct(url.host(), &port))
    }

    fn is_direct(&self, host: &str, port: &str) -> bool {
        if is_loopback(host) {
            return true;
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        let mut entries = self.no_proxy.split(',').map(str::trim);
        entries.any(|entry| matches(entry, &host, address, port))
    }
}

/// Host and port in the URL of a proxy.
pub(super) fn authority(proxy: &str) -> &str {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    rest.rsplit('@').next().unwrap_or(rest)
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs of proxies may hold passwords.
        let shown = |proxy: &Option<String>| proxy.as_ref().map(|_| "…");
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Whether one entry of the list names the host.
fn matches(entry: &str, host: &str, address: Option<IpAddr>, port: &str) -> bool {
    if entry == "*" {
        return true;
    }
    if entry.contains('/') {
        return network_has(entry, host);
    }
    let (name, wanted_port) = split_port(entry);
    if name.is_empty() || wanted_port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(wanted) = name.parse::<IpAddr>() {
        return address == Some(wanted);
    }
    let name = name.to_ascii_lowercase();
    let name = name
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(&name);
    match name.strip_prefix('.') {
        Some(_) => host.ends_with(name),
        None => {
            host == name
                || host
                    .strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

/// Whether `network`, such as `10.0.0.0/8`, has the address `host`.
pub(super) fn network_has(network: &str, host: &str) -> bool {
    let network = network.split_once('/');
    let network = network.and_then(|(net, bits)| Some((net.parse().ok()?, bits.parse().ok()?)));
    match (host.parse::<IpAddr>(), network) {
        (Ok(address), Some((network, bits))) => is_within(address, network, bits),
        _ => false,
    }
}

/// Takes a port off the end of an entry; brackets go too.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[')
        && let Some((address, after)) = rest.split_once(']')
    {
        return (address, after.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (entry, None),
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let differ = u32::from(address) ^ u32::from(network);
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let differ = u128::from(address) ^ u128::from(network);
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_exceptions_read_as_in_go() {
        for (list, host, direct) in [
            ("", "example.com", false),
            ("", "localhost", true),
            ("", "127.0.0.1", true),
            ("", "127.1.2.3", true),
            ("", "[::1]", true),
            ("*", "example.com", true),
            ("example.com", "example.com", true),
            ("example.com", "www.example.com", true),
            ("example.com", "wwwexample.com", false),
            (".example.com", "example.com", false),
            (".example.com", "www.example.com", true),
            ("*.example.com", "www.example.com", true),
            ("*.example.com", "example.com", false),
            (" other.org , EXAMPLE.com", "Example.COM", true),
            ("example.com:443", "example.com", true),
            ("example.com:80", "example.com", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("10.0.0.0/8", "10.example.com", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:443", "10.1.2.3", true),
            ("10.1.2.3:80", "10.1.2.3", false),
            ("fd00::/8", "[fd12::1]", true),
            ("fd00::1", "[fd00::1]", true),
            ("[fd00::1]:443", "[fd00::1]", true),
            ("[fd00::1]:80", "[fd00::1]", false),
            (":443", "example.com", false),
            (",,", "example.com", false),
        ] {
            let proxies = Proxies {
                https: Some("http://proxy".into()),
                no_proxy: list.into(),
                ..Proxies::none()
            };
            let url = Url::parse(&format!("https://{host}/")).unwrap();
            assert_eq!(proxies.of(&url).is_none(), direct, "{list:?}, {host}");
        }
    }

    #[test]
    fn passwords_of_proxies_are_not_shown() {
        let proxies = Proxies {
            http: Some("http://user:secret@proxy".into()),
            ..Proxies::none()
        };
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
