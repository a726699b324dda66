//! `swanci completions` and `swanci man`: files for packages, generated from the command line definition.

use std::path::Path;

use crate::cli;
use crate::error::{Classify as _, Failure, Kind};

use super::documents_io::write_bytes;

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "swanci", &mut script);
    write_bytes(&script)
}

/// Writes a manual page for swanci and for each command.
pub(super) fn man(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(cli::command(), dir))
        .classify(Kind::Environment, || format!("cannot write the manual pages into {}", dir.display()))
}
