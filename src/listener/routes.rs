//! Which path and method leads where, and what is asked of a delivery before its meaning is.
//!
//! The order is CONTRACT's: path and method, size, content type, signature; JSON, `ping`, repository and verdict are
//! the [`App`]'s.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::answer::{Answer, Refusal, Reply};
use super::metrics::Metrics;
use super::service::{Head, Headers, Judged, Service};
use crate::queue::NewJob;

/// What stands behind the routes: signature, meaning and queue. The listener knows none of them.
pub trait App: Send + Sync {
    /// The merge to build that a delivery announces; `Err` is the answer to any other. Only the delivery's own bytes
    /// are asked: a gate's thread calls it, so it waits for nothing.
    fn judge(&self, delivery: RawDelivery<'_>) -> Result<Merge, Answer>;

    /// Puts a merge on disk. Called on a worker's thread; it may block for an fsync.
    fn accept(&self, merge: Merge) -> Answer;

    /// Whether a delivery could be accepted now; `Err` says why not.
    fn ready(&self) -> Result<(), String>;
}

/// A merge that an authenticated delivery announced.
#[derive(Debug)]
pub struct Merge {
    /// What is to be queued.
    pub job: NewJob,
    /// Why it is built.
    pub reason: String,
}

/// How the body of a delivery is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentKind {
    /// `application/json`: the body is the payload.
    Json,
    /// `application/x-www-form-urlencoded`: the payload is the field `payload`.
    Form,
}

/// A delivery as it came: nothing in it is authenticated yet.
#[derive(Debug, Clone, Copy)]
pub struct RawDelivery<'a> {
    /// The raw bytes that the signature is over.
    pub body: &'a [u8],
    /// How they are encoded.
    pub content: ContentKind,
    /// `X-GitHub-Event`.
    pub event: Option<&'a str>,
    /// `X-GitHub-Delivery`; not covered by the signature.
    pub delivery_id: Option<&'a str>,
    /// `X-Hub-Signature-256`; there is always one, and it is not empty.
    pub signature: &'a str,
}

/// The headers of a delivery that the routes read; no other is kept.
pub(crate) const READ: [&str; 4] =
    ["content-type", "x-github-event", "x-github-delivery", "x-hub-signature-256"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Webhook,
    Health,
    Ready,
}

impl Route {
    fn find(method: &str, path: &str) -> Result<Route, Refusal> {
        let (route, allow) = match path {
            // The second is the path of the original's CI server.
            "/webhook" | "/ciserver/repository/merged" => (Route::Webhook, "POST"),
            "/healthz" => (Route::Health, "GET, HEAD"),
            "/readyz" => (Route::Ready, "GET, HEAD"),
            _ => return Err(Refusal::NotFound),
        };
        if allow.split(", ").any(|allowed| allowed == method) {
            Ok(route)
        } else {
            Err(Refusal::MethodNotAllowed(allow))
        }
    }
}

/// The routes of `serve`.
pub(crate) struct Routes {
    app: Arc<dyn App>,
    metrics: Metrics,
}

impl Routes {
    pub(crate) fn new(app: Arc<dyn App>, metrics: Metrics) -> Routes {
        Routes { app, metrics }
    }

    fn judge_delivery(&self, head: &Head<'_>, body: &[u8]) -> Judged {
        let began = Instant::now();
        let judged = delivery_head(head).and_then(|(content, signature)| {
            self.app.judge(RawDelivery {
                body,
                content,
                event: head.headers.get("x-github-event"),
                delivery_id: head.headers.get("x-github-delivery"),
                signature,
            })
        });
        match judged {
            Err(answer) => Judged::Answered(acknowledge(&self.metrics, began, &answer)),
            Ok(merge) => {
                let (app, metrics) = (self.app.clone(), self.metrics.clone());
                Judged::Waits(Box::new(move || acknowledge(&metrics, began, &app.accept(merge))))
            }
        }
    }
}

fn acknowledge(metrics: &Metrics, began: Instant, answer: &Answer) -> Reply {
    metrics.ack(began.elapsed());
    count(metrics, answer)
}

fn count(metrics: &Metrics, answer: &Answer) -> Reply {
    metrics.delivery(answer);
    answer.reply()
}

/// What a delivery's head says, or the answer that it earns by itself.
fn delivery_head<'a>(head: &Head<'a>) -> Result<(ContentKind, &'a str), Answer> {
    if head.too_large {
        return Err(Answer::TooLarge);
    }
    let content = content_kind(head.headers).ok_or(Answer::UnsupportedMediaType)?;
    let signature = head.headers.get("x-hub-signature-256").filter(|value| !value.is_empty());
    Ok((content, signature.ok_or(Answer::Unauthorized)?))
}

fn content_kind(headers: &dyn Headers) -> Option<ContentKind> {
    let essence = headers.get("content-type")?.split(';').next()?.trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Some(ContentKind::Json)
    } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Some(ContentKind::Form)
    } else {
        None
    }
}

impl Service for Routes {
    fn check(&self, head: &Head<'_>) -> Result<(), Reply> {
        match Route::find(head.method, head.path) {
            Err(refusal) => {
                self.metrics.refused(refusal);
                Err(refusal.reply())
            }
            Ok(Route::Webhook) => {
                delivery_head(head).map(drop).map_err(|answer| count(&self.metrics, &answer))
            }
            Ok(Route::Health | Route::Ready) if head.too_large => Err(Refusal::BodyTooLarge.reply()),
            Ok(Route::Health | Route::Ready) => Ok(()),
        }
    }

    fn judge(&self, head: &Head<'_>, body: &[u8]) -> Judged {
        match Route::find(head.method, head.path) {
            Err(refusal) => Judged::Answered(refusal.reply()),
            Ok(Route::Webhook) => self.judge_delivery(head, body),
            Ok(Route::Health) => Judged::Waits(Box::new(Reply::alive)),
            Ok(Route::Ready) => {
                let app = self.app.clone();
                Judged::Waits(Box::new(move || match app.ready() {
                    Ok(()) => Reply::json(200, &json!({"status": "ready"})),
                    Err(reason) => Reply::error(503, &reason),
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pairs(Vec<(&'static str, &'static str)>);

    impl Headers for Pairs {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
        }
    }

    fn head_answer(headers: Vec<(&'static str, &'static str)>, too_large: bool) -> Option<&'static str> {
        let headers = Pairs(headers);
        let head = Head { method: "POST", path: "/webhook", headers: &headers, too_large };
        delivery_head(&head).err().map(|answer| answer.label())
    }

    #[test]
    fn a_method_that_is_not_for_a_path_names_those_that_are() {
        assert_eq!(Route::find("POST", "/webhook"), Ok(Route::Webhook));
        assert_eq!(Route::find("POST", "/ciserver/repository/merged"), Ok(Route::Webhook));
        assert_eq!(Route::find("HEAD", "/healthz"), Ok(Route::Health));
        assert_eq!(Route::find("GET", "/webhook"), Err(Refusal::MethodNotAllowed("POST")));
        assert_eq!(Route::find("post", "/webhook"), Err(Refusal::MethodNotAllowed("POST")));
        assert_eq!(Route::find("DELETE", "/readyz"), Err(Refusal::MethodNotAllowed("GET, HEAD")));
        assert_eq!(Route::find("GET", "/webhook/"), Err(Refusal::NotFound));
    }

    #[test]
    fn size_is_asked_before_content_type_and_content_type_before_the_signature() {
        assert_eq!(head_answer(vec![], true), Some("too_large"));
        assert_eq!(head_answer(vec![("Content-Type", "text/plain")], false), Some("unsupported_media_type"));
        assert_eq!(head_answer(vec![], false), Some("unsupported_media_type"));
        let json = ("Content-Type", "Application/JSON; charset=utf-8");
        assert_eq!(head_answer(vec![json], false), Some("unauthorized"));
        assert_eq!(head_answer(vec![json, ("X-Hub-Signature-256", "")], false), Some("unauthorized"));
        assert_eq!(head_answer(vec![json, ("X-Hub-Signature", "sha1=00")], false), Some("unauthorized"));
        assert_eq!(head_answer(vec![json, ("X-Hub-Signature-256", "sha256=00")], false), None);
    }
}
