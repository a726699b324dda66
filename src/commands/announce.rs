//! What `serve` says while it runs: lines for people, or one JSON object a line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::escape;
use crate::listener::DeliveryLine;
use crate::progress::{Progress, seconds, write_stdout};
use crate::queue::{JobEvent, JobState};

/// Clones share the display.
#[derive(Clone)]
pub(super) struct Announcer {
    json: bool,
    progress: Progress,
    refusals: Arc<Mutex<Refusals>>,
}

/// Refused deliveries: anybody can send them, so they get one line in this time.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Refusals {
    last_line: Option<Instant>,
    /// Those without a line since then.
    unsaid: u64,
}

impl Announcer {
    pub(super) fn new(json: bool, progress: Progress) -> Announcer {
        Announcer { json, progress, refusals: Arc::default() }
    }

    /// Something that happened; `event` is its name for programs.
    pub(super) fn say(&self, event: &str, text: &str) {
        if self.json {
            write_stdout(&escape::json(json!({"event": event, "text": text}).to_string()));
        } else if !self.progress.is_quiet() {
            write_stdout(text);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        self.progress.warn(text);
    }

    /// One delivery and its answer.
    pub(super) fn delivery(&self, line: &DeliveryLine<'_>) {
        let delivered = line.delivered;
        let (answer, status) = (&delivered.answer, delivered.answer.reply().status);
        let Some(unsaid) = self.unsaid_refusals(status >= 400) else { return };
        if self.json {
            write_stdout(
                &json!({
                    "event": "delivery", "delivery": line.id, "name": line.event,
                    "repository": delivered.repository, "pull_request": delivered.pull_request, "job": answer.job(),
                    "status": status, "answer": answer.label(), "why": answer.why(), "refused_before": unsaid,
                })
                .to_string(),
            );
            return;
        }
        let mut text = format!("delivery {}: {}", line.id.unwrap_or("-"), line.event.unwrap_or("no event"));
        if let Some(repository) = &delivered.repository {
            text.push_str(&format!(", {repository}"));
        }
        if let Some(number) = delivered.pull_request {
            text.push_str(&format!(" #{number}"));
        }
        text.push_str(&format!(": {status} {}", answer.label()));
        if let Some(job) = answer.job() {
            text.push_str(&format!(" (job {job})"));
        }
        text.push_str(&format!(": {}", answer.why()));
        if unsaid > 0 {
            text.push_str(&format!("; {unsaid} more were refused before"));
        }
        self.say("delivery", &text.replace(['\n', '\t'], " "));
    }

    /// How many refusals to mention on this line; `None` when it is one that gets no line.
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

    /// What became of a job.
    pub(super) fn job(&self, event: &JobEvent) {
        let (word, id, text) = match event {
            JobEvent::Started { id, attempt } => ("started", Some(id), format!("started, attempt {attempt}")),
            JobEvent::Retrying { id, attempt, wait, error } => (
                "retrying",
                Some(id),
                format!("attempt {attempt} failed, again in {}: {error}", seconds(*wait)),
            ),
            JobEvent::Interrupted { id } => ("interrupted", Some(id), "stopped; it stays queued".to_owned()),
            JobEvent::Ended { id, state, error, took } => {
                let word = match state {
                    JobState::Succeeded => "succeeded",
                    JobState::Failed => "failed",
                    JobState::Cancelled => "cancelled",
                    JobState::Queued | JobState::Running => "ended",
                };
                let why = error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
                (word, Some(id), format!("{word} after {}{why}", seconds(*took)))
            }
            JobEvent::Trouble { error } => ("trouble", None, error.clone()),
        };
        match id {
            Some(id) if self.json => {
                write_stdout(&escape::json(json!({"event": word, "job": id.0, "text": text}).to_string()))
            }
            Some(id) => self.say(word, &format!("job {id}: {text}")),
            None => self.warn(&format!("the queue: {text}; it is tried again")),
        }
    }
}
