//! Contains the registry of metrics: name, type, unit, labels and meaning. The exposition
//! ([`Exposition`](super::Exposition)), `docs/metrics.md` and `packaging/grafana/oxide.json` are generated from it, so
//! that they name only existing metrics.

/// Names the kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Never decreases. It starts at zero with the process, or with an interface's program if the help says so.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Has cumulative buckets, sum and count.
    Histogram,
}

impl Kind {
    /// Returns the name in the exposition format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Describes one metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Section in documents and dashboard.
    pub section: &'static str,
    /// Name of the metric.
    pub name: &'static str,
    /// Kind of the metric.
    pub kind: Kind,
    /// Unit, written in full.
    pub unit: &'static str,
    /// Labels in order.
    pub labels: &'static [&'static str],
    /// Meaning of the metric, in a sentence.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($section:literal { $($constant:ident = $kind:ident $name:literal, $unit:literal, [$($label:literal),*], $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                section: $section,
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )+)+

        /// Lists all metrics in the order of the exposition.
        pub const ALL: &[&Metric] = &[$($(&$constant,)+)+];
    };
}

metrics! {
    "Traffic" {
        RX_PACKETS = Counter "oxide_rx_packets_total", "packets", ["queue"],
            "Packets taken from RX rings.";
        RX_BYTES = Counter "oxide_rx_bytes_total", "bytes", ["queue"],
            "Bytes of packets taken from RX rings, Ethernet header included, FCS not.";
        TX_PACKETS = Counter "oxide_tx_packets_total", "packets", ["queue"],
            "Packets forwarded: put on a TX ring.";
        TX_BYTES = Counter "oxide_tx_bytes_total", "bytes", ["queue"],
            "Bytes of packets put on TX rings.";
        HANDED_OVER = Counter "oxide_handed_over_packets_total", "packets", ["queue"],
            "Packets copied to the queue that owns their flow.";
        TAKEN_OVER = Counter "oxide_taken_over_packets_total", "packets", ["queue"],
            "Packets that other queues copied to this one.";
        IN_HAND = Gauge "oxide_in_hand_packets", "packets", ["queue"],
            "Packets that wait for a next hop or for a TX ring. At any scrape, for each queue: rx + taken over = tx + handed over + sum of drops + in hand.";
        SESSIONS = Gauge "oxide_sessions", "sessions", ["queue"],
            "Sessions of the handler.";
        HANDLER_EVENTS = Counter "oxide_handler_events_total", "events", ["queue", "event"],
            "Events that the handler counts; those of the relay are listed below.";
        STEERED = Counter "oxide_steered_packets_total", "packets", ["interface", "verdict"],
            "Packets that the XDP program of an interface has seen, by verdict: redirected to a queue, no_socket (the configured fallback), or why they were passed to the kernel. The sum is what the interface received; it starts at zero when the program is attached again.";
    }
    "Loss" {
        DROPS = Counter "oxide_drops_total", "packets", ["queue", "stage", "reason"],
            "Packets dropped, by reason; the list of reasons is complete. Stage: packet (malformed), handler (the application decided), engine (could not be sent on).";
        XSK_RX_DROPPED = Counter "oxide_xsk_rx_dropped_total", "packets", ["interface", "queue"],
            "rx_dropped of the socket: packets that the kernel dropped for other reasons than a full RX ring.";
        XSK_RX_RING_FULL = Counter "oxide_xsk_rx_ring_full_total", "packets", ["interface", "queue"],
            "rx_ring_full of the socket: packets that the kernel dropped because the actor did not take them in time.";
        XSK_RX_INVALID = Counter "oxide_xsk_rx_invalid_descs_total", "descriptors", ["interface", "queue"],
            "rx_invalid_descs of the socket: fill descriptors that the kernel refused. More than 0 is a defect of OXIDE.";
        XSK_TX_INVALID = Counter "oxide_xsk_tx_invalid_descs_total", "descriptors", ["interface", "queue"],
            "tx_invalid_descs of the socket: TX descriptors that the kernel refused. More than 0 is a defect of OXIDE.";
        XSK_FILL_EMPTY = Counter "oxide_xsk_rx_fill_ring_empty_descs_total", "events", ["interface", "queue"],
            "rx_fill_ring_empty_descs of the socket: times the kernel needed a frame and found none.";
        XSK_TX_EMPTY = Counter "oxide_xsk_tx_ring_empty_descs_total", "events", ["interface", "queue"],
            "tx_ring_empty_descs of the socket: times the kernel looked for a packet to send and found none.";
        BAD_DESCRIPTORS = Counter "oxide_bad_descriptors_total", "descriptors", ["interface", "queue"],
            "Descriptors from the kernel that the ledger refused.";
    }
    "Memory" {
        FRAMES = Gauge "oxide_frames", "frames", ["queue", "state"],
            "Frames of packet memory by state: free, receive (fill and RX ring), app (with the application), transmit (TX and completion ring), written_off (of a closed port, until its queue can be bound again). Their sum is constant while an actor runs.";
        UNACCOUNTED = Gauge "oxide_unaccounted_frames", "frames", [],
            "Frames missing from the accounting. More than 0 is a defect of OXIDE.";
        UMEM_BYTES = Gauge "oxide_umem_bytes", "bytes", ["queue"],
            "Packet memory.";
        HANDLER_BYTES = Gauge "oxide_queue_memory_bytes", "bytes", ["queue"],
            "Memory of a queue without its packet memory: handler and inbox.";
        RESIDENT_BYTES = Gauge "oxide_process_resident_memory_bytes", "bytes", [],
            "Resident memory of the process.";
    }
    "Loop" {
        RING_OCCUPANCY = Gauge "oxide_ring_occupancy_ratio", "ratio", ["interface", "queue", "ring"],
            "How full a ring is, 0 to 1: fill (frames that the kernel may take; a low value means starvation), rx (packets that wait for the actor), tx (packets that wait for the kernel), completion (sent, not reclaimed).";
        BATCH_SIZE = Histogram "oxide_batch_size", "packets", ["queue"],
            "Packets in the batches shown to the handler.";
        TURN_SECONDS = Histogram "oxide_turn_seconds", "seconds", ["queue"],
            "Time of loop turns with packets, the kernel side included.";
        LOOP_SECONDS = Counter "oxide_loop_seconds_total", "seconds", ["queue", "regime"],
            "Time of a queue by regime: busy (the turn had packets), backpressure (no packet taken while kernel work remained), spin (polling), sleep (blocked), control (messages, reports), down (no actor running). Exactly one is in force at each moment, so their sum is the age of the engine.";
        WORK_SECONDS = Counter "oxide_work_seconds_total", "seconds", ["queue"],
            "User-side time for packets; divided by the packets it is the cost per packet.";
        SYSCALLS = Counter "oxide_syscalls_total", "calls", ["queue", "kind"],
            "System calls of the loop: kick (wakes the kernel for a ring), sleep (waits for packets).";
        CONTROL_DEPTH = Gauge "oxide_control_queue_depth", "messages", ["queue"],
            "Messages that wait for a queue's actor: commands, tables. Absent while it has no actor. More than a few mean that the actor does not read them.";
        CPU_SECONDS = Counter "oxide_process_cpu_seconds_total", "seconds", ["mode"],
            "CPU time of the process, user and system, without softirq.";
    }
    "Supervision" {
        STATE = Gauge "oxide_engine_state", "1 for the state in force", ["state"],
            "State of the engine: starting, running, degraded (a queue does not run), draining, stopped.";
        QUEUE_STATE = Gauge "oxide_queue_state", "1 for the state in force", ["queue", "state"],
            "State of a queue: planned, opening, running, draining, restarting, waiting (for an interface), failed, stopped.";
        QUEUE_RESTARTS = Counter "oxide_queue_restarts_total", "restarts", ["queue", "depth", "cause"],
            "Restarts, by what was rebuilt (handler, port, queue) and why: asked (by an operator), panic (of the handler), port (its socket failed), leak (of frames), late (a restart inside it did not end in time), open (memory or sockets could not be opened), ended (the actor, by itself), error (the actor ended with another error).";
        QUEUE_GAP = Gauge "oxide_queue_last_gap_seconds", "seconds", ["queue"],
            "Time from the last failure or restart until the queue ran again; absent before the first.";
        QUEUE_LOST = Gauge "oxide_queue_last_lost_packets", "packets", ["queue"],
            "Packets lost by the last restart of handler, port or queue, as far as they can be counted.";
        QUEUE_STALLED = Gauge "oxide_queue_stalled", "0 or 1", ["queue"],
            "Whether a queue's heartbeat has stopped: its handler does not return.";
        PORT_PAUSED = Gauge "oxide_port_paused", "0 or 1", ["interface", "queue"],
            "Whether an operator paused a port: it receives no packets until it is resumed.";
        LINK_UP = Gauge "oxide_link_up", "0 or 1", ["interface"],
            "Whether a served interface is up with carrier.";
        ADDRESS_PRESENT = Gauge "oxide_address_present", "0 or 1", ["destination"],
            "Whether an address of the destinations is on this host: an interface has it, or a local route covers it.";
        HEARTBEAT_AGE = Gauge "oxide_heartbeat_age_seconds", "seconds", ["queue"],
            "Time since the last report of a queue's actor, which reports every 0.1 s. Absent while it has no actor.";
        UPTIME = Gauge "oxide_uptime_seconds", "seconds", [],
            "Time since the engine was started.";
        READY_SECONDS = Gauge "oxide_start_to_ready_seconds", "seconds", [],
            "Time from start until the last queue received packets.";
        DATAPATH_INFO = Gauge "oxide_datapath_info", "1", ["interface", "queue", "mode", "attach", "zero_copy", "busy_polling", "reason"],
            "Receive mode of each port, as the kernel reports it, with the reason why it is not a better one.";
        SANDBOX_INFO = Gauge "oxide_sandbox_info", "1 for the state in force", ["layer", "state"],
            "Sandbox layers of the process: capabilities, no_new_privs, landlock, seccomp; each is on, absent (not supported by the kernel), or off (by configuration).";
        BUILD_INFO = Gauge "oxide_build_info", "1", ["version"],
            "Version of the process.";
    }
}

/// Lists the events of the relay under the label `event` of [`HANDLER_EVENTS`], with their meaning.
pub const RELAY_EVENTS: &[(&str, &str)] = &[
    ("created", "Sessions created."),
    ("expired", "Sessions that ended because their client was silent."),
    ("source_changed", "Sessions that ended because their source address was removed from this host."),
    (
        "shared_bucket",
        "Packets limited by a bucket that their source shares with other sources: `limits.sources` is too small.",
    ),
    ("challenged", "Challenges sent to clients without a session."),
    ("misdirected", "Sessions whose answers arrive at another queue and are handed over."),
    (
        "client_handed_over",
        "Client packets handed over to the queue that has their session: RSS or the client's host changed the queue.",
    ),
    (
        "not_taken_over",
        "Sessions that ended because the next handler could not serve them, for example after a reload.",
    ),
    ("upstream_down", "Times a queue found an upstream to be down; each queue counts separately."),
    ("upstream_up", "Times an upstream that was down answered again."),
    ("failed_over", "Sessions that left an upstream that was down."),
    ("fragments", "Fragments of datagrams that were sent on."),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the conventions of Prometheus' own linter (promtool check metrics).
    #[test]
    fn names_follow_the_conventions() {
        let mut names = std::collections::HashSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} twice");
            let lawful = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            assert!(name.starts_with("oxide_") && lawful(name), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}: counters, and only they, end in _total"
            );
            for unit in ["seconds", "bytes", "ratio"] {
                let stem = name.trim_end_matches("_total");
                assert_eq!(metric.unit == unit, stem.ends_with(&format!("_{unit}")), "{name}: base unit in the name");
            }
            assert!(metric.labels.iter().all(|label| lawful(label) && *label != "le"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
            // A client must not be a label, because their number has no bound.
            assert!(metric.labels.iter().all(|label| !["client", "address", "session"].contains(label)), "{name}");
        }
    }
}
