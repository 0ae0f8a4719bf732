//! Formats the engine's status as Prometheus text.

use oxide::engine::{EngineState, EngineStatus, LayerState, PortStatus, QueueState, QueueStatus};
use oxide::telemetry::{DropReason, Exposition, metrics as m};
use oxide::umem::RingSizes;

/// Number of seconds in a nanosecond.
const NS: f64 = 1e-9;
/// Upper limit of the first bucket of turn times, in ns.
const SHORTEST_TURN: u64 = 128;

/// Returns every metric of the registry that `status` has a value for.
#[must_use]
pub fn scrape(status: &EngineStatus) -> String {
    fill(status).into_text()
}

fn fill(status: &EngineStatus) -> Exposition {
    let mut out = Exposition::new();
    engine(&mut out, status);
    for queue in &status.queues {
        let name = queue.queue.to_string();
        traffic(&mut out, &name, queue);
        memory_and_loop(&mut out, &name, queue);
        supervision(&mut out, &name, queue);
        for port in &queue.ports {
            sockets(&mut out, port, &status.rings);
            let labels = [port.id.interface.as_str(), name.as_str()];
            out.set(&m::PORT_PAUSED, &labels, f64::from(u8::from(queue.paused.contains(&port.id))));
        }
    }
    for link in &status.links {
        out.set(&m::LINK_UP, &[&link.interface], f64::from(u8::from(link.up)));
    }
    for listed in &status.addresses {
        out.set(&m::ADDRESS_PRESENT, &[&listed.address.to_string()], f64::from(u8::from(listed.present)));
    }
    for interface in &status.steering {
        for (verdict, packets) in &interface.verdicts {
            out.set(&m::STEERED, &[&interface.interface, verdict], *packets as f64);
        }
    }
    out
}

fn engine(out: &mut Exposition, status: &EngineStatus) {
    out.set(&m::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    out.set(&m::UPTIME, &[], status.uptime_s);
    if let Some(ms) = status.start_to_ready_ms {
        out.set(&m::READY_SECONDS, &[], ms / 1e3);
    }
    for state in EngineState::ALL {
        out.set(&m::STATE, &[state.name()], f64::from(u8::from(state == status.state)));
    }
    for layer in &status.sandbox {
        for state in [LayerState::On, LayerState::Absent, LayerState::Off] {
            out.set(&m::SANDBOX_INFO, &[layer.name, state.name()], f64::from(u8::from(state == layer.state)));
        }
    }
    out.set(&m::UNACCOUNTED, &[], status.unaccounted as f64);
    out.set(&m::RESIDENT_BYTES, &[], status.process.rss_bytes as f64);
    out.set(&m::CPU_SECONDS, &["user"], status.process.cpu_user_s);
    out.set(&m::CPU_SECONDS, &["system"], status.process.cpu_system_s);
}

fn traffic(out: &mut Exposition, name: &str, queue: &QueueStatus) {
    let totals = &queue.totals;
    for (metric, value) in [
        (&m::RX_PACKETS, totals.rx_packets),
        (&m::RX_BYTES, totals.rx_bytes),
        (&m::TX_PACKETS, totals.tx_packets),
        (&m::TX_BYTES, totals.tx_bytes),
        (&m::HANDED_OVER, totals.handed_over),
        (&m::TAKEN_OVER, totals.taken_over),
        (&m::IN_HAND, queue.in_hand),
        (&m::SESSIONS, totals.sessions),
    ] {
        out.set(metric, &[name], value as f64);
    }
    for (event, count) in &queue.handler {
        out.set(&m::HANDLER_EVENTS, &[name, event], *count as f64);
    }
    // Reasons with zero drops are included: a rate needs the sample before the first drop.
    for &reason in DropReason::ALL {
        out.set(&m::DROPS, &[name, reason.stage(), reason.name()], totals.drops.of(reason) as f64);
    }
}

fn memory_and_loop(out: &mut Exposition, name: &str, queue: &QueueStatus) {
    let census = &queue.census;
    for (state, frames) in [
        ("free", census.free),
        ("receive", census.receive),
        ("app", census.app),
        ("transmit", census.transmit),
        ("written_off", census.written_off),
    ] {
        out.set(&m::FRAMES, &[name, state], f64::from(frames));
    }
    out.set(&m::UMEM_BYTES, &[name], queue.umem_bytes as f64);
    out.set(&m::HANDLER_BYTES, &[name], queue.memory_bytes as f64);
    out.histogram(&m::BATCH_SIZE, &[name], &queue.batch_sizes, 1, 1.0);
    out.histogram(&m::TURN_SECONDS, &[name], &queue.turn_ns, SHORTEST_TURN, NS);
    for (regime, ns) in queue.totals.regimes() {
        out.set(&m::LOOP_SECONDS, &[name, regime], ns as f64 * NS);
    }
    out.set(&m::WORK_SECONDS, &[name], queue.totals.work_ns as f64 * NS);
    out.set(&m::SYSCALLS, &[name, "kick"], queue.totals.kicks as f64);
    out.set(&m::SYSCALLS, &[name, "sleep"], queue.totals.sleeps as f64);
    if let Some(messages) = queue.control_depth {
        out.set(&m::CONTROL_DEPTH, &[name], messages as f64);
    }
}

fn supervision(out: &mut Exposition, name: &str, queue: &QueueStatus) {
    for state in QueueState::ALL {
        out.set(&m::QUEUE_STATE, &[name, state.name()], f64::from(u8::from(state == queue.state)));
    }
    for (scope, cause, count) in queue.restarts_by.iter() {
        out.set(&m::QUEUE_RESTARTS, &[name, scope.name(), cause.name()], count as f64);
    }
    if let Some(ms) = queue.last_gap_ms {
        out.set(&m::QUEUE_GAP, &[name], ms / 1e3);
    }
    out.set(&m::QUEUE_LOST, &[name], queue.last_lost as f64);
    out.set(&m::QUEUE_STALLED, &[name], f64::from(u8::from(queue.stalled)));
    if let Some(age) = queue.heartbeat_age_s {
        out.set(&m::HEARTBEAT_AGE, &[name], age);
    }
    for mode in &queue.mode {
        let yes = |it: bool| if it { "true" } else { "false" };
        let labels = [
            &mode.interface,
            name,
            mode.mode.name(),
            mode.attach,
            yes(mode.zero_copy),
            yes(mode.busy_polling),
            &mode.reason,
        ];
        out.set(&m::DATAPATH_INFO, &labels, 1.0);
    }
}

fn sockets(out: &mut Exposition, port: &PortStatus, rings: &RingSizes) {
    let (interface, queue) = (port.id.interface.as_str(), port.id.queue.to_string());
    let labels = [interface, queue.as_str()];
    for (metric, value) in [
        (&m::XSK_RX_DROPPED, port.kernel.rx_dropped),
        (&m::XSK_RX_RING_FULL, port.kernel.rx_ring_full),
        (&m::XSK_RX_INVALID, port.kernel.rx_invalid),
        (&m::XSK_TX_INVALID, port.kernel.tx_invalid),
        (&m::XSK_FILL_EMPTY, port.kernel.fill_empty),
        (&m::XSK_TX_EMPTY, port.kernel.tx_empty),
        (&m::BAD_DESCRIPTORS, port.counters.bad_descriptors),
    ] {
        out.set(metric, &labels, value as f64);
    }
    for (ring, ratio) in port.fullness(rings) {
        out.set(&m::RING_OCCUPANCY, &[interface, &queue, ring], ratio);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use oxide::engine::sample;

    #[test]
    fn every_metric_of_the_registry_is_scraped() {
        let out = fill(&sample::status());
        let missing: Vec<_> = m::ALL.iter().filter(|metric| !out.has(metric)).map(|metric| metric.name).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// Checks that another parser reads the Prometheus format, and that the invariants hold in the result.
    #[test]
    fn exposition_parses_and_accounts_for_every_packet() {
        let text = scrape(&sample::status());
        let parsed = prometheus_parse::Scrape::parse(text.lines().map(|l| Ok(l.to_owned()))).unwrap();
        let value = |name: &str, queue: &str| -> f64 {
            let samples = parsed.samples.iter().filter(|s| s.metric == name && s.labels.get("queue") == Some(queue));
            samples
                .map(|s| match s.value {
                    prometheus_parse::Value::Counter(v) | prometheus_parse::Value::Gauge(v) => v,
                    ref other => panic!("{name}: {other:?}"),
                })
                .sum()
        };
        for queue in ["0", "1"] {
            let of = |name| value(name, queue);
            let came = of("oxide_rx_packets_total") + of("oxide_taken_over_packets_total");
            let went = of("oxide_tx_packets_total") + of("oxide_handed_over_packets_total");
            assert_eq!(came, went + of("oxide_drops_total") + of("oxide_in_hand_packets"), "queue {queue}");
            let regimes = of("oxide_loop_seconds_total");
            assert!((regimes - 10.0).abs() < 1e-6, "queue {queue}: {regimes} s in regimes");
        }
        let histograms = parsed.samples.iter().filter(|s| matches!(s.value, prometheus_parse::Value::Histogram(_)));
        assert_eq!(histograms.count(), 4, "two histograms for each queue");
        for sample in &parsed.samples {
            assert!(
                parsed.docs.contains_key(&sample.metric)
                    || sample.metric.ends_with("_sum")
                    || sample.metric.ends_with("_count"),
                "{}",
                sample.metric
            );
        }
    }

    /// Runs `promtool check metrics`, if Prometheus is installed.
    #[test]
    fn promtool_accepts_metrics() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut tool) = tool else { return };
        tool.stdin.take().unwrap().write_all(scrape(&sample::status()).as_bytes()).unwrap();
        let checked = tool.wait_with_output().unwrap();
        assert!(
            checked.status.success(),
            "{}{}",
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}
