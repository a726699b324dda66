//! One file per subcommand: its arguments, and the calls to the modules below.

mod announce;
mod build;
mod catchup;
mod certs;
mod check;
mod completions;
mod doctor;
mod documents_io;
mod evaluate;
mod hook;
mod init;
mod jobs;
mod push;
mod report;
mod run;
mod serve;
mod session;
mod summary;
mod trust;
mod verify;

use std::io::Write;

use crate::cancel::Cancel;
use crate::cli::{Cli, Command};
use crate::error::Failure;

pub(crate) use session::Session;

/// Runs the command. Its result is written to `out`; its error determines the exit code.
pub(crate) fn dispatch(cli: Cli, cancel: &Cancel, out: &mut dyn Write) -> Result<(), Failure> {
    let session = |global| Session::open(global, cancel);
    match cli.command {
        Command::Evaluate(args) => evaluate::command(&session(&cli.global)?, &args, out),
        Command::Build(args) => build::command(&session(&cli.global)?, &args, out),
        Command::Push(args) => push::command(&session(&cli.global)?, &args, out),
        Command::Run(args) => run::command(&session(&cli.global)?, args, out),
        Command::Catchup(args) => catchup::command(&session(&cli.global)?, &args, out),
        Command::Verify(args) => verify::command(&session(&cli.global)?, &args, out),
        Command::Serve(args) => serve::command(&session(&cli.global)?, &cli.global, &args),
        Command::Jobs(args) => jobs::command(&session(&cli.global)?, &args, out),
        Command::Check(args) => check::command(&cli.global, &args, cancel, out),
        Command::Doctor(args) => doctor::command(&session(&cli.global)?, &args, out),
        Command::Init(args) => init::command(&cli.global, &args, cancel, out),
        Command::Certs(args) => certs::command(&cli.global, &args, out),
        Command::Trust(args) => trust::command(&cli.global, &args, out),
        Command::Hook(args) => hook::command(&session(&cli.global)?, &args, out),
        Command::Completions(args) => completions::completions(&args, out),
        Command::Man(args) => completions::man(&args),
    }
}
