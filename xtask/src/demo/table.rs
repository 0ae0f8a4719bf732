//! Prints the tables of the demo.

use super::relay::{Mode, Queue};
use super::{Row, Summary};

/// Prints traffic and cost of the steps, and the final state of the queues.
pub(super) fn print(summary: &Summary) {
    steps(&summary.rows);
    queues(summary);
    cost(summary);
}

fn steps(rows: &[Row]) {
    println!("\n{:<29} {:>20} {:>20} {:>9}", "", "to servers", "to clients", "relay CPU");
    println!(
        "{:<29} {:>9} {:>10} {:>9} {:>10} {:>9}  result",
        "step", "packets/s", "Mbit/s", "packets/s", "Mbit/s", "us/packet"
    );
    for row in rows {
        let seconds = row.elapsed.as_secs_f64();
        let packets = row.to_servers.packets + row.to_clients.packets;
        let cpu = if packets == 0 { 0.0 } else { row.cpu.as_secs_f64() * 1e6 / packets as f64 };
        let result = row.outcome.as_ref().map_or("FAILED", String::as_str);
        println!(
            "{:<29} {:>9.0} {:>10.1} {:>9.0} {:>10.1} {:>9.2}  {result}",
            format!("{} {}", row.family.name(), row.step),
            row.to_servers.packets as f64 / seconds,
            row.to_servers.bytes as f64 * 8e-6 / seconds,
            row.to_clients.packets as f64 / seconds,
            row.to_clients.bytes as f64 * 8e-6 / seconds,
            cpu,
        );
    }
}

fn queues(summary: &Summary) {
    println!(
        "\n{:<6} {:>4} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<28} frames: total = free + app + receive + transmit",
        "queue", "CPU", "received", "sent", "handed over", "sessions", "restarts", "state, executor"
    );
    for q in &summary.relay.report.queues {
        let c = q.census;
        println!(
            "{:<6} {:>4} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<28} {} = {} + {} + {} + {}, {}",
            q.queue,
            q.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
            q.rx_packets,
            q.tx_packets,
            q.handed_over,
            q.sessions,
            q.restarts,
            format!("{}, {}", q.state, q.executor),
            c.total,
            c.free,
            c.app,
            c.receive,
            c.transmit,
            if q.balanced { "balanced" } else { "NOT BALANCED" },
        );
        q.mode.iter().for_each(|mode| println!("       {}", mode_text(mode)));
    }
}

fn mode_text(mode: &Mode) -> String {
    let reason = if mode.reason.is_empty() { String::new() } else { format!(": {}", mode.reason) };
    format!("{} {} (program attached {}){reason}", mode.interface, mode.mode, mode.attach)
}

fn cost(summary: &Summary) {
    let (report, totals) = (&summary.relay.report, &summary.relay.report.totals);
    let queues = report.queues.len().max(1) as f64;
    let line = |name: &str, text: String| println!("{name:<29} {text}");
    let join = |each: &dyn Fn(&Queue) -> String| report.queues.iter().map(each).collect::<Vec<_>>().join(", ");
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let ms = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms"));
    let sum = |of: fn(&Queue) -> u64| mib(report.queues.iter().map(of).sum());

    let drops: Vec<String> = totals.drops.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
    println!();
    line("drops by reason", if drops.is_empty() { "none".to_owned() } else { drops.join(", ") });
    line("missed (RX ring full)", totals.rx_missed.to_string());
    line("user-side time per packet", format!("{:.0} ns", totals.work_ns as f64 / totals.rx_packets.max(1) as f64));
    line("memory by queue", join(&|q| format!("{:.1} MiB frames + {:.1} MiB", mib(q.umem_bytes), mib(q.memory_bytes))));
    line(
        "total memory",
        format!(
            "{:.1} MiB frames + {:.1} MiB; the process, resident, {:.1} MiB",
            sum(|q| q.umem_bytes),
            sum(|q| q.memory_bytes),
            mib(report.process.rss_bytes)
        ),
    );
    let first = ms(report.first_packet_ms);
    line(
        "start to ready, first packet",
        format!("{}, {first} (dig starts when the relay is ready)", ms(report.start_to_ready_ms)),
    );
    let idle = summary.idle_cpu * 100.0;
    line("idle CPU", format!("{idle:.1} % of a core, {:.1} % per queue", idle / queues));
    line("busy / spin / sleep by queue", join(&regime_text));
}

fn regime_text(q: &Queue) -> String {
    let all = (q.busy_ns + q.spin_ns + q.sleep_ns).max(1) as f64;
    let percent = |ns: u64| 100.0 * ns as f64 / all;
    format!("{:.0} / {:.0} / {:.0} %", percent(q.busy_ns), percent(q.spin_ns), percent(q.sleep_ns))
}
