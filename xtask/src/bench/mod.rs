//! Implements `cargo xtask bench`: compares forwarders on one veth testbed, in one run.
//!
//! | module | owns |
//! |---|---|
//! | [`record`] | one line of the result; statistics, table, JSON |
//! | [`lab`] | the two namespaces and their links |
//! | [`subject`] | the forwarders: the engine's and the peers |
//! | [`sample`] | one run of one of them under load |
//! | [`machine`] | the machine without a forwarder |
//! | [`comparison`] | two forwarders in alternation |
//! | [`latency`] | round trips, idleness, restarts |
//! | [`trials`] | fixed rates: throughput at a loss goal, loss, latency, bursts, sessions |
//! | [`scaling`] | cost over flows, frame size, entries, queues and time |
//! | [`micro`] | pieces of the user side: time, and instructions compared with the stored counts |
//! | [`noise`] | disturbances of a row; repeated measurements |
//! | [`goals`] | the goals, compared with the results |
//! | [`charts`], [`docs`] | charts, and the page of figures |
//! | [`processor`] | the batch processor compared with other crates, without testbed |

mod charts;
mod comparison;
mod docs;
mod goals;
mod lab;
mod latency;
mod machine;
pub(crate) mod micro;
mod noise;
mod processor;
pub(crate) mod record;
mod sample;
mod scaling;
mod subject;
mod trials;

use crate::host::Host;
use crate::process::{Cancel, Error, Result, Session, failed, io_error, is_root, run_visible};
use crate::setup::{self, For, Policy};
use lab::Lab;
use record::{About, Record};
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use subject::Tools;

/// Holds the command line of `bench`.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    quick: bool,
    json: Option<PathBuf>,
    /// Whether to install the peers from Debian first.
    all_peers: bool,
    /// Filters: only measures or subjects whose name contains one of these.
    names: Vec<String>,
    keep_logs: bool,
    policy: Policy,
    /// JSON files from which the page of figures is made, without a measurement.
    docs: Vec<PathBuf>,
    /// Whether to store the current instruction counts.
    accept: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            quick: false,
            json: None,
            all_peers: false,
            names: vec![],
            keep_logs: false,
            policy: Policy::Install,
            docs: vec![],
            accept: false,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value =
                || rest.next().map(String::as_str).ok_or_else(|| Error::Failed(format!("{argument} needs a value")));
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--keep-logs" => options.keep_logs = true,
                "--no-install" => options.policy = Policy::Refuse,
                "--accept" => options.accept = true,
                "--docs" => options.docs.push(PathBuf::from(value()?)),
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--peers" => match value()? {
                    "all" => options.all_peers = true,
                    "installed" => options.all_peers = false,
                    other => return failed(format!("--peers: unknown value `{other}`; expected all or installed")),
                },
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                other => return failed(format!("bench: unknown option `{other}`; to fix: see cargo xtask --help")),
            }
        }
        Ok(options)
    }
}

/// Sets the number and the length of the runs.
#[derive(Clone, Copy, Debug)]
struct Pace {
    pairs: usize,
    warm_ms: u32,
    window_ms: u32,
}

const QUICK: Pace = Pace { pairs: 3, warm_ms: 250, window_ms: 500 };
const FULL: Pace = Pace { pairs: 5, warm_ms: 400, window_ms: 1500 };

/// Holds the state of a bench.
struct Bench<'a> {
    session: &'a Session,
    tools: &'a Tools,
    options: &'a Options,
    pace: Pace,
    started: Instant,
    records: Vec<Record>,
    /// Measurements that failed, with the reason.
    not_run: Vec<String>,
    /// Maximum delay of the generator in the current row, in nanoseconds.
    late_ns: u64,
}

impl Bench<'_> {
    /// Returns whether the command line requests something with this name.
    fn wanted(&self, name: &str) -> bool {
        self.options.names.is_empty() || self.options.names.iter().any(|n| name.contains(n.as_str()))
    }

    /// Returns whether to run only the most important rows: four minutes do not suffice for all. A named row always
    /// runs.
    fn brief(&self) -> bool {
        self.options.quick && self.options.names.is_empty()
    }

    /// Prints a line of progress.
    fn log(&self, text: impl std::fmt::Display) {
        eprintln!("[{:4} s] {text}", self.started.elapsed().as_secs());
    }

    /// Records a failure and continues, except after a signal.
    fn unless_failed<T>(&mut self, what: &str, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(Error::Failed(text)) => {
                self.log(format!("{what} NOT MEASURED: {text}"));
                self.not_run.push(format!("{what}: {}", text.lines().next().unwrap_or_default()));
                Ok(None)
            }
        }
    }
}

/// Runs set-up, build, testbed and measurements, and prints the table.
pub(crate) fn run(cancel: &Cancel, options: &Options) -> Result<()> {
    if !options.docs.is_empty() {
        let runs = options.docs.iter().map(|json| record::read_json(json)).collect::<Result<Vec<_>>>()?;
        return docs::write(&runs.concat());
    }
    if options.names.first().is_some_and(|name| name == "processor") {
        return processor::run(cancel, options);
    }
    let groups: &[For] = if options.all_peers { &[For::Build, For::Lab, For::Peers] } else { &[For::Build, For::Lab] };
    setup::ensure(cancel, groups, options.policy)?;
    let only = |name: &str| options.names.len() == 1 && options.names[0] == name;
    let in_memory = only("micro") || only("instructions");
    if !in_memory && !is_root() {
        return failed("bench: not root; expected root for its network namespaces; to fix: sudo -E cargo xtask bench");
    }
    let tools = build(cancel)?;
    subject::check_built(&tools)?;
    let _lock = lock()?;
    let _host = if is_root() { Some(Host::with_sys()?) } else { None };
    let dir = std::env::temp_dir().join(format!("oxide-bench-{}", std::process::id()));
    fs::DirBuilder::new().mode(0o755).create(&dir).map_err(io_error(dir.display()))?;
    let session = Session::new(cancel.clone(), dir.clone());
    let mut bench = Bench {
        session: &session,
        tools: &tools,
        options,
        pace: if options.quick { QUICK } else { FULL },
        started: Instant::now(),
        records: vec![],
        not_run: vec![],
        late_ns: 0,
    };
    let outcome = if only("lab") {
        bench.manual()
    } else if only("instructions") {
        bench.instructions()
    } else if in_memory {
        bench.pieces()
    } else {
        bench.measure()
    };
    let (mut records, not_run) = (bench.records, bench.not_run);
    if options.keep_logs {
        println!("output of every program: {}", dir.display());
    } else {
        let _ = fs::remove_dir_all(&dir);
    }
    // Results from before a failure or a Ctrl-C are valid.
    let about = About::here();
    records.iter_mut().for_each(|record| record.about = about.clone());
    report(options, &records, &not_run)?;
    outcome
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        let lab = Lab::create(self.session, 1)?;
        self.ceiling(&lab)?;
        self.pauses(&lab)?;
        self.comparisons(&lab)?;
        self.row("scaling", 2, |bench| bench.scaling(&lab))?;
        self.row("round trips", 2, |bench| bench.round_trips(&lab))?;
        self.row("idleness", 2, |bench| bench.idleness(&lab))?;
        self.row("fixed rates", 2, |bench| bench.fixed_rates(&lab))?;
        self.row("restarts", 2, |bench| bench.restarts(&lab))?;
        drop(lab);
        self.row("other queues", 2, Self::other_queues)?;
        self.row("queues", 2, Self::queues)?;
        self.hours()?;
        if self.wanted("micro") && !self.brief() {
            self.pieces()?;
        }
        Ok(())
    }

    /// Provides the testbed for manual commands, until Ctrl-C.
    fn manual(&self) -> Result<()> {
        let lab = Lab::create(self.session, 1)?;
        lab.restore(self.session, false, 1)?;
        let [outer, inner] = [&lab.outer, &lab.inner].map(|ns| format!("nsenter --net=/proc/{}/ns/net --", ns.pid()));
        println!(
            "The testbed exists until Ctrl-C. In another shell, as root:\n\n\
             OUTER='{outer}'; INNER='{inner}'; L={}\n\n\
             $INNER $L forward raw &          # or your own forwarder on vb, on CPU 1\n\
             $OUTER $L saturate\n\n\
             See \"Measure your own forwarder\" in docs/performance.md.",
            self.tools.lab.display()
        );
        loop {
            self.session.cancel.sleep(std::time::Duration::from_millis(200))?;
        }
    }

    /// Measures the pieces of the user side.
    fn pieces(&mut self) -> Result<()> {
        let answer = micro::times(self.session, &self.tools.lab);
        if let Some(records) = self.unless_failed("pieces of the user side", answer)? {
            self.records.extend(records);
        }
        Ok(())
    }

    /// Compares the instruction counts, or stores them with `--accept`.
    fn instructions(&mut self) -> Result<()> {
        if self.options.accept {
            return micro::accept(self.session, &self.tools.lab);
        }
        if let Some(why) = micro::not_here()? {
            println!("not compared: {why}");
        } else if let micro::Compared::Held(lines) = micro::compare(self.session, &self.tools.lab)? {
            lines.iter().for_each(|line| println!("{line}"));
        }
        Ok(())
    }
}

fn report(options: &Options, records: &[Record], not_run: &[String]) -> Result<()> {
    for line in not_run {
        println!("NOT MEASURED  {line}");
    }
    let Some(first) = records.first() else { return Ok(()) };
    let About { machine, kernel, build, date, command } = &first.about;
    println!("machine: {machine}; kernel {kernel}\nbuild: {build}\ndate: {date} UTC\ncommand: {command}\n");
    print!("{}", record::table(records));
    println!("\ngoals");
    let verdicts = goals::verdicts(records);
    for verdict in &verdicts {
        println!("  {:<12} {:<92} {}", verdict.label(), verdict.goal, verdict.figure);
    }
    println!("  {}", goals::tally(&verdicts));
    let folder = target().join("bench");
    fs::create_dir_all(&folder).map_err(io_error(folder.display()))?;
    let charts = charts::write(&folder, records)?;
    let json = options.json.clone().unwrap_or_else(|| folder.join("bench.json"));
    record::write_json(&json, records)?;
    println!("\nrecords: {}; {} charts in {}", json.display(), charts.len(), folder.display());
    Ok(())
}

/// Compares the current counts with the stored ones, for the test tier, in its own folder.
pub(crate) fn compare_instructions(cancel: &Cancel) -> Result<micro::Compared> {
    if let Some(why) = micro::not_here()? {
        return Ok(micro::Compared::NotHere(why));
    }
    let tools = build(cancel)?;
    let dir = std::env::temp_dir().join(format!("oxide-counts-{}", std::process::id()));
    fs::create_dir(&dir).map_err(io_error(dir.display()))?;
    let answer = micro::compare(&Session::new(cancel.clone(), dir.clone()), &tools.lab);
    let _ = fs::remove_dir_all(&dir);
    answer
}

/// Returns the folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Returns Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |t| root().join(t))
}

/// Builds the programs of the bench.
pub(crate) fn build(cancel: &Cancel) -> Result<Tools> {
    eprintln!("building oxide, its examples and oxide-lab (release)");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", "oxide-engine", "--package", "oxide-cli"]);
    command.args(["--package", "oxide-lab"]);
    command.args(["--bin", "oxide", "--bin", "oxide-lab", "--example", "l2fwd"]).current_dir(root());
    let status = run_visible(cancel, &mut command)?;
    if !status.success() {
        return failed(format!("the build failed ({status})"));
    }
    let release = target().join("release");
    Ok(Tools { oxide: release.join("oxide"), lab: release.join("oxide-lab"), l2fwd: release.join("examples/l2fwd") })
}

/// Locks the machine against a second bench, which would disturb this one. The lock is close-on-exec, so no child
/// keeps it.
fn lock() -> Result<File> {
    let path = std::env::temp_dir().join("oxide-bench.lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(io_error(path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            failed("bench: another bench is running on this machine; to fix: wait for its end")
        }
        Err(e) => failed(format!("{}: {e}", path.display())),
    }
}
