//! Why a registry did not do what it was asked: one variant for each cause that a person treats differently.

use std::time::Duration;

use crate::cancel::Stop;
use crate::error::{Failure, Kind};
use crate::http::retry;
use crate::http::tls::TlsCause;
use crate::model::Digest;

use super::CredentialsError;

/// Why a request to the registry failed. `host` is the registry, `at` what was being done there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The settings cannot be used.
    #[error("registry {host}: {detail}")]
    Settings {
        /// The registry.
        host: String,
        /// What is wrong.
        detail: String,
    },
    /// Docker's stored credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No connection, a broken one, or silence.
    #[error("registry {host}: {at}: {detail}")]
    Unreachable {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// Whether there was a connection that broke.
        connected: bool,
        /// What happened.
        detail: String,
    },
    /// The registry's certificate or its TLS is not acceptable.
    #[error("registry {host}: {at}: {detail}")]
    Tls {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What is wrong.
        cause: TlsCause,
        /// The same in a sentence.
        detail: String,
    },
    /// The registry wants credentials and has none, or did not take them.
    #[error("registry {host}: {at}: {}: {detail}", if *.anonymous { "a login is needed" } else { "the credentials were not accepted" })]
    Unauthorized {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// Whether there were no credentials to send.
        anonymous: bool,
        /// What the registry said.
        detail: String,
    },
    /// The registry knows who asks, and says no.
    #[error("registry {host}: {at}: access denied: {detail}")]
    Denied {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry sent us for a token where no credentials of its are to go.
    #[error("registry {host}: its token server `{realm}` is refused: {why}")]
    RealmRefused {
        /// The registry.
        host: String,
        /// Where it sent us.
        realm: String,
        /// Why not.
        why: String,
    },
    /// 429, and still so after the last repetition.
    #[error("registry {host}: {at}: 429, too many requests: {detail}")]
    TooManyRequests {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What the registry said.
        detail: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// Another 5xx (or 408), and still so after the last repetition.
    #[error("registry {host}: {at}: status {status}: {detail}")]
    Server {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        detail: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The registry's storage is full.
    #[error("registry {host}: {at}: the registry has no space left: {detail}")]
    NoSpace {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What the registry said.
        detail: String,
    },
    /// Something that has to be there is not.
    #[error("registry {host}: {at}: not found: {detail}")]
    NotFound {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry does not take a manifest in docker's format.
    #[error("registry {host}: {at}: the manifest is refused: {detail}")]
    OciOnly {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What the registry said.
        detail: String,
    },
    /// Another 4xx.
    #[error("registry {host}: {at}: status {status}: {detail}")]
    Rejected {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        detail: String,
    },
    /// The answer is not what the distribution spec says.
    #[error("registry {host}: {at}: {detail}")]
    Protocol {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What is wrong.
        detail: String,
    },
    /// The content is not what its digest says.
    #[error("registry {host}: {at}: the digest is {found}, not {expected}")]
    DigestMismatch {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// The content is larger than swanci reads.
    #[error("registry {host}: {at}: the answer is larger than {limit} bytes")]
    TooLarge {
        /// The registry.
        host: String,
        /// What was being done.
        at: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The work was stopped.
    #[error(transparent)]
    Stopped(#[from] Stop),
}

impl RegistryError {
    /// The kind that decides the exit code. Missing or refused credentials are the environment's: they are the
    /// machine's to have, and a login mends it. A denial is not: it stays the same however often it is asked.
    pub fn kind(&self) -> Kind {
        match self {
            RegistryError::Settings { .. } => Kind::BadInput,
            RegistryError::RealmRefused { .. } => Kind::Refused,
            RegistryError::Credentials(_)
            | RegistryError::Unreachable { .. }
            | RegistryError::Tls { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::TooManyRequests { .. }
            | RegistryError::Server { .. }
            | RegistryError::NoSpace { .. } => Kind::Environment,
            RegistryError::Denied { .. }
            | RegistryError::NotFound { .. }
            | RegistryError::OciOnly { .. }
            | RegistryError::Rejected { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. } => Kind::Failed,
            RegistryError::Stopped(stop) => stop.kind(),
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Unreachable { host, .. } => {
                Some(format!("is the registry running? `swanci doctor` shows whether {host} can be reached"))
            }
            RegistryError::Tls { host, cause, .. } => Some(tls_hint(*cause, host)),
            RegistryError::Unauthorized { host, .. } => {
                Some(format!("run `docker login {host}` as the user that runs swanci"))
            }
            RegistryError::Denied { host, .. } => Some(format!(
                "give the user of `docker login {host}` the right to read and push here, or log in as another one"
            )),
            RegistryError::RealmRefused { .. } => Some(
                "credentials are sent to a token server over https only, or to one on this machine; give the \
                 registry's token server (its auth realm) an https address"
                    .to_owned(),
            ),
            RegistryError::NoSpace { .. } => {
                Some("free space on the registry (its garbage collection), then run this again".to_owned())
            }
            RegistryError::TooManyRequests { retry_after, .. } => Some(match retry_after {
                Some(wait) => format!("the registry asks to wait {} s", wait.as_secs()),
                None => "wait, or lower --jobs".to_owned(),
            }),
            RegistryError::OciOnly { .. } => Some(OCI_ONLY_HINT.to_owned()),
            RegistryError::Credentials(error) => error.hint(),
            RegistryError::Settings { .. }
            | RegistryError::Server { .. }
            | RegistryError::NotFound { .. }
            | RegistryError::Rejected { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Stopped(_) => None,
        }
    }

    /// Whether what the registry holds is not an image that can be read, though the registry answers: reading it again
    /// does not help.
    pub(crate) fn is_about_content(&self) -> bool {
        match self {
            RegistryError::NotFound { .. }
            | RegistryError::OciOnly { .. }
            | RegistryError::Rejected { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. } => true,
            RegistryError::Settings { .. }
            | RegistryError::Credentials(_)
            | RegistryError::Unreachable { .. }
            | RegistryError::Tls { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Denied { .. }
            | RegistryError::RealmRefused { .. }
            | RegistryError::TooManyRequests { .. }
            | RegistryError::Server { .. }
            | RegistryError::NoSpace { .. }
            | RegistryError::Stopped(_) => false,
        }
    }

    /// Whether the registry answered that whoever asks may not know.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, RegistryError::Denied { .. } | RegistryError::Unauthorized { .. })
    }

    /// How long the registry, or its token server, asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        if let RegistryError::TooManyRequests { retry_after, .. }
        | RegistryError::Server { retry_after, .. } = self
        {
            *retry_after
        } else {
            None
        }
    }

    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            RegistryError::Unreachable { .. } | RegistryError::TooManyRequests { .. } => true,
            RegistryError::Server { status, .. } => retry::is_transient(*status),
            RegistryError::Settings { .. }
            | RegistryError::Credentials(_)
            | RegistryError::Tls { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Denied { .. }
            | RegistryError::RealmRefused { .. }
            | RegistryError::NoSpace { .. }
            | RegistryError::NotFound { .. }
            | RegistryError::OciOnly { .. }
            | RegistryError::Rejected { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Stopped(_) => false,
        }
    }

    /// A number for each kind of passing trouble: the status, or 0 and 1 where there is none.
    pub(super) fn trouble(&self) -> u16 {
        match self {
            RegistryError::Server { status, .. } => *status,
            RegistryError::TooManyRequests { .. } => 429,
            RegistryError::Unreachable { connected: true, .. } => 1,
            RegistryError::Unreachable { connected: false, .. }
            | RegistryError::Settings { .. }
            | RegistryError::Credentials(_)
            | RegistryError::Tls { .. }
            | RegistryError::Unauthorized { .. }
            | RegistryError::Denied { .. }
            | RegistryError::RealmRefused { .. }
            | RegistryError::NoSpace { .. }
            | RegistryError::NotFound { .. }
            | RegistryError::OciOnly { .. }
            | RegistryError::Rejected { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::DigestMismatch { .. }
            | RegistryError::TooLarge { .. }
            | RegistryError::Stopped(_) => 0,
        }
    }
}

/// The ways out where a registry takes OCI manifests only, and the engine makes docker's.
pub(crate) const OCI_ONLY_HINT: &str = "the registry may take OCI manifests only, as zot does by default; either let the \
    engine push those (its containerd image store: \"features\": {\"containerd-snapshotter\": true} in \
    /etc/docker/daemon.json), or let the registry take docker's (zot: \"compat\": [\"docker2s2\"] under \"http\")";

fn tls_hint(cause: TlsCause, host: &str) -> String {
    match cause {
        TlsCause::Expired => format!("renew the certificate of {host}; if it is valid, check this machine's clock (`date`)"),
        TlsCause::NotYetValid => "check this machine's clock (`date`), and the dates of the certificate".to_owned(),
        TlsCause::WrongName => format!(
            "name the registry as its certificate does, or give it one for {host} (a subjectAltName; a CN does not count)"
        ),
        TlsCause::UnknownAuthority => {
            "set `ca_file` under [registry] to the certificate of the authority that signed the registry's; \
             swanci never goes on without a valid certificate"
                .to_owned()
        }
        TlsCause::AuthorityAsServer => {
            "`scripts/gen-certs` and `swanci init --certs` make an authority and a certificate that it signed".to_owned()
        }
        TlsCause::PlainHttp => {
            "check the port; a registry on this machine may be asked with `plain_http = true` under [registry], any \
             other needs a certificate"
                .to_owned()
        }
        TlsCause::TlsExpected => "remove `plain_http` under [registry]".to_owned(),
        TlsCause::Other => format!("`openssl s_client -connect {host}` shows what the server offers"),
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Failure {
        let (kind, hint) = (error.kind(), error.hint());
        Failure { kind, error: error.into(), hint }
    }
}
