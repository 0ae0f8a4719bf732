//! Lists the fields of the engine's sections, with their valid values, defaults and purposes.

use super::engine::{Attach, ExecutorKind, Fallback};
use super::fields::{Section, optional, required};
use super::value::{Choice, Realtime};
use crate::simd::Level;
use crate::xdp::ZeroCopy;

/// Describes the section `[engine]`.
pub const ENGINE: Section = Section {
    name: "engine",
    about: "Opening and serving of the NIC queues.",
    fields: &[
        required::<Vec<String>>(
            "interfaces",
            "[\"eth0\"]",
            "a list of 1 to 8 interface names",
            "Interfaces that receive and send packets. One actor serves the same queue of all of them.",
        ),
        optional::<Choice<Vec<u32>>>(
            "queues",
            "\"auto\"",
            "\"auto\" (all queues that the interfaces have in common), or a list of different queue numbers, 0 to 255",
            "Queues to serve.",
        ),
        optional::<u32>(
            "ring_size",
            "1024",
            "a power of two from 64 to 32768, entries",
            "Entries of the RX, TX and completion ring of each queue. The fill ring has twice as many.",
        ),
        optional::<u32>(
            "frame_size",
            "2048",
            "2048 or 4096, bytes",
            "Memory of one packet. The kernel uses 256 bytes of it, so 2048 is enough for an MTU of 1774.",
        ),
        optional::<Choice<u32>>(
            "frame_count",
            "\"auto\"",
            "\"auto\" (enough for full rings), or a number of frames, at most 1048576",
            "Number of frames of each actor.",
        ),
        optional::<u32>("batch_size", "64", "1 to 64, packets", "Packets taken from a ring at once."),
        optional::<bool>(
            "busy_poll",
            "true",
            "true or false",
            "Preferred busy polling: the actor's core drives the NIC instead of interrupts.",
        ),
        optional::<u32>("busy_poll_timeout_us", "20", "1 to 1000, microseconds", "Maximum time of one busy poll."),
        optional::<ZeroCopy>(
            "zero_copy",
            "\"auto\"",
            "\"auto\" (zero-copy if the driver supports it, otherwise copy mode with a report), \"require\" (no start without it), or \"off\"",
            "Whether the NIC writes directly to the packet memory.",
        ),
        optional::<Choice<Level>>(
            "simd",
            "\"auto\"",
            "\"auto\" (the best of this CPU), \"scalar\", \"sse4.2\", \"avx2\", \"avx512\", or \"neon\"",
            "Vector instructions of the batch processor.",
        ),
        optional::<Choice<bool>>(
            "huge_pages",
            "\"auto\"",
            "\"auto\" (if the pool has them), true (requested, with a report if there are none), or false",
            "Use of 2 MiB pages for the packet memory.",
        ),
        optional::<Choice<Vec<u32>>>(
            "pin",
            "\"auto\"",
            "\"auto\" (the cores of the plan), or a list of different CPU numbers, 0 to 8191, one for each queue in order",
            "CPUs of the actors. With fewer CPUs than queues, queues share CPUs.",
        ),
        optional::<Choice<u32>>(
            "numa",
            "\"auto\"",
            "\"auto\" (the node of the NIC), or a node number, 0 to 1023",
            "NUMA node of memory and cores.",
        ),
        optional::<Realtime>(
            "realtime",
            "false",
            "false, or a SCHED_FIFO priority from 1 to 49",
            "Real-time scheduling of the actors. Without an isolated core, the kernel stops them for 50 ms per second.",
        ),
        optional::<ExecutorKind>(
            "executor",
            "\"auto\"",
            "\"auto\" (glommio if io_uring is permitted, otherwise a thread with a report), \"glommio\", or \"thread\"",
            "Executor of the actors.",
        ),
        optional::<Fallback>(
            "fallback",
            "\"drop\"",
            "\"drop\", or \"pass\" (to the kernel, which may answer with ICMP port unreachable)",
            "Action for the relay's packets while their queue has no socket.",
        ),
        optional::<Attach>(
            "attach",
            "\"auto\"",
            "\"auto\" (native if the driver supports it, otherwise generic with a report), \"native\", or \"generic\"",
            "XDP hook of the steering program.",
        ),
    ],
};

/// Describes the section `[supervision]`.
pub const SUPERVISION: Section = Section {
    name: "supervision",
    about: "When a failed queue is restarted, and when restarts end.",
    fields: &[
        optional::<u32>(
            "restarts",
            "5",
            "0 to 1000000",
            "Restarts of one queue within window_s. After one failure more the queue has failed. Restarts by an operator do not count.",
        ),
        optional::<u32>("window_s", "60", "1 to 86400, seconds", "Length of the window in which restarts are counted."),
        optional::<u32>(
            "backoff_min_ms",
            "50",
            "0 to 86400000, milliseconds, at most backoff_max_ms",
            "Delay before the first restart. It doubles with each restart in the window, and is reduced by up to a quarter at random.",
        ),
        optional::<u32>("backoff_max_ms", "5000", "0 to 86400000, milliseconds", "Longest delay."),
        optional::<u32>(
            "handler_again_within_ms",
            "100",
            "0 to 86400000, milliseconds",
            "Time after a restart in which a second failure leads to a handler without inherited state, and a third one to a restart of the actor.",
        ),
        optional::<u32>(
            "port_every_ms",
            "5000",
            "100 to 86400000, milliseconds",
            "Time between two attempts to open a port past its budget. Its queue runs without it.",
        ),
        optional::<u32>(
            "stall_after_ms",
            "1000",
            "250 to 86400000, milliseconds",
            "Time after which a handler that does not return is stalled. Its queue gets no packets until it returns.",
        ),
        optional::<u32>(
            "exit_when_stuck_s",
            "0",
            "0 (never), or up to 86400 seconds, not below stall_after_ms",
            "Length of a stall that ends the process with exit code 4, because only this frees the thread.",
        ),
    ],
};
