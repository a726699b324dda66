//! swanci turns a merged pull request into Docker images in a private registry.

use std::process::ExitCode;

use clap::FromArgMatches as _;

pub mod cancel;
mod ci;
mod cli;
mod commands;
pub mod config;
pub mod decide;
mod docker;
pub mod documents;
pub mod error;
mod escape;
mod events;
pub mod forge;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod git;
mod hooks;
mod http;
mod init;
mod json;
pub mod listener;
mod lock;
mod manifest;
pub mod model;
mod parallel;
mod pipeline;
mod plan;
pub mod process;
mod progress;
pub mod queue;
mod redact;
pub mod registry;
#[cfg(test)]
mod schema_tests;
mod signals;
mod state_dir;
mod suggest;

/// Parses the command line, runs the command, and prints its failure.
pub fn main() -> ExitCode {
    // On an error, and for the help, clap prints and exits.
    let matches = cli::command().get_matches();
    let cli = cli::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let cancel = cancel::Cancel::new();
    if let Err(error) = signals::stop_on_signals(&cancel) {
        progress::write_stderr(&format!("warning: signals cannot be handled: {error}"));
    }
    match commands::dispatch(cli, &cancel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let kind = cancel.stopped().map_or(failure.kind, |stop| stop.kind().and(failure.kind));
            if kind != error::Kind::NothingToBuild {
                progress::write_stderr(&failure.render());
            }
            ExitCode::from(kind.code())
        }
    }
}

/// For tests that compare it with the documentation.
pub fn command_line() -> clap::Command {
    cli::command()
}
