//! Errors of a forge's API.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::Api;
use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::http::retry::retry_after;
use crate::http::{Answer, shown};
use crate::model::ForgeName;

/// A failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) problem: Problem,
    /// The failed action.
    pub(crate) at: String,
    pub(crate) host: String,
    /// The cause, from the server or the network.
    pub(crate) detail: String,
    pub(crate) hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The address or the token cannot be used.
    Settings,
    /// No connection, a broken one, or no answer in time.
    Unreachable,
    /// 401.
    TokenRefused,
    /// 403, except for rate limits.
    Forbidden,
    /// 404, which can also mean a lack of permission.
    NotFound,
    /// 400, 422 and similar.
    Invalid,
    /// 429, or 403 with the headers of a rate limit; with the time to wait, if the server sends it.
    RateLimited(Option<Duration>),
    /// A redirect. It is not followed, because it would forward the token.
    Moved,
    /// 5xx.
    Server(u16),
    /// An undocumented response.
    Protocol,
    /// ngrok runs without a matching tunnel.
    NoTunnel,
    /// The API does not support this.
    Lacking,
    Stopped(Stop),
}

impl ApiError {
    pub(crate) fn settings(detail: impl Into<String>) -> ApiError {
        ApiError::without_host(Problem::Settings, detail)
    }

    pub(crate) fn without_host(problem: Problem, detail: impl Into<String>) -> ApiError {
        ApiError { problem, at: String::new(), host: String::new(), detail: detail.into(), hint: None }
    }

    /// How long to wait before the next request.
    pub(crate) fn pause(&self) -> Option<Duration> {
        if let Problem::RateLimited(pause) = self.problem { pause } else { None }
    }

    /// Whether a retry may help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.problem, Problem::Unreachable | Problem::Server(_))
    }

    fn kind_and_text(&self) -> (Kind, String) {
        let ApiError { at, host, detail, .. } = self;
        let (kind, text) = match self.problem {
            Problem::Settings => return (Kind::Usage, detail.clone()),
            Problem::NoTunnel => return (Kind::Environment, detail.clone()),
            Problem::Lacking => return (Kind::Failed, detail.clone()),
            Problem::Stopped(stop) => return (stop.kind(), stop.to_string()),
            Problem::Unreachable => (Kind::Environment, format!("{host} cannot be reached")),
            Problem::TokenRefused => (Kind::Environment, format!("{host} does not accept the token")),
            Problem::Forbidden => (Kind::Environment, "the token lacks the permission".to_owned()),
            Problem::NotFound => (Kind::Environment, "not found, or hidden from the token".to_owned()),
            Problem::Invalid => (Kind::Failed, "refused".to_owned()),
            Problem::RateLimited(_) => (Kind::Environment, "too many requests".to_owned()),
            Problem::Moved => return (Kind::Failed, format!("{at}: it has moved to {detail}")),
            Problem::Server(status) => (Kind::Environment, format!("{host} answered {status}")),
            Problem::Protocol => (Kind::Failed, format!("{host} sent an unexpected answer")),
        };
        (kind, format!("{at}: {text}: {detail}"))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind_and_text().1)
    }
}

impl std::error::Error for ApiError {}

impl From<Stop> for ApiError {
    fn from(stop: Stop) -> ApiError {
        ApiError::without_host(Problem::Stopped(stop), "")
    }
}

impl From<ApiError> for Failure {
    fn from(mut error: ApiError) -> Failure {
        let ((kind, _), hint) = (error.kind_and_text(), error.hint.take());
        Failure { kind, hint, error: error.into() }
    }
}

impl Api {
    pub(crate) fn error(&self, problem: Problem, at: &str, detail: impl Into<String>) -> ApiError {
        ApiError { hint: self.hint(problem), ..self.server.error(problem, at, detail) }
    }

    /// The error for an unsuccessful status.
    pub(super) fn refused(&self, answer: &Answer, at: &str) -> ApiError {
        let spent = answer.header("x-ratelimit-remaining") == Some("0");
        let pause = answer.header("retry-after").and_then(|v| retry_after(v, jiff::Timestamp::now()));
        let problem = match answer.status {
            401 => Problem::TokenRefused,
            429 => Problem::RateLimited(pause),
            403 if spent || pause.is_some() => Problem::RateLimited(pause),
            403 => Problem::Forbidden,
            404 => Problem::NotFound,
            300..=399 => Problem::Moved,
            400..=499 => Problem::Invalid,
            status @ 500..=599 => Problem::Server(status),
            status => return self.error(Problem::Protocol, at, format!("HTTP status {status}")),
        };
        let location = || shown(answer.header("location").unwrap_or("nowhere"));
        let detail = if problem == Problem::Moved { location() } else { messages(answer) };
        let mut error = self.error(problem, at, detail);
        if let Problem::RateLimited(_) = problem {
            error.hint = again(answer, pause);
        }
        if problem == Problem::Invalid
            && ["reachable", "localhost"].iter().any(|word| error.detail.contains(word))
        {
            let hint =
                "GitHub delivers over the public Internet only; open a tunnel, or give its address as --url";
            error.hint = Some(hint.to_owned());
        }
        error
    }

    fn hint(&self, problem: Problem) -> Option<String> {
        let is_github = self.kind == ForgeName::Github;
        Some(match problem {
            Problem::TokenRefused if is_github => {
                "has it expired, or is it another server's? set GH_TOKEN or GITHUB_TOKEN, for example with: export \
                 GITHUB_TOKEN=$(gh auth token)"
                    .to_owned()
            }
            Problem::TokenRefused => {
                "has it expired, or is it another server's? name the right one as token_file".to_owned()
            }
            Problem::Forbidden => self.rights().to_owned(),
            Problem::NotFound if is_github => {
                let hint = "check owner/name (and --api-url: GitHub Enterprise's ends in /api/v3)";
                format!("{hint}; {}", self.rights())
            }
            Problem::NotFound => format!("check owner/name and the url of the forge; {}", self.rights()),
            Problem::Moved => {
                "redirects are not followed with a token; was the repository renamed? give its present name"
                    .to_owned()
            }
            Problem::Settings
            | Problem::Unreachable
            | Problem::Invalid
            | Problem::RateLimited(_)
            | Problem::Server(_)
            | Problem::Protocol
            | Problem::NoTunnel
            | Problem::Lacking
            | Problem::Stopped(_) => return None,
        })
    }

    /// The permissions that a token needs.
    pub(crate) fn rights(&self) -> &'static str {
        match self.kind {
            ForgeName::Github => {
                "for webhooks a classic token needs the scope admin:repo_hook, a fine-grained one the repository \
                 permission \"Webhooks: write\", and its owner must administer the repository; for statuses repo:status \
                 or \"Commit statuses: write\", for comments repo or \"Pull requests: write\""
            }
            ForgeName::Gitea | ForgeName::Forgejo => {
                "the token needs the scope write:repository, for comments write:issue too, and its owner the right to \
                 write; for webhooks to administer the repository"
            }
            ForgeName::Gogs | ForgeName::Gitbucket => {
                "the owner of the token must be a collaborator who may write; for webhooks one who administers the \
                 repository"
            }
            ForgeName::Gitlab => {
                "the token needs the scope api and the role Developer; for webhooks the role Maintainer"
            }
            ForgeName::Bitbucket => {
                "the token needs the scopes repository:write (statuses), pullrequest:write (comments) and webhook"
            }
            ForgeName::BitbucketServer => {
                "the token needs the permission \"Repository write\"; for webhooks \"Repository admin\""
            }
        }
    }
}

/// When the rate limit allows the next request.
fn again(answer: &Answer, pause: Option<Duration>) -> Option<String> {
    if let Some(pause) = pause {
        return Some(format!("try again in {} s", pause.as_secs()));
    }
    let reset = answer.header("x-ratelimit-reset")?.trim().parse::<i64>().ok()?;
    Some(format!("try again after {}", jiff::Timestamp::from_second(reset).ok()?))
}

/// The messages in the body of an error: GitHub's `message` and `errors` (strings, or objects with `message`, `field` and
/// `code`), GitLab's `message` (or an object) or `error`, Bitbucket's `error.message` and `errors`.
fn messages(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |value: &Value| match value.as_str() {
        Some(text) => Some(text.to_owned()),
        None => (!value.is_null()).then(|| value.to_string()),
    };
    let error = body["error"].get("message").unwrap_or(&body["error"]);
    let errors = body["errors"].as_array().into_iter().flatten().filter_map(|error| {
        let whole = error.as_str().or_else(|| error["message"].as_str()).map(str::to_owned);
        whole.or_else(|| Some(format!("{}: {}", error["field"].as_str()?, error["code"].as_str()?)))
    });
    let all: Vec<String> = [&body["message"], error].into_iter().filter_map(text).chain(errors).collect();
    let start = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]);
    if !all.is_empty() {
        shown(&all.join("; "))
    } else if start.trim().is_empty() {
        format!("HTTP status {}", answer.status)
    } else {
        shown(&start)
    }
}
