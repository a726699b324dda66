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
mod remembered;
mod retry;
mod tags;
mod tls;
mod token;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::model::{ImageName, RegistryAddress};

pub use credentials::{Credentials, CredentialsError};
pub use error::RegistryError;
pub use manifest::{Descriptor, ImageConfig, Manifest, Reference};
pub use remembered::prune_configs;
pub use retry::RetryPolicy;

/// What it takes to talk to one registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The registry; its namespace is not used here, because repositories are named in full.
    pub address: RegistryAddress,
    /// Exactly these certificate authorities are trusted (PEM), and no other. Without it, the system's are.
    pub ca_pem: Option<Vec<u8>>,
    /// http instead of https; refused unless the registry is on loopback.
    pub plain_http: bool,
    /// Hosts, beside the registry's own, that may hand out its tokens (the `realm` of a Bearer challenge).
    pub token_hosts: Vec<String>,
    /// How long each part of a request may take.
    pub timeouts: Timeouts,
    /// How often, and for how long, a request is repeated.
    pub retry: RetryPolicy,
    /// Kept-alive connections: as many as there are threads that use this registry.
    pub connections: usize,
    /// Where image configs that were read are kept, by their digest; without it they are read anew.
    pub configs: Option<PathBuf>,
}

impl Settings {
    /// Settings with the usual limits: https, the system's authorities.
    pub fn new(address: RegistryAddress) -> Settings {
        Settings {
            address,
            ca_pem: None,
            plain_http: false,
            token_hosts: Vec::new(),
            timeouts: Timeouts::default(),
            retry: RetryPolicy::default(),
            connections: 16,
            configs: None,
        }
    }
}

/// How long each part of a request may take; ureq itself has no limits.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Resolving a name, TCP and TLS together.
    pub connect: Duration,
    /// Between two bytes of an answer, or of a request.
    pub silence: Duration,
    /// One whole exchange, with its body.
    pub exchange: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(15),
            exchange: Duration::from_secs(30),
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
        credentials: Credentials,
        cancel: Cancel,
    ) -> Result<Registry, RegistryError> {
        let shared = Arc::new(client::Shared::new(settings, credentials)?);
        Ok(Registry { shared, cancel, on_retry: None })
    }

    /// The same registry (connections, tokens) under another token, as for one job of several.
    #[must_use]
    pub fn with_cancel(&self, cancel: Cancel) -> Registry {
        Registry { cancel, ..self.clone() }
    }

    /// The same registry, telling `notice` before each repetition of a request.
    #[must_use]
    pub fn with_retry_notice(&self, notice: RetryNotice) -> Registry {
        Registry { on_retry: Some(notice), ..self.clone() }
    }

    /// `host[:port]`, as it stands in front of image names.
    pub fn host(&self) -> &str {
        &self.shared.host
    }

    /// Whether the registry answers, speaks the API and accepts the credentials (GET /v2/).
    pub fn ping(&self) -> Result<(), RegistryError> {
        let request = client::Request::get("/v2/".to_owned(), "the API", token::Scope::none());
        let answer = self.send(&request)?;
        match answer.status {
            200 => Ok(()),
            404 => Err(answer.protocol("answers 404 at /v2/: this is no registry")),
            _ => Err(answer.failure()),
        }
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
