//! One ring cursor, and the rings on it.
//!
//! A ring has one producer and one consumer. They share only its slots and three words: the producer's index,
//! the consumer's index, and the flags by which the consumer requests a wakeup. The rings of an AF_XDP
//! socket have this form (kernel: `net/xdp/xsk_queue.h`).
//!
//! ```text
//!   cursor.rs  all index arithmetic: how far may an end go
//!   ends.rs    Producer and Consumer, over any memory; pair() makes both in ordinary memory
//!   mapped.rs  memory that the kernel laid out
//!   sync.rs    the atomic operations, in one place so that a model checker can stand in
//! ```
//!
//! `tests/ring.rs` runs these files against a model, in both kinds of memory, and `tests/ring_orders.rs`
//! through the orders that two threads' memory operations may take.

mod cursor;
mod endpoints;
mod mapped;
mod sync;

pub use cursor::RingSizeError;
pub use endpoints::{Consumer, InMemory, Peeked, Producer, Reservation, RingMemory, pair};
pub use mapped::{Mapped, RingOffsets};

/// One entry of an RX or TX ring (`struct xdp_desc`, include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Start of the packet, bytes from the start of the UMEM.
    pub address: u64,
    /// Its length, bytes.
    pub length: u32,
    /// Zero: chains of descriptors (`XDP_PKT_CONTD`) are not requested.
    pub options: u32,
}

// Not in cursor.rs, which tests/ring_orders.rs compiles with loom's atomics: those exist only within a model.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::cursor::Cursor;
    use super::sync::AtomicU32;

    /// The other end's index is in shared memory: no value of it makes a slot count twice.
    #[test]
    fn false_ring_index_is_bounded_by_ring_size() {
        for start in [0, 7, u32::MAX - 3] {
            for lie in [start, start.wrapping_add(8), start.wrapping_add(9), start.wrapping_sub(1), start ^ 1 << 31] {
                let peer = AtomicU32::new(lie);
                for mut cursor in [Cursor::producer(8, start).unwrap(), Cursor::consumer(8, start).unwrap()] {
                    assert!(cursor.refresh(&peer) <= 8 && cursor.available(100, &peer) <= 8, "{start} {lie}");
                }
            }
        }
    }
}
