//! The HTTP client for registries, token servers and forges.
//!
//! Times and sizes are bounded. Redirects, credentials and retries are the caller's.

pub(crate) mod proxy;
pub(crate) mod retry;
mod tls;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{self, HeaderMap, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use url::Url;

use proxy::Proxies;

/// Idle connections that are kept: the number of threads that use one registry.
const CONNECTIONS: usize = 16;

/// Bytes that are read of the body of an error.
const MAX_ERROR_BODY: u64 = 64 << 10;

/// ureq has no limits by default.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Name resolution, and TCP with TLS, each.
    pub connect: Duration,
    /// Between two reads or writes.
    pub silence: Duration,
    /// The whole exchange.
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

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpError {
    pub(crate) kind: HttpErrorKind,
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpErrorKind {
    NoConnection,
    /// The connection broke, or timed out.
    Broken,
    /// With a hint, in which `{}` is the server.
    Tls(&'static str),
    /// The answer is not HTTP or too large, or the request cannot be sent.
    Protocol,
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let prefix = if self.kind == HttpErrorKind::NoConnection { "cannot connect: " } else { "" };
        write!(f, "{prefix}{}", self.detail)
    }
}

/// An answer, read to its end so that the connection can be used again. Every status is an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Of an error, only the first [`MAX_ERROR_BODY`] bytes.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Connects to any server, directly or through the proxies of the environment.
#[derive(Debug)]
pub(crate) struct Client {
    direct: ureq::Agent,
    /// One for each proxy.
    proxied: Vec<(String, ureq::Agent)>,
    proxies: Proxies,
    authorities: Arc<[Certificate<'static>]>,
}

impl Client {
    /// Trusts the authorities in `ca_pem` in addition to the system's. An error when `ca_pem` has no certificate, or when the
    /// environment names a proxy that cannot be used.
    pub(crate) fn new(ca_pem: Option<&[u8]>, timeouts: Timeouts) -> Result<Client, String> {
        let authorities = tls::authorities(ca_pem)?;
        let tls = TlsConfig::builder().root_certs(RootCerts::from(authorities.to_vec())).build();
        let proxies = Proxies::of_environment();
        let agent = |proxy: Option<ureq::Proxy>| {
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .tls_config(tls.clone())
                .proxy(proxy)
                .no_delay(true)
                .max_redirects(0)
                .user_agent(concat!("swanci/", env!("CARGO_PKG_VERSION")))
                .timeout_resolve(Some(timeouts.connect))
                .timeout_connect(Some(timeouts.connect))
                .timeout_per_read(Some(timeouts.silence))
                .timeout_per_write(Some(timeouts.silence))
                .timeout_global(Some(timeouts.exchange))
                .max_idle_connections(CONNECTIONS)
                .max_idle_connections_per_host(CONNECTIONS)
                .build()
                .new_agent()
        };
        let mut proxied = Vec::new();
        for (variable, address) in proxies.all() {
            let proxy = ureq::Proxy::new(address)
                .map_err(|_| format!("the variable {variable} does not hold the URL of a proxy"))?;
            proxied.push((address.to_owned(), agent(Some(proxy))));
        }
        Ok(Client { direct: agent(None), proxied, proxies, authorities })
    }

    /// The proxy for this URL, without its login.
    pub(crate) fn proxy_of(&self, url: &Url) -> Option<String> {
        self.proxies.of(url).map(proxy::shown)
    }

    /// The day on which the server's certificate expires, if that is within `time`. `None` also without TLS, behind a
    /// proxy, or without a connection.
    pub(crate) fn certificate_ends_within(&self, url: &Url, time: Duration) -> Option<String> {
        let is_direct = url.scheme() == "https" && self.proxies.of(url).is_none();
        is_direct.then(|| tls::certificate_ends_within(&self.authorities, url, time))?
    }

    pub(crate) fn exchange(
        &self,
        request: http::request::Builder,
        url: &Url,
        body: Option<&[u8]>,
        limit: u64,
    ) -> Result<Answer, HttpError> {
        let proxy = self.proxies.of(url);
        let agent = proxy.and_then(|proxy| {
            self.proxied.iter().find(|(address, _)| address == proxy).map(|(_, agent)| agent)
        });
        let agent = agent.unwrap_or(&self.direct);
        let failed = |error: &ureq::Error| explain(error, url, proxy);
        let request = request.uri(url.as_str());
        let response = match body {
            Some(body) => request.body(body).map(|request| agent.run(request)),
            None => request.body(()).map(|request| agent.run(request)),
        };
        let response = response.map_err(|e| failed(&e.into()))?.map_err(|e| failed(&e))?;
        let (parts, mut body) = response.into_parts();
        let status = parts.status.as_u16();
        let body = if status < 400 {
            body.with_config().limit(limit).read_to_vec().map_err(|e| failed(&e))?
        } else {
            let mut start = Vec::new();
            let read = body.as_reader().take(MAX_ERROR_BODY).read_to_end(&mut start);
            read.map_err(|e| failed(&ureq::Error::Io(e)))?;
            start
        };
        Ok(Answer { status, headers: parts.headers, body })
    }
}

/// `host[:port]` of a URL, for messages.
pub(crate) fn server_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn explain(error: &ureq::Error, url: &Url, proxy: Option<&str>) -> HttpError {
    use std::io::ErrorKind as K;
    use ureq::{Error as E, Timeout as T};

    use HttpErrorKind::{Broken, NoConnection, Protocol};
    if let Some(error) = tls::explain(error, &server_of(url)) {
        return error;
    }
    let unresolved = || {
        let name = if proxy.is_some() { "of the proxy" } else { url.host_str().unwrap_or("?") };
        (NoConnection, format!("the name {name} cannot be resolved"))
    };
    #[expect(clippy::wildcard_enum_match_arm, reason = "ureq's errors may grow; the rest is not the network")]
    let (kind, mut detail) = match error {
        E::BodyExceedsLimit(limit) => (Protocol, format!("the answer is larger than {limit} bytes")),
        E::HostNotFound => unresolved(),
        // std has no kind for it.
        E::Io(e) if e.to_string().starts_with("failed to lookup address") => unresolved(),
        E::Timeout(which @ (T::Resolve | T::Connect)) => (NoConnection, format!("timed out ({which})")),
        E::Timeout(which) => (Broken, format!("timed out ({which})")),
        E::ConnectionFailed | E::ConnectProxyFailed(_) => (NoConnection, error.to_string()),
        E::Io(e) => match e.kind() {
            K::ConnectionRefused
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::AddrNotAvailable
            | K::NetworkDown => (NoConnection, plain(e)),
            _ => match e.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
                Some(inner) => return explain(inner, url, proxy),
                None => (Broken, plain(e)),
            },
        },
        // A TLS server answers plain HTTP with a TLS alert.
        E::Protocol(_) if url.scheme() == "http" => (Broken, format!("the answer is not HTTP: {error}")),
        E::BodyStalled | E::Protocol(_) => (Broken, error.to_string()),
        other => (Protocol, other.to_string()),
    };
    if let (NoConnection, Some(proxy)) = (kind, proxy) {
        detail.push_str(&format!(" (through the proxy {})", proxy::shown(proxy)));
    }
    HttpError { kind, detail }
}

/// `Connection refused (os error 111)` without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// The target of `rel="next"` among the links of a `Link` header (RFC 8288).
pub(crate) fn next_link(value: &str) -> Option<&str> {
    let mut rest = value;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, after) = link.split_once('>')?;
        let parameters = after.split_once('<').map_or(after, |(own, _)| own);
        for parameter in parameters.split([';', ',']) {
            let Some((name, relations)) = parameter.split_once('=') else { continue };
            let mut relations = relations.trim().trim_matches('"').split_ascii_whitespace();
            if name.trim().eq_ignore_ascii_case("rel") && relations.any(|r| r.eq_ignore_ascii_case("next")) {
                return Some(target.trim());
            }
        }
        rest = after;
    }
    None
}

/// Text of a server, on one line and without secrets.
pub(crate) fn shown(text: &str) -> String {
    crate::escape::shortened(&crate::redact::scrub(text.trim()), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        for (value, next) in [
            (
                "<https://h/x?page=1>; rel=\"prev\", <https://h/x?cursor=v1_a%2Cb>; rel=\"next\"",
                Some("https://h/x?cursor=v1_a%2Cb"),
            ),
            ("<https://h/x?page=1>; rel=\"first\"", None),
            ("</v2/a/tags/list?last=x&n=2>;rel=next", Some("/v2/a/tags/list?last=x&n=2")),
            ("<list?last=a,b;c>; title=\"more\"; REL=\"last Next\"", Some("list?last=a,b;c")),
            ("</a>; rel=\"prev\",</b>; type=\"x\"; rel='next'", None),
            ("</a>; relative=\"next\"", None),
            ("<https://h", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(next_link(value), next, "{value}");
        }
    }
}
