//! A client of the registry's API (OCI distribution spec 1.1, docker's token flow).
//!
//! Requests have timeouts; only idempotent ones are retried. Clones of a [`Registry`] share connections. Absent on
//! purpose: uploading or mounting layers (docker does that), deleting, following redirects with credentials.

mod answer;
mod auth;
mod blobs;
mod challenge;
mod client;
mod credentials;
mod error;
mod manifest;
mod manifests;
mod memory;
mod tags;
mod token;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::model::{ImageName, RegistryAddress};

use answer::Answer;

pub use crate::http::Timeouts;
pub use crate::http::retry::RetryPolicy;
pub use credentials::{Credentials, Login};
pub(crate) use error::OCI_ONLY_HINT;
pub use error::{RegistryError, RegistryErrorKind};
pub(crate) use manifest::Content;
pub use manifest::{Descriptor, ImageConfig, Manifest, Reference};

#[derive(Debug, Clone)]
pub struct Settings {
    /// Its namespace is not used: repositories are named in full.
    pub address: RegistryAddress,
    /// Certificate authorities (PEM) in addition to the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Allowed on loopback only.
    pub plain_http: bool,
    pub timeouts: Timeouts,
    pub retry: RetryPolicy,
    /// Idle connections that are kept: the number of threads that use this registry.
    pub connections: usize,
}

impl Settings {
    pub fn new(address: RegistryAddress) -> Settings {
        Settings {
            address,
            ca_pem: None,
            plain_http: false,
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            connections: 16,
        }
    }
}

pub type RetryNotice = Arc<dyn Fn(&str) + Send + Sync>;

/// Clones share connections and tokens.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<client::Shared>,
    cancel: Cancel,
    on_retry: Option<RetryNotice>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("base", &self.shared.base).finish_non_exhaustive()
    }
}

impl Registry {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// Plain http outside of loopback, or a `ca_pem` without a valid certificate.
    pub fn connect(
        settings: Settings,
        login: impl Into<Login>,
        cancel: Cancel,
    ) -> Result<Registry, RegistryError> {
        let shared = Arc::new(client::Shared::new(settings, login.into())?);
        Ok(Registry { shared, cancel, on_retry: None })
    }

    #[must_use]
    pub fn with_cancel(&self, cancel: Cancel) -> Registry {
        Registry { cancel, ..self.clone() }
    }

    /// `on_retry` gets a sentence when requests are retried: once for each cause, until a request succeeds.
    #[must_use]
    pub fn with_retry_notice(&self, on_retry: RetryNotice) -> Registry {
        Registry { on_retry: Some(on_retry), ..self.clone() }
    }

    /// `host[:port]`, as in image names.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// The environment's proxy for the registry, without its login.
    pub(crate) fn proxy(&self) -> Option<String> {
        self.shared.http.proxy_of(&self.shared.base)
    }

    /// The day on which the registry's certificate expires, if that is within `time` and can be determined.
    pub(crate) fn certificate_ends_within(&self, time: Duration) -> Option<String> {
        self.shared.http.certificate_ends_within(&self.shared.base, time)
    }

    /// Also `true` behind a proxy, which resolves the name itself.
    pub(crate) fn name_resolves(&self) -> bool {
        self.proxy().is_some() || self.shared.base.socket_addrs(|| None).is_ok_and(|found| !found.is_empty())
    }

    /// Fails unless the registry answers, speaks the API and accepts the credentials (GET /v2/).
    pub fn ping(&self) -> Result<(), RegistryError> {
        let request = client::Request::get("/v2/".to_owned(), "the API", token::Scope::none());
        let answer = self.send(&request)?;
        match answer.status {
            200 if answer.is_web_page() => {
                Err(answer.protocol("answers with a web page: this is not a registry"))
            }
            200 => Ok(()),
            404 => Err(answer.protocol("answers 404 at /v2/: this is not a registry")),
            _ => Err(answer.failure()),
        }
    }

    /// `None` when nothing is there. Some registries deny a read in place of 404, so a denial counts as absent if the login
    /// itself works: a push that is not allowed fails by itself.
    fn present(&self, answer: Result<Answer, RegistryError>) -> Result<Option<Answer>, RegistryError> {
        let refusal = match answer {
            Ok(answer) if answer.status == 404 => return Ok(None),
            Ok(answer) if answer.status == 200 => return Ok(Some(answer)),
            Ok(answer) if matches!(answer.status, 400 | 401 | 403) => answer.failure(),
            Ok(answer) => return Err(answer.failure()),
            Err(error) if error.is_refusal() => error,
            Err(error) => return Err(error),
        };
        if self.shared.auth.is_challenged() && self.is_anonymous()? {
            return Err(refusal);
        }
        if self.login_works()? { Ok(None) } else { Err(refusal) }
    }

    fn login_works(&self) -> Result<bool, RegistryError> {
        let known = || self.shared.login_works.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(works) = *known() {
            return Ok(works);
        }
        let works = match self.ping() {
            Ok(()) => true,
            Err(error) if error.is_transient() || matches!(error.kind, RegistryErrorKind::Stopped(_)) => {
                return Err(error);
            }
            Err(_) => false,
        };
        *known() = Some(works);
        Ok(works)
    }
}

/// The path of a repository in URLs. On Docker Hub, images without a namespace are below `library/`.
fn repository_path(shared: &client::Shared, repository: &ImageName) -> String {
    if shared.docker_hub && !repository.as_str().contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_string()
    }
}
