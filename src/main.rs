//! Parse, call the library, exit.

use std::process::ExitCode;

use clap::Parser as _;
use swanci::cancel::Cancel;
use swanci::cli::Cli;
use swanci::error::Kind;
use swanci::{commands, progress, signals};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let cancel = Cancel::new();
    if let Err(error) = signals::stop_on_signals(&cancel) {
        progress::write_stderr(&format!("warning: signals cannot be handled: {error}"));
    }
    match commands::dispatch(cli, &cancel, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let kind = cancel.stopped().map_or(failure.kind, |stop| stop.kind().and(failure.kind));
            if kind != Kind::NothingToBuild {
                progress::write_stderr(&failure.render());
            }
            ExitCode::from(kind)
        }
    }
}
