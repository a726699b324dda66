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

use crate::cancel::Cancel;
use crate::cli::{Cli, Command};
use crate::error::Failure;

pub(crate) use session::Session;

/// Runs the command. Its error determines the exit code.
pub(crate) fn dispatch(cli: Cli, cancel: &Cancel) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let session = || Session::open(&global, cancel);
    match command {
        Command::Evaluate(args) => evaluate::command(&session()?, &args),
        Command::Build(args) => build::command(&session()?, args),
        Command::Push(args) => push::command(&session()?, args),
        Command::Run(args) => run::command(&session()?, args),
        Command::Catchup(args) => catchup::command(&session()?, args),
        Command::Verify { receipt, registry } => verify::command(&session()?, &receipt, registry),
        Command::Serve(args) => serve::command(&session()?, &global, &args),
        Command::Jobs { command } => jobs::command(&session()?, command),
        Command::Check { dir } => check::command(&global, dir.as_deref(), cancel),
        Command::Doctor { registry } => doctor::command(&session()?, registry),
        Command::Init(args) => init::command(&global, args, cancel),
        Command::Certs(args) => certs::command(&global, &args),
        Command::Trust(args) => trust::command(&global, &args),
        Command::Hook(args) => hook::command(&session()?, &args),
        Command::Completions { shell } => completions::completions(shell),
        Command::Man { dir } => completions::man(&dir),
    }
}
