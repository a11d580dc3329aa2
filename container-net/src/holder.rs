//! Who has a port; only for the words of an error.

use std::fs;
use std::path::Path;

use crate::port::Protocol;

/// Names the process that has `port`, in any namespace of processes below this one's, if it can be
/// found. Looks at every process, so this is for the way out with an error only.
pub(crate) fn process(protocol: Protocol, port: u16) -> Option<String> {
    let sockets: Vec<_> = inodes(protocol, port)
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let has_one = |process: &Path| {
        let descriptors = fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| {
                sockets
                    .iter()
                    .any(|socket| target.as_os_str() == socket.as_str())
            })
    };
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        if has_one(&entry.path()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim_end()));
        }
    }
    None
}

/// The inodes of the sockets that are bound to `port` in the namespace of the calling thread.
fn inodes(protocol: Protocol, port: u16) -> Vec<String> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"].as_slice(),
        Protocol::Udp => ["udp", "udp6"].as_slice(),
        Protocol::Sctp => &[],
    };
    let read = |table: &&str| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok();
    tables
        .iter()
        .filter_map(read)
        .flat_map(|table| inodes_of(&table, protocol, port))
        .collect()
}

fn inodes_of(table: &str, protocol: Protocol, port: u16) -> Vec<String> {
    /// `TCP_LISTEN`.
    const LISTENS: &str = "0A";
    let inode = |line: &str| {
        let mut words = line.split_whitespace();
        let (_, bound) = words.nth(1)?.rsplit_once(':')?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?;
        let serves = protocol != Protocol::Tcp || state == LISTENS;
        (u16::from_str_radix(bound, 16) == Ok(port) && serves).then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_found_by_their_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \u{20}  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100\n\
            \u{20}  1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100\n\
            \u{20}  2: broken\n";
        assert_eq!(inodes_of(table, Protocol::Tcp, 8080), ["4711"]);
        assert_eq!(inodes_of(table, Protocol::Udp, 8080), ["4711", "4712"]);
        assert!(inodes_of(table, Protocol::Tcp, 80).is_empty());
    }
}
