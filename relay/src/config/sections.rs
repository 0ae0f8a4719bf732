//! Every section and field of the file: what each may hold, its default, and what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use oxide::config::fields::{Section, inherited, optional, required};
use oxide::config::{ENGINE, PortRange, SUPERVISION};

use super::admin::{ListenSetting, SandboxLevel};
use super::relay::{Affinity, GateKind};

/// All of them, in the order of the example file.
pub(super) const SECTIONS: [&Section; 6] = [&ENGINE, &SESSIONS, &LIMITS, &SUPERVISION, &ADMIN, &RELAY];

pub(super) const SESSIONS: Section = Section {
    name: "sessions",
    about: "What the sessions of all relay entries may cost.",
    fields: &[
        optional::<u32>(
            "capacity",
            "65536",
            "64 to 16777216, sessions",
            "Most sessions at once, all queues together. Memory for all of them is taken at start.",
        ),
        optional::<u32>(
            "idle_timeout_s",
            "300",
            "120 to 86400, seconds",
            "A session ends after so long without a packet from its client (RFC 4787 asks for two minutes at least).",
        ),
        optional::<PortRange>(
            "source_ports",
            "\"61000-65535\"",
            "\"first-last\", from 1024 to 65535, without any port that a relay listens on",
            "UDP source ports toward upstreams, one for each session: their number bounds the sessions that share one of \
             this host's addresses.",
        ),
        optional::<u32>(
            "drain_s",
            "3",
            "0 to 3600, seconds",
            "After SIGTERM: how long sessions that exist are still served, while no new ones begin.",
        ),
    ],
};

pub(super) const ADMIN: Section = Section {
    name: "admin",
    about: "How operators reach the running relay (docs/operation.md).",
    fields: &[
        optional::<ListenSetting<SocketAddr>>(
            "http",
            "\"auto\"",
            "\"auto\" (127.0.0.1:9797, or without and told if that is taken), an address with port, or \"off\"",
            "Where /live, /ready, /metrics and the rest are served.",
        ),
        optional::<bool>(
            "allow_remote",
            "false",
            "true or false",
            "Whether http may be an address that other hosts reach. There is no password.",
        ),
        optional::<ListenSetting<PathBuf>>(
            "socket",
            "\"auto\"",
            "\"auto\" (/run/oxide/NAME.sock, NAME being that of the configuration file), an absolute path, or \"off\"",
            "Control socket of `oxide ctl` and `oxide top`; only the owner of the process may use it.",
        ),
        optional::<SandboxLevel>(
            "sandbox",
            "\"auto\"",
            "\"auto\" (each layer the kernel has, told), \"require\" (or no start), or \"off\"",
            "What the process gives up before anything is opened: capabilities, new privileges, files (Landlock), system calls (seccomp).",
        ),
    ],
};

pub(super) const RELAY: Section = Section {
    name: "relay",
    about: "One entry for each address and port that clients send to; any number of them.",
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
            "Where clients send to.",
        ),
        required::<Vec<SocketAddr>>(
            "upstreams",
            "[\"198.51.100.7:53\", \"198.51.100.8:53\"]",
            "a list of 1 to 256 addresses with port, of either IP version; names are not resolved",
            "Servers. A client keeps to one of them, chosen by rendezvous hashing of its `affinity`.",
        ),
        optional::<bool>(
            "allow_private",
            "false",
            "true or false",
            "Whether upstreams may be private addresses (RFC 1918, 100.64.0.0/10, fc00::/7).",
        ),
        inherited::<u32>(
            "idle_timeout_s",
            "that of [sessions]",
            "30",
            "1 to 86400, seconds",
            "Idle time of this entry's sessions; below 120 only where the protocol is known to bear it.",
        ),
        optional::<u64>(
            "packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Packets a second from all clients of this entry together, in equal shares of the queues.",
        ),
        optional::<u64>(
            "bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Bytes a second of them, IP headers included.",
        ),
        optional::<Affinity>(
            "affinity",
            "\"flow\"",
            "\"flow\" (the client's address and port), or \"address\" (its address alone)",
            "What of a client chooses its upstream. With \"address\" all flows of a client go to one server, also after a NAT \
             has given it another port (QUIC), and with several ports at once (SIP and RTP).",
        ),
        optional::<GateKind>(
            "gate",
            "\"none\"",
            "\"none\", or \"cookie\" (the client must send back a cookie, which proves its address)",
            "What a client must do before it gets a session; the protocol is that of `gate::CookieGate`.",
        ),
        optional::<u32>(
            "answer_grace_ms",
            "0",
            "0 (never), or 100 to 600000, milliseconds",
            "A session ends so long after an answer if its client sends nothing more: for protocols of one question and one \
             answer (DNS: 2000).",
        ),
        optional::<u32>(
            "down_after_sessions",
            "3",
            "0 (never), or 1 to 32 sessions",
            "An upstream is down when so many sessions sent to it and none was answered; new ones pass it over.",
        ),
        optional::<u32>(
            "down_after_ms",
            "3000",
            "100 to 600000, milliseconds",
            "How long all of them must have been silent for that.",
        ),
        inherited::<bool>(
            "failover",
            "true where there is more than one upstream",
            "true",
            "true or false",
            "Whether sessions that exist leave an upstream that is down, too.",
        ),
    ],
};

pub(super) const LIMITS: Section = Section {
    name: "limits",
    about: "How much each client network may send and be sent; nothing is limited unless a rate is written.",
    fields: &[
        optional::<u64>(
            "source_packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Packets a second from one client prefix, on each queue.",
        ),
        optional::<u64>(
            "source_bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Bytes a second of them, IP headers included.",
        ),
        optional::<u64>(
            "reply_packets_per_s",
            "0",
            "0 (no limit), or up to 1000000000",
            "Packets a second to one client prefix, on each queue: bounds what a forged source address can bring upon it.",
        ),
        optional::<u64>(
            "reply_bytes_per_s",
            "0",
            "0 (no limit), or up to 12500000000",
            "Bytes a second of them, IP headers included.",
        ),
        optional::<u32>(
            "burst_ms",
            "1000",
            "1 to 1000, milliseconds",
            "What may come at once: the amount of so much time, but at least one packet and 4096 bytes.",
        ),
        optional::<u8>("ipv4_prefix", "32", "8 to 32, bits", "IPv4 clients that share so many bits share a limit."),
        optional::<u8>("ipv6_prefix", "64", "16 to 128, bits", "IPv6 clients that share so many bits share a limit."),
        optional::<u32>(
            "sources",
            "65536",
            "1024 to 16777216, prefixes",
            "Prefixes told apart at once, all queues together; 37 bytes each for either direction that is limited, taken at start.",
        ),
    ],
};
