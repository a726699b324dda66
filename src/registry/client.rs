//! One request to the registry: credentials, redirects, repetition, and what an answer means.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use ureq::http::{self, HeaderMap, HeaderValue, header};
use url::Url;

use crate::http::retry::{self, RetryPolicy};
use crate::http::tls::{TlsCause, Trust};
use crate::http::{Client, Fault, is_loopback, server_of};
use crate::model::RegistryAddress;

use super::auth::Authenticator;
use super::credentials::{Login, is_docker_hub};
use super::error::RegistryError;
use super::manifest::{MAX_BYTES, shown};
use super::memory::Memory;
use super::token::Scope;
use super::{Registry, Settings, challenge};

/// Redirects of one request that are followed, as many as docker follows.
const MAX_REDIRECTS: usize = 10;

/// What clones of one registry share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: RegistryAddress,
    /// As it stands in image names.
    pub(super) host: String,
    /// Scheme and authority of the API.
    pub(super) base: Url,
    pub(super) docker_hub: bool,
    pub(super) auth: Authenticator,
    pub(super) http: Client,
    retry: RetryPolicy,
    pub(super) memory: Memory,
    /// Whether the registry takes the login, once that was asked.
    pub(super) login_works: Mutex<Option<bool>>,
    /// The kinds of trouble that were told since the last answer.
    told: Mutex<BTreeSet<u16>>,
}

/// Where a redirect may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    /// To https, and from plain http on this machine to the same.
    Safe,
    /// Anywhere: the content is checked against its digest.
    Anywhere,
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
    pub(super) range: Option<&'static str>,
    pub(super) body: Vec<u8>,
    /// Whether it may be repeated: doing it twice is the same as once.
    pub(super) repeat: bool,
    pub(super) redirects: Redirects,
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
            range: None,
            body: Vec::new(),
            repeat: true,
            redirects: Redirects::Safe,
            limit: MAX_BYTES,
        }
    }

    /// The same request by another method.
    pub(super) fn method(mut self, method: &'static str) -> Request {
        self.method = method;
        self
    }
}

/// An answer, with what it takes to make an error of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) host: String,
    pub(super) at: String,
}

impl Shared {
    pub(super) fn new(settings: Settings, login: Login) -> Result<Shared, RegistryError> {
        let host = settings.address.host().to_owned();
        let wrong = |detail: String| RegistryError::Settings { host: host.clone(), detail };
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
            told: Mutex::default(),
        })
    }

    fn protocol(&self, request: &Request, detail: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), at: request.at.clone(), detail: detail.into() }
    }

    fn fault(&self, request: &Request, fault: Fault) -> RegistryError {
        let (host, at, detail) = (self.host.clone(), request.at.clone(), fault.to_string());
        match fault {
            Fault::Tls(fault) => RegistryError::Tls { host, at, cause: fault.cause, detail },
            Fault::TooLarge(limit) => RegistryError::TooLarge { host, at, limit },
            Fault::NoConnection(_) => RegistryError::Unreachable { host, at, connected: false, detail },
            Fault::Broken(_) => RegistryError::Unreachable { host, at, connected: true, detail },
            Fault::Protocol(_) => RegistryError::Protocol { host, at, detail },
        }
    }
}

impl Registry {
    /// One HTTP exchange with one server: no credentials but those given, no redirect, no repetition.
    pub(super) fn once(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&SecretString>,
    ) -> Result<Answer, RegistryError> {
        let shared = &*self.shared;
        let mut builder = http::Request::builder().method(request.method);
        if let Some(accept) = &request.accept {
            builder = builder.header(header::ACCEPT, accept);
        }
        if let Some(range) = request.range {
            builder = builder.header(header::RANGE, range);
        }
        if let Some(content_type) = &request.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(authorization) = authorization {
            let value = HeaderValue::from_str(authorization.expose_secret());
            let mut value =
                value.map_err(|_| shared.protocol(request, "the token cannot be sent in a header"))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let body = matches!(request.method, "POST" | "PUT").then_some(&request.body[..]);
        let answer = shared.http.exchange(builder, url, body, request.limit);
        let answer = answer.map_err(|fault| shared.fault(request, fault))?;
        let answer = Answer {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
            host: shared.host.clone(),
            at: request.at.clone(),
        };
        if url.scheme() == "http" && answer.wants_tls() {
            let detail = format!("{} speaks TLS on this port, not plain HTTP", server_of(url));
            let (host, at) = (answer.host, answer.at);
            return Err(RegistryError::Tls { host, at, cause: TlsCause::TlsExpected, detail });
        }
        Ok(answer)
    }

    /// Follows the redirects of a request that only reads. Credentials stay with the server that they were sent to.
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
            let local = from.scheme() == "http" && target.host().is_some_and(|h| is_loopback(&h));
            let followed = match target.scheme() {
                "https" => true,
                "http" => local || request.redirects == Redirects::Anywhere,
                _ => false,
            };
            if !followed {
                return Err(
                    answer.protocol(format!("redirects to {}, which is not https", shown(target.as_str())))
                );
            }
            let home = target.origin() == from.origin();
            url = target;
            answer = self.once(request, &url, authorization.filter(|_| home))?;
            if !home && matches!(answer.status, 401 | 403) {
                let (server, said) = (server_of(&url), answer.said());
                return Err(answer.protocol(format!("{server}, to which it redirects, refuses this: {said}")));
            }
        }
        Err(answer.protocol("redirects in a circle"))
    }

    /// One exchange with the registry, and once more with the login that it asks for.
    fn exchange(&self, request: &Request) -> Result<Answer, RegistryError> {
        let shared = &*self.shared;
        let url = shared.base.join(&request.path).map_err(|e| shared.protocol(request, e.to_string()))?;
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
                Err(error @ RegistryError::Stopped(_)) => return Err(error),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    refused.get_or_insert(error);
                    continue;
                }
            };
            if sent.as_ref().is_some_and(|sent| sent.expose_secret() == authorization.expose_secret()) {
                continue; // it was refused just now
            }
            let answer = self.once(request, url, Some(&authorization))?;
            if answer.status != 401 {
                self.shared.auth.remember(challenge);
                return Ok((answer, Some(authorization)));
            }
            // A fresh token that is not enough: the user is known and lacks the right (RFC 6750, insufficient_scope).
            let known = matches!(challenge, challenge::Challenge::Bearer { .. }) && !self.is_anonymous()?;
            refused.get_or_insert(if known { answer.denied() } else { self.unauthorized(&answer)? });
        }
        match refused {
            Some(error) => Err(error),
            None => Err(self.unauthorized(&challenged)?),
        }
    }

    /// Sends a request, repeating it within the limits of the policy. A status that passes by itself is an error
    /// here; every other one is for the caller to judge.
    pub(super) fn send(&self, request: &Request) -> Result<Answer, RegistryError> {
        let policy = self.shared.retry;
        let (started, mut delays) = (Instant::now(), policy.delays());
        for attempt in 2.. {
            self.cancel.check()?;
            let error = match self.exchange(request) {
                Ok(answer) if retry::is_transient(answer.status) => answer.failure(),
                Ok(answer) => {
                    self.told().clear();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if !request.repeat || !error.is_transient() {
                return Err(error);
            }
            let pause = error.retry_after();
            let Some(delay) = policy.delay(delays.next(), pause, started.elapsed()) else {
                return Err(error);
            };
            self.tell(&error, attempt, pause.map(|_| delay));
            self.cancel.sleep(delay)?;
        }
        Err(self.shared.protocol(request, "was never answered"))
    }

    fn told(&self) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that a request is repeated: once for all requests that meet the same trouble, until one is answered.
    fn tell(&self, error: &RegistryError, attempt: usize, pause: Option<Duration>) {
        let Some(notice) = &self.on_retry else { return };
        if !self.told().insert(error.trouble()) {
            return;
        }
        let what = if let RegistryError::Unreachable { host, connected: false, .. } = error {
            format!("cannot connect to {host}")
        } else {
            error.to_string()
        };
        let pause = pause.map(|pause| format!(" in {:.0} s", pause.as_secs_f64().ceil())).unwrap_or_default();
        notice(&format!("{what}; retrying ({attempt}/{}){pause}", self.shared.retry.attempts));
    }
}

impl Answer {
    /// A header as text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn retry_after(&self) -> Option<Duration> {
        self.header(header::RETRY_AFTER).and_then(|v| retry::retry_after(v, jiff::Timestamp::now()))
    }

    /// An answer that breaks the rules.
    pub(super) fn protocol(&self, detail: impl Into<String>) -> RegistryError {
        RegistryError::Protocol { host: self.host.clone(), at: self.at.clone(), detail: detail.into() }
    }

    fn denied(&self) -> RegistryError {
        RegistryError::Denied { host: self.host.clone(), at: self.at.clone(), detail: self.said() }
    }

    /// Whether the body is a web page, which no part of the API is.
    pub(super) fn is_web_page(&self) -> bool {
        self.header(header::CONTENT_TYPE).is_some_and(|v| v.trim_start().starts_with("text/html"))
    }

    /// What Go's and nginx's TLS servers answer to plain HTTP.
    fn wants_tls(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        self.status == 400
            && ["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"]
                .iter()
                .any(|words| text.contains(words))
    }

    /// What the registry says went wrong, as far as it can be read.
    pub(super) fn said(&self) -> String {
        let text = match serde_json::from_slice::<Value>(&self.body) {
            Ok(body) => said_in_json(&body),
            Err(_) => said_in_text(&String::from_utf8_lossy(&self.body)),
        };
        text.map_or_else(|| format!("HTTP status {}", self.status), |text| shown(&text))
    }

    /// Whether the error's code is this one (distribution spec, "Error Codes").
    pub(super) fn has_code(&self, code: &str) -> bool {
        let body = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        let errors = body.get("errors").and_then(Value::as_array);
        errors
            .is_some_and(|errors| errors.iter().any(|e| e.get("code").and_then(Value::as_str) == Some(code)))
    }

    /// The error that an unwelcome status means.
    pub(super) fn failure(&self) -> RegistryError {
        let (host, at, detail, status) = (self.host.clone(), self.at.clone(), self.said(), self.status);
        match status {
            403 => self.denied(),
            404 => RegistryError::NotFound { host, at, detail },
            429 => RegistryError::TooManyRequests { host, at, detail, retry_after: self.retry_after() },
            500..=599 if self.is_full() => RegistryError::NoSpace { host, at, detail },
            408 | 500..=599 => {
                RegistryError::Server { host, at, status, detail, retry_after: self.retry_after() }
            }
            300..=399 => self.protocol(format!(
                "status {status}: swanci follows redirects only where it reads, not to {}",
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

/// The `errors` of the distribution spec, also incomplete ones (Artifactory's have no code), or the one sentence of a
/// token server (OAuth 2, Docker Hub, Quay).
fn said_in_json(body: &Value) -> Option<String> {
    let text = |value: Option<&Value>| {
        let number = value.filter(|value| value.is_number()).map(Value::to_string);
        value.and_then(Value::as_str).filter(|text| !text.trim().is_empty()).map(str::to_owned).or(number)
    };
    if let Some(errors) = body.get("errors").and_then(Value::as_array).filter(|errors| !errors.is_empty()) {
        let said = errors.iter().take(3).filter_map(|error| {
            let detail = error.get("detail").and_then(Value::as_str).filter(|d| !d.is_empty());
            let parts: Vec<String> =
                [text(error.get("code")), text(error.get("message"))].into_iter().flatten().collect();
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            (!parts.is_empty() || !detail.is_empty()).then(|| format!("{}{detail}", parts.join(": ")))
        });
        return Some(said.collect::<Vec<_>>().join("; ")).filter(|said| !said.is_empty());
    }
    ["error_description", "message", "details", "detail", "error"]
        .iter()
        .find_map(|name| text(body.get(name)))
}

/// The title of a web page, or the start of a text.
fn said_in_text(text: &str) -> Option<String> {
    let start: String = text.chars().take(4_000).collect();
    let lower = start.to_ascii_lowercase();
    let title = lower.find("<title").and_then(|at| {
        let open = at + lower[at..].find('>')? + 1;
        let close = open + lower[open..].find('<')?;
        Some(start[open..close].trim().to_owned())
    });
    let text = match title.filter(|title| !title.is_empty()) {
        Some(title) => title,
        None if lower.trim_start().starts_with('<') => return None,
        None => start,
    };
    Some(text.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> String {
        let (host, at) = (String::new(), String::new());
        Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec(), host, at }.said()
    }

    #[test]
    fn what_the_registries_say_is_read_in_each_form() {
        for (body, text) in [
            // distribution, Harbor, GitLab, ECR
            (r#"{"errors":[{"code":"DENIED","message":"access forbidden"}]}"#, "DENIED: access forbidden"),
            (
                r#"{"errors":[{"code":"A","message":"b","detail":"c"},{"code":"D","message":"e","detail":{"x":1}}]}"#,
                "A: b (c); D: e",
            ),
            // Artifactory
            (r#"{"errors":[{"status":401,"message":"Bad credentials"}]}"#, "Bad credentials"),
            // Azure's and other OAuth 2 token servers
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, "expired"),
            // Docker Hub
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            // Quay
            (r#"{"message":"Could not find robot","error":"x"}"#, "Could not find robot"),
            ("<html><head><Title>502 Bad\nGateway</title></head><body>x</body></html>", "502 Bad Gateway"),
            ("<!DOCTYPE html><p>x", "HTTP status 502"),
            ("upstream connect error", "upstream connect error"),
            ("", "HTTP status 502"),
            ("{}", "HTTP status 502"),
            (r#"{"errors":[]}"#, "HTTP status 502"),
            (r#"{"errors":[{}]}"#, "HTTP status 502"),
            (r#"{"errors":null}"#, "HTTP status 502"),
            ("<title>İ</title>", "İ"),
        ] {
            assert_eq!(said(502, body), text, "{body}");
        }
    }
}
