//! Tests the simulated port: the contract of every port, and its faults.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../contract/mod.rs"]
mod contract;
mod life;

use std::time::Duration;

use contract::{Rig, number, packet};
use oxide::port::sim::{Driver, KernelFaultRates, SimBackend, SimInterface, SimNet, SimPort, Violation};
use oxide::port::{Backend, Burst, Kick, Port, QueueId};
use oxide::umem::{PortIndex, Umem};

struct SimRig {
    net: SimNet,
    id: QueueId,
    umem: Umem,
    port: SimPort,
}

impl SimRig {
    fn new(driver: Driver, faults: KernelFaultRates, seed: u64) -> Self {
        let interface = SimInterface { driver, ..SimInterface::new("sim0", 1) };
        let net = SimNet::new(&[interface], seed);
        let id = QueueId::new("sim0", 0);
        net.set_faults(&id, faults);
        let (umem, mut ports) = SimBackend::new(&net, std::slice::from_ref(&id)).open().unwrap();
        Self { net, id, umem, port: ports.remove(0) }
    }

    fn opened(driver: Driver, faults: KernelFaultRates, seed: u64) -> Self {
        let mut rig = Self::new(driver, faults, seed);
        rig.port.steer(true).unwrap();
        rig.port.fill(&mut rig.umem);
        rig
    }

    /// Posts `count` packets, numbered from `first`.
    fn post(&mut self, first: u32, count: u32) {
        let mut burst = Burst::new();
        for i in first..first + count {
            let mut frame = self.umem.take().unwrap();
            assert!(self.umem.set_length(&mut frame, 60));
            self.umem.bytes_mut(&mut frame).copy_from_slice(&packet(i, 60));
            burst.push(frame).unwrap();
        }
        assert_eq!(self.port.transmit(&mut self.umem, &mut burst), count as usize);
    }

    /// Checks that kernel and ledger count the same frames.
    fn check_accounting(&mut self) {
        let held = self.net.holdings(&self.id);
        assert_eq!((held.receive, held.transmit), self.umem.at_port(PortIndex::P0));
        assert_eq!(self.net.violations(&self.id), []);
        let nic = self.net.counters(&self.id);
        assert_eq!(nic.arrived, nic.passed + nic.dropped + nic.refused + nic.delivered + nic.waiting, "{nic:?}");
    }
}

impl Rig for SimRig {
    type Port = SimPort;

    fn port(&mut self) -> (&mut Umem, &mut SimPort) {
        (&mut self.umem, &mut self.port)
    }

    fn inject(&mut self, packet: &[u8]) {
        self.net.inject(&self.id, packet);
    }

    fn kernel(&mut self) {
        self.port.run_kernel(&mut self.umem);
        self.net.advance(Duration::from_micros(10));
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.net.sent(&self.id)
    }

    fn close(self) -> Umem {
        self.umem
    }
}

#[test]
fn contract_holds_with_both_drivers() {
    for seed in 0..10 {
        contract::all(|| SimRig::new(Driver::Copy, KernelFaultRates::none(), seed));
        contract::all(|| SimRig::new(Driver::ZeroCopy, KernelFaultRates::none(), seed));
    }
}

/// The contract holds for every legal behaviour of a kernel except losses.
#[test]
fn contract_holds_with_slow_and_erratic_kernel() {
    let faults = KernelFaultRates {
        starve_ppm: 0,
        rx_drop_ppm: 0,
        tx_drop_ppm: 0,
        doze_ppm: 0,
        again_ppm: 0,
        ..KernelFaultRates::legal()
    };
    for seed in 0..40 {
        let driver = if seed % 2 == 0 { Driver::Copy } else { Driver::ZeroCopy };
        contract::all(|| SimRig::new(driver, faults, seed));
    }
}

/// With all faults and traffic in both directions, the ledger stays correct, and all frames return when the faults end.
#[test]
fn no_fault_loses_a_frame() {
    for seed in 0..100 {
        let driver = if seed % 2 == 0 { Driver::Copy } else { Driver::ZeroCopy };
        let mut rig = SimRig::opened(driver, KernelFaultRates::all(), seed);
        let (mut received, mut last) = (0, None);
        for turn in 0..400 {
            (0..turn % 90).for_each(|i| rig.inject(&packet(turn * 100 + i, 60 + i as usize)));
            let mut burst = Burst::new();
            rig.port.reclaim(&mut rig.umem);
            rig.port.fill(&mut rig.umem);
            received += rig.port.receive(&mut rig.umem, &mut burst, 64);
            for frame in burst.iter() {
                let n = number(rig.umem.bytes(frame));
                assert!(last < Some(n), "seed {seed}: packet {n} after {last:?}");
                assert_eq!(rig.umem.bytes(frame), packet(n, 60 + n as usize % 100));
                last = Some(n);
            }
            rig.port.transmit(&mut rig.umem, &mut burst);
            burst.drain().for_each(|frame| rig.umem.give(frame));
            assert_ne!(rig.port.kick().unwrap(), Kick::LinkDown);
            rig.kernel();
            assert_eq!(rig.net.violations(&rig.id), [], "seed {seed}");
        }
        rig.net.set_faults(&rig.id, KernelFaultRates::none());
        for _ in 0..200 {
            let mut burst = Burst::new();
            rig.port.reclaim(&mut rig.umem);
            received += rig.port.receive(&mut rig.umem, &mut burst, 64);
            burst.drain().for_each(|frame| rig.umem.give(frame));
            rig.port.fill(&mut rig.umem);
            rig.port.kick().unwrap();
            rig.kernel();
        }
        rig.check_accounting();
        let census = rig.umem.census();
        assert_eq!((census.app, census.transmit), (0, 0), "seed {seed}");
        let nic = rig.net.counters(&rig.id);
        assert_eq!((nic.delivered, nic.waiting), (received as u64, 0), "seed {seed}");
        assert!(nic.dropped > 0 && nic.refused > 0 && nic.unsent > 0, "seed {seed}: {nic:?}");
        assert!(rig.port.counters().bad_descriptors > 0, "seed {seed}");
        assert_eq!(nic.sent + nic.unsent, rig.port.counters().tx_packets);
    }
}

#[test]
fn one_kick_sends_32_and_requests_another() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates::none(), 1);
    rig.post(0, 64);
    rig.post(64, 6);
    rig.kernel();
    assert!(rig.sent().is_empty(), "nothing leaves before a kick");
    for (taken, answer) in [(32, Kick::Again), (64, Kick::Again), (70, Kick::Done), (70, Kick::Done)] {
        assert_eq!(rig.port.kick().unwrap(), answer);
        rig.kernel();
        assert_eq!(rig.net.counters(&rig.id).sent, taken);
    }
    assert_eq!(rig.port.counters().kicks, 3, "the fourth time no packet waited");
    assert_eq!(rig.port.reclaim(&mut rig.umem), 70);
    rig.check_accounting();
}

#[test]
fn kernel_with_need_wakeup_waits_for_kick() {
    let asleep_after_each_step = KernelFaultRates { doze_ppm: 1_000_000, ..KernelFaultRates::none() };
    let mut rig = SimRig::opened(Driver::ZeroCopy, asleep_after_each_step, 2);
    rig.kernel();
    rig.post(0, 10);
    rig.inject(&packet(99, 60));
    for _ in 0..10 {
        rig.kernel();
    }
    assert!(rig.sent().is_empty());
    assert_eq!(rig.port.occupancy().rx, 0);
    assert_eq!(rig.port.kick().unwrap(), Kick::Done);
    rig.kernel();
    assert_eq!(rig.sent().len(), 10);
    assert_eq!(rig.port.occupancy().rx, 1);
    rig.check_accounting();
}

#[test]
fn empty_fill_ring_drops_until_refilled() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates::none(), 3);
    // The fill ring has 512 frames, of which the RX ring shows 256 at a time.
    (0..600).for_each(|i| rig.inject(&packet(i, 60)));
    rig.kernel();
    let kernel = rig.port.kernel_counters().unwrap();
    assert_eq!((kernel.rx_ring_full, kernel.fill_empty), (344, 0), "a frame is kept for the next packet");
    let mut frames = Vec::new();
    for round in 0..2 {
        let mut burst = Burst::new();
        while rig.port.receive(&mut rig.umem, &mut burst, 64) > 0 {
            frames.extend(burst.drain());
        }
        assert_eq!(frames.len(), 256 * (round + 1));
        (0..300).for_each(|i| rig.inject(&packet(i, 60)));
        rig.kernel();
    }
    let kernel = rig.port.kernel_counters().unwrap();
    assert_eq!((kernel.fill_empty, kernel.rx_dropped), (344, 344), "512 frames were there for 856 packets");
    frames.into_iter().for_each(|frame| rig.umem.give(frame));
    rig.port.fill(&mut rig.umem);
    rig.inject(&packet(7, 60));
    rig.kernel();
    assert_eq!(rig.port.occupancy().rx, 1);
    rig.check_accounting();
}

#[test]
fn missing_completions_keep_frames_at_kernel_until_close() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates { lost_ppm: 1_000_000, ..KernelFaultRates::none() }, 7);
    let mut sent = 0;
    loop {
        let mut burst = Burst::new();
        let mut frame = rig.umem.take().unwrap();
        assert!(rig.umem.set_length(&mut frame, 60));
        burst.push(frame).unwrap();
        if rig.port.transmit(&mut rig.umem, &mut burst) == 0 {
            burst.drain().for_each(|frame| rig.umem.give(frame));
            break;
        }
        sent += 1;
        rig.port.kick().unwrap();
        rig.kernel();
        assert_eq!(rig.port.reclaim(&mut rig.umem), 0);
    }
    assert_eq!(sent, 256, "at most one completion ring in flight");
    assert_eq!(rig.net.holdings(&rig.id).lost, 256);
    rig.check_accounting();
    drop(rig.port);
    assert_eq!(rig.umem.at_port(PortIndex::P0).1, 256);
}

/// The simulated kernel detects a port that gives away frames that it does not own.
#[test]
fn frame_taken_back_too_early_is_detected() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates::none(), 8);
    rig.post(0, 1);
    rig.port.kick().unwrap();
    // Act as a port that frees its frames before its socket is closed.
    rig.umem.write_off(PortIndex::P0);
    rig.inject(&packet(0, 60));
    rig.kernel();
    let violations = rig.net.violations(&rig.id);
    assert!(matches!(violations[..], [Violation::Read(_), Violation::Write(_)]), "{violations:?}");
}

/// Equal seeds give equal runs, and faults of another queue have no effect here.
#[test]
fn one_seed_is_one_run() {
    let run = |seed: u64, others: KernelFaultRates| {
        let net = SimNet::new(&[SimInterface::new("sim0", 2)], seed);
        let ids = [QueueId::new("sim0", 0), QueueId::new("sim0", 1)];
        net.set_faults(&ids[0], KernelFaultRates::all());
        net.set_faults(&ids[1], others);
        let mut actors: Vec<_> =
            ids.iter().map(|id| SimBackend::new(&net, std::slice::from_ref(id)).open().unwrap()).collect();
        let mut log = Vec::new();
        for turn in 0..300 {
            for (id, (umem, ports)) in ids.iter().zip(&mut actors) {
                let port = &mut ports[0];
                port.steer(true).unwrap();
                port.reclaim(umem);
                port.fill(umem);
                (0..40).for_each(|i| net.inject(id, &packet(turn * 40 + i, 60)));
                let mut burst = Burst::new();
                port.receive(umem, &mut burst, 64);
                port.transmit(umem, &mut burst);
                burst.drain().for_each(|frame| umem.give(frame));
                port.kick().unwrap();
                port.run_kernel(umem);
            }
            net.advance(Duration::from_micros(7));
            log.push((net.counters(&ids[0]), net.sent(&ids[0])));
        }
        log
    };
    let fault_free = run(1, KernelFaultRates::none());
    assert!(fault_free == run(1, KernelFaultRates::none()), "equal seeds must give equal runs");
    assert!(fault_free == run(1, KernelFaultRates::all()), "faults of another queue must have no effect");
    assert!(fault_free != run(2, KernelFaultRates::none()), "the seed has no effect");
}
