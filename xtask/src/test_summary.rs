//! Reads the results of a tier from the output of `cargo test`, and prints the final table.

use crate::process::{Result, failed, is_root};

/// Holds the results of one tier.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) ignored: u32,
    /// Skips that are an error for root.
    pub(crate) skipped: Vec<String>,
    /// Skips for which the machine is the reason.
    pub(crate) excused: Vec<String>,
    pub(crate) failures: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum TierOutcome {
    Ran(Tally),
    NotRun(String),
}

impl Tally {
    /// Adds the results of another tally.
    pub(crate) fn add(&mut self, other: Tally) {
        let Tally { passed, failed, ignored, skipped, excused, failures } = other;
        (self.passed, self.failed) = (self.passed + passed, self.failed + failed);
        self.ignored += ignored;
        self.skipped.extend(skipped);
        self.excused.extend(excused);
        self.failures.extend(failures);
    }

    /// Counts one check that is not a test of cargo.
    pub(crate) fn count(&mut self, good: bool, what: &str) {
        self.passed += u32::from(good);
        self.failed += u32::from(!good);
        if !good {
            self.failures.push(what.to_owned());
        }
    }

    /// Counts one check that cannot run on this machine.
    pub(crate) fn excuse(&mut self, line: String) {
        self.passed += 1;
        self.excused.push(line);
    }

    /// Parses one line of the output of `cargo test --show-output`.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            // "ok. 12 passed; 0 failed; 1 ignored; 0 measured; ..."
            let counts = counts.split_once(". ").map_or("", |(_, c)| c);
            for count in counts.split("; ") {
                match count.split_once(' ').map(|(n, what)| (n.parse().unwrap_or(0), what)) {
                    Some((n, "passed")) => self.passed += n,
                    Some((n, "failed")) => self.failed += n,
                    Some((n, "ignored")) => self.ignored += n,
                    _ => {}
                }
            }
        } else if let Some(at) = line.find("SKIPPED-OK ") {
            self.excused.push(line[at..].to_owned());
        } else if let Some(at) = line.find("SKIPPED ") {
            self.skipped.push(line[at..].to_owned());
        } else if line.starts_with("test ") && line.ends_with("... FAILED") {
            self.failures.push(line.to_owned());
        }
    }

    fn skips(&self) -> u32 {
        u32::try_from(self.skipped.len() + self.excused.len()).unwrap_or(u32::MAX)
    }

    /// Returns the number of passed tests. libtest counts a skipped test as passed, because it ends without an error.
    fn really_passed(&self) -> u32 {
        self.passed.saturating_sub(self.skips())
    }
}

/// Prints the result of each tier with its name and description. Fails if a test failed, or was skipped as root.
pub(crate) fn summary(outcomes: &[(&str, &str, TierOutcome)]) -> Result<()> {
    println!("\n{:<13} {:>7} {:>7} {:>8}", "tier", "passed", "failed", "skipped");
    let (mut passed, mut failures, mut skips, mut forbidden) = (0, 0, 0, 0);
    for (name, about, outcome) in outcomes {
        let tally = match outcome {
            TierOutcome::NotRun(reason) => {
                println!("{name:<13} not run: {reason}");
                continue;
            }
            TierOutcome::Ran(tally) => tally,
        };
        let ignored = if tally.ignored == 0 { String::new() } else { format!("   ({} ignored)", tally.ignored) };
        let (ok, bad, skip) = (tally.really_passed(), tally.failed, tally.skips());
        println!("{name:<13} {ok:>7} {bad:>7} {skip:>8}   {about}{ignored}");
        tally.failures.iter().chain(&tally.skipped).chain(&tally.excused).for_each(|line| println!("    {line}"));
        passed += ok;
        failures += bad;
        skips += skip;
        forbidden += tally.skipped.len();
    }
    println!("\n{passed} passed, {failures} failed, {skips} skipped");
    if failures > 0 {
        return failed(format!("test: {failures} tests failed"));
    }
    if is_root() && forbidden > 0 {
        return failed(format!("test: {forbidden} tests were skipped as root; expected 0"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_test_does_not_count_as_passed() {
        let mut tally = Tally::default();
        for line in [
            "test a ... ok",
            "test b ... FAILED",
            "SKIPPED a: needs root",
            "test c ... SKIPPED-OK c: io_uring is forbidden here",
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (13, 1, 2));
        assert_eq!((tally.really_passed(), tally.skips()), (11, 2));
        assert_eq!((tally.skipped.len(), tally.excused.len(), tally.failures.len()), (1, 1, 1));
    }
}
