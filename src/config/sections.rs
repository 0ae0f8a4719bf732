//! Lists the fields of the engine's sections, with their valid values, defaults and purposes.

use super::engine::{Attach, ExecutorKind, Fallback};
use super::fields::{Section, optional, required};
use super::value::{Choice, Realtime};
use crate::simd::Level;
use crate::xdp::ZeroCopy;

/// Describes the section `[engine]`.
pub const ENGINE: Section = Section {
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

/// Describes the section `[supervision]`.
pub const SUPERVISION: Section = Section {
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
