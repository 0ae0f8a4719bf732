//! Implements the rings over one cursor.
//!
//! A ring has one producer and one consumer. They share only its cells and three words: the producer's index, the
//! consumer's index, and the flags by which the consumer requests a wakeup. The rings of an AF_XDP socket have this
//! form (kernel: `net/xdp/xsk_queue.h`).
//!
//! ```text
//!   cursor.rs     all index arithmetic: how far an end may go
//!   endpoints.rs  Producer and Consumer over any memory; pair() creates both in ordinary memory
//!   mapped.rs     memory that the kernel laid out
//!   sync.rs       the atomic operations, in one place so that a model checker can replace them
//! ```
//!
//! `tests/ring.rs` compares the rings with a model, in both kinds of memory. `tests/ring_orders.rs` checks them under
//! all orders that the memory operations of two threads may take.

mod cursor;
mod endpoints;
mod mapped;
mod sync;

pub use cursor::RingSizeError;
pub use endpoints::{Consumer, InMemory, Peeked, Producer, Reservation, RingMemory, pair};
pub use mapped::{Mapped, RingOffsets};

/// Holds one entry of an RX or TX ring (`struct xdp_desc`, include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Start of the packet, in bytes from the start of the UMEM.
    pub address: u64,
    /// Length of the packet, in bytes.
    pub length: u32,
    /// Options, always zero: chains of descriptors (`XDP_PKT_CONTD`) are not requested.
    pub options: u32,
}

// These tests are not in cursor.rs, because tests/ring_orders.rs compiles it with loom's atomics, which exist only
// within a model.
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::cursor::Cursor;
    use super::sync::AtomicU32;

    /// Checks that no value of the other end's index in shared memory makes a cell count twice.
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
