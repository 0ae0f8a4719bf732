//! `cargo xtask`: set-up, the demo and the test tiers, on a machine with nothing but Debian and a Rust toolchain.
//!
//! | module | owns |
//! |---|---|
//! | [`setup`] | the table of Debian packages and their installation |
//! | [`process`] | child processes, which die with us, and the stop flag |
//! | [`host`] | what a bare root lacks, made and undone |
//! | [`namespace`] | network namespaces that go with us |
//! | [`demo`] | the lab of three namespaces and the traffic through `oxide relay` |
//! | [`drill`] | the fault table against the real relay |
//! | [`bench`] | the forwarding bench: lab, forwarders, records |
//! | [`docs`] | the link check and the book |
//! | [`slow_tiers`] | the tiers that need another toolchain or much time |
//! | [`tiers`] | the test tiers and their tally |

mod bench;
mod demo;
mod docs;
mod drill;
mod host;
#[cfg(test)]
mod layers;
mod namespace;
mod process;
mod setup;
mod slow_tiers;
mod test_summary;
mod tiers;

use process::{Cancel, Error, Result, failed};
use setup::{For, Policy};
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask demo   [--queues N] [--seconds N] [--ipv4-only | --ipv6-only] [--keep-logs] [--no-install]
    Real DNS, WireGuard and iperf3 through `oxide relay`, in three network namespaces. Needs root or sudo;
    without, the relay runs against the simulated NIC, and says so.
        --queues N      queues of each veth end, 1 to 16 (default 2)
        --seconds N     length of each timed step, 1 to 60 (default 5)
        --ipv4-only, --ipv6-only
                        one address family instead of both
        --keep-logs     keep what every program said, and say where
        --simulated     the simulated NIC, even as root
cargo xtask test   [--tier NAME]... [--no-install]
    Every test tier this machine can run; the others are named with the reason.
        --tier NAME     only this tier: lint, unit, doc, integration, namespaces, instructions, qemu,
                        miri, fuzz, long (10^8 operations on the ledger, a hundred seeds)
cargo xtask bench  [--quick] [--json FILE] [--peers all|installed] [--keep-logs] [--no-install] [NAME]...
    Forwarders side by side on a veth lab: ours, and the peers that are installed. Needs root.
        --quick         three short pairs of the most telling ones instead of five long ones of all: under four minutes
        --json FILE     where the records go (default target/bench/bench.json)
        --peers all     install the peers that Debian has first
        --keep-logs     keep what every program said, and say where
        --docs FILE     measure nothing: put FILE's figures into docs/performance.md (may be given again)
        NAME            only what has NAME in its name: a forwarder, or pauses, growth, round, idle, loss, bursts,
                        sessions, restart, hours (10^9 packets on the in-memory port: a quarter of an hour), micro
    cargo xtask bench lab
        the lab alone, until Ctrl-C: for forwarders of your own (docs/performance.md)
    cargo xtask bench instructions [--accept]
        instructions of the user side's pieces beside the stored ones; --accept stores those of now
cargo xtask bench processor [--quick] [--json FILE] [MEASURE]...
    Headers, hashes, look-ups, sums and the whole relay step, beside other crates; no lab, no root.
cargo xtask drill  [--json] [--no-install] [--binary FILE] [NAME]...
    The fault table against the real relay: two interfaces with four queues each, under traffic that is counted at the
    far end. A row for each fault: gap, packets lost where it reaches and elsewhere, ledger, verdict. Needs root.
        --binary FILE   this relay instead of the one that is built first
        NAME            only this fault
cargo xtask docs   [--no-install]
    Checks every link of the Markdown files and builds the book into target/book with mdBook.
cargo xtask setup  [--no-install]
    Installs the Debian packages that build, tests and demo need.

    --no-install        install nothing: list what is missing, with the command, and end with status 1
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Cancelled) => {
            eprintln!("xtask: {}", Error::Cancelled);
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{HELP}");
        return failed("which command? demo, test, bench, drill, docs or setup");
    };
    if rest.iter().any(|a| a == "--help" || a == "-h") || matches!(command.as_str(), "--help" | "-h" | "help") {
        print!("{HELP}");
        return Ok(());
    }
    match command.as_str() {
        "demo" => demo::run(&Cancel::install()?, &demo::Options::parse(rest)?),
        "test" => tiers::run(&Cancel::install()?, &tiers::Options::parse(rest)?),
        "bench" => bench::run(&Cancel::install()?, &bench::Options::parse(rest)?),
        "drill" => drill::run(&Cancel::install()?, &drill::Options::parse(rest)?),
        "docs" => docs::run(&Cancel::install()?, policy_of("docs", rest)?),
        "setup" => {
            let policy = policy_of("setup", rest)?;
            setup::ensure(&Cancel::install()?, &[For::Build, For::Lab, For::Test, For::Demo], policy)?;
            setup::report_complete();
            Ok(())
        }
        other => failed(format!("unknown command `{other}`: demo, test, bench, drill, docs or setup (see --help)")),
    }
}

/// Reads the only option of a command: `--no-install`.
fn policy_of(command: &str, rest: &[String]) -> Result<Policy> {
    match rest {
        [] => Ok(Policy::Install),
        [only] if only == "--no-install" => Ok(Policy::Refuse),
        _ => failed(format!("{command}: unknown option {}; expected nothing or --no-install", rest.join(" "))),
    }
}
