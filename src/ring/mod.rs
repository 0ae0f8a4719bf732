//! One ring cursor, and the in-memory rings on it.
//!
//! A ring has one producer and one consumer, which share nothing but its slots and three words: the
//! producer's index, the consumer's index, and the flags by which the consumer asks to be woken. The
//! rings of an AF_XDP socket have the same form (kernel: `net/xdp/xsk_queue.h`); the ones made here by
//! [`pair`] live in ordinary memory and carry the simulated kernel.
//!
//! All index arithmetic is in `cursor.rs`, nowhere else. `tests/ring.rs` runs these files against a
//! model, and `tests/ring_orders.rs` through the orders that two threads' memory operations may take.

mod cursor;
mod ends;
mod sync;

pub use cursor::RingSizeError;
pub use ends::{Consumer, Peeked, Producer, Reservation, pair};
