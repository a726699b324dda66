//! Sends one request to the registry: credentials, redirects, retries.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use ureq::http::{self, HeaderName, HeaderValue, header};
use url::Url;

use crate::http::{Answer, Client, HttpErrorKind, retry, server_of, shown};
use crate::model::is_loopback;

use super::answer::Reply;
use super::auth::{Challenge, Tokens};
use super::credentials::{Login, Looked};
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::manifest::MAX_BYTES;
use super::{Registry, Settings};

/// As many as docker follows.
const MAX_REDIRECTS: usize = 10;

/// What clones of one registry share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// Scheme and authority of the API.
    pub(super) base: Url,
    pub(super) http: Client,
    pub(super) login: Login,
    /// `None` until they are needed.
    pub(super) looked: Mutex<Option<Arc<Looked>>>,
    pub(super) known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whether it has ever asked for a login.
    pub(super) challenged: bool,
    /// The challenge whose answer it accepted last. Later requests answer it in advance.
    pub(super) accepted: Option<Challenge>,
    pub(super) tokens: Tokens,
    /// Whether it accepts the login; `None` until it was asked.
    pub(super) login_works: Option<bool>,
    /// The causes of retries that were reported since the last success.
    reported: BTreeSet<u16>,
}

impl Shared {
    /// Consistent after every statement, so a panic elsewhere does not corrupt it.
    pub(super) fn state(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    /// Path and query.
    pub(super) path: String,
    /// What is being done, for messages.
    pub(super) at: String,
    /// Of the token for it; empty for /v2/.
    pub(super) scope: String,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the request is idempotent.
    pub(super) repeat: bool,
    /// Whether redirects to plain http are allowed, because the content is checked against its digest. From plain http on
    /// this machine to the same they are always allowed.
    pub(super) has_digest: bool,
    /// The longest answer that is read, in bytes.
    pub(super) limit: u64,
}

impl Request {
    pub(super) fn new(method: &'static str, path: String, at: String, scope: String) -> Request {
        Request {
            method,
            path,
            at,
            scope,
            headers: Vec::new(),
            body: Vec::new(),
            repeat: true,
            has_digest: false,
            limit: MAX_BYTES,
        }
    }
}

impl Registry {
    pub(super) fn error(&self, kind: Kind, at: &str, detail: &str) -> RegistryError {
        RegistryError::new(kind, self.host(), at, detail)
    }

    /// One HTTP exchange with one server, without redirects and retries.
    pub(super) fn once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&SecretString>,
    ) -> Result<Reply, RegistryError> {
        let mut builder = http::Request::builder().method(request.method);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.expose_secret()).map_err(|_| {
                self.error(Kind::Protocol, &request.at, "the token cannot be sent in a header")
            })?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let body = matches!(request.method, "POST" | "PUT").then_some(&request.body[..]);
        let answer = self.shared.http.exchange(builder, url, body, request.limit).map_err(|error| {
            let kind = match error.kind {
                HttpErrorKind::Tls(hint) => Kind::Tls(hint),
                HttpErrorKind::NoConnection => Kind::Unreachable { connected: false },
                HttpErrorKind::Broken => Kind::Unreachable { connected: true },
                HttpErrorKind::Protocol => Kind::Protocol,
            };
            self.error(kind, &request.at, &error.to_string())
        })?;
        let Answer { status, headers, body } = answer;
        let reply = Reply { status, headers, body, host: self.host().to_owned(), at: request.at.clone() };
        if url.scheme() == "http" && reply.wants_tls() {
            let detail = format!("{} speaks TLS on this port, not plain HTTP", server_of(url));
            return Err(reply.error(Kind::Tls("remove `plain_http` under [registry]"), &detail));
        }
        Ok(reply)
    }

    /// Follows the redirects of a request that only reads. Credentials go only to the server that they are for.
    pub(super) fn follow(
        &self,
        request: &Request,
        from: Url,
        mut reply: Reply,
        authorization: Option<&SecretString>,
    ) -> Result<Reply, RegistryError> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Ok(reply);
        }
        let mut url = from.clone();
        for _ in 0..MAX_REDIRECTS {
            if !matches!(reply.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(reply);
            }
            let target = reply.header(header::LOCATION).and_then(|to| url.join(to).ok());
            let target = target.ok_or_else(|| reply.protocol("redirects to nowhere"))?;
            let local = from.scheme() == "http" && target.host_str().is_some_and(is_loopback);
            let allowed = match target.scheme() {
                "https" => true,
                "http" => local || request.has_digest,
                _ => false,
            };
            if !allowed {
                let target = shown(target.as_str());
                return Err(reply.protocol(&format!("redirects to {target}, which is not https")));
            }
            let same_server = target.origin() == from.origin();
            url = target;
            reply = self.once(request, &url, authorization.filter(|_| same_server))?;
            if !same_server && matches!(reply.status, 401 | 403) {
                let (server, said) = (server_of(&url), reply.message());
                return Err(reply.protocol(&format!("{server}, to which it redirects, refuses this: {said}")));
            }
        }
        Err(reply.protocol("redirects in a circle"))
    }

    /// One exchange with the registry, and a second one with the login that it asks for.
    fn exchange(&self, request: &Request) -> Result<Reply, RegistryError> {
        let url = self.shared.base.join(&request.path);
        let url = url.map_err(|e| self.error(Kind::Protocol, &request.at, &e.to_string()))?;
        let mut authorization = self.authorization(request)?;
        let mut reply = self.once(request, &url, authorization.as_ref())?;
        if reply.status == 401 {
            (reply, authorization) = self.log_in(request, &url, &reply, authorization.as_ref())?;
        }
        self.follow(request, url, reply, authorization.as_ref())
    }

    /// Sends a request, with retries. A transient status is an error; any other status is the caller's to judge.
    pub(super) fn send(&self, request: &Request) -> Result<Reply, RegistryError> {
        let mut delays = self.shared.settings.retry.delays();
        let mut attempt = 1;
        loop {
            self.cancel.check()?;
            let error = match self.exchange(request) {
                Ok(reply) if retry::is_transient(reply.status) => reply.failure(),
                Ok(reply) => {
                    self.shared.state().reported.clear();
                    return Ok(reply);
                }
                Err(error) => error,
            };
            if !request.repeat || !error.is_transient() {
                return Err(error);
            }
            let Some(delay) = delays(error.retry_after()) else { return Err(error) };
            attempt += 1;
            self.report(&error, attempt, error.retry_after().map(|_| delay));
            self.cancel.sleep(delay)?;
        }
    }

    /// Reports a retry: once for all requests that fail for the same cause, until one succeeds.
    fn report(&self, error: &RegistryError, attempt: usize, pause: Option<Duration>) {
        let (cause, text) = error.notice();
        if !self.shared.state().reported.insert(cause) {
            return;
        }
        let pause = pause.map(|pause| format!(" in {:.0} s", pause.as_secs_f64().ceil())).unwrap_or_default();
        (self.on_retry)(&format!(
            "{text}; retrying ({attempt}/{}){pause}",
            self.shared.settings.retry.attempts
        ));
    }
}
