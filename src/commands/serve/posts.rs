//! Posts the status of jobs to the forges.

use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::commands::report::{self, MergeState};
use crate::config::Config;
use crate::documents::{DecisionDocument, Receipt};
use crate::forge::api::CommitStatus;
use crate::queue::{JobId, JobState, Post, PostError, PostKind, Store};

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
    let job = &post.job;
    let failed = |error: String| PostError { error, pause: None };
    // Without a readable document the job fails, and the forge is unknown.
    let document: Option<DecisionDocument> = serde_json::from_str(&job.document).ok();
    let Some(change) = document.and_then(|document| document.change) else { return Ok(()) };
    let name = &change.repository;
    let forge = report::forge_of(config, change.forge, change.forge_url.as_deref(), name);
    let Some(forge) = forge else { return Ok(()) };
    let wanted = match post.kind {
        PostKind::Status => forge.status,
        PostKind::Comment => forge.comment && job.state.is_ended(),
    };
    if !wanted {
        return Ok(());
    }
    let api = report::api_of(config, forge, name, None, None, cancel).map_err(|e| failed(e.one_line()))?;
    let Some(api) = api else { return Err(failed(format!("the forge {} has no token", forge.url))) };

    let receipt = job.outcome.as_deref().map(serde_json::from_str::<Box<Receipt>>).transpose();
    let receipt = receipt.map_err(|error| failed(format!("the receipt cannot be read: {error}")))?;
    let merge = match (job.state, receipt) {
        (JobState::Queued | JobState::Running, _) => MergeState::Pending,
        (_, Some(receipt)) => MergeState::Succeeded(receipt),
        (state, None) => MergeState::Failed {
            code: job.exit_code.filter(|_| state == JobState::Failed),
            error: job.error.clone().unwrap_or_else(|| state.as_str().to_owned()),
        },
    };
    let link = config.serve.public_url.as_ref().map(|url| format!("{url}/jobs/{}", job.id));
    let commit = job.commit.as_deref();
    let sent = match post.kind {
        PostKind::Status => {
            let Some(commit) = commit.and_then(|commit| commit.parse().ok()) else { return Ok(()) };
            let description = merge.description();
            api.set_status(&CommitStatus { commit, state: merge.state(), description, target_url: link })
        }
        PostKind::Comment => {
            let text = merge.comment(commit, &log_end(queue, job.id), link.as_deref());
            let Some((text, pull)) = text.zip(change.pull_request) else { return Ok(()) };
            api.comment(pull.number, &text)
        }
    };
    sent.map_err(|error| PostError { pause: error.pause(), error: error.to_string() })
}

fn log_end(queue: &Store, job: JobId) -> String {
    let mut end = Vec::new();
    let read = queue.read_log(job, &mut |piece| {
        end.extend_from_slice(piece);
        end.drain(..end.len().saturating_sub(LOG_END));
        Ok(())
    });
    // Without the log, the comment still contains the outcome.
    read.map(|()| String::from_utf8_lossy(&end).into_owned()).unwrap_or_default()
}
