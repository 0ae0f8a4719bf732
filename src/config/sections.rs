//! Every section and field of the file: what each may hold, its default, and what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::admin::{Door, SandboxLevel};
use super::engine::{Attach, ExecutorKind, Fallback};
use super::fields::{Section, inherited, optional, required};
use super::value::{Choice, PortRange, Realtime};
use crate::simd::Level;
use crate::xdp::ZeroCopy;

/// All of them, in the order of the example file.
pub(super) const SECTIONS: [&Section; 6] = [&ENGINE, &SESSIONS, &LIMITS, &SUPERVISION, &ADMIN, &RELAY];

pub(super) const ENGINE: Section = Section {
    name: "engine",
    about: "How the NIC queues are opened and served.",
    fields: &[
        required::<Vec<String>>(
            "interfaces",
            "[\"eth0\"]",
            "a list of 1 to 8 interface names",
            "Interfaces that packets come in and go out by. One actor serves the same queue of all of them.",
        ),
        optional::<Choice<Vec<u32>>>(
            "queues",
            "\"auto\"",
            "\"auto\" (all queues that the interfaces have in common), or a list of different queue numbers, 0 to 255",
            "Queues served.",
        ),
        optional::<u32>(
            "ring_size",
            "1024",
            "a power of two from 64 to 32768, entries",
            "RX, TX and completion ring of each queue; the fill ring has twice as many.",
        ),
        optional::<u32>(
            "frame_size",
            "2048",
            "2048 or 4096, bytes",
            "Memory of one packet; 256 bytes of it are the kernel's, so 2048 is enough for an MTU of 1774.",
        ),
        optional::<Choice<u32>>(
            "frame_count",
            "\"auto\"",
            "\"auto\" (enough whatever the rings hold), or a number of frames, at most 1048576",
            "Packets' memory of each actor, in frames.",
        ),
        optional::<u32>("batch_size", "64", "1 to 64, packets", "Packets taken from a ring at once."),
        optional::<bool>(
            "busy_poll",
            "true",
            "true or false",
            "Preferred busy polling: the actor's core drives the NIC instead of interrupts.",
        ),
        optional::<u32>("busy_poll_timeout_us", "20", "1 to 1000, microseconds", "How long one busy poll may last."),
        optional::<ZeroCopy>(
            "zero_copy",
            "\"auto\"",
            "\"auto\" (where the driver can, else copy mode, told), \"require\" (or no start), or \"off\"",
            "Whether the NIC writes into our memory.",
        ),
        optional::<Choice<Level>>(
            "simd",
            "\"auto\"",
            "\"auto\" (the best this CPU has), \"scalar\", \"sse4.2\", \"avx2\", \"avx512\", or \"neon\"",
            "Vector instructions of the batch processor.",
        ),
        optional::<Choice<bool>>(
            "huge_pages",
            "\"auto\"",
            "\"auto\" (where the pool has them), true (asked for, and told if there are none), or false",
            "2 MiB pages under the packets' memory.",
        ),
        optional::<Choice<Vec<u32>>>(
            "pin",
            "\"auto\"",
            "\"auto\" (the plan's cores), or a list of different CPU numbers, 0 to 8191, one for each queue in order",
            "CPUs of the actors. With fewer CPUs than queues, queues share.",
        ),
        optional::<Choice<u32>>(
            "numa",
            "\"auto\"",
            "\"auto\" (the NIC's node), or a node number, 0 to 1023",
            "NUMA node of memory and cores.",
        ),
        optional::<Realtime>(
            "realtime",
            "false",
            "false, or a SCHED_FIFO priority from 1 to 49",
            "Real-time scheduling of the actors. Without an isolated core the kernel stops them for 50 ms a second.",
        ),
        optional::<ExecutorKind>(
            "executor",
            "\"auto\"",
            "\"auto\" (glommio where io_uring is allowed, else a thread, told), \"glommio\", or \"thread\"",
            "What runs an actor.",
        ),
        optional::<Fallback>(
            "fallback",
            "\"drop\"",
            "\"drop\", or \"pass\" (to the kernel, which may answer with ICMP port unreachable)",
            "What happens to relayed packets while their queue has no socket.",
        ),
        optional::<Attach>(
            "attach",
            "\"auto\"",
            "\"auto\" (native where the driver can, else generic, told), \"native\", or \"generic\"",
            "XDP hook of the steering program.",
        ),
    ],
};

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

pub(super) const SUPERVISION: Section = Section {
    name: "supervision",
    about: "When a queue that fails is started again, and when that is given up.",
    fields: &[
        optional::<u32>(
            "restarts",
            "5",
            "0 to 1000000",
            "Restarts of one queue within window_s; one failure more and it has failed. Those that are asked for do not count.",
        ),
        optional::<u32>("window_s", "60", "1 to 86400, seconds", "The window that restarts are counted in."),
        optional::<u32>(
            "backoff_min_ms",
            "50",
            "0 to 86400000, milliseconds, at most backoff_max_ms",
            "Pause before the first restart; it doubles with each one more in the window, less up to a quarter at random.",
        ),
        optional::<u32>("backoff_max_ms", "5000", "0 to 86400000, milliseconds", "The longest pause."),
        optional::<u32>(
            "handler_again_within_ms",
            "100",
            "0 to 86400000, milliseconds",
            "A handler that fails again so soon inherits nothing the next time, and after that its actor is started anew.",
        ),
        optional::<u32>(
            "port_every_ms",
            "5000",
            "100 to 86400000, milliseconds",
            "How often a port is tried whose budget is spent; its queue goes on without it.",
        ),
        optional::<u32>(
            "stall_after_ms",
            "1000",
            "250 to 86400000, milliseconds",
            "A handler that does not return for so long is stalled: its queue gets no packets until it does.",
        ),
        optional::<u32>(
            "exit_when_stuck_s",
            "0",
            "0 (never), or up to 86400 seconds, not below stall_after_ms",
            "A stall of this length ends the process with exit code 4: nothing else gives its thread back.",
        ),
    ],
};

pub(super) const ADMIN: Section = Section {
    name: "admin",
    about: "How operators reach the running relay (docs/operation.md).",
    fields: &[
        optional::<Door<SocketAddr>>(
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
        optional::<Door<PathBuf>>(
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
            "Servers. A client keeps to one of them, chosen by rendezvous hashing of its address and port.",
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
        optional::<u32>(
            "down_after_sessions",
            "0",
            "0 (never), or 1 to 32 sessions",
            "An upstream is down when so many sessions sent to it and none was answered; new ones pass it over.",
        ),
        optional::<u32>(
            "down_after_ms",
            "3000",
            "100 to 600000, milliseconds",
            "How long all of them must have been silent for that.",
        ),
        optional::<bool>(
            "failover",
            "false",
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
