//! One HTTP exchange: every time bounded, every size bounded, no redirect followed.

use std::time::Duration;

use ureq::http::{self, HeaderMap, header};
use url::{Host, Url};

use super::error::HookError;
use super::shown;

const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(20);
const EXCHANGE: Duration = Duration::from_secs(30);
/// A page of a hundred deliveries has about 40 kB.
const LARGEST: u64 = 8 << 20;

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A server and the agent that talks to it.
pub(super) struct Server {
    /// Ends in `/`.
    pub(super) base: Url,
    /// For messages.
    pub(super) host: String,
    agent: ureq::Agent,
}

impl Server {
    /// A server under this address. Plain http is taken where `plain` says so, and on loopback.
    pub(super) fn new(address: &str, plain: bool) -> Result<Server, HookError> {
        let wrong = |detail: &str| HookError::Settings(format!("`{}` {detail}", shown(address)));
        let mut base = Url::parse(address).map_err(|e| wrong(&format!("is no URL: {e}")))?;
        let Some(host) = base.host() else { return Err(wrong("names no host")) };
        let loopback = is_loopback(&host);
        match base.scheme() {
            "https" => {}
            "http" if plain || loopback => {}
            "http" => return Err(wrong("would send the token in plain text; use https")),
            _ => return Err(wrong("is neither https nor http")),
        }
        if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
            return Err(wrong("must be a plain address, without user, query or fragment"));
        }
        let host = match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // A proxy of the environment is for the world outside.
        let proxy = if loopback { None } else { ureq::Proxy::try_from_env() };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .https_only(base.scheme() == "https")
            .tls_config(
                ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build(),
            )
            .proxy(proxy)
            .max_redirects(0)
            .user_agent(concat!("swanci/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .timeout_global(Some(EXCHANGE))
            .build()
            .new_agent();
        Ok(Server { base, host, agent })
    }

    /// Sends one request; every status is an answer.
    pub(super) fn exchange(
        &self,
        request: http::request::Builder,
        body: Option<&[u8]>,
        at: &str,
    ) -> Result<Answer, HookError> {
        let protocol =
            |detail: String| HookError::Protocol { host: self.host.clone(), at: at.to_owned(), detail };
        let failed = |error: ureq::Error| self.transport(at, &error);
        let request = match body {
            Some([]) => request.body(&[][..]).map(|request| self.agent.run(request)),
            Some(body) => request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body)
                .map(|request| self.agent.run(request)),
            None => request.body(()).map(|request| self.agent.run(request)),
        };
        let response = request.map_err(|e| protocol(e.to_string()))?.map_err(failed)?;
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(LARGEST).read_to_vec().map_err(failed)?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    fn transport(&self, at: &str, error: &ureq::Error) -> HookError {
        let (host, at) = (self.host.clone(), at.to_owned());
        #[expect(clippy::wildcard_enum_match_arm, reason = "ureq's errors may grow; the rest is the network")]
        match error {
            ureq::Error::BodyExceedsLimit(limit) => {
                HookError::Protocol { host, at, detail: format!("more than {limit} bytes") }
            }
            ureq::Error::HostNotFound => {
                HookError::Unreachable { host, at, detail: "the name cannot be resolved".to_owned() }
            }
            ureq::Error::Timeout(which) => {
                HookError::Unreachable { host, at, detail: format!("timed out ({which})") }
            }
            ureq::Error::Io(e) => HookError::Unreachable { host, at, detail: e.to_string() },
            other => HookError::Unreachable { host, at, detail: other.to_string() },
        }
    }
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_travels_in_plain_text() {
        for wrong in ["http://ghe.example.org/api/v3", "http://127.0.0.1.example.org", "ftp://x", "x"] {
            assert!(matches!(Server::new(wrong, false), Err(HookError::Settings(_))), "{wrong}");
        }
        assert_eq!(Server::new("http://127.0.0.1:8000", false).unwrap().host, "127.0.0.1:8000");
        let base = Server::new("https://ghe.example.org/api/v3", false).unwrap().base;
        assert_eq!(base.as_str(), "https://ghe.example.org/api/v3/");
    }
}
