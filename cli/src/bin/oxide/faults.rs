//! Injects faults into a running relay, for `cargo xtask drill` and the operation tests.
//!
//! `oxide relay --inject-faults-from PIPE` reads one command per line from a named pipe. The option is hidden, its use is
//! logged, and neither the configuration nor the environment can set it. Without the option no fault can be injected.
//!
//! Faults of a queue: `panic IF:QUEUE EVERY`, `stall IF:QUEUE MS`, `completions IF:QUEUE`, `socket IF:QUEUE`,
//! `leak IF:QUEUE FRAMES`. Restarts: `restart-handler IF:QUEUE`, `restart-port IF:QUEUE`, `restart-queue IF:QUEUE`, and
//! `restarts IF:QUEUE NUMBER`, which mixes all scopes. Actions that the sandbox must refuse: `read FILE`, `write FILE`,
//! `spawn PROGRAM`, `exec PROGRAM`, `connect ADDRESS`.
//!
//! The relay has no privilege to change XDP programs after its start. `oxide inject-program-fault` does that from another
//! process.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use oxide::engine::{EngineError, EngineHandle, EngineStatus, RestartScope};
use oxide::port::QueueId;
use oxide::queue::DatapathFault;
use oxide::xdp::steering::{self, PassAll};

/// Starts the thread that executes the fault commands written to `pipe`.
pub(crate) fn listen(pipe: PathBuf, engine: EngineHandle) {
    tracing::warn!(pipe = %pipe.display(), "fault injection is enabled by --inject-faults-from; not for production");
    let execute = move || {
        // The pipe is opened for reading and writing: a pipe that is only read ends when its last writer closes it.
        let Ok(pipe) = OpenOptions::new().read(true).write(true).open(&pipe) else { return };
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            match run_fault_command(&engine, &line) {
                Ok(()) => tracing::warn!(line, "injected a fault"),
                Err(error) => tracing::error!(line, error, "cannot inject a fault"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("oxide-faults".to_owned()).spawn(execute) {
        tracing::error!(%error, "cannot start the fault injection thread");
    }
}

fn run_fault_command(engine: &EngineHandle, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let (Some(what), Some(whom)) = (words.next(), words.next()) else {
        return Err("expected `FAULT TARGET [NUMBER]`".to_owned());
    };
    if let Some(done) = break_out(what, whom) {
        return done.map_err(|error| error.to_string());
    }
    let (interface, queue) = whom.split_once(':').ok_or("expected INTERFACE:QUEUE as the target")?;
    let id = QueueId::new(interface, queue.parse().map_err(|_| "expected a queue number")?);
    let number: u64 = words.next().unwrap_or("0").parse().map_err(|_| "expected a number")?;
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
        _ => return Err("unknown fault".to_owned()),
    };
    done.map_err(|error| error.to_string())
}

/// Tries an action of an attacker who controls the process. Returns `None` if `what` is not such an action.
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

/// Restarts the queue and waits until it runs. Of ten restarts one has queue scope, three port and six handler scope.
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

/// Changes that another process makes to the XDP program of an interface.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ProgramFault {
    /// Detaches the program.
    Detach,
    /// Replaces the program under its bpf_link.
    Swap,
    /// Detaches the program and attaches another one until this process ends.
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

/// Detaches our program and attaches another one before the engine attaches its own again.
fn replace(interface: &str) -> Result<PassAll, String> {
    for _ in 0..1000 {
        // The kernel refuses the detach while the engine attaches its program.
        let _ = steering::detach_all(interface);
        if let Ok(program) = PassAll::attach(interface) {
            return Ok(program);
        }
    }
    Err("the engine re-attached its program first in each of 1,000 attempts".to_owned())
}
