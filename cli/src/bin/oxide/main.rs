//! Implements the `oxide` command.
#![forbid(unsafe_code)]
// These macros panic without a reader; module `out` has replacements.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod out;

mod config;
mod ctl;
mod drops;
mod faults;
mod log;
mod plan;
mod preflight;
mod relay;
mod sim;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Maximum wait at the exit until the last log lines are written.
const LOG_WITHIN: Duration = Duration::from_secs(1);

/// AF_XDP relay engine.
#[derive(Parser)]
#[command(name = "oxide", version, about, max_term_width = 100)]
struct Arguments {
    /// Log filter: error, warn, info, debug, trace, or a filter such as `oxide=debug`. The default is info, and error
    /// for `sim`, which injects faults on purpose.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Relay UDP between clients and upstreams. SIGHUP reloads. SIGTERM drains and ends; a second one ends at once.
    /// Exit code 0 after an orderly end, 1 if the start or the frame accounting failed, 3 if every queue failed, 4 if
    /// a handler does not return, 130 after a second signal.
    Relay {
        /// Configuration file (see `oxide config example`).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Write the status as JSON to this file, once a second and at the end.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Read fault commands from this named pipe, for `cargo xtask drill`. Never use it in production.
        #[arg(long, value_name = "PIPE", hide = true)]
        inject_faults_from: Option<PathBuf>,
    },
    /// Query or command a running relay. Exit code 0 if the relay did it, 1 if it refused, 2 if the request is
    /// invalid, 3 if no relay runs, 4 if it is busy or does not answer.
    Ctl(ctl::CtlCommand),
    /// Watch a running relay: state, rates, drops, rings, time and restarts of each queue. Exit codes as for ctl.
    Top(top::TopCommand),
    /// Show which queue runs on which core with which memory, and why. This is a dry run for this machine or a
    /// described one. Exit code 0 with a plan, 2 with a refusal, 1 for invalid input.
    Plan(plan::PlanCommand),
    /// Check this host for the relay and print each problem with its remedy. Changes nothing. Exit code 0 without
    /// problems, 1 with warnings, 2 with failures.
    Doctor(plan::DoctorCommand),
    /// Run the relay against simulated NICs and check every packet and frame, without NIC or root. Exit code 0 only
    /// if every check passed.
    Sim(sim::SimCommand),
    /// Check a configuration, or print an example.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Change the XDP program of an interface, for `cargo xtask drill`.
    #[command(hide = true)]
    InjectProgramFault {
        /// Kind of the change.
        #[arg(value_enum)]
        what: faults::ProgramFault,
        /// Name of the interface.
        interface: String,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let default = if matches!(arguments.command, Subcommand::Sim(_)) { "error" } else { "info" };
    let filter = arguments.log.as_deref().unwrap_or(default);
    let log = match log::start(filter) {
        Ok(log) => log,
        Err(error) => {
            errln!("oxide: --log {filter}: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = match arguments.command {
        Subcommand::Relay { config, report, inject_faults_from } => {
            relay::relay(&config, report.as_deref(), inject_faults_from.as_deref(), log)
        }
        Subcommand::Ctl(command) => return ctl::ctl(&command),
        Subcommand::Top(command) => top::top(&command),
        Subcommand::Plan(command) => plan::plan(&command),
        Subcommand::Doctor(command) => plan::doctor(&command),
        Subcommand::Sim(command) => sim::sim(&command),
        Subcommand::Config(command) => config::config(&command),
        Subcommand::InjectProgramFault { what, interface } => faults::inject_program_fault(what, &interface),
    };
    let code = outcome.unwrap_or_else(|text| {
        log::line(&format!("oxide: {text}"));
        ExitCode::FAILURE
    });
    log::flush(LOG_WITHIN);
    code
}
