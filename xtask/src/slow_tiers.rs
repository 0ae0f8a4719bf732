//! Runs the tiers that need another toolchain or much time: Miri, fuzzing, the long run.

use crate::process::{Cancel, Result, has_program, is_root, run_lines};
use crate::setup::Policy;
use crate::test_summary::{Tally, TierOutcome};
use crate::tiers::{cargo, cargo_test_with, quietly_succeeds, root};
use std::path::PathBuf;
use std::process::Command;

/// Version of cargo-fuzz that the fuzz tier installs if there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Duration of cargo-fuzz for each target, in seconds.
const FUZZ_SECONDS: u32 = 60;
/// Factor by which the fuzz tier multiplies the mutations of a normal run, without cargo-fuzz.
const FUZZ_TIMES: &str = "20";
/// Number of operations of the long tier.
const LEDGER_OPERATIONS: &str = "100000000";
const SIM_SEEDS: &str = "1000..1100";

/// Returns `cargo` of the nightly toolchain.
fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(arguments);
    command.current_dir(root());
    // The folder of tools installed by xtask comes last.
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&paths).chain([tools().join("bin")]);
    if let Ok(paths) = std::env::join_paths(paths) {
        command.env("PATH", paths);
    }
    // These variables select the toolchain that runs xtask.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn nightly_has(tool: &str) -> bool {
    has_program("rustup") && quietly_succeeds(&mut nightly(&[tool, "--version"]))
}

/// Runs Miri on the modules with unsafe code that needs no kernel.
pub(crate) fn miri(cancel: &Cancel) -> Result<TierOutcome> {
    if !nightly_has("miri") {
        return Ok(TierOutcome::NotRun(
            "SKIPPED-OK miri: no nightly toolchain with Miri; to fix: rustup toolchain install nightly --component \
             miri,rust-src"
                .to_owned(),
        ));
    }
    let mut all = Tally::default();
    for arguments in [&["--test", "ring", "--test", "ledger", "--test", "aliasing"][..], &["--lib"]] {
        let mut command = nightly(&["miri", "test", "--package", "oxide-engine", "--no-fail-fast"]);
        command.args(arguments).env("MIRIFLAGS", "-Zmiri-disable-isolation");
        command.args(["--", "--show-output"]);
        if arguments == ["--lib"] {
            // A filter matches any part of a name, and `steering::` contains `ring::`.
            command.args(["umem::tests::", "ring::", "--skip", "steering"]);
        }
        all.add(cargo_test_with(cancel, command)?);
    }
    Ok(TierOutcome::Ran(all))
}

/// Returns the folder of installed tools, inside the workspace.
fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Installs a tool from the registry into [`tools`].
pub(crate) fn install_tool(cancel: &Cancel, name: &str, version: &str) -> Result<()> {
    println!("\n== cargo install {name} {version}, into target/tools");
    let build = tools().join("build");
    let mut command = cargo();
    command.args(["install", name, "--version", version, "--locked", "--root"]).arg(tools());
    command.arg("--target-dir").arg(&build);
    run_lines(cancel, &mut command, |line| println!("{line}"))?;
    let _ = std::fs::remove_dir_all(build);
    Ok(())
}

/// Runs libFuzzer's targets if cargo-fuzz and a nightly toolchain exist or can be installed. Otherwise runs their
/// stable form, longer than in the other tiers.
pub(crate) fn fuzz(cancel: &Cancel, asked: bool, policy: Policy) -> Result<TierOutcome> {
    let mut tally = Tally::default();
    if asked && policy == Policy::Install && quietly_succeeds(&mut nightly(&["--version"])) && !nightly_has("fuzz") {
        install_tool(cancel, "cargo-fuzz", CARGO_FUZZ)?;
    }
    if nightly_has("fuzz") {
        for target in ["parse", "config", "relay", "steering"] {
            if target == "steering" && !is_root() {
                tally.excuse("SKIPPED-OK fuzz steering: needs root".to_owned());
                continue;
            }
            let time = format!("-max_total_time={FUZZ_SECONDS}");
            let mut command = nightly(&["fuzz", "run", target, "--", &time]);
            println!("\n== cargo fuzz run {target} ({FUZZ_SECONDS} s)");
            let status = run_lines(cancel, &mut command, |line| println!("{line}"))?;
            tally.count(status.success(), &format!("cargo fuzz run {target}"));
        }
        return Ok(TierOutcome::Ran(tally));
    }
    let why = "cargo-fuzz: not installed for a nightly toolchain (--tier fuzz installs it if that toolchain exists)";
    if !asked {
        return Ok(TierOutcome::NotRun(format!("{why}; the stable form of each target ran among the tests")));
    }
    println!("{why}: the stable form of each target runs, with {FUZZ_TIMES} times the mutations");
    let mut command = cargo();
    command.args(["test", "--workspace", "--test", "fuzz", "--test", "steering", "--no-fail-fast", "--"]);
    command.args(["--show-output"]).env("FUZZ_RUNS", FUZZ_TIMES);
    if is_root() {
        command.args(["packets_are", "no_history", "configurations", "mutated_packets"]);
    } else {
        command.args(["packets_are", "no_history", "configurations"]);
        tally.excuse("SKIPPED-OK fuzz steering: needs root".to_owned());
    }
    tally.add(cargo_test_with(cancel, command)?);
    Ok(TierOutcome::Ran(tally))
}

/// Runs the ledger over 10^8 operations, and a hundred seeds of the simulation with every fault. Both print their
/// progress and the seed.
pub(crate) fn long(cancel: &Cancel) -> Result<TierOutcome> {
    let mut ledger = cargo();
    ledger.args(["test", "--workspace", "--test", "ledger", "--", "--show-output"]);
    ledger.env("LEDGER_OPERATIONS", LEDGER_OPERATIONS);
    let mut tally = cargo_test_with(cancel, ledger)?;
    let mut seeds = cargo();
    seeds.args(["test", "--workspace", "--test", "sim", "--", "--show-output", "--ignored", "seeds"]);
    seeds.env("SIM_SEEDS", SIM_SEEDS);
    tally.add(cargo_test_with(cancel, seeds)?);
    Ok(TierOutcome::Ran(tally))
}
