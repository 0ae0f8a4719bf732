//! `oxide-lab`: the measuring tools of `cargo xtask bench`. Each command makes one measurement, or runs one forwarder,
//! in the network namespace in which it is started, and prints one JSON object at the end.
//!
//! | module | contents |
//! |---|---|
//! | [`frame`] | the lab's addresses and frames |
//! | [`programs`] | the BPF generator and the far-side counter |
//! | [`cpu`] | pinning, and the CPU time of a core by kind |
//! | [`testbed`] | arguments of [`saturate`] and [`trials`]: destination, frames, CPUs |
//! | [`saturate`] | saturating load, and the packets that arrive |
//! | [`socket_load`] | the same by AF_XDP, for several queues |
//! | [`trials`] | a number of frames at a rate, counted and timed at the far side |
//! | [`times`] | the far side's table of times |
//! | [`rfc`] | searches over trials: RFC 2544, 9004, 9693 |
//! | [`client`] | an AF_XDP client: the sender of [`paced`] and of [`probe`] |
//! | [`paced`] | load at a given rate: loss, latency, gaps |
//! | [`probe`] | round trips |
//! | [`count`] | the far side's counters alone |
//! | [`idle`] | a core without traffic |
//! | [`pauses`] | how long the machine stops a core |
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

/// Error of a command: the attempted step and the observed result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A message.
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
    /// Returns a function that adds the attempted step to an I/O error.
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
    /// Session set-up rate and capacity (RFC 9693).
    Sessions(rfc::SessionOptions),
    /// A given rate by an AF_XDP socket: loss, latency, order, and the longest gap.
    Paced(paced::Options),
    /// Round trips to an echo.
    Probe(probe::Options),
    /// Counts what arrives in a given time from any sender.
    Count(count::Options),
    /// Measures the forwarder's core without traffic.
    Idle(idle::Options),
    /// Measures pauses of the forwarder's core with a bare spin on it and on the generator's core.
    Pauses(pauses::Options),
    /// Measures the user side in pieces, compared with crates that do the same.
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

/// Prints a command's result as one line of JSON.
pub(crate) fn print(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report).map_err(|e| Error::Text(e.to_string()))?);
    Ok(())
}
