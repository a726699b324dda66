//! Prints the progress of `serve`: text lines for people, or one JSON object per line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::escape;
use crate::events::Events;
use crate::listener::{DeliveryLine, Verdict};
use crate::progress::{seconds, write_stdout};
use crate::queue::{Ending, JobRecord, JobState};

/// Clones share the display.
#[derive(Clone)]
pub(super) struct Announcer {
    json: bool,
    quiet: bool,
    events: Events,
    refusals: Arc<Mutex<Refusals>>,
}

/// Anyone can send deliveries that are refused, so only one line per interval reports them.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Refusals {
    last_line: Option<Instant>,
    /// Refusals without a line since then.
    unsaid: u64,
}

impl Announcer {
    pub(super) fn new(json: bool, quiet: bool, events: Events) -> Announcer {
        Announcer { json, quiet, events, refusals: Arc::default() }
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
        let mut text = format!("delivery {}: {}", line.id.unwrap_or("-"), line.event.unwrap_or("no event"));
        if let Some(repository) = &delivered.repository {
            text.push_str(&format!(", {repository}"));
        }
        if let Some(number) = delivered.pull_request {
            text.push_str(&format!(" #{number}"));
        }
        text.push_str(&format!(": {status} {}", answer.label()));
        if let Some(job) = answer.job {
            text.push_str(&format!(" (job {job})"));
        }
        text.push_str(&format!(": {why}"));
        if unsaid > 0 {
            text.push_str(&format!("; {unsaid} more were refused before"));
        }
        self.say("delivery", &escape::escaped(&text));
    }

    /// The number of unreported refusals for this line; `None` if it must not be printed.
    fn unsaid_refusals(&self, refused: bool) -> Option<u64> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refused {
            if refusals.last_line.is_some_and(|last| last.elapsed() < REFUSALS_EVERY) {
                refusals.unsaid += 1;
                return None;
            }
            refusals.last_line = Some(Instant::now());
        }
        Some(std::mem::take(&mut refusals.unsaid))
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
