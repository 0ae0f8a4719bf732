//! The library part of the `oxide` command: what it does around the engine and the relay.
//!
//! | module | owns |
//! |---|---|
//! | [`admin`] | HTTP, the control socket, signals, privileges |
//! | [`self_test`] | packets through the real backend, in a namespace of its own |
//!
//! The command itself is `src/bin/oxide`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod self_test;
