//! Compares the ledger with a model that keeps lists, over ten million random operations: takes, gives, fills,
//! receptions, sends, completions, wrong reports of the kernel, and closed sockets. `LEDGER_OPERATIONS` and
//! `LEDGER_SEED` set number and seed (`cargo xtask test --tier long`: 10^8).
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Instant;

use oxide::port::sim::Rng;
use oxide::umem::{BadDescriptor, Frame, PageKind, PortIndex, PortKey, Region, RingSizes, Umem, UmemLayout};

const PORTS: usize = 3;
const SIZE: u64 = 2048;

/// Closes a port and reopens it. Returns the number of frames that it had posted.
fn reopen(umem: &mut Umem, keys: &mut Vec<PortKey>, port: usize) -> usize {
    drop(keys.remove(port));
    keys.insert(port, umem.simulated_port(PortIndex::new(port).unwrap()).unwrap());
    umem.take_back_simulated(&keys[port]) as usize
}

struct Model {
    umem: Umem,
    keys: Vec<PortKey>,
    rng: Rng,
    app: Vec<Frame>,
    /// Posted addresses, by port.
    receive: [Vec<u64>; PORTS],
    transmit: [Vec<u64>; PORTS],
    /// Counts of each kind of operation.
    done: [u64; 9],
}

impl Model {
    fn new(seed: u64) -> Self {
        let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
        let frames = UmemLayout::frames_for(&rings, PORTS as u32);
        let layout = UmemLayout::new(SIZE as u32, frames, 0, &rings, PORTS as u32, 1500).unwrap();
        let mut umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
        let keys = PortIndex::first(PORTS).map(|port| umem.simulated_port(port).unwrap()).collect();
        Self {
            umem,
            keys,
            rng: Rng::new(seed),
            app: Vec::new(),
            receive: Default::default(),
            transmit: Default::default(),
            done: [0; 9],
        }
    }

    fn pick<T>(rng: &mut Rng, from: &mut Vec<T>) -> Option<T> {
        let at = rng.below(from.len() as u64) as usize;
        (!from.is_empty()).then(|| from.swap_remove(at))
    }

    fn step(&mut self) {
        let port = self.rng.below(PORTS as u64) as usize;
        let kind = self.rng.below(64);
        let Self { umem, keys, rng, app, receive, transmit, done } = self;
        match kind {
            0..=5 => match umem.take() {
                Some(frame) => app.push(frame),
                None => return,
            },
            6..=11 => match Self::pick(rng, app) {
                Some(frame) => umem.give(frame),
                None => return,
            },
            12..=27 => match umem.post_fill(&keys[port]) {
                Some(frame) => receive[port].push(u64::from(frame) * SIZE),
                None => return,
            },
            28..=39 => match Self::pick(rng, &mut receive[port]) {
                // Anywhere in the frame with enough bytes for headers, as moved by an XDP program.
                Some(address) => {
                    let (at, length) = (rng.below(SIZE - 64), rng.below(65) as u32);
                    app.push(umem.received(&keys[port], address + at, length).unwrap());
                }
                None => return,
            },
            40..=49 => match Self::pick(rng, app) {
                Some(frame) => transmit[port].push(umem.post_transmit(&keys[port], frame).0),
                None => return,
            },
            50..=60 => match Self::pick(rng, &mut transmit[port]) {
                Some(address) => umem.completed(&keys[port], address).unwrap(),
                None => return,
            },
            61..=62 => return self.lie(port),
            63 if rng.below(4) > 0 => return self.batch(port),
            // Close a socket sometimes.
            _ if rng.below(64) == 0 => {
                assert_eq!(reopen(umem, keys, port), receive[port].len() + transmit[port].len());
                receive[port].clear();
                transmit[port].clear();
            }
            _ => return,
        }
        done[(kind / 8) as usize] += 1;
    }

    /// Makes the same moves in groups, as ports do.
    fn batch(&mut self, port: usize) {
        let Self { umem, keys, rng, app, receive, transmit, done } = self;
        let count = 1 + rng.below(16) as usize;
        let believed = |error: BadDescriptor| panic!("refused: {error}");
        match rng.below(4) {
            0 => {
                let posted = umem.post_fill_batch(&keys[port], count as u32, |address| receive[port].push(address));
                assert!(posted <= count as u32);
            }
            1 => {
                let held = &mut receive[port];
                let addresses = held.split_off(held.len().saturating_sub(count));
                let (wanted, mut kept) = (addresses.len(), 0);
                let taken = umem.received_batch(
                    &keys[port],
                    addresses.into_iter().map(|address| (address + 256, 60)),
                    |frame| {
                        // Every third frame does not fit and becomes free again.
                        if kept % 3 == 2 {
                            kept += 1;
                            return Err(frame);
                        }
                        kept += 1;
                        app.push(frame);
                        Ok(())
                    },
                    believed,
                );
                assert_eq!(taken as usize, wanted - wanted / 3);
            }
            2 => {
                let frames = app.split_off(app.len().saturating_sub(count));
                let wanted = frames.len();
                let posted = umem.post_transmit_batch(&keys[port], frames.into_iter(), |at, _| transmit[port].push(at));
                assert_eq!(posted as usize, wanted);
            }
            _ => {
                let held = &mut transmit[port];
                let addresses = held.split_off(held.len().saturating_sub(count));
                let wanted = addresses.len();
                assert_eq!(umem.completed_batch(&keys[port], addresses.into_iter(), believed) as usize, wanted);
            }
        }
        done[7] += 1;
    }

    /// Makes a wrong report of the kernel. The ledger accepts it only if it cannot detect the error.
    fn lie(&mut self, port: usize) {
        let address = self.rng.below(2 * self.umem.layout().bytes() as u64);
        let of = |held: &[u64]| held.iter().position(|held| held / SIZE == address / SIZE);
        if self.rng.chance(500_000) {
            match (self.umem.completed(&self.keys[port], address), of(&self.transmit[port])) {
                (Ok(()), Some(at)) => drop(self.transmit[port].swap_remove(at)),
                (Err(_), None) => self.done[8] += 1,
                (said, known) => panic!("completion of {address:#x}: {said:?}, sent: {known:?}"),
            }
            return;
        }
        let length = self.rng.below(4096) as u32;
        let fits = address % SIZE + u64::from(length.max(64)) <= SIZE;
        match (self.umem.received(&self.keys[port], address, length), of(&self.receive[port])) {
            (Ok(frame), Some(at)) if fits => {
                self.receive[port].swap_remove(at);
                assert_eq!((u32::from(frame.length()), u64::from(frame.offset())), (length, address % SIZE));
                self.app.push(frame);
            }
            (Err(BadDescriptor::PastFrame { .. }), _) if !fits => self.done[8] += 1,
            (Err(_), None) => self.done[8] += 1,
            (said, known) => panic!("{length} bytes at {address:#x}: {said:?}, posted: {known:?}"),
        }
    }

    fn check(&self) {
        let census = self.umem.census();
        let at_ports = |held: &[Vec<u64>; PORTS]| held.iter().map(Vec::len).sum::<usize>();
        let counts = [census.app, census.receive, census.transmit].map(|count| count as usize);
        assert!(census.balanced());
        assert_eq!(counts, [self.app.len(), at_ports(&self.receive), at_ports(&self.transmit)]);
    }

    /// Returns all frames and checks that each exists exactly once.
    fn clear(&mut self) {
        for port in 0..PORTS {
            let gone = reopen(&mut self.umem, &mut self.keys, port);
            assert_eq!(gone, self.receive[port].len() + self.transmit[port].len());
            self.receive[port].clear();
            self.transmit[port].clear();
        }
        self.app.drain(..).for_each(|frame| self.umem.give(frame));
        let all: Vec<Frame> = std::iter::from_fn(|| self.umem.take()).collect();
        let indices: std::collections::HashSet<u32> = all.iter().map(Frame::index).collect();
        assert_eq!(
            (indices.len(), all.len() as u32),
            (all.len(), self.umem.census().total),
            "a frame is lost or duplicated"
        );
        all.into_iter().for_each(|frame| self.umem.give(frame));
    }
}

#[test]
fn no_operation_loses_or_doubles_a_frame() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let operations = number("LEDGER_OPERATIONS", if cfg!(miri) { 3_000 } else { 10_000_000 });
    let seed = number("LEDGER_SEED", 1);
    let (mut model, started) = (Model::new(seed), Instant::now());
    for n in 1..=operations {
        model.step();
        if n % 16 == 0 {
            model.check();
        }
        if n % 1_000_000 == 0 {
            model.clear();
        }
    }
    model.check();
    model.clear();
    println!("{operations} operations on the ledger, seed {seed}, {:?}; done {:?}", started.elapsed(), model.done);
    assert!(cfg!(miri) || model.done.iter().all(|&times| times > operations / 200), "{:?}", model.done);
}
