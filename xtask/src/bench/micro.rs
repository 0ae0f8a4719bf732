//! Measures pieces of the user side: time compared with crates for the same work, and instructions compared with the
//! stored counts.
//!
//! Instruction counts do not depend on the load of the machine. They depend on the compiler, and on the CPU model, by
//! which the batch processor and memcpy choose their code. So counts are compared only for the same compiler and CPU.
//! Callgrind supports vectors up to AVX2.

use super::record::{Measure, Record, Shape, short};
use crate::process::{Result, Session, failed, has_program, io_error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TIME: Measure = Measure::lower("user side in pieces", "ns/pkt");
/// Maximum rise in percent that needs no acceptance.
const TOLERANCE_PERCENT: u64 = 3;
const STORED: &str = "benches/instructions.json";
/// Command that accepts new counts.
const ACCEPT: &str = "cargo xtask bench instructions --accept";

/// Holds the output of `oxide-lab micro`.
#[derive(Debug, Deserialize)]
struct Piece {
    piece: String,
    by: String,
    ns: Vec<f64>,
}

/// Holds the content of `benches/instructions.json`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    /// Output of `rustc --version`, architecture, and the CPU's vendor, family and model.
    counted_with: String,
    /// Number of instructions for a batch of 64, by piece.
    instructions: BTreeMap<String, u64>,
}

/// Measures the time of every piece, in alternation with crates for the same work.
pub(super) fn times(session: &Session, lab: &Path) -> Result<Vec<Record>> {
    let lab = lab.display().to_string();
    let output = session.run("micro", &[lab.as_str(), "micro"], Duration::from_secs(200))?;
    let pieces: Vec<Piece> =
        serde_json::from_str(output.stdout.trim()).or_else(|e| failed(format!("oxide-lab micro: {e}")))?;
    let shape = Shape { mode: "in memory".to_owned(), frame: 64, flows: 64, queues: 1 };
    let mut records = vec![];
    for ours in pieces.iter().filter(|p| p.by == "oxide") {
        let others: Vec<&Piece> = pieces.iter().filter(|p| p.piece == ours.piece && p.by != "oxide").collect();
        if others.is_empty() {
            records.push(Record::alone(TIME, &ours.piece, &ours.ns, &shape));
        }
        for other in others {
            let pairs: Vec<_> = ours.ns.iter().copied().zip(other.ns.iter().copied()).collect();
            records.push(Record::pairs(TIME, &ours.piece, &other.by, &pairs, &shape));
        }
    }
    Ok(records)
}

/// Reports the result of a comparison.
#[derive(Debug, PartialEq)]
pub(crate) enum Compared {
    /// Nothing rose. Holds a line for each piece.
    Held(Vec<String>),
    /// The counts are not comparable here. Holds the reason.
    NotHere(String),
}

/// Returns why counts cannot be compared here, or `None` if they can.
pub(crate) fn not_here() -> Result<Option<String>> {
    if !has_program("valgrind") {
        return Ok(Some("valgrind: not installed; to fix: cargo xtask setup".to_owned()));
    }
    let (stored, here) = (stored()?.counted_with, what_counts());
    let why = format!("{STORED}: counted with {stored}; expected {here}; to fix: {ACCEPT}");
    Ok((stored != here).then_some(why))
}

/// Counts the instructions of every piece and compares them with the stored counts. Call [`not_here`] before.
pub(crate) fn compare(session: &Session, lab: &Path) -> Result<Compared> {
    assess(&stored()?, &count(session, lab)?)
}

fn stored() -> Result<Counts> {
    let path = stored_path();
    let text = std::fs::read_to_string(&path).map_err(io_error(path.display()))?;
    serde_json::from_str(&text).or_else(|e| failed(format!("{}: {e}", path.display())))
}

fn assess(stored: &Counts, now: &Counts) -> Result<Compared> {
    let (mut lines, mut rises) = (vec![], vec![]);
    for (piece, count) in &now.instructions {
        let Some(before) = stored.instructions.get(piece) else {
            rises.push(format!("{piece}: {count} instructions, no stored count"));
            continue;
        };
        let change = *count as f64 / (*before).max(1) as f64 - 1.0;
        let line = format!("{piece}: {count} instructions for 64 packets, {before} stored ({:+.1} %)", 100.0 * change);
        let risen = count * 100 > before * (100 + TOLERANCE_PERCENT);
        if risen { rises.push(line) } else { lines.push(line) }
    }
    if rises.is_empty() {
        return Ok(Compared::Held(lines));
    }
    failed(format!(
        "instruction counts rose by more than {TOLERANCE_PERCENT} %:\n  {}\nTo fix: find the cause; if the rise is necessary, explain it in the commit and run\n  {ACCEPT}",
        rises.join("\n  ")
    ))
}

/// Stores the current counts.
pub(super) fn accept(session: &Session, lab: &Path) -> Result<()> {
    if !has_program("valgrind") {
        return failed("valgrind: not installed; to fix: cargo xtask setup");
    }
    let counts = count(session, lab)?;
    let path = stored_path();
    let text = serde_json::to_string_pretty(&counts).or_else(|e| failed(e.to_string()))?;
    std::fs::write(&path, text + "\n").map_err(io_error(path.display()))?;
    counts.instructions.iter().for_each(|(piece, count)| println!("{piece}: {count}"));
    println!("{STORED}: counted with {}", counts.counted_with);
    Ok(())
}

fn stored_path() -> PathBuf {
    super::root().join(STORED)
}

fn what_counts() -> String {
    let output = Command::new("rustc").arg("--version").current_dir(super::root()).output();
    let version = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // The fields are those of the first CPU. Other architectures than x86 have other names, so their text is empty.
    let of = |name: &str| {
        let line = cpus.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name));
        line.map(|(_, value)| value.trim()).unwrap_or_default()
    };
    let cpu = format!("{} family {} model {}", of("vendor_id"), of("cpu family"), of("model"));
    format!("{version}, {}, {cpu}", std::env::consts::ARCH)
}

fn count(session: &Session, lab: &Path) -> Result<Counts> {
    let lab = lab.display().to_string();
    let names = session.run("work", &[lab.as_str(), "work"], Duration::from_secs(60))?;
    let mut instructions = BTreeMap::new();
    for piece in names.stdout.lines() {
        // The difference of two lengths removes the cost of the start.
        const FEW: u32 = 50;
        const MANY: u32 = 450;
        let [few, many] = [FEW, MANY].map(|batches| collected(session, &lab, piece, batches));
        let each = many?.saturating_sub(few?) / u64::from(MANY - FEW);
        instructions.insert(piece.to_owned(), each);
        eprintln!("  {piece}: {} instructions per packet", short(each as f64 / 64.0));
    }
    Ok(Counts { counted_with: what_counts(), instructions })
}

/// Returns the instructions of a whole run, counted by Callgrind.
fn collected(session: &Session, lab: &str, piece: &str, batches: u32) -> Result<u64> {
    let batches = batches.to_string();
    let argv = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", lab, "work", piece, &batches];
    let output = session.run("callgrind", &argv, Duration::from_secs(180))?;
    let line = output.stderr.lines().find_map(|l| l.split_once("Collected : ").map(|(_, count)| count.trim().parse()));
    match line {
        Some(Ok(count)) => Ok(count),
        _ => failed(format!("callgrind: no count in its output:\n{}", output.stderr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(parse: u64) -> Counts {
        Counts { counted_with: "c".to_owned(), instructions: BTreeMap::from([("parse".to_owned(), parse)]) }
    }

    #[test]
    fn rise_above_three_percent_fails_with_remedy() {
        assert!(matches!(assess(&counts(1000), &counts(1030)), Ok(Compared::Held(_))));
        assert!(matches!(assess(&counts(1000), &counts(10)), Ok(Compared::Held(_))));
        let refusal = assess(&counts(1000), &counts(1031)).map_err(|e| e.to_string());
        assert!(refusal.is_err_and(|text| text.contains("+3.1 %") && text.contains(ACCEPT)));
    }
}
