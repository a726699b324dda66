//! A forge's record of its deliveries, and those that never arrived.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One attempt to deliver an event (schema `hook-delivery-item` of GitHub's API description).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub id: u64,
    /// All attempts to deliver one event share it.
    pub guid: String,
    /// RFC 3339.
    pub delivered_at: String,
    pub redelivery: bool,
    /// In seconds.
    pub duration: f64,
    /// The result, in words.
    pub status: String,
    /// The HTTP status of the response; 0 without one.
    pub status_code: i64,
    pub event: String,
    pub action: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptState {
    /// The listener accepted it.
    Succeeded,
    /// It has no response yet.
    Pending,
    /// It was refused or never arrived.
    Failed,
}

impl Attempt {
    /// An event of GitLab's webhook (docs.gitlab.com, "Project webhooks API", "List all events"). Its headers contain an
    /// id that all attempts share.
    pub(super) fn of_gitlab(event: &Value) -> Attempt {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = event["id"].as_u64().unwrap_or_default();
        let header = |name: &&str| event["request_headers"][name].as_str();
        let guid = ["Idempotency-Key", "X-Gitlab-Event-UUID"].iter().find_map(header);
        let status = text(&event["response_status"]);
        Attempt {
            id,
            guid: guid.map_or_else(|| id.to_string(), str::to_owned),
            delivered_at: text(&event["created_at"]),
            redelivery: false,
            duration: event["execution_duration"].as_f64().unwrap_or_default(),
            status_code: status.parse().unwrap_or_default(),
            status: if status.parse::<u16>().is_ok() { String::new() } else { status },
            event: text(&event["trigger"]),
            action: event["request_data"]["object_attributes"]["action"].as_str().map(str::to_owned),
        }
    }

    /// Data Center's response to a test contains the request that it sent and the response that it received.
    pub(super) fn of_test(test: &Value) -> Attempt {
        let status = test["response"]["statusCode"].as_i64().or_else(|| test["statusCode"].as_i64());
        Attempt {
            delivered_at: Timestamp::now().to_string(),
            status: if status.is_none() { "no answer".to_owned() } else { String::new() },
            status_code: status.unwrap_or_default(),
            event: "ping".to_owned(),
            ..Attempt::default()
        }
    }

    pub(crate) fn state(&self) -> AttemptState {
        match self.status_code {
            200..=299 => AttemptState::Succeeded,
            0 if self.status.eq_ignore_ascii_case("pending") => AttemptState::Pending,
            _ => AttemptState::Failed,
        }
    }

    /// The HTTP status, or the reason without one.
    pub(crate) fn result(&self) -> String {
        match self.status_code {
            0 => self.status.clone(),
            code => format!("{code} {}", self.status).trim_end().to_owned(),
        }
    }

    pub(crate) fn is_ping(&self) -> bool {
        self.event == "ping"
    }
}

/// The newest failed attempt of each event without a successful or pending attempt, the oldest first. Excludes pings.
pub(crate) fn unresolved(newest_first: &[Attempt]) -> Vec<&Attempt> {
    // An event that arrived once counts as delivered, regardless of later attempts.
    let settled: HashSet<&str> =
        newest_first.iter().filter(|d| d.state() != AttemptState::Failed).map(|d| d.guid.as_str()).collect();
    let mut seen = HashSet::new();
    let mut open: Vec<&Attempt> = newest_first
        .iter()
        .filter(|d| !d.is_ping() && !settled.contains(d.guid.as_str()) && seen.insert(d.guid.as_str()))
        .collect();
    open.reverse();
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: u64, guid: &str, status_code: i64) -> Attempt {
        Attempt {
            id,
            guid: guid.to_owned(),
            delivered_at: "2026-11-22T12:00:00Z".to_owned(),
            status_code,
            event: "pull_request".to_owned(),
            ..Attempt::default()
        }
    }

    fn ids(deliveries: &[Attempt]) -> Vec<u64> {
        unresolved(deliveries).iter().map(|d| d.id).collect()
    }

    #[test]
    fn an_event_that_arrived_once_is_settled() {
        assert_eq!(ids(&[delivery(3, "a", 202), delivery(2, "b", 502), delivery(1, "a", 502)]), [2]);
        assert_eq!(ids(&[delivery(3, "a", 502), delivery(1, "a", 200)]), [0_u64; 0]);
    }

    #[test]
    fn each_event_is_there_once_by_its_newest_attempt_oldest_event_first() {
        let list = [delivery(4, "b", 0), delivery(3, "a", 500), delivery(2, "b", 401), delivery(1, "a", 500)];
        assert_eq!(ids(&list), [3, 4]);
    }

    #[test]
    fn what_is_under_way_and_what_is_a_ping_is_not_lost() {
        let mut pending = delivery(2, "a", 0);
        pending.status = "pending".to_owned();
        let mut ping = delivery(3, "c", 502);
        ping.event = "ping".to_owned();
        assert_eq!(ids(&[ping, pending, delivery(1, "a", 502)]), [0_u64; 0]);
    }
}
