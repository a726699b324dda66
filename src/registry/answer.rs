//! What a registry's answer means.

use std::ops::Deref;
use std::time::Duration;

use serde_json::Value;
use ureq::http::header;

use crate::http::{retry, shown};
use crate::model::Digest;

use super::error::{RegistryError, RegistryErrorKind as Kind};

/// An HTTP answer, with what an error about it names.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) http: crate::http::Answer,
    pub(super) host: String,
    pub(super) at: String,
}

impl Deref for Answer {
    type Target = crate::http::Answer;
    fn deref(&self) -> &crate::http::Answer {
        &self.http
    }
}

impl Answer {
    fn retry_after(&self) -> Option<Duration> {
        self.header(header::RETRY_AFTER).and_then(|v| retry::retry_after(v, jiff::Timestamp::now()))
    }

    pub(super) fn error(&self, kind: Kind, detail: &str) -> RegistryError {
        RegistryError::new(kind, &self.host, &self.at, detail)
    }

    pub(super) fn protocol(&self, detail: &str) -> RegistryError {
        self.error(Kind::Protocol, detail)
    }

    pub(super) fn same(&self, expected: &Digest, found: &Digest) -> Result<(), RegistryError> {
        if expected == found {
            return Ok(());
        }
        Err(self.error(Kind::DigestMismatch, &format!("the digest is {found}, not {expected}")))
    }

    pub(super) fn denied(&self) -> RegistryError {
        self.error(Kind::Denied, &format!("access denied: {}", self.said()))
    }

    pub(super) fn is_web_page(&self) -> bool {
        self.header(header::CONTENT_TYPE).is_some_and(|v| v.trim_start().starts_with("text/html"))
    }

    /// What Go's and nginx's TLS servers answer to plain HTTP.
    pub(super) fn wants_tls(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        self.status == 400
            && ["HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port"]
                .iter()
                .any(|words| text.contains(words))
    }

    /// The registry's own error text.
    pub(super) fn said(&self) -> String {
        let text = match serde_json::from_slice::<Value>(&self.body) {
            Ok(body) => said_in_json(&body),
            Err(_) => said_in_text(&String::from_utf8_lossy(&self.body)),
        };
        text.map_or_else(|| format!("HTTP status {}", self.status), |text| shown(&text))
    }

    /// Whether one of the errors has this code (distribution spec, "Error Codes").
    pub(super) fn has_code(&self, code: &str) -> bool {
        let body = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        let errors = body.get("errors").and_then(Value::as_array);
        errors
            .is_some_and(|errors| errors.iter().any(|e| e.get("code").and_then(Value::as_str) == Some(code)))
    }

    /// The error for a status other than success.
    pub(super) fn failure(&self) -> RegistryError {
        let (status, detail) = (self.status, self.said());
        match status {
            403 => self.denied(),
            404 => self.error(Kind::Rejected { status }, &format!("not found: {detail}")),
            500..=599 if self.is_full() => {
                self.error(Kind::NoSpace, &format!("the registry has no space left: {detail}"))
            }
            408 | 429 | 500..=599 => {
                let name = if status == 429 {
                    "429, too many requests".to_owned()
                } else {
                    format!("status {status}")
                };
                let kind = Kind::Server { status, retry_after: self.retry_after() };
                self.error(kind, &format!("{name}: {detail}"))
            }
            300..=399 => self.protocol(&format!(
                "status {status}: swanci follows redirects only for reads, not to {}",
                shown(self.header(header::LOCATION).unwrap_or("nowhere"))
            )),
            400..=499 => self.error(Kind::Rejected { status }, &format!("status {status}: {detail}")),
            _ => self.protocol(&format!("unexpected status {status}")),
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

/// The `errors` of the distribution spec, also incomplete ones (Artifactory's have no code), or the message of a token
/// server (OAuth 2, Docker Hub, Quay).
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
    use ureq::http::HeaderMap;

    use super::*;

    fn said(status: u16, body: &str) -> String {
        let http = crate::http::Answer { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() };
        Answer { http, host: String::new(), at: String::new() }.said()
    }

    #[test]
    fn error_texts_are_read_in_each_registrys_form() {
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
