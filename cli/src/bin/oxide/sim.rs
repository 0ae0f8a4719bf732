//! Implements `oxide sim`: runs the relay against simulated NICs.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use oxide::port::sim::LinkSpec;
use oxide_sim::pcap::PcapWriter;
use oxide_sim::{Application, Replay, SimOptions, SimReport, Watch, named, run_with};

#[derive(Args)]
pub(crate) struct SimCommand {
    /// Number of queues, 1 to 64. Each has a port towards clients and one towards servers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
    /// Number of packets that clients send [default: 100000, or each packet of --pcap-in once].
    #[arg(long)]
    packets: Option<u64>,
    /// Injected faults: `none`, `all`, or names separated by commas, NAME=NUMBER with a rate in parts per million. An
    /// unknown name prints the list.
    #[arg(long, default_value = "none")]
    faults: String,
    /// Inject faults into this queue only; the others may lose nothing.
    #[arg(long, value_name = "QUEUE")]
    only: Option<u32>,
    /// Links to clients and servers, such as delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G. The prefix `clients:`
    /// or `servers:` selects one side. May be given twice.
    #[arg(long, value_name = "[SIDE:]LINK")]
    link: Vec<String>,
    /// Seed of the run; the same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Handler of the packets [default: checked-relay up to two million packets, relay beyond].
    #[arg(long)]
    handler: Option<Kind>,
    /// Replay this capture (pcap, Ethernet): clients send its packets in order, as fast as the queues accept them.
    /// The relay listens where most of its UDP packets go.
    #[arg(long, value_name = "FILE")]
    pcap_in: Option<PathBuf>,
    /// Write every packet that leaves to this file (pcap, virtual time).
    #[arg(long, value_name = "FILE")]
    pcap_out: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Forwards from one port to the other without a change of addresses: the engine alone.
    Forward,
    /// Relays UDP.
    Relay,
    /// Relays UDP and compares each decision with the slow reference relay.
    CheckedRelay,
}

pub(crate) fn sim(command: &SimCommand) -> Result<ExitCode, String> {
    let options = options(command)?;
    if let Some(replay) = &options.replay {
        let listens: Vec<_> = replay.listens().iter().flatten().map(ToString::to_string).collect();
        errln!("  {} packets to replay; the relay listens on {}", replay.len(), listens.join(" and "));
    }
    let mut watch = Progress::new(command, options.packets)?;
    let report = run_with(&options, &mut watch);
    watch.finish()?;
    if command.json {
        outln!("{}", serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?);
    } else {
        print(&report, &options);
    }
    let Some(failure) = &report.failure else { return Ok(ExitCode::SUCCESS) };
    errln!("check {} failed: seed {}, step {}", failure.checker.name(), report.seed, failure.step);
    errln!("  {}", failure.text);
    errln!("to repeat: {}", again(command, &options));
    Ok(ExitCode::FAILURE)
}

fn options(command: &SimCommand) -> Result<SimOptions, String> {
    let (faults, fault_rates) = named(&command.faults).map_err(|e| format!("--faults: {e}"))?;
    if let Some(only) = command.only
        && only >= command.queues
    {
        return Err(format!("--only: no queue {only}; expected queues 0 to {}", command.queues - 1));
    }
    let replay = command.pcap_in.as_ref().map(Replay::load).transpose().map_err(|e| format!("--pcap-in: {e}"))?;
    if replay.is_some() && command.handler == Some(Kind::Forward) {
        return Err("--pcap-in: conflicts with --handler forward; to fix: omit --handler".to_owned());
    }
    let packets = command.packets.unwrap_or_else(|| replay.as_ref().map_or(100_000, |replay| replay.len() as u64));
    Ok(SimOptions {
        queues: command.queues,
        packets,
        faults,
        fault_rates,
        application: match command.handler {
            Some(Kind::Forward) => Application::Forward,
            Some(Kind::Relay) => Application::Relay,
            Some(Kind::CheckedRelay) => Application::CheckedRelay,
            None => Application::usual(packets),
        },
        links: links(&command.link)?,
        only: command.only,
        replay,
        seed: command.seed,
    })
}

fn links(texts: &[String]) -> Result<[LinkSpec; 2], String> {
    let mut links = [LinkSpec::default(); 2];
    for text in texts {
        let (sides, spec) = match text.split_once(':') {
            Some(("clients", spec)) => (0..1, spec),
            Some(("servers", spec)) => (1..2, spec),
            _ => (0..2, text.as_str()),
        };
        let spec = spec.parse().map_err(|e| format!("--link: {e}"))?;
        links[sides].fill(spec);
    }
    Ok(links)
}

/// Returns the command that repeats this run.
fn again(command: &SimCommand, options: &SimOptions) -> String {
    let capture = command.pcap_in.iter().map(|path| format!(" --pcap-in {}", path.display()));
    options.command() + &capture.collect::<String>()
}

/// Prints the progress of a run, and writes the packets that leave.
struct Progress {
    packets: u64,
    quiet: bool,
    started: Instant,
    next: u64,
    out: Option<(PathBuf, PcapWriter<BufWriter<File>>)>,
    failed: Option<String>,
}

impl Progress {
    fn new(command: &SimCommand, packets: u64) -> Result<Self, String> {
        let open = |path: &PathBuf| {
            let writer = File::create(path).and_then(|file| PcapWriter::new(BufWriter::new(file)));
            writer.map(|writer| (path.clone(), writer)).map_err(|e| format!("--pcap-out: {}: {e}", path.display()))
        };
        let out = command.pcap_out.as_ref().map(open).transpose()?;
        let quiet = command.json && !std::io::stderr().is_terminal();
        Ok(Self { packets, quiet, started: Instant::now(), next: (packets / 10).max(1), out, failed: None })
    }

    fn finish(self) -> Result<(), String> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let Some((path, writer)) = self.out else { return Ok(()) };
        writer.finish().map(drop).map_err(|e| format!("--pcap-out: {}: {e}", path.display()))
    }
}

impl Watch for &mut Progress {
    fn progress(&mut self, sent: u64) {
        if sent < self.next || self.quiet {
            return;
        }
        let every = (self.packets / 10).max(1);
        self.next = sent - sent % every + every;
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = elapsed / sent as f64 * (self.packets - sent) as f64;
        errln!("  {sent} of {} packets sent, {elapsed:.0} s, {left:.0} s left", self.packets);
    }

    fn left(&mut self, at: Duration, frame: &[u8]) {
        if let Some((path, writer)) = &mut self.out
            && let Err(error) = writer.write(at, frame)
        {
            self.failed = Some(format!("--pcap-out: {}: {error}", path.display()));
            self.out = None;
        }
    }
}

/// Prints the report like `cargo xtask demo`: packets, queues, drops, checks.
fn print(report: &SimReport, options: &SimOptions) {
    let SimReport { seed, queues, links, virtual_time, .. } = report;
    outln!("seed {seed}, {queues} queues, {:.1} s of virtual time", virtual_time.as_secs_f64());
    outln!(
        "clients sent {}, forwarded to servers {}, answered {}, forwarded to clients {}",
        report.sent,
        report.there,
        report.answers,
        report.back
    );
    outln!(
        "\n{:<6} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<10} frames: total = free + app + receive + transmit",
        "queue",
        "received",
        "sent",
        "handed over",
        "sessions",
        "restarts",
        "state"
    );
    for q in &report.queue_reports {
        let c = q.census;
        outln!(
            "{:<6} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<10} {} = {} + {} + {} + {}, {}",
            q.queue,
            q.rx_packets,
            q.tx_packets,
            q.handed_over,
            q.sessions,
            q.restarts,
            q.state,
            c.total,
            c.free,
            c.app,
            c.receive,
            c.transmit,
            if q.balanced { "balanced" } else { "NOT BALANCED" },
        );
    }
    let drops: Vec<String> = report.drops.nonzero().map(|(reason, n)| format!("{} {n}", reason.name())).collect();
    let line = |name: &str, text: String| outln!("{name:<29} {text}");
    outln!();
    line("drops by reason", if drops.is_empty() { "none".to_owned() } else { drops.join(", ") });
    line("lost outside the engine", format!("{} before it, {} after it", report.lost_before, report.lost_after));
    if links.offered > 0 {
        let (lost, full) = (links.lost, links.overflowed);
        line(
            "links",
            format!("delivered {}, lost {lost}, queue full {full}, reordered {}", links.delivered, links.overtaken),
        );
    }
    line(
        "restarts",
        format!(
            "handlers {}, ports {}, actors {}; failed queues {}",
            report.soft_restarts, report.port_restarts, report.hard_restarts, report.given_up
        ),
    );
    line(
        "injected kernel errors",
        format!("descriptors refused {}, completions lost {}", report.bad_descriptors, report.lost_completions),
    );
    let slow = match (options.application, &options.replay) {
        (Application::CheckedRelay, None) => ", each decision compared with the reference (--handler relay omits this)",
        (_, Some(_)) => ", each decision compared with the reference",
        _ => "",
    };
    let speed = report.packets_per_second / 1e6;
    line("speed", format!("{speed:.2} million packets a second of real time, on one core{slow}"));
    line("fingerprint", format!("{:016x}", report.fingerprint));
    outln!("\nchecks");
    for (checker, count) in &report.checks {
        let failed = report.failure.as_ref().is_some_and(|failure| failure.checker == *checker);
        let word = if failed { "FAILED" } else { "ok" };
        outln!("  {word:<6} {:<10} {count} times", checker.name());
    }
    let verdict = if report.passed() { "every check passed" } else { "one check failed" };
    outln!("\n{} quiescent points: {verdict}", report.quiescent_points);
}
