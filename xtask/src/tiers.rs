//! Implements `cargo xtask test`: chooses the tiers that this machine can run, runs them and prints a summary.
//!
//! A skipped test prints `SKIPPED <test>: <reason>` and counts as skipped. As root no test may be skipped, because a
//! skipped privileged test must not look like a pass. The exception is a line that begins with `SKIPPED-OK`: then the
//! machine is the reason.

use crate::bench::micro::Compared;
use crate::guest;
use crate::host::Host;
use crate::process::{Cancel, Error, Result, failed, has_program, io_error, is_root, run_lines};
use crate::setup::{self, For, Policy};
use crate::slow_tiers;
use crate::test_summary::{Tally, TierOutcome, summary};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Lint,
    Unit,
    Doc,
    Integration,
    Namespaces,
    Instructions,
    Qemu,
    Guest,
    Miri,
    Fuzz,
    Long,
}

impl Tier {
    const ALL: &[Tier] = &[
        Tier::Lint,
        Tier::Unit,
        Tier::Doc,
        Tier::Integration,
        Tier::Namespaces,
        Tier::Instructions,
        Tier::Qemu,
        Tier::Guest,
        Tier::Miri,
        Tier::Fuzz,
        Tier::Long,
    ];

    const fn name(self) -> &'static str {
        match self {
            Tier::Lint => "lint",
            Tier::Unit => "unit",
            Tier::Doc => "doc",
            Tier::Integration => "integration",
            Tier::Namespaces => "namespaces",
            Tier::Instructions => "instructions",
            Tier::Qemu => "qemu",
            Tier::Guest => "guest",
            Tier::Miri => "miri",
            Tier::Fuzz => "fuzz",
            Tier::Long => "long",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Tier::Lint => "rustfmt, clippy, cargo-deny",
            Tier::Unit => "unit and property tests",
            Tier::Doc => "examples in the documentation",
            Tier::Integration => "tests/ that need no root",
            Tier::Namespaces => "tests/ on veth in network namespaces, as root",
            Tier::Instructions => "instructions of the packet path, compared with the stored counts",
            Tier::Qemu => "vector kernels on older CPUs, under qemu",
            Tier::Guest => guest::ABOUT,
            Tier::Miri => "modules with unsafe code, under Miri",
            Tier::Fuzz => "fuzz targets",
            Tier::Long => "10^8 operations on the ledger, many seeds",
        }
    }
}

/// Holds the command line of `test`.
#[derive(Debug)]
pub(crate) struct Options {
    only: Vec<Tier>,
    policy: Policy,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { only: vec![], policy: Policy::Install };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--no-install" => options.policy = Policy::Refuse,
                "--tier" => {
                    let name = rest.next().map(String::as_str).unwrap_or_default();
                    match Tier::ALL.iter().find(|t| t.name() == name) {
                        Some(tier) => options.only.push(*tier),
                        None => {
                            let names: Vec<&str> = Tier::ALL.iter().map(|t| t.name()).collect();
                            return failed(format!(
                                "--tier: unknown tier `{name}`; expected one of {}",
                                names.join(", ")
                            ));
                        }
                    }
                }
                other => return failed(format!("test: unknown option `{other}`; to fix: see cargo xtask --help")),
            }
        }
        Ok(options)
    }
}

/// Runs the tiers. Fails if a test failed, or was skipped as root.
pub(crate) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    setup::ensure(cancel, &[For::Build, For::Lab, For::Test], options.policy)?;
    if options.only.contains(&Tier::Qemu) {
        setup::ensure(cancel, &[For::OlderCpus], options.policy)?;
    }
    // Tests read CPUs, huge pages and interfaces from /sys.
    let _host = if is_root() { Some(Host::with_sys()?) } else { None };
    let targets = test_targets()?;
    let mut outcomes = vec![];
    for &tier in Tier::ALL {
        let outcome = if options.only.is_empty() || options.only.contains(&tier) {
            run_tier(cancel, tier, &targets, options)?
        } else {
            TierOutcome::NotRun("not requested".to_owned())
        };
        outcomes.push((tier.name(), tier.about(), outcome));
    }
    summary(&outcomes)
}

fn run_tier(cancel: &Cancel, tier: Tier, targets: &[Target], options: &Options) -> Result<TierOutcome> {
    let asked = options.only.contains(&tier);
    let tests_in = |root: bool| targets.iter().filter(move |t| t.needs_root == root);
    match tier {
        Tier::Lint if asked => lint(cancel),
        Tier::Lint => Ok(TierOutcome::NotRun("runs only with --tier lint; .ci/run has it".to_owned())),
        Tier::Unit => cargo_test(cancel, &["--workspace", "--lib", "--bins"], false),
        Tier::Doc => cargo_test(cancel, &["--workspace", "--doc"], false),
        Tier::Integration => cargo_test_targets(cancel, tests_in(false), false),
        Tier::Namespaces if is_root() => cargo_test_targets(cancel, tests_in(true), false),
        Tier::Namespaces if sudo_works() => cargo_test_targets(cancel, tests_in(true), true),
        Tier::Namespaces => Ok(TierOutcome::NotRun(
            "not root, and sudo needs a password; to fix: sudo true && cargo xtask test --tier namespaces".to_owned(),
        )),
        Tier::Instructions => instructions(cancel),
        Tier::Qemu => on_older_cpus(cancel),
        Tier::Guest if asked => guest::tier(cancel, options.policy),
        Tier::Guest => Ok(TierOutcome::NotRun("runs only with --tier guest (some minutes)".to_owned())),
        Tier::Miri if asked => slow_tiers::miri(cancel),
        Tier::Miri => Ok(TierOutcome::NotRun("runs only with --tier miri (about ten minutes)".to_owned())),
        Tier::Fuzz => slow_tiers::fuzz(cancel, asked, options.policy),
        Tier::Long if asked => slow_tiers::long(cancel),
        Tier::Long => Ok(TierOutcome::NotRun("runs only with --tier long (some minutes)".to_owned())),
    }
}

/// Checks that no piece of the user side needs over three per cent more instructions.
fn instructions(cancel: &Cancel) -> Result<TierOutcome> {
    match crate::bench::compare_instructions(cancel) {
        Ok(Compared::Held(lines)) => {
            lines.iter().for_each(|line| println!("{line}"));
            Ok(TierOutcome::Ran(Tally { passed: 1, ..Tally::default() }))
        }
        Ok(Compared::NotHere(why)) => Ok(TierOutcome::NotRun(why)),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(Error::Failed(text)) => Ok(TierOutcome::Ran(Tally { failed: 1, failures: vec![text], ..Tally::default() })),
    }
}

/// Describes one file or folder under `tests/`.
#[derive(Debug)]
struct Target {
    name: String,
    /// Whether its source uses network namespaces.
    needs_root: bool,
}

/// Returns every integration test of the workspace, from `cargo metadata`.
fn test_targets() -> Result<Vec<Target>> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(io_error("cargo metadata"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut targets = vec![];
    for package in list(&metadata, "packages") {
        for target in list(&package, "targets") {
            if list(&target, "kind").iter().any(|k| k == "test") {
                let needs_root = uses_namespaces(Path::new(&text(&target, "src_path")));
                targets.push(Target { name: text(&target, "name"), needs_root });
            }
        }
    }
    if output.status.success() { Ok(targets) } else { failed("cargo metadata failed") }
}

/// Returns whether a test's file creates a network namespace. For `tests/<name>/main.rs` all files of its folder
/// count.
fn uses_namespaces(source: &Path) -> bool {
    let mut files = vec![source.to_owned()];
    if source.ends_with("main.rs") {
        let folder = source.parent().and_then(|folder| fs::read_dir(folder).ok());
        files.extend(folder.into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    files
        .iter()
        .any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains("netns") || text.contains("NEWNET")))
}

fn cargo_test_targets<'a>(
    cancel: &Cancel,
    targets: impl Iterator<Item = &'a Target>,
    sudo: bool,
) -> Result<TierOutcome> {
    let names: Vec<&str> = targets.flat_map(|t| ["--test", &t.name]).collect();
    if names.is_empty() {
        return Ok(TierOutcome::NotRun("no such tests exist".to_owned()));
    }
    // Each run tests the whole workspace: another choice of packages has other features and compiles everything
    // again.
    let arguments = [&["--workspace"], &names[..]].concat();
    cargo_test(cancel, &arguments, sudo)
}

/// Runs `cargo test`. With `sudo`, cargo runs as the user and each test program as root.
fn cargo_test(cancel: &Cancel, arguments: &[&str], sudo: bool) -> Result<TierOutcome> {
    println!("\n== cargo test {}", arguments.join(" "));
    let mut command = cargo();
    command.arg("test").args(arguments).arg("--no-fail-fast");
    if sudo {
        command.args(["--config", "target.'cfg(unix)'.runner = ['sudo', '-n', '--']"]);
    }
    // libtest hides the output of passed tests by default.
    command.args(["--", "--show-output"]);
    cargo_test_with(cancel, command).map(TierOutcome::Ran)
}

/// Runs a prepared `cargo test`.
pub(crate) fn cargo_test_with(cancel: &Cancel, mut command: Command) -> Result<Tally> {
    let mut tally = Tally::default();
    run_tests(cancel, &mut command, &mut tally)?;
    Ok(tally)
}

/// Runs a `cargo test --show-output` and adds its results.
fn run_tests(cancel: &Cancel, command: &mut Command, tally: &mut Tally) -> Result<()> {
    let failed_before = tally.failed;
    let mut in_list = false;
    let status = run_lines(cancel, command, |line| {
        // --show-output also lists every passed test a second time.
        in_list = line == "successes:" || (in_list && (line.is_empty() || line.starts_with("    ")));
        if !in_list {
            println!("{line}");
        }
        tally.read(line);
    })?;
    if !status.success() && tally.failed == failed_before {
        tally.failed += 1;
        tally.failures.push(format!("cargo test ended with {status} (see above)"));
    }
    Ok(())
}

/// Runs the modules with vector kernels on emulated CPUs: the kernels of each level, and the choice of a level. It
/// runs only on x86-64: the NEON level has no kernels, and the linked C libraries are rarely available for AArch64.
fn on_older_cpus(cancel: &Cancel) -> Result<TierOutcome> {
    let names = ["qemu-x86_64", "qemu-x86_64-static"];
    let Some(qemu) = names.into_iter().find(|name| cfg!(target_arch = "x86_64") && has_program(name)) else {
        return Ok(TierOutcome::NotRun(
            "qemu: user mode is not installed, or not x86-64; to fix: --tier qemu installs it".to_owned(),
        ));
    };
    let mut tally = Tally::default();
    for cpu in ["Nehalem", "Haswell"] {
        println!("\n== unit tests of the vector kernels on a {cpu}");
        let mut command = cargo();
        command.args(["test", "--package", "oxide-engine", "--lib"]);
        command.args(["--config", &format!("target.'cfg(unix)'.runner = ['{qemu}', '-cpu', '{cpu}']")]);
        command.args(["--", "--show-output", "simd::", "flow::", "packet::"]);
        run_tests(cancel, &mut command, &mut tally)?;
    }
    println!("\nAArch64: not run; NEON has no kernels and uses the plain code, which was tested");
    Ok(TierOutcome::Ran(tally))
}

fn lint(cancel: &Cancel) -> Result<TierOutcome> {
    let mut tally = Tally::default();
    let checks: &[(&str, &[&str])] = &[
        ("fmt", &["--all", "--check"]),
        ("clippy", &["--workspace", "--all-targets", "--", "-D", "warnings"]),
        // The advisories need a database from the network: .ci/run checks them.
        ("deny", &["check", "licenses", "bans", "sources"]),
    ];
    for (tool, arguments) in checks {
        if !cargo_has(tool) {
            tally.passed += 1;
            tally.excused.push(format!("SKIPPED-OK cargo {tool}: not installed"));
            continue;
        }
        println!("\n== cargo {tool} {}", arguments.join(" "));
        let status = run_lines(cancel, cargo().arg(tool).args(*arguments), |line| println!("{line}"))?;
        if status.success() {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            tally.failures.push(format!("cargo {tool} {}", arguments.join(" ")));
        }
    }
    Ok(TierOutcome::Ran(tally))
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.current_dir(root());
    command
}

/// Returns the folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

pub(crate) fn quietly_succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Returns whether `cargo <tool>` exists; rustup puts a stub on the PATH even for a missing component.
fn cargo_has(tool: &str) -> bool {
    quietly_succeeds(cargo().args([tool, "--version"]))
}

fn sudo_works() -> bool {
    has_program("sudo") && quietly_succeeds(Command::new("sudo").args(["-n", "true"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that a package lists every file of `tests/`. The root package has `autotests = false`, so an unlisted
    /// file would never run.
    #[test]
    fn every_file_of_tests_is_a_target() {
        let targets = test_targets().unwrap_or_default();
        let files = fs::read_dir(root().join("tests")).into_iter().flatten().flatten().map(|entry| entry.path());
        let tests = files.filter(|path| path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file());
        let missing: Vec<_> = tests
            .filter(|path| path.file_stem().is_none_or(|stem| targets.iter().all(|target| *target.name != *stem)))
            .collect();
        assert!(missing.is_empty(), "no [[test]] of a Cargo.toml names {missing:?}");
    }

    #[test]
    fn unknown_tiers_are_refused() {
        let parse = |words: &[&str]| Options::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert!(parse(&["--tier", "doc", "--no-install"]).is_ok_and(|o| o.only == [Tier::Doc]));
        assert!(parse(&["--tier", "docs"]).is_err());
        assert!(parse(&["--tier"]).is_err());
    }
}
