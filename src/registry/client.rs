//! One request to the registry: connection, credentials, redirects, repetition, and what an answer means.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use ureq::http::{self, HeaderMap, HeaderValue, header};
use url::Url;

use super::auth::{Authenticator, is_loopback};
use super::credentials::{Credentials, is_docker_hub};
use super::error::RegistryError;
use super::manifest::{MAX_BYTES, shown};
use super::remembered::Remembered;
use super::retry::RetryPolicy;
use super::token::Scope;
use super::{Registry, Settings, challenge, retry, tls};

/// How many redirects of one blob are followed.
const MAX_REDIRECTS: usize = 5;

/// What clones of one registry share.
#[derive(Debug)]
pub(super) struct Shared {
    /// As it stands in image names.
    pub(super) host: String,
    /// Scheme and authority of the API.
    pub(super) base: Url,
    pub(super) docker_hub: bool,
    pub(super) token_hosts: Vec<String>,
    pub(super) auth: Authenticator,
    agent: ureq::Agent,
    exchange_time: Duration,
    retry: RetryPolicy,
    pub(super) remembered: Remembered,
}

/// A request, before it is known how the registry wants to be asked.
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
    pub(super) body: Vec<u8>,
    /// Whether it may be repeated: doing it twice is the same as once.
    pub(super) repeat: bool,
    /// Whether a redirect to the blob's storage is followed.
    pub(super) follow: bool,
    /// The longest answer that is read, in bytes.
    pub(super) limit: u64,
}

impl Request {
    /// A GET, which may be repeated.
    pub(super) fn get(path: String, at: impl Into<String>, scope: Scope) -> Request {
        Request {
            method: "GET",
            path,
            at: at.into(),
            scope,
            accept: None,
            content_type: None,
            body: Vec::new(),
            repeat: true,
            follow: false,
            limit: MAX_BYTES,
        }
    }

    /// The same request by another method.
    pub(super) fn method(mut self, method: &'static str) -> Request {
        self.method = method;
        self
    }
}

/// An answer, read to its end so that the connection can serve again.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) host: String,
    pub(super) at: String,
}

impl Shared {
    pub(super) fn new(settings: Settings, credentials: Credentials) -> Result<Shared, RegistryError> {
        let host = settings.address.host().to_owned();
        let wrong = |detail: String| RegistryError::Settings { host: host.clone(), detail };
        if settings.plain_http && !settings.address.is_loopback() {
            return Err(wrong("plain_http is only for a registry on loopback; others need TLS".to_owned()));
        }
        let docker_hub = is_docker_hub(&host);
        let api = if docker_hub { "registry-1.docker.io" } else { &host };
        let scheme = if settings.plain_http { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{api}/")).map_err(|e| wrong(e.to_string()))?;
        let trust = tls::trust(settings.ca_pem.as_deref()).map_err(wrong)?;
        // A proxy of the environment is for the world outside.
        let proxy = if settings.address.is_loopback() { None } else { ureq::Proxy::try_from_env() };
        let times = settings.timeouts;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(!settings.plain_http)
            .tls_config(trust)
            .proxy(proxy)
            .no_delay(true)
            .max_redirects(0)
            .user_agent(concat!("swanci/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(times.connect))
            .timeout_connect(Some(times.connect))
            .timeout_per_read(Some(times.silence))
            .timeout_per_write(Some(times.silence))
            .timeout_global(Some(times.exchange))
            .max_idle_connections(settings.connections.max(1))
            .max_idle_connections_per_host(settings.connections.max(1))
            .build()
            .new_agent();
        Ok(Shared {
            host: host.clone(),
            base,
            docker_hub,
            token_hosts: settings.token_hosts,
            auth: Authenticator::new(credentials),
            agent,
            exchange_time: times.exchange,
            retry: settings.retry,
            remembered: Remembered::new(settings.configs),
        })
    }

    /// One HTTP exchange with one server: no credentials but those given, no redirect, no repetition.
    pub(super) fn once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&SecretString>,
        limit: Duration,
    ) -> Result<Answer, RegistryError> {
        let failed = |error: &ureq::Error| self.transport_error(request, error);
        let mut builder = http::Request::builder().method(request.method).uri(url.as_str());
        if let Some(accept) = &request.accept {
            builder = builder.header(header::ACCEPT, accept);
        }
        if let Some(content_type) = &request.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(authorization) = authorization {
            let value = HeaderValue::from_str(authorization.expose_secret());
            let mut value =
                value.map_err(|_| self.protocol(request, "the token cannot be sent in a header"))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let bad = |e: http::Error| self.protocol(request, &e.to_string());
        let response = if matches!(request.method, "POST" | "PUT") {
            let call = builder.body(&request.body[..]).map_err(bad)?;
            self.agent.run(self.agent.configure_request(call).timeout_global(Some(limit)).build())
        } else {
            let call = builder.body(()).map_err(bad)?;
            self.agent.run(self.agent.configure_request(call).timeout_global(Some(limit)).build())
        };
        let (parts, mut body) = response.map_err(|e| failed(&e))?.into_parts();
        let body = body.with_config().limit(request.limit).read_to_vec().map_err(|e| failed(&e))?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            host: self.host.clone(),
            at: request.at.clone(),
        })
    }

    /// Follows a blob to its storage. Credentials stay with the registry.
    fn follow(
        &self,
        request: &Request,
        from: Url,
        mut answer: Answer,
        authorization: Option<&SecretString>,
        limit: Duration,
    ) -> Result<Answer, RegistryError> {
        let mut url = from.clone();
        for _ in 0..MAX_REDIRECTS {
            if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = answer.header(header::LOCATION).and_then(|to| url.join(to).ok());
            let target = target.ok_or_else(|| answer.protocol("redirects to nowhere"))?;
            let plain = from.scheme() == "http" && target.host().is_some_and(|h| is_loopback(&h));
            if target.scheme() != "https" && !(target.scheme() == "http" && plain) {
                return Err(answer.protocol("redirects to a place that is not https"));
            }
            let home = target.origin() == from.origin();
            url = target;
            answer = self.once(request, &url, authorization.filter(|_| home), limit)?;
            if !home && answer.status == 401 {
                return Err(answer.protocol("the storage that it redirects to wants credentials of its own"));
            }
        }
        Err(answer.protocol("redirects in a circle"))
    }

    /// One exchange with the registry, as itself, and once more with what it asked for.
    fn exchange(&self, request: &Request, limit: Duration) -> Result<Answer, RegistryError> {
        let url = self.base.join(&request.path).map_err(|e| self.protocol(request, &e.to_string()))?;
        let mut authorization = self.authorization(request, limit)?;
        let mut answer = self.once(request, &url, authorization.as_ref(), limit)?;
        if answer.status == 401 {
            let asked = answer.headers.get_all(header::WWW_AUTHENTICATE);
            let Some(challenge) = challenge::choose(asked.iter().filter_map(|v| v.to_str().ok())) else {
                return Err(self.unauthorized(&answer));
            };
            let bearer = matches!(challenge, challenge::Challenge::Bearer { .. });
            authorization = self.answer_challenge(request, challenge, authorization.is_some(), limit)?;
            if authorization.is_none() {
                return Err(self.unauthorized(&answer));
            }
            answer = self.once(request, &url, authorization.as_ref(), limit)?;
            if answer.status == 401 {
                // A fresh token that is not enough: the user is known and may not (RFC 6750, insufficient_scope).
                let known = bearer && !self.auth.credentials.is_anonymous();
                return Err(if known { answer.denied() } else { self.unauthorized(&answer) });
            }
        }
        if request.follow {
            answer = self.follow(request, url, answer, authorization.as_ref(), limit)?;
        }
        Ok(answer)
    }

    fn protocol(&self, request: &Request, detail: &str) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), at: request.at.clone(), detail: detail.to_owned() }
    }

    fn transport_error(&self, request: &Request, error: &ureq::Error) -> RegistryError {
        let (host, at) = (self.host.clone(), request.at.clone());
        if let Some(detail) = tls::problem(error) {
            return RegistryError::Tls { host, at, detail };
        }
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "ureq's errors may grow; the rest is not the network"
        )]
        match error {
            ureq::Error::BodyExceedsLimit(limit) => RegistryError::TooLarge { host, at, limit: *limit },
            ureq::Error::HostNotFound => {
                RegistryError::Unreachable { host, at, detail: "the name cannot be resolved".to_owned() }
            }
            ureq::Error::Timeout(which) => {
                RegistryError::Unreachable { host, at, detail: format!("timed out ({which})") }
            }
            ureq::Error::Io(e) => RegistryError::Unreachable { host, at, detail: e.to_string() },
            ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::BodyStalled
            | ureq::Error::Protocol(_) => RegistryError::Unreachable { host, at, detail: error.to_string() },
            other => RegistryError::Protocol { host, at, detail: other.to_string() },
        }
    }
}

impl Registry {
    /// Sends a request, repeating it within the limits of the policy. A status that passes by itself is an error
    /// here; every other one is for the caller to judge.
    pub(super) fn send(&self, request: &Request) -> Result<Answer, RegistryError> {
        let policy = self.shared.retry;
        let (started, mut delays, mut limit) = (Instant::now(), policy.delays(), self.shared.exchange_time);
        loop {
            self.cancel.check()?;
            let (error, retry_after) = match self.shared.exchange(request, limit) {
                Ok(answer) if retry::is_transient(answer.status) => (answer.failure(), answer.retry_after()),
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let retry_after = error.retry_after();
                    (error, retry_after)
                }
            };
            if !request.repeat || !error.is_transient() {
                return Err(error);
            }
            let Some(delay) = policy.delay(delays.next(), retry_after, started.elapsed()) else {
                return Err(error);
            };
            if let Some(notice) = &self.on_retry {
                notice(&format!("{error}; again in {:.1} s", delay.as_secs_f64()));
            }
            self.cancel.sleep(delay)?;
            let left = policy.total.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
            limit = left.min(self.shared.exchange_time);
        }
    }
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.header(header::RETRY_AFTER).and_then(retry::retry_after)
    }

    /// An answer that breaks the rules.
    pub(super) fn protocol(&self, detail: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), at: self.at.clone(), detail: detail.into() }
    }

    fn denied(&self) -> RegistryError {
        RegistryError::Denied { host: self.host.clone(), at: self.at.clone(), detail: self.said() }
    }

    /// What the registry says went wrong: its codes and messages, else the start of its text.
    pub(super) fn said(&self) -> String {
        let errors = serde_json::from_slice::<Errors>(&self.body).map(|wire| wire.errors).unwrap_or_default();
        let said: Vec<String> = errors.iter().take(3).map(OneError::said).collect();
        let text = match (said.is_empty(), self.body.is_empty()) {
            (false, _) => said.join("; "),
            (true, false) => String::from_utf8_lossy(&self.body[..self.body.len().min(800)]).into_owned(),
            (true, true) => format!("HTTP status {}", self.status),
        };
        shown(&text)
    }

    /// The error that an unwelcome status means.
    pub(super) fn failure(&self) -> RegistryError {
        let (host, at, detail, status) = (self.host.clone(), self.at.clone(), self.said(), self.status);
        match status {
            403 => self.denied(),
            404 => RegistryError::NotFound { host, at, detail },
            429 => RegistryError::TooManyRequests { host, at, detail, retry_after: self.retry_after() },
            500..=599 if self.is_full() => RegistryError::NoSpace { host, at, detail },
            408 | 500..=599 => RegistryError::Server { host, at, status, detail },
            300..=399 => self.protocol(format!(
                "status {status}: swanci follows redirects only for blobs, not to {}",
                shown(self.header(header::LOCATION).unwrap_or("nowhere"))
            )),
            400..=499 => RegistryError::Rejected { host, at, status, detail },
            _ => self.protocol(format!("unexpected status {status}")),
        }
    }

    /// Whether the storage is full: 507, or what distribution's filesystem driver passes on of ENOSPC and EDQUOT.
    fn is_full(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        let says = |what: &str| text.contains(what);
        self.status == 507
            || says("no space left on device")
            || says("disk quota exceeded")
            || says(r#""Err":28}"#)
            || says(r#""Err":122}"#)
    }
}

/// The error body of the distribution spec ("Error Codes").
#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    /// Free in its form; a text says more than the message.
    #[serde(default)]
    detail: serde_json::Value,
}

impl OneError {
    fn said(&self) -> String {
        let detail = self.detail.as_str().filter(|text| !text.is_empty());
        let detail = detail.map(|text| format!(" ({text})")).unwrap_or_default();
        format!("{}: {}{detail}", self.code, self.message)
    }
}
