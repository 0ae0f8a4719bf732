//! Implements `cargo xtask demo`: real programs communicate through `oxide relay`, and every answer and every frame
//! is checked.

mod dns;
mod lab;
mod relay;
mod simulated;
mod table;
mod traffic;

use crate::host::Host;
use crate::process::{Cancel, Error, Result, Session, failed, has_program, io_error, is_root, run_visible};
use crate::setup::{self, For, Policy};
use lab::{Family, Lab, Received};
use relay::{Relay, Stopped};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use traffic::Programs;

/// Duration for which the idle relay is measured.
const IDLE: Duration = Duration::from_secs(3);

/// Holds the command line of `demo`.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    queues: u16,
    seconds: u32,
    families: Vec<Family>,
    keep_logs: bool,
    /// Whether to use the simulated NIC, even as root.
    simulated: bool,
    policy: Policy,
    /// Binary of the relay; built first if absent. It is set when a user's demo continues as root.
    binary: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let families = vec![Family::V4, Family::V6];
        let mut options = Self {
            queues: 2,
            seconds: 5,
            families,
            keep_logs: false,
            simulated: false,
            policy: Policy::Install,
            binary: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value =
                || rest.next().map(String::as_str).ok_or_else(|| Error::Failed(format!("{argument} needs a value")));
            match argument.as_str() {
                "--queues" => options.queues = within(argument, value()?, 1, 16)?,
                "--seconds" => options.seconds = u32::from(within(argument, value()?, 1, 60)?),
                "--ipv4-only" => options.families.retain(|f| *f == Family::V4),
                "--ipv6-only" => options.families.retain(|f| *f == Family::V6),
                "--keep-logs" => options.keep_logs = true,
                "--simulated" => options.simulated = true,
                "--no-install" => options.policy = Policy::Refuse,
                "--binary" => options.binary = Some(PathBuf::from(value()?)),
                other => return failed(format!("demo: unknown option `{other}`; to fix: see cargo xtask --help")),
            }
        }
        if options.families.is_empty() {
            return failed("--ipv4-only: conflicts with --ipv6-only; to fix: omit one");
        }
        Ok(options)
    }
}

fn within(name: &str, value: &str, least: u16, most: u16) -> Result<u16> {
    match value.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => failed(format!("{name}: invalid value `{value}`; expected a number from {least} to {most}")),
    }
}

/// Runs set-up, build, testbed and traffic, and prints the verdict.
pub(crate) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    let simulate = options.simulated || !(is_root() || can_become_root());
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => {
            let needed: &[For] = if simulate { &[For::Build] } else { &[For::Build, For::Lab, For::Demo] };
            setup::ensure(cancel, needed, options.policy)?;
            build(cancel)?
        }
    };
    if simulate {
        return simulated::run(cancel, options, &binary);
    }
    if !is_root() {
        return continue_as_root(&binary);
    }
    remove_leftovers();
    let _host = Host::with_sys_and_tun()?;
    let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}", std::process::id()));
    // Only root may read it, because it holds the tunnel's keys.
    fs::DirBuilder::new().mode(0o700).create(&dir).map_err(io_error(dir.display()))?;
    let session = Session::new(cancel.clone(), dir.clone());
    let outcome = demonstrate(&session, options, &binary);
    drop(session);
    let keep = options.keep_logs || matches!(outcome, Err(Error::Failed(_)));
    if keep {
        let kept = std::env::temp_dir().join(format!("oxide-logs-{}", std::process::id()));
        let _ = fs::remove_dir_all(dir.join("www"));
        fs::rename(&dir, &kept).map_err(io_error(kept.display()))?;
        println!("output of every program: {}", kept.display());
    } else {
        fs::remove_dir_all(&dir).map_err(io_error(dir.display()))?;
    }
    outcome
}

fn build(cancel: &Cancel) -> Result<PathBuf> {
    println!("building oxide (release)");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "oxide-cli", "--bin", "oxide"]).current_dir(root);
    let status = run_visible(cancel, &mut command)?;
    if !status.success() {
        return failed(format!("the build failed ({status})"));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |t| root.join(t));
    Ok(target.join("release/oxide"))
}

/// Returns whether sudo works: without a password, or with a terminal to enter one.
fn can_become_root() -> bool {
    use std::io::IsTerminal;
    let silent = || Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    has_program("sudo") && (silent() || std::io::stdin().is_terminal())
}

/// Replaces this process by `sudo xtask demo --binary ...`: the testbed runs as root, and cargo does not.
fn continue_as_root(binary: &Path) -> Result<()> {
    let me = std::env::current_exe().map_err(io_error("own path"))?;
    let options: Vec<String> = std::env::args().skip(2).collect();
    println!("the testbed needs root: continuing with sudo");
    // If sudo is killed, the demo ends as well.
    let mut sudo = Command::new("sudo");
    sudo.args(["--", "setpriv", "--pdeathsig", "TERM", "--"]).arg(me).args(["demo", "--binary"]).arg(binary);
    let error = sudo.args(options).exec();
    failed(format!("cannot start sudo: {error}"))
}

const DIR_PREFIX: &str = "oxide-demo-";

/// Removes what killed demos left: a folder and WireGuard's control sockets. Their processes, namespaces and XDP
/// programs ended with them.
fn remove_leftovers() {
    let dead = |pid: &str| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists();
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().collect::<Vec<_>>();
    for entry in entries(&std::env::temp_dir()) {
        if entry.file_name().to_str().and_then(|n| n.strip_prefix(DIR_PREFIX)).is_some_and(dead) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    for entry in entries(Path::new("/var/run/wireguard")) {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_suffix(".sock").and_then(|n| n.strip_prefix("oxc").or(n.strip_prefix("oxs")));
        if pid.is_some_and(dead) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Holds the results of one step.
#[derive(Debug)]
struct Row {
    family: Family,
    step: &'static str,
    elapsed: Duration,
    to_servers: Received,
    to_clients: Received,
    cpu: Duration,
    outcome: Result<String>,
}

/// Holds the results beyond the steps.
#[derive(Debug)]
struct Summary {
    rows: Vec<Row>,
    relay: Stopped,
    /// Processor time of the idle relay divided by wall time.
    idle_cpu: f64,
    /// Number of frames that arrived at both ends while the relay ran, from any sender.
    delivered: u64,
    checksum_errors: u64,
}

fn demonstrate(session: &Session, options: &Options, binary: &Path) -> Result<()> {
    println!("testbed: clients <-> relay <-> servers, queues on each veth end: {}", options.queues);
    let lab = Lab::create(session, options.queues)?;
    println!("servers: dnsmasq, nginx, iperf3; wireguard-go on both sides");
    let mut programs = Programs::start(session, &lab)?;
    println!("starting {} relay", binary.display());
    let relay = Relay::start(session, &lab, binary, &options.families)?;
    let mut run = Run { session, lab: &lab, relay, seconds: options.seconds, rows: vec![] };
    let before = delivered(&lab)?;
    for &family in &options.families {
        run.family(&mut programs, family)?;
    }
    let idle_cpu = run.idle()?;
    let Run { relay, rows, .. } = run;
    println!("stopping the relay");
    let relay = relay.stop(session, &lab)?;
    programs.must_run()?;
    let checksum_errors = lab.clients.udp_counter("InCsumErrors")? + lab.servers.udp_counter("InCsumErrors")?;
    let summary = Summary { rows, relay, idle_cpu, delivered: delivered(&lab)? - before, checksum_errors };
    table::print(&summary);
    verdict(&summary)
}

fn delivered(lab: &Lab) -> Result<u64> {
    Ok(lab.to_servers()?.packets + lab.to_clients()?.packets)
}

struct Run<'a> {
    session: &'a Session,
    lab: &'a Lab,
    relay: Relay,
    seconds: u32,
    rows: Vec<Row>,
}

impl Run<'_> {
    /// Runs every step over one address family.
    fn family(&mut self, programs: &mut Programs, family: Family) -> Result<()> {
        let (session, lab, seconds) = (self.session, self.lab, self.seconds);
        self.step(family, "DNS: dig", || dns::dig(session, lab, family))?;
        self.step(family, "DNS: dnsperf", || dns::query_load(session, lab, family, seconds))?;
        programs.use_endpoint(session, lab, family)?;
        self.step(family, "WireGuard: iperf3 TCP", || programs.tunnel_tcp(session, lab, family, seconds))?;
        self.step(family, "WireGuard: curl 100 MB", || programs.fetch(session, lab, family))?;
        self.step(family, "iperf3 UDP up", || programs.udp(session, lab, family, seconds, false))?;
        self.step(family, "iperf3 UDP down", || programs.udp(session, lab, family, seconds, true))?;
        programs.must_run()
    }

    /// Runs and measures one step. A failed step is kept for the verdict. A signal or a dead relay ends the demo.
    fn step(&mut self, family: Family, step: &'static str, traffic: impl FnOnce() -> Result<String>) -> Result<()> {
        use std::io::Write;
        print!("  {} {step:<24}", family.name());
        let _ = std::io::stdout().flush();
        let (servers, clients, cpu) = (self.lab.to_servers()?, self.lab.to_clients()?, self.relay.cpu_time()?);
        let start = Instant::now();
        let outcome = traffic();
        let elapsed = start.elapsed();
        match &outcome {
            Ok(result) => println!("ok      {result}"),
            Err(Error::Cancelled) => {
                println!();
                return Err(Error::Cancelled);
            }
            Err(e) => println!("FAILED  {e}"),
        }
        self.relay.must_run()?;
        self.rows.push(Row {
            family,
            step,
            elapsed,
            to_servers: self.lab.to_servers()?.since(servers),
            to_clients: self.lab.to_clients()?.since(clients),
            cpu: self.relay.cpu_time()?.saturating_sub(cpu),
            outcome,
        });
        Ok(())
    }

    /// Returns the relay's processor time divided by wall time, without traffic.
    fn idle(&mut self) -> Result<f64> {
        println!("  idle for {} s", IDLE.as_secs());
        let (cpu, start) = (self.relay.cpu_time()?, Instant::now());
        self.session.cancel.sleep(IDLE)?;
        Ok(self.relay.cpu_time()?.saturating_sub(cpu).as_secs_f64() / start.elapsed().as_secs_f64())
    }
}

/// Prints every check with its observation, and fails if one failed.
fn verdict(summary: &Summary) -> Result<()> {
    let (relay, report) = (&summary.relay, &summary.relay.report);
    let failed_steps = summary.rows.iter().filter(|r| r.outcome.is_err()).count();
    let wrong_census: Vec<u32> = report
        .queues
        .iter()
        .filter(|q| {
            !q.balanced || q.census.free + q.census.app + q.census.receive + q.census.transmit != q.census.total
        })
        .map(|q| q.queue)
        .collect();
    let checks = [
        (failed_steps == 0, format!("steps failed: {failed_steps}")),
        (
            report.balanced && report.unaccounted == 0 && wrong_census.is_empty() && !report.queues.is_empty(),
            format!("frames unaccounted for: {}; queues out of balance: {wrong_census:?}", report.unaccounted),
        ),
        // The other frames are ARP, neighbour discovery and iperf3's TCP, which the kernel handles: a few packets.
        (
            report.totals.tx_packets * 100 >= summary.delivered * 95,
            format!("sent by AF_XDP: {} of {} frames delivered", report.totals.tx_packets, summary.delivered),
        ),
        (summary.checksum_errors == 0, format!("wrong UDP checksums seen by the kernels: {}", summary.checksum_errors)),
        (relay.status.success() && report.state == "stopped", format!("relay: {}, {}", report.state, relay.status)),
        (
            !relay.program_left,
            format!("XDP program left on r0 or r1: {}", if relay.program_left { "yes" } else { "no" }),
        ),
    ];
    println!("\nchecks");
    for (good, text) in &checks {
        println!("  {:<6} {text}", if *good { "ok" } else { "FAILED" });
    }
    if checks.iter().all(|(good, _)| *good) {
        println!("\nthe demo passed");
        return Ok(());
    }
    failed("demo: checks failed; see the list above")
}
