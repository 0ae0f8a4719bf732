//! One ring cursor, and the rings on it.
//!
//! A ring has one producer and one consumer, which share nothing but its slots and three words: the
//! producer's index, the consumer's index, and the flags by which the consumer asks to be woken. The
//! rings of an AF_XDP socket have this form (kernel: `net/xdp/xsk_queue.h`).
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
mod ends;
mod mapped;
mod sync;

pub use cursor::RingSizeError;
pub use ends::{Consumer, InMemory, Peeked, Producer, Reservation, RingMemory, pair};
pub use mapped::{Mapped, RingOffsets};

/// One entry of an RX or TX ring (`struct xdp_desc`, include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Where the packet starts, bytes from the start of the UMEM.
    pub address: u64,
    /// Its length, bytes.
    pub length: u32,
    /// Zero: chains of descriptors (`XDP_PKT_CONTD`) are not asked for.
    pub options: u32,
}
