//! The tiers that need another toolchain, or much time: Miri, fuzzing, the long run.

use crate::process::{Cancel, Result, has_program, is_root, run_lines};
use crate::setup::Policy;
use crate::test_summary::{Tally, TierOutcome};
use crate::tiers::{cargo, cargo_test_with, quietly_succeeds, root};
use std::path::PathBuf;
use std::process::Command;

/// The version that is installed for the fuzz tier, where there is none.
const CARGO_FUZZ: &str = "0.13.2";
/// Seconds that cargo-fuzz has for each target.
const FUZZ_SECONDS: u32 = 60;
/// How many times the normal run's mutations the fuzz tier makes where there is no cargo-fuzz.
const FUZZ_TIMES: &str = "20";
/// What the long tier does.
const LEDGER_OPERATIONS: &str = "100000000";
const SIM_SEEDS: &str = "1000..1100";

/// `cargo` of the nightly toolchain.
fn nightly(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(arguments);
    command.current_dir(root());
    // What was installed here comes last.
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&paths).chain([tools().join("bin")]);
    if let Ok(paths) = std::env::join_paths(paths) {
        command.env("PATH", paths);
    }
    // Ours are of the toolchain that runs this program.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn nightly_has(tool: &str) -> bool {
    has_program("rustup") && quietly_succeeds(&mut nightly(&[tool, "--version"]))
}

/// The rooms with unsafe code that needs no kernel, under Miri.
pub(crate) fn miri(cancel: &Cancel) -> Result<TierOutcome> {
    if !nightly_has("miri") {
        return Ok(TierOutcome::NotRun(
            "SKIPPED-OK miri: there is no nightly toolchain with it; rustup toolchain install nightly --component \
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
            // A filter is a part of the name, and `steering::` has `ring::` in it.
            command.args(["umem::tests::", "ring::", "--skip", "steering"]);
        }
        all.add(cargo_test_with(cancel, command)?);
    }
    Ok(TierOutcome::Ran(all))
}

/// Where tools are installed, so that nothing outside the workspace changes.
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

/// libFuzzer's targets where cargo-fuzz and a nightly toolchain are, or can be had; else their stable form, longer
/// than in the other tiers.
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
    let why =
        "cargo-fuzz with a nightly toolchain is not here (--tier fuzz installs it where there is a nightly toolchain)";
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

/// The ledger over 10^8 operations, and a hundred seeds of the simulation with every fault. Both print how much
/// and which seed.
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
