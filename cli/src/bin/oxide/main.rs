//! The `oxide` command.
#![forbid(unsafe_code)]
// They panic when nobody reads any more: `out` has others.
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

/// For the last lines of the log to be written: an end does not wait longer for their reader.
const LOG_WITHIN: Duration = Duration::from_secs(1);

/// AF_XDP relay engine.
#[derive(Parser)]
#[command(name = "oxide", version, about, max_term_width = 100)]
struct Arguments {
    /// What is logged: error, warn, info, debug, trace, or a filter such as `oxide=debug`. Default: info; error for `sim`,
    /// whose faults are on purpose.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(clap::Subcommand)]
enum Subcommand {
    /// Relay UDP between clients and upstreams. SIGHUP reloads, SIGTERM drains and ends, a second one ends at once.
    /// Exit code 0 after an orderly end, 1 if it could not start or the books do not balance, 3 if every queue failed,
    /// 4 if a handler did not come back, 130 after a second signal.
    Relay {
        /// The configuration (see `oxide config example`).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Write the status as JSON to this file, once a second and at the end.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Read fault commands from this named pipe, for `cargo xtask drill`. Never use it in production.
        #[arg(long, value_name = "PIPE", hide = true)]
        inject_faults_from: Option<PathBuf>,
    },
    /// Ask and tell a running relay. Exit code 0 if it did, 1 if it refused, 2 if the request makes no sense, 3 if there
    /// is no relay, 4 if it is busy or does not answer.
    Ctl(ctl::CtlCommand),
    /// Watch a running relay: each queue's state, rates, drops, rings, time and restarts. Exit codes as for ctl.
    Top(top::TopCommand),
    /// Which queue will run on which core with which memory, and why: a dry run, for this machine or any
    /// described one. Exit code 0 with a plan, 2 with a refusal, 1 for unusable input.
    Plan(plan::PlanCommand),
    /// What stands in the way of the relay here, and the command that mends it. Changes nothing. Exit
    /// code 0 if all is well, 1 with warnings, 2 with failures.
    Doctor(plan::DoctorCommand),
    /// The relay against simulated NICs, with every packet and frame checked: no NIC, no root. Exit code
    /// 0 only if every checker held.
    Sim(sim::SimCommand),
    /// Check a configuration, or print one to begin with.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Do something to the XDP program of an interface, for `cargo xtask drill`.
    #[command(hide = true)]
    InjectProgramFault {
        /// What.
        #[arg(value_enum)]
        what: faults::ProgramFault,
        /// To which interface's.
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
