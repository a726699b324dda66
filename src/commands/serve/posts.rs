//! Posts the status of jobs to the forges.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::commands::report::{self, MergeState};
use crate::config::Config;
use crate::documents::{DecisionDocument, Receipt};
use crate::forge::api::CommitStatus;
use crate::queue::{JobState, Post, PostError, PostKind, Store};

/// Bytes at the end of a log to read: more than the last lines that are shown.
const LOG_END: usize = 64 << 10;
/// How long `serve --once` waits at its end for pending posts.
const FLUSH: Duration = Duration::from_secs(15);

/// Whether any forge gets statuses or comments.
pub(super) fn wanted(config: &Config) -> bool {
    config.forges.iter().any(|forge| forge.status || forge.comment)
}

/// Waits until everything is posted, up to a limit.
pub(super) fn flush(queue: &Store, cancel: &Cancel) {
    let end = Instant::now() + FLUSH;
    while queue.unposted().is_ok_and(|left| left > 0) && Instant::now() < end {
        if cancel.sleep(Duration::from_millis(50)).is_err() {
            return;
        }
    }
}

pub(super) fn send(queue: &Store, config: &Config, post: &Post, cancel: &Cancel) -> Result<(), PostError> {
    let failed = |error: String| PostError { error, pause: None };
    let document: DecisionDocument = match serde_json::from_str(&post.job.document) {
        Ok(document) => document,
        // The job fails, and no forge to post to is known.
        Err(_) => return Ok(()),
    };
    let Some(change) = document.change else { return Ok(()) };
    let name = &change.repository;
    let forge = report::forge_of(config, change.forge, change.forge_url.as_deref(), name);
    let Some(forge) = forge else { return Ok(()) };
    let wanted = match post.kind {
        PostKind::Status => forge.status,
        PostKind::Comment => forge.comment && post.job.state.is_ended(),
    };
    if !wanted {
        return Ok(());
    }
    let api = report::api_of(config, forge, name, None, cancel).map_err(|e| failed(e.one_line()))?;
    let Some(api) = api else { return Err(failed(format!("the forge {} has no token", forge.url))) };

    let receipt = OnceLock::new();
    let progress = match post.job.state {
        JobState::Queued | JobState::Running => MergeState::Pending,
        JobState::Succeeded => {
            let outcome = post.job.outcome.as_deref().unwrap_or_default();
            match serde_json::from_str::<Receipt>(outcome) {
                Ok(read) => MergeState::Succeeded(receipt.get_or_init(|| read)),
                Err(error) => return Err(failed(format!("the receipt cannot be read: {error}"))),
            }
        }
        JobState::Failed | JobState::Cancelled => MergeState::Failed {
            code: post.job.exit_code.filter(|_| post.job.state == JobState::Failed),
            error: post.job.error.as_deref().unwrap_or("cancelled"),
        },
    };
    let link = config.serve.public_url.as_ref().map(|url| format!("{url}/jobs/{}", post.job.id));
    let commit = post.job.commit.as_deref();
    let sent = match post.kind {
        PostKind::Status => {
            let Some(commit) = commit.and_then(|commit| commit.parse().ok()) else { return Ok(()) };
            let description = progress.description();
            api.set_status(&CommitStatus { commit, state: progress.state(), description, target_url: link })
        }
        PostKind::Comment => {
            let log = if matches!(progress, MergeState::Failed { .. }) {
                log_end(queue, post)
            } else {
                String::new()
            };
            let text = progress.comment(commit, &log, link.as_deref());
            match (text, change.pull_request) {
                (Some(text), Some(pull)) => api.comment(pull.number, &text),
                (_, _) => Ok(()),
            }
        }
    };
    sent.map_err(|error| PostError { pause: error.pause(), error: error.to_string() })
}

fn log_end(queue: &Store, post: &Post) -> String {
    let mut end = Vec::new();
    let read = queue.read_log(post.job.id, &mut |piece| {
        end.extend_from_slice(piece);
        end.drain(..end.len().saturating_sub(LOG_END));
        Ok(())
    });
    // Without the log, the comment still contains the outcome.
    read.map(|()| String::from_utf8_lossy(&end).into_owned()).unwrap_or_default()
}
