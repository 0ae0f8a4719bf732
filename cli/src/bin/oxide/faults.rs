//! Faults on purpose, for `cargo xtask drill`: a relay that is started with OXIDE_FAULTS=PIPE does to itself what the
//! lines of that pipe say. Without the variable nothing of this exists.
//!
//! `panic IF:QUEUE EVERY`, `stall IF:QUEUE MS`, `completions IF:QUEUE`, `socket IF:QUEUE`, `leak IF:QUEUE FRAMES`,
//! `restart-handler|restart-port|restart-queue IF:QUEUE`, `restarts IF:QUEUE NUMBER` (of all depths, one after the other);
//! and what a sandbox has to forbid: `read FILE`, `write FILE`, `spawn PROGRAM`, `exec PROGRAM`, `connect ADDRESS`.
//!
//! What happens to XDP programs another process does (`oxide inject-program-fault`): the relay has given up the privileges for it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use oxide::engine::{EngineError, EngineHandle, EngineStatus, RestartScope};
use oxide::port::QueueId;
use oxide::queue::DatapathFault;
use oxide::xdp::steering::{self, PassAll};

/// Starts to listen, if told to.
pub(crate) fn listen(engine: EngineHandle) {
    let Some(path) = std::env::var_os("OXIDE_FAULTS") else { return };
    tracing::warn!(?path, "this relay breaks itself when told to: OXIDE_FAULTS is set");
    let lines = move || {
        // Read and write: a pipe whose last writer has gone does not end.
        let Ok(pipe) = OpenOptions::new().read(true).write(true).open(&path) else { return };
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            match run_fault_command(&engine, &line) {
                Ok(()) => tracing::warn!(line, "a fault on purpose"),
                Err(error) => tracing::error!(line, error, "not a fault"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("oxide-faults".to_owned()).spawn(lines) {
        tracing::error!(%error, "no thread for faults");
    }
}

fn run_fault_command(engine: &EngineHandle, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let (Some(what), Some(whom)) = (words.next(), words.next()) else { return Err("two words at least".to_owned()) };
    if let Some(done) = break_out(what, whom) {
        return done.map_err(|error| error.to_string());
    }
    let (interface, queue) = whom.split_once(':').ok_or("INTERFACE:QUEUE")?;
    let id = QueueId::new(interface, queue.parse().map_err(|_| "no queue number")?);
    let number: u64 = words.next().unwrap_or("0").parse().map_err(|_| "no number")?;
    let done = match what {
        "panic" => engine.inject(&id, |_| DatapathFault::PanicEvery(number)),
        "stall" => engine.inject(&id, |_| DatapathFault::Stall(Duration::from_millis(number))),
        "completions" => engine.inject(&id, DatapathFault::Completions),
        "socket" => engine.inject(&id, DatapathFault::SocketLost),
        "leak" => engine.inject(&id, |_| DatapathFault::Leak(u32::try_from(number).unwrap_or(u32::MAX))),
        "restart-handler" => engine.restart(&id, RestartScope::Handler),
        "restart-port" => engine.restart(&id, RestartScope::Port),
        "restart-queue" => engine.restart(&id, RestartScope::Queue),
        "restarts" => return (0..number).try_for_each(|n| restart(engine, &id, n)).map_err(|error| error.to_string()),
        _ => return Err("no such fault".to_owned()),
    };
    done.map_err(|error| error.to_string())
}

/// What somebody would do who has taken the process over.
fn break_out(what: &str, whom: &str) -> Option<std::io::Result<()>> {
    Some(match what {
        "read" => std::fs::read(whom).map(drop),
        "write" => std::fs::write(whom, "x"),
        "spawn" => Command::new(whom).status().map(drop),
        "exec" => Err(Command::new(whom).exec()),
        "connect" => std::net::TcpStream::connect(whom).map(drop),
        _ => return None,
    })
}

/// Of ten restarts the first is of the queue, three are of the port, and six of the handler.
fn restart(engine: &EngineHandle, id: &QueueId, number: u64) -> Result<(), EngineError> {
    let of = |status: &EngineStatus| {
        let queue = status.queues.iter().find(|queue| queue.queue == id.queue);
        queue.map_or((0, false), |queue| (queue.restarts, queue.is_running()))
    };
    let (before, _) = of(&engine.status());
    let depth = match number % 10 {
        0 => RestartScope::Queue,
        1..=3 => RestartScope::Port,
        _ => RestartScope::Handler,
    };
    engine.restart(id, depth)?;
    engine.wait(Duration::from_secs(10), |status| of(status) == (before + 1, true)).map(drop)
}

/// What another process may do to the XDP program of an interface.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ProgramFault {
    /// Takes it off.
    Detach,
    /// Puts another one under its link.
    Swap,
    /// Puts another one in its place, until this process is ended.
    Replace,
}

pub(crate) fn inject_program_fault(what: ProgramFault, interface: &str) -> Result<ExitCode, String> {
    match what {
        ProgramFault::Detach => steering::detach_all(interface).map_err(|error| error.to_string())?,
        ProgramFault::Swap => steering::swap_all(interface).map_err(|error| error.to_string())?,
        ProgramFault::Replace => {
            let _other = replace(interface)?;
            loop {
                std::thread::park();
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes our program off and is first to attach another one.
fn replace(interface: &str) -> Result<PassAll, String> {
    for _ in 0..1000 {
        // Refused where the engine puts ours back in the same moment.
        let _ = steering::detach_all(interface);
        if let Ok(program) = PassAll::attach(interface) {
            return Ok(program);
        }
    }
    Err("ours was always first".to_owned())
}
