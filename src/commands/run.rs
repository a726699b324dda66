//! `swanci run`: evaluate, build and push in one step.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::ci::Report;
use crate::cli::Run;
use crate::config::Environment;
use crate::documents::{DecisionDocument, DecisionWord, Receipt};
use crate::error::{Classify as _, Failure, Kind};
use crate::forge::api::CommitStatus;
use crate::model::{CommitSha, ForgeName};
use crate::pipeline::{self, Outcome, Ran};

use super::Session;
use super::build::{self, build_options, change_of};
use super::documents_io::{wants_json, write};
use super::evaluate::evaluate;
use super::push::{push_options, say_pulls};
use super::report::{self, MergeState};
use super::{session, summary};

/// For setting a status, also after a signal, which the status then reports.
const LIMIT: Duration = Duration::from_secs(20);
/// Its limit after a signal.
const LIMIT_AFTER_SIGNAL: Duration = Duration::from_secs(2);

/// Prints the receipt, or the decision if there is nothing to build. Reports the result to the surrounding CI job.
pub(super) fn command(session: &Session, mut args: Run) -> Result<(), Failure> {
    let named = args.payload.event.as_deref().is_some_and(|event| !event.trim().is_empty());
    if let (Some(actions), false) = (&session.actions, named) {
        args.payload.event = actions.event_of(&args.payload.payload);
    }
    let mut report = Report::default();
    let result = run(session, args, &mut report);
    let Some(actions) = &session.actions else { return result };
    let reported = actions.report(&report, result.as_ref().err());
    if let (Err(_), Err(error)) = (&result, &reported) {
        session.events.warn(&error.to_string());
    }
    result.and(reported)
}

fn run(session: &Session, args: Run, report: &mut Report) -> Result<(), Failure> {
    let document = evaluate(&session.config, &args.payload)?;
    report.reason = document.reason.clone();
    if document.decision == DecisionWord::Skip {
        report.outcome = "skipped";
        if let Some(change) = &document.change {
            report.is_about(change, change.commit.as_ref());
        }
        if wants_json(session) {
            session.events.note(&format!("nothing to do: {}", document.reason));
        }
        return write(session, &document, || summary::decision(&document, None));
    }
    session.events.note(&document.reason);
    let status = args.status;
    let ran = carry_out(session, args, &document);
    if status {
        tell_end(session, &document, &ran);
    }
    let Outcome { document: ran, failure } = ran?;
    let (written, change, images) = match ran {
        Ran::Built(built) => {
            let written = write(session, &built, || summary::built(&built, None));
            (written, built.change, built.images)
        }
        Ran::Pushed(receipt) => {
            if failure.is_none() {
                report.outcome = "succeeded";
                say_pulls(session, &receipt);
            }
            report.receipt = session.actions.as_ref().and_then(|_| kept(session, &receipt));
            let written = write(session, &receipt, || summary::receipt(&receipt));
            (written, receipt.change, receipt.images)
        }
    };
    report.is_about(&change, Some(&change.commit));
    report.images = images;
    failure.map_or(written, Err)
}

fn carry_out(session: &Session, args: Run, document: &DecisionDocument) -> Result<Outcome<Ran>, Failure> {
    let site = build::site(session, &args.build)?;
    let change = pipeline::landed(&site, change_of(document)?, &[])?;
    if args.status {
        tell(session, document, Some(&change.commit), &MergeState::Pending);
    }
    let (build, push) = (build_options(args.build), push_options(&args.push));
    pipeline::run(&site, &change, Some(&document.payload_sha256), &build, &push)
}

fn tell_end(session: &Session, document: &DecisionDocument, ran: &Result<Outcome<Ran>, Failure>) {
    let (commit, failure) = match ran {
        Ok(Outcome { document: Ran::Pushed(receipt), failure }) => {
            (Some(&receipt.change.commit), failure.as_ref())
        }
        Ok(Outcome { document: Ran::Built(built), failure }) => {
            (Some(&built.change.commit), failure.as_ref())
        }
        Err(failure) => (None, Some(failure)),
    };
    let state = match (ran, failure) {
        (_, Some(failure)) => {
            MergeState::Failed { code: Some(failure.kind.code()), error: failure.one_line() }
        }
        (Ok(Outcome { document: Ran::Pushed(receipt), .. }), None) => {
            MergeState::Succeeded(Box::new(receipt.clone()))
        }
        (Ok(_) | Err(_), None) => return,
    };
    tell(session, document, commit, &state);
}

/// Sets the commit's status. Errors are only warnings.
fn tell(session: &Session, document: &DecisionDocument, commit: Option<&CommitSha>, state: &MergeState) {
    let Some(change) = &document.change else { return };
    let Some(commit) = commit.or(change.commit.as_ref()) else { return };
    let set = || -> Result<(), Failure> {
        let (config, name) = (&session.config, &change.repository);
        let forge = report::forge_of(config, change.forge, change.forge_url.as_deref(), name)
            .ok_or_else(|| Failure::usage("its forge is not configured"))?;
        let environment = Environment::of_process();
        // GitHub's variables belong to the workflow's instance, else to the public one.
        let github = environment.get("GITHUB_SERVER_URL").unwrap_or("https://github.com");
        let token = environment.secret("GH_TOKEN").or_else(|| environment.secret("GITHUB_TOKEN"));
        let is_instance = forge.kind == ForgeName::Github && forge.url == github;
        let has_token = session::login(config, forge)?.is_some();
        let token = token.filter(|_| is_instance && !has_token);
        let api = report::api_of(config, forge, name, None, token, &Cancel::new().child(Some(LIMIT)))?
            .ok_or_else(|| Failure::usage(format!("there is no token for {}", forge.url)))?;
        let (state, description) = (state.state(), state.description());
        let status = CommitStatus { commit: commit.clone(), state, description, target_url: None };
        within(&session.cancel, move || api.set_status(&status))
    };
    if let Err(failure) = set() {
        session.events.warn(&format!("the status of {} was not set: {}", commit.short(), failure.one_line()));
    }
}

/// Carries out `work` in a thread, because a request to a server that does not answer cannot be interrupted.
fn within<E>(cancel: &Cancel, work: impl FnOnce() -> Result<(), E> + Send + 'static) -> Result<(), Failure>
where
    E: Into<Failure> + Send + 'static,
{
    let (done, ended) = mpsc::channel();
    let begun = Instant::now();
    thread::Builder::new()
        .spawn(move || done.send(work()))
        .classify(Kind::Environment, || "cannot start a thread")?;
    loop {
        match ended.recv_timeout(Duration::from_millis(20)) {
            Ok(result) => return result.map_err(Into::into),
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::environment("its thread ended")),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let limit = if cancel.stopped().is_some() { LIMIT_AFTER_SIGNAL } else { LIMIT };
        if begun.elapsed() >= limit {
            return Err(Failure::environment(format!("no answer within {} s", limit.as_secs())));
        }
    }
}

/// The path of this receipt in the state directory.
fn kept(session: &Session, receipt: &Receipt) -> Option<PathBuf> {
    let dir = std::path::absolute(session.config.state_dir.join("receipts")).ok()?;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let commit = receipt.change.commit.short();
    paths.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains(commit)));
    paths.sort();
    paths.into_iter().rev().find(|path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        // Not an exact comparison: JSON may change the last digit of seconds.
        serde_json::from_slice::<Receipt>(&bytes).is_ok_and(|kept| {
            (&kept.started, &kept.finished, &kept.change)
                == (&receipt.started, &receipt.finished, &receipt.change)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::Stop;

    #[test]
    fn a_forge_that_does_not_answer_delays_the_end_after_a_signal_by_two_seconds_at_most() {
        let cancel = Cancel::new();
        let answered = within(&cancel, || Err(Failure::refused("no")));
        assert_eq!(answered.unwrap_err().one_line(), "no");
        cancel.stop(Stop::Terminated);
        let (_held, never) = mpsc::channel::<()>();
        let begun = Instant::now();
        let hung = within(&cancel, move || never.recv().map_err(|e| Failure::refused(e.to_string())));
        assert_eq!(hung.unwrap_err().one_line(), "no answer within 2 s");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
