//! Compares the rings with a model, from any start of the indices, and between two threads.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oxide::ring::{Consumer, Mapped, Producer, RingMemory, RingOffsets, pair};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Reserves `wanted`, writes `write` of them, commits.
    Produce {
        wanted: u32,
        write: u32,
    },
    /// Reserves and writes, then drops the reservation.
    Abandon {
        wanted: u32,
        write: u32,
    },
    /// Reads up to `wanted` entries, releases `release`.
    Consume {
        wanted: u32,
        release: u32,
    },
    /// Reads entries and releases none.
    Look {
        wanted: u32,
    },
    Push,
    Pop,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Up to twice the largest ring, so that some requests exceed it.
    let n = 0u32..130;
    let step = prop_oneof![
        3 => (n.clone(), n.clone()).prop_map(|(wanted, write)| Step::Produce { wanted, write }),
        1 => (n.clone(), n.clone()).prop_map(|(wanted, write)| Step::Abandon { wanted, write }),
        3 => (n.clone(), n.clone()).prop_map(|(wanted, release)| Step::Consume { wanted, release }),
        1 => n.prop_map(|wanted| Step::Look { wanted }),
        1 => Just(Step::Push),
        1 => Just(Step::Pop),
    ];
    prop::collection::vec(step, 1..200)
}

/// Returns any start, but in half of the cases so near to 2^32 that the test passes it.
fn starts() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), (0u32..200).prop_map(|back| u32::MAX - back)]
}

/// Models the ring: its entries, and the next value, because each entry holds its own number.
struct Model {
    entries: VecDeque<u64>,
    next: u64,
    capacity: u32,
}

impl Model {
    fn room(&self) -> u32 {
        self.capacity - self.entries.len() as u32
    }

    fn write(&mut self, producer: &mut Producer<u64, impl RingMemory<u64>>, wanted: u32, write: u32, commit: bool) {
        let granted = wanted.min(self.room());
        let mut slots = producer.reserve(wanted);
        assert_eq!(slots.room(), granted);
        let written = write.min(granted);
        for i in 0..u64::from(written) {
            assert!(slots.push(self.next + i));
        }
        assert_eq!(slots.room(), granted - written);
        if written == granted {
            assert!(!slots.push(u64::MAX), "a slot beyond the reservation");
        }
        if commit {
            assert_eq!(slots.commit(), written);
            self.entries.extend(self.next..self.next + u64::from(written));
            self.next += u64::from(written);
        }
    }

    fn read(&mut self, consumer: &mut Consumer<u64, impl RingMemory<u64>>, wanted: u32, release: u32) {
        let entries = consumer.peek(wanted);
        let want: Vec<u64> = self.entries.iter().take(wanted as usize).copied().collect();
        assert_eq!(entries.iter().collect::<Vec<_>>(), want);
        assert_eq!(entries.get(entries.len()), None);
        let released = release.min(entries.len());
        entries.release(release);
        self.entries.drain(..released as usize);
    }
}

/// Returns both ends of a ring of 2^`log` entries in the kernel's layout: each index on its own cache line, followed by
/// the slots (`struct xdp_umem_ring`, net/xdp/xsk_queue.h).
fn mapped_pair(log: u32, start: u32) -> (Producer<u64, Mapped<u64>>, Consumer<u64, Mapped<u64>>) {
    mapped_between(log, start, 0)
}

/// Returns the same with this number of entries already on the ring.
#[allow(unsafe_code)]
fn mapped_between(log: u32, start: u32, waiting: u32) -> (Producer<u64, Mapped<u64>>, Consumer<u64, Mapped<u64>>) {
    const AT: RingOffsets = RingOffsets { producer: 0, consumer: 64, flags: 128, slots: 192 };
    let capacity = 1 << log;
    // Units of eight bytes, so that the slots are aligned.
    let memory: Arc<[[AtomicU32; 2]]> = (0..AT.slots / 8 + capacity as usize).map(|_| Default::default()).collect();
    memory[AT.producer / 8][0].store(start.wrapping_add(waiting), Ordering::Relaxed);
    memory[AT.consumer / 8][0].store(start, Ordering::Relaxed);
    let base = NonNull::new(memory.as_ptr().cast_mut().cast::<u8>()).unwrap();
    // SAFETY: words and slots lie in `memory`, all of whose bytes may be written through a shared
    // reference; it is kept by both ends, of which one of each kind is made.
    let ring = || unsafe { Mapped::new(base, &AT, Arc::new(Arc::clone(&memory))) };
    (ring().producer(capacity).unwrap(), ring().consumer(capacity).unwrap())
}

/// Entries on a ring before its ends are made are not overwritten, and are read.
#[test]
fn endpoints_continue_at_current_indices() {
    for start in [0, 7, u32::MAX - 1] {
        for waiting in 0..=4 {
            let (mut producer, mut consumer) = mapped_between(2, start, waiting);
            assert_eq!(producer.reserve(4).room(), 4 - waiting, "from {start}");
            assert_eq!(consumer.peek(4).len(), waiting, "from {start}");
        }
    }
}

fn follow(
    mut producer: Producer<u64, impl RingMemory<u64>>,
    mut consumer: Consumer<u64, impl RingMemory<u64>>,
    steps: &[Step],
) {
    let mut model = Model { entries: VecDeque::new(), next: 0, capacity: producer.capacity() };
    for &step in steps {
        match step {
            Step::Produce { wanted, write } => model.write(&mut producer, wanted, write, true),
            Step::Abandon { wanted, write } => model.write(&mut producer, wanted, write, false),
            Step::Consume { wanted, release } => model.read(&mut consumer, wanted, release),
            Step::Look { wanted } => model.read(&mut consumer, wanted, 0),
            Step::Push => {
                let room = model.room() > 0;
                assert_eq!(producer.push(model.next), room);
                if room {
                    model.entries.push_back(model.next);
                    model.next += 1;
                }
            }
            Step::Pop => assert_eq!(consumer.pop(), model.entries.pop_front()),
        }
        assert_eq!(producer.waiting() as usize, model.entries.len());
        assert_eq!(consumer.waiting() as usize, model.entries.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 8 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ring_is_bounded_queue_in_either_memory(start in starts(), log in 0u32..=6, steps in steps()) {
        let (producer, consumer) = pair::<u64>(1 << log, start).unwrap();
        follow(producer, consumer, &steps);
        let (producer, consumer) = mapped_pair(log, start);
        follow(producer, consumer, &steps);
    }
}

#[test]
fn cached_index_is_reread_when_exhausted() {
    for start in [0, u32::MAX - 5, u32::MAX] {
        let (mut producer, mut consumer) = pair::<u64>(8, start).unwrap();
        for round in 0..100u64 {
            let mut slots = producer.reserve(8);
            assert_eq!(slots.room(), 8, "round {round} from {start}");
            for i in 0..8 {
                assert!(slots.push(8 * round + i));
            }
            assert_eq!(slots.commit(), 8);
            assert_eq!(producer.reserve(1).room(), 0);
            // Two halves: the second must not use an index that was cached before the first.
            for half in 0..2 {
                let entries = consumer.peek(4);
                let first = 8 * round + 4 * half;
                assert_eq!(entries.iter().collect::<Vec<_>>(), (first..first + 4).collect::<Vec<_>>());
                entries.release(4);
                assert_eq!(producer.reserve(8).room(), 4 * (half as u32 + 1));
            }
            assert!(consumer.peek(1).is_empty());
        }
    }
}

#[test]
fn wakeup_flag_is_set_by_consumer() {
    let (mut producer, mut consumer) = pair::<u64>(8, 0).unwrap();
    assert!(!producer.needs_wakeup());
    consumer.set_need_wakeup(true);
    assert!(producer.needs_wakeup());
    consumer.set_need_wakeup(false);
    assert!(!producer.needs_wakeup());
}

#[test]
fn ring_size_must_be_power_of_two() {
    for capacity in [0, 3, 6, 1000] {
        let error = pair::<u64>(capacity, 0).unwrap_err();
        assert!(error.to_string().contains(&format!("{capacity} entries")), "{error}");
    }
    assert_eq!(pair::<u8>(1, 7).unwrap().0.capacity(), 1);
}

/// Every entry arrives once, in order and complete: its three fields all have its number.
#[test]
fn two_threads_pass_entries_in_order() {
    const ENTRIES: u64 = if cfg!(miri) { 300 } else { 200_000 };
    let (mut producer, mut consumer) = pair::<[u64; 3]>(64, u32::MAX - 100).unwrap();
    let writer = std::thread::spawn(move || {
        let mut next = 0;
        while next < ENTRIES {
            // 1 to 64 at a time, with another pattern than the reader.
            let mut slots = producer.reserve(1 + (next * 7 % 64) as u32);
            while next < ENTRIES && slots.push([next, !next, next.wrapping_mul(0x9e37_79b9)]) {
                next += 1;
            }
            if slots.commit() == 0 {
                std::thread::yield_now();
            }
        }
    });
    let mut want = 0;
    while want < ENTRIES {
        let entries = consumer.peek(1 + (want * 5 % 64) as u32);
        for [a, b, c] in entries.iter() {
            assert_eq!([a, b, c], [want, !want, want.wrapping_mul(0x9e37_79b9)]);
            want += 1;
        }
        let count = entries.len();
        entries.release(count);
        if count == 0 {
            std::thread::yield_now();
        }
    }
    writer.join().unwrap();
    assert_eq!(consumer.waiting(), 0);
}
