//! `oxide-lab`: the measuring tools of `cargo xtask bench`. Each command does one measurement, or is one forwarder, in
//! the network namespace it is started in, and prints one JSON object when it is done.
//!
//! | module | is |
//! |---|---|
//! | [`frame`] | the lab's addresses and frames |
//! | [`programs`] | the BPF generator and the far-side counter |
//! | [`cpu`] | pinning, and where a core's time goes |
//! | [`testbed`] | what [`saturate`] and [`trials`] are told: where to send, what, on which CPUs |
//! | [`saturate`] | saturating load, and what comes through |
//! | [`socket_load`] | the same by AF_XDP, for several queues |
//! | [`trials`] | so many frames at such a rate, counted and timed at the far side |
//! | [`times`] | the far side's table of times |
//! | [`rfc`] | searches over trials: RFC 2544, 9004, 9693 |
//! | [`client`] | an AF_XDP client: the sender of [`paced`] and of [`probe`] |
//! | [`paced`] | load at a given rate: loss, latency, gaps |
//! | [`probe`] | round trips |
//! | [`count`] | the far side's counters alone |
//! | [`idle`] | a core when nothing comes |
//! | [`pauses`] | how long a core stops when nothing of ours runs on it |
//! | [`micro`] | the user side in pieces |
//! | [`forwarders`] | reference forwarders |

mod client;
mod count;
mod cpu;
mod figures;
mod forwarders;
mod frame;
mod idle;
mod micro;
mod paced;
mod pauses;
mod probe;
mod programs;
mod rfc;
mod saturate;
mod socket_load;
mod testbed;
mod times;
mod trials;

use clap::Parser;
use std::process::ExitCode;

/// Why a command ended: what was tried, and what was seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// In words.
    #[error("{0}")]
    Text(String),
    /// A system call.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// The engine's socket.
    #[error(transparent)]
    Port(#[from] oxide::port::PortError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] oxide::engine::EngineError),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For an I/O error.
    pub(crate) fn io<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |e| Error::Io(what.into(), e.into())
    }
}

#[derive(Parser)]
#[command(about = "Measuring tools of `cargo xtask bench`", version)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Saturates a forwarder with live frames and counts what comes through.
    Saturate(saturate::Options),
    /// Given rates by live frames: what is lost, and how long each packet takes.
    Trial(trials::Options),
    /// Highest rate that loses no more than a goal (RFC 2544).
    Throughput(rfc::ThroughputOptions),
    /// Longest burst that is forwarded whole (RFC 9004).
    Burst(rfc::BurstOptions),
    /// How fast and how many sessions are set up (RFC 9693).
    Sessions(rfc::SessionOptions),
    /// A given rate by an AF_XDP socket: loss, latency, order, and the longest gap.
    Paced(paced::Options),
    /// Round trips to an echo.
    Probe(probe::Options),
    /// What comes in a while, whoever sends it.
    Count(count::Options),
    /// What the forwarder's core does when nothing comes.
    Idle(idle::Options),
    /// For how long the forwarder's core is stopped at times, with a bare spin on it and on the generator's.
    Pauses(pauses::Options),
    /// The user side in pieces, timed beside crates that do the same.
    Micro(micro::Options),
    /// One of those pieces, a given number of times.
    Work(micro::WorkOptions),
    /// A reference forwarder, until it is killed.
    Forward(forwarders::Options),
}

fn main() -> ExitCode {
    let answer = match Arguments::parse().command {
        Subcommand::Saturate(options) => saturate::run(&options),
        Subcommand::Trial(options) => trials::run(&options),
        Subcommand::Throughput(options) => rfc::throughput(&options),
        Subcommand::Burst(options) => rfc::burst(&options),
        Subcommand::Sessions(options) => rfc::sessions(&options),
        Subcommand::Paced(options) => paced::run(&options),
        Subcommand::Probe(options) => probe::run(&options),
        Subcommand::Count(options) => count::run(&options),
        Subcommand::Idle(options) => idle::run(&options),
        Subcommand::Pauses(options) => pauses::run(&options),
        Subcommand::Micro(options) => micro::run(&options),
        Subcommand::Work(options) => micro::work(&options),
        Subcommand::Forward(options) => forwarders::run(&options),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oxide-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a command found, as one line of JSON.
pub(crate) fn print(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report).map_err(|e| Error::Text(e.to_string()))?);
    Ok(())
}
