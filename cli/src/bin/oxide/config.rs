//! `oxide config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use oxide_relay::config::Config;

use crate::preflight;

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read FILE and say all that is wrong with it, each with its mend. Exit code 1 if anything is. What does not fit this
    /// host is a warning: the file may be another's.
    Check {
        /// The configuration.
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
            outln!("{}: {} relay(s) on {}", file.display(), config.relays.len(), config.engine.interfaces.join(", "));
            outln!("sessions: {}", config.sessions.bound());
        }
        ConfigCommand::Example => out!("{}", Config::example()),
    }
    Ok(ExitCode::SUCCESS)
}
