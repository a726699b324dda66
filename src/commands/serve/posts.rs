//! Posts the status of jobs to the forges.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::commands::report::{self, MergeState};
use crate::config::Config;
use crate::documents::DecisionDocument;
use crate::forge::api::CommitStatus;
use crate::queue::{JobState, Outbox, Post, PostError, PostKind, Store};

use super::service::Service;

/// Bytes at the end of a log to read: more than the last lines that are shown.
const LOG_END: usize = 64 << 10;
/// How long `serve --once` waits at its end for pending posts.
const FLUSH: Duration = Duration::from_secs(15);

/// Whether any forge gets statuses or comments.
pub(super) fn wanted(config: &Config) -> bool {
    config.forges.iter().any(|forge| forge.status || forge.comment)
}

/// The outbox of the queue, and its function that posts.
pub(super) fn outbox(service: &Arc<Service>) -> Arc<Outbox> {
    let (sender, announcer) = (Arc::clone(service), service.announcer.clone());
    let post = move |post: &Post| send(&sender, post);
    Outbox::new(
        &service.queue,
        &service.cancel,
        Box::new(post),
        Box::new(move |text: &str| announcer.warn(text)),
    )
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

fn send(service: &Service, post: &Post) -> Result<(), PostError> {
    let config = &*service.config();
    let failed = |error: String| PostError { error, pause: None };
    // An invalid document names no forge to post to.
    let document = serde_json::from_str(&post.documents.document).ok();
    let Some(change) = document.and_then(|document: DecisionDocument| document.change) else { return Ok(()) };
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
    let api =
        report::api_of(config, forge, name, None, None, &service.cancel).map_err(|e| failed(e.one_line()))?;
    let Some(api) = api else { return Err(failed(format!("the forge {} has no token", forge.url))) };

    let progress = match post.job.state {
        JobState::Queued | JobState::Running => MergeState::Pending,
        JobState::Succeeded => {
            let outcome = post.documents.outcome.as_deref().unwrap_or_default();
            let receipt = serde_json::from_str(outcome);
            MergeState::Succeeded(receipt.map_err(|e| failed(format!("the receipt cannot be read: {e}")))?)
        }
        JobState::Failed | JobState::Cancelled => MergeState::Failed {
            code: post.job.exit_code.filter(|_| post.job.state == JobState::Failed),
            error: post.job.error.clone().unwrap_or_else(|| "cancelled".to_owned()),
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
            let text = progress.comment(commit, &log_end(&service.queue, post), link.as_deref());
            let Some((text, pull)) = text.zip(change.pull_request) else { return Ok(()) };
            api.comment(pull.number, &text)
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
