//! One HTTP exchange with a forge's API; no redirect is followed.

use std::time::Duration;

use ureq::http::{self, header};
use url::Url;

use super::error::{ApiError, Problem};
use crate::http::{self as client, Answer, Client, HttpErrorKind, Timeouts, shown};
use crate::model::is_loopback;

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(20),
    exchange: Duration::from_secs(30),
};
/// A page of a hundred deliveries has about 40 kB.
const LARGEST: u64 = 8 << 20;

pub(crate) struct Server {
    /// Ends in `/`.
    pub(crate) base: Url,
    /// For messages.
    pub(crate) host: String,
    client: Client,
}

impl Server {
    /// A server at this address. Plain http is accepted if `plain` is set, and on loopback. Trusts the authorities in
    /// `ca_pem` in addition to the system's.
    pub(crate) fn new(address: &str, plain: bool, ca_pem: Option<&[u8]>) -> Result<Server, ApiError> {
        let wrong = |detail: &str| ApiError::settings(format!("`{}` {detail}", shown(address)));
        let mut base = Url::parse(address).map_err(|e| wrong(&format!("is not a URL: {e}")))?;
        let Some(host) = base.host_str() else { return Err(wrong("names no host")) };
        let loopback = is_loopback(host);
        match base.scheme() {
            "https" => {}
            "http" if plain || loopback => {}
            "http" => return Err(wrong("would send the token in plain text; use https")),
            _ => return Err(wrong("is neither https nor http")),
        }
        if base.query().is_some() || base.fragment().is_some() || !base.username().is_empty() {
            return Err(wrong("must be a plain address, without user, query or fragment"));
        }
        let host = client::server_of(&base);
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let client = Client::new(ca_pem, TIMEOUTS).map_err(ApiError::settings)?;
        Ok(Server { base, host, client })
    }

    /// Sends one request; any status is `Ok`.
    pub(crate) fn exchange(
        &self,
        request: http::request::Builder,
        url: &Url,
        body: Option<&[u8]>,
        at: &str,
    ) -> Result<Answer, ApiError> {
        let request = match body {
            Some([]) | None => request,
            Some(_) => request.header(header::CONTENT_TYPE, "application/json"),
        };
        self.client.exchange(request, url, body, LARGEST).map_err(|error| {
            let problem = match error.kind {
                HttpErrorKind::Protocol => Problem::Protocol,
                HttpErrorKind::NoConnection | HttpErrorKind::Broken | HttpErrorKind::Tls(_) => {
                    Problem::Unreachable
                }
            };
            self.error(problem, at, error.detail)
        })
    }

    pub(crate) fn error(&self, problem: Problem, at: &str, detail: impl Into<String>) -> ApiError {
        ApiError { host: self.host.clone(), at: at.to_owned(), ..ApiError::without_host(problem, detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_sent_in_plain_text() {
        for wrong in ["http://ghe.example.org/api/v3", "http://127.0.0.1.example.org", "ftp://x", "x"] {
            assert!(
                matches!(Server::new(wrong, false, None), Err(e) if e.problem == Problem::Settings),
                "{wrong}"
            );
        }
        assert_eq!(Server::new("http://127.0.0.1:8000", false, None).unwrap().host, "127.0.0.1:8000");
        let base = Server::new("https://ghe.example.org/api/v3", false, None).unwrap().base;
        assert_eq!(base.as_str(), "https://ghe.example.org/api/v3/");
    }
}
