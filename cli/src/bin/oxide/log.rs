//! Starts the log, and changes its filter while the relay runs.

mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

pub(crate) use output::{flush, line, write_in_background};

/// Sets the log filter if one is given, and returns the filter in use.
pub(crate) type LogControl = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// Starts the log on standard error: as text on a terminal, otherwise as JSON lines.
pub(crate) fn start(filter: &str) -> Result<LogControl, String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::Output);
    // The log would print its internal errors, and panic if it cannot.
    let log = log.log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        let log = log.compact().with_filter_reloading();
        let control = control(log.reload_handle());
        log.init();
        Ok(control)
    } else {
        let log = log.json().with_filter_reloading();
        let control = control(log.reload_handle());
        log.init();
        Ok(control)
    }
}

/// Logs panics instead of printing them: a panicking thread must not wait for a reader of standard error.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let current = std::thread::current();
        tracing::error!(thread = current.name(), text, location, backtrace, "thread panicked");
    }));
}

fn control<S: 'static>(handle: Handle<EnvFilter, S>) -> LogControl {
    Box::new(move |filter| {
        if let Some(filter) = filter {
            let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter {filter:?}: invalid: {e}"))?;
            handle.reload(filter).map_err(|e| e.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|e| e.to_string())
    })
}
