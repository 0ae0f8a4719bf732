//! Declares every section and field of the file: allowed values, default, meaning.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use oxide::config::fields::{Section, inherited, optional, required};
use oxide::config::{ENGINE, PortRanges, SUPERVISION};

use super::admin::{ListenSetting, SandboxLevel};
use super::relay::{Affinity, GateKind};

/// Lists all sections in the order of the example file.
pub(super) const SECTIONS: [&Section; 6] = [&ENGINE, &SESSIONS, &LIMITS, &SUPERVISION, &ADMIN, &RELAY];

pub(super) const SESSIONS: Section = Section {
    name: "sessions",
    about: "Limits of the sessions of all relay entries together.",
    fields: &[
        optional::<u32>(
            "capacity",
            "65536",
            "64 to 16777216, sessions",
            "Maximum number of sessions at once, all queues together. The memory for all of them is allocated at start.",
        ),
        optional::<u32>(
            "idle_timeout_s",
            "300",
            "120 to 86400, seconds",
            "A session ends after this time without a packet from its client (RFC 4787 requires at least two minutes).",
        ),
        optional::<PortRanges>(
            "source_ports",
            "[\"8500-29999\", \"61000-65535\"]",
            "\"first-last\", from 1024 to 65535, or a list of at most 8 such ranges",
            "UDP source ports towards upstreams. Their number limits the sessions that one upstream has from one source \
             address. Ports that an entry listens on are left out.",
        ),
        optional::<Vec<IpAddr>>(
            "sources",
            "[]",
            "a list of at most 64 addresses of this host",
            "Addresses that packets to upstreams leave from; new sessions use all that match the upstream's family. Without \
             one of a family, the address that the kernel prefers.",
        ),
        optional::<u32>(
            "drain_s",
            "3",
            "0 to 3600, seconds",
            "Time after SIGTERM during which existing sessions are served and new ones are refused.",
        ),
    ],
};

pub(super) const ADMIN: Section = Section {
    name: "admin",
    about: "Admin endpoints of the running relay, and its sandbox (docs/operation.md).",
    fields: &[
        optional::<ListenSetting<SocketAddr>>(
            "http",
            "\"auto\"",
            "\"auto\" (127.0.0.1:9797; if it is in use: no HTTP, reported at start), an address with port, or \"off\"",
            "Address that serves /live, /ready, /metrics and the other pages.",
        ),
        optional::<bool>(
            "allow_remote",
            "false",
            "true or false",
            "Allows an http address that other hosts can reach. There is no password.",
        ),
        optional::<ListenSetting<PathBuf>>(
            "socket",
            "\"auto\"",
            "\"auto\" (/run/oxide/NAME.sock, with the NAME of the configuration file), an absolute path, or \"off\"",
            "Control socket for `oxide ctl` and `oxide top`. Only the user of the process may open it.",
        ),
        optional::<SandboxLevel>(
            "sandbox",
            "\"auto\"",
            "\"auto\" (each layer that the kernel has), \"require\" (refuse to start without all of them), or \"off\"",
            "Restricts the process before it opens a queue: capabilities, new privileges, files (Landlock), system calls (seccomp).",
        ),
    ],
};

pub(super) const RELAY: Section = Section {
    name: "relay",
    about: "One entry per address and port that clients send to; any number of entries.",
    fields: &[
        required::<String>(
            "name",
            "\"dns\"",
            "1 to 32 letters, digits, dots, hyphens or underscores; each name once",
            "Name in reports and metrics.",
        ),
        required::<SocketAddr>(
            "listen",
            "\"192.0.2.1:53\"",
            "one of this host's addresses with port, \"192.0.2.1:53\" or \"[2001:db8::1]:53\"; no wildcard",
            "Address and port that clients send to.",
        ),
        required::<Vec<SocketAddr>>(
            "upstreams",
            "[\"198.51.100.7:53\", \"198.51.100.8:53\"]",
            "a list of 1 to 256 addresses with port, of either IP version; names are not resolved",
            "Servers. Each client uses one of them, chosen by rendezvous hashing of its `affinity`.",
        ),
        optional::<bool>(
            "allow_private",
            "false",
            "true or false",
            "Allows upstreams with private addresses (RFC 1918, 100.64.0.0/10, fc00::/7).",
        ),
        inherited::<u32>(
            "idle_timeout_s",
            "value of [sessions]",
            "30",
            "1 to 86400, seconds",
            "Idle timeout of this entry's sessions. Use less than 120 only for protocols that allow it, such as DNS.",
        ),
        optional::<u64>(
            "packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Maximum packets per second from all clients of this entry together; each queue has an equal share.",
        ),
        optional::<u64>(
            "bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Maximum bytes per second of these packets, IP headers included.",
        ),
        optional::<Affinity>(
            "affinity",
            "\"flow\"",
            "\"flow\" (the client's address and port), or \"address\" (its address alone)",
            "Part of the client that selects its upstream. With \"address\" all flows of a client go to one server, also after \
             a NAT gives it another port (QUIC), and with several ports at once (SIP and RTP).",
        ),
        optional::<GateKind>(
            "gate",
            "\"none\"",
            "\"none\", or \"cookie\" (the client must return a cookie, which proves its address)",
            "Condition for a new session. `gate::CookieGate` defines the cookie protocol.",
        ),
        optional::<u32>(
            "answer_grace_ms",
            "0",
            "0 (never), or 100 to 600000, milliseconds",
            "A session ends this time after an answer if its client sends nothing more. For protocols with one question and \
             one answer (DNS: 2000).",
        ),
        optional::<u32>(
            "down_after_sessions",
            "3",
            "0 (never), or 1 to 32 sessions",
            "An upstream is down when this many sessions sent to it and none got an answer. New sessions then avoid it.",
        ),
        optional::<u32>(
            "down_after_ms",
            "3000",
            "100 to 600000, milliseconds",
            "Time without any answer before these sessions mark the upstream as down.",
        ),
        inherited::<bool>(
            "failover",
            "true with more than one upstream",
            "true",
            "true or false",
            "Moves existing sessions, too, away from an upstream that is down.",
        ),
    ],
};

pub(super) const LIMITS: Section = Section {
    name: "limits",
    about: "Rate limits per client network, for both directions; without a rate nothing is limited.",
    fields: &[
        optional::<u64>(
            "source_packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Maximum packets per second from one client prefix, on each queue.",
        ),
        optional::<u64>(
            "source_bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Maximum bytes per second of these packets, IP headers included.",
        ),
        optional::<u64>(
            "reply_packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Maximum packets per second to one client prefix, on each queue. Limits the traffic that forged source addresses cause.",
        ),
        optional::<u64>(
            "reply_bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Maximum bytes per second of these packets, IP headers included.",
        ),
        optional::<u32>(
            "burst_ms",
            "1000",
            "1 to 1000, milliseconds",
            "Burst size as a time at the limited rate; at least one packet and 4096 bytes.",
        ),
        optional::<u8>(
            "ipv4_prefix",
            "32",
            "8 to 32, bits",
            "IPv4 clients with this many equal leading bits share a limit.",
        ),
        optional::<u8>(
            "ipv6_prefix",
            "64",
            "16 to 128, bits",
            "IPv6 clients with this many equal leading bits share a limit.",
        ),
        optional::<u32>(
            "sources",
            "65536",
            "1024 to 16777216, prefixes",
            "Prefixes with their own limit at once, all queues together. Each takes 37 bytes per limited direction, allocated at start.",
        ),
    ],
};
