//! Implements `oxide relay`: runs the complete relay, from the configuration to the last report.

mod confine;
mod control;
mod file;
mod holder;
mod report;
mod summary;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use oxide::engine::{Engine, RelayExit, Supervision, read_tables};
use oxide_cli::admin::notify::Notifier;
use oxide_cli::admin::{Admin, AdminLimits, Control, Listeners};
use oxide_relay::{UdpRelay, UsedSources};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use crate::log::LogControl;
use control::RelayControl;
use report::Reporter;

/// Interval at which the main thread checks the status.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time limit for packets in progress if sessions are not drained.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Wakes the main thread.
enum Event {
    Signal(i32),
    /// An operator ends the relay. Sessions may take this long.
    Drain(Duration),
}

pub(crate) fn relay(
    path: &Path,
    report: Option<&Path>,
    fault_pipe: Option<&Path>,
    log: LogControl,
) -> Result<ExitCode, String> {
    let config = file::load(path)?;
    crate::preflight::log(&config);
    let holders = holder::holders(&config.engine.interfaces);
    let (listeners, machine, sandbox) = confine::enter(&config, path, report, fault_pipe, &name(path))?;
    // This call comes after the sandbox: a thread inherits the privileges of its creator.
    crate::log::write_in_background().map_err(|e| format!("log thread: {e}"))?;
    crate::log::log_panics();
    // This comes before the engine is opened, so that Ctrl-C at any moment ends in order.
    let (notify, events) = flume::bounded(4);
    listen(notify.clone()).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let plan = control::plan(&config, &read_tables().map_err(|e| e.to_string())?, None)?;
    let (handlers, destinations) = (Arc::clone(&plan), Arc::clone(&plan));
    let sources = Arc::new(UsedSources::default());
    let used = Arc::clone(&sources);
    let engine = Engine::builder(config.engine.clone(), move |info| UdpRelay::new(&handlers, info))
        .destinations(move |tables| destinations.destinations(tables, &used))
        .planned_machine(machine)
        .supervision(Supervision::from(&config.supervision))
        .start()
        .map_err(|error| with_holders(&error.to_string(), &holders))?;
    let queues = engine.plan().actors.len() as u32;
    plan.check_queues(queues).map_err(|e| e.to_string())?;

    if let Some(pipe) = fault_pipe {
        crate::faults::listen(pipe.to_owned(), engine.handle());
    }
    let addresses = addresses(&listeners);
    let lost = file::lost_access(path).inspect(|text| tracing::warn!("{text}"));
    let sessions = format!("sessions: {}", config.session_bound());
    let notes = [sessions].into_iter().chain(listeners.notes().iter().cloned()).chain([sandbox.line()]).chain(lost);
    let notes: Vec<String> = notes.collect();
    summary::print(&config, &engine, &addresses, &notes);
    let handle = engine.handle();
    handle.confined(sandbox.layers());
    let queried = engine.handle();
    let notifier = Notifier::ready(move || queried.status()).map_err(|e| format!("notify thread: {e}"))?;
    let control = Arc::new(RelayControl {
        handle,
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        config: config.into(),
        plan: plan.into(),
        log,
        sources,
        notifier: notifier.clone(),
        notify,
    });
    let cpus = &engine.plan().housekeeping;
    let served = Arc::clone(&control) as Arc<dyn Control>;
    // The endpoints stay open to the end: operators see the status while the relay drains.
    let _admin =
        Admin::serve(listeners, served, AdminLimits::default(), cpus).map_err(|e| format!("admin thread: {e}"))?;

    let reporter = report.and_then(|path| {
        let status = engine.handle();
        let started = Reporter::start(path, move || status.status());
        started.inspect_err(|error| tracing::error!(%error, "cannot start the report thread")).ok()
    });

    let (exit, within) = watch(&engine, &control, &events)?;
    notifier.stopping(within);
    // A second signal ends the process at once. The kernel then removes the program and the sockets.
    std::thread::spawn(move || {
        while let Ok(event) = events.recv() {
            if matches!(event, Event::Signal(SIGINT | SIGTERM)) {
                std::process::exit(RelayExit::SecondSignal.code().into());
            }
        }
    });
    let status = if within.is_zero() { engine.stop(STOP_WITHIN) } else { engine.drain(within) };
    let ending = match status.relay_exit() {
        RelayExit::Ok => exit,
        worse => worse,
    };
    if let Some(reporter) = reporter {
        reporter.finish(status);
    }
    Ok(ExitCode::from(ending.code()))
}

/// Appends to an error the processes that hold the interfaces it names.
fn with_holders(error: &str, holders: &[(String, String)]) -> String {
    let about = holders.iter().filter(|(interface, _)| error.contains(interface));
    about.fold(error.to_owned(), |text, (interface, holder)| format!("{text}; {interface}: {holder}"))
}

/// Handles reloads until the relay must end. Returns the exit code and the time limit for sessions.
fn watch(
    engine: &Engine,
    control: &RelayControl,
    events: &flume::Receiver<Event>,
) -> Result<(RelayExit, Duration), String> {
    let supervision = Supervision::from(&control.config().supervision);
    loop {
        let status = engine.status();
        if let Some(ending) = status.fatal_exit(&supervision) {
            tracing::error!(exit_code = ending.code(), ?ending, "relay cannot continue");
            return Ok((ending, Duration::ZERO));
        }
        let within = match events.recv_timeout(LOOK_EVERY) {
            Ok(Event::Signal(SIGHUP)) => {
                // The reload reports its own errors.
                let _ = control.reload();
                continue;
            }
            Ok(Event::Signal(_)) => control.drain_within(),
            Ok(Event::Drain(within)) => within,
            Err(flume::RecvTimeoutError::Timeout) => continue,
            Err(flume::RecvTimeoutError::Disconnected) => return Err("the signal thread ended".to_owned()),
        };
        tracing::info!(within_s = within.as_secs(), "draining; a second signal stops at once");
        return Ok((RelayExit::Ok, within));
    }
}

/// Returns the relay's name, which is that of its configuration file.
fn name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "relay".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// Returns the addresses of the admin endpoints.
fn addresses(listeners: &Listeners) -> Vec<String> {
    let http = listeners.http().map(|address| format!("http://{address}"));
    let socket = listeners.socket().map(|path| format!("oxide ctl --socket {}", path.display()));
    http.into_iter().chain(socket).collect()
}

fn listen(events: flume::Sender<Event>) -> std::io::Result<()> {
    // SIGXFSZ would end the process when a log or a report reaches its file size limit (setrlimit(2)). With a handler
    // the write fails instead.
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ])?;
    std::thread::Builder::new().name("oxide-signals".to_owned()).spawn(move || {
        for signal in signals.forever().filter(|signal| *signal != SIGXFSZ) {
            let _ = events.try_send(Event::Signal(signal));
        }
    })?;
    Ok(())
}
