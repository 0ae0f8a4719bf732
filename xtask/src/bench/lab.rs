//! Builds the testbed: two namespaces, two veth pairs, and the addresses of lab/src/frame.rs.
//!
//! ```text
//!   outer: generator, counter, core 0                inner: forwarder, core 1
//!   va 10.77.0.1 02:..:0a  ======= veth =======  vb 10.77.0.2 02:..:0b
//!   vd 10.78.0.2 02:..:0d  ======= veth =======  vc 10.78.0.1 02:..:0c
//! ```
//!
//! The receive work of a veth runs on the sender's core, so each side uses one core.

use crate::namespace::Namespace;
use crate::process::{Result, Session};
use std::fmt::Write as _;
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(20);

/// Holds the two namespaces with their links. They are removed on drop.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) outer: Namespace,
    pub(super) inner: Namespace,
}

impl Lab {
    /// Creates everything, with `queues` receive and transmit queues on each end.
    pub(super) fn create(session: &Session, queues: u32) -> Result<Self> {
        let outer = Namespace::create(session, "outer")?;
        let inner = Namespace::create(session, "inner")?;
        let lab = Self { outer, inner };
        for ns in [&lab.outer, &lab.inner] {
            // This comes before any veth exists. Otherwise the first packets (MLD, router solicitation) are in the
            // rings.
            const QUIET: &str = "for scope in all default; do f=/proc/sys/net/ipv6/conf/$scope/disable_ipv6; \
                [ ! -e $f ] || echo 1 > $f || exit 1; done; echo 1 > /proc/sys/net/ipv4/ip_forward";
            ns.run(session, "sysctl", &["sh", "-c", QUIET])?;
        }
        let (q, inner_pid) = (queues.to_string(), lab.inner.pid().to_string());
        let side = ["numrxqueues", &q, "numtxqueues", &q, "address"];
        for (ours, our_mac, theirs, their_mac) in [
            ("va", "02:00:00:00:00:0a", "vb", "02:00:00:00:00:0b"),
            ("vd", "02:00:00:00:00:0d", "vc", "02:00:00:00:00:0c"),
        ] {
            let first = [&["ip", "link", "add", ours], &side[..], &[our_mac, "type", "veth"]].concat();
            let second = [&["peer", "name", theirs, "netns", &inner_pid], &side[..], &[their_mac]].concat();
            lab.outer.run(session, "veth", &[first, second].concat())?;
            // A local socket would leave a partial checksum, and super-packets would pass unsegmented.
            lab.outer.run(session, "ethtool", &["ethtool", "-K", ours, "tx", "off", "gso", "off", "tso", "off"])?;
        }
        lab.batch(session, &lab.outer, OUTER)?;
        lab.batch(session, &lab.inner, INNER)?;
        lab.wait_for_carrier(session)?;
        Ok(lab)
    }

    fn batch(&self, session: &Session, ns: &Namespace, lines: &str) -> Result<()> {
        session.run_with_input("ip", &ns.argv(&["ip", "-batch", "-"]), lines, SHORT).map(drop)
    }

    /// Waits for the carrier. The kernel reports it from a work queue, some time after both ends are up.
    fn wait_for_carrier(&self, session: &Session) -> Result<()> {
        const WAIT: &str = "for n in $(seq 500); do ip -br link show dev vb | grep -q UP && ip -br link show dev vc | \
            grep -q UP && exit 0; sleep 0.01; done; exit 1";
        self.inner.run(session, "carrier", &["sh", "-c", WAIT]).map(drop)
    }

    /// Restores what a forwarder may have removed: links, addresses, neighbours, and GRO for kernel sockets. With
    /// more than one of `upstreams`, adds 10.100.N.2 for each.
    pub(super) fn restore(&self, session: &Session, gro: bool, upstreams: u32) -> Result<()> {
        let mut lines = INNER.to_owned();
        for n in (0..upstreams).filter(|_| upstreams > 1) {
            let _ = writeln!(lines, "address replace 10.100.{n}.1/24 dev vc");
            let _ = writeln!(lines, "neighbour replace 10.100.{n}.2 lladdr 02:00:00:00:00:0d dev vc nud permanent");
        }
        self.batch(session, &self.inner, &lines)?;
        let gro = if gro { "on" } else { "off" };
        for link in ["vb", "vc"] {
            // Without an XDP program a veth receives live frames only with GRO on (drivers/net/veth.c).
            self.inner.run(session, "ethtool", &["ethtool", "-K", link, "gro", gro])?;
        }
        self.wait_for_carrier(session)
    }
}

const OUTER: &str = "\
link set lo up
link set va up
link set vd up
address replace 10.77.0.1/24 dev va
address replace 10.78.0.2/24 dev vd
neighbour replace 10.77.0.2 lladdr 02:00:00:00:00:0b dev va nud permanent
neighbour replace 10.78.0.1 lladdr 02:00:00:00:00:0c dev vd nud permanent
";
const INNER: &str = "\
link set lo up
link set vb up
link set vc up
address replace 10.77.0.2/24 dev vb
address replace 10.78.0.1/24 dev vc
neighbour replace 10.77.0.1 lladdr 02:00:00:00:00:0a dev vb nud permanent
neighbour replace 10.78.0.2 lladdr 02:00:00:00:00:0d dev vc nud permanent
route replace 10.79.0.0/16 via 10.77.0.1
";
