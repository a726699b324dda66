//! The routes of the metrics listener: `GET /metrics`, on an address of its own, behind a gate of its own.

use super::answer::{Refusal, Reply};
use super::metrics::Metrics;
use super::service::{Head, Judged, Service};

/// As the OpenMetrics specification names it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) struct Admin(pub(crate) Metrics);

impl Service for Admin {
    fn check(&self, head: &Head<'_>) -> Result<(), Reply> {
        match (head.path, head.method) {
            ("/metrics" | "/healthz", "GET" | "HEAD") if head.too_large => Err(Refusal::BodyTooLarge.reply()),
            ("/metrics" | "/healthz", "GET" | "HEAD") => Ok(()),
            ("/metrics" | "/healthz", _) => Err(Refusal::MethodNotAllowed("GET, HEAD").reply()),
            _ => Err(Refusal::NotFound.reply()),
        }
    }

    fn judge(&self, head: &Head<'_>, _body: &[u8]) -> Judged {
        if head.path != "/metrics" {
            return Judged::Waits(Box::new(Reply::alive));
        }
        let metrics = self.0.clone();
        Judged::Waits(Box::new(move || match metrics.render() {
            Ok(text) => Reply {
                status: 200,
                content_type: OPEN_METRICS,
                allow: None,
                retry_after: None,
                body: text.into_bytes(),
            },
            Err(_) => Reply::error(500, "the metrics cannot be shown"),
        }))
    }
}
