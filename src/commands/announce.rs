//! What `serve` says while it runs: lines for people, or one JSON object a line.

use serde_json::json;

use crate::escape;
use crate::progress::{Progress, seconds, write_stdout};
use crate::queue::{JobEvent, JobState};

/// Clones share the display.
#[derive(Clone)]
pub(super) struct Announcer {
    json: bool,
    progress: Progress,
}

impl Announcer {
    pub(super) fn new(json: bool, progress: Progress) -> Announcer {
        Announcer { json, progress }
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
