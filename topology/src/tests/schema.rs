//! Checks that the published JSON schema describes the whole output.

use serde_json::Value;

use super::machines::{machine, nic, snapshot};
use crate::cli::{Answer, PLAN_JSON_SCHEMA};
use crate::*;

/// Implements the subset of JSON Schema that the schema uses; returns the first violation.
fn violation(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#')).unwrap();
        return violation(root, target, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| violation(root, choice, value, at).is_none()).count();
        return (fits != 1).then(|| format!("{at}: fits {fits} of the choices"));
    }
    if let Some(list) = schema["enum"].as_array() {
        return (!list.contains(value)).then(|| format!("{at}: {value} is not listed"));
    }
    if !schema["const"].is_null() {
        return (schema["const"] != *value).then(|| format!("{at}: {value} is another constant"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = &schema["type"];
    if allowed != kind && !allowed.as_array().is_some_and(|list| list.iter().any(|t| t == kind)) {
        return Some(format!("{at}: {kind}, not {allowed}"));
    }
    match value {
        Value::Array(items) => {
            items.iter().find_map(|item| violation(root, &schema["items"], item, &format!("{at}[]")))
        }
        Value::Object(fields) => {
            let required = schema["required"].as_array().unwrap();
            let missing = required.iter().find(|name| !fields.contains_key(name.as_str().unwrap()));
            missing.map(|name| format!("{at}: no {name}")).or_else(|| {
                fields.iter().find_map(|(name, field)| match schema["properties"].get(name) {
                    None => Some(format!("{at}: {name} is not in the schema")),
                    Some(schema) => violation(root, schema, field, &format!("{at}.{name}")),
                })
            })
        }
        _ => None,
    }
}

#[test]
fn plans_and_refusals_fit_the_schema() {
    let schema: Value = serde_json::from_str(PLAN_JSON_SCHEMA).unwrap();
    let fits = |answer: &Answer| violation(&schema, &schema, &serde_json::to_value(answer).unwrap(), "answer");
    let mut s = snapshot(machine(2, 2, 2), vec![nic("eth0", Some(0), 9), nic("eth1", None, 2)]);
    let request = PlanRequest::new(vec!["eth1".into(), "eth0".into()], 4 << 20);
    let good = plan(&s, &request).unwrap();
    assert!(good.warnings.len() > 2);
    assert_eq!(fits(&Answer::Plan(good)), None);
    s.nics[0].mtu = Some(9000);
    assert_eq!(fits(&Answer::Refusal(plan(&s, &request).unwrap_err())), None);
    assert!(violation(&schema, &schema, &serde_json::json!({"plan": {"schema": 3}}), "answer").is_some());
}

#[test]
fn every_code_is_in_the_schema() {
    // The enums are `non_exhaustive` lists in source order; the test reads their names from the source.
    let schema: Value = serde_json::from_str(PLAN_JSON_SCHEMA).unwrap();
    for (source, name, of) in [
        (include_str!("../plan/mod.rs"), "DecisionCode", "decision"),
        (include_str!("../plan/mod.rs"), "WarningCode", "warning"),
        (include_str!("../plan/refusal.rs"), "ReasonCode", "reason"),
    ] {
        let body = source.split(&format!("pub enum {name} {{")).nth(1).unwrap().split("\n}").next().unwrap();
        let variants =
            body.lines().filter_map(|line| line.trim().strip_suffix(',')).filter(|l| !l.starts_with("//")).count();
        let listed = schema["$defs"][of]["properties"]["code"]["enum"].as_array().unwrap().len();
        assert_eq!(listed, variants, "{name}: topology/schema/plan.json lists {listed} of {variants}");
    }
}
