//! Implements `oxide plan` and `oxide doctor` without their argument parser. The program only has to fill
//! [`PlanArgs`] or [`DoctorArgs`].

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::doctor::{CheckStatus, OwnRelay, Probes, SelfTestStep, Traffic, doctor, self_test_checks, worst};
use crate::plan::{Plan, Refusal, plan};
use crate::request::PlanRequest;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::system_settings::{self, SettingKind};

/// Default file in which applied settings are recorded.
pub const RECORD: &str = "/var/lib/oxide/applied.jsonl";

/// JSON Schema (2020-12) of [`Answer`], the output of `oxide plan --json`.
pub const PLAN_JSON_SCHEMA: &str = include_str!("../schema/plan.json");

/// Selects the machine to plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This machine.
    Live,
    /// A synthetic hwloc description (`--topology`).
    Synthetic(String),
    /// An hwloc XML file (`--hwloc`).
    Hwloc(PathBuf),
    /// A saved snapshot (`--snapshot`).
    Snapshot(PathBuf),
}

/// Selects the form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table of actors, then the warnings.
    Table,
    /// The machine as a tree.
    Tree,
    /// An [`Answer`] as JSON.
    Json,
}

/// Holds the arguments of `oxide plan`.
#[derive(Debug, Clone)]
pub struct PlanArgs {
    /// Machine to plan.
    pub source: Source,
    /// NIC descriptions, `--nic NAME:node=N,queues=Q,speed=S,driver=D`, in order.
    pub nics: Vec<String>,
    /// Requirements. Without interfaces on a described machine, all its NICs with a known number of queues are used.
    pub request: PlanRequest,
    /// Form of the output.
    pub format: Format,
    /// Whether every decision with its reason follows the table.
    pub explain: bool,
    /// File for the drawing.
    pub svg: Option<PathBuf>,
    /// File for the planned snapshot.
    pub save_snapshot: Option<PathBuf>,
    /// Plan saved with `--json` to compare with. The output is the difference instead of the plan.
    pub diff: Option<PathBuf>,
    /// System settings to apply for the plan, on this machine only (`--apply huge-pages`). None by default.
    pub apply: Vec<SettingKind>,
    /// File that records the replaced values, for [`undo_command`].
    pub record: PathBuf,
}

/// Holds the arguments of `oxide doctor`.
#[derive(Debug, Clone)]
pub struct DoctorArgs {
    /// Machine to check. Facts that only the machine itself shows are unknown for another machine.
    pub source: Source,
    /// NIC descriptions, as in [`PlanArgs`].
    pub nics: Vec<String>,
    /// Requirements to check.
    pub request: PlanRequest,
    /// Ports and upstreams of the relay; empty without a configuration.
    pub traffic: Traffic,
    /// Running relay of the configuration, if there is one.
    pub own: Option<OwnRelay>,
    /// Function that sends packets through the real backend and reports each step (`--self-test`).
    pub self_test: Option<fn() -> Vec<SelfTestStep>>,
    /// Whether the output is JSON instead of lines.
    pub json: bool,
}

impl PlanArgs {
    /// Creates arguments that plan `request` on this machine and print a table.
    #[must_use]
    pub fn new(request: PlanRequest) -> Self {
        Self {
            source: Source::Live,
            nics: Vec::new(),
            request,
            format: Format::Table,
            explain: false,
            svg: None,
            save_snapshot: None,
            diff: None,
            apply: Vec::new(),
            record: PathBuf::from(RECORD),
        }
    }
}

/// Holds a plan or a refusal, as JSON `{"plan": {...}}` or `{"refusal": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The plan.
    Plan(Plan),
    /// The reasons why there is no plan.
    Refusal(Refusal),
}

/// Reports how a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Exit code 0: a plan, or all checks passed.
    Good,
    /// Exit code 1: invalid input, or a check warns.
    Unusable,
    /// Exit code 2: a refusal, or a check fails.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Runs `oxide plan`. Prints the plan to `out` and everything else to `errors`. Changes only the files and the
/// settings that the arguments name.
pub fn plan_command(args: &PlanArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = run(args, out, errors);
    end(result, errors)
}

/// Runs `oxide doctor`. Prints one paragraph for each check, or JSON. Changes nothing.
pub fn doctor_command(args: &DoctorArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = examine(args, out);
    end(result, errors)
}

/// Runs `oxide plan --undo`: restores the values that `--apply` recorded in `record`.
pub fn undo_command(record: &Path, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = system_settings::undo(Path::new("/"), record)
        .map_err(|e| e.to_string())
        .and_then(|count| write(out, &format!("{count} settings restored")))
        .map(|()| Exit::Good);
    end(result, errors)
}

fn end(result: Result<Exit, String>, errors: &mut dyn Write) -> Exit {
    result.unwrap_or_else(|error| {
        let _ = writeln!(errors, "error: {error}");
        Exit::Unusable
    })
}

fn examine(args: &DoctorArgs, out: &mut dyn Write) -> Result<Exit, String> {
    let live = args.source == Source::Live;
    if args.self_test.is_some() && !live {
        return Err("--self-test: works only on this machine; to fix: omit --topology, --hwloc and --snapshot".into());
    }
    let names = &args.request.interfaces;
    let snapshot = match load(&args.source, &args.nics, names) {
        // An absent interface is a finding and does not end the command.
        Err(SnapshotError::NoInterface { .. }) => load(&args.source, &args.nics, &[]),
        other => other,
    };
    let snapshot = described(snapshot.map_err(|e| e.to_string())?, &args.nics)?;
    let mut request = args.request.clone();
    fill_interfaces(&mut request, &snapshot, live);
    let probes = if live {
        Probes { own: args.own.clone(), ..Probes::live(&request.interfaces, &args.traffic) }
    } else {
        Probes::default()
    };
    let mut checks = doctor(&snapshot, &probes, &request, &args.traffic);
    if let Some(run) = args.self_test {
        checks.extend(self_test_checks(&snapshot.limits, &probes, &run()));
    }
    if args.json {
        print_json(out, &checks)?;
    } else {
        for check in &checks {
            write(out, &check.to_string())?;
        }
        let count = |status| checks.iter().filter(|check| check.status == status).count();
        let (pass, unknown, warn, fail) =
            (count(CheckStatus::Pass), count(CheckStatus::Unknown), count(CheckStatus::Warn), count(CheckStatus::Fail));
        write(out, &format!("\n{pass} pass, {warn} warn, {fail} fail, {unknown} unknown"))?;
    }
    Ok(match worst(&checks) {
        CheckStatus::Pass | CheckStatus::Unknown => Exit::Good,
        CheckStatus::Warn => Exit::Unusable,
        CheckStatus::Fail => Exit::Refused,
    })
}

fn run(args: &PlanArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, String> {
    if !args.apply.is_empty() && (args.source != Source::Live || !args.nics.is_empty()) {
        return Err(
            "--apply: works only on this machine; to fix: omit --topology, --hwloc, --snapshot and --nic".into()
        );
    }
    let snapshot = load(&args.source, &args.nics, &args.request.interfaces).map_err(|e| e.to_string())?;
    let snapshot = described(snapshot, &args.nics)?;
    if let Some(path) = &args.save_snapshot {
        write_file(path, &snapshot.to_json())?;
    }
    let mut request = args.request.clone();
    fill_interfaces(&mut request, &snapshot, args.source == Source::Live);
    let answer = match plan(&snapshot, &request) {
        Ok(plan) => Answer::Plan(plan),
        Err(refusal) => Answer::Refusal(refusal),
    };
    if args.format == Format::Json && args.diff.is_none() {
        print_json(out, &answer)?;
    }
    match answer {
        Answer::Refusal(refusal) => {
            if args.format != Format::Json {
                write(errors, &refusal.to_string())?;
            }
            Ok(Exit::Refused)
        }
        Answer::Plan(plan) => {
            show(args, &snapshot, &plan, out)?;
            if !args.apply.is_empty() {
                // The output may be JSON, so the progress goes to `errors`.
                apply(args, &snapshot, &plan, errors)?;
            }
            Ok(Exit::Good)
        }
    }
}

fn show(args: &PlanArgs, snapshot: &Snapshot, plan: &Plan, out: &mut dyn Write) -> Result<(), String> {
    if let Some(path) = &args.svg {
        write_file(path, &plan.svg(snapshot))?;
    }
    if let Some(path) = &args.diff {
        let changes = load_plan(path)?.diff(plan);
        if args.format == Format::Json {
            print_json(out, &changes)?;
        } else if changes.is_empty() {
            write(out, "no difference")?;
        }
        for change in changes.iter().filter(|_| args.format != Format::Json) {
            write(out, &change.to_string())?;
        }
        return Ok(());
    }
    match args.format {
        Format::Json => {}
        Format::Table => write(out, plan.to_string().trim_end())?,
        Format::Tree => write(out, plan.tree(snapshot).trim_end())?,
    }
    if args.explain && args.format != Format::Json {
        write(out, "\ndecisions:")?;
        for decision in &plan.decisions {
            let code = serde_json::to_value(decision.code).ok().and_then(|v| v.as_str().map(str::to_owned));
            write(out, &format!("  {}: {} [{}]", decision.subject, decision.text, code.unwrap_or_default()))?;
        }
    }
    Ok(())
}

/// Selects all NICs with a known number of queues, if a described machine is planned without interfaces.
fn fill_interfaces(request: &mut PlanRequest, snapshot: &Snapshot, live: bool) {
    if request.interfaces.is_empty() && !live {
        let known = snapshot.nics.iter().filter(|nic| nic.rx_queues.is_some());
        request.interfaces = known.map(|nic| nic.name.clone()).collect();
    }
}

fn load(source: &Source, nics: &[String], interfaces: &[String]) -> Result<Snapshot, SnapshotError> {
    match source {
        Source::Live => {
            // Described NICs need not exist on this machine.
            let described = |name: &String| nics.iter().any(|spec| spec.split(':').next() == Some(name.as_str()));
            let real: Vec<String> = interfaces.iter().filter(|name| !described(name)).cloned().collect();
            Snapshot::live(&real)
        }
        Source::Synthetic(text) => Snapshot::synthetic(text),
        Source::Hwloc(path) => Snapshot::from_hwloc_file(path),
        Source::Snapshot(path) => Snapshot::load(path),
    }
}

fn described(mut snapshot: Snapshot, nics: &[String]) -> Result<Snapshot, String> {
    nics.iter().try_for_each(|spec| snapshot.describe_nic(spec)).map_err(|e| e.to_string())?;
    Ok(snapshot)
}

/// Prints the changes, then makes exactly these changes.
fn apply(args: &PlanArgs, snapshot: &Snapshot, plan: &Plan, log: &mut dyn Write) -> Result<(), String> {
    let root = Path::new("/");
    let wanted = system_settings::settings(plan, snapshot, &args.apply, root);
    if wanted.is_empty() {
        return write(log, "nothing to apply");
    }
    write(log, "applying:")?;
    for setting in &wanted {
        write(log, &format!("  {setting}"))?;
    }
    if let Some(folder) = args.record.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("{}: cannot create the directory: {e}", folder.display()))?;
    }
    let count = system_settings::apply(&wanted, root, &args.record).map_err(|e| e.to_string())?;
    write(log, &format!("{count} applied; the previous values are in {}", args.record.display()))
}

fn load_plan(path: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: cannot read: {e}", path.display()))?;
    match serde_json::from_str(&text) {
        Ok(Answer::Plan(plan)) => Ok(plan),
        Ok(Answer::Refusal(_)) => Err(format!("{}: it contains a refusal; expected a plan", path.display())),
        Err(e) => Err(format!("{}: not a plan: {e}; to fix: create one with `oxide plan --json`", path.display())),
    }
}

pub(crate) fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| e.to_string())?;
    write(out, &text)
}

pub(crate) fn write(out: &mut dyn Write, text: &str) -> Result<(), String> {
    writeln!(out, "{text}").map_err(|e| format!("cannot write the output: {e}"))
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: cannot write: {e}", path.display()))
}
