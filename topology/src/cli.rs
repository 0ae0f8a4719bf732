//! `oxide plan` without its argument parser: what it reads, prints and answers. The program only has
//! to fill [`PlanArgs`].

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Refusal, plan};
use crate::request::Request;
use crate::snapshot::Snapshot;

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
    pub request: Request,
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
}

impl PlanArgs {
    /// `request` on this machine, as a table.
    #[must_use]
    pub fn new(request: Request) -> Self {
        Self {
            source: Source::Live,
            nics: Vec::new(),
            request,
            format: Format::Table,
            explain: false,
            svg: None,
            save_snapshot: None,
            diff: None,
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
/// were named.
pub fn plan_command(args: &PlanArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Exit {
    match run(args, out, errors) {
        Ok(exit) => exit,
        Err(error) => {
            let _ = writeln!(errors, "error: {error}");
            Exit::Unusable
        }
    }
}

fn run(args: &PlanArgs, out: &mut dyn Write, errors: &mut dyn Write) -> Result<Exit, String> {
    let snapshot = snapshot(args)?;
    if let Some(path) = &args.save_snapshot {
        write_file(path, &snapshot.to_json())?;
    }
    let mut request = args.request.clone();
    if request.interfaces.is_empty() && args.source != Source::Live {
        let known = snapshot.nics.iter().filter(|nic| nic.rx_queues.is_some());
        request.interfaces = known.map(|nic| nic.name.clone()).collect();
    }
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
        Answer::Plan(plan) => show(args, &snapshot, &plan, out),
    }
}

fn show(args: &PlanArgs, snapshot: &Snapshot, plan: &Plan, out: &mut dyn Write) -> Result<Exit, String> {
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
        return Ok(Exit::Good);
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
    Ok(Exit::Good)
}

fn snapshot(args: &PlanArgs) -> Result<Snapshot, String> {
    // Of this machine, NICs that are only described need not be here.
    let described = |name: &&String| args.nics.iter().any(|spec| spec.split(':').next() == Some(name.as_str()));
    let mut snapshot = match &args.source {
        Source::Live => {
            let real: Vec<String> = args.request.interfaces.iter().filter(|name| !described(name)).cloned().collect();
            Snapshot::live(&real)
        }
        Source::Synthetic(text) => Snapshot::synthetic(text),
        Source::Hwloc(path) => Snapshot::from_hwloc_file(path),
        Source::Snapshot(path) => Snapshot::load(path),
    }
    .map_err(|e| e.to_string())?;
    for spec in &args.nics {
        snapshot.describe_nic(spec).map_err(|e| e.to_string())?;
    }
    Ok(snapshot)
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
