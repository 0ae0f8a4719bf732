//! Implements `oxide plan` and `oxide doctor`: passes the command line to the topology crate.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use oxide_relay::config::{Config, EngineConfig};
use oxide_topology::PlanRequest;
use oxide_topology::cli::{self, DoctorArgs, Format, PlanArgs, RECORD, Source};
use oxide_topology::doctor::{OwnRelay, Traffic};
use oxide_topology::system_settings::SettingKind;

use crate::out::{Errors, Out};
use crate::preflight;

/// Selects the machine and the requirements.
#[derive(Args)]
pub(crate) struct Subject {
    /// Take interfaces and requirements from this configuration.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Interface to serve (repeatable); replaces those of the configuration.
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// Plan another machine, in hwloc's synthetic form: "pack:2 numa:1 core:16 pu:2".
    #[arg(long, value_name = "STRING", group = "machine")]
    topology: Option<String>,
    /// Plan another machine, from hwloc's XML (lstopo file.xml).
    #[arg(long, value_name = "FILE", group = "machine")]
    hwloc: Option<PathBuf>,
    /// Plan another machine, from a saved snapshot.
    #[arg(long, value_name = "FILE", group = "machine")]
    snapshot: Option<PathBuf>,
    /// Describe a NIC: NAME:node=N,queues=Q,speed=S,driver=D (repeatable).
    #[arg(long = "nic", value_name = "NIC")]
    nics: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Subject {
    fn source(&self) -> Source {
        match (&self.topology, &self.hwloc, &self.snapshot) {
            (Some(text), ..) => Source::Synthetic(text.clone()),
            (_, Some(file), _) => Source::Hwloc(file.clone()),
            (.., Some(file)) => Source::Snapshot(file.clone()),
            _ => Source::Live,
        }
    }

    /// Returns the relay's ports and upstreams, for the doctor.
    fn traffic(&self) -> Result<Traffic, String> {
        let Some(path) = &self.config else { return Ok(Traffic::default()) };
        Ok(preflight::traffic(&Config::load(path).map_err(|e| e.to_string())?))
    }

    /// Returns the running relay of the configuration, for the doctor.
    fn own(&self) -> Option<OwnRelay> {
        let path = self.config.as_ref().filter(|_| self.source() == Source::Live)?;
        preflight::own_relay(&Config::load(path).ok()?, path)
    }

    fn request(&self) -> Result<PlanRequest, String> {
        let mut engine = match &self.config {
            Some(path) => Config::load(path).map_err(|e| e.to_string())?.engine,
            None => EngineConfig::default(),
        };
        if !self.interfaces.is_empty() {
            engine.interfaces.clone_from(&self.interfaces);
        }
        if self.source() == Source::Live {
            engine.interfaces = oxide_topology::real_names(&engine.interfaces);
        }
        // The request counts rings and frames for each interface, and a described machine may name none.
        let interfaces = engine.interfaces.clone();
        if engine.interfaces.is_empty() {
            engine.interfaces = self.nics.iter().map(|nic| nic.split(':').next().unwrap_or(nic).to_owned()).collect();
        }
        let request = oxide::engine::request(&engine).map_err(|e| e.to_string())?;
        Ok(PlanRequest { interfaces, ..request })
    }
}

#[derive(Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    subject: Subject,
    /// Print the machine as a tree instead of a table of actors.
    #[arg(long)]
    tree: bool,
    /// Print every decision with its reason.
    #[arg(long)]
    explain: bool,
    /// Write a drawing of the machine, its queues, cores and memory.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Save the snapshot of this machine, to plan it elsewhere.
    #[arg(long, value_name = "FILE")]
    save_snapshot: Option<PathBuf>,
    /// Show the differences from a plan saved with --json.
    #[arg(long, value_name = "FILE")]
    diff: Option<PathBuf>,
    /// Print and apply the system settings that the plan recommends (repeatable). Default: none.
    #[arg(long, value_name = "SETTING")]
    apply: Vec<Setting>,
    /// Restore what --apply changed.
    #[arg(long, conflicts_with = "apply")]
    undo: bool,
    /// File in which --apply records the previous values.
    #[arg(long, value_name = "FILE", default_value = RECORD)]
    record: PathBuf,
}

/// Lists the system settings that can be applied.
#[derive(Clone, Copy, ValueEnum)]
enum Setting {
    HugePages,
    IrqAffinity,
}

impl From<Setting> for SettingKind {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::HugePages => SettingKind::HugePages,
            Setting::IrqAffinity => SettingKind::IrqAffinity,
        }
    }
}

#[derive(Args)]
pub(crate) struct DoctorCommand {
    #[command(flatten)]
    subject: Subject,
    /// Also send packets through the real backend, on a veth pair in a new network namespace (needs root).
    #[arg(long)]
    self_test: bool,
}

pub(crate) fn plan(command: &PlanCommand) -> Result<ExitCode, String> {
    let (mut out, mut errors) = (Out, Errors);
    if command.undo {
        return Ok(cli::undo_command(&command.record, &mut out, &mut errors).into());
    }
    let subject = &command.subject;
    let args = PlanArgs {
        source: subject.source(),
        nics: subject.nics.clone(),
        format: match (subject.json, command.tree) {
            (true, _) => Format::Json,
            (false, true) => Format::Tree,
            (false, false) => Format::Table,
        },
        explain: command.explain,
        svg: command.svg.clone(),
        save_snapshot: command.save_snapshot.clone(),
        diff: command.diff.clone(),
        apply: command.apply.iter().copied().map(SettingKind::from).collect(),
        record: command.record.clone(),
        ..PlanArgs::new(subject.request()?)
    };
    let text = args.format == Format::Table;
    let exit = cli::plan_command(&args, &mut out, &mut errors);
    if text && let Some(path) = &subject.config {
        sessions(&Config::load(path).map_err(|e| e.to_string())?);
    }
    Ok(exit.into())
}

/// Prints the memory that the sessions of a configuration need.
fn sessions(config: &Config) {
    let capacity = config.sessions.capacity;
    let bytes = oxide_relay::table_bytes(capacity) as f64;
    let (each, all) = (bytes / f64::from(capacity.max(1)), bytes / f64::from(1 << 20));
    outln!(
        "\nsessions   {capacity}, {each:.0} bytes each with their index; tables of {all:.1} MiB, allocated at start, \
         an equal part for each queue\n           {}",
        config.session_bound()
    );
}

pub(crate) fn doctor(command: &DoctorCommand) -> Result<ExitCode, String> {
    let subject = &command.subject;
    let args = DoctorArgs {
        source: subject.source(),
        nics: subject.nics.clone(),
        request: subject.request()?,
        traffic: subject.traffic()?,
        own: subject.own(),
        self_test: command.self_test.then_some(oxide_cli::self_test::run as fn() -> _),
        json: subject.json,
    };
    let exit = cli::doctor_command(&args, &mut Out, &mut Errors);
    if let Some(path) = subject.config.as_ref().filter(|_| !subject.json) {
        let config = Config::load(path).map_err(|e| e.to_string())?;
        outln!("sessions: {}", config.session_bound());
    }
    Ok(exit.into())
}
