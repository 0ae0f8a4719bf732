//! `oxide plan` and `oxide doctor` without their argument parser: what they read, print and answer. The
//! program only has to fill [`PlanArgs`] or [`DoctorArgs`].

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::doctor::{CheckStatus, OwnRelay, Probes, SelfTestStep, Traffic, doctor, self_test_checks, worst};
use crate::plan::{Plan, Refusal, plan};
use crate::request::PlanRequest;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::system_settings::{self, SettingKind};

/// Where applied settings are recorded unless told otherwise.
pub const RECORD: &str = "/var/lib/oxide/applied.jsonl";

/// JSON Schema (2020-12) of [`Answer`]: what `oxide plan --json` prints.
pub const PLAN_JSON_SCHEMA: &str = include_str!("../schema/plan.json");

/// Which machine to plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This one.
    Live,
    /// An hwloc synthetic description (`--topology`).
    Synthetic(String),
    /// An hwloc XML file (`--hwloc`).
    Hwloc(PathBuf),
    /// A saved snapshot (`--snapshot`).
    Snapshot(PathBuf),
}

/// How to show the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table of actors, then warnings.
    Table,
    /// The machine as a tree.
    Tree,
    /// [`Answer`] as JSON.
    Json,
}

/// What `oxide plan` was asked.
#[derive(Debug, Clone)]
pub struct PlanArgs {
    /// Which machine.
    pub source: Source,
    /// `--nic NAME:node=N,queues=Q,speed=S,driver=D`, in order.
    pub nics: Vec<String>,
    /// The wish. Without interfaces, on a described machine, all its NICs whose queues are known.
    pub request: PlanRequest,
    /// How to show it.
    pub format: Format,
    /// Whether the table is followed by every decision with its reason.
    pub explain: bool,
    /// Where to write the picture.
    pub svg: Option<PathBuf>,
    /// Where to write the snapshot that was planned.
    pub save_snapshot: Option<PathBuf>,
    /// A plan saved with `--json` to compare with; the difference is shown instead of the plan.
    pub diff: Option<PathBuf>,
    /// System settings to apply for the plan, on this machine only (`--apply huge-pages`). None by default.
    pub apply: Vec<SettingKind>,
    /// Where what they replaced is recorded, for [`undo_command`].
    pub record: PathBuf,
}

/// What `oxide doctor` was asked.
#[derive(Debug, Clone)]
pub struct DoctorArgs {
    /// Which machine; of another one than this, what only a look at it tells is unknown.
    pub source: Source,
    /// Descriptions of NICs, as in [`PlanArgs`].
    pub nics: Vec<String>,
    /// The wish to check.
    pub request: PlanRequest,
    /// The relay's ports and upstreams; empty without a configuration.
    pub traffic: Traffic,
    /// The relay of the configuration, if it runs.
    pub own: Option<OwnRelay>,
    /// Sends packets through the real backend and says how each step went (`--self-test`).
    pub self_test: Option<fn() -> Vec<SelfTestStep>>,
    /// JSON instead of lines.
    pub json: bool,
}

impl PlanArgs {
    /// `request` on this machine, as a table.
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

/// Plan or refusal, as JSON: `{"plan": {...}}` or `{"refusal": {...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// There is a plan.
    Plan(Plan),
    /// There is none.
    Refusal(Refusal),
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: a plan, or all checks passed.
    Good,
    /// 1: input that cannot be used, or a check warns.
    Unusable,
    /// 2: a refusal, or a check fails.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Runs `oxide plan`: the plan on `out`, everything else on `errors`. Changes nothing but the files that
/// were named, and the settings that were asked for.
pub fn plan_command(args: &PlanArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = run(args, out, errors);
    end(result, errors)
}

/// Runs `oxide doctor`: one paragraph for each check, or JSON. Changes nothing.
pub fn doctor_command(args: &DoctorArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = examine(args, out);
    end(result, errors)
}

/// Runs `oxide plan --undo`: puts back what `--apply` recorded in `record`.
pub fn undo_command(record: &Path, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    let result = system_settings::undo(Path::new("/"), record)
        .map_err(|e| e.to_string())
        .and_then(|count| write(out, &format!("{count} settings put back")))
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
        return Err("--self-test is for this machine only; leave --topology, --hwloc and --snapshot away".into());
    }
    let names = &args.request.interfaces;
    let snapshot = match load(&args.source, &args.nics, names) {
        // An interface that is not there is a finding, not an end.
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
        return Err("--apply is for this machine only; leave --topology, --hwloc, --snapshot and --nic away".into());
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
                // The output may be JSON: what is done is told beside it.
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

/// Without interfaces, on a described machine: all whose queues are known.
fn fill_interfaces(request: &mut PlanRequest, snapshot: &Snapshot, live: bool) {
    if request.interfaces.is_empty() && !live {
        let known = snapshot.nics.iter().filter(|nic| nic.rx_queues.is_some());
        request.interfaces = known.map(|nic| nic.name.clone()).collect();
    }
}

fn load(source: &Source, nics: &[String], interfaces: &[String]) -> Result<Snapshot, SnapshotError> {
    match source {
        Source::Live => {
            // NICs that are described need not be here.
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

/// Prints what will be done, then does that and nothing else.
fn apply(args: &PlanArgs, snapshot: &Snapshot, plan: &Plan, told: &mut dyn Write) -> Result<(), String> {
    let root = Path::new("/");
    let wanted = system_settings::settings(plan, snapshot, &args.apply, root);
    if wanted.is_empty() {
        return write(told, "nothing to apply");
    }
    write(told, "applying:")?;
    for setting in &wanted {
        write(told, &format!("  {setting}"))?;
    }
    if let Some(folder) = args.record.parent() {
        std::fs::create_dir_all(folder).map_err(|e| format!("making {}: {e}", folder.display()))?;
    }
    let count = system_settings::apply(&wanted, root, &args.record).map_err(|e| e.to_string())?;
    write(told, &format!("{count} applied; what they replaced is in {}", args.record.display()))
}

fn load_plan(path: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("reading {}: {e}", path.display()))?;
    match serde_json::from_str(&text) {
        Ok(Answer::Plan(plan)) => Ok(plan),
        Ok(Answer::Refusal(_)) => Err(format!("{} is a refusal, there is no plan to compare with", path.display())),
        Err(e) => Err(format!("{} is not a plan: {e}; make one with `oxide plan --json`", path.display())),
    }
}

pub(crate) fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| e.to_string())?;
    write(out, &text)
}

pub(crate) fn write(out: &mut dyn Write, text: &str) -> Result<(), String> {
    writeln!(out, "{text}").map_err(|e| format!("writing the output: {e}"))
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()))
}
