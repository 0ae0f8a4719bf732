//! Tests that no sequence of safe calls creates two owners of a frame, or lets a kernel write to a frame that safe code
//! holds. Random calls, also wrong ones, run on two memories while a device writes to its frames; also under Miri
//! (`cargo xtask test --tier miri`). The device's port uses only the public API of `umem`.
#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "common/device.rs"]
#[allow(unsafe_code)]
mod device;

use std::panic::{AssertUnwindSafe, catch_unwind};

use device::{DevicePort, Queue};
use oxide::port::Burst;
use oxide::port::sim::Rng;
use oxide::umem::{Frame, PageKind, PortIndex, PortKey, Region, RingSizes, Umem, UmemLayout};

/// Holds two ports on one memory, and the frames of the application.
struct Side {
    queues: [Queue; 2],
    ports: [Option<DevicePort>; 2],
    /// Port without a kernel; the test simulates the kernel.
    own: Option<PortKey>,
    held: Vec<(Frame, u8)>,
    /// Calls the port with the memory of the other side.
    exchanged: bool,
}

const OWN: PortIndex = PortIndex::P5;

fn side() -> (Umem, Side) {
    let rings = RingSizes { fill: 16, rx: 8, tx: 8, completion: 8 };
    let layout = UmemLayout::new(2048, UmemLayout::frames_for(&rings, 2), 0, &rings, 2, 1500).unwrap();
    let mut umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
    let mut queues = [PortIndex::P0, PortIndex::P1].map(|port| Queue::new(&umem, port));
    let ports = queues.each_mut().map(|queue| queue.open(&mut umem).ok());
    let own = umem.simulated_port(OWN).ok();
    (umem, Side { queues, ports, own, held: Vec::new(), exchanged: false })
}

/// Runs a call that may panic. A refused call loses its argument and changes nothing else.
fn refused<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Writes a stamp to every byte of each held frame, with all of them borrowed at once.
fn stamp(umem: &Umem, held: &mut [(Frame, u8)], rng: &mut Rng) {
    let mut slices: Vec<(&mut [u8], u8)> = Vec::new();
    for (frame, stamp) in held {
        *stamp = rng.below(256) as u8;
        slices.push((umem.bytes_mut(frame), *stamp));
    }
    slices.iter_mut().for_each(|(bytes, stamp)| bytes.fill(*stamp));
    assert!(slices.iter().all(|(bytes, stamp)| bytes.iter().all(|byte| byte == stamp)));
}

impl Side {
    /// Checks that nothing else wrote to the held frames.
    fn check(&self, umem: &Umem) {
        for (frame, stamp) in &self.held {
            assert!(umem.bytes(frame).iter().all(|byte| byte == stamp), "frame {} was changed", frame.index());
        }
    }

    /// Adds a new or received frame to the held ones.
    fn hold(&mut self, umem: &mut Umem, mut frame: Frame, rng: &mut Rng) {
        if self.exchanged {
            return umem.give(frame);
        }
        let longest = if cfg!(miri) { 100 } else { 1700 };
        if !umem.set_length(&mut frame, rng.below(longest) as u16) {
            assert!(umem.set_length(&mut frame, 60));
        }
        let mut frames = [(frame, 0)];
        stamp(umem, &mut frames, rng);
        self.held.extend(frames);
    }

    fn pick(&mut self, rng: &mut Rng) -> Option<Frame> {
        let at = rng.below(self.held.len() as u64) as usize;
        (!self.held.is_empty()).then(|| self.held.swap_remove(at).0)
    }

    /// Makes one random call on `umem`, which may be the memory of the other side.
    fn step(&mut self, umem: &mut Umem, rng: &mut Rng) {
        let at = rng.below(2) as usize;
        match rng.below(12) {
            0 => {
                if let Some(frame) = umem.take() {
                    self.hold(umem, frame, rng);
                }
            }
            1 => {
                let frame = self.pick(rng);
                frame.map(|frame| refused(|| umem.give(frame)));
            }
            2 => self.call(at, |port| port.fill(umem)),
            3 | 4 => {
                let mut burst = Burst::new();
                self.call(at, |port| port.receive(umem, &mut burst));
                burst.drain().for_each(|frame| self.hold(umem, frame, rng));
            }
            5 | 6 => {
                let mut burst = Burst::new();
                for _ in 0..rng.below(8) {
                    self.pick(rng).map(|frame| burst.push(frame));
                }
                self.call(at, |port| port.transmit(umem, &mut burst));
                burst.drain().for_each(|frame| _ = refused(|| umem.give(frame)));
            }
            7 => self.call(at, |port| port.reclaim(umem)),
            // Close and reopen a port, or open it while it is open.
            8 => {
                if rng.below(4) > 0 {
                    self.ports[at] = None;
                }
                if rng.below(2) == 0
                    && let Some(Ok(port)) = refused(|| self.queues[at].open(umem))
                {
                    self.ports[at] = Some(port);
                }
            }
            9 => _ = umem.write_off(PortIndex::ALL[rng.below(8) as usize]),
            _ => self.play(umem, rng),
        }
    }

    fn call<T>(&mut self, at: usize, call: impl FnOnce(&mut DevicePort) -> T) {
        if let Some(port) = &mut self.ports[at] {
            refused(|| call(port));
        }
    }

    /// Makes the moves of a port without a kernel, with random addresses.
    fn play(&mut self, umem: &mut Umem, rng: &mut Rng) {
        if rng.below(8) == 0 {
            self.own = None;
        }
        if self.own.is_none() {
            // Also use port numbers of a device.
            let port = PortIndex::ALL[rng.below(8) as usize];
            self.own = umem.simulated_port(port).ok();
        }
        let address = rng.below(umem.layout().bytes() as u64 + 4096);
        let Some(key) = self.own.take() else { return };
        match rng.below(8) {
            0 => _ = refused(|| umem.post_fill(&key)),
            1 => _ = refused(|| umem.kernel_write(&key, address, &[0xee; 64])),
            2 | 3 => {
                let received = refused(|| umem.received(&key, address, rng.below(1800) as u32));
                if let Some(Ok(frame)) = received {
                    self.hold(umem, frame, rng);
                }
            }
            4 => {
                let frame = self.pick(rng);
                frame.map(|frame| refused(|| umem.post_transmit(&key, frame)));
            }
            5 => _ = refused(|| umem.kernel_read(&key, address, 64).map(<[u8]>::to_vec)),
            6 => _ = refused(|| umem.completed(&key, address)),
            _ => _ = refused(|| umem.take_back_simulated(&key)),
        }
        self.own = Some(key);
    }
}

#[test]
fn safe_calls_never_alias_a_frame() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        if !text.ends_with("of another UMEM") {
            usual(info);
        }
    }));
    let (seeds, steps) = if cfg!(miri) { (2, 400_u32) } else { (8, 50_000) };
    let mut received = 0;
    for seed in 0..seeds {
        let mut rng = Rng::new(seed);
        let ((mut near, mut a), (mut far, mut b)) = (side(), side());
        for _ in 0..steps {
            // Sometimes use the memory of the other side.
            let exchanged = rng.below(32) == 0;
            if exchanged {
                std::mem::swap(&mut near, &mut far);
            }
            (a.exchanged, b.exchanged) = (exchanged, exchanged);
            a.step(&mut near, &mut rng);
            b.step(&mut far, &mut rng);
            if exchanged {
                std::mem::swap(&mut near, &mut far);
            }
            for (umem, side) in [(&near, &mut a), (&far, &mut b)] {
                side.queues.iter_mut().for_each(|queue| received += queue.work(&mut rng));
                side.check(umem);
                if rng.below(16) == 0 {
                    stamp(umem, &mut side.held, &mut rng);
                }
                assert!(umem.census().balanced());
            }
        }
    }
    assert!(received > u64::from(steps) / 16, "only {received} packets received");
}
