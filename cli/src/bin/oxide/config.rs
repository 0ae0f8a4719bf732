//! Implements `oxide config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use oxide_relay::config::Config;

use crate::preflight;

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check FILE and print each error with its remedy. The exit code is 1 if there is an error. A mismatch with this
    /// host is only a warning, because the file may be for another host.
    Check {
        /// Configuration file.
        file: PathBuf,
    },
    /// Print a commented configuration with every field and its default.
    Example,
}

pub(crate) fn config(command: &ConfigCommand) -> Result<ExitCode, String> {
    match command {
        ConfigCommand::Check { file } => {
            let config = Config::load(file).map_err(|e| e.to_string())?;
            preflight::entries(&config, file)?;
            for finding in preflight::of_host(&config) {
                outln!("warning: {finding}");
            }
            outln!(
                "{}: relays: {}; interfaces: {}",
                file.display(),
                config.relays.len(),
                config.engine.interfaces.join(", ")
            );
            outln!("sessions: {}", config.session_bound());
        }
        ConfigCommand::Example => out!("{}", Config::example()),
    }
    Ok(ExitCode::SUCCESS)
}
