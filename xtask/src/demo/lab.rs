//! Builds the testbed: three network namespaces and two multi-queue veth pairs.
//!
//! ```text
//!  clients                        relay                         servers
//!  c0 10.1.0.2   ===veth===  r0 10.1.0.1   10.2.0.1 r1  ===veth===  s0 10.2.0.2
//!     fd00:1::2   MTU 1600      fd00:1::1   fd00:2::1    MTU 1500      fd00:2::2
//! ```
//!
//! Only the relay carries UDP between the two sides: clients and servers have no route to each other. The namespaces
//! have no names. Each lives as long as one `sleep` that dies with xtask, so nothing stays behind, even after `kill
//! -9`.

use crate::namespace::Namespace;
use crate::process::{Result, Session, failed};
use std::time::Duration;

/// MTU of the clients' link: a full-sized inner packet and the 80 bytes of WireGuard around it fit.
const CLIENT_MTU: u32 = 1600;
const SERVER_MTU: u32 = 1500;
const SHORT: Duration = Duration::from_secs(20);

/// Names an address family of the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Returns `4` or `6`, for names.
    pub(super) const fn digit(self) -> u8 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }

    /// Returns the relay's address towards the clients.
    pub(super) const fn relay(self) -> &'static str {
        match self {
            Family::V4 => "10.1.0.1",
            Family::V6 => "fd00:1::1",
        }
    }

    /// Returns the address of the servers.
    pub(super) const fn server(self) -> &'static str {
        match self {
            Family::V4 => "10.2.0.2",
            Family::V6 => "fd00:2::2",
        }
    }

    /// Formats `address:port`, with brackets for IPv6.
    pub(super) fn socket(self, address: &str, port: u16) -> String {
        match self {
            Family::V4 => format!("{address}:{port}"),
            Family::V6 => format!("[{address}]:{port}"),
        }
    }
}

/// Holds the frames and bytes that an interface received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Received {
    /// Returns the difference to an earlier sample.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { packets: self.packets - earlier.packets, bytes: self.bytes - earlier.bytes }
    }
}

/// Holds the three namespaces with their links.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) clients: Namespace,
    pub(super) relay: Namespace,
    pub(super) servers: Namespace,
}

impl Lab {
    /// Creates namespaces, links and addresses, with `queues` receive and transmit queues on each of the four ends.
    pub(super) fn create(session: &Session, queues: u16) -> Result<Self> {
        let lab = Self {
            clients: Namespace::create(session, "clients")?,
            relay: Namespace::create(session, "relay")?,
            servers: Namespace::create(session, "servers")?,
        };
        for ns in [&lab.clients, &lab.relay, &lab.servers] {
            quiet_ipv6(session, ns)?;
        }
        let pair = |ns: &Namespace, end: &str, mac: &str, peer_end: &str, peer_mac: &str, mtu: u32| {
            let q = queues.to_string();
            let (mtu, peer) = (mtu.to_string(), lab.relay.pid().to_string());
            let side = ["numrxqueues", &q, "numtxqueues", &q, "mtu", &mtu, "address"];
            let first = [&["ip", "link", "add", end], &side[..], &[mac, "type", "veth"]].concat();
            let second = [&["peer", "name", peer_end, "netns", &peer], &side[..], &[peer_mac]].concat();
            ns.run(session, "veth", &[first, second].concat())
        };
        pair(&lab.clients, "c0", "02:00:00:00:01:02", "r0", "02:00:00:00:01:01", CLIENT_MTU)?;
        pair(&lab.servers, "s0", "02:00:00:00:02:02", "r1", "02:00:00:00:02:01", SERVER_MTU)?;
        let addresses = [
            (&lab.clients, "c0", "10.1.0.2/24", "fd00:1::2/64"),
            (&lab.relay, "r0", "10.1.0.1/24", "fd00:1::1/64"),
            (&lab.relay, "r1", "10.2.0.1/24", "fd00:2::1/64"),
            (&lab.servers, "s0", "10.2.0.2/24", "fd00:2::2/64"),
        ];
        for (ns, interface, v4, v6) in addresses {
            let batch = format!(
                "link set lo up\nlink set {interface} up\naddress add {v4} dev {interface}\naddress add {v6} dev {interface} nodad\n"
            );
            session.run_with_input("ip", &ns.argv(&["ip", "-batch", "-"]), &batch, SHORT)?;
        }
        for (ns, interface) in [(&lab.clients, "c0"), (&lab.servers, "s0")] {
            // A local socket leaves the checksum to the NIC. A veth does not complete it, and AF_XDP would see a
            // partial sum. Segments larger than the MTU would reach a generic-mode program unsegmented.
            ns.run(session, "ethtool", &["ethtool", "-K", interface, "tx", "off", "gso", "off", "tso", "off"])?;
        }
        Ok(lab)
    }

    /// Returns what the servers' end has received.
    pub(super) fn to_servers(&self) -> Result<Received> {
        received(&self.servers.proc_net("dev")?, "s0")
    }

    /// Returns what the clients' end has received.
    pub(super) fn to_clients(&self) -> Result<Received> {
        received(&self.clients.proc_net("dev")?, "c0")
    }
}

/// Disables duplicate address detection, autoconfiguration and router solicitation, so that only the programs send
/// packets. It runs before any veth exists; otherwise the first packets would be sent already.
fn quiet_ipv6(session: &Session, ns: &Namespace) -> Result<()> {
    const SCRIPT: &str = "for scope in all default; do for setting in accept_dad=0 dad_transmits=0 autoconf=0 accept_ra=0; do \
        echo ${setting#*=} > /proc/sys/net/ipv6/conf/$scope/${setting%=*} || exit 1; done; done";
    ns.run(session, "sysctl", &["sh", "-c", SCRIPT]).map(|_| ())
}

/// Parses one line of /proc/net/dev (net/core/net-procfs.c): eight receive columns, bytes and packets first.
fn received(dev: &str, interface: &str) -> Result<Received> {
    let line = dev.lines().find_map(|l| l.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    let mut columns = line.unwrap_or_default().split_whitespace().map(str::parse::<u64>);
    match (columns.next(), columns.next()) {
        (Some(Ok(bytes)), Some(Ok(packets))) => Ok(Received { packets, bytes }),
        _ => failed(format!("no counters of {interface} in /proc/net/dev")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_right_columns() {
        let dev = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 2 3\n    c0:  1234  56 0 0 0 0 0 0 78 9 0 0 0 0 0 0\n";
        let got = received(dev, "c0").expect("c0 is there");
        assert_eq!((got.bytes, got.packets), (1234, 56));
        assert!(received(dev, "c1").is_err());
    }
}
