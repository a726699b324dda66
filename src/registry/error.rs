//! Why a request to a registry failed.

use std::time::Duration;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::http::retry;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RegistryError {
    pub kind: RegistryErrorKind,
    host: String,
    message: String,
}

/// What a caller or a person handles differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryErrorKind {
    Settings,
    /// Docker's configuration file cannot be read.
    DockerConfig,
    CredentialHelper,
    /// No connection, a broken one (`connected`), or a timeout.
    Unreachable {
        connected: bool,
    },
    /// With a hint, in which `{}` is the registry's host.
    Tls(&'static str),
    /// The registry requires credentials: there are none (`anonymous`), or it rejects them.
    Unauthorized {
        anonymous: bool,
    },
    Denied,
    /// The registry names a token server that must not get credentials.
    RealmRefused,
    /// 408, 429 or 5xx, after the last retry.
    Server {
        status: u16,
        retry_after: Option<Duration>,
    },
    NoSpace,
    /// Any other 4xx.
    Rejected {
        status: u16,
    },
    /// The registry does not take manifests in docker's format.
    OciOnly,
    /// The answer does not follow the distribution spec, or is too large.
    Protocol,
    DigestMismatch,
    Stopped(Stop),
}

use RegistryErrorKind as K;

impl RegistryError {
    /// `at` says what was being done.
    pub(super) fn new(kind: RegistryErrorKind, host: &str, at: &str, detail: &str) -> RegistryError {
        RegistryError::with_message(kind, host, format!("registry {host}: {at}: {detail}"))
    }

    pub(super) fn with_message(kind: RegistryErrorKind, host: &str, message: String) -> RegistryError {
        RegistryError { kind, host: host.to_owned(), message }
    }

    /// The kind that decides the exit code. Missing or wrong credentials belong to the environment: a login fixes them.
    /// A denial does not: a retry gets the same answer.
    pub fn kind(&self) -> Kind {
        match self.kind {
            K::Settings => Kind::BadInput,
            K::RealmRefused => Kind::Refused,
            K::DockerConfig
            | K::CredentialHelper
            | K::Unreachable { .. }
            | K::Tls(_)
            | K::Unauthorized { .. }
            | K::Server { .. }
            | K::NoSpace => Kind::Environment,
            K::Denied | K::Rejected { .. } | K::OciOnly | K::Protocol | K::DigestMismatch => Kind::Failed,
            K::Stopped(stop) => stop.kind(),
        }
    }

    pub fn hint(&self) -> Option<String> {
        let host = &self.host;
        Some(match self.kind {
            K::DockerConfig => "repair the file, or run `docker login` again".to_owned(),
            K::CredentialHelper => format!(
                "`docker login {host}` uses the same helper and shows what is wrong with it; run it as the user that \
                 runs swanci"
            ),
            K::Unreachable { .. } => {
                format!(
                    "check that the registry is running; `swanci doctor` shows whether {host} can be reached"
                )
            }
            K::Tls(hint) => hint.replace("{}", host),
            K::Unauthorized { .. } => format!("run `docker login {host}` as the user that runs swanci"),
            K::Denied => format!(
                "give the user of `docker login {host}` the right to read and push here, or log in as another one"
            ),
            K::RealmRefused => {
                "credentials are sent to a token server over https only, or to one on this machine; \
                                give the registry's token server (its auth realm) an https address"
                    .to_owned()
            }
            K::Server { status: 429, retry_after: Some(wait) } => {
                format!("the registry requests a pause of {} s", wait.as_secs())
            }
            K::Server { status: 429, retry_after: None } => "wait, or lower --jobs".to_owned(),
            K::NoSpace => {
                "free space on the registry (its garbage collection), then run this again".to_owned()
            }
            K::OciOnly => OCI_ONLY_HINT.to_owned(),
            K::Settings
            | K::Server { .. }
            | K::Rejected { .. }
            | K::Protocol
            | K::DigestMismatch
            | K::Stopped(_) => return None,
        })
    }

    /// Whether the registry answers, but what it holds is not a readable image: reading it again does not help.
    pub(crate) fn is_about_content(&self) -> bool {
        matches!(self.kind, K::Rejected { .. } | K::OciOnly | K::Protocol | K::DigestMismatch)
    }

    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.kind, K::Denied | K::Unauthorized { .. })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let K::Server { retry_after, .. } = self.kind { retry_after } else { None }
    }

    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, K::Unreachable { .. })
            || matches!(self.kind, K::Server { status, .. } if retry::is_transient(status))
    }

    /// The text of a retry notice, and a number that is the same for the same cause: the status, or 0 or 1 without one.
    pub(super) fn notice(&self) -> (u16, String) {
        if let K::Server { status, .. } = self.kind {
            (status, self.message.clone())
        } else if matches!(self.kind, K::Unreachable { connected: false }) {
            (0, format!("cannot connect to {}", self.host))
        } else {
            (1, self.message.clone())
        }
    }
}

impl From<Stop> for RegistryError {
    fn from(stop: Stop) -> RegistryError {
        RegistryError::with_message(K::Stopped(stop), "", stop.to_string())
    }
}

/// For a registry that takes OCI manifests only, and an engine that makes docker's.
pub(crate) const OCI_ONLY_HINT: &str = "the registry may take OCI manifests only, as zot does by default; either let the \
    engine push those (its containerd image store: \"features\": {\"containerd-snapshotter\": true} in \
    /etc/docker/daemon.json), or let the registry take docker's (zot: \"compat\": [\"docker2s2\"] under \"http\")";

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        Failure { hint: error.hint(), ..Failure::new(error.kind(), error) }
    }
}
