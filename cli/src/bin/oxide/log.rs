//! What is logged, and how that is changed while the relay runs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// Sets what is logged, if told what, and says what is.
pub(crate) type LogControl = Box<dyn Fn(Option<&str>) -> Result<String, String> + Send + Sync>;

/// Lines for people on a terminal, JSON for machines elsewhere; on standard error either way.
pub(crate) fn start(filter: &str) -> Result<LogControl, String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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

fn control<S: 'static>(handle: Handle<EnvFilter, S>) -> LogControl {
    Box::new(move |filter| {
        if let Some(filter) = filter {
            let filter = EnvFilter::try_new(filter).map_err(|e| format!("{filter:?} is no filter: {e}"))?;
            handle.reload(filter).map_err(|e| e.to_string())?;
        }
        handle.with_current(ToString::to_string).map_err(|e| e.to_string())
    })
}
