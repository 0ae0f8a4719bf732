//! Tests that docs/planning.md shows the real plan and lists every doctor check.
#![allow(clippy::unwrap_used)]

use oxide_topology::cli::{Answer, DoctorArgs, Exit, Format, PlanArgs, Source, doctor_command, plan_command};
use oxide_topology::doctor::Traffic;
use oxide_topology::{PlanChange, PlanRequest, Snapshot};

const DOC: &str = include_str!("../docs/planning.md");
const PICTURE: &str = include_str!("../docs/planning.svg");

/// Returns the arguments of the command in the worked case.
fn worked_case() -> PlanArgs {
    let word = |option: &str| DOC.split(option).nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap().to_owned();
    // Without a configuration the command uses the engine's defaults.
    let engine = oxide::config::EngineConfig::new(["eth0", "eth1"]);
    let mut args = PlanArgs::new(oxide::engine::request(&engine).unwrap());
    args.source = Source::Synthetic(word("oxide plan --topology"));
    let command = DOC.split("oxide plan --topology").nth(1).unwrap().split("```").next().unwrap();
    args.nics = command.split("--nic ").skip(1).map(|nic| nic.split_whitespace().next().unwrap().to_owned()).collect();
    args
}

fn run(args: &PlanArgs) -> (Exit, String, String) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let exit = plan_command(args, &mut out, &mut errors);
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap())
}

#[test]
fn documented_plan_equals_output() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("plan.svg");
    let (exit, out, errors) = run(&PlanArgs { svg: Some(svg.clone()), ..worked_case() });
    assert_eq!((exit, errors.as_str()), (Exit::Good, ""));
    let shown = DOC.split("<!-- worked case").nth(1).unwrap().split("```").nth(1).unwrap();
    assert_eq!(out.trim(), shown.trim(), "docs/planning.md shows an outdated plan");
    let drawn = std::fs::read_to_string(svg).unwrap();
    assert!(drawn == PICTURE, "docs/planning.svg is outdated; to fix: cargo run --example dry_run docs/planning.svg");
}

#[test]
fn every_doctor_check_has_its_anchor() {
    for id in oxide_topology::doctor::CHECKS {
        assert!(DOC.contains(&format!("<a id=\"doctor-{id}\">")), "docs/planning.md has no anchor for {id}");
    }
}

#[test]
fn plan_survives_save_and_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let saved = PlanArgs { save_snapshot: Some(path("machine.json")), format: Format::Json, ..worked_case() };
    let (exit, json, _) = run(&saved);
    assert_eq!(exit, Exit::Good);
    assert!(matches!(serde_json::from_str(&json), Ok(Answer::Plan(_))));
    std::fs::write(path("plan.json"), &json).unwrap();

    let again = PlanArgs { source: Source::Snapshot(path("machine.json")), nics: Vec::new(), ..saved.clone() };
    assert_eq!(run(&again).1, json);
    let same = PlanArgs { diff: Some(path("plan.json")), format: Format::Table, ..again.clone() };
    assert_eq!(run(&same).1.trim(), "no difference");

    let fewer = PlanArgs { nics: vec!["eth1:queues=15".into()], format: Format::Json, ..same };
    let changes: Vec<PlanChange> = serde_json::from_str(&run(&fewer).1).unwrap();
    // The interfaces have 15 queues in common.
    let gone: Vec<_> = changes.iter().filter(|change| change.subject == "queue 15").collect();
    assert_eq!(gone.iter().map(|change| change.after.as_deref()).collect::<Vec<_>>(), [None]);
}

#[test]
fn exit_codes_distinguish_refusal_from_bad_input() {
    let args = PlanArgs { nics: vec!["eth0:queues=0,mtu=1500".into()], ..worked_case() };
    let (exit, out, errors) = run(&args);
    assert_eq!((exit, out.as_str()), (Exit::Refused, ""));
    assert!(errors.contains("remedy: ethtool -L eth0 combined 1"), "{errors}");
    let (exit, out, _) = run(&PlanArgs { format: Format::Json, ..args });
    assert_eq!(exit, Exit::Refused);
    assert!(matches!(serde_json::from_str(&out), Ok(Answer::Refusal(_))));
    let bad = [
        PlanArgs { source: Source::Synthetic("pack:0".into()), ..worked_case() },
        PlanArgs { source: Source::Hwloc("/nonexistent.xml".into()), ..worked_case() },
        PlanArgs { nics: vec!["eth0:speed=fast".into()], ..worked_case() },
        PlanArgs { diff: Some("/nonexistent.json".into()), ..worked_case() },
        PlanArgs { apply: vec![oxide_topology::system_settings::SettingKind::HugePages], ..worked_case() },
    ];
    for args in bad {
        let (exit, _, errors) = run(&args);
        assert_eq!(exit, Exit::Unusable);
        assert!(errors.starts_with("error: "), "{errors}");
    }
}

#[test]
fn doctor_checks_this_and_described_machines() {
    let args = |source, name: &str| DoctorArgs {
        source,
        nics: Vec::new(),
        request: PlanRequest::new(vec![name.into()], 1 << 20),
        traffic: Traffic::default(),
        self_test: None,
        own: None,
        json: true,
    };
    let mut out = Vec::new();
    let exit = doctor_command(&args(Source::Live, "no-such-nic"), &mut out, &mut Vec::new());
    assert_eq!(exit, Exit::Refused);
    let checks: Vec<oxide_topology::doctor::Check> = serde_json::from_slice(&out).unwrap();
    assert!(checks.iter().any(|check| check.id == "nic-exists" && check.remedy.is_some()));

    let machine = Snapshot::synthetic("pack:1 core:4 pu:1").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("machine.json");
    std::fs::write(&file, machine.to_json()).unwrap();
    let described = DoctorArgs { nics: vec!["x0:queues=2,mtu=1500".into()], ..args(Source::Snapshot(file), "x0") };
    let mut out = Vec::new();
    doctor_command(&described, &mut out, &mut Vec::new());
    let checks: Vec<oxide_topology::doctor::Check> = serde_json::from_slice(&out).unwrap();
    let unseen = checks.iter().find(|check| check.id == "af-xdp").unwrap();
    assert_eq!(unseen.status, oxide_topology::doctor::CheckStatus::Unknown);
}
