//! Tests steering in the real kernel, as docs/steering.md describes it. Needs root; each test creates its own network
//! namespace, and prints `SKIPPED` if it cannot.
#![allow(clippy::unwrap_used, clippy::panic)]

mod delivery;
mod fuzz;
mod lab;
mod live;
#[path = "../fuzz/mutate.rs"]
mod mutate;
mod object;
mod packets;
mod table;
