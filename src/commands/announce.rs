//! Prints the progress of `serve`: text lines for people, or one JSON object per line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::escape;
use crate::events::Events;
use crate::listener::{DeliveryLine, Verdict};
use crate::progress::{seconds, write_stdout};
use crate::queue::{Ending, JobRecord, JobState};

pub(super) struct Announcer {
    json: bool,
    quiet: bool,
    pub(super) events: Events,
    /// When a refusal was last printed, and the number of refusals since then.
    refusals: Mutex<(Option<Instant>, u64)>,
}

/// Anyone can send deliveries that are refused, so only one line per interval reports them.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

impl Announcer {
    pub(super) fn new(json: bool, quiet: bool, events: Events) -> Announcer {
        Announcer { json, quiet, events, refusals: Mutex::default() }
    }

    /// Prints an event; `event` is its name for programs.
    pub(super) fn say(&self, event: &str, text: &str) {
        if self.json {
            write_json(&json!({"event": event, "text": text}));
        } else if !self.quiet {
            write_stdout(text);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        self.events.warn(text);
    }

    /// Prints one delivery and its response.
    pub(super) fn delivery(&self, line: &DeliveryLine<'_>) {
        let delivered = line.delivered;
        let (answer, status) = (&delivered.answer, delivered.answer.status());
        // Also with --quiet, and among many refusals: a merge may wait at the forge.
        if let (Verdict::Unavailable, Some(cause)) = (answer.verdict, &answer.log) {
            self.warn(&format!("a delivery was refused with 503: {}", escape::escaped(cause)));
        }
        let Some(unsaid) = self.unsaid_refusals(status >= 400) else { return };
        let log = answer.log.as_ref().map(|log| format!(": {log}")).unwrap_or_default();
        let why = format!("{}{log}", answer.why);
        if answer.verdict == Verdict::Contradictory {
            self.warn(&escape::escaped(&answer.why));
        }
        if self.json {
            return write_json(&json!({
                "event": "delivery", "delivery": line.id, "name": line.event,
                "repository": delivered.repository, "pull_request": delivered.pull_request, "job": answer.job,
                "status": status, "answer": answer.label(), "why": why, "refused_before": unsaid,
            }));
        }
        let (id, event) = (line.id.unwrap_or("-"), line.event.unwrap_or("no event"));
        let repository = delivered.repository.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
        let number = delivered.pull_request.map(|number| format!(" #{number}")).unwrap_or_default();
        let job = answer.job.map(|job| format!(" (job {job})")).unwrap_or_default();
        let label = answer.label();
        let mut text = format!("delivery {id}: {event}{repository}{number}: {status} {label}{job}: {why}");
        if unsaid > 0 {
            text.push_str(&format!("; {unsaid} more were refused before"));
        }
        self.say("delivery", &escape::escaped(&text));
    }

    /// The number of unreported refusals for this line; `None` if it must not be printed.
    fn unsaid_refusals(&self, refused: bool) -> Option<u64> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (printed, unsaid) = &mut *refusals;
        if refused {
            if printed.is_some_and(|printed| printed.elapsed() < REFUSALS_EVERY) {
                *unsaid += 1;
                return None;
            }
            *printed = Some(Instant::now());
        }
        Some(std::mem::take(unsaid))
    }

    pub(super) fn ended(&self, job: &JobRecord, ending: &Ending, took: Duration) {
        let (state, took) = (ending.state, seconds(took));
        let why = ending.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        match (state, ending.wait) {
            (JobState::Queued, Some(wait)) => {
                let (attempt, wait) = (job.attempt(), seconds(wait));
                self.job(job, "retrying", &format!("attempt {attempt} failed, again in {wait}{why}"));
            }
            (JobState::Queued, None) => self.job(job, "interrupted", "stopped; it stays queued"),
            (JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Cancelled, _) => {
                self.job(job, state.as_str(), &format!("{state} after {took}{why}"));
            }
        }
    }

    /// Prints an event of a job; `word` is its name for programs.
    pub(super) fn job(&self, job: &JobRecord, word: &str, text: &str) {
        if self.json {
            return write_json(&json!({
                "event": word, "job": job.id.0, "repository": job.repository, "pull_request": job.pull_request,
                "branch": job.branch, "commit": job.commit, "text": text,
            }));
        }
        let number = job.pull_request.map(|number| format!(" #{number}")).unwrap_or_default();
        let commit = job.commit.as_deref().map(|commit| format!(" {commit}")).unwrap_or_default();
        let text = format!("job {} ({}{number}, {}{commit}): {text}", job.id, job.repository, job.branch);
        self.say(word, &escape::escaped(&text));
    }
}

fn write_json(line: &serde_json::Value) {
    write_stdout(&escape::json(line.to_string()));
}
