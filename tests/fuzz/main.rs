//! Runs the fuzz targets of `fuzz/` on stable Rust: each stored input and a bounded number of seeded mutations. The
//! target of the steering program needs root and is in `tests/steering/fuzz.rs`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod config;
#[path = "../common/live.rs"]
mod live;
mod mutate;
#[path = "../malformed/oracle.rs"]
mod oracle;
mod parse;
mod relay;

#[test]
fn packets_are_parsed_as_an_independent_parser_does() {
    mutate::run("parse", 40_000, parse::body);
}

#[test]
fn no_history_leaves_a_frame_outstanding_on_the_relays_path() {
    mutate::run("relay", 2_000, relay::body);
}

#[test]
fn configurations_are_refused_or_good() {
    mutate::run("config", 10_000, config::body);
}
