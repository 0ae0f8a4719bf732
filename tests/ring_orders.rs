//! Runs the ring's own source files under loom. It tries every order that the memory model allows for two threads'
//! operations on the indices, and checks each slot for a race. A relaxed index, a missing fence or an index that moves
//! too early fails here on any CPU.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

#[path = "../src/ring/cursor.rs"]
mod cursor;
#[path = "../src/ring/endpoints.rs"]
mod ends;

/// Replaces `src/ring/sync.rs`.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, Ordering, fence};

    pub(super) type RingCell<T> = loom::cell::UnsafeCell<T>;
}

use loom::thread;

/// Uses two slots, three entries and indices past the wrap: the third entry reuses the first one's slot. Each side tries
/// a few times only, so that the number of orders is finite; remaining entries are read after the join.
#[test]
fn entries_are_complete_and_cells_reused_after_release() {
    loom::model(|| {
        let (mut producer, mut consumer) = ends::pair::<u64>(2, u32::MAX).unwrap();
        let writer = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..3 {
                let mut slots = producer.reserve(2);
                while sent < 3 && slots.push(10 + sent) {
                    sent += 1;
                }
                slots.commit();
            }
            sent
        });
        let mut want = 10;
        let mut read = |consumer: &mut ends::Consumer<u64>| {
            let entries = consumer.peek(2);
            for entry in entries.iter() {
                assert_eq!(entry, want);
                want += 1;
            }
            let count = entries.len();
            entries.release(count);
        };
        read(&mut consumer);
        read(&mut consumer);
        let sent = writer.join().unwrap();
        read(&mut consumer);
        assert_eq!(want, 10 + sent, "an entry is missing");
    });
}

/// The consumer sets the flag and reads once more; the producer appends and reads the flag. At least one of them must
/// see the other's write, or the entry would wait forever.
#[test]
fn no_wakeup_is_lost() {
    loom::model(|| {
        let (mut producer, mut consumer) = ends::pair::<u64>(2, 0).unwrap();
        let writer = thread::spawn(move || {
            assert!(producer.push(7));
            producer.needs_wakeup()
        });
        consumer.set_need_wakeup(true);
        let seen = consumer.pop() == Some(7);
        let woken = writer.join().unwrap();
        assert!(seen || woken, "the entry is on the ring, but the consumer sleeps and gets no wake-up");
    });
}
