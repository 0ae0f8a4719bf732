//! What is logged, and how that is changed while the relay runs.

mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

pub(crate) use output::{flush, line, write_in_background};

/// Sets what is logged, if told what, and says what is.
pub(crate) type LogControl = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// Lines for people on a terminal, JSON for machines elsewhere; on standard error either way.
pub(crate) fn start(filter: &str) -> Result<LogControl, String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| output::Output);
    // It would print that, and panic where it cannot.
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

/// Logs panics instead of printing them: a thread that panics must not wait for a reader either.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        let location = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        let current = std::thread::current();
        tracing::error!(thread = current.name(), text, location, backtrace, "panicked");
    }));
}

fn control<S: 'static>(handle: Handle<EnvFilter, S>) -> LogControl {
    Box::new(move |filter| {
        if let Some(filter) = filter {
            let filter = EnvFilter::try_new(filter).map_err(|e| format!("{filter:?} is no filter: {e}"))?;
            handle.reload(filter).map_err(|e| e.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|e| e.to_string())
    })
}
