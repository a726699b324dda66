//! The registry's API (OCI distribution spec 1.1, docker's token flow) as typed verbs.
//!
//! Every request has timeouts, is repeated only where repeating is harmless, and asks its [`Cancel`] between
//! attempts. Connections are kept alive and shared by the threads that hold clones of one [`Registry`].
//! Deliberately absent: uploading or mounting layers (docker does that), deleting anything, following redirects with credentials.

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

pub use crate::http::Timeouts;
pub use crate::http::retry::RetryPolicy;
pub use crate::http::tls::TlsCause;
pub use credentials::{Credentials, CredentialsError, Login, Lookup};
pub(crate) use error::OCI_ONLY_HINT;
pub use error::RegistryError;
pub(crate) use manifest::Content;
pub use manifest::{Descriptor, ImageConfig, Manifest, Reference};

/// What it takes to talk to one registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The registry; its namespace is not used here, because repositories are named in full.
    pub address: RegistryAddress,
    /// Certificate authorities (PEM) that are trusted besides the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// http instead of https; refused unless the registry is on loopback.
    pub plain_http: bool,
    /// How long each part of a request may take.
    pub timeouts: Timeouts,
    /// How often, and for how long, a request is repeated.
    pub retry: RetryPolicy,
    /// Kept-alive connections: as many as there are threads that use this registry.
    pub connections: usize,
}

impl Settings {
    /// Settings with the usual limits: https, the system's authorities.
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

/// Told in a sentence why a request is about to be repeated.
pub type RetryNotice = Arc<dyn Fn(&str) + Send + Sync>;

/// A registry and the right to talk to it. Clones share connections and tokens.
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
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Settings`] when plain http is asked for outside of loopback, or `ca_pem` holds no
    /// certificate that can be used.
    pub fn connect(
        settings: Settings,
        login: impl Into<Login>,
        cancel: Cancel,
    ) -> Result<Registry, RegistryError> {
        let shared = Arc::new(client::Shared::new(settings, login.into())?);
        Ok(Registry { shared, cancel, on_retry: None })
    }

    /// The same registry (connections, tokens) under another token, as for one job of several.
    #[must_use]
    pub fn with_cancel(&self, cancel: Cancel) -> Registry {
        Registry { cancel, ..self.clone() }
    }

    /// The same registry, telling `notice` when requests are repeated: once for each kind of trouble, however many meet it.
    #[must_use]
    pub fn with_retry_notice(&self, notice: RetryNotice) -> Registry {
        Registry { on_retry: Some(notice), ..self.clone() }
    }

    /// `host[:port]`, as it stands in front of image names.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// The proxy of the environment through which the registry is asked, without its login.
    pub(crate) fn proxy(&self) -> Option<String> {
        self.shared.http.proxy_of(&self.shared.base)
    }

    /// When the registry's certificate ends, if that is within this time; `None` where it cannot be looked at.
    pub(crate) fn certificate_ends_within(&self, time: Duration) -> Option<String> {
        self.shared.http.certificate_ends_within(&self.shared.base, time)
    }

    /// Whether the registry's name leads to an address; not asked where a proxy does it.
    pub(crate) fn name_resolves(&self) -> bool {
        self.proxy().is_some() || self.shared.base.socket_addrs(|| None).is_ok_and(|found| !found.is_empty())
    }

    /// Whether the registry answers, speaks the API and accepts the credentials (GET /v2/).
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

    /// Where a read is refused, nothing is there if the login itself works: what may not be known is not told, and a push
    /// that is not allowed says so. `None`: nothing is there.
    fn present(
        &self,
        answer: Result<client::Answer, RegistryError>,
    ) -> Result<Option<client::Answer>, RegistryError> {
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
        let known = *self.shared.login_works.lock().unwrap_or_else(PoisonError::into_inner);
        let works = match known {
            Some(works) => works,
            None => {
                let works = match self.ping() {
                    Ok(()) => true,
                    Err(RegistryError::Stopped(stop)) => return Err(stop.into()),
                    Err(error) if error.is_transient() => return Err(error),
                    Err(_) => false,
                };
                *self.shared.login_works.lock().unwrap_or_else(PoisonError::into_inner) = Some(works);
                works
            }
        };
        if works { Ok(None) } else { Err(refusal) }
    }
}

/// The path of a repository in URLs. Docker Hub keeps images without a namespace under `library/`.
fn repository_path(shared: &client::Shared, repository: &ImageName) -> String {
    if shared.docker_hub && !repository.as_str().contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_string()
    }
}
