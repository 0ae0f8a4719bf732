//! Checks a configuration against this host, for the start, for `config check` and for the doctor.

use std::path::Path;
use std::time::Duration;

use oxide_cli::admin::protocol::ControlRequest;
use oxide_cli::admin::{Client, default_socket};
use oxide_relay::config::{Config, ListenSetting};
use oxide_topology::doctor::{Check, CheckStatus, OwnRelay, Traffic, preflight};
use serde_json::Value;

/// Maximum wait for an answer of a running relay.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Returns what the relay of `config` sends and receives.
pub(crate) fn traffic(config: &Config) -> Traffic {
    let ports = config.sessions.source_ports.ranges();
    let mut traffic = Traffic { source_ports: ports.iter().map(|&range| range.into()).collect(), ..Traffic::default() };
    for relay in &config.relays {
        traffic.listens.push((relay.listen.ip(), relay.listen.port()));
        traffic.upstreams.extend(relay.upstreams.iter().map(|upstream| upstream.ip()));
    }
    traffic
}

/// Refuses a configuration without entries.
pub(crate) fn entries(config: &Config, path: &Path) -> Result<(), String> {
    if config.relays.is_empty() {
        return Err(format!("{}: no [[relay]] entry; to fix: add one (see `oxide config example`)", path.display()));
    }
    Ok(())
}

/// Returns the mismatches with this host. If the host has none of the interfaces, the file may be for another host,
/// and the result is one message.
pub(crate) fn of_host(config: &Config) -> Vec<String> {
    let checks = checks(config);
    let interfaces = &config.engine.interfaces;
    let absent = checks.iter().filter(|check| check.id == "nic-exists").count();
    if absent == interfaces.len() {
        let names = interfaces.join(", ");
        return vec![format!(
            "engine.interfaces: none of {names} exists on this host; checks of the host were skipped"
        )];
    }
    checks.iter().map(text).collect()
}

/// Logs the mismatches with this host.
pub(crate) fn log(config: &Config) {
    for Check { subject, observed, remedy, .. } in checks(config) {
        let remedy = remedy.unwrap_or_default();
        tracing::warn!(subject, remedy, "{observed}");
    }
}

fn checks(config: &Config) -> Vec<Check> {
    let interfaces = oxide_topology::real_names(&config.engine.interfaces);
    let mut checks = preflight(&interfaces, &traffic(config));
    checks.retain(|check| matches!(check.status, CheckStatus::Warn | CheckStatus::Fail));
    checks
}

fn text(Check { subject, observed, remedy, .. }: &Check) -> String {
    let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}"));
    format!("{subject}: {observed}{remedy}")
}

/// Requests the status of the relay that was started with the file at `path`. Returns `None` if none answers.
pub(crate) fn own_relay(config: &Config, path: &Path) -> Option<OwnRelay> {
    let socket = match &config.admin.socket {
        ListenSetting::Off => return None,
        ListenSetting::At(socket) => socket.clone(),
        ListenSetting::Auto => default_socket(&path.file_stem()?.to_string_lossy()),
    };
    let status = Client::connect(&socket).ok()?.ask(&ControlRequest::Status {}, ANSWER_WITHIN).ok()?;
    Some(read_status(&status))
}

fn read_status(status: &Value) -> OwnRelay {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let queues = list(status, "queues");
    let port = |port: &Value| {
        let id = port.get("id")?;
        Some((id.get("interface")?.as_str()?.to_owned(), u32::try_from(id.get("queue")?.as_u64()?).ok()?))
    };
    let huge = |queue: &Value| queue.pointer("/pages/kind").and_then(Value::as_str) == Some("huge");
    OwnRelay {
        state: status.get("state").and_then(Value::as_str).unwrap_or_default().to_owned(),
        queues: queues.iter().flat_map(|queue| list(queue, "ports")).filter_map(|it| port(&it)).collect(),
        huge_pages: !queues.is_empty() && queues.iter().all(huge),
        notices: list(status, "notices").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}
