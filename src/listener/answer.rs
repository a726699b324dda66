//! Every answer that the listener gives: status, headers and JSON body, in one place.

use serde_json::json;
use tiny_http::{HTTPVersion, Header, Response, StatusCode};

/// What a delivery is answered with. The table is CONTRACT's, under `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A merge to build; its job is on disk.
    Queued {
        /// The job's number.
        job: i64,
        /// Why it is built.
        reason: String,
    },
    /// The same merge again.
    Duplicate {
        /// The job that it already has.
        job: i64,
        /// Why nothing new was queued.
        reason: String,
    },
    /// Not a merge, or filtered out.
    Skip {
        /// Why.
        reason: String,
    },
    /// The forge's `ping`.
    Pong,
    /// No signature or a wrong one: the same bytes for both, so that nobody learns which.
    Unauthorized,
    /// The repository is not on the allow-list.
    NotAllowed {
        /// Which repository.
        reason: String,
    },
    /// Malformed JSON or payload.
    Malformed {
        /// What is wrong, with the JSON path.
        message: String,
    },
    /// The body is over the cap.
    TooLarge,
    /// Neither JSON nor GitHub's form encoding.
    UnsupportedMediaType,
    /// The queue cannot be written: nothing was accepted.
    Unavailable {
        /// What is wrong, as far as a stranger may know.
        reason: String,
    },
}

impl Answer {
    /// The label of this answer in the metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Answer::Queued { .. } => "queued",
            Answer::Duplicate { .. } => "duplicate",
            Answer::Skip { .. } => "skip",
            Answer::Pong => "pong",
            Answer::Unauthorized => "unauthorized",
            Answer::NotAllowed { .. } => "not_allowed",
            Answer::Malformed { .. } => "malformed",
            Answer::TooLarge => "too_large",
            Answer::UnsupportedMediaType => "unsupported_media_type",
            Answer::Unavailable { .. } => "unavailable",
        }
    }

    /// Why, for the log.
    pub fn why(&self) -> &str {
        match self {
            Answer::Queued { reason, .. }
            | Answer::Duplicate { reason, .. }
            | Answer::Skip { reason }
            | Answer::NotAllowed { reason }
            | Answer::Malformed { message: reason }
            | Answer::Unavailable { reason } => reason,
            Answer::Pong => "the webhook works",
            Answer::Unauthorized => UNAUTHORIZED,
            Answer::TooLarge => TOO_LARGE,
            Answer::UnsupportedMediaType => UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// The job of a merge.
    pub fn job(&self) -> Option<i64> {
        match self {
            Answer::Queued { job, .. } | Answer::Duplicate { job, .. } => Some(*job),
            Answer::Skip { .. }
            | Answer::NotAllowed { .. }
            | Answer::Malformed { .. }
            | Answer::Unavailable { .. }
            | Answer::Pong
            | Answer::Unauthorized
            | Answer::TooLarge
            | Answer::UnsupportedMediaType => None,
        }
    }

    /// The answer as it goes over the wire.
    pub fn reply(&self) -> Reply {
        match self {
            Answer::Queued { job, reason } => {
                Reply::json(202, &json!({"decision": "build", "job": job, "reason": reason}))
            }
            Answer::Duplicate { job, reason } => {
                Reply::json(200, &json!({"decision": "duplicate", "job": job, "reason": reason}))
            }
            Answer::Skip { reason } => Reply::json(200, &json!({"decision": "skip", "reason": reason})),
            Answer::Pong => Reply::json(200, &json!({"decision": "pong"})),
            Answer::Unauthorized => Reply::error(401, UNAUTHORIZED),
            Answer::NotAllowed { reason } => Reply::error(403, reason),
            Answer::Malformed { message } => Reply::error(400, message),
            Answer::TooLarge => Reply::error(413, TOO_LARGE),
            Answer::UnsupportedMediaType => Reply::error(415, UNSUPPORTED_MEDIA_TYPE),
            Answer::Unavailable { reason } => Reply::error(503, reason).retry_after(RETRY_AFTER),
        }
    }
}

const UNAUTHORIZED: &str = "the signature is missing or wrong";
const TOO_LARGE: &str = "the body is too large";
const UNSUPPORTED_MEDIA_TYPE: &str =
    "the content type is neither application/json nor application/x-www-form-urlencoded";

/// Seconds after which a client that got 503 may try again.
const RETRY_AFTER: u32 = 30;

/// Why the gate answers a request itself, or drops it: the request is not one that HTTP allows, or the limits say no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not HTTP, or framed in a way that two readers could read differently.
    BadRequest,
    /// Nothing by that name.
    NotFound,
    /// The path is known, the method is not for it.
    MethodNotAllowed(&'static str),
    /// The head or the body took too long.
    Timeout,
    /// The body is over the cap.
    BodyTooLarge,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// The head is over its cap of bytes or headers.
    HeadTooLarge,
    /// The byte budget is spent, or no answer came in time.
    Overloaded,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// Dropped without an answer: the oldest unfinished reader, when room was needed.
    Evicted,
}

impl Refusal {
    /// The label of this refusal in the metrics.
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

    /// What the client is told, where it is told anything.
    pub fn reply(self) -> Reply {
        match self {
            Refusal::BadRequest => Reply::error(400, "malformed HTTP request"),
            Refusal::NotFound => Reply::error(404, "not found; deliveries go to POST /webhook"),
            Refusal::MethodNotAllowed(allow) => {
                Reply { allow: Some(allow), ..Reply::error(405, "method not allowed") }
            }
            Refusal::Timeout => Reply::error(408, "the request took too long"),
            Refusal::BodyTooLarge => Answer::TooLarge.reply(),
            Refusal::Expectation => Reply::error(417, "only 100-continue is supported"),
            Refusal::HeadTooLarge => Reply::error(431, "the headers are too large"),
            Refusal::Overloaded | Refusal::Evicted => {
                Reply::error(503, "the server is busy").retry_after(RETRY_AFTER)
            }
            Refusal::Version => Reply::error(505, "only HTTP/1.0 and HTTP/1.1 are supported"),
        }
    }
}

/// An answer as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The value of `Allow`, with 405.
    pub allow: Option<&'static str>,
    /// The value of `Retry-After` in seconds, with 503.
    pub retry_after: Option<u32>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A JSON document.
    pub fn json(status: u16, body: &serde_json::Value) -> Reply {
        let mut body = body.to_string().into_bytes();
        body.push(b'\n');
        Reply { body, ..Reply::empty(status) }
    }

    /// A reply without a body.
    pub(super) fn empty(status: u16) -> Reply {
        Reply { status, content_type: "application/json", allow: None, retry_after: None, body: Vec::new() }
    }

    /// As tiny_http sends it.
    pub(super) fn response(&self) -> Response<&[u8]> {
        let retry_after = self.retry_after.map(|seconds| seconds.to_string());
        let headers = [
            Some(("Content-Type", self.content_type)),
            self.allow.map(|allow| ("Allow", allow)),
            retry_after.as_deref().map(|seconds| ("Retry-After", seconds)),
        ];
        // Header names and values are swanci's own and ASCII, so none is lost here.
        let headers = headers.into_iter().flatten();
        let headers = headers.filter_map(|(name, value)| Header::from_bytes(name, value).ok()).collect();
        Response::new(StatusCode(self.status), headers, self.body.as_slice(), Some(self.body.len()), None)
            .with_chunked_threshold(usize::MAX)
    }

    /// The same bytes as tiny_http would send, for what is answered without it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Writing to memory does not fail.
        let _ = self.response().raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None);
        bytes
    }

    /// The answer to a request on which the program itself failed.
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
    fn every_answer_has_the_status_that_the_contract_pins() {
        let text = || "x".to_owned();
        let table = [
            (
                Answer::Queued { job: 17, reason: text() },
                202,
                r#"{"decision":"build","job":17,"reason":"x"}"#,
            ),
            (
                Answer::Duplicate { job: 17, reason: text() },
                200,
                r#"{"decision":"duplicate","job":17,"reason":"x"}"#,
            ),
            (Answer::Skip { reason: text() }, 200, r#"{"decision":"skip","reason":"x"}"#),
            (Answer::Pong, 200, r#"{"decision":"pong"}"#),
            (Answer::Unauthorized, 401, r#"{"error":"the signature is missing or wrong"}"#),
            (Answer::NotAllowed { reason: text() }, 403, r#"{"error":"x"}"#),
            (Answer::Malformed { message: text() }, 400, r#"{"error":"x"}"#),
            (Answer::TooLarge, 413, r#"{"error":"the body is too large"}"#),
            (Answer::Unavailable { reason: text() }, 503, r#"{"error":"x"}"#),
        ];
        for (answer, status, body) in table {
            let reply = answer.reply();
            assert_eq!((reply.status, String::from_utf8_lossy(&reply.body).trim()), (status, body));
            assert_eq!(reply.retry_after.is_some(), status == 503, "{answer:?}");
        }
        assert_eq!(Answer::UnsupportedMediaType.reply().status, 415);
    }
}
