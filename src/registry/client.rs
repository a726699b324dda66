//! Sends one request to the registry: credentials, redirects, retries.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use ureq::http::{self, HeaderValue, header};
use url::Url;

use crate::http::retry::{self, RetryPolicy};
use crate::http::tls::{TlsCause, Trust};
use crate::http::{Client, HttpError, HttpErrorKind, server_of, shown};
use crate::model::{RegistryAddress, is_loopback};

use super::answer::Answer;
use super::auth::Authenticator;
use super::challenge::{self, Challenge};
use super::credentials::{Login, is_docker_hub};
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::manifest::MAX_BYTES;
use super::memory::Memory;
use super::token::Scope;
use super::{Registry, Settings};

/// As many as docker follows.
const MAX_REDIRECTS: usize = 10;

/// What clones of one registry share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: RegistryAddress,
    /// As in image names.
    pub(super) host: String,
    /// Scheme and authority of the API.
    pub(super) base: Url,
    pub(super) docker_hub: bool,
    pub(super) auth: Authenticator,
    pub(super) http: Client,
    retry: RetryPolicy,
    pub(super) memory: Memory,
    /// Whether the registry accepts the login; `None` until it was asked.
    pub(super) login_works: Mutex<Option<bool>>,
    /// The causes of retries that were reported since the last success.
    reported: Mutex<BTreeSet<u16>>,
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    /// Path and query.
    pub(super) path: String,
    /// What is being done, for messages.
    pub(super) at: String,
    pub(super) scope: Scope,
    pub(super) accept: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) range: Option<&'static str>,
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
    pub(super) fn get(path: String, at: impl Into<String>, scope: Scope) -> Request {
        Request {
            method: "GET",
            path,
            at: at.into(),
            scope,
            accept: None,
            content_type: None,
            range: None,
            body: Vec::new(),
            repeat: true,
            has_digest: false,
            limit: MAX_BYTES,
        }
    }

    pub(super) fn method(mut self, method: &'static str) -> Request {
        self.method = method;
        self
    }
}

impl Shared {
    pub(super) fn new(settings: Settings, login: Login) -> Result<Shared, RegistryError> {
        let host = settings.address.host().to_owned();
        let wrong = |detail: String| {
            RegistryError::with_message(Kind::Settings, &host, format!("registry {host}: {detail}"))
        };
        if settings.plain_http && !settings.address.is_loopback() {
            return Err(wrong("plain_http is only for a registry on loopback; others need TLS".to_owned()));
        }
        let docker_hub = is_docker_hub(&host);
        let api = if docker_hub { "registry-1.docker.io" } else { &host };
        let scheme = if settings.plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{api}/")).map_err(|e| wrong(e.to_string()))?;
        let trust = Trust::new(settings.ca_pem.as_deref()).map_err(wrong)?;
        let http = Client::new(&trust, settings.timeouts, settings.connections).map_err(wrong)?;
        Ok(Shared {
            address: settings.address,
            host: host.clone(),
            base,
            docker_hub,
            auth: Authenticator::new(login),
            http,
            retry: settings.retry,
            memory: Memory::default(),
            login_works: Mutex::default(),
            reported: Mutex::default(),
        })
    }
}

fn kind_of(error: &HttpError) -> Kind {
    match error.kind {
        HttpErrorKind::Tls(cause) => Kind::Tls(cause),
        HttpErrorKind::NoConnection => Kind::Unreachable { connected: false },
        HttpErrorKind::Broken => Kind::Unreachable { connected: true },
        HttpErrorKind::Protocol => Kind::Protocol,
    }
}

impl Registry {
    pub(super) fn error(&self, kind: Kind, at: &str, detail: &str) -> RegistryError {
        RegistryError::new(kind, &self.shared.host, at, detail)
    }

    /// One HTTP exchange with one server, without redirects and retries.
    pub(super) fn once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&SecretString>,
    ) -> Result<Answer, RegistryError> {
        let mut builder = http::Request::builder().method(request.method);
        let headers = [
            (header::ACCEPT, request.accept.as_deref()),
            (header::RANGE, request.range),
            (header::CONTENT_TYPE, request.content_type.as_deref()),
        ];
        for (name, value) in headers {
            if let Some(value) = value {
                builder = builder.header(name, value);
            }
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.expose_secret()).map_err(|_| {
                self.error(Kind::Protocol, &request.at, "the token cannot be sent in a header")
            })?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let body = matches!(request.method, "POST" | "PUT").then_some(&request.body[..]);
        let answer = self.shared.http.exchange(builder, url, body, request.limit);
        let answer = answer.map_err(|e| self.error(kind_of(&e), &request.at, &e.to_string()))?;
        let answer = Answer { http: answer, host: self.shared.host.clone(), at: request.at.clone() };
        if url.scheme() == "http" && answer.wants_tls() {
            let detail = format!("{} speaks TLS on this port, not plain HTTP", server_of(url));
            return Err(answer.error(Kind::Tls(TlsCause::TlsExpected), &detail));
        }
        Ok(answer)
    }

    /// Follows the redirects of a request that only reads. Credentials go only to the server that they are for.
    pub(super) fn follow(
        &self,
        request: &Request,
        from: Url,
        mut answer: Answer,
        authorization: Option<&SecretString>,
    ) -> Result<Answer, RegistryError> {
        if !matches!(request.method, "GET" | "HEAD") {
            return Ok(answer);
        }
        let mut url = from.clone();
        for _ in 0..MAX_REDIRECTS {
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = answer.header(header::LOCATION).and_then(|to| url.join(to).ok());
            let target = target.ok_or_else(|| answer.protocol("redirects to nowhere"))?;
            let local = from.scheme() == "http" && target.host_str().is_some_and(is_loopback);
            let allowed = match target.scheme() {
                "https" => true,
                "http" => local || request.has_digest,
                _ => false,
            };
            if !allowed {
                let target = shown(target.as_str());
                return Err(answer.protocol(&format!("redirects to {target}, which is not https")));
            }
            let same_server = target.origin() == from.origin();
            url = target;
            answer = self.once(request, &url, authorization.filter(|_| same_server))?;
            if !same_server && matches!(answer.status, 401 | 403) {
                let (server, said) = (server_of(&url), answer.said());
                return Err(
                    answer.protocol(&format!("{server}, to which it redirects, refuses this: {said}"))
                );
            }
        }
        Err(answer.protocol("redirects in a circle"))
    }

    /// One exchange with the registry, and a second one with the login that it asks for.
    fn exchange(&self, request: &Request) -> Result<Answer, RegistryError> {
        let url = self.shared.base.join(&request.path);
        let url = url.map_err(|e| self.error(Kind::Protocol, &request.at, &e.to_string()))?;
        let mut authorization = self.authorization(request)?;
        let mut answer = self.once(request, &url, authorization.as_ref())?;
        if answer.status == 401 {
            (answer, authorization) = self.log_in(request, &url, answer, authorization)?;
        }
        self.follow(request, url, answer, authorization.as_ref())
    }

    /// Answers the challenges of a 401, Bearer before Basic, until one is accepted.
    fn log_in(
        &self,
        request: &Request,
        url: &Url,
        challenged: Answer,
        sent: Option<SecretString>,
    ) -> Result<(Answer, Option<SecretString>), RegistryError> {
        self.shared.auth.set_challenged();
        let asked = challenged.headers.get_all(header::WWW_AUTHENTICATE);
        let challenges = challenge::known(asked.iter().filter_map(|v| v.to_str().ok()));
        let mut refused = None;
        for challenge in challenges {
            let authorization = match self.answer(request, &challenge) {
                Ok(Some(authorization)) => authorization,
                Ok(None) => continue,
                Err(error) if error.is_transient() || matches!(error.kind, Kind::Stopped(_)) => {
                    return Err(error);
                }
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            if sent.as_ref().is_some_and(|sent| sent.expose_secret() == authorization.expose_secret()) {
                continue; // the registry just refused it
            }
            let answer = self.once(request, url, Some(&authorization))?;
            if answer.status != 401 {
                self.shared.auth.remember(challenge);
                return Ok((answer, Some(authorization)));
            }
            // A fresh token that is refused: the user is known and lacks the right (RFC 6750, insufficient_scope).
            let known = matches!(challenge, Challenge::Bearer { .. }) && !self.is_anonymous()?;
            refused.get_or_insert(if known { answer.denied() } else { self.unauthorized(&answer)? });
        }
        match refused {
            Some(error) => Err(error),
            None => Err(self.unauthorized(&challenged)?),
        }
    }

    /// Sends a request, with retries. A transient status is an error; any other status is the caller's to judge.
    pub(super) fn send(&self, request: &Request) -> Result<Answer, RegistryError> {
        let mut retries = self.shared.retry.start();
        loop {
            self.cancel.check()?;
            let error = match self.exchange(request) {
                Ok(answer) if retry::is_transient(answer.status) => answer.failure(),
                Ok(answer) => {
                    self.reported().clear();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !request.repeat || !error.is_transient() {
                return Err(error);
            }
            let Some(delay) = retries.next_delay(error.retry_after()) else { return Err(error) };
            self.report(&error, retries.attempt(), error.retry_after().map(|_| delay));
            self.cancel.sleep(delay)?;
        }
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.shared.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a retry: once for all requests that fail for the same cause, until one succeeds.
    fn report(&self, error: &RegistryError, attempt: usize, pause: Option<Duration>) {
        let Some(on_retry) = &self.on_retry else { return };
        let (cause, text) = error.notice();
        if !self.reported().insert(cause) {
            return;
        }
        let pause = pause.map(|pause| format!(" in {:.0} s", pause.as_secs_f64().ceil())).unwrap_or_default();
        on_retry(&format!("{text}; retrying ({attempt}/{}){pause}", self.shared.retry.attempts));
    }
}
