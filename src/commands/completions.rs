//! `swanci completions` and `swanci man`: files for packages, generated from the command line definition.

use std::io::Write;

use crate::cli::{self, Completions, Man};
use crate::error::{Classify as _, Failure, Kind};

/// Prints a completion script.
pub(super) fn completions(args: &Completions, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "swanci", &mut script);
    out.write_all(&script).classify(Kind::Failed, || "standard output is closed")
}

/// Writes a manual page for swanci and for each command.
pub(super) fn man(args: &Man) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(cli::command(), &args.dir))
        .classify(Kind::Environment, || format!("cannot write the manual pages into {}", args.dir.display()))
}
