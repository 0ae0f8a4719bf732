//! Implements `cargo xtask`: set-up, demo, bench and test tiers, on a machine with only Debian and a Rust toolchain.
//!
//! | module | owns |
//! |---|---|
//! | [`setup`] | the table of Debian packages and their installation |
//! | [`process`] | child processes, which end with xtask, and the stop flag |
//! | [`host`] | what a minimal root file system lacks |
//! | [`namespace`] | network namespaces that end with xtask |
//! | [`demo`] | the testbed of three namespaces and the traffic through `oxide relay` |
//! | [`drill`] | the fault table against the real relay |
//! | [`bench`] | the forwarding bench: testbed, forwarders, records |
//! | [`guest`] | tests in a virtual machine: other kernels, zero-copy NICs |
//! | [`docs`] | the link check and the book |
//! | [`slow_tiers`] | the tiers that need another toolchain or much time |
//! | [`tiers`] | the test tiers and their summary |

mod bench;
mod demo;
mod docs;
mod drill;
mod guest;
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
    otherwise the relay runs against the simulated NIC.
        --queues N      queues of each veth end, 1 to 16 (default 2)
        --seconds N     length of each timed step, 1 to 60 (default 5)
        --ipv4-only, --ipv6-only
                        one address family instead of both
        --keep-logs     keep the output of every program, and print its folder
        --simulated     use the simulated NIC, even as root
cargo xtask test   [--tier NAME]... [--no-install]
    Runs every test tier that this machine can run, and lists the others with the reason.
        --tier NAME     only this tier: lint, unit, doc, integration, namespaces, instructions, qemu, guest,
                        miri, fuzz, long (10^8 operations on the ledger, a hundred seeds)
cargo xtask bench  [--quick] [--json FILE] [--peers all|installed] [--keep-logs] [--no-install] [NAME]...
    Compares forwarders on a veth testbed: the engine's and the installed peers. Needs root.
        --quick         three short pairs of the most important rows instead of five long pairs of all: under four minutes
        --json FILE     output file of the records (default target/bench/bench.json)
        --peers all     first install the peers that Debian has
        --keep-logs     keep the output of every program, and print its folder
        --docs FILE     write FILE's figures into docs/performance.md, without a measurement (repeatable)
        NAME            only rows whose name contains NAME: a forwarder, or pauses, scaling, round, idle, loss, bursts,
                        sessions, restart, hours (10^9 packets on the in-memory port: a quarter of an hour), micro
    cargo xtask bench lab
        creates the testbed until Ctrl-C, for your own forwarder (docs/performance.md)
    cargo xtask bench instructions [--accept]
        compares the instruction counts of the user side with the stored ones; --accept stores the new ones
cargo xtask bench processor [--quick] [--json FILE] [MEASURE]...
    Compares headers, hashes, look-ups, sums and the whole relay step with other crates. Needs no testbed and no root.
cargo xtask drill  [--json] [--no-install] [--binary FILE] [NAME]...
    Runs the fault table against the real relay: two interfaces with four queues each, under traffic counted at the
    far end. Prints a row for each fault: gap, packets lost inside and outside its scope, ledger, verdict. Needs root.
        --binary FILE   use this relay instead of building one
        NAME            run only this fault
cargo xtask guest  [--verbose] [--binary FILE] [--no-install] [WORD]...
    Runs `oxide` on other kernels and on NICs with zero-copy, in a virtual machine that QEMU emulates: function, not speed.
    Downloads QEMU and the kernels into target/guest and installs nothing. Without a word, runs the default rows.
        --verbose       print the guest's console too
        --binary FILE   use this binary instead of building one
        WORD            a test, a kernel (6.1, 6.12, 7.3), a NIC (igb, virtio, virtio-spare), or all
cargo xtask docs   [--no-install]
    Checks every link of the Markdown files and builds the book into target/book with mdBook.
cargo xtask setup  [--no-install]
    Installs the Debian packages that build, tests and demo need.

    --no-install        install nothing: list the missing packages with the command, and end with status 1
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
        return failed("no command; expected demo, test, bench, drill, guest, docs or setup");
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
        "guest" => guest::run(&Cancel::install()?, &guest::Options::parse(rest)?),
        // The first process of a guest starts this; it is of no use elsewhere.
        "guest-inside" => guest::inside::run(rest),
        "docs" => docs::run(&Cancel::install()?, policy_of("docs", rest)?),
        "setup" => {
            let policy = policy_of("setup", rest)?;
            setup::ensure(&Cancel::install()?, &[For::Build, For::Lab, For::Test, For::Demo], policy)?;
            setup::report_complete();
            Ok(())
        }
        other => failed(format!(
            "unknown command `{other}`; expected demo, test, bench, drill, guest, docs or setup; to fix: see --help"
        )),
    }
}

/// Parses the only option of a command: `--no-install`.
fn policy_of(command: &str, rest: &[String]) -> Result<Policy> {
    match rest {
        [] => Ok(Policy::Install),
        [only] if only == "--no-install" => Ok(Policy::Refuse),
        _ => failed(format!("{command}: unknown option {}; expected --no-install or no option", rest.join(" "))),
    }
}
