//! The list of all fields: what each may hold, its default, and what it does. Errors, the example file
//! and the reference in `docs/configuration.md` are made from it.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::admin::{Door, SandboxLevel};
use super::engine::{Attach, ExecutorKind, Fallback};
use super::error::Problem;
use super::relay::RelayConfig;
use super::value::{Choice, PortRange, Realtime};
use crate::simd::Level;
use crate::xdp::ZeroCopy;

/// One field.
pub(super) struct Field {
    pub(super) name: &'static str,
    /// As TOML; `None` where the field must be given.
    pub(super) default: Option<&'static str>,
    /// What the example file holds.
    pub(super) example: &'static str,
    /// What it may hold, for people.
    pub(super) allowed: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    /// Whether a value has the right type.
    fits: fn(Value) -> bool,
}

/// One section of the file.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) fields: &'static [Field],
}

fn fits<T: DeserializeOwned>(value: Value) -> bool {
    T::deserialize(value).is_ok()
}

const fn optional<T: DeserializeOwned>(
    name: &'static str,
    default: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: Some(default), example: default, allowed, about, fits: fits::<T> }
}

const fn required<T: DeserializeOwned>(
    name: &'static str,
    example: &'static str,
    allowed: &'static str,
    about: &'static str,
) -> Field {
    Field { name, default: None, example, allowed, about, fits: fits::<T> }
}

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
            "\"auto\" (all queues that the interfaces have in common), or a list of different queue numbers, 0 to 1023",
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
            "\"auto\" (what all rings can hold, and two batches), or a number of frames, at most 1048576",
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
            "Privileges given up before anything is opened: capabilities that no restart needs, and any new ones (no_new_privs).",
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
        Field {
            name: "idle_timeout_s",
            default: Some("that of [sessions]"),
            example: "",
            allowed: "1 to 86400, seconds",
            about: "Idle time of this entry's sessions; below 120 only where the protocol is known to bear it.",
            fits: fits::<u32>,
        },
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

pub(super) const SECTIONS: [&Section; 5] = [&ENGINE, &SESSIONS, &LIMITS, &ADMIN, &RELAY];

impl Section {
    /// Reports a value of the right type that is not in the field's range.
    pub(super) fn refuse(
        &self,
        name: &str,
        value: impl fmt::Display,
        mend: impl Into<String>,
        problems: &mut Vec<Problem>,
    ) {
        let allowed = self.fields.iter().find(|field| field.name == name).map_or("", |field| field.allowed);
        problems.push(Problem::new(format!("{}.{name}", self.name), value, format!("allowed: {allowed}"), mend));
    }

    /// Reports fields that are unknown, missing, or of the wrong type.
    fn check_shape(&self, path: &str, table: &Table, problems: &mut Vec<Problem>) {
        for (name, value) in table {
            let Some(field) = self.fields.iter().find(|field| field.name == name) else {
                let known = self.fields.iter().map(|field| field.name);
                problems.push(unknown(&format!("{path}.{name}"), "field", name, known));
                continue;
            };
            if !(field.fits)(value.clone()) {
                problems.push(Problem::new(
                    format!("{path}.{name}"),
                    value,
                    format!("allowed: {}", field.allowed),
                    field.write(),
                ));
            }
        }
        for field in self.fields.iter().filter(|field| field.default.is_none() && !table.contains_key(field.name)) {
            problems.push(Problem::new(
                format!("{path}.{}", field.name),
                "",
                format!("missing; allowed: {}", field.allowed),
                field.write(),
            ));
        }
    }
}

impl Field {
    fn write(&self) -> String {
        match self.example {
            "" => "leave it out for the default".to_owned(),
            example => format!("write for example {} = {example}", self.name),
        }
    }
}

/// Reports everything in `file` that is unknown, missing, or of the wrong type.
pub(super) fn check_shape(file: &Table, problems: &mut Vec<Problem>) {
    for (name, value) in file {
        match (name.as_str(), value) {
            ("engine", Value::Table(table)) => ENGINE.check_shape("engine", table, problems),
            ("sessions", Value::Table(table)) => SESSIONS.check_shape("sessions", table, problems),
            ("admin", Value::Table(table)) => ADMIN.check_shape("admin", table, problems),
            ("limits", Value::Table(table)) => LIMITS.check_shape("limits", table, problems),
            ("relay", Value::Array(entries)) if entries.iter().all(Value::is_table) => {
                for (at, table) in entries.iter().filter_map(Value::as_table).enumerate() {
                    let name = table.get("name").and_then(Value::as_str).unwrap_or_default();
                    RELAY.check_shape(&RelayConfig::path(name, at + 1), table, problems);
                }
            }
            ("relay", _) => problems.push(Problem::new("relay", "", "a list of entries", "write [[relay]] above each")),
            ("engine" | "sessions" | "limits" | "admin", _) => {
                problems.push(Problem::new(name, value, "a section", format!("write [{name}] and its fields below")));
            }
            _ => {
                let known = SECTIONS.iter().map(|section| section.name);
                problems.push(unknown(name, "section", name, known));
            }
        }
    }
    if !file.contains_key("engine") {
        ENGINE.check_shape("engine", &Table::new(), problems);
    }
}

fn unknown<'a>(path: &str, what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let near = known.clone().map(|other| (distance(name, other), other)).min();
    let mend = match near {
        Some((steps, other)) if steps <= 1 + other.len() / 3 => format!("did you mean {other}?"),
        _ => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(path, "", format!("no such {what}"), mend)
}

/// Letters to insert, remove or change to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&b) {
            let change = diagonal + usize::from(letter != *other);
            diagonal = *cell;
            left = change.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

/// The example file.
pub(super) fn example() -> String {
    let mut text = String::from(
        "# OXIDE: example configuration. Every field is here; those that hold their default can be left out.\n",
    );
    for section in SECTIONS {
        let (open, close) = if section.name == "relay" { ("[[", "]]") } else { ("[", "]") };
        let _ = write!(text, "\n# {}\n{open}{}{close}\n", section.about, section.name);
        for field in section.fields {
            let default = field.default.map_or("required".to_owned(), |default| format!("default: {default}"));
            let _ = write!(text, "\n# {}\n# {default}; allowed: {}\n", field.about, field.allowed);
            let _ = match field.example {
                "" => writeln!(text, "# {} = 30", field.name),
                example => writeln!(text, "{} = {example}", field.name),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances() {
        for (a, b, wanted) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("ring", "ring", 0),
            ("rign_size", "ring_size", 2),
            ("pin", "pim", 1),
        ] {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
            assert_eq!(distance(b, a), wanted, "{b} {a}");
        }
    }
}
