//! The status of a commit.

use serde_json::{Value, json};

use super::{Api, ApiError, Problem};
use crate::model::{CommitSha, ForgeName};

/// The name of the status, among those of other tools on the same commit.
const CONTEXT: &str = "swanci";
/// Characters in a description: GitHub's limit.
pub(crate) const LONGEST_DESCRIPTION: usize = 140;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitState {
    Pending,
    Success,
    /// The merge itself is at fault.
    Failure,
    /// Something else prevented its build.
    Error,
}

#[derive(Debug)]
pub(crate) struct CommitStatus {
    pub(crate) commit: CommitSha,
    pub(crate) state: CommitState,
    pub(crate) description: String,
    /// A page with details.
    pub(crate) target_url: Option<String>,
}

impl Api {
    /// Sets the status of a commit. Idempotent.
    pub(crate) fn set_status(&self, status: &CommitStatus) -> Result<(), ApiError> {
        let CommitStatus { commit, state, description, target_url } = status;
        let at = format!("setting the status of {} of {}", commit.short(), self.repository);
        let mut description = crate::escape::escaped(&crate::redact::scrub(description));
        if description.chars().count() > LONGEST_DESCRIPTION {
            description = description.chars().take(LONGEST_DESCRIPTION - 1).chain(['…']).collect();
        }
        match self.kind {
            ForgeName::Github | ForgeName::Gitea | ForgeName::Forgejo | ForgeName::Gitbucket => {
                let mut body = json!({
                    "state": word(*state, ["pending", "success", "failure", "error"]),
                    "description": description,
                    "context": CONTEXT,
                });
                // GitBucket rejects an empty one with 404.
                if let Some(url) = target_url {
                    body["target_url"] = url.as_str().into();
                }
                self.send("POST", &format!("statuses/{commit}"), Some(&body), &at).map(drop)
            }
            ForgeName::Gitlab => {
                let state = word(*state, ["pending", "success", "failed", "failed"]);
                let mut body = json!({"state": state, "name": CONTEXT, "description": description});
                if let Some(url) = target_url {
                    body["target_url"] = url.as_str().into();
                }
                let sent = self.send("POST", &format!("statuses/{commit}"), Some(&body), &at);
                match sent {
                    Err(error)
                        if error.problem == Problem::Invalid
                            && error.detail.contains("Cannot transition")
                            && self.gitlab_has(commit, state, &at)? =>
                    {
                        Ok(())
                    }
                    sent => sent.map(drop),
                }
            }
            ForgeName::Bitbucket => {
                let body = self.build(status, &description);
                self.send("POST", &format!("commit/{commit}/statuses/build"), Some(&body), &at).map(drop)
            }
            ForgeName::BitbucketServer => {
                let body = self.build(status, &description);
                match self.send("POST", &format!("commits/{commit}/builds"), Some(&body), &at) {
                    // Data Center before 7.4.
                    Err(error) if error.problem == Problem::NotFound => {
                        let url = self.anywhere(&format!("build-status/1.0/commits/{commit}"))?;
                        self.exchange("POST", &url, Some(&body), &at).map(drop)
                    }
                    sent => sent.map(drop),
                }
            }
            ForgeName::Gogs => Err(self.error(
                Problem::Lacking,
                &at,
                "Gogs has no commit statuses; set comment = true instead",
            )),
        }
    }

    /// The status in the format of both Bitbuckets, which require a URL.
    fn build(&self, status: &CommitStatus, description: &str) -> Value {
        let page = || self.page(&format!("commits/{}", status.commit));
        json!({
            "key": CONTEXT,
            "name": CONTEXT,
            "state": word(status.state, ["INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED"]),
            "description": description,
            "url": status.target_url.clone().unwrap_or_else(page),
        })
    }

    /// Whether swanci's newest status on a commit has this state.
    fn gitlab_has(&self, commit: &CommitSha, state: &str, at: &str) -> Result<bool, ApiError> {
        let path = format!("repository/commits/{commit}/statuses?name={CONTEXT}&per_page=100");
        let found: Vec<Value> = self.read(&path, at)?;
        let newest = found.iter().filter(|s| s["name"] == CONTEXT).max_by_key(|s| s["id"].as_u64());
        Ok(newest.is_some_and(|status| status["status"] == state))
    }
}

fn word(state: CommitState, [pending, success, failure, error]: [&'static str; 4]) -> &'static str {
    match state {
        CommitState::Pending => pending,
        CommitState::Success => success,
        CommitState::Failure => failure,
        CommitState::Error => error,
    }
}
