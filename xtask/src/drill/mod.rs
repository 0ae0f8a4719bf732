//! Implements `cargo xtask drill`: runs the fault table against the real binary, under traffic that is counted at the
//! far end.

mod faults;
mod lab;
mod traffic;

use crate::host::Host;
use crate::process::{Cancel, Result, Session, failed, io_error, is_root, run_visible};
use crate::setup::{self, For, Policy};
use faults::{DrillCase, DrillContext, FAULTS};
use lab::{Lab, Relay, Report};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use traffic::{Counted, FarEnd, lost};

/// Time limit from the end of the cause to the first packet of the last flow.
const BACK_WITHIN_MS: f64 = 100.0;

/// Holds the command line of `drill`.
#[derive(Debug)]
pub(crate) struct Options {
    names: Vec<String>,
    json: bool,
    binary: Option<PathBuf>,
    policy: Policy,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { names: Vec::new(), json: false, binary: None, policy: Policy::Install };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--json" => options.json = true,
                "--no-install" => options.policy = Policy::Refuse,
                "--binary" => options.binary = rest.next().map(PathBuf::from),
                name if FAULTS.iter().any(|fault| fault.name == name) => options.names.push(name.to_owned()),
                other => {
                    let known: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
                    return failed(format!("drill: unknown fault `{other}`; expected one of {}", known.join(", ")));
                }
            }
        }
        Ok(options)
    }
}

/// Holds the result of one fault.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    what: &'static str,
    /// Longest time in milliseconds that a queue did not run, as the engine reports it.
    gap_ms: Option<f64>,
    /// Time in milliseconds from the end of the cause to the first packet of the last affected flow.
    back_ms: Option<f64>,
    /// Cause that the engine reports.
    cause: String,
    /// Number of lost packets that the engine reports, as far as it can know it.
    reported_lost: Option<u64>,
    sent: u64,
    /// Number of packets lost inside the allowed scope.
    lost_there: u64,
    /// Number of packets lost outside the allowed scope.
    lost_elsewhere: u64,
    ledger: bool,
    pass: bool,
    error: Option<String>,
}

/// Runs set-up, build, testbed and faults, and prints the verdict.
pub(crate) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            setup::ensure(cancel, &[For::Build, For::Lab], options.policy)?;
            build(cancel)?
        }
    };
    if !is_root() {
        return failed(
            "drill: not root; expected root for network namespaces and AF_XDP; to fix: sudo -E cargo xtask drill",
        );
    }
    let _host = Host::with_sys()?;
    let dir = std::env::temp_dir().join(format!("oxide-drill-{}", std::process::id()));
    fs::create_dir(&dir).map_err(io_error(dir.display()))?;
    let session = Session::new(cancel.clone(), dir.clone());
    let rows = drill(&session, options, &binary);
    drop(session);
    let rows = rows?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows).unwrap_or_default());
    }
    let failures = rows.iter().filter(|row| !row.pass).count();
    if failures > 0 {
        return failed(format!(
            "drill: {failures} of {} faults affected too much or took too long; logs in {}",
            rows.len(),
            dir.display()
        ));
    }
    fs::remove_dir_all(&dir).map_err(io_error(dir.display()))
}

fn drill(session: &Session, options: &Options, binary: &Path) -> Result<Vec<Row>> {
    let chosen = |fault: &&DrillCase| options.names.is_empty() || options.names.iter().any(|name| name == fault.name);
    let mut rows = Vec::new();
    if !options.json {
        println!(
            "{:<16} {:>9} {:>9} {:>7} {:>7} {:>8} {:>10}  ledger  verdict  what",
            "fault", "gap ms", "back ms", "sent", "lost", "reported", "elsewhere"
        );
    }
    for fault in FAULTS.iter().filter(chosen) {
        // Each fault has its own testbed and relay, so that no fault affects the next one.
        let row = one(session, fault, binary)?;
        if !options.json {
            print(&row);
        }
        rows.push(row);
    }
    Ok(rows)
}

fn one(session: &Session, fault: &'static DrillCase, binary: &Path) -> Result<Row> {
    let _ = fs::remove_file(session.dir.join("faults"));
    let _ = fs::remove_file(session.dir.join("report.json"));
    let lab = Lab::create(session)?;
    let mut relay = Relay::start(session, &lab, binary)?;
    let traffic = FarEnd::find(lab.far.pid())?.run();
    session.cancel.sleep(Duration::from_millis(300))?;
    let mut cx = DrillContext { session, lab: &lab, relay: &mut relay, binary };
    let acted = (fault.act)(&mut cx);
    traffic.cause_ended();
    let healthy = |r: &Report| r.queues.iter().all(|queue| queue.state == "running" && !queue.stalled);
    let back = acted.and_then(|()| relay.until(session, "healthy", healthy));
    session.cancel.sleep(Duration::from_millis(300))?;
    let Counted { far, counts, back: first } = traffic.end()?;
    // Without the fault no packet may be lost.
    let traffic = far.run();
    session.cancel.sleep(Duration::from_millis(500))?;
    let after = traffic.end()?.counts;
    let error = back.as_ref().err().map(ToString::to_string);
    let report = back.unwrap_or_default();
    let last = relay.stop(session)?;
    let lost_elsewhere = lost(&counts, |at| !fault.reach.covers(at)) + lost(&after, |_| true);
    let gaps = report.queues.iter().filter_map(|queue| queue.last_gap_ms);
    // The engine reports the cause of its last restart, and the loss that it estimates.
    let restart = report.queues.iter().find_map(|queue| queue.last_restart.as_ref());
    let ledger = last.balanced && last.unaccounted == 0;
    let reached = first.iter().filter(|(at, _)| fault.reach.covers(**at));
    let back_ms = reached.map(|(_, back)| back.as_secs_f64() * 1e3).reduce(f64::max);
    let in_time = back_ms.is_none_or(|ms| ms <= BACK_WITHIN_MS);
    Ok(Row {
        name: fault.name,
        what: fault.what,
        gap_ms: gaps.reduce(f64::max),
        back_ms,
        cause: restart.map(|last| format!("{}: {}", last.cause, last.detail)).unwrap_or_default(),
        reported_lost: restart.map(|last| last.lost),
        sent: counts.values().map(|(sent, _)| sent).sum(),
        lost_there: lost(&counts, |at| fault.reach.covers(at)),
        lost_elsewhere,
        ledger,
        pass: error.is_none() && in_time && lost_elsewhere == 0 && ledger,
        error,
    })
}

fn print(row: &Row) {
    let ms = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
    let (gap, back) = (ms(row.gap_ms), ms(row.back_ms));
    let ledger = if row.ledger { "ok" } else { "BROKEN" };
    let verdict = if row.pass { "PASS" } else { "FAIL" };
    let reported = row.reported_lost.map_or_else(|| "-".to_owned(), |lost| lost.to_string());
    let Row { name, sent, lost_there, lost_elsewhere, what, .. } = row;
    println!(
        "{name:<16} {gap:>9} {back:>9} {sent:>7} {lost_there:>7} {reported:>8} {lost_elsewhere:>10}  {ledger:<6}  {verdict:<7}  \
         {what}"
    );
    if let Some(error) = &row.error {
        println!("    {error}");
    }
}

fn build(cancel: &Cancel) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "oxide-cli", "--bin", "oxide"]).current_dir(root);
    let status = run_visible(cancel, &mut command)?;
    if !status.success() {
        return failed(format!("the build failed ({status})"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |t| root.join(t));
    Ok(target.join("debug/oxide"))
}
