//! `swanci run`: evaluate, build and push in one.

use std::io::Write;

use crate::cli::Run;
use crate::documents::DecisionWord;
use crate::error::Failure;
use crate::pipeline::{self, Ran};

use super::Session;
use super::build::{build_options, change_of};
use super::documents_io::{write, write_outcome};
use super::evaluate::evaluate;
use super::push::{push_options, summary};

/// Prints the receipt, or the decision when there is nothing to do.
pub(super) fn command(session: &Session, args: &Run, out: &mut dyn Write) -> Result<(), Failure> {
    let document = evaluate(&session.config, &args.payload)?;
    match document.decision {
        DecisionWord::Skip => {
            session.progress.say(&format!("nothing to do: {}", document.reason));
            return write(out, &document);
        }
        DecisionWord::Build => session.progress.say(&document.reason),
    }
    let change = change_of(&document)?;
    let site = session.site(&args.build.registry, Some(&args.build))?;
    let push = pipeline::PushOptions { force: args.build.force, ..push_options(&args.push) };
    let ran =
        pipeline::run(&site, &change, Some(&document.payload_sha256), &build_options(&args.build), &push)?;
    match ran.document {
        Ran::Built(built) => write_outcome(out, &built, ran.failure),
        Ran::Pushed(receipt) => {
            if ran.failure.is_none() {
                summary(&session.progress, &receipt);
            }
            write_outcome(out, &receipt, ran.failure)
        }
    }
}
