//! `oxide sim`: the relay against simulated NICs.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use oxide::sim::{Application, SimOptions, SimReport, named, run_with};

#[derive(Args)]
pub(crate) struct SimCommand {
    /// Queues, each with a port towards clients and one towards servers: 1 to 64.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
    /// Packets that clients send.
    #[arg(long, default_value_t = 100_000)]
    packets: u64,
    /// `none`, `all`, or names separated by commas.
    #[arg(long, default_value = "none")]
    faults: String,
    /// One seed, one run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What handles the packets.
    #[arg(long, default_value = "checked-relay")]
    handler: Kind,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// From one port to the other, addresses untouched: the engine by itself.
    Forward,
    /// The UDP relay.
    Relay,
    /// The UDP relay, each decision held against a slow reference relay.
    CheckedRelay,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Forward => "forward",
            Kind::Relay => "relay",
            Kind::CheckedRelay => "checked-relay",
        }
    }
}

pub(crate) fn sim(command: &SimCommand) -> Result<ExitCode, String> {
    let (faults, chaos) = named(&command.faults).map_err(|e| e.to_string())?;
    let options = SimOptions {
        queues: command.queues,
        packets: command.packets,
        faults,
        chaos,
        application: match command.handler {
            Kind::Forward => Application::Forward,
            Kind::Relay => Application::Relay,
            Kind::CheckedRelay => Application::CheckedRelay,
        },
        seed: command.seed,
    };
    let every = (command.packets / 10).max(1);
    let mut next = every;
    let report = run_with(&options, |sent| {
        if sent >= next && !command.json {
            eprintln!("  {sent} of {} packets sent", command.packets);
            next = sent - sent % every + every;
        }
    });
    if command.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        print(&report);
    }
    if let Some(failure) = &report.failure {
        eprintln!("{:?}, step {}: {}", failure.checker, failure.step, failure.text);
        eprintln!(
            "again: oxide sim --queues {} --packets {} --faults {} --handler {} --seed {}",
            command.queues,
            command.packets,
            command.faults,
            command.handler.name(),
            command.seed
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &SimReport) {
    println!(
        "seed {}, {} queues, {:.1} s of virtual time",
        report.seed,
        report.queues,
        report.virtual_time.as_secs_f64()
    );
    println!(
        "  clients sent {}, servers got {}, answered {}, clients got {}",
        report.sent, report.there, report.answers, report.back
    );
    println!("  lost before the engine saw them {}, after it sent them {}", report.lost_before, report.lost_after);
    for (reason, packets) in report.drops.nonzero() {
        println!("  dropped, {}: {packets}", reason.name());
    }
    println!(
        "  handlers made anew {}, actors {}; descriptors refused {}",
        report.soft_restarts, report.hard_restarts, report.bad_descriptors
    );
    let looks: u64 = report.checks.iter().map(|(_, looks)| looks).sum();
    println!(
        "  {} checkers looked {looks} times, {} times at rest; {}",
        report.checks.len(),
        report.quiescent_points,
        if report.passed() { "all held" } else { "one did not hold" }
    );
    println!(
        "  {:.2} million packets per second of real time; fingerprint {:016x}",
        report.packets_per_second / 1e6,
        report.fingerprint
    );
}
