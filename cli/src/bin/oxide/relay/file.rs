//! Reads the configuration file at the start, and at each reload, when the process has fewer privileges.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use oxide_relay::config::{Config, ConfigError};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::preflight;

/// Reads the file. Replaces alternative interface names by the real names.
pub(super) fn load(path: &Path) -> Result<Config, String> {
    let mut config = Config::load(path).map_err(|error| explain(path, &error))?;
    preflight::entries(&config, path)?;
    config.engine.interfaces = oxide_topology::real_names(&config.engine.interfaces);
    Ok(config)
}

/// Returns why a reload will not be able to read the file, given the current privileges of the process.
pub(super) fn lost_access(path: &Path) -> Option<String> {
    let error = File::open(path).err()?;
    let why = if is_denied(&error) { denied(path) } else { error.to_string() };
    Some(format!("a reload will not be able to read {}: {why}", path.display()))
}

fn explain(path: &Path, error: &ConfigError) -> String {
    match error {
        ConfigError::Read { source, .. } if is_denied(source) => {
            format!("cannot read {}: {source}: {}", path.display(), denied(path))
        }
        _ => error.to_string(),
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Explains a denied read: by the rights of the file, or by the sandbox. access(2) checks only the former.
fn denied(path: &Path) -> String {
    if accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS).is_ok() {
        return "the sandbox allows the directory of the configuration file; in a shared directory such as /etc it allows \
                only the file that existed at the start; to fix: move it to its own directory, or write it in place"
            .to_owned();
    }
    let user = rustix::process::geteuid().as_raw();
    let rights = std::fs::metadata(path)
        .map_or_else(|_| String::new(), |file| format!(" (mode {:o}, owner {})", file.mode() & 0o777, file.uid()));
    format!(
        "user {user} may not read it without CAP_DAC_OVERRIDE, which the relay drops{rights}; to fix: chown {user} {0}, or \
         chmod a+r {0} and its directories",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_needed_and_what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.toml");
        assert!(load(&path).unwrap_err().contains("relay.toml"));
        std::fs::write(&path, "engine.interfaces = [\"eth0\"]").unwrap();
        assert!(load(&path).unwrap_err().contains("no [[relay]] entry"));
        assert_eq!(lost_access(&path), None);
        assert!(lost_access(&dir.path().join("gone")).is_some_and(|text| text.contains("a reload")));
    }
}
