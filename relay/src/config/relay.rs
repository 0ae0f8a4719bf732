//! Declares `[sessions]` and `[[relay]]`: limits of sessions, listen addresses and upstreams.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::{MAX_BYTES_PER_S, MAX_PACKETS_PER_S};
use super::sections::SESSIONS;
use super::{PortRange, PortRanges, Problem};
use crate::policy::{self, Class};

/// Configures the sessions of all relay entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionsConfig {
    /// Maximum number of sessions at once, all queues together, 64 to 16777216. Memory for all is allocated at start.
    pub capacity: u32,
    /// Time without a packet from the client after which a session ends, seconds, 120 to 86400 (RFC 4787 REQ-5).
    pub idle_timeout_s: u32,
    /// UDP source ports towards upstreams, one for each session of an upstream and source address, at most 8 ranges; each
    /// queue owns an equal part. Ports that an entry listens on are left out.
    pub source_ports: PortRanges,
    /// Addresses of this host that packets to upstreams leave from, at most 64; empty for the one that the kernel prefers.
    pub sources: Vec<IpAddr>,
    /// Time after SIGTERM during which existing sessions are served and new ones refused, seconds, 0 to 3600.
    pub drain_s: u32,
}

/// 26,036 ports outside of the kernel's ephemeral range (32768-60999). Below that range, they avoid ports that hosts
/// commonly use: VXLAN (4789, 8472), Geneve (6081), and the node ports of Kubernetes (30000-32767).
fn default_source_ports() -> PortRanges {
    let ranges = [PortRange::new(8500, 29_999), PortRange::new(61_000, 65_535)];
    PortRanges::new(ranges.into_iter().flatten()).unwrap_or_else(|| unreachable!("two ranges without a common port"))
}

const MAX_PORT_RANGES: usize = 8;
const MAX_SOURCES: usize = 64;

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            capacity: 65_536,
            idle_timeout_s: 300,
            source_ports: default_source_ports(),
            sources: Vec::new(),
            drain_s: 3,
        }
    }
}

/// Selects the part of a client that determines its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Address and port: flows of one client spread over the upstreams.
    #[default]
    Flow,
    /// Address alone: all flows of a client go to one upstream, also after its port changes (a NAT that rebinds).
    Address,
}

/// Selects the condition for a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateKind {
    /// No condition.
    #[default]
    None,
    /// The client must return a cookie, which proves its address ([`CookieGate`](crate::gate::CookieGate)).
    Cookie,
}

/// Configures one relay entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RelayConfig {
    /// Name in reports and metrics.
    pub name: String,
    /// Address and port that clients send to.
    pub listen: SocketAddr,
    /// Servers; each client uses one of them.
    pub upstreams: Vec<SocketAddr>,
    /// Allows upstreams with private addresses.
    #[serde(default)]
    pub allow_private: bool,
    /// Idle timeout instead of [`SessionsConfig::idle_timeout_s`], seconds, 1 to 86400. RFC 4787 REQ-5a allows less than
    /// two minutes for known protocols (DNS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<u32>,
    /// Packets per second from all clients together, up to 10^9; 0 is no limit.
    #[serde(default)]
    pub packets_per_s: u64,
    /// Bytes per second from all clients together, IP headers included, up to 12.5 * 10^9; 0 is no limit.
    #[serde(default)]
    pub bytes_per_s: u64,
    /// Part of the client that selects its upstream.
    #[serde(default)]
    pub affinity: Affinity,
    /// Condition for a new session.
    #[serde(default)]
    pub gate: GateKind,
    /// Idle timeout after an answer, milliseconds, 100 to 600000, for protocols with one question and one answer. 0
    /// disables it.
    #[serde(default)]
    pub answer_grace_ms: u32,
    /// Number of sessions without an answer, 1 to 32, that mark an upstream as down; 0 disables the check.
    #[serde(default = "down_after_sessions")]
    pub down_after_sessions: u32,
    /// Time without an answer before these sessions mark it as down, milliseconds, 100 to 600000.
    #[serde(default = "down_after_ms")]
    pub down_after_ms: u32,
    /// Moves existing sessions away from an upstream that is down; `None` is true with more than one upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<bool>,
}

const fn down_after_sessions() -> u32 {
    3
}

const fn down_after_ms() -> u32 {
    3000
}

const MAX_ENTRIES: usize = 1024;
const MAX_UPSTREAMS: usize = 256;
const MAX_NAME: usize = 32;
/// RFC 4787 REQ-5: a UDP mapping must not expire in less than two minutes.
const RFC_4787_IDLE_S: u32 = 120;
const DAY_S: u32 = 86_400;
/// Minimum number of ports that the host's own connections need.
const HOST_PORTS: u32 = 4096;

impl SessionsConfig {
    /// Returns the idle timeout of sessions of `relay`.
    #[must_use]
    pub fn idle_timeout(&self, relay: &RelayConfig) -> Duration {
        Duration::from_secs(u64::from(relay.idle_timeout_s.unwrap_or(self.idle_timeout_s)))
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if !(64..=1 << 24).contains(&self.capacity) {
            SESSIONS.refuse("capacity", self.capacity, "write capacity = 65536", problems);
        }
        if !(RFC_4787_IDLE_S..=DAY_S).contains(&self.idle_timeout_s) {
            let remedy = if self.idle_timeout_s < RFC_4787_IDLE_S {
                "write 120 or more, and a shorter idle_timeout_s in the [[relay]] entry that needs it"
            } else {
                "write idle_timeout_s = 300 (the unit is seconds)"
            };
            SESSIONS.refuse("idle_timeout_s", self.idle_timeout_s, remedy, problems);
        }
        if self.drain_s > 3600 {
            SESSIONS.refuse("drain_s", self.drain_s, "write drain_s = 3 (the unit is seconds)", problems);
        }
        self.check_source_ports(problems);
        self.check_sources(problems);
    }

    fn check_source_ports(&self, problems: &mut Vec<Problem>) {
        let (ports, written) = (&self.source_ports, format!("\"{}\"", self.source_ports));
        if ports.ranges().first().is_some_and(|range| range.first() < 1024) || ports.ranges().len() > MAX_PORT_RANGES {
            let remedy = format!("write source_ports = [{}]", quoted(default_source_ports().ranges()));
            SESSIONS.refuse("source_ports", written, remedy, problems);
            return;
        }
        // The kernel gives ports from 1024 on to the host's own sockets.
        let left = u32::from(u16::MAX - 1023).saturating_sub(ports.count());
        if left < HOST_PORTS {
            problems.push(Problem::new(
                "sessions.source_ports",
                written,
                format!("the host's own sockets need at least {HOST_PORTS} ports, and {left} are left"),
                "write \"5120-65535\", or a narrower range",
            ));
        }
    }

    fn check_sources(&self, problems: &mut Vec<Problem>) {
        if self.sources.len() > MAX_SOURCES {
            SESSIONS.refuse("sources", format!("{} addresses", self.sources.len()), "remove some", problems);
        }
        for (at, source) in self.sources.iter().enumerate() {
            let mut refuse = |wanted: String, remedy: String| {
                let field = format!("sessions.sources[{at}]");
                problems.push(Problem::new(field, format!("\"{source}\""), wanted, remedy));
            };
            if source.to_canonical() != *source {
                refuse("an IPv4 address in IPv6 form".into(), format!("write \"{}\"", source.to_canonical()));
            } else if let Err(denied) = policy::check(*source, true, &[]) {
                refuse(denied.to_string(), "write an address of this host (see `ip -br addr`)".into());
            } else if self.sources.iter().take(at).any(|earlier| earlier == source) {
                refuse("each address once".into(), "remove the second one".into());
            }
        }
    }
}

fn quoted(ranges: &[PortRange]) -> String {
    ranges.iter().map(|range| format!("\"{range}\"")).collect::<Vec<_>>().join(", ")
}

impl RelayConfig {
    /// Returns true if existing sessions move away from an upstream that is down.
    #[must_use]
    pub fn fails_over(&self) -> bool {
        self.down_after_sessions > 0 && self.failover.unwrap_or(self.upstreams.len() > 1)
    }

    /// Returns the entry's path in messages: with its name, or its number from one if it has no name.
    pub(super) fn path(name: &str, number: usize) -> String {
        if name.is_empty() { format!("relay[#{number}]") } else { format!("relay[{name}]") }
    }

    fn check(&self, path: &str, own: &[IpAddr], problems: &mut Vec<Problem>) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(legal) {
            problems.push(Problem::new(
                format!("{path}.name"),
                format!("{:?}", self.name),
                "1 to 32 letters, digits, dots, hyphens or underscores",
                "write a short name such as \"dns\"",
            ));
        }
        if let Some(idle) = self.idle_timeout_s
            && !(1..=DAY_S).contains(&idle)
        {
            problems.push(Problem::new(
                format!("{path}.idle_timeout_s"),
                idle,
                "1 to 86400 seconds",
                "leave it out to use the one of [sessions]",
            ));
        }
        self.check_numbers(path, problems);
        self.check_listen(&format!("{path}.listen"), problems);
        self.check_upstreams(&format!("{path}.upstreams"), own, problems);
    }

    fn check_numbers(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut bounds = |name: &str, value: u64, least: u64, most: u64, remedy: &str| {
            if !(least..=most).contains(&value) {
                let wanted = format!("expected {least} to {most}");
                problems.push(Problem::new(format!("{path}.{name}"), value, wanted, remedy));
            }
        };
        bounds("packets_per_s", self.packets_per_s, 0, MAX_PACKETS_PER_S, "leave it out for no limit");
        bounds("bytes_per_s", self.bytes_per_s, 0, MAX_BYTES_PER_S, "leave it out for no limit");
        bounds("down_after_sessions", self.down_after_sessions.into(), 0, 32, "write 8, or leave it out");
        bounds("down_after_ms", self.down_after_ms.into(), 100, 600_000, "write 3000 (the unit is milliseconds)");
        if self.answer_grace_ms != 0 {
            let remedy = "write 2000 (the unit is milliseconds), or leave it out";
            bounds("answer_grace_ms", self.answer_grace_ms.into(), 100, 600_000, remedy);
        }
        if self.failover == Some(true) && self.down_after_sessions == 0 {
            problems.push(Problem::new(
                format!("{path}.failover"),
                "true",
                "an upstream is never down without down_after_sessions",
                "write down_after_sessions = 8 as well, if the protocol answers every client",
            ));
        }
    }

    fn check_listen(&self, field: &str, problems: &mut Vec<Problem>) {
        let mut say = |wanted: String, remedy: String| {
            problems.push(Problem::new(field, format!("\"{}\"", self.listen), wanted, remedy));
        };
        let ip = self.listen.ip();
        if ip.is_unspecified() {
            say(
                "a wildcard would take other services' packets".into(),
                "write one of the interface's own addresses (see `ip -br addr`), and an entry for each".into(),
            );
        } else if ip.to_canonical() != ip {
            let v4 = SocketAddr::new(ip.to_canonical(), self.listen.port());
            say("an IPv4 address in IPv6 form".into(), format!("write \"{v4}\""));
        } else if let Err(denied) = policy::check(ip, true, &[])
            && denied.class != Class::Metadata
        {
            say(
                format!("{denied}: no client can reach it through an AF_XDP queue"),
                "write one of the interface's own addresses (see `ip -br addr`)".into(),
            );
        }
        if self.listen.port() == 0 {
            say("port 0 is not a port".into(), "write the port that clients send to, 1 to 65535".into());
        }
    }

    fn check_upstreams(&self, field: &str, listens: &[IpAddr], problems: &mut Vec<Problem>) {
        let mut say = |value: String, wanted: String, remedy: String| {
            problems.push(Problem::new(field, value, wanted, remedy));
        };
        if self.upstreams.is_empty() || self.upstreams.len() > MAX_UPSTREAMS {
            say(
                format!("{} upstreams", self.upstreams.len()),
                format!("1 to {MAX_UPSTREAMS} upstreams"),
                "write upstreams = [\"198.51.100.7:53\"]".into(),
            );
        }
        for (at, upstream) in self.upstreams.iter().enumerate() {
            let value = format!("\"{upstream}\"");
            let ip = upstream.ip();
            if upstream.port() == 0 {
                say(value, "port 0 is not a port".into(), "write the server's port, 1 to 65535".into());
            } else if self.upstreams.iter().take(at).any(|earlier| earlier == upstream) {
                say(value, "each upstream once".into(), "remove the second one".into());
            } else if let Err(denied) = policy::check(ip, self.allow_private, listens) {
                let remedy = match denied.class {
                    Class::Private => "write allow_private = true in this entry if this is intended",
                    Class::Own => "write the address of another host: a relay to itself would loop",
                    _ => "write the server's address as other hosts use it; this address is always refused",
                };
                say(value, denied.to_string(), remedy.into());
            } else if ip.to_canonical() != ip {
                let v4 = SocketAddr::new(ip.to_canonical(), upstream.port());
                say(value, "an IPv4 address in IPv6 form".into(), format!("write \"{v4}\""));
            }
        }
    }
}

/// Checks each entry, and that entries do not conflict.
pub(super) fn check_entries(relays: &[RelayConfig], sessions: &SessionsConfig, problems: &mut Vec<Problem>) {
    if relays.len() > MAX_ENTRIES {
        problems.push(Problem::new(
            "relay",
            format!("{} entries", relays.len()),
            format!("at most {MAX_ENTRIES} entries"),
            "start a second engine on other interfaces",
        ));
    }
    let listens = relays.iter().map(|relay| relay.listen.ip());
    let own: Vec<IpAddr> = listens.chain(sessions.sources.iter().copied()).collect();
    let mut names = HashMap::new();
    let mut taken = HashMap::new();
    for (at, relay) in relays.iter().enumerate() {
        let path = RelayConfig::path(&relay.name, at + 1);
        relay.check(&path, &own, problems);
        if let Some(first) = names.insert(relay.name.as_str(), at + 1) {
            problems.push(Problem::new(
                format!("relay[#{}].name", at + 1),
                format!("{:?}", relay.name),
                format!("entry {first} has this name already"),
                "give each entry a name of its own",
            ));
        }
        if let Some(first) = taken.insert(relay.listen, path.clone()) {
            problems.push(Problem::new(
                format!("relay[#{}].listen", at + 1),
                format!("\"{}\"", relay.listen),
                format!("{first} listens there already"),
                "write another port, or add the upstreams to that entry",
            ));
        }
    }
}
