//! `swanci run`: evaluate, build and push in one.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::ci::{Ended, Report};
use crate::cli::Run;
use crate::documents::{DecisionDocument, DecisionWord, Receipt};
use crate::error::Failure;
use crate::pipeline::{self, Outcome, Ran};

use super::Session;
use super::build::{build_options, change_of};
use super::documents_io::{wants_json, write, write_outcome};
use super::evaluate::evaluate;
use super::push::{push_options, say_pulls};
use super::summary;

/// Prints the receipt, or the decision when there is nothing to do.
pub(super) fn command(session: &Session, mut args: Run, out: &mut dyn Write) -> Result<(), Failure> {
    let named = args.payload.event.as_deref().is_some_and(|event| !event.trim().is_empty());
    if let (Some(actions), false) = (&session.actions, named) {
        args.payload.event = actions.event_of(&args.payload.payload);
    }
    let document = match evaluate(&session.config, &args.payload) {
        Ok(document) => document,
        Err(failure) => return reported(session, None, Ended::Early, Some(failure), None, Ok(())),
    };
    let reason = Some(document.reason.as_str());
    match document.decision {
        DecisionWord::Skip => {
            if wants_json(session) {
                session.events.note(&format!("nothing to do: {}", document.reason));
            }
            let written = write(session, out, &document, || summary::decision(&document, None));
            return reported(session, reason, Ended::Skipped(&document), None, None, written);
        }
        DecisionWord::Build => session.events.note(&document.reason),
    }
    let Outcome { document: ran, failure } = match carry_out(session, &args, &document) {
        Ok(ran) => ran,
        Err(failure) => return reported(session, reason, Ended::Early, Some(failure), None, Ok(())),
    };
    match &ran {
        Ran::Built(built) => {
            let written = write_outcome(session, out, built, || summary::built(built, None), None);
            reported(session, reason, Ended::Built(built), failure, None, written)
        }
        Ran::Pushed(receipt) => {
            if failure.is_none() {
                say_pulls(session, receipt);
            }
            let written = write_outcome(session, out, receipt, || summary::receipt(receipt), None);
            let kept = session.actions.as_ref().and_then(|_| kept(&session.config.state_dir, receipt));
            reported(session, reason, Ended::Pushed(receipt), failure, kept.as_deref(), written)
        }
    }
}

fn carry_out(session: &Session, args: &Run, document: &DecisionDocument) -> Result<Outcome<Ran>, Failure> {
    let change = change_of(document)?;
    let site = session.site(&args.build.registry, Some(&args.build))?;
    let (build, push) = (build_options(&args.build), push_options(&args.push));
    pipeline::run(&site, &change, Some(&document.payload_sha256), &build, &push)
}

/// Tells the CI job around it how it ended. The run's own failure counts first.
fn reported(
    session: &Session,
    reason: Option<&str>,
    ended: Ended<'_>,
    failure: Option<Failure>,
    receipt: Option<&Path>,
    written: Result<(), Failure>,
) -> Result<(), Failure> {
    let told = match &session.actions {
        Some(actions) => actions.report(&Report { ended, reason, failure: failure.as_ref(), receipt }),
        None => Ok(()),
    };
    match failure {
        Some(failure) => {
            if let Err(untold) = told {
                session.events.warn(&untold.to_string());
            }
            Err(failure)
        }
        None => written.and(told),
    }
}

/// Where the state directory keeps this receipt: among the newest of its commit.
fn kept(state_dir: &Path, receipt: &Receipt) -> Option<PathBuf> {
    let dir = std::path::absolute(state_dir.join("receipts")).ok()?;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let commit = receipt.change.commit.short();
    paths.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains(commit)));
    paths.sort();
    paths.into_iter().rev().find(|path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        // Not all of it: seconds may change in their last digit on the way through JSON.
        serde_json::from_slice::<Receipt>(&bytes).is_ok_and(|kept| {
            (&kept.started, &kept.finished, &kept.change)
                == (&receipt.started, &receipt.finished, &receipt.change)
        })
    })
}
