//! `oxide config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use oxide_relay::config::{Config, ephemeral_ports};

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read FILE and say all that is wrong with it, each with its mend. Exit code 1 if anything is.
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
            for warning in config.warnings(ephemeral_ports()) {
                println!("warning: {warning}");
            }
            println!("{}: {} relay(s) on {}", file.display(), config.relays.len(), config.engine.interfaces.join(", "));
        }
        ConfigCommand::Example => print!("{}", Config::example()),
    }
    Ok(ExitCode::SUCCESS)
}
