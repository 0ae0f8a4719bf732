//! Provides an engine status for tests: two queues with a small value in most fields.
//! It is public but hidden, because the tests of other crates use it too.

use std::collections::BTreeMap;

use super::{
    AddressStatus, EngineState, EngineStatus, Layer, LayerState, LinkStatus, ModeStatus, PortStatus, QueueState,
    QueueStatus, SteeringStatus, Totals,
};
use crate::port::{KernelCounters, Mode, Occupancy, PortCounters, QueueId};
use crate::queue::{BatchSizes, TurnTimes};
use crate::telemetry::DropReason;
use crate::umem::{FrameCounts, RingSizes};

/// Returns the same status at each call.
#[must_use]
pub fn status() -> EngineStatus {
    let queues: Vec<_> = (0..2).map(queue).collect();
    let mut totals = Totals::default();
    queues.iter().for_each(|q| totals.merge(&q.totals));
    EngineStatus {
        state: EngineState::Degraded,
        uptime_s: 10.0,
        start_to_ready_ms: Some(120.0),
        first_packet_ms: Some(150.0),
        rings: RingSizes { fill: 512, rx: 256, tx: 256, completion: 256 },
        queues,
        totals,
        steering: vec![SteeringStatus {
            interface: "eth0".to_owned(),
            verdicts: BTreeMap::from([("redirected".to_owned(), 1000), ("not_udp".to_owned(), 17)]),
        }],
        links: vec![LinkStatus { interface: "eth0".to_owned(), up: true }],
        addresses: vec![AddressStatus { address: [192, 0, 2, 1].into(), present: true }],
        sandbox: vec![Layer { name: "seccomp", state: LayerState::On, detail: String::new() }],
        balanced: true,
        ..EngineStatus::default()
    }
}

fn queue(number: u32) -> QueueStatus {
    let mut totals = Totals {
        rx_packets: 1000,
        rx_bytes: 640_000,
        tx_packets: 900,
        tx_bytes: 600_000,
        handed_over: 50,
        taken_over: 50,
        sessions: 12,
        busy_ns: 1_000_000_000,
        backpressure_ns: 500_000_000,
        spin_ns: 500_000_000,
        sleep_ns: 7_000_000_000,
        control_ns: 100_000_000,
        down_ns: 900_000_000,
        work_ns: 300_000,
        kicks: 77,
        sleeps: 99,
        ..Totals::default()
    };
    totals.drops.add(DropReason::Truncated, 60);
    totals.drops.add(DropReason::NoSession, 30);
    totals.drops.add(DropReason::TxFull, 7);
    let (mut batch_sizes, mut turn_ns) = (BatchSizes::default(), TurnTimes::default());
    for size in [1, 1, 2, 30, 64] {
        batch_sizes.record(size);
        turn_ns.record(900 + 40 * size);
    }
    QueueStatus {
        queue: number,
        cpu: Some(number + 2),
        state: if number == 0 { QueueState::Running } else { QueueState::Waiting },
        reason: if number == 0 { "" } else { "eth0 is missing" }.to_owned(),
        executor: "thread".to_owned(),
        mode: vec![ModeStatus {
            interface: "eth0".to_owned(),
            mode: Mode::Copy,
            attach: "native",
            zero_copy: false,
            reason: "the driver of eth0 has no \"zero-copy\"".to_owned(),
            busy_poll: "asked for".to_owned(),
            busy_polling: true,
        }],
        totals,
        ports: vec![PortStatus {
            id: QueueId::new("eth0", number),
            counters: PortCounters { rx_packets: 1000, tx_packets: 900, kicks: 77, ..PortCounters::default() },
            kernel: KernelCounters { rx_dropped: 3, rx_ring_full: 2, fill_empty: 1, ..KernelCounters::default() },
            occupancy: Occupancy { fill: 400, rx: 64, tx: 128, completion: 16 },
        }],
        in_hand: 3,
        batch_sizes,
        turn_ns,
        heartbeat_age_s: Some(0.05),
        restarts: number,
        last_lost: 4,
        last_event: "opened".to_owned(),
        last_gap_ms: Some(31.5),
        census: FrameCounts { total: 2048, free: 1000, app: 3, receive: 900, transmit: 145, written_off: 0 },
        balanced: true,
        work_ns_per_packet: 285.0,
        memory_bytes: 1 << 20,
        umem_bytes: 4 << 20,
        handler: BTreeMap::from([("created", 12), ("expired", 3)]),
        control_depth: Some(0),
        ..QueueStatus::default()
    }
}
