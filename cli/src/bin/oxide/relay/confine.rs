//! Opens what cannot be opened later, then drops privileges.

use std::path::{Path, PathBuf};

use oxide::engine::PlannedMachine;
use oxide::net::SETTINGS_RECORDS;
use oxide_cli::admin::Listeners;
use oxide_cli::admin::sandbox::{Files, Sandbox};
use oxide_relay::config::{Config, ExecutorKind};

/// Shared directories. If the configuration file is in one of these, only the file itself stays readable.
const SHARED: [&str; 10] = ["/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var"];

/// Opens the listeners, reads the machine, and drops all other privileges. Call it while there is one thread: a
/// thread inherits the privileges of its creator.
pub(super) fn enter(
    config: &Config,
    path: &Path,
    report: Option<&Path>,
    fault_pipe: Option<&Path>,
    name: &str,
) -> Result<(Listeners, PlannedMachine, Sandbox), String> {
    let mut sandbox = Sandbox::begin(config.admin.sandbox).map_err(|e| e.to_string())?;
    let listeners = Listeners::open(&config.admin, name).map_err(|e| e.to_string())?;
    // hwloc's plug-ins are shared libraries, and none can be loaded later.
    let machine = PlannedMachine::new(&config.engine).map_err(|e| e.to_string())?;
    let parent = |file: &Path| std::path::absolute(file).ok()?.parent().map(Path::to_owned);
    let records = PathBuf::from(SETTINGS_RECORDS);
    if let Err(error) = std::fs::create_dir_all(&records) {
        tracing::debug!(%error, directory = %records.display(), "cannot create the record directory");
    }
    let files = Files {
        read: configuration(path).into_iter().chain([records.clone()]).collect(),
        update: fault_pipe.map(Path::to_owned).into_iter().collect(),
        replace_in: report.and_then(parent).into_iter().chain([records]).collect(),
        remove_from: listeners.socket().and_then(parent).into_iter().collect(),
        interfaces: config.engine.interfaces.clone(),
    };
    sandbox.confine(&files, config.engine.executor != ExecutorKind::Thread).map_err(|e| e.to_string())?;
    Ok((listeners, machine, sandbox))
}

/// Returns the paths that a reload reads: the directory of the file, where an editor puts a new file, and the
/// directory of the file that it links to.
fn configuration(path: &Path) -> Vec<PathBuf> {
    let files = [std::path::absolute(path).ok(), path.canonicalize().ok()];
    let of = |file: PathBuf| match file.parent() {
        Some(directory) if !SHARED.iter().any(|shared| directory == Path::new(shared)) => directory.to_owned(),
        _ => file,
    };
    let mut places: Vec<PathBuf> = files.into_iter().flatten().map(of).collect();
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_directory_stays_accessible_and_shared_one_does_not() {
        let read = |path: &str| configuration(Path::new(path));
        assert_eq!(read("/etc/oxide/relay.toml"), [PathBuf::from("/etc/oxide")]);
        assert_eq!(read("/etc/relay.toml"), [PathBuf::from("/etc/relay.toml")]);
        assert_eq!(read("/config/relay.toml"), [PathBuf::from("/config")]);
    }
}
