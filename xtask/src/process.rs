//! Runs child processes that end with xtask, and holds the flag that stops it.
//!
//! Every child is started from the main thread behind `setpriv --pdeathsig KILL`: the kernel kills it when xtask
//! ends, even by `kill -9`. The death signal follows the thread that forked, so no other thread may spawn. Each child
//! leads its own process group, so that the terminal's Ctrl-C reaches only xtask, and the teardown keeps its order.

use rustix::process::{Pid, Signal, kill_process_group};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Describes why a command of xtask ended early.
#[derive(Debug)]
pub(crate) enum Error {
    /// SIGINT, SIGTERM or SIGHUP arrived.
    Cancelled,
    /// Any other error, as a message with subject, observation and remedy.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Cancelled => f.write_str("stopped by a signal"),
            Error::Failed(text) => f.write_str(text),
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Returns [`Error::Failed`] with `text`.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Failed(text.into()))
}

/// Adds the failed step to an I/O error.
pub(crate) fn io_error(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::Failed(format!("{what}: {e}"))
}

/// Is set once by SIGINT, SIGTERM or SIGHUP. Every wait checks it.
#[derive(Clone, Debug)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Registers the signal handlers.
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(io_error("cannot handle signals"))?;
        }
        Ok(Self(flag))
    }

    /// Returns `Err(Cancelled)` after a signal.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Sleeps, at most until a signal.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// Holds a running child. Dropping it kills the child with its process group.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: std::process::Child,
    ended: Option<ExitStatus>,
    stderr: Option<PathBuf>,
}

impl Running {
    /// Returns the process id, which is also the group's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status, if the process has ended.
    pub(crate) fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Sends `signal` to the whole group, unless the leader has ended. Then another process may have its number.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.poll().is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // ESRCH means that the process ended between the check and the kill.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits for the end, with a time limit.
    pub(crate) fn wait(&mut self, cancel: &Cancel, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll() {
                return Ok(status);
            }
            if Instant::now() >= end {
                return failed(format!(
                    "{}: did not end within {} s{}",
                    self.name,
                    limit.as_secs(),
                    self.last_output()
                ));
            }
            cancel.sleep(Duration::from_millis(5))?;
        }
    }

    /// Fails if a process that should still run has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.poll() {
            None => Ok(()),
            Some(status) => failed(format!("{}: ended ({status}){}", self.name, self.last_output())),
        }
    }

    /// Interrupts like a terminal's Ctrl-C and waits: cargo stops its compilers, apt-get ends between packages.
    fn interrupt(&mut self) {
        self.signal(Signal::INT);
        let end = Instant::now() + Duration::from_secs(20);
        while self.poll().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns its standard output so far.
    pub(crate) fn stdout(&self) -> String {
        let path = self.stderr.as_ref().map(|err| err.with_extension("out"));
        path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Returns the last lines of its standard error, for a message.
    pub(crate) fn last_output(&self) -> String {
        self.stderr.as_deref().map(tail).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Holds the result of a finished command.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs commands and keeps their output in `<dir>/<number>-<name>.{out,err}`.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) cancel: Cancel,
    pub(crate) dir: PathBuf,
    started: std::cell::Cell<u32>,
}

impl Session {
    pub(crate) fn new(cancel: Cancel, dir: PathBuf) -> Self {
        Self { cancel, dir, started: std::cell::Cell::new(0) }
    }

    /// Starts `argv` in the background, with its output in files.
    pub(crate) fn spawn(&self, name: &str, argv: &[&str]) -> Result<Running> {
        self.spawn_with(name, argv, Stdio::null())
    }

    /// Runs `argv` to its end. A non-zero status is an error.
    pub(crate) fn run(&self, name: &str, argv: &[&str], limit: Duration) -> Result<Output> {
        let output = self.try_run(name, argv, limit)?;
        if output.status.success() {
            return Ok(output);
        }
        let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        failed(format!("{name}: `{}` ended with {}\n{}", argv.join(" "), output.status, last_lines(text)))
    }

    /// Runs `argv` to its end and returns any status.
    pub(crate) fn try_run(&self, name: &str, argv: &[&str], limit: Duration) -> Result<Output> {
        let mut child = self.spawn_with(name, argv, Stdio::null())?;
        self.finish(&mut child, limit)
    }

    /// Runs like [`Session::run`], with `input` as standard input.
    pub(crate) fn run_with_input(&self, name: &str, argv: &[&str], input: &str, limit: Duration) -> Result<Output> {
        let path = self.dir.join(format!("{name}.in"));
        std::fs::write(&path, input).map_err(io_error(path.display()))?;
        let stdin = File::open(&path).map_err(io_error(path.display()))?;
        let mut child = self.spawn_with(name, argv, stdin.into())?;
        let output = self.finish(&mut child, limit)?;
        if output.status.success() {
            return Ok(output);
        }
        failed(format!("{name}: `{}` ended with {}\n{}", argv.join(" "), output.status, last_lines(&output.stderr)))
    }

    fn finish(&self, child: &mut Running, limit: Duration) -> Result<Output> {
        let status = child.wait(&self.cancel, limit)?;
        let err = child.stderr.clone().unwrap_or_default();
        let read = |p: &Path| {
            std::fs::read(p).map(|b| String::from_utf8_lossy(&b).into_owned()).map_err(io_error(p.display()))
        };
        Ok(Output { status, stdout: read(&err.with_extension("out"))?, stderr: read(&err)? })
    }

    fn spawn_with(&self, name: &str, argv: &[&str], stdin: Stdio) -> Result<Running> {
        self.cancel.check()?;
        let number = self.started.get();
        self.started.set(number + 1);
        let err = self.dir.join(format!("{number:03}-{name}.err"));
        let create = |p: &Path| File::create(p).map_err(io_error(p.display()));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(argv).env("PATH", path_with_sbin());
        command.stdin(stdin).stdout(create(&err.with_extension("out"))?).stderr(create(&err)?).process_group(0);
        let child =
            command.spawn().map_err(io_error(format_args!("cannot start {name} (setpriv {})", argv.join(" "))))?;
        Ok(Running { name: name.to_owned(), child, ended: None, stderr: Some(err) })
    }
}

/// Runs a command (such as cargo) on xtask's terminal in its own group, and returns its exit status.
pub(crate) fn run_visible(cancel: &Cancel, command: &mut Command) -> Result<ExitStatus> {
    let mut child = start_group(cancel, command)?;
    let status = child.wait(cancel, LONGEST);
    if status.is_err() {
        child.interrupt();
    }
    status
}

/// Runs like [`run_visible`], and passes each line of both outputs to `each`.
pub(crate) fn run_lines(cancel: &Cancel, command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = start_group(cancel, command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (sender, lines) = mpsc::channel();
    let outputs: [Option<Box<dyn Read + Send>>; 2] = [
        child.child.stdout.take().map(|o| Box::new(o) as Box<dyn Read + Send>),
        child.child.stderr.take().map(|o| Box::new(o) as Box<dyn Read + Send>),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        // This thread ends with the pipe. It spawns nothing, so the rule about the main thread holds.
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(io::Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    loop {
        match lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => each(&line),
            Err(mpsc::RecvTimeoutError::Disconnected) => return child.wait(cancel, LONGEST),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if let Err(stop) = cancel.check() {
            child.interrupt();
            return Err(stop);
        }
    }
}

/// Time limit above that of any build.
const LONGEST: Duration = Duration::from_secs(4 * 3600);

fn start_group(cancel: &Cancel, command: &mut Command) -> Result<Running> {
    cancel.check()?;
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.process_group(0).spawn().map_err(io_error(format_args!("cannot start {name}")))?;
    Ok(Running { name, child, ended: None, stderr: None })
}

/// Returns PATH with the folders in which Debian keeps `ip`, `ethtool` and `nginx`.
pub(crate) fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Returns whether [`path_with_sbin`] contains a program.
pub(crate) fn has_program(name: &str) -> bool {
    path_with_sbin().split(':').any(|dir| Path::new(dir).join(name).is_file())
}

/// Returns whether xtask runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn tail(path: &Path) -> String {
    match std::fs::read(path) {
        Ok(bytes) if !bytes.is_empty() => {
            format!("; its last output:\n{}", last_lines(&String::from_utf8_lossy(&bytes)))
        }
        _ => String::new(),
    }
}

/// Returns the last twelve lines, indented.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let from = lines.len().saturating_sub(12);
    lines[from..].iter().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}
