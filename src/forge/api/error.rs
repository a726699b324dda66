//! Errors of a forge's API.

use std::fmt;
use std::time::Duration;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};

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
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiError { at, host, detail, .. } = self;
        match self.problem {
            Problem::Settings | Problem::NoTunnel | Problem::Lacking => f.write_str(detail),
            Problem::Unreachable => write!(f, "{at}: {host} cannot be reached: {detail}"),
            Problem::TokenRefused => write!(f, "{at}: {host} does not take the token: {detail}"),
            Problem::Forbidden => write!(f, "{at}: the token may not do this: {detail}"),
            Problem::NotFound => write!(f, "{at}: not found, or the token may not see it: {detail}"),
            Problem::Invalid => write!(f, "{at}: refused: {detail}"),
            Problem::RateLimited(_) => write!(f, "{at}: too many requests: {detail}"),
            Problem::Moved => write!(f, "{at}: it has moved to {detail}"),
            Problem::Server(status) => write!(f, "{at}: {host} answered {status}: {detail}"),
            Problem::Protocol => write!(f, "{at}: {host} answered what was not expected: {detail}"),
            Problem::Stopped(stop) => stop.fmt(f),
        }
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
        let kind = match error.problem {
            Problem::Settings => Kind::Usage,
            Problem::Unreachable
            | Problem::TokenRefused
            | Problem::Forbidden
            | Problem::NotFound
            | Problem::RateLimited(_)
            | Problem::Server(_)
            | Problem::NoTunnel => Kind::Environment,
            Problem::Invalid | Problem::Moved | Problem::Protocol | Problem::Lacking => Kind::Failed,
            Problem::Stopped(stop) => stop.kind(),
        };
        let hint = error.hint.take();
        let failure = Failure::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
