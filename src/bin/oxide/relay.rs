//! `oxide relay`: the ready relay, from configuration to last report.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use oxide::config::{Config, ephemeral_ports};
use oxide::engine::{Engine, EngineStatus, read_tables};
use oxide::relay::{RelayPlan, UdpRelay};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How often the report is written.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long packets that are under way may take after a SIGTERM. Sessions of a datagram relay never
/// end by themselves, so there is nothing else to wait for.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Every queue has failed: a service manager should start the process again.
const ALL_FAILED: u8 = 3;

pub(crate) fn relay(path: &Path, report: Option<&Path>) -> Result<ExitCode, String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    for warning in config.warnings(ephemeral_ports()) {
        tracing::warn!("{warning}");
    }
    if config.relays.is_empty() {
        return Err(format!("{}: no [[relay]] entry: nothing to relay (see `oxide config example`)", path.display()));
    }
    // Before anything is opened, so that a Ctrl-C at any moment ends in order.
    let signals = signals().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let tables = read_tables().map_err(|e| e.to_string())?;
    let own: Vec<_> = tables.links.iter().flat_map(|link| &link.addresses).map(|(address, _)| *address).collect();
    let plan = Arc::new(RelayPlan::new(&config, &own).map_err(|e| e.to_string())?);
    for warning in plan.warnings(&tables) {
        tracing::warn!("{warning}");
    }
    let (handlers, destinations) = (Arc::clone(&plan), Arc::clone(&plan));
    let engine = Engine::builder(config.engine.clone(), move |info| UdpRelay::new(&handlers, info))
        .destinations(move |tables| destinations.destinations(tables))
        .start()
        .map_err(|e| e.to_string())?;
    let queues = engine.plan().actors.iter().map(|actor| actor.queue + 1).max().unwrap_or(1);
    plan.check_queues(queues).map_err(|e| e.to_string())?;
    crate::faults::listen(engine.handle());
    print_summary(&config, &engine);

    let code = loop {
        let status = engine.status();
        write_report(report, &status)?;
        if status.queues.iter().all(|queue| queue.state.starts_with("failed")) {
            tracing::error!("every queue has failed");
            break ExitCode::from(ALL_FAILED);
        }
        match signals.recv_timeout(REPORT_EVERY) {
            Ok(signal) => {
                tracing::info!(signal, "stopping; a second signal does not wait");
                break ExitCode::SUCCESS;
            }
            Err(flume::RecvTimeoutError::Timeout) => {}
            Err(flume::RecvTimeoutError::Disconnected) => return Err("the signal thread ended".to_owned()),
        }
    };
    // A second signal ends the process at once; the kernel takes program and sockets back.
    std::thread::spawn(move || {
        if signals.recv().is_ok() {
            std::process::exit(130);
        }
    });
    let status = engine.stop(STOP_WITHIN);
    write_report(report, &status)?;
    Ok(if status.balanced && status.unaccounted == 0 { code } else { ExitCode::FAILURE })
}

fn signals() -> std::io::Result<flume::Receiver<i32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let (tell, heard) = flume::bounded(4);
    std::thread::Builder::new().name("oxide-signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let _ = tell.try_send(signal);
        }
    })?;
    Ok(heard)
}

/// What runs, where, and how well: at most fifteen lines, for whoever started it.
fn print_summary(config: &Config, engine: &Engine) {
    let status = engine.status();
    let ready = status.start_to_ready_ms.unwrap_or_default();
    eprintln!("oxide {} ready in {ready:.0} ms", env!("CARGO_PKG_VERSION"));
    for queue in status.queues.iter().take(3) {
        let cpu = queue.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
        for mode in &queue.mode {
            let why = if mode.reason.is_empty() { String::new() } else { format!(": {}", mode.reason) };
            eprintln!(
                "  queue {} on CPU {cpu}, {}: {} ({}){why}",
                queue.queue, queue.executor, mode.mode, mode.interface
            );
        }
    }
    if status.queues.len() > 3 {
        eprintln!("  and {} more queues", status.queues.len() - 3);
    }
    if let Some(pages) = status.queues.first().and_then(|queue| queue.pages.as_ref()) {
        let why = pages.fallback.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        eprintln!("  packet memory: {:?} pages{why}", pages.kind);
    }
    for (queue, difference) in status.queues.iter().flat_map(|q| q.differences.iter().map(|d| (q.queue, d))).take(2) {
        eprintln!("  not as planned: queue {queue}: {difference}");
    }
    for note in engine.notes().iter().take(2) {
        eprintln!("  {note}");
    }
    for relay in config.relays.iter().take(2) {
        let upstreams: Vec<_> = relay.upstreams.iter().take(3).map(ToString::to_string).collect();
        eprintln!("  {}: {} -> {}", relay.name, relay.listen, upstreams.join(", "));
    }
    if config.relays.len() > 2 {
        eprintln!("  and {} more relays", config.relays.len() - 2);
    }
}

/// Whole or not at all: a reader never sees half a report.
fn write_report(to: Option<&Path>, status: &EngineStatus) -> Result<(), String> {
    let Some(path) = to else { return Ok(()) };
    let failed = |e: &dyn std::fmt::Display| format!("cannot write the report {}: {e}", path.display());
    let text = serde_json::to_vec_pretty(status).map_err(|e| failed(&e))?;
    let beside = path.with_extension("tmp");
    let write = || {
        std::fs::File::create(&beside)?.write_all(&text)?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|e: std::io::Error| failed(&e))
}
