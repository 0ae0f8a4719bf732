//! `cargo xtask guest`: tests of `oxide` on kernels and NICs that this machine lacks, in a virtual machine that QEMU
//! emulates in software. It shows function, never speed.
//!
//! | module | owns |
//! |---|---|
//! | [`packages`] | pinned Debian packages: QEMU and the kernels |
//! | [`image`] | the guest's initial file system |
//! | [`qemu`] | one boot: command line, console, end |
//! | [`inside`] | what runs in the guest: topology, traffic, tests |

mod image;
pub(crate) mod inside;
mod packages;
mod qemu;

use crate::host::Host;
use crate::process::{Cancel, Error, Result, failed, io_error, is_root, run_visible};
use crate::setup::{self, For, Policy};
use crate::test_summary::{Tally, TierOutcome, summary};
use crate::tiers::{cargo, root};
use packages::{KERNELS, Kernel, Packages};
use qemu::{Boot, Ended, Nics};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time of one boot with its tests.
const BOOT_WITH_TESTS: Duration = Duration::from_secs(600);

/// One test on one kernel and NIC: a row of the result.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    test: &'static str,
    kernel: &'static str,
    nics: Nics,
    /// Part of `cargo xtask test --tier guest` and of `cargo xtask guest` without names.
    default: bool,
    about: &'static str,
}

const fn case(test: &'static str, kernel: &'static str, nics: Nics, default: bool, about: &'static str) -> Case {
    Case { test, kernel, nics, default, about }
}

/// Every row. Rows of one kernel and NIC share a boot, in this order.
const CASES: &[Case] = &[
    case("start", "6.1", Nics::Virtio, true, "starts with the documented capabilities alone and relays"),
    case("start", "6.12", Nics::Virtio, true, "the same"),
    case("start", "7.3", Nics::Igb, true, "the same"),
    case("small-frames", "7.3", Nics::Igb, true, "refuses zero-copy with 2 KiB frames on igb"),
    case("hidden", "7.3", Nics::Igb, true, "takes no part of a packet for a packet of its own"),
    case("sizes", "7.3", Nics::Igb, true, "zero-copy carries every size up to the MTU, both families"),
    case("auto", "7.3", Nics::Igb, true, "auto gives zero-copy with 4 KiB frames"),
    case("restored", "7.3", Nics::Igb, true, "device settings are put back, also after kill -9"),
    case("cpuset", "7.3", Nics::Igb, true, "memory stays inside cpuset.mems"),
    case("huge-pages", "7.3", Nics::Igb, false, "huge pages on the NIC's node, base pages where there are none"),
    case("cpu-offline", "7.3", Nics::Igb, true, "a queue restarts elsewhere while its CPU is offline"),
    case("link", "7.3", Nics::Igb, false, "recovers from carrier loss and admin down"),
    case("rebind", "7.3", Nics::Igb, true, "recovers from unbind and bind of the driver"),
    case("unplug", "7.3", Nics::Igb, false, "recovers from unplug and replacement of the card"),
    case("sizes", "7.3", Nics::Virtio, false, "the same in zero-copy of virtio"),
    case("spare-pairs", "7.3", Nics::VirtioSpare, true, "serves the queues that attaching XDP adds"),
];

impl Case {
    fn label(&self) -> String {
        format!("{}@{}/{}", self.test, self.kernel, self.nics.name())
    }

    /// Whether a word of the command line means this row: its test, its kernel, its NIC or its whole label.
    fn is_meant_by(&self, word: &str) -> bool {
        word == "all" || [self.test, self.kernel, self.nics.name()].contains(&word) || word == self.label()
    }
}

/// The command line of `guest`.
#[derive(Debug)]
pub(crate) struct Options {
    words: Vec<String>,
    binary: Option<PathBuf>,
    verbose: bool,
    policy: Policy,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { words: vec![], binary: None, verbose: false, policy: Policy::Install };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--no-install" => options.policy = Policy::Refuse,
                "--verbose" => options.verbose = true,
                "--binary" => options.binary = rest.next().map(PathBuf::from),
                word if CASES.iter().any(|case| case.is_meant_by(word)) => options.words.push(word.to_owned()),
                other => {
                    let labels: Vec<String> = CASES.iter().map(Case::label).collect();
                    return failed(format!(
                        "guest: unknown test `{other}`; expected \"all\", a test, a kernel, a NIC, or one of {}",
                        labels.join(", ")
                    ));
                }
            }
        }
        Ok(options)
    }

    /// Rows that every word means; of the default set if there is no word. A second word of one kind adds rows.
    fn cases(&self) -> Vec<&'static Case> {
        let kinds: [fn(&Case) -> String; 3] =
            [|case| case.test.to_owned(), |case| case.kernel.to_owned(), |case| case.nics.name().to_owned()];
        let wanted = |case: &&Case| {
            if self.words.is_empty() {
                return case.default;
            }
            let labelled = self.words.iter().any(|word| *word == "all" || *word == case.label());
            let known = |kind: &fn(&Case) -> String| {
                let words: Vec<&String> =
                    self.words.iter().filter(|word| CASES.iter().any(|case| kind(case) == **word)).collect();
                (words.is_empty(), words.iter().any(|word| **word == kind(case)))
            };
            let fits: Vec<(bool, bool)> = kinds.iter().map(known).collect();
            labelled || (fits.iter().any(|(_, fits)| *fits) && fits.iter().all(|(none, fits)| *none || *fits))
        };
        CASES.iter().filter(wanted).collect()
    }
}

/// Runs the chosen rows and prints the table of every tier.
pub(crate) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    setup::ensure(cancel, &[For::Build, For::Lab], options.policy)?;
    let _host = if is_root() { Some(Host::with_sys_and_tun()?) } else { None };
    let outcome = outcome(cancel, options)?;
    summary(&[("guest", ABOUT, outcome)])
}

/// Describes the tier in the table.
pub(crate) const ABOUT: &str = "other kernels and zero-copy NICs, in QEMU";

/// The tier of `cargo xtask test`: the default set.
pub(crate) fn tier(cancel: &Cancel, policy: Policy) -> Result<TierOutcome> {
    outcome(cancel, &Options { words: vec![], binary: None, verbose: false, policy })
}

fn outcome(cancel: &Cancel, options: &Options) -> Result<TierOutcome> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(TierOutcome::NotRun("SKIPPED-OK guest: needs x86-64, for Debian's amd64 kernels".to_owned()));
    }
    let cases = options.cases();
    let packages = Packages { dir: root().join("target/guest") };
    let kernels: Vec<&Kernel> =
        KERNELS.iter().filter(|kernel| cases.iter().any(|case| case.kernel == kernel.name)).collect();
    if options.policy == Policy::Install || packages.has(&kernels) {
        match packages.prepare(cancel, &kernels) {
            Ok(()) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(Error::Failed(why)) => return Ok(skipped(&format!("its packages cannot be had: {why}"))),
        }
    } else {
        return Ok(skipped("--no-install, and target/guest does not hold QEMU and the kernels"));
    }
    let oxide = match &options.binary {
        Some(binary) => binary.clone(),
        None => build(cancel)?,
    };
    let share = share(&packages, &oxide)?;
    let mut tally = Tally::default();
    for kernel in kernels {
        let initrd = packages.dir.join(format!("initrd-{}", kernel.name));
        image::build(&packages, kernel, &[&share.join("oxide"), &share.join("xtask")], &initrd)?;
        for nics in [Nics::Igb, Nics::Virtio, Nics::VirtioSpare] {
            let chosen: Vec<&Case> =
                cases.iter().copied().filter(|case| case.kernel == kernel.name && case.nics == nics).collect();
            if !chosen.is_empty() {
                let vmlinuz = image::vmlinuz(&packages, kernel)?;
                let limit = BOOT_WITH_TESTS;
                let boot = Boot { packages: &packages, kernel: &vmlinuz, initrd: &initrd, share: &share, nics, limit };
                run_boot(cancel, &boot, &chosen, options.verbose, &mut tally)?;
            }
        }
    }
    Ok(TierOutcome::Ran(tally))
}

/// The machine's reason, not the code's: reported, and not counted as a pass.
fn skipped(why: &str) -> TierOutcome {
    let line = format!("SKIPPED-OK guest: {why}");
    println!("\n{line}");
    TierOutcome::NotRun(line)
}

/// Boots once for all rows of one kernel and NIC; boots again if the guest did not come up.
fn run_boot(cancel: &Cancel, boot: &Boot<'_>, cases: &[&Case], verbose: bool, tally: &mut Tally) -> Result<()> {
    if boot.nics == Nics::VirtioSpare && !is_root() {
        cases.iter().for_each(|case| tally.excuse(format!("SKIPPED-OK {}: taps need root", case.label())));
        return Ok(());
    }
    let names: Vec<&str> = cases.iter().map(|case| case.test).collect();
    let file = boot.share.join("tests");
    fs::write(&file, names.join(" ")).map_err(io_error(file.display()))?;
    let mut done = vec![];
    let mut last_lines = vec![];
    for attempt in 1..=3 {
        println!("\n== guest: {} on {} ({})", cases[0].kernel, boot.nics.name(), names.join(" "));
        let started = Instant::now();
        let ended = boot.run(cancel, |line| {
            if verbose {
                println!("{:6.1} {line}", started.elapsed().as_secs_f64());
            }
            if let Some((verdict, name, seen)) = row(line) {
                let label = cases.iter().find(|case| case.test == name).map_or_else(String::new, |case| case.label());
                println!("{verdict} {label} ({:.0} s): {seen}", started.elapsed().as_secs_f64());
                tally.count(verdict == "PASS", &format!("{label}: {seen}"));
                done.push(name.to_owned());
            } else {
                last_lines.push(line.to_owned());
            }
        })?;
        match ended {
            Ended::NoBoot if attempt < 3 => println!("the guest did not come up; booting again"),
            Ended::Status(0) => return Ok(()),
            other => {
                let tail = last_lines[last_lines.len().saturating_sub(8)..].join(" | ");
                for case in cases.iter().filter(|case| !done.iter().any(|name| name == case.test)) {
                    println!("FAIL {}: {other:?}: {tail}", case.label());
                    tally.count(false, &format!("{}: {other:?}: {tail}", case.label()));
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads one result from the console: verdict, test, what was seen.
fn row(line: &str) -> Option<(&str, &str, &str)> {
    let (verdict, rest) = line.strip_prefix("@row ")?.split_once(' ')?;
    let (name, seen) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((verdict, name, seen))
}

/// Builds `oxide` as the drill does.
fn build(cancel: &Cancel) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "oxide-cli", "--bin", "oxide"]);
    let status = run_visible(cancel, &mut command)?;
    if !status.success() {
        return failed(format!("the build failed ({status})"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |t| root().join(t));
    Ok(target.join("debug/oxide"))
}

/// Makes the folder that the guest mounts: `oxide` and this program, without debug information.
fn share(packages: &Packages, oxide: &Path) -> Result<PathBuf> {
    let share = packages.dir.join("share");
    fs::create_dir_all(&share).map_err(io_error(share.display()))?;
    let own = std::env::current_exe().map_err(io_error("the path of xtask"))?;
    for (from, name) in [(oxide, "oxide"), (&own, "xtask")] {
        let to = share.join(name);
        let stripped = Command::new("strip").arg("-o").arg(&to).arg(from).status().is_ok_and(|s| s.success());
        if !stripped {
            fs::copy(from, &to).map_err(io_error(from.display()))?;
        }
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Options::parse(&words).map(|o| o.cases().iter().map(|case| case.label()).collect()).unwrap_or_default()
    }

    #[test]
    fn words_of_different_kinds_narrow_and_of_one_kind_widen() {
        assert_eq!(chosen(&["start", "6.1"]), ["start@6.1/virtio"]);
        assert_eq!(chosen(&["start", "6.1", "6.12"]), ["start@6.1/virtio", "start@6.12/virtio"]);
        assert_eq!(chosen(&["start@6.12/virtio"]), ["start@6.12/virtio"]);
        assert_eq!(chosen(&["all"]).len(), CASES.len());
        assert!(chosen(&["nonsense"]).is_empty());
    }

    #[test]
    fn every_case_has_its_kernel_and_its_test() {
        for case in CASES {
            assert!(KERNELS.iter().any(|kernel| kernel.name == case.kernel), "{}", case.label());
            assert!(inside::has(case.test), "{}", case.label());
            assert!(!case.about.is_empty());
        }
    }

    #[test]
    fn rows_are_read_from_the_console() {
        assert_eq!(row("@row PASS start copy, copy"), Some(("PASS", "start", "copy, copy")));
        assert_eq!(row("@row FAIL start"), Some(("FAIL", "start", "")));
        assert_eq!(row("start @row"), None);
    }
}
