//! The status of a commit.

use serde_json::{Value, json};

use super::{Api, ApiError, Family, Problem};
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
        if self.kind == ForgeName::Gogs {
            let detail = "Gogs has no commit statuses; set comment = true instead";
            return Err(self.error(Problem::Lacking, &at, detail));
        }
        // Both Bitbuckets require a URL.
        let url = || target_url.clone().unwrap_or_else(|| self.page(&format!("commits/{commit}")));
        let of_bitbucket = || json!({"key": CONTEXT, "name": CONTEXT, "url": url()});
        let (path, mut body) = match self.family() {
            Family::Github => (format!("statuses/{commit}"), json!({"context": CONTEXT})),
            Family::Gitlab => (format!("statuses/{commit}"), json!({"name": CONTEXT})),
            Family::Bitbucket => (format!("commit/{commit}/statuses/build"), of_bitbucket()),
            Family::BitbucketServer => (format!("commits/{commit}/builds"), of_bitbucket()),
        };
        // GitBucket rejects an empty one with 404.
        if let (Some(url), Family::Github | Family::Gitlab) = (target_url, self.family()) {
            body["target_url"] = url.as_str().into();
        }
        let [pending, success, failure, error] = match self.family() {
            Family::Github => ["pending", "success", "failure", "error"],
            Family::Gitlab => ["pending", "success", "failed", "failed"],
            Family::Bitbucket | Family::BitbucketServer => ["INPROGRESS", "SUCCESSFUL", "FAILED", "FAILED"],
        };
        let state = match state {
            CommitState::Pending => pending,
            CommitState::Success => success,
            CommitState::Failure => failure,
            CommitState::Error => error,
        };
        body["state"] = state.into();
        body["description"] = description.into();
        match self.send("POST", &path, Some(&body), &at) {
            // GitLab rejects the state that a commit already has.
            Err(error)
                if self.kind == ForgeName::Gitlab
                    && error.detail.contains("Cannot transition")
                    && self.gitlab_has(commit, state, &at)? =>
            {
                Ok(())
            }
            // Data Center before 7.4.
            Err(error) if self.kind == ForgeName::BitbucketServer && error.problem == Problem::NotFound => {
                let url = self.anywhere(&format!("build-status/1.0/commits/{commit}"))?;
                self.exchange("POST", &url, Some(&body), &at).map(drop)
            }
            sent => sent.map(drop),
        }
    }

    /// Whether swanci's newest status on a commit has this state.
    fn gitlab_has(&self, commit: &CommitSha, state: &str, at: &str) -> Result<bool, ApiError> {
        let path = format!("repository/commits/{commit}/statuses?name={CONTEXT}&per_page=100");
        let found: Vec<Value> = self.read(&path, at)?;
        let newest = found.iter().filter(|s| s["name"] == CONTEXT).max_by_key(|s| s["id"].as_u64());
        Ok(newest.is_some_and(|status| status["status"] == state))
    }
}
