//! Implements `cargo xtask bench processor`: compares the batch processor with other crates, without testbed and
//! without root. The measured code runs in the workspace's own bench program, because it needs the engine's types.
//! The program returns pairs of times.

use super::record::{Measure, Record, Shape, short};
use super::{About, Options, root, target};
use crate::process::{Cancel, Result, failed, io_error, run_lines, run_visible};
use crate::setup::{self, For};
use serde::Deserialize;
use std::fs;
use std::process::Command;

/// Holds one comparison of a subject with a peer, as `benches/processor` writes it.
#[derive(Deserialize)]
struct Row {
    measure: String,
    subject: String,
    peer: String,
    /// Upper bound of the ratio.
    at_most: Option<f64>,
    note: String,
    pairs: Vec<(f64, f64)>,
}

const TIME: Measure = Measure::lower("", "ns/item");
const INSTRUCTIONS: Measure = Measure::lower("instructions", "per packet");
/// Names for callgrind, which `benches/processor` knows.
const COUNTED: [&str; 3] = ["l2fwd", "relay-4Ki", "relay-1Mi"];

pub(super) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    setup::ensure(cancel, &[For::Build], options.policy)?;
    let folder = target().join("bench");
    fs::create_dir_all(&folder).map_err(io_error(folder.display()))?;
    let path = folder.join("processor-rows.json");
    let mut command = bench();
    command.arg("--rows").arg(&path).args(options.quick.then_some("--quick"));
    command.args(options.names.iter().filter(|name| *name != "processor"));
    let status = run_visible(cancel, &mut command)?;
    if !status.success() {
        return failed(format!("benches/processor failed ({status})"));
    }
    let rows = fs::read(&path).map_err(io_error(path.display()))?;
    let rows: Vec<Row> = serde_json::from_slice(&rows).or_else(|e| failed(format!("{}: {e}", path.display())))?;
    let mut records: Vec<Record> = rows.iter().filter(|row| row.subject != row.peer).map(record).collect();
    let mut not_run = vec![];
    match counted(cancel) {
        Ok(counts) => records.extend(counts),
        Err(error) => not_run.push(format!("instructions per packet: {error}")),
    }
    let about = About::here();
    records.iter_mut().for_each(|record| record.about = about.clone());
    let json = options.json.clone().unwrap_or_else(|| folder.join("processor.json"));
    super::report(&Options { json: Some(json), ..options.clone() }, &records, &not_run)
}

fn record(row: &Row) -> Record {
    let record = Record::pairs(TIME, &row.subject, &row.peer, &row.pairs, &Shape::default());
    let verdict = match (row.at_most, record.ratio_median) {
        (Some(bound), Some(ratio)) if ratio <= bound => format!("at most {}: holds; ", short(bound)),
        (Some(bound), _) => format!("at most {}: MISSED; ", short(bound)),
        _ => String::new(),
    };
    Record { measure: row.measure.clone(), ..record }.note(format!("{verdict}{}", row.note))
}

/// Counts the instructions of the whole step, which other programs do not disturb. Callgrind does not support
/// AVX-512, so this is the AVX2 level.
fn counted(cancel: &Cancel) -> Result<Vec<Record>> {
    let mut program = String::new();
    let mut build = cargo();
    build.args(["bench", "--package", "oxide-relay", "--bench", "processor", "--no-run", "--message-format", "json"]);
    run_lines(cancel, &mut build, |line| {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        if message["target"]["name"] == "processor"
            && let Some(path) = message["executable"].as_str()
        {
            path.clone_into(&mut program);
        }
    })?;
    let count = |what: &str| -> Result<Record> {
        let out = target().join("bench").join(format!("callgrind.{what}"));
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*measured_*"]);
        command.arg(format!("--callgrind-out-file={}", out.display()));
        command.args([program.as_str(), "--instructions", what]).current_dir(root());
        let mut packets = 0.0;
        let status = run_lines(cancel, &mut command, |line| {
            packets = line.strip_prefix("packets: ").and_then(|n| n.parse().ok()).unwrap_or(packets);
        })?;
        let text = fs::read_to_string(&out).unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
        match total {
            Some(total) if status.success() && packets > 0.0 => {
                let shape = Shape { mode: "simulated port".to_owned(), frame: 64, flows: 0, queues: 1 };
                let subject = format!("{what}, avx2");
                Ok(Record::alone(INSTRUCTIONS, &subject, &[total / packets], &shape)
                    .note("whole step: reclaim to transmit"))
            }
            _ => failed(format!("{what}: valgrind returned no count ({status})")),
        }
    };
    COUNTED.into_iter().map(count).collect()
}

fn bench() -> Command {
    let mut command = cargo();
    command.args(["bench", "--package", "oxide-relay", "--bench", "processor", "--"]);
    command
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.current_dir(root());
    command
}
