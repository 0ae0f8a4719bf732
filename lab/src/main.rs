//! `oxide-lab`: the measuring tools of `cargo xtask bench`. Each command makes one measurement, or runs one forwarder,
//! in the network namespace in which it is started, and prints one JSON object at the end.
//!
//! | module | contents |
//! |---|---|
//! | [`frame`] | the testbed's addresses and frames |
//! | [`programs`] | the BPF generator and the far-side counter |
//! | [`cpu`] | pinning, and the CPU time of a core by kind |
//! | [`testbed`] | arguments of [`saturate`] and [`trials`]: destination, frames, CPUs |
//! | [`saturate`] | saturating load, and the packets that arrive |
//! | [`socket_load`] | saturating load by AF_XDP, for several queues |
//! | [`trials`] | a number of frames at a rate, counted and timed at the far side |
//! | [`times`] | the far side's table of times |
//! | [`rfc`] | searches over trials: RFC 2544, 9004, 9693 |
//! | [`client`] | an AF_XDP client: the sender of [`paced`] and of [`probe`] |
//! | [`paced`] | load at a fixed rate: loss, latency, gaps |
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
    /// Error of the engine's socket.
    #[error(transparent)]
    Port(#[from] oxide::port::PortError),
    /// Error of the engine.
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
    /// Saturate a forwarder with live frames and count the packets that arrive.
    Saturate(saturate::Options),
    /// Send live frames at fixed rates; measure loss, and the time of each packet.
    Trial(trials::Options),
    /// Find the highest rate whose loss does not exceed a goal (RFC 2544).
    Throughput(rfc::ThroughputOptions),
    /// Find the longest burst that is forwarded completely (RFC 9004).
    Burst(rfc::BurstOptions),
    /// Measure the rate of new sessions, and the capacity (RFC 9693).
    Sessions(rfc::SessionOptions),
    /// Send at a fixed rate by an AF_XDP socket; measure loss, latency, order, and the longest gap.
    Paced(paced::Options),
    /// Measure round trips to an echo.
    Probe(probe::Options),
    /// Count the packets that arrive in a given time from any sender.
    Count(count::Options),
    /// Measure the forwarder's core without traffic.
    Idle(idle::Options),
    /// Measure pauses of the forwarder's core while it and the generator's core only spin.
    Pauses(pauses::Options),
    /// Measure pieces of the user side, compared with crates for the same work.
    Micro(micro::Options),
    /// Run one piece of the user side a given number of times.
    Work(micro::WorkOptions),
    /// Run a reference forwarder until it is killed.
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
