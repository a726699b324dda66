//! The routes, and the checks of a delivery's head.
//!
//! Checks path and method, size, content type, signature; then the [`App`] handles JSON, `ping`, repository, verdict.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::answer::{Answer, Refusal, Reply, Verdict};
use super::head::Head;
use super::metrics::Metrics;
use crate::forge::{self, Encoding, Lookup};

/// The application behind the routes: signature, payload and queue.
pub trait App: Send + Sync {
    /// Judges a delivery; a merge is on disk before this returns.
    fn deliver(&self, delivery: RawDelivery<'_>) -> Delivered;

    /// Whether a delivery could be accepted and run now; `Err` contains the reason if not.
    fn ready(&self) -> Result<(), String>;

    /// Logs a delivery and its response.
    fn log(&self, line: &DeliveryLine<'_>);
}

/// A delivery as received; nothing in it is authenticated yet.
#[derive(Clone, Copy)]
pub struct RawDelivery<'a> {
    pub body: &'a [u8],
    pub encoding: Encoding,
    pub event: Option<&'a str>,
    /// Not covered by the signature.
    pub delivery_id: Option<&'a str>,
    /// Always contain a signature that is not empty.
    pub headers: &'a Lookup<'a>,
}

/// The response to a delivery, and its subject as far as it is authenticated and readable.
#[derive(Debug)]
pub struct Delivered {
    pub answer: Answer,
    pub repository: Option<String>,
    pub pull_request: Option<u64>,
}

impl From<Answer> for Delivered {
    fn from(answer: Answer) -> Delivered {
        Delivered { answer, repository: None, pull_request: None }
    }
}

/// The log entry of a delivery. All its text comes from outside.
#[derive(Debug)]
pub struct DeliveryLine<'a> {
    pub id: Option<&'a str>,
    pub event: Option<&'a str>,
    pub delivered: &'a Delivered,
}

/// The content type of the OpenMetrics specification.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The listener that received a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Public,
    Admin,
}

impl Side {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Side::Public => "public",
            Side::Admin => "admin",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Webhook,
    Health,
    Ready,
    Metrics,
}

impl Route {
    fn find(side: Side, head: &Head) -> Result<Route, Refusal> {
        let path = head.path.strip_suffix('/').unwrap_or(&head.path);
        let (route, allow) = match (side, path) {
            // The second path is that of swanci's predecessor.
            (Side::Public, "/webhook" | "/ciserver/repository/merged") => (Route::Webhook, "POST"),
            (Side::Public, "/healthz") => (Route::Health, "GET, HEAD"),
            (Side::Admin, "/readyz") => (Route::Ready, "GET, HEAD"),
            (Side::Admin, "/metrics") => (Route::Metrics, "GET, HEAD"),
            (Side::Public | Side::Admin, _) => return Err(Refusal::NotFound),
        };
        if allow.split(", ").any(|allowed| allowed == head.method) {
            Ok(route)
        } else {
            Err(Refusal::MethodNotAllowed(allow))
        }
    }
}

pub(super) struct Routes {
    app: Arc<dyn App>,
    metrics: Metrics,
}

impl Routes {
    pub(super) fn new(app: Arc<dyn App>, metrics: Metrics) -> Routes {
        Routes { app, metrics }
    }

    /// `Err` if the head alone decides the response, so that the body is not read.
    pub(super) fn check(&self, side: Side, head: &Head, too_large: bool) -> Result<(), Reply> {
        match Route::find(side, head) {
            Err(refusal) => {
                self.metrics.refused(refusal);
                Err(refusal.reply())
            }
            Ok(Route::Webhook) if too_large => Err(self.tell(head, &Answer::too_large().into())),
            Ok(Route::Webhook) => {
                delivery_head(head).map(drop).map_err(|answer| self.tell(head, &answer.into()))
            }
            Ok(Route::Health | Route::Ready | Route::Metrics) if too_large => {
                Err(Refusal::BodyTooLarge.reply())
            }
            Ok(Route::Health | Route::Ready | Route::Metrics) => Ok(()),
        }
    }

    /// The response to a complete request that passed the check.
    pub(super) fn answer(&self, side: Side, head: &Head, body: &[u8]) -> Reply {
        match Route::find(side, head) {
            Err(refusal) => refusal.reply(),
            Ok(Route::Webhook) => self.deliver(head, body),
            Ok(Route::Health) => Reply::json(200, &json!({"status": "alive"})),
            Ok(Route::Ready) => match self.app.ready() {
                Ok(()) => Reply::json(200, &json!({"status": "ready"})),
                Err(reason) => Reply::error(503, &reason),
            },
            Ok(Route::Metrics) => match self.metrics.render() {
                Ok(text) => {
                    Reply { content_type: OPEN_METRICS, body: text.into_bytes(), ..Reply::empty(200) }
                }
                Err(_) => Reply::error(500, "the metrics cannot be written"),
            },
        }
    }

    fn deliver(&self, head: &Head, body: &[u8]) -> Reply {
        let began = Instant::now();
        let delivered = match delivery_head(head) {
            Err(answer) => answer.into(),
            Ok(encoding) => {
                let headers = |name: &str| head.get(name);
                let (event, delivery_id) = (forge::event(&headers), forge::delivery_id(&headers));
                self.app.deliver(RawDelivery { body, encoding, event, delivery_id, headers: &headers })
            }
        };
        self.metrics.ack(began.elapsed());
        self.tell(head, &delivered)
    }

    fn tell(&self, head: &Head, delivered: &Delivered) -> Reply {
        self.metrics.delivery(&delivered.answer);
        let headers = |name: &str| head.get(name);
        let (id, event) = (forge::delivery_id(&headers), forge::event(&headers));
        self.app.log(&DeliveryLine { id, event, delivered });
        delivered.answer.reply()
    }
}

/// The encoding of a delivery, or the response if its head alone decides it.
fn delivery_head(head: &Head) -> Result<Encoding, Answer> {
    let encoding = head.get("content-type").and_then(Encoding::from_content_type).ok_or_else(|| {
        let why = "the content type is neither application/json nor application/x-www-form-urlencoded";
        Answer::new(Verdict::UnsupportedMediaType, why)
    })?;
    let headers = |name: &str| head.get(name);
    if forge::is_signed(&headers) {
        return Ok(encoding);
    }
    Err(Answer { log: Some(forge::unsigned(&headers).to_string()), ..Answer::unauthorized() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Head {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Head { method: method.to_owned(), path: path.to_owned(), headers }
    }

    #[test]
    fn each_side_has_its_paths_and_a_wrong_method_gets_the_allowed_ones() {
        let find = |side, method, path| Route::find(side, &head(method, path, &[]));
        for path in ["/webhook", "/webhook/", "/ciserver/repository/merged", "/ciserver/repository/merged/"] {
            assert_eq!(find(Side::Public, "POST", path), Ok(Route::Webhook));
            assert_eq!(find(Side::Public, "GET", path), Err(Refusal::MethodNotAllowed("POST")));
            assert_eq!(find(Side::Admin, "POST", path), Err(Refusal::NotFound));
        }
        assert_eq!(find(Side::Public, "post", "/webhook"), Err(Refusal::MethodNotAllowed("POST")));
        assert_eq!(find(Side::Public, "HEAD", "/healthz"), Ok(Route::Health));
        assert_eq!(find(Side::Admin, "GET", "/readyz"), Ok(Route::Ready));
        assert_eq!(find(Side::Admin, "HEAD", "/metrics"), Ok(Route::Metrics));
        assert_eq!(find(Side::Admin, "DELETE", "/readyz"), Err(Refusal::MethodNotAllowed("GET, HEAD")));
        for (side, path) in [
            (Side::Public, "/readyz"),
            (Side::Public, "/metrics"),
            (Side::Admin, "/healthz"),
            (Side::Public, "/webhook//"),
            (Side::Public, ""),
            (Side::Public, "/"),
        ] {
            assert_eq!(find(side, "GET", path), Err(Refusal::NotFound), "{path}");
        }
    }

    #[test]
    fn the_content_type_is_checked_before_the_signature() {
        let answer = |headers: &[(&str, &str)]| {
            delivery_head(&head("POST", "/webhook", headers)).err().map(|answer| answer.label())
        };
        assert_eq!(answer(&[("Content-Type", "text/plain")]), Some("unsupported_media_type"));
        assert_eq!(answer(&[]), Some("unsupported_media_type"));
        let json = ("Content-Type", "Application/JSON; charset=utf-8");
        assert_eq!(answer(&[json]), Some("unauthorized"));
        assert_eq!(answer(&[json, ("X-Hub-Signature-256", "")]), Some("unauthorized"));
        assert_eq!(answer(&[json, ("X-Hub-Signature", "sha1=00")]), Some("unauthorized"));
        assert_eq!(answer(&[json, ("X-Hub-Signature-256", "sha256=00")]), None);
    }
}
