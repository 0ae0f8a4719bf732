//! What runs, where, and how well: for whoever started it.

use oxide::engine::Engine;
use oxide_relay::config::Config;

/// Lines of the summary at most.
const MOST: usize = 15;

/// At most fifteen lines; `doors` are where operators reach it, `notes` what else they should know.
pub(super) fn print(config: &Config, engine: &Engine, doors: &[String], notes: &[String]) {
    for line in lines(config, engine, doors, notes) {
        crate::log::line(&line);
    }
}

fn lines(config: &Config, engine: &Engine, doors: &[String], notes: &[String]) -> Vec<String> {
    let status = engine.status();
    let ready = status.start_to_ready_ms.unwrap_or_default();
    let mut lines = vec![format!("oxide {} ready in {ready:.0} ms", env!("CARGO_PKG_VERSION"))];
    for queue in status.queues.iter().take(2) {
        let cpu = queue.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
        for mode in queue.mode.iter().take(2) {
            let why = if mode.reason.is_empty() { String::new() } else { format!(": {}", mode.reason) };
            let (number, executor, interface) = (queue.queue, &queue.executor, &mode.interface);
            lines.push(format!("  queue {number} on CPU {cpu}, {executor}: {} ({interface}){why}", mode.mode));
        }
    }
    if status.queues.len() > 2 {
        lines.push(format!("  and {} more queues", status.queues.len() - 2));
    }
    if let Some(pages) = status.queues.first().and_then(|queue| queue.pages.as_ref()) {
        let why = pages.fallback.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        lines.push(format!("  packet memory: {:?} pages{why}", pages.kind));
    }
    let differences = status.queues.iter().flat_map(|q| q.differences.iter().map(|d| (q.queue, d)));
    lines.extend(differences.take(1).map(|(queue, it)| format!("  not as planned: queue {queue}: {it}")));
    for relay in config.relays.iter().take(2) {
        let upstreams: Vec<_> = relay.upstreams.iter().take(3).map(ToString::to_string).collect();
        lines.push(format!("  {}: {} -> {}", relay.name, relay.listen, upstreams.join(", ")));
    }
    if config.relays.len() > 2 {
        lines.push(format!("  and {} more relays", config.relays.len() - 2));
    }
    lines.push(format!("  {}", if doors.is_empty() { "no way in for operators".to_owned() } else { doors.join(", ") }));
    let notes = notes.iter().chain(engine.notes()).map(|note| format!("  {note}"));
    lines.extend(notes);
    lines.truncate(MOST);
    lines
}
