//! What can go wrong between swanci and the forge's API, and what a person can do about it.

use crate::cancel::Stop;
use crate::error::{Failure, Kind};

/// A question to GitHub or to ngrok that was not answered as hoped. `at` says what was being done.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The address of the API cannot be used.
    #[error("{0}")]
    Settings(String),
    /// No connection, a broken one, or no answer in time.
    #[error("{at}: {host} cannot be reached: {detail}")]
    Unreachable {
        /// The server.
        host: String,
        /// What was being done.
        at: String,
        /// What the network said.
        detail: String,
    },
    /// 401.
    #[error("{at}: {host} does not take the token: {detail}")]
    TokenRefused {
        /// The server.
        host: String,
        /// What was being done.
        at: String,
        /// What the server said.
        detail: String,
    },
    /// 403 that is not about rates.
    #[error("{at}: the token may not do this: {detail}")]
    Forbidden {
        /// What was being done.
        at: String,
        /// What the server said.
        detail: String,
    },
    /// 404; GitHub also says so where the token may not look.
    #[error("{at}: not found, or the token may not see it: {detail}")]
    NotFound {
        /// What was being done.
        at: String,
        /// What the server said.
        detail: String,
    },
    /// 400 and 422.
    #[error("{at}: refused: {detail}")]
    Invalid {
        /// What was being done.
        at: String,
        /// What the server said.
        detail: String,
    },
    /// 429, or 403 with the rate's headers.
    #[error("{at}: too many requests: {detail}")]
    RateLimited {
        /// What was being done.
        at: String,
        /// What the server said.
        detail: String,
        /// When to come back, as a sentence.
        again: Option<String>,
    },
    /// A redirect: it is not followed, because it would carry the token along.
    #[error("{at}: it has moved to {to}")]
    Moved {
        /// What was being done.
        at: String,
        /// Where the server points.
        to: String,
    },
    /// 5xx.
    #[error("{at}: {host} answered {status}: {detail}")]
    Server {
        /// The server.
        host: String,
        /// What was being done.
        at: String,
        /// The HTTP status.
        status: u16,
        /// What the server said.
        detail: String,
    },
    /// An answer that is not what the API's description says.
    #[error("{at}: {host} answered what was not expected: {detail}")]
    Protocol {
        /// The server.
        host: String,
        /// What was being done.
        at: String,
        /// What was wrong.
        detail: String,
    },
    /// ngrok runs without a tunnel that fits.
    #[error("{0}")]
    NoTunnel(String),
    /// A signal.
    #[error(transparent)]
    Stopped(#[from] Stop),
}

impl HookError {
    /// Which exit code it ends a command with.
    pub fn kind(&self) -> Kind {
        match self {
            HookError::Settings(_) => Kind::Usage,
            HookError::Unreachable { .. }
            | HookError::TokenRefused { .. }
            | HookError::Forbidden { .. }
            | HookError::NotFound { .. }
            | HookError::RateLimited { .. }
            | HookError::Server { .. }
            | HookError::NoTunnel(_) => Kind::Environment,
            HookError::Invalid { .. } | HookError::Moved { .. } | HookError::Protocol { .. } => Kind::Failed,
            HookError::Stopped(stop) => stop.kind(),
        }
    }

    /// Whether asking again in a moment may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            HookError::Unreachable { .. } | HookError::Server { .. } => true,
            HookError::Settings(_)
            | HookError::TokenRefused { .. }
            | HookError::Forbidden { .. }
            | HookError::NotFound { .. }
            | HookError::Invalid { .. }
            | HookError::RateLimited { .. }
            | HookError::Moved { .. }
            | HookError::Protocol { .. }
            | HookError::NoTunnel(_)
            | HookError::Stopped(_) => false,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        const SCOPES: &str = "a classic token needs the scope admin:repo_hook, a fine-grained one the repository \
                              permission \"Webhooks: write\", and its owner must administer the repository";
        match self {
            HookError::TokenRefused { .. } => Some(
                "has it expired, or is it another server's? set GH_TOKEN or GITHUB_TOKEN, as with: export \
                 GITHUB_TOKEN=$(gh auth token)"
                    .to_owned(),
            ),
            HookError::Forbidden { .. } => Some(SCOPES.to_owned()),
            HookError::NotFound { .. } => Some(format!(
                "check owner/name (and --api-url: GitHub Enterprise's ends in /api/v3); {SCOPES}"
            )),
            HookError::Invalid { detail, .. } if detail.contains("reachable") || detail.contains("localhost") => {
                Some("GitHub delivers over the public Internet only; open a tunnel, or give its address as --url"
                    .to_owned())
            }
            HookError::RateLimited { again, .. } => again.clone(),
            HookError::Moved { .. } => Some(
                "redirects are not followed with a token in hand; was the repository renamed? give its present name"
                    .to_owned(),
            ),
            HookError::NoTunnel(_) => Some("start one with: ngrok http 8080".to_owned()),
            HookError::Settings(_)
            | HookError::Unreachable { .. }
            | HookError::Invalid { .. }
            | HookError::Server { .. }
            | HookError::Protocol { .. }
            | HookError::Stopped(_) => None,
        }
    }
}

impl From<HookError> for Failure {
    fn from(error: HookError) -> Failure {
        let (kind, hint) = (error.kind(), error.hint());
        let failure = Failure::new(kind, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
