//! Contains the library part of the `oxide` command: everything around the engine and the relay.
//!
//! | module | owns |
//! |---|---|
//! | [`admin`] | HTTP, the control socket, signals, privileges |
//! | [`self_test`] | a test of the real backend, in its own namespace |
//!
//! The command itself is `src/bin/oxide`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod self_test;
