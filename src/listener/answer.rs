//! Every response of the listener: status, headers and JSON body.

use serde_json::json;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

/// The outcome of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its job is on disk.
    Queued,
    Duplicate,
    /// Not a merge, or filtered out.
    Skip,
    /// A skip because the delivery contradicts itself, so a merge may be lost.
    Contradictory,
    Pong,
    /// A missing or wrong signature: the same response for both, so that clients cannot tell which.
    Unauthorized,
    NotAllowed,
    Malformed,
    TooLarge,
    UnsupportedMediaType,
    /// Nothing was accepted.
    Unavailable,
}

impl Verdict {
    /// Its name in the log and the metrics, its status, and, unless that is an error, the `decision` of its body.
    const fn row(self) -> (&'static str, u16, Option<&'static str>) {
        match self {
            Verdict::Queued => ("queued", 202, Some("build")),
            Verdict::Duplicate => ("duplicate", 200, Some("duplicate")),
            Verdict::Skip => ("skip", 200, Some("skip")),
            Verdict::Contradictory => ("contradictory", 200, Some("skip")),
            Verdict::Pong => ("pong", 200, Some("pong")),
            Verdict::Unauthorized => ("unauthorized", 401, None),
            Verdict::NotAllowed => ("not_allowed", 403, None),
            Verdict::Malformed => ("malformed", 400, None),
            Verdict::TooLarge => ("too_large", 413, None),
            Verdict::UnsupportedMediaType => ("unsupported_media_type", 415, None),
            Verdict::Unavailable => ("unavailable", 503, None),
        }
    }
}

/// The response to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub verdict: Verdict,
    pub job: Option<i64>,
    /// For the sender, so it contains nothing about this machine.
    pub why: String,
    /// For the log only.
    pub log: Option<String>,
}

impl Answer {
    pub fn new(verdict: Verdict, why: impl Into<String>) -> Answer {
        Answer { verdict, job: None, why: why.into(), log: None }
    }

    pub fn of_job(verdict: Verdict, job: i64, why: impl Into<String>) -> Answer {
        Answer { job: Some(job), ..Answer::new(verdict, why) }
    }

    pub fn unauthorized() -> Answer {
        Answer::new(Verdict::Unauthorized, "the signature is missing or wrong")
    }

    pub(super) fn too_large() -> Answer {
        Answer::new(Verdict::TooLarge, "the body is too large")
    }

    pub fn label(&self) -> &'static str {
        self.verdict.row().0
    }

    pub fn status(&self) -> u16 {
        self.verdict.row().1
    }

    pub fn reply(&self) -> Reply {
        let (_, status, decision) = self.verdict.row();
        let Some(decision) = decision else {
            let reply = Reply::error(status, &self.why);
            return if status == 503 { reply.retry_after(RETRY_AFTER) } else { reply };
        };
        let mut body = serde_json::Map::from_iter([("decision".to_owned(), json!(decision))]);
        body.extend(self.job.map(|job| ("job".to_owned(), json!(job))));
        if self.verdict != Verdict::Pong {
            body.insert("reason".to_owned(), json!(self.why));
        }
        Reply::json(status, &body.into())
    }
}

/// Seconds until a client that got 503 may retry.
const RETRY_AFTER: u32 = 30;

/// Why the gate itself rejects or drops a request: invalid HTTP, or an exceeded limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not HTTP, or with ambiguous framing.
    BadRequest,
    NotFound,
    MethodNotAllowed(&'static str),
    Timeout,
    BodyTooLarge,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// The head exceeds its limit of bytes or headers.
    HeadTooLarge,
    /// The byte budget is exhausted, or no response came in time.
    Overloaded,
    Version,
    /// Dropped without a response: the oldest unfinished connection, to admit a new one.
    Evicted,
}

impl Refusal {
    pub fn label(self) -> &'static str {
        match self {
            Refusal::BadRequest => "bad_request",
            Refusal::NotFound => "not_found",
            Refusal::MethodNotAllowed(_) => "method_not_allowed",
            Refusal::Timeout => "timeout",
            Refusal::BodyTooLarge => "body_too_large",
            Refusal::Expectation => "expectation",
            Refusal::HeadTooLarge => "head_too_large",
            Refusal::Overloaded => "overloaded",
            Refusal::Version => "version",
            Refusal::Evicted => "evicted",
        }
    }

    /// The response, if one is sent.
    pub fn reply(self) -> Reply {
        match self {
            Refusal::BadRequest => Reply::error(400, "malformed HTTP request"),
            Refusal::NotFound => Reply::error(404, "not found; deliveries go to POST /webhook"),
            Refusal::MethodNotAllowed(allow) => {
                Reply { allow: Some(allow), ..Reply::error(405, "method not allowed") }
            }
            Refusal::Timeout => Reply::error(408, "the request took too long"),
            Refusal::BodyTooLarge => Answer::too_large().reply(),
            Refusal::Expectation => Reply::error(417, "only 100-continue is supported"),
            Refusal::HeadTooLarge => Reply::error(431, "the headers are too large"),
            Refusal::Overloaded | Refusal::Evicted => {
                Reply::error(503, "the server is busy").retry_after(RETRY_AFTER)
            }
            Refusal::Version => Reply::error(505, "only HTTP/1.0 and HTTP/1.1 are supported"),
        }
    }
}

/// A raw HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    /// The value of `Allow` for 405.
    pub allow: Option<&'static str>,
    /// The value of `Retry-After` in seconds for 503.
    pub retry_after: Option<u32>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: &serde_json::Value) -> Reply {
        let mut body = body.to_string().into_bytes();
        body.push(b'\n');
        Reply { body, ..Reply::empty(status) }
    }

    pub(super) fn empty(status: u16) -> Reply {
        Reply { status, content_type: "application/json", allow: None, retry_after: None, body: Vec::new() }
    }

    pub(super) fn response(&self) -> Response<&[u8]> {
        let retry_after = self.retry_after.map(|seconds| seconds.to_string());
        let headers = [
            Some(("Content-Type", self.content_type)),
            self.allow.map(|allow| ("Allow", allow)),
            retry_after.as_deref().map(|seconds| ("Retry-After", seconds)),
        ];
        // All header names and values are ASCII constants, so none is dropped here.
        let headers = headers.into_iter().flatten();
        let headers = headers.filter_map(|(name, value)| Header::from_bytes(name, value).ok()).collect();
        Response::new(StatusCode(self.status), headers, self.body.as_slice(), Some(self.body.len()), None)
            .with_chunked_threshold(usize::MAX)
    }

    /// The bytes that tiny_http would send, for responses without it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = self.response().raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None);
        bytes
    }

    /// The response when the request handler panicked.
    pub(super) fn panicked() -> Reply {
        Reply::error(500, "this request could not be answered")
    }

    /// `{"error": message}`.
    pub fn error(status: u16, message: &str) -> Reply {
        Reply::json(status, &json!({ "error": message }))
    }

    /// The same reply with `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Reply {
        self.retry_after = Some(seconds);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_documented_status_and_body() {
        let of_job = |verdict| Answer::of_job(verdict, 17, "x");
        let table = [
            (of_job(Verdict::Queued), 202, r#"{"decision":"build","job":17,"reason":"x"}"#),
            (of_job(Verdict::Duplicate), 200, r#"{"decision":"duplicate","job":17,"reason":"x"}"#),
            (Answer::new(Verdict::Skip, "x"), 200, r#"{"decision":"skip","reason":"x"}"#),
            (Answer::new(Verdict::Pong, "x"), 200, r#"{"decision":"pong"}"#),
            (Answer::unauthorized(), 401, r#"{"error":"the signature is missing or wrong"}"#),
            (Answer::new(Verdict::NotAllowed, "x"), 403, r#"{"error":"x"}"#),
            (Answer::new(Verdict::Malformed, "x"), 400, r#"{"error":"x"}"#),
            (Answer::too_large(), 413, r#"{"error":"the body is too large"}"#),
            (Answer::new(Verdict::UnsupportedMediaType, "x"), 415, r#"{"error":"x"}"#),
            (Answer::new(Verdict::Unavailable, "x"), 503, r#"{"error":"x"}"#),
        ];
        for (answer, status, body) in table {
            let reply = answer.reply();
            assert_eq!((reply.status, String::from_utf8_lossy(&reply.body).trim()), (status, body));
            assert_eq!(reply.retry_after.is_some(), status == 503, "{answer:?}");
        }
    }
}
