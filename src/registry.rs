//! A client of the registry's API (OCI distribution spec 1.1, docker's token flow).
//!
//! Requests have timeouts; only idempotent ones are retried. Clones of a [`Registry`] share connections. Absent on
//! purpose: uploading or mounting layers (docker does that), deleting, following redirects with credentials.

mod answer;
mod auth;
mod client;
mod credentials;
mod error;
mod manifest;
mod manifests;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::http::header;
use url::Url;

use crate::cancel::Cancel;
use crate::http::Client;
use crate::model::{Digest, ImageName, RegistryAddress};

use answer::Reply;
use client::{Request, Shared};
use credentials::is_docker_hub;

pub use crate::http::Timeouts;
pub use crate::http::retry::Retry;
pub use credentials::{Credentials, Login};
pub(crate) use error::OCI_ONLY_HINT;
pub use error::{RegistryError, RegistryErrorKind};
pub(crate) use manifest::Content;
pub use manifest::Manifest;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Its namespace is not used: repositories are named in full.
    pub address: RegistryAddress,
    /// Certificate authorities (PEM) in addition to the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// Allowed on loopback only.
    pub plain_http: bool,
    pub timeouts: Timeouts,
    pub retry: Retry,
}

impl Settings {
    pub fn new(address: RegistryAddress) -> Settings {
        Settings {
            address,
            ca_pem: None,
            plain_http: false,
            timeouts: Timeouts::default(),
            retry: Retry::default(),
        }
    }
}

/// Clones share connections and tokens.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    cancel: Cancel,
    on_retry: Arc<dyn Fn(&str) + Send + Sync>,
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
        let host = settings.address.host();
        let wrong = |detail: String| {
            RegistryError::with_message(
                RegistryErrorKind::Settings,
                host,
                format!("registry {host}: {detail}"),
            )
        };
        if settings.plain_http && !settings.address.is_loopback() {
            return Err(wrong("plain_http is only for a registry on loopback; others need TLS".to_owned()));
        }
        let api = if is_docker_hub(host) { "registry-1.docker.io" } else { host };
        let scheme = if settings.plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{api}/")).map_err(|e| wrong(e.to_string()))?;
        let http = Client::new(settings.ca_pem.as_deref(), settings.timeouts).map_err(wrong)?;
        let (looked, known) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { settings, base, http, login: login.into(), looked, known });
        Ok(Registry { shared, cancel, on_retry: Arc::new(|_| {}) })
    }

    #[must_use]
    pub fn with_cancel(&self, cancel: Cancel) -> Registry {
        Registry { cancel, ..self.clone() }
    }

    /// `on_retry` gets a sentence when requests are retried: once for each cause, until a request succeeds.
    #[must_use]
    pub fn with_retry_notice(&self, on_retry: impl Fn(&str) + Send + Sync + 'static) -> Registry {
        Registry { on_retry: Arc::new(on_retry), ..self.clone() }
    }

    /// `host[:port]`, as in image names.
    pub fn host(&self) -> &str {
        self.shared.settings.address.host()
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
        let request = Request::new("GET", "/v2/".to_owned(), "the API".to_owned(), String::new());
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

    /// Fails unless these credentials may write to the repository: starts an upload and cancels it.
    pub fn check_push(&self, repository: &ImageName) -> Result<(), RegistryError> {
        let path = self.path_of(repository);
        let at = format!("starting an upload to {repository}");
        let mut request = Request::new("POST", format!("/v2/{path}/blobs/uploads/"), at, auth::push(&path));
        request.repeat = false; // each one opens a session
        let answer = self.send(&request)?;
        if answer.status != 202 {
            return Err(answer.failure());
        }
        // Best effort: registries also cancel uploads themselves after a while.
        let location = answer.header(header::LOCATION).and_then(|to| self.shared.base.join(to).ok());
        // A registry behind a proxy may name a wrong scheme or port: only the path is used.
        if let Some(url) = location.filter(|url| url.host() == self.shared.base.host()) {
            request.method = "DELETE";
            request.path = url[url::Position::BeforePath..].to_owned();
            drop(self.send(&request));
        }
        Ok(())
    }

    pub(crate) fn has_blob(&self, repository: &ImageName, digest: &Digest) -> Result<bool, RegistryError> {
        let mut request = self.blob_request(repository, digest, "asking for the blob");
        request.method = "HEAD";
        let mut answer = self.send(&request)?;
        if matches!(answer.status, 403 | 405) {
            // The storage's URL may be signed for GET only; the first byte is enough.
            request.method = "GET";
            request.headers.push((header::RANGE, "bytes=0-0".to_owned()));
            answer = self.send(&request)?;
        }
        match answer.status {
            200 | 206 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.failure()),
        }
    }

    fn blob_request(&self, repository: &ImageName, digest: &Digest, doing: &str) -> Request {
        let path = self.path_of(repository);
        let (at, scope) = (format!("{doing} {repository}@{digest}"), auth::pull(&path));
        Request { has_digest: true, ..Request::new("GET", format!("/v2/{path}/blobs/{digest}"), at, scope) }
    }

    /// The path of a repository in URLs. On Docker Hub, images without a namespace are below `library/`.
    fn path_of(&self, repository: &ImageName) -> String {
        if is_docker_hub(self.host()) && !repository.as_str().contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_string()
        }
    }

    /// `None` when nothing is there. Some registries deny a read in place of 404, so a denial counts as absent if the login
    /// itself works: a push that is not allowed fails by itself.
    fn present(&self, answer: Result<Reply, RegistryError>) -> Result<Option<Reply>, RegistryError> {
        let refusal = match answer {
            Ok(answer) if answer.status == 404 => return Ok(None),
            Ok(answer) if answer.status == 200 => return Ok(Some(answer)),
            Ok(answer) if matches!(answer.status, 400 | 401 | 403) => answer.failure(),
            Ok(answer) => return Err(answer.failure()),
            Err(error) if error.is_refusal() => error,
            Err(error) => return Err(error),
        };
        let challenged = self.shared.state().challenged;
        if challenged && self.is_anonymous()? {
            return Err(refusal);
        }
        if self.login_works()? { Ok(None) } else { Err(refusal) }
    }

    fn login_works(&self) -> Result<bool, RegistryError> {
        let known = self.shared.state().login_works;
        if let Some(works) = known {
            return Ok(works);
        }
        let works = match self.ping() {
            Ok(()) => true,
            Err(error) if error.is_transient() || matches!(error.kind, RegistryErrorKind::Stopped(_)) => {
                return Err(error);
            }
            Err(_) => false,
        };
        self.shared.state().login_works = Some(works);
        Ok(works)
    }
}
