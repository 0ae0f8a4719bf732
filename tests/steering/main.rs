//! Steering in the real kernel. Needs root; each test makes its own network namespace and says
//! `SKIPPED` if it cannot. What is tested is described in docs/steering.md.
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
