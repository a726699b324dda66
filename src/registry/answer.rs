//! What a registry's answer means.

use serde_json::Value;
use ureq::http::{HeaderMap, header};

use crate::http::{retry, shown};
use crate::model::Digest;
use crate::process::has_sign;

use super::error::{RegistryError, RegistryErrorKind as Kind};

/// An HTTP answer, with what an error about it names.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) host: String,
    pub(super) at: String,
}

impl Reply {
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
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
        self.error(Kind::Denied, &format!("access denied: {}", self.message()))
    }

    pub(super) fn is_web_page(&self) -> bool {
        self.header(header::CONTENT_TYPE).is_some_and(|v| v.trim_start().starts_with("text/html"))
    }

    /// What Go's and nginx's TLS servers answer to plain HTTP.
    pub(super) fn wants_tls(&self) -> bool {
        const WANTS_TLS: &str = "http request to an https server|plain http request was sent to https port";
        self.status == 400 && has_sign(&String::from_utf8_lossy(&self.body), WANTS_TLS)
    }

    pub(super) fn message(&self) -> String {
        let text = match serde_json::from_slice::<Value>(&self.body) {
            Ok(body) => json_message(&body),
            Err(_) => text_message(&String::from_utf8_lossy(&self.body)),
        };
        text.map_or_else(|| format!("HTTP status {}", self.status), |text| shown(&text))
    }

    /// Whether one of the errors has this code (distribution spec, "Error Codes").
    pub(super) fn has_code(&self, code: &str) -> bool {
        let body = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        body["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["code"] == code))
    }

    /// The error for a status other than success.
    pub(super) fn failure(&self) -> RegistryError {
        let (status, detail) = (self.status, self.message());
        match status {
            403 => self.denied(),
            404 => self.error(Kind::Rejected { status }, &format!("not found: {detail}")),
            500..=599 if self.is_full() => {
                self.error(Kind::NoSpace, &format!("the registry has no space left: {detail}"))
            }
            408 | 429 | 500..=599 => {
                let name = if status == 429 { "429, too many requests" } else { &format!("status {status}") };
                let retry_after = self.header(header::RETRY_AFTER);
                let retry_after = retry_after.and_then(|v| retry::retry_after(v, jiff::Timestamp::now()));
                self.error(Kind::Server { status, retry_after }, &format!("{name}: {detail}"))
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
        const FULL: &str = r#"no space left on device|disk quota exceeded|"err":28}|"err":122}"#;
        self.status == 507 || has_sign(&String::from_utf8_lossy(&self.body), FULL)
    }
}

/// The `errors` of the distribution spec, also incomplete ones (Artifactory's have no code), or the message of a token
/// server (OAuth 2, Docker Hub, Quay).
fn json_message(body: &Value) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    if let Some(errors) = body["errors"].as_array().filter(|errors| !errors.is_empty()) {
        let said = errors.iter().take(3).filter_map(|error| {
            let parts: Vec<String> =
                ["code", "message"].iter().filter_map(|name| text(&error[*name])).collect();
            let detail = error["detail"].as_str().filter(|detail| !detail.is_empty());
            let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
            Some(format!("{}{detail}", parts.join(": "))).filter(|said| !said.is_empty())
        });
        return Some(said.collect::<Vec<_>>().join("; ")).filter(|said| !said.is_empty());
    }
    ["error_description", "message", "details", "detail", "error"].iter().find_map(|name| text(&body[*name]))
}

/// The title of a web page, or the start of a text.
fn text_message(text: &str) -> Option<String> {
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
        let (headers, body) = (HeaderMap::new(), body.as_bytes().to_vec());
        Reply { status, headers, body, host: String::new(), at: String::new() }.message()
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
